"""The pictures: what they show, that they are the same every time, and that they can be read on any page."""

import io
import os
import struct
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from hn_datasets import RandomNegatives, TopK, TopKAbs, TopKMarginPos, TopKPercPos
from hn_datasets.release.card import PICTURES
from hn_datasets.release.plots import BLUE, INK, ORANGE, VIOLET, draw_pictures
from hn_datasets.statistics import compute_statistics

PAGES = {"light": "#ffffff", "dark": "#0b0f19"}


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
    sizes = [struct.unpack(">II", content[16:24]) for content in pictures.values()]
    assert sizes == [(910, 390), (910, 390), (910, 260)]  # shown at 600 pixels or more, letters are 12 pixels high
    for content in pictures.values():
        assert content.startswith(b"\x89PNG")
        assert len(content) < 40_000


@pytest.mark.parametrize("page", PAGES)
def test_letters_and_lines_can_be_read_on_light_and_dark_pages(page):
    assert contrast(INK, PAGES[page]) > 4.0  # WCAG asks for 3 of graphics and large letters
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

    assert column_of(TopKMarginPos(0.01), statistics) > column_of(TopKMarginPos(0.2), statistics) + 50
    below = [column_of(TopKAbs(score), statistics) for score in (0.2, 0.4, 0.6)]
    assert np.diff(below) == pytest.approx([np.diff(below).mean()] * 2, abs=2)  # at its place on the axis


def column_of(method, statistics):
    """Where the violet line is, counted in pixels from the left."""
    pixels = pixels_of(draw_pictures(statistics, method=method)["assets/scores.png"])[60:]  # below the legend
    violet = [int(VIOLET[place : place + 2], 16) for place in (1, 3, 5)]
    return np.nonzero((abs(pixels[..., :3] - violet).max(axis=2) < 12) & (pixels[..., 3] > 200))[1].mean()


def columns_of(picture, color):
    """The first and the last column of pixels with nearly this color, below the legend."""
    wanted = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
    pixels = pixels_of(picture)[60:]
    found = np.nonzero((abs(pixels[..., :3] - wanted).max(axis=2) < 12) & (pixels[..., 3] > 200))[1]
    return found.min(), found.max()


def test_low_cosines_stand_on_the_left_of_their_scale():
    """The axis goes to 1, so that a picture of low scores does not look like one of high scores."""
    rng = np.random.default_rng(0)

    def last_column(mean):
        scores = rng.normal(mean, 0.05, 200).astype(np.float32)
        columns = {"positive_score": scores, "negative_scores": (scores - 0.1)[:, None].tolist()}
        return columns_of(draw_pictures(compute_statistics(columns))["assets/scores.png"], BLUE)[1]

    assert last_column(0.3) < 910 * 0.6
    assert last_column(0.75) > 910 * 0.85


def test_raw_scores_of_bm25_have_a_scale_of_their_own():
    columns = {"positive_score": np.linspace(5, 60, 99), "negative_scores": np.linspace(1, 50, 99)[:, None].tolist()}
    assert columns_of(draw_pictures(compute_statistics(columns))["assets/scores.png"], BLUE)[1] > 910 * 0.9


def piled(share, rows=1000):
    """Negatives of which a share is 0, others between 1 and 30 with a long tail, as of BM25."""
    rng = np.random.default_rng(0)
    negatives = np.where(np.arange(rows) < share * rows, 0, 1 + rng.gamma(2, 4, rows)).astype(np.float32)
    positives = rng.normal(30, 4, rows).astype(np.float32)
    return compute_statistics({"positive_score": positives, "negative_scores": negatives[:, None].tolist()})


def test_a_pile_up_is_a_bar_of_its_own_and_leaves_the_tail_readable():
    def tallest(statistics):
        """Height of the positives, in pixels: the share of their highest bin is the same in both pictures."""
        pixels = pixels_of(draw_pictures(statistics)["assets/scores.png"])[60:]
        blue = [int(BLUE[place : place + 2], 16) for place in (1, 3, 5)]
        return np.ptp(np.nonzero((abs(pixels[..., :3] - blue).max(axis=2) < 12) & (pixels[..., 3] > 200))[0])

    none, most = piled(0), piled(0.9)
    assert count_color(draw_pictures(most)["assets/scores.png"], ORANGE) > 1500  # a solid bar from bottom to top
    assert count_color(draw_pictures(most)["assets/scores.png"], ORANGE) > 1.2 * count_color(
        draw_pictures(none)["assets/scores.png"], ORANGE
    )
    assert tallest(most) > 0.7 * tallest(none)


def test_two_pile_ups_at_one_value_stand_side_by_side():
    columns = {"positive_score": [0.0] * 40 + [9.0] * 2, "negative_scores": [[0.0]] * 40 + [[1.0], [2.0]]}
    pixels = pixels_of(draw_pictures(compute_statistics(columns))["assets/scores.png"])[100:300]  # no legend, no axis
    for color in (BLUE, ORANGE):
        wanted = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
        solid = (abs(pixels[..., :3] - wanted).max(axis=2) < 12) & (pixels[..., 3] > 200)
        assert solid.all(axis=0).sum() >= 8  # columns of pixels, from bottom to top


def test_few_scores_are_drawn_in_few_bins():
    """Fifty bins of twenty scores would show chance."""
    from hn_datasets.release.plots import _count_bins, _merge_bins

    assert [_count_bins(count) for count in (1, 20, 1000, 15_625)] == [16, 16, 20, 50]
    statistics = statistics_of(20)
    for num_bins in (1, 7, 16, 50, 80):
        shares, edges = _merge_bins(statistics.positive_score, num_bins)
        assert shares.sum() == pytest.approx(1)
        assert len(edges) == len(shares) + 1
        assert np.diff(edges) == pytest.approx([edges[1] - edges[0]] * len(shares))
        assert edges[0] == statistics.positive_score.edges[0]
        assert edges[-1] >= statistics.positive_score.edges[-1] - 1e-9


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


def test_matplotlib_is_imported_only_to_draw():
    code = "import sys, hn_datasets.release.plots, hn_datasets.release.card; sys.exit('matplotlib' in sys.modules)"
    assert not subprocess.run([sys.executable, "-c", code], check=False).returncode
