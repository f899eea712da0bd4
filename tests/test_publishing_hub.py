"""Releases on a Hub: the real clients against the loopback one, with what goes wrong on the way."""

import base64
import json
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from hub.warm import WarmClient
from hub_server import OTHER, OWNER, READER, HubServer

from tests.mined import PAIRS, mine

pytestmark = pytest.mark.filterwarnings("ignore::hn_datasets.errors.WeakTeacherWarning")
PRELOAD = """
import warnings
warnings.simplefilter("ignore")
import datasets, torch, matplotlib.figure, matplotlib.backends.backend_agg, huggingface_hub, sentence_transformers
torch.set_num_threads(1)
import hn_datasets, hn_datasets.release.publishing, hn_datasets.inspection.reproduction, hn_datasets.teachers.bm25
from hn_datasets.release import retrying
retrying.FIRST_WAIT = 0.05
"""


def release(repo_id, folder, version, options):
    """Publish a folder that ``write`` made."""
    import os
    from pathlib import Path

    from datasets import load_dataset

    from hn_datasets import CardMetadata, publish
    from hn_datasets.record import MiningRecord

    options = dict(options)
    for name in {"HF_TOKEN", "HN_DATASETS_CACHE"} & options.keys():
        os.environ[name] = options.pop(name)
    metadata = CardMetadata(license="cc-by-4.0", **options.pop("metadata", {}))
    mined = load_dataset("parquet", data_files=f"{folder}/rows.parquet", split="train")
    record = MiningRecord.read(Path(folder))
    done = publish(mined, repo_id, record=record, version=version, metadata=metadata, **options)
    return {**done.to_dict(), "files": sorted(done.files)}


def write(folder, made):
    """Write mined rows and their record for ``release``."""
    mined, record = made
    folder.mkdir(parents=True)
    mined.to_parquet(str(folder / "rows.parquet"))
    (folder / "mining.json").write_text(record.to_json(), encoding="utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubServer(tmp_path_factory.mktemp("hub")) as server:
        yield server


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return write(folder / "mined", mine(folder / "store"))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Two rows more."""
    folder = tmp_path_factory.mktemp("other")
    more = [{"query": f"Who is the {name}?", "answer": f"The {name} works here."} for name in ("clerk", "teller")]
    return write(folder / "mined", mine(folder / "store", pairs=[*PAIRS, *more]))


@pytest.fixture(scope="module", params=["lfs", "xet"])
def transfer(request):
    return request.param


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    folder = tmp_path_factory.mktemp("client")
    functions = (release, walk_the_path, read_back, prepare, read_text, upload_text, replace_data)
    with WarmClient(hub.environment(folder / "home"), folder / "answers", PRELOAD, *functions) as warm:
        yield warm


@pytest.fixture(scope="module")
def xet_client(hub, tmp_path_factory):
    folder = tmp_path_factory.mktemp("xet-client")
    environment = {**hub.environment(folder / "home", xet=True), "HN_DATASETS_CACHE": str(folder / "cache")}
    with WarmClient(environment, folder / "answers", PRELOAD, release, walk_the_path, read_back) as warm:
        yield warm  # with a cache of its own, as on another machine


@pytest.fixture
def repo_id(hub, tmp_path):
    """A name for one test, which must meet all its faults."""
    yield f"owner/{tmp_path.name.replace('_', '-')[:60].rstrip('-.')}"
    left = hub.faults()
    hub.clear_faults()
    assert not left, "a fault was never met"


def files_of(hub, repo_id, ref="refs/heads/main"):
    """Data and pictures at a ref, by path: what is the same for the same release, whenever and wherever it is made."""
    files = hub.commits(repo_id, ref)[0]["files"]
    return {path: digest for path, digest in files.items() if path.endswith((".parquet", ".png"))}


def walk_the_path(repo_id, first, second, store):
    """Publish, tag, load, audit, publish again, compare, reproduce."""
    from pathlib import Path

    from datasets import load_dataset

    from hn_datasets import Recipe, audit, compare, reproduce
    from hn_datasets.record import MiningRecord

    answers = {"first": release(repo_id, first, "1.0.0", {"layouts": ["n-tuple", "scored"], "notes": "First"})}
    answers["again"] = release(repo_id, first, "1.0.0", {"layouts": ["n-tuple", "scored"]})
    answers["second"] = release(repo_id, second, "minor", {"layouts": ["n-tuple", "scored"], "notes": "More rows"})
    answers["step"] = release(repo_id, second, "minor", {"layouts": ["n-tuple", "scored"]})
    loaded = load_dataset(repo_id, revision="v1.0.0", split="train")
    answers["columns"], answers["rows"] = loaded.column_names, len(loaded)
    answers["negatives"] = load_dataset(repo_id, "scored", revision="v1.1.0", split="train")["negatives"][:]
    answers["audits"] = [audit(repo_id, revision=tag).to_dict() for tag in ("v1.0.0", "v1.1.0")]
    answers["compare"] = compare(f"{repo_id}@v1.0.0", f"{repo_id}@v1.1.0").to_dict()
    answers["reproduce"] = reproduce(f"{repo_id}@v1.1.0", rows=10, store=store).to_dict()
    recipe = MiningRecord.read(Path(first)).recipe
    answers["recipe"] = Recipe.from_release(repo_id, "v1.0.0") == recipe
    return answers


@pytest.mark.parametrize("transfer", ["lfs", "xet"])
def test_publish_tag_load_audit_compare_reproduce(hub, repo_id, one, other, tmp_path, transfer, request):
    warm = request.getfixturevalue("client" if transfer == "lfs" else "xet_client")
    answers = warm.run(walk_the_path, repo_id, one, other, str(tmp_path / "store"))
    assert answers["columns"] == ["query", "answer", "negative_1", "negative_2", "negative_3"]
    assert answers["rows"] == 32 and len(answers["negatives"]) == 34
    assert answers["first"]["version"] == "1.0.0" and answers["second"]["version"] == "1.1.0"
    assert answers["again"] == {**answers["first"], "files": []}, "it was there already"
    assert answers["step"] == {**answers["second"], "files": []}
    assert [report["findings"] for report in answers["audits"]] == [[], []]
    assert answers["compare"]["pairs_in_common"] == 32 and answers["compare"]["new_pairs"] == 34
    assert answers["reproduce"]["ok"] and answers["reproduce"]["rows"] == 10
    assert answers["recipe"]
    commits = hub.commits(repo_id)
    assert [commit["title"] for commit in commits] == ["Release 1.1.0", "Release 1.0.0", "initial commit"]
    for tag, commit in (("v1.1.0", commits[0]), ("v1.0.0", commits[1])):
        assert hub.commits(repo_id, f"refs/tags/{tag}")[0]["id"] == commit["id"]
    assert answers["second"]["commit"] == commits[0]["id"]
    assert (hub.state()[repo_id]["xet_uploaded_bytes"] > 0) == (transfer == "xet")


def read_back(repo_id, tag):
    """Return card and record of a release."""
    from pathlib import Path

    from huggingface_hub import hf_hub_download

    return [
        Path(hf_hub_download(repo_id, name, repo_type="dataset", revision=tag)).read_text(encoding="utf-8")
        for name in ("README.md", "mining.json")
    ]


def test_data_with_other_text_columns_first_has_all_negatives_in_common_with_itself(client, repo_id, tmp_path):
    rows = [
        {"id": f"row {number}", "instruction": row["query"], "output": row["answer"]}
        for number, row in enumerate(PAIRS)
    ]
    names = {"anchor_column_name": "instruction", "positive_column_name": "output"}
    folder = write(tmp_path / "mined", mine(tmp_path / "store", pairs=rows, **names))
    for version, layouts in (("1.0.0", ["n-tuple", "scored"]), ("1.1.0", ["scored", "n-tuple"])):
        client.run(release, repo_id, folder, version, {"layouts": layouts})
    versions = json.loads(client.run(read_back, repo_id, "v1.1.0")[1])["release"]["versions"]
    assert [row["common_share"] for row in versions] == [1, None]


def test_the_card_tells_what_changed_since_the_release_before(client, repo_id, one, other):
    client.run(release, repo_id, one, "1.0.0", {"notes": "The beginning"})
    client.run(release, repo_id, other, "1.0.1", {"notes": "Clerk | teller", "parent": "me/student@v3.0.0"})
    card, record = client.run(read_back, repo_id, "v1.0.1")
    versions = json.loads(record)["release"]["versions"]
    assert [(row["version"], row["rows"], row["notes"]) for row in versions] == [
        ("1.0.1", 34, "Clerk | teller"), ("1.0.0", 32, "The beginning"),
    ]  # fmt: skip
    assert 0.5 < versions[0]["common_share"] < 1 and versions[1]["common_share"] is None
    assert json.loads(record)["release"]["parent"] == "me/student@v3.0.0"
    assert "The beginning" in card and "me/student@v3.0.0" in card
    client.run(release, repo_id, one, "1.1.0", {})
    assert json.loads(client.run(read_back, repo_id, "v1.1.0")[1])["release"]["parent"] == "v1.0.1"


def test_a_version_is_never_changed(hub, client, repo_id, one, other):
    client.run(release, repo_id, one, "1.2.0", {})
    before = hub.state()[repo_id]
    for version, message in (("1.2.0", "got 1.2.0, which is there with other data"), ("1.1.9", "is below the last")):
        error = client.start(release, repo_id, other, version, {}).result()["error"]
        assert error[0] == "ReleaseError" and message in error[1] and "publish 1.2.1 instead" in error[1]
    assert client.start(release, repo_id, one, "1.2.0", {"layouts": ["triplet"]}).result()["error"][0] == "ReleaseError"
    assert hub.state()[repo_id] == before


def test_another_default_layout_is_another_release(hub, client, repo_id, one):
    client.run(release, repo_id, one, "1.0.0", {"layouts": ["n-tuple", "triplet"]})
    error = client.start(release, repo_id, one, "1.0.0", {"layouts": ["triplet", "n-tuple"]}).result()["error"]
    assert "is there with other data or layouts" in error[1]
    assert client.run(release, repo_id, one, "minor", {"layouts": ["triplet", "n-tuple"]})["version"] == "1.1.0"


def prepare(repo_id, name="raw/rows.parquet"):
    """A repository with a human's card, another configuration and a file."""
    import io

    from datasets import Dataset
    from huggingface_hub import HfApi

    api, dataset = HfApi(), {"repo_id": repo_id, "repo_type": "dataset"}
    api.create_repo(**dataset, private=True)
    card = (
        "---\nlicense: mit\nviewer: false\ntags:\n- bank\nconfigs:\n- config_name: raw\n"
        f"  data_files: {name}\n---\n# Bank questions\n\nCollected by hand.\n"
    )
    api.upload_file(**dataset, path_or_fileobj=card.encode(), path_in_repo="README.md")
    file = io.BytesIO()
    Dataset.from_dict({"a": [1], "b": [2]}).to_parquet(file)
    api.upload_file(**dataset, path_or_fileobj=file.getvalue(), path_in_repo=name)


def upload_text(repo_id, path, text):
    """Upload a small file by hand."""
    from huggingface_hub import HfApi

    HfApi().upload_file(repo_id=repo_id, repo_type="dataset", path_or_fileobj=text.encode(), path_in_repo=path)


def test_what_a_release_does_not_own_stays(hub, client, repo_id, one, other):
    client.run(prepare, repo_id)
    client.run(release, repo_id, one, "1.0.0", {"layouts": ["n-tuple", "triplet"]})
    card = client.run(read_back, repo_id, "v1.0.0")[0]
    client.run(upload_text, repo_id, "README.md", card + "\n## Thanks\n\nTo the tellers.\n")
    client.run(release, repo_id, other, "1.1.0", {})
    card = client.run(read_back, repo_id, "v1.1.0")[0]
    assert "Collected by hand." in card and "To the tellers." in card
    assert "viewer: false" in card and "- bank" in card and "config_name: raw" in card
    files = hub.commits(repo_id)[0]["files"]
    assert "raw/rows.parquet" in files and "n-tuple/train-00000-of-00001.parquet" in files
    assert not [path for path in files if path.startswith("triplet/")], "the last release's own files go"
    assert hub.state()[repo_id]["private"]


def read_text(repo_id, name):
    """Load a configuration that is not ours."""
    from datasets import load_dataset

    return load_dataset(repo_id, name, split="train").to_dict()


def replace_data(repo_id):
    """Replace a file of a release, and then its picture, by hand; return the findings of an audit before and after."""
    import io

    from datasets import load_dataset
    from huggingface_hub import HfApi

    from hn_datasets import audit

    texts = []
    rows = load_dataset(repo_id, split="train")
    file = io.BytesIO()
    rows.remove_columns("negative_1").add_column("negative_1", [f"junk {row}" for row in range(len(rows))]).to_parquet(
        file
    )
    files = {"n-tuple/train-00000-of-00001.parquet": file.getvalue(), "assets/scores.png": b"no picture"}
    for path, content in ((None, b""), *files.items()):
        if path is not None:
            HfApi().upload_file(repo_id=repo_id, repo_type="dataset", path_or_fileobj=content, path_in_repo=path)
        texts.append([(one.name, one.count, one.text) for one in audit(repo_id).broken])
    return texts


def test_files_that_were_replaced_on_the_hub_are_found(client, repo_id, one):
    client.run(release, repo_id, one, "1.0.0", {})
    before, data, both = client.run(replace_data, repo_id)
    assert before == []
    assert [(name, count) for name, count, _ in (*data, *both)] == [("file-differs", 1), ("file-differs", 2)]
    assert data[0][2].startswith("n-tuple/train-00000-of-00001.parquet: ")
    assert both[0][2].startswith("assets/scores.png: ")


def test_other_configurations_still_load(client, repo_id, one):
    client.run(prepare, repo_id)
    client.run(release, repo_id, one, "1.0.0", {})
    assert client.run(read_text, repo_id, "raw") == {"a": [1], "b": [2]}


def test_configurations_of_another_kind_are_not_made_unreadable(hub, client, repo_id, one):
    client.run(prepare, repo_id, "raw/rows.csv")
    before = hub.state()[repo_id]
    error = client.start(release, repo_id, one, "1.0.0", {}).result()["error"]
    assert "'raw' of README.md, which is kept, got 'raw/rows.csv'" in error[1]
    assert hub.state()[repo_id] == before


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("owner/new", {"HF_TOKEN": ""}, "Expected a token of the Hub with the right to write, got none"),
        ("owner/new", {"HF_TOKEN": "hf_wrong"}, "Expected a valid token of the Hub, which refused this one"),
        ("owner/new", {"token": f"{OWNER}\n{OWNER}"}, "got a text with characters that none has"),
        ("owner/new", {"token": "hf_\u00e9"}, "got a text with characters that none has"),
        ("owner/new", {"revision": "next"}, "Expected the branch main, for owner/new is not there yet, got 'next'"),
        ("owner/new", {"token": READER}, "got one of owner that can only read"),
        ("other/new", {}, "Expected a repository of owner, team, whose token this is, got 'other/new'"),
        ("owner/private", {"token": OTHER}, "Expected a repository of other, whose token this is"),
        ("owner/private", {"token": OTHER, "create_pr": True}, "which is not, or is private"),
        ("owner/private", {"private": False}, "private=False has no effect: owner/private is there and private"),
        ("owner/private", {"revision": "next"}, "Expected one of the branches main"),
        ("owner/new", {"metadata": {"pretty_name": "x" * 10, "language": ["en"]}, "template": "no.j2"}, "template"),
    ],
)
def test_who_may_not_publish_is_told_before_anything_is_staged(hub, client, one, target, options, message):
    if "owner/private" not in hub.state():
        hub.create_repository("owner/private", private=True)
    before = hub.state()
    error = client.start(release, target, one, "1.0.0", options).result()["error"]
    assert message in error[1] and "\n" not in error[1]
    assert hub.state() == before
    assert OWNER not in error[1]


def test_a_card_that_the_hub_refuses_goes_nowhere(hub, client, repo_id, one):
    hub.add_fault(route="validate-yaml", status=400, message="license must be one of many")
    error = client.start(release, repo_id, one, "1.0.0", {}).result()["error"]
    assert error[0] == "ReleaseError" and "refuses this one" in error[1] and "\n" not in error[1]
    assert repo_id not in hub.state()


def test_no_text_holds_the_token(hub, client, repo_id, one):
    error = client.start(release, repo_id, one, "1.0.0", {"notes": f"by {OWNER}"}).result()["error"]
    assert error[0] == "ReleaseError" and "your token" in error[1] and OWNER not in error[1]
    client.run(release, repo_id, one, "1.0.0", {"token": f"{OWNER}\n"})
    assert not [text for text in client.run(read_back, repo_id, "v1.0.0") if OWNER in text]
    hub.add_fault(route="/commit/", status=403, message="closed")
    result = client.start(release, repo_id, one, "2.0.0", {"token": OWNER, "layouts": ["triplet"]}).result()
    assert "closed" in result["error"][1] and OWNER not in result["trace"]


def test_a_dry_run_uploads_nothing_and_keeps_what_would_go_up(hub, client, repo_id, one):
    done = client.run(release, repo_id, one, "1.0.0", {"dry_run": True})
    assert repo_id not in hub.state()
    folder = Path(done["folder"])
    assert done["commit"] is None
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*")) == done["files"]
    client.run(release, repo_id, one, "1.0.0", {})
    assert not folder.exists()


def test_a_pull_request_is_tagged_once_it_is_merged(hub, client, repo_id, one):
    hub.create_repository(repo_id)
    done = client.run(release, repo_id, one, "1.0.0", {"create_pr": True})
    assert done["pull_request"].endswith("/discussions/1")
    assert len(hub.commits(repo_id)) == 1 and "refs/tags/v1.0.0" not in hub.state()[repo_id]["refs"]
    request = urllib.request.Request(
        f"{hub.endpoint}/api/datasets/{repo_id}/discussions/1/merge", b"{}", {"Authorization": f"Bearer {OWNER}"}
    )
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).close()
    client.run(release, repo_id, one, "1.0.0", {})
    assert hub.commits(repo_id, "refs/tags/v1.0.0") == hub.commits(repo_id)
    assert len(hub.commits(repo_id)) == 2


FAULTS = {
    "500 to the commit": [{"route": "/commit/", "status": 500}],
    "503 to the commit, three times": [{"route": "/commit/", "status": 503, "times": 3}],
    "429 to the commit": [{"route": "/commit/", "status": 429, "headers": {"Retry-After": "0"}}],
    "412 to the commit": [{"route": "/commit/", "status": 412}],
    "409 to the commit": [{"route": "/commit/", "status": 409}],
    "a commit whose request is cut": [{"route": "/commit/", "drop_request_after": 20}],
    "a commit whose reply is lost": [{"route": "/commit/", "drop_reply": True}],
    "a commit whose reply is cut": [{"route": "/commit/", "drop_response_after": 5}],
    "500 to the tag": [{"route": "/tag/", "status": 500, "times": 2}],
    "a tag whose reply is lost": [{"route": "/tag/", "drop_reply": True}],
    "500 to the preupload": [{"route": "/preupload/", "status": 500, "times": 1}],
    "500 to the file list": [{"route": "/refs", "status": 500, "times": 1}],
    "500 to the name": [{"route": "whoami", "status": 500, "times": 2}],
    "500 to the rights": [{"route": "create", "status": 500}],
    "500 to the card": [{"route": "validate-yaml", "status": 502, "times": 2}],
    "500 to the list of large files": [{"route": "info/lfs", "status": 500, "times": 1}],
    "a large file cut": [{"route": "/_storage/", "method": "PUT", "drop_request_after": 1000, "times": 1}],
    "408 to a large file": [{"route": "/_storage/", "method": "PUT", "status": 408, "times": 2}],
    "425 to what was sent of a large file": [{"route": "lfs/objects/verify", "status": 425, "times": 1}],
    "500 to what the release before has": [{"route": "/revision/", "status": 500, "times": 1}],
    "500 to what is there": [{"route": "resolve", "status": 500, "times": 3}],
}


def test_every_fault_passes_and_the_end_is_the_same(hub, client, repo_id, one, other):
    client.run(release, f"{repo_id}-calm", one, "1.0.0", {})
    client.run(release, f"{repo_id}-calm", other, "1.1.0", {})
    expected = files_of(hub, f"{repo_id}-calm")
    for number, (name, faults) in enumerate(FAULTS.items()):
        target = f"{repo_id}-{number}"
        client.run(release, target, one, "1.0.0", {})
        for fault in faults:
            hub.add_fault(**fault)
        client.run(release, target, other, "1.1.0", {})
        assert not hub.faults(), name
        assert [commit["title"] for commit in hub.commits(target)] == [
            "Release 1.1.0", "Release 1.0.0", "initial commit",
        ], name  # fmt: skip
        assert files_of(hub, target) == expected, name
        assert hub.commits(target, "refs/tags/v1.1.0")[0]["id"] == hub.commits(target)[0]["id"], name


def test_a_hub_that_stays_away_is_given_up_with_one_line(hub, client, repo_id, one):
    hub.add_fault(route="/commit/", status=503, times=-1)
    error = client.start(release, repo_id, one, "1.0.0", {"retry_seconds": 0.3}).result()["error"]
    hub.clear_faults()
    assert error[0] == "ReleaseError" and "no half release can be seen" in error[1]
    assert len(hub.commits(repo_id)) == 1
    client.run(release, repo_id, one, "1.0.0", {})
    assert len(hub.commits(repo_id)) == 2


@pytest.mark.parametrize("fault", [{"route": "/_storage/", "method": "PUT"}, {"route": "lfs/objects/verify"}])
def test_a_large_file_that_is_refused_is_one_line(hub, client, repo_id, one, fault):
    hub.add_fault(**fault, status=403, message="closed")
    error = client.start(release, repo_id, one, "1.0.0", {}).result()["error"]
    assert error[0] == "ReleaseError" and "Expected the Hub to take the release, it answered 403" in error[1]
    assert "\n" not in error[1] and len(hub.commits(repo_id)) == 1
    client.run(release, repo_id, one, "1.0.0", {})
    assert len(hub.commits(repo_id)) == 2


def test_a_tag_that_is_refused_is_all_that_is_missing(hub, client, repo_id, one):
    hub.add_fault(route="/tag/", status=403, message="Tags are closed today")
    error = client.start(release, repo_id, one, "1.0.0", {}).result()["error"]
    assert "refuses its tag v1.0.0" in error[1] and "only sets the tag" in error[1]
    uploads = len(hub.log("PUT", f"/_storage/{repo_id}/")), len(hub.log("POST", f"{repo_id}/commit/"))
    client.run(release, repo_id, one, "1.0.0", {})
    assert hub.commits(repo_id, "refs/tags/v1.0.0") == hub.commits(repo_id)
    assert (len(hub.log("PUT", f"/_storage/{repo_id}/")), len(hub.log("POST", f"{repo_id}/commit/"))) == uploads


class Reader(threading.Thread):
    """Reads every ref of a repository again and again; whatever it sees must be whole."""

    def __init__(self, hub, repo_id):
        super().__init__(daemon=True)
        self.hub, self.repo_id = hub, repo_id
        self.halves, self.seen, self.ended = [], 0, threading.Event()

    def run(self):
        while not self.ended.is_set():
            try:
                refs = self.get(f"api/datasets/{self.repo_id}/refs")
            except urllib.error.HTTPError:
                continue
            for ref in [*refs["branches"], *refs["tags"]]:
                self.check(ref["targetCommit"], ref["name"])

    def check(self, commit, name):
        tree = self.get(f"api/datasets/{self.repo_id}/tree/{commit}?recursive=true")
        files = {item["path"]: (item.get("lfs") or {}).get("oid") for item in tree if item["type"] == "file"}
        if "mining.json" not in files:
            if set(files) - {".gitattributes"} or name.startswith("v"):
                self.halves.append((name, sorted(files)))
            return
        record = self.get(f"datasets/{self.repo_id}/resolve/{commit}/mining.json")
        wanted = record["release"]["files"]
        here = {path for path in files if path.endswith((".parquet", ".png"))}
        sums = all(files[path] in (None, entry["sha256"]) for path, entry in wanted.items() if path in files)
        if here != set(wanted) or not sums or "README.md" not in files:
            self.halves.append((name, sorted(files), sorted(wanted)))
        self.seen += 1

    def get(self, path):
        request = urllib.request.Request(f"{self.hub.endpoint}/{path}", headers={"Authorization": f"Bearer {OWNER}"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as response:
            return json.load(response)


KILLS = 8


def points(num_requests):
    """Where a publisher is killed: spread over all its requests, but for the last ones, whose number varies by one
    with what Xet has in store already; and at the two that matter most.
    """
    spread = [{"route": "^/(?!_control)", "skip": n * (num_requests - 4) // (KILLS - 1)} for n in range(KILLS)]
    return [*spread, {"route": "/commit/"}, {"route": "/tag/"}]


@pytest.mark.parametrize("transfer", ["lfs", "xet"])
def test_a_kill_at_any_request_is_made_good_by_a_second_run(hub, repo_id, one, other, transfer, request):
    """The second release of a repository, killed at one request after another, each time with a reader that polls."""
    warm = request.getfixturevalue("client" if transfer == "lfs" else "xet_client")
    warm.run(release, f"{repo_id}-calm", one, "1.0.0", {})
    before = len(hub.log())
    warm.run(release, f"{repo_id}-calm", other, "1.1.0", {})
    num_requests, expected = len(hub.log()) - before, files_of(hub, f"{repo_id}-calm")
    for number, point in enumerate(points(num_requests)):
        target = f"{repo_id}-{number}"
        warm.run(release, target, one, "1.0.0", {})
        reader = Reader(hub, target)
        hub.add_fault(**point, delay=600)
        call = warm.start(release, target, other, "1.1.0", {})
        while hub.faults():  # until the request is there
            assert not call.has_answered(), point
        reader.start()
        call.kill()
        hub.clear_faults()
        warm.run(release, target, other, "1.1.0", {})
        reader.ended.set()
        reader.join()
        assert reader.seen and not reader.halves
        titles = [commit["title"] for commit in hub.commits(target)]
        assert titles == ["Release 1.1.0", "Release 1.0.0", "initial commit"], point
        assert files_of(hub, target) == expected, point
        assert hub.commits(target, "refs/tags/v1.1.0")[0]["id"] == hub.commits(target)[0]["id"], point


@pytest.mark.parametrize("versions", [("minor", "minor"), ("1.1.0", "1.2.0"), ("1.1.0", "1.1.0")])
def test_two_publishers_at_once_both_succeed_or_one_is_told(hub, client, xet_client, repo_id, one, other, versions):
    """Both commits are held until the other one is there, too: one of them comes too late, whichever it is."""
    client.run(release, repo_id, one, "1.0.0", {})
    reader = Reader(hub, repo_id)
    reader.start()
    hub.add_fault(route="/commit/", delay=600, times=2)
    calls = [
        client.start(release, repo_id, one, versions[0], {"layouts": ["triplet"]}),
        xet_client.start(release, repo_id, other, versions[1], {}),
    ]
    while hub.faults():
        assert not any(call.has_answered() for call in calls)
    hub.clear_faults()
    results = [call.result() for call in calls]
    reader.ended.set()
    reader.join()
    assert 412 in [entry["status"] for entry in hub.log("POST", f"{repo_id}/commit/")]
    assert not reader.halves and reader.seen
    done = sorted(result["value"]["version"] for result in results if "value" in result)
    errors = [result["error"] for result in results if "error" in result]
    assert done and len(done) + len(errors) == 2
    assert all(kind == "ReleaseError" and "Expected a version above" in text for kind, text in errors), errors
    if versions == ("minor", "minor"):
        assert done == ["1.1.0", "1.2.0"]
    if versions[0] == versions[1] == "1.1.0":
        assert done == ["1.1.0"]
    refs = hub.state()[repo_id]["refs"]
    assert sorted(ref.split("/")[-1] for ref in refs if "tags" in ref) == sorted(["v1.0.0", *(f"v{v}" for v in done)])
    for version in done:
        assert hub.commits(repo_id, f"refs/tags/v{version}")[0]["title"] == f"Release {version}"


def commit_by_hand(hub, repo_id, *operations):
    """Commit files (path and text) and deletions (path and None) as a human does on the Hub's pages."""
    lines = [{"key": "header", "value": {"summary": "By hand", "description": ""}}]
    for path, text in operations:
        file = {"path": path, "encoding": "base64", "content": base64.b64encode((text or "").encode()).decode()}
        lines.append(
            {"key": "deletedFile", "value": {"path": path}} if text is None else {"key": "file", "value": file}
        )
    request = urllib.request.Request(
        f"{hub.endpoint}/api/datasets/{repo_id}/commit/main",
        "\n".join(map(json.dumps, lines)).encode(),
        {"Authorization": f"Bearer {OWNER}"},
    )
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).close()


def test_a_file_that_is_changed_while_it_is_published_is_not_missing(hub, client, repo_id, one):
    client.run(release, repo_id, one, "1.0.0", {})
    hub.add_fault(route="/commit/", delay=600)
    call = client.start(release, repo_id, one, "1.1.0", {"layouts": ["n-tuple", "triplet"]})
    while hub.faults():  # until its commit is there
        assert not call.has_answered()
    commit_by_hand(hub, repo_id, ("n-tuple/train-00000-of-00001.parquet", None))
    hub.clear_faults()
    assert "value" in call.result()
    assert "n-tuple/train-00000-of-00001.parquet" in files_of(hub, repo_id, "refs/tags/v1.1.0")


def test_files_that_no_release_wrote_are_never_overwritten_or_read(hub, client, repo_id, one):
    """Such as those that ``push_to_hub`` has written for a configuration of the same name."""
    hub.create_repository(repo_id)
    for path in ("n-tuple/train-00000-of-00001.parquet", "n-tuple/train-00001-of-00002.parquet", "assets/scores.png"):
        commit_by_hand(hub, repo_id, (path, "By hand"))
        before = hub.state()[repo_id]
        error = client.start(release, repo_id, one, "1.0.0", {}).result()["error"]
        assert error[0] == "ReleaseError" and f"has '{path}', which the last release did not write" in error[1]
        assert hub.state()[repo_id] == before
        commit_by_hand(hub, repo_id, (path, None), ("n-tuple/notes.txt", "By hand"))
    client.run(release, repo_id, one, "1.0.0", {})
    assert "n-tuple/notes.txt" in hub.commits(repo_id)[0]["files"]


def test_files_of_the_last_release_that_were_deleted_or_replaced_by_hand(hub, client, repo_id, one):
    client.run(release, repo_id, one, "1.0.0", {"layouts": ["n-tuple", "triplet", "labeled-pair", "scored"]})
    gone, replaced, own = (f"{name}/train-00000-of-00001.parquet" for name in ("triplet", "labeled-pair", "scored"))
    commit_by_hand(hub, repo_id, (gone, None), (replaced, "By hand"))
    client.run(release, repo_id, one, "1.1.0", {})
    files = hub.commits(repo_id)[0]["files"]
    assert gone not in files and own not in files
    assert replaced in files, "what a human wrote stays"


@pytest.mark.parametrize("version", ["1.0.0", "minor"])
def test_the_tag_goes_to_the_commit_of_the_release_and_not_to_a_later_one(hub, client, repo_id, one, version):
    hub.add_fault(route="/tag/", status=403, message="Tags are closed today")
    client.start(release, repo_id, one, version, {}).result()
    commit_by_hand(hub, repo_id, ("n-tuple/train-00000-of-00001.parquet", None), ("README.md", "By hand"))
    done = client.run(release, repo_id, one, version, {})
    commits = hub.commits(repo_id)
    assert [commit["title"] for commit in commits] == ["By hand", f"Release {done['version']}", "initial commit"]
    assert hub.commits(repo_id, f"refs/tags/v{done['version']}") == commits[1:] and done["commit"] == commits[1]["id"]


def test_a_release_without_its_tag_gets_it_from_the_next_one(hub, client, repo_id, one, other):
    hub.add_fault(route="/tag/", status=403, message="Tags are closed today")
    client.start(release, repo_id, one, "1.0.0", {}).result()
    client.run(release, repo_id, other, "1.1.0", {})
    assert [hub.commits(repo_id, f"refs/tags/v{version}")[0]["title"] for version in ("1.0.0", "1.1.0")] == [
        "Release 1.0.0", "Release 1.1.0",
    ]  # fmt: skip
    assert client.run(release, repo_id, one, "1.0.0", {})["commit"] == hub.commits(repo_id)[1]["id"]


def test_a_lost_reply_with_another_release_on_top_publishes_nothing_twice(hub, client, xet_client, repo_id, one, other):
    client.run(release, repo_id, one, "1.0.0", {})
    hub.add_fault(route="/commit/", drop_reply=True)
    hub.add_fault(route="/refs", skip=2, delay=600)
    call = client.start(release, repo_id, other, "minor", {})
    while hub.faults():  # until it looks at what became of its commit
        assert not call.has_answered()
    assert xet_client.run(release, repo_id, one, "minor", {"layouts": ["triplet"]})["version"] == "1.2.0"
    hub.clear_faults()
    assert call.result()["value"]["version"] == "1.1.0"
    assert [commit["title"] for commit in hub.commits(repo_id)] == [
        "Release 1.2.0", "Release 1.1.0", "Release 1.0.0", "initial commit",
    ]  # fmt: skip
    assert sorted(ref for ref in hub.state()[repo_id]["refs"] if "tags" in ref) == [
        "refs/tags/v1.0.0", "refs/tags/v1.1.0", "refs/tags/v1.2.0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"route": "/refs", "status": 403, "message": "Closed today"}, "Closed today"),
        ({"route": "validate-yaml", "skip": 2, "status": 400, "message": "No"}, "a card that the Hub takes"),
    ],
)
def test_what_the_hub_refuses_on_the_way_is_one_line(hub, client, repo_id, one, fault, message):
    hub.create_repository(repo_id)
    hub.add_fault(**fault)
    error = client.start(release, repo_id, one, "1.0.0", {}).result()["error"]
    assert error[0] == "ReleaseError" and message in error[1] and "\n" not in error[1]
    assert len(hub.commits(repo_id)) == 1


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"schema_version": 99}', '{"schema_version": 1, "recipe": 1}', "release", "versions"]
)
def test_a_record_on_the_hub_that_cannot_be_read_is_named(hub, client, repo_id, one, text):
    hub.create_repository(repo_id)
    if text in ("release", "versions"):
        record = json.loads((Path(one) / "mining.json").read_text(encoding="utf-8"))
        record["release"] = {"release": {"files": {"a": 1}}, "versions": {"versions": [{"version": "1.0.0"}]}}[text]
        text = json.dumps(record)
    commit_by_hand(hub, repo_id, ("mining.json", text))
    error = client.start(release, repo_id, one, "1.0.0", {}).result()["error"]
    assert error[0] == "ReleaseError" and f"in mining.json of {repo_id}" in error[1] and "\n" not in error[1]


def test_a_cache_that_cannot_be_written_is_one_line(hub, client, repo_id, one):
    error = client.start(release, repo_id, one, "1.0.0", {"HN_DATASETS_CACHE": f"{one}/rows.parquet"}).result()["error"]
    assert error[0] == "StoreError" and "set HN_DATASETS_CACHE to another folder" in error[1]
    assert repo_id not in hub.state()


def test_a_configuration_of_a_human_is_not_replaced_by_one_of_its_name(hub, client, repo_id, one):
    hub.create_repository(repo_id)
    card = "---\nlicense: mit\nconfigs:\n- config_name: triplet\n  data_files: raw/*.parquet\n---\n# By hand\n"
    commit_by_hand(hub, repo_id, ("README.md", card))
    error = client.start(release, repo_id, one, "1.0.0", {"layouts": ["n-tuple", "triplet"]}).result()["error"]
    assert error[0] == "ReleaseError" and "room for the configuration 'triplet'" in error[1]
    client.run(release, repo_id, one, "1.0.0", {})
    client.run(release, repo_id, one, "1.1.0", {})
    assert "config_name: triplet" in client.run(read_back, repo_id, "v1.1.0")[0]
