"""The pictures: what they show, that they are the same every time, and that they can be read on any page."""

import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from hn_datasets import RandomNegatives, TopK, TopKAbs, TopKMarginPos, TopKPercPos
from hn_datasets.record import MiningRecord
from hn_datasets.release.card import PICTURES
from hn_datasets.release.plots import BLUE, INK, ORANGE, VIOLET, draw_pictures
from hn_datasets.statistics import compute_statistics

PAGES = {"light": "#ffffff", "dark": "#0b0f19"}
EXAMPLES = sorted((Path(__file__).parent.parent / "cards" / "examples").glob("*/mining.json"))


def statistics_of(rows=200, **choices):
    rng = np.random.default_rng(0)
    columns = {
        "positive_score": rng.normal(0.8, 0.05, rows).astype(np.float32),
        "negative_scores": rng.normal(0.4, 0.1, (rows, 4)).astype(np.float32).tolist(),
    }
    return compute_statistics(columns, **choices)


def pixels_of(picture):
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGBA")).astype(int)


def count_color(picture, color):
    """How many pixels have nearly this color, and are not transparent."""
    wanted = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
    pixels = pixels_of(picture)
    return int(((abs(pixels[..., :3] - wanted).max(axis=2) < 12) & (pixels[..., 3] > 200)).sum())


def luminance(color):
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    """Contrast of two colors as WCAG 2.1 defines it, from 1 to 21."""
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_all_pictures_are_png_under_the_names_of_the_card():
    pictures = draw_pictures(statistics_of(), method=TopKPercPos())
    assert list(pictures) == list(PICTURES)
    for content in pictures.values():
        assert content.startswith(b"\x89PNG")
        assert struct.unpack(">II", content[16:24]) == (880, 352)
        assert len(content) < 60_000


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_pictures_of_the_examples_can_be_drawn_from_mining_json_alone(path):
    record = MiningRecord.read(path.parent)
    assert set(draw_pictures(record.statistics, method=record.recipe.method)) == set(PICTURES)


@pytest.mark.parametrize("page", PAGES)
def test_letters_and_lines_can_be_read_on_light_and_dark_pages(page):
    assert contrast(INK, PAGES[page]) > 3.8  # WCAG asks for 3 of graphics and large letters
    for color in (BLUE, ORANGE, VIOLET):
        assert contrast(color, PAGES[page]) > 2.8


def test_the_background_is_transparent():
    for content in draw_pictures(statistics_of()).values():
        alphas = pixels_of(content)[..., 3]
        assert alphas[0, 0] == 0
        assert (alphas == 0).mean() > 0.3


@pytest.mark.parametrize(
    ("method", "drawn"),
    [
        (TopKPercPos(0.95), True),
        (TopKMarginPos(0.1), True),
        (TopKAbs(0.7), True),
        (TopK(), False),
        (RandomNegatives(), False),
        (None, False),
    ],
)
def test_the_ceiling_is_drawn_where_there_is_one(method, drawn):
    scores = draw_pictures(statistics_of(), method=method)["assets/scores.png"]
    assert (count_color(scores, VIOLET) > 100) is drawn


def test_the_ceiling_stands_where_the_formula_puts_it():
    """A margin of the whole width moves the ceiling out of the positives, to the left."""
    statistics = statistics_of()

    def middle_of(method):
        pixels = pixels_of(draw_pictures(statistics, method=method)["assets/scores.png"])[60:]  # below the legend
        violet = [int(VIOLET[place : place + 2], 16) for place in (1, 3, 5)]
        return np.nonzero((abs(pixels[..., :3] - violet).max(axis=2) < 12) & (pixels[..., 3] > 200))[1].mean()

    assert middle_of(TopKMarginPos(0.01)) > middle_of(TopKMarginPos(0.2))


def test_positives_and_negatives_differ_in_color():
    scores = draw_pictures(statistics_of())["assets/scores.png"]
    assert count_color(scores, BLUE) > 100
    assert count_color(scores, ORANGE) > 100


def test_short_rows_stand_out():
    columns = {"positive_score": [0.9] * 4, "negative_scores": [[0.5, 0.4], [0.5, 0.4], [0.5], []]}
    short = draw_pictures(compute_statistics(columns))["assets/negatives_per_row.png"]
    full = draw_pictures(statistics_of())["assets/negatives_per_row.png"]
    assert count_color(short, ORANGE) > 1000
    assert count_color(full, ORANGE) == 0


def test_what_would_be_empty_is_left_out():
    none = compute_statistics({"positive_score": [], "negative_scores": []})
    assert draw_pictures(none, method=TopKPercPos()) == {}
    bare = compute_statistics({"positive_score": [0.5], "negative_scores": [[]]})
    assert list(draw_pictures(bare, method=TopKPercPos())) == ["assets/scores.png", "assets/negatives_per_row.png"]


def test_equal_and_negative_scores_can_be_drawn():
    columns = {"positive_score": [-0.2, -0.2], "negative_scores": [[-0.5], [-0.5]]}
    for method in (TopKPercPos(), TopKAbs(-0.3)):
        assert len(draw_pictures(compute_statistics(columns), method=method)) == 3


def test_the_bytes_are_the_same_in_every_process_and_name_no_program():
    code = (
        "import sys; from hn_datasets.statistics import compute_statistics as c; "
        "from hn_datasets.release.plots import *; "
        "d = {'positive_score': [0.9, 0.8], 'negative_scores': [[0.5], [0.4]]}; "
        "sys.stdout.buffer.write(b''.join(draw_pictures(c(d)).values()))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env={**os.environ, "TZ": zone})
        for zone in ("UTC", "Asia/Seoul")
    ]
    assert runs[0].stdout == runs[1].stdout
    assert b"PNG" in runs[0].stdout
    assert b"Software" not in runs[0].stdout
    assert b"tEXt" not in runs[0].stdout


def test_settings_of_the_user_neither_count_nor_change():
    statistics = statistics_of()
    plain = draw_pictures(statistics)
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 20}):
        assert draw_pictures(statistics) == plain
        assert mpl.rcParams["font.size"] == 30
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
