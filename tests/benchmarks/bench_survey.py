"""How long a survey of all methods takes from ready vectors, at the size of JaQuAD: 35,687 anchors, 11,144 passages.

    python tests/benchmarks/bench_survey.py [--anchors N] [--passages N]

The vectors are random: an anchor lies around its positive, and 2,000 anchors have two, so that false negatives are
estimated too. The first run includes building the corpus and writing the vectors; the second finds them in the store.
"""

import argparse
import tempfile

import numpy as np
from datasets import Dataset, disable_progress_bars
from measuring import measure, print_table, store_results

from hn_datasets import PrecomputedTeacher, survey

DIMENSION = 384
NUM_DOUBLE = 2000


def make(num_anchors, num_passages):
    """Return pairs and their teacher."""
    random = np.random.default_rng(0)
    centres = random.standard_normal(((num_passages + 1) // 2, DIMENSION), dtype=np.float32)
    passages = np.repeat(centres, 2, axis=0)[:num_passages]  # two by two alike, so that a second positive is near too
    passages += 0.7 * random.standard_normal(passages.shape, dtype=np.float32)
    owners = np.arange(num_anchors) % (num_passages // 2 * 2)
    anchors = passages[owners] + random.standard_normal((num_anchors, DIMENSION), dtype=np.float32)
    questions = [f"anchor {number}" for number in range(num_anchors)]
    answers = [f"passage {number}" for number in range(num_passages)]
    teacher = PrecomputedTeacher((questions, anchors), (answers, passages), normalize=True)
    double = np.arange(min(NUM_DOUBLE, num_anchors))
    rows, positives = np.append(np.arange(num_anchors), double), np.append(owners, owners[double] ^ 1)
    texts = {"anchor": [questions[row] for row in rows], "positive": [answers[place] for place in positives]}
    return Dataset.from_dict(texts), teacher


def main():
    """Print the seconds of both runs and store them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anchors", type=int, default=35_687)
    parser.add_argument("--passages", type=int, default=11_144)
    arguments = parser.parse_args()
    disable_progress_bars()
    pairs, teacher = make(arguments.anchors, arguments.passages)
    with tempfile.TemporaryDirectory() as store:
        first, again = (measure(lambda: survey(pairs, teacher=teacher, store=store), runs=1) for _ in range(2))
    settings = len(again.value.settings)
    print(f"{len(pairs):,} rows, {arguments.passages:,} passages, {DIMENSION} dimensions, {settings} settings")
    print_table(["", "seconds", "MiB added"], [
        ["first survey, from an empty store", first.seconds, first.memory_added / 2**20],
        ["survey from ready vectors", again.seconds, again.memory_added / 2**20],
    ])  # fmt: skip
    store_results(
        __file__,
        {"rows": len(pairs), "passages": arguments.passages, "settings": settings}
        | {"first": first.to_dict(), "again": again.to_dict()},
    )


if __name__ == "__main__":
    main()
