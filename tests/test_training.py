"""A release trains: what ``load_dataset`` gives at the tag goes into the trainers as it is, and the models learn."""

import itertools
import math

import pytest
import torch
from datasets import Dataset
from hub.warm import WarmClient
from hub_server import HubServer
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from hn_datasets import BM25Teacher, HardNegativeMiner, TopK
from hn_datasets.record import MiningRecord

pytestmark = pytest.mark.filterwarnings("ignore::hn_datasets.errors.WeakTeacherWarning")
pytest.importorskip("accelerate")

REPO = "owner/questions"
LAYOUTS = ("n-tuple", "labeled-pair", "labeled-list", "triplet", "scored")
NUM_NEGATIVES = 3
TOPICS = ("loan", "card", "fund", "bond", "bank", "fee", "tax", "rate")
KINDS = {"price": "costs", "owner": "belongs", "age": "began", "place": "stands", "size": "measures", "use": "serves"}
"""What is asked, and the word of the right answer: BM25 sees only the topic, so the hard negatives are what teaches."""

PRELOAD = """
import warnings
warnings.simplefilter("ignore")
import datasets, torch, sentence_transformers, transformers.trainer, accelerate, matplotlib.figure
torch.set_num_threads(1)
import hn_datasets, hn_datasets.release.publishing
"""


def make_pairs():
    """Return pairs to train on, and questions that are held out, each with the right answer and the topic's others.

    Each word stands in both, no question does.
    """
    train, held_out = [], []
    for (row, topic), (column, (asked, said)) in itertools.product(enumerate(TOPICS), enumerate(KINDS.items())):
        question, answer = f"{asked} of the {topic}", f"the {topic} {said}"
        if row % len(KINDS) != column:
            train.append({"question": question, "answer": answer})
        else:
            others = [f"the {topic} {other}" for other in KINDS.values() if other != said]
            held_out.append((question, [answer, *others]))
    return train, held_out


def make_words():
    return ["of", "the", *TOPICS, *KINDS, *KINDS.values()]


def save_bi_encoder(folder):
    """Save word vectors, each of which is another direction."""
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(["[UNK]", *make_words()])}, "[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    weights = torch.randn(tokenizer.get_vocab_size(), 32, generator=torch.Generator().manual_seed(0))
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)], device="cpu")
    model.save(str(folder), create_model_card=False)


def save_cross_encoder(folder):
    """Save a BERT of two small layers with random weights."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *make_words()]
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    start = {"initializer_range": 0.2, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(vocab_size=len(words), **sizes, **start, max_position_embeddings=16, num_labels=1)
        BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(folder)


def release(repo_id, folder, layouts):
    """Publish a folder of mined rows."""
    from pathlib import Path

    from datasets import load_dataset

    from hn_datasets import CardMetadata, publish
    from hn_datasets.record import MiningRecord

    mined = load_dataset("parquet", data_files=f"{folder}/rows.parquet", split="train")
    record, metadata = MiningRecord.read(Path(folder)), CardMetadata(license="cc0-1.0")
    publish(mined, repo_id, record=record, version="1.0.0", metadata=metadata, layouts=layouts)


def train(kind, repo_id, config, folder, loss_name, options, held_out):
    """Load a configuration at the tag, train on it as it is, and return what happened."""
    import importlib
    import os
    import sys

    import sentence_transformers as st
    from datasets import load_dataset

    losses = importlib.import_module(f"sentence_transformers.{kind}.losses")
    model_class, trainer_class, arguments_class = {
        "sentence_transformer": (
            st.SentenceTransformer, st.SentenceTransformerTrainer, st.SentenceTransformerTrainingArguments
        ),
        "cross_encoder": (st.CrossEncoder, st.CrossEncoderTrainer, st.CrossEncoderTrainingArguments),
    }[kind]  # fmt: skip
    os.chdir(folder)
    sys.stdout = sys.stderr  # what the trainer prints is no answer of this process
    model = model_class(f"./{kind}", device="cpu")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    margins = [measure_margins(model, held_out)]
    loss = getattr(losses, loss_name)(model)
    seen = []  # what reaches the loss
    loss.register_forward_pre_hook(lambda _, inputs: seen.append([count_rows(column) for column in inputs[0]]))
    rows = load_dataset(repo_id, *config, revision="v1.0.0", split="train")
    arguments = arguments_class(
        "trainer", use_cpu=True, save_strategy="no", logging_steps=1, disable_tqdm=True, **options
    )
    trainer = trainer_class(model=model, args=arguments, train_dataset=rows, loss=loss)
    trainer.train()
    margins.append(measure_margins(model, held_out))
    return {
        "columns": rows.column_names,
        "rows": len(rows),
        "seen": seen,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "unchanged": [name for name, tensor in model.state_dict().items() if before[name].equal(tensor)],
        "margins": margins,
    }


def count_rows(column):
    """Return the rows of a column as it reaches a loss: texts, or tokens in bags."""
    return len(column["offsets"] if isinstance(column, dict) else column)


def measure_margins(model, held_out):
    """Return by how much the right answer, which comes first, scores above the best wrong one, for each question."""
    import torch

    margins = []
    for question, answers in held_out:
        if hasattr(model, "similarity"):
            scores = model.similarity(model.encode([question]), model.encode(answers))[0]
        else:
            scores = torch.tensor(model.predict([(question, answer) for answer in answers]))
        margins.append(float(scores[0] - scores[1:].max()))
    return margins


def run_card(repo_id, folder):
    """Run the code of a published card with a model that is at hand."""
    import os
    import re
    import sys
    from pathlib import Path

    from huggingface_hub import hf_hub_download

    path = Path(hf_hub_download(repo_id, "README.md", repo_type="dataset", revision="v1.0.0"))
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.S | re.M))
    student = '"sentence-transformers/all-MiniLM-L6-v2"'
    assert f'load_dataset("{repo_id}", revision="v1.0.0", split="train")' in code and student in code
    os.chdir(folder)
    sys.stdout = sys.stderr  # likewise
    names = {}
    exec(code.replace(student, '"./sentence_transformer"'), names)
    return [names["trainer"].state.epoch, len(names["train"])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with both models and the mined rows."""
    folder = tmp_path_factory.mktemp("training")
    save_bi_encoder(folder / "sentence_transformer")
    save_cross_encoder(folder / "cross_encoder")
    rows = Dataset.from_list(make_pairs()[0])
    miner = HardNegativeMiner.from_dataset(
        rows, teacher=BM25Teacher(), method=TopK(), num_negatives=NUM_NEGATIVES, store=folder / "store"
    )
    mined = rows.map(miner, batched=True)
    mined.to_parquet(str(folder / "rows.parquet"))
    (folder / "mining.json").write_text(MiningRecord.of(mined, miner).to_json(), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def client(folder):
    """A client of a Hub that has the release."""
    functions = (release, train, count_rows, measure_margins, run_card)
    with HubServer(folder / "hub") as hub:
        environment = hub.environment(folder / "home")
        with WarmClient(environment, folder / "answers", PRELOAD, *functions) as warm:
            warm.run(release, REPO, str(folder), LAYOUTS)
            yield warm


NUM_PAIRS = len(make_pairs()[0])
BI, CROSS = "sentence_transformer", "cross_encoder"
WORD_VECTORS = {"num_train_epochs": 10, "per_device_train_batch_size": 16, "learning_rate": 0.05}
BERT = {"num_train_epochs": 20, "per_device_train_batch_size": 16, "learning_rate": 0.001}


@pytest.mark.parametrize(
    ("kind", "config", "loss", "num_columns", "num_rows", "options"),
    [
        (BI, None, "MultipleNegativesRankingLoss", 2 + NUM_NEGATIVES, NUM_PAIRS, WORD_VECTORS),
        (BI, "triplet", "MultipleNegativesRankingLoss", 3, NUM_PAIRS * NUM_NEGATIVES, WORD_VECTORS),
        (CROSS, "labeled-pair", "BinaryCrossEntropyLoss", 2, NUM_PAIRS * (1 + NUM_NEGATIVES), BERT),
        (CROSS, "labeled-list", "LambdaLoss", 2, NUM_PAIRS, {**BERT, "per_device_train_batch_size": 8}),
    ],
    ids=["default", "triplet", "labeled-pair", "labeled-list"],
)
def test_a_release_goes_into_the_trainer_as_it_is(client, folder, kind, config, loss, num_columns, num_rows, options):
    configs = [config] if config else []
    answer = client.run(train, kind, REPO, configs, str(folder), loss, options, make_pairs()[1])
    assert answer["rows"] == num_rows
    assert all(len(counts) == num_columns and len(set(counts)) == 1 for counts in answer["seen"])
    assert sum(counts[0] for counts in answer["seen"]) == num_rows * options["num_train_epochs"]
    assert len(answer["losses"]) == len(answer["seen"]) and all(map(math.isfinite, answer["losses"]))
    assert sum(answer["losses"][-5:]) < 0.3 * sum(answer["losses"][:5])
    assert not answer["unchanged"], "weights that stayed as they were"
    before, after = ([margin > 0 for margin in margins] for margins in answer["margins"])
    assert sum(before) <= len(before) // 2, "there is something to learn"
    assert sum(after) >= len(after) - 1, "the held-out questions find their answers"


def test_the_code_of_the_published_card_runs(client, folder):
    assert client.run(run_card, REPO, str(folder)) == [3, NUM_PAIRS]
