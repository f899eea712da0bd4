"""The test Hub, as the real clients see it: every client runs in a process of its own, over HTTP, unpatched."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub import clients
from hub.clients import failure
from hub_server import OTHER, OWNER, READER, HubServer

TRANSFERS = pytest.mark.parametrize("xet", [False, True], ids=["lfs", "xet"])


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    with HubServer(tmp_path_factory.mktemp("hub")) as server:
        yield server


@pytest.fixture
def repo_id(hub: HubServer, tmp_path: Path) -> Iterator[str]:
    """A repository for one test, which must meet all its faults."""
    name = f"owner/{tmp_path.name}"
    hub.create_repository(name)
    yield name
    left = hub.faults()
    hub.clear_faults()
    assert not left, "a fault was never met"


def run(hub: HubServer, home: Path, client: Callable[..., Any], *args: Any, xet: bool = False) -> Any:
    """Call a client function as the owner, in a new process, and return what it returns."""
    return clients.run(hub.environment(home, xet=xet), client, *args)


def upload(repo_id: str, path: str, num_bytes: int) -> list[Any]:
    """Upload one file of ``num_bytes`` and return its failure."""
    from huggingface_hub import HfApi

    options = {"path_in_repo": path, "repo_id": repo_id, "repo_type": "dataset"}
    return failure(HfApi().upload_file, path_or_fileobj=b"x" * num_bytes, **options)


def read_size(repo_id: str, path: str) -> int:
    """Download a file and return how large it is."""
    from pathlib import Path

    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repo_id, path, repo_type="dataset")).stat().st_size


def manage_repository(repo_id: str) -> dict[str, Any]:
    from huggingface_hub import HfApi

    api, dataset = HfApi(), {"repo_id": repo_id, "repo_type": "dataset"}
    answers: dict[str, Any] = {"url": api.create_repo(**dataset).url}
    api.create_repo(**dataset, exist_ok=True)
    answers["twice"] = failure(api.create_repo, **dataset)[:2]
    first = api.list_repo_commits(**dataset)[0].commit_id
    api.create_branch(**dataset, branch="next/step")
    api.create_branch(**dataset, branch="next/step", exist_ok=True)
    api.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", **dataset, revision="next/step")
    api.create_tag(**dataset, tag="v1.0.0", tag_message="one", revision="next/step")
    answers["tag_twice"] = failure(api.create_tag, **dataset, tag="v1.0.0")[:2]
    refs = api.list_repo_refs(**dataset)
    answers["branches"] = [ref.name for ref in refs.branches]
    answers["tags"] = [(ref.name, ref.target_commit) for ref in refs.tags]
    answers["tagged"] = api.dataset_info(repo_id, revision="v1.0.0").sha
    answers["main_stayed"] = api.dataset_info(repo_id).sha == first
    api.delete_tag(**dataset, tag="v1.0.0")
    api.delete_branch(**dataset, branch="next/step")
    answers["revision_exists"] = api.revision_exists(**dataset, revision="v1.0.0")
    api.update_repo_settings(**dataset, private=True)
    answers["private"] = api.dataset_info(repo_id).private
    api.delete_repo(**dataset)
    answers["exists"] = api.repo_exists(**dataset)
    return answers


def test_repositories_branches_and_tags(hub: HubServer, tmp_path: Path) -> None:
    answers = run(hub, tmp_path, manage_repository, "team/managed")
    assert answers["url"] == f"{hub.endpoint}/datasets/team/managed"
    assert answers["twice"] == ["HfHubHTTPError", 409]
    assert answers["tag_twice"] == ["HfHubHTTPError", 409]
    assert answers["branches"] == ["main", "next/step"]
    assert answers["tags"] == [["v1.0.0", answers["tagged"]]]
    assert answers["main_stayed"] and answers["private"]
    assert not answers["revision_exists"] and not answers["exists"]
    assert "team/managed" not in hub.state()


def publish_and_read_back(repo_id: str, folder: str) -> dict[str, Any]:
    from pathlib import Path

    from huggingface_hub import CommitOperationAdd, HfApi, HfFileSystem, snapshot_download

    api, dataset = HfApi(), {"repo_id": repo_id, "repo_type": "dataset"}
    large = CommitOperationAdd("data/one.parquet", str(Path(folder) / "data" / "one.parquet"))
    api.preupload_lfs_files(repo_id, [large], repo_type="dataset")
    small = CommitOperationAdd("notes.txt", b"small")
    one = api.create_commit(**dataset, operations=[large, small], commit_message="One", commit_description="Text")
    two = api.upload_folder(**dataset, folder_path=folder, delete_patterns="notes.txt", commit_message="Two")
    again = api.upload_folder(**dataset, folder_path=folder)
    files = api.dataset_info(repo_id, files_metadata=True).siblings
    with HfFileSystem().open(f"datasets/{repo_id}/data/one.parquet") as file:
        file.seek(1000)
        part = file.read(10).hex()
    return {
        "commits": [one.oid, two.oid, again.oid],
        "snapshot": snapshot_download(**dataset),
        "at_one": snapshot_download(**dataset, revision=one.oid, allow_patterns="notes.txt"),
        "siblings": {file.rfilename: [file.size, file.lfs and file.lfs.sha256] for file in files},
        "tree": sorted(item.path for item in api.list_repo_tree(**dataset)),
        "paths": [item.path for item in api.get_paths_info(**dataset, paths=["data", "none"], expand=True)],
        "part": part,
        "titles": [commit.title for commit in api.list_repo_commits(**dataset)],
    }


@TRANSFERS
def test_what_is_uploaded_comes_back(hub: HubServer, repo_id: str, tmp_path: Path, xet: bool) -> None:
    data = random.Random(0).randbytes(300_000)
    folder = tmp_path / "folder"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "one.parquet").write_bytes(data)
    (folder / "data" / "two.parquet").write_bytes(b"hello " * 5000)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Title\n")
    answers = run(hub, tmp_path / "home", publish_and_read_back, repo_id, str(folder), xet=xet)

    snapshot = Path(answers["snapshot"])
    for path in ("data/one.parquet", "data/two.parquet", "README.md"):
        assert (snapshot / path).read_bytes() == (folder / path).read_bytes()
    assert [path.name for path in Path(answers["at_one"]).iterdir()] == ["notes.txt"]
    assert answers["part"] == data[1000:1010].hex()
    assert answers["siblings"]["data/one.parquet"] == [300_000, hashlib.sha256(data).hexdigest()]
    assert answers["siblings"]["README.md"] == [29, None]
    assert answers["tree"] == [".gitattributes", "README.md", "data"]
    assert answers["paths"] == ["data"]
    assert answers["titles"] == ["Two", "One", "initial commit"]
    assert answers["commits"][1] == answers["commits"][2], "an unchanged folder makes no commit"
    commits = hub.commits(repo_id)
    assert [commit["id"] for commit in commits[:2]] == answers["commits"][1::-1]
    assert commits[1]["message"] == "Text"

    put_bytes = sum(one["received"] for one in hub.log("PUT", f"/_storage/{repo_id}/"))
    xet_bytes = hub.state()[repo_id]["xet_uploaded_bytes"]
    if xet:  # every chunk goes up once, and the repeated words are compressed
        assert put_bytes == 0 and 300_000 < xet_bytes < 302_000
    else:
        assert put_bytes == 330_000 and xet_bytes == 0


def test_files_above_a_limit_go_up_in_parts(hub: HubServer, repo_id: str, tmp_path: Path) -> None:
    hub.change_settings(multipart_bytes=100_000)
    hub.add_fault(route=f"/_storage/{repo_id}/", method="PUT", skip=1, status=500)
    run(hub, tmp_path, upload, repo_id, "data/one.parquet", 250_000)
    hub.change_settings(multipart_bytes=50_000_000)
    puts = [(one["received"], one["status"]) for one in hub.log("PUT", f"/_storage/{repo_id}/")]
    assert puts == [(100_000, 200), (100_000, 500), (100_000, 200), (50_000, 200)]
    assert run(hub, tmp_path, read_size, repo_id, "data/one.parquet") == 250_000


def push_versions(repo_id: str) -> dict[str, Any]:
    from datasets import Dataset, load_dataset
    from huggingface_hub import HfApi

    Dataset.from_dict({"anchor": ["a", "b"], "score": [1.0, 2.0]}).push_to_hub(repo_id)
    HfApi().create_tag(repo_id, tag="v1.0.0", repo_type="dataset")
    Dataset.from_dict({"anchor": ["c"], "score": [3.0]}).push_to_hub(repo_id, commit_message="Second")
    Dataset.from_dict({"anchor": ["d"], "score": [4.0]}).push_to_hub(repo_id, config_name="more", split="test")
    streamed = load_dataset(repo_id, revision="v1.0.0", split="train", streaming=True)
    return {
        "first": load_dataset(repo_id, revision="v1.0.0", split="train")["anchor"][:],
        "first_streamed": [row["anchor"] for row in streamed],
        "second": load_dataset(repo_id, "default", revision="main", split="train")["anchor"][:],
        "more": load_dataset(repo_id, "more", revision="main", split="test")["score"][:],
    }


@TRANSFERS
def test_datasets_pushes_and_loads_versions(hub: HubServer, repo_id: str, tmp_path: Path, xet: bool) -> None:
    assert run(hub, tmp_path, push_versions, repo_id, xet=xet) == {
        "first": ["a", "b"],
        "first_streamed": ["a", "b"],
        "second": ["c"],
        "more": [4.0],
    }
    assert [commit["title"] for commit in hub.commits(repo_id)][1] == "Second"


def push_cards(repo_id: str) -> dict[str, Any]:
    from huggingface_hub import DatasetCard, HfApi

    good = "---\nlicense: mit\ntask_ids:\n- document-retrieval\n---\nText\n"
    DatasetCard(good).push_to_hub(repo_id)
    wrong = {
        "license": "---\nlicense: no-such-license\n---\n",
        "empty_license": "---\nlicense:\n---\n",
        "task_ids": "---\nlicense: mit\ntask_ids: mining\n---\n",
        "configs": "---\nlicense: mit\nconfigs:\n- data_files: x\n---\n",
        "no_license": "---\ntags:\n- x\n---\n",
    }
    answers = {name: failure(DatasetCard(card).push_to_hub, repo_id) for name, card in wrong.items()}
    options = {"path_in_repo": "README.md", "repo_id": repo_id, "repo_type": "dataset"}
    answers["file_license"] = failure(HfApi().upload_file, path_or_fileobj=wrong["license"].encode(), **options)
    return {"back": str(DatasetCard.load(repo_id)) == good, "wrong": answers}


def test_wrong_cards_are_refused(hub: HubServer, repo_id: str, tmp_path: Path) -> None:
    hub.change_settings(require_license=True)
    answers = run(hub, tmp_path, push_cards, repo_id)
    hub.change_settings(require_license=False)
    assert answers["back"]
    for name, (kind, _, text) in answers["wrong"].items():
        assert kind == "ValueError", name
        assert name.rsplit("_", 1)[-1] in text
    assert len(hub.commits(repo_id)) == 2, "the good card alone was committed"


def meet_errors(repo_id: str, private_id: str, first: str, tokens: list[str | bool]) -> dict[str, Any]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    answers = {}
    for token in tokens:
        api, add, dataset = HfApi(token=token), CommitOperationAdd("b.txt", b"b"), {"repo_type": "dataset"}
        stale = {"operations": [add], "commit_message": "stale", "parent_commit": first}
        half = {"operations": [add, CommitOperationDelete("none.txt")], "commit_message": "half"}
        whole = {"operations": [add], "commit_message": "whole"}
        answers[str(token)] = {
            "whoami": failure(api.whoami),
            "read_private": failure(api.dataset_info, private_id),
            "no_repository": failure(api.dataset_info, "owner/none"),
            "no_revision": failure(api.dataset_info, repo_id, revision="none"),
            "no_file": failure(api.hf_hub_download, repo_id, "none.txt", **dataset),
            "stale_parent": failure(api.create_commit, repo_id, **stale, **dataset),
            "half": failure(api.create_commit, repo_id, **half, **dataset),
            "write": failure(api.create_commit, repo_id, **whole, **dataset),
            "foreign_namespace": failure(api.create_repo, "someone/else", **dataset),
            "tag": failure(api.create_tag, repo_id, tag="v9", **dataset),
            "write_check": failure(api.auth_check, repo_id, write=True, **dataset),
        }
    return answers


EXPECTED_ERRORS = {
    OTHER: {
        "whoami": ["no error", None],
        "read_private": ["RepositoryNotFoundError", 404],
        "write": ["HfHubHTTPError", 403],
        "tag": ["HfHubHTTPError", 403],
        "write_check": ["HfHubHTTPError", 403],
    },
    READER: {"read_private": ["no error", None], "write": ["HfHubHTTPError", 403], "tag": ["HfHubHTTPError", 403]},
    "hf_unknown": {"whoami": ["HfHubHTTPError", 401], "no_revision": ["HfHubHTTPError", 401]},
    False: {"read_private": ["RepositoryNotFoundError", 401], "write": ["RepositoryNotFoundError", 401]},
    OWNER: {
        "whoami": ["no error", None],
        "read_private": ["no error", None],
        "no_repository": ["RepositoryNotFoundError", 404],
        "no_revision": ["RevisionNotFoundError", 404],
        "no_file": ["RemoteEntryNotFoundError", 404],
        "stale_parent": ["HfHubHTTPError", 412],
        "half": ["RemoteEntryNotFoundError", 404],
        "write": ["no error", None],
        "foreign_namespace": ["HfHubHTTPError", 403],
        "tag": ["no error", None],
        "write_check": ["no error", None],
    },
}


def test_errors_are_the_clients_own_classes(hub: HubServer, repo_id: str, tmp_path: Path) -> None:
    hub.create_repository("owner/hidden", private=True)
    first = hub.commits(repo_id)[0]["id"]
    run(hub, tmp_path, upload, repo_id, "a.txt", 1)
    answers = run(hub, tmp_path, meet_errors, repo_id, "owner/hidden", first, list(EXPECTED_ERRORS))
    for token, expected in EXPECTED_ERRORS.items():
        assert {name: answers[str(token)][name][:2] for name in expected} == expected, token
    titles = [commit["title"] for commit in hub.commits(repo_id)]
    assert titles == ["whole", "Upload a.txt with huggingface_hub", "initial commit"], "the refused changed nothing"


def commit_missing_content(repo_id: str) -> list[Any]:
    from huggingface_hub import CommitOperationAdd, HfApi

    operation = CommitOperationAdd("data/one.parquet", b"never uploaded")
    operation._upload_mode, operation._is_uploaded = "lfs", True
    return failure(HfApi().create_commit, repo_id, [operation], commit_message="x", repo_type="dataset")


def test_commit_needs_the_content_of_large_files(hub: HubServer, repo_id: str, tmp_path: Path) -> None:
    assert run(hub, tmp_path, commit_missing_content, repo_id)[:2] == ["BadRequestError", 400]
    assert len(hub.commits(repo_id)) == 1


def propose_and_merge(repo_id: str, folder: str, meanwhile: str, other_token: str) -> dict[str, Any]:
    from huggingface_hub import HfApi

    dataset = {"repo_id": repo_id, "repo_type": "dataset"}
    other, owner = HfApi(token=other_token), HfApi()
    info = other.upload_folder(**dataset, folder_path=folder, create_pr=True, commit_message="Proposal")
    number = {"discussion_num": info.pr_num}
    answers = {
        "revision": info.pr_revision,
        "refs": [ref.ref for ref in owner.list_repo_refs(**dataset, include_pull_requests=True).pull_requests],
        "files": sorted(owner.list_repo_files(**dataset, revision=info.pr_revision)),
        "main": len(owner.list_repo_commits(**dataset)),
        "merge_by_other": failure(other.merge_pull_request, **dataset, **number)[:2],
    }
    owner.upload_file(path_or_fileobj=b"ours", path_in_repo=meanwhile, **dataset)
    answers["merge"] = failure(owner.merge_pull_request, **dataset, **number)[:2]
    details = owner.get_discussion_details(**dataset, **number)
    answers |= {"author": details.author, "status": details.status, "commit": details.merge_commit_oid}
    return answers


def write_proposal(folder: Path) -> str:
    folder.mkdir()
    (folder / "one.parquet").write_bytes(b"large")
    (folder / "small.txt").write_text("theirs")
    return str(folder)


@TRANSFERS
def test_pull_requests(hub: HubServer, repo_id: str, tmp_path: Path, xet: bool) -> None:
    folder = write_proposal(tmp_path / "folder")
    answers = run(hub, tmp_path, propose_and_merge, repo_id, folder, "meanwhile.txt", OTHER, xet=xet)
    newest = hub.commits(repo_id)[0]
    assert answers == {
        "revision": "refs/pr/1",
        "refs": ["refs/pr/1"],
        "files": [".gitattributes", "one.parquet", "small.txt"],
        "main": 1,
        "merge_by_other": ["HfHubHTTPError", 403],
        "merge": ["no error", None],
        "author": "other",
        "status": "merged",
        "commit": newest["id"],
    }
    assert sorted(newest["files"]) == [".gitattributes", "meanwhile.txt", "one.parquet", "small.txt"]


def test_pull_request_that_conflicts_is_not_merged(hub: HubServer, repo_id: str, tmp_path: Path) -> None:
    folder = write_proposal(tmp_path / "folder")
    answers = run(hub, tmp_path, propose_and_merge, repo_id, folder, "small.txt", OTHER)
    assert answers["merge"] == ["HfHubHTTPError", 409]
    assert (answers["status"], answers["commit"]) == ("open", None)
    assert len(hub.commits(repo_id)) == 2


def test_client_tries_again_where_it_always_does(hub: HubServer, repo_id: str, tmp_path: Path) -> None:
    hub.add_fault(route=f"{repo_id}/preupload/", status=429, headers={"Retry-After": "0"})
    hub.add_fault(route=f"{repo_id}.git/info/lfs", status=500)
    assert run(hub, tmp_path, upload, repo_id, "a.parquet", 1)[0] == "no error"
    assert [one["status"] for one in hub.log("POST", f"{repo_id}/preupload/")] == [429, 200]
    assert [one["status"] for one in hub.log("POST", f"{repo_id}.git/info/lfs/objects/batch")] == [500, 200]


def upload_until_it_works(repo_id: str, path: str, num_bytes: int) -> list[Any]:
    from huggingface_hub import HfApi

    failures: list[Any] = []
    while not failures or failures[-1][0] != "no error":
        options = {"path_in_repo": path, "repo_id": repo_id, "repo_type": "dataset"}
        failures.append(failure(HfApi().upload_file, path_or_fileobj=b"x" * num_bytes, **options))
    return failures


def test_failed_commits_change_nothing(hub: HubServer, repo_id: str, tmp_path: Path) -> None:
    hub.add_fault(route=f"{repo_id}/commit/", times=2, status=412, message="A commit has happened since")
    hub.add_fault(route=f"{repo_id}/commit/", drop_request_after=20)
    failures = run(hub, tmp_path, upload_until_it_works, repo_id, "a.txt", 100_000)
    for kind, status, text in failures[:2]:
        assert (kind, status) == ("HfHubHTTPError", 412) and "happened since" in text
    assert failures[2][0] in ("RemoteProtocolError", "ReadError", "WriteError")
    log = hub.log("POST", f"{repo_id}/commit/")
    assert [(one["status"], one["dropped"]) for one in log] == [(412, False), (412, False), (0, True), (200, False)]
    assert log[2]["received"] == 20
    assert len(hub.commits(repo_id)) == 2


def test_commit_can_land_though_its_reply_is_lost(hub: HubServer, repo_id: str, tmp_path: Path) -> None:
    hub.add_fault(route=f"{repo_id}/commit/", drop_reply=True)
    failures = run(hub, tmp_path, upload_until_it_works, repo_id, "a.txt", 1)
    assert [kind for kind, _, _ in failures] == ["RemoteProtocolError", "no error"]
    assert len(hub.commits(repo_id)) == 2, "the second try saw that nothing was left to commit"


def test_broken_transfers_are_repeated_and_counted(hub: HubServer, repo_id: str, tmp_path: Path) -> None:
    hub.add_fault(route=f"/_storage/{repo_id}/", method="PUT", drop_request_after=70_000)
    hub.add_fault(route=f"/_storage/{repo_id}/", method="GET", drop_response_after=60_000)
    run(hub, tmp_path, upload, repo_id, "data/one.parquet", 200_000)
    assert run(hub, tmp_path, read_size, repo_id, "data/one.parquet") == 200_000
    puts, gets = (hub.log(method, f"/_storage/{repo_id}/") for method in ("PUT", "GET"))
    assert [(one["received"], one["status"]) for one in puts] == [(70_000, 0), (200_000, 200)]
    assert [(one["sent"], one["status"]) for one in gets] == [(60_000, 200), (200_000, 200)]


def tag_twice(repo_id: str) -> list[Any]:
    from huggingface_hub import HfApi

    return [failure(HfApi().create_tag, repo_id, tag="v1.0.0", repo_type="dataset") for _ in range(2)]


def test_tag_can_be_refused(hub: HubServer, repo_id: str, tmp_path: Path) -> None:
    hub.add_fault(route=f"{repo_id}/tag/", method="POST", status=403, message="Tags are closed today")
    (kind, status, text), second = run(hub, tmp_path, tag_twice, repo_id)
    assert (kind, status) == ("HfHubHTTPError", 403) and "Tags are closed today" in text
    assert second[0] == "no error"
    assert hub.commits(repo_id, "refs/tags/v1.0.0") == hub.commits(repo_id)


def test_reader_sees_a_delayed_commit_only_when_it_is_there(hub: HubServer, repo_id: str, tmp_path: Path) -> None:
    hub.add_fault(route=f"{repo_id}/commit/", delay=600)
    process = clients.start(hub.environment(tmp_path), upload, repo_id, "a.txt", 1)
    while hub.faults():  # until the commit is asked for
        assert process.poll() is None
    before = len(hub.commits(repo_id))
    hub.clear_faults()
    assert clients.finish(process)[0] == "no error"
    assert (before, len(hub.commits(repo_id))) == (1, 2)


def test_restart_keeps_everything(tmp_path: Path) -> None:
    with HubServer(tmp_path / "hub") as hub:
        hub.create_repository("owner/kept")
        run(hub, tmp_path, upload, "owner/kept", "one.parquet", 10, xet=True)
        before, endpoint, requests = hub.state(), hub.endpoint, hub.log()
        hub.restart(kill=True)
        assert (hub.state(), hub.endpoint, hub.log()) == (before, endpoint, requests)
        run(hub, tmp_path, upload, "owner/kept", "two.parquet", 20, xet=True)
        assert run(hub, tmp_path / "xet", read_size, "owner/kept", "one.parquet", xet=True) == 10
        assert run(hub, tmp_path / "lfs", read_size, "owner/kept", "two.parquet") == 20
