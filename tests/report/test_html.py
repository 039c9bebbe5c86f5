"""The report: everything is in it, escaped, and it loads nothing."""

import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from tests.pages import by_class, parse_page, text_of
from unetcli.report.html import (
    MAX_ROWS,
    Case,
    Comparison,
    ConfusionMatrix,
    Difference,
    Report,
    ScoreColumn,
    extremes,
    format_number,
    ranking_score,
    split_subscript,
    write_report,
)
from unetcli.report.pictures import LEGEND, to_png_data_uri
from unetcli.report.threshold_plot import nice_ticks, plot_thresholds, tick_labels

COLUMNS = (
    ScoreColumn("pixel_error", "pixel error", "lower", "share of differing pixels", 0.0123456, headline=3),
    ScoreColumn("iou", "IoU", "higher", "TP/(TP+FP+FN)", 0.9, headline=2),
    ScoreColumn("v_rand", "V_Rand", "higher", "thinned", None, "the truth has no foreground", headline=1),
)
PIXEL = to_png_data_uri(np.zeros((1, 1), np.uint8))
EVIL = "<script>alert(1)</script>\"'><b>&"


def _cases(n):
    pictures = dict.fromkeys(("image", "truth", "prediction", "errors"), PIXEL)
    return [
        Case(
            f"image {k:03}",
            {"pixel_error": k / n, "iou": 1 - k / n, "v_rand": None},
            pictures,
            f"remark {k:03}",
            {"warping_types": {"split": {"pixels": 3, "clusters": 1}, "hole_addition": {"pixels": k}}},
        )
        for k in range(n)
    ]


def _report(n=4, **changes):
    curves = {"iou": [(0.1, None), (0.3, 0.5), (0.5, 0.8), (0.7, None), (0.9, 0.6)], "other": [(0.5, 3.0)]}
    report = Report("Nuclei", COLUMNS, _cases(n), {"truth": "truth.zarr"}, {"unetcli": "1.2.3"}, curves, ["One note."])
    return replace(report, **changes)


FULL = {
    "intervals": {"iou": (0.85, 0.95)},
    "comparison": Comparison("model one", "model two", {"iou": Difference(0.02, 0.01, 0.03, "b")}),
    "calibration": [(0, 0.5, 10, 0.2, 0.1), (0.5, 1, 0, math.nan, math.nan)],
    "confusion": ConfusionMatrix(["membrane", "cell"], [[30, 10], [0, 60]]),
    "command": "unetcli evaluate p.zarr truth.zarr -o report",
}
"""What a report has besides."""


def _write(tmp_path, report):
    path = tmp_path / "report.html"
    write_report(path, report)
    assert list(tmp_path.iterdir()) == [path]
    return parse_page(path.read_text("utf-8"))


def _verdict(page):
    return text_of(by_class(page, "verdict")[0])


def _rows(page, name):
    (table,) = by_class(page, name)
    return [[text_of(cell) for cell in row] for row in table.iter("tr")]


# ------------------------------------------------------------------------------------------- what it says


def test_same_report_same_bytes(tmp_path):
    write_report(tmp_path / "a.html", _report(**FULL))
    write_report(tmp_path / "b.html", _report(**FULL))
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.parametrize(
    ("report", "verdict"),
    [
        (Report("", [], []), "No image was scored."),
        (Report("", [], [Case("a", {})]), "1 image was scored, a."),
        (Report("", COLUMNS[2:], _cases(2)), "2 images were scored; no score is defined."),
        (
            Report("", [replace(COLUMNS[1], mean=0.5)], [Case("image 000", {"iou": 0.5})]),
            "1 image was scored, image 000: IoU is 0.5000.",
        ),
        (_report(), "4 images: IoU is 0.9000 on average, 1 being perfect. The worst is image 003 with 0.2500."),
        (
            _report(**FULL),
            (
                "4 images: IoU is 0.9000 on average, 1 being perfect (95 % interval 0.8500 to 0.9500). "
                "The worst is image 003 with 0.2500."
            ),
        ),
        (
            Report("", COLUMNS[:1], _cases(2)),
            "2 images: pixel error is 0.01235 on average, 0 being perfect. The worst is image 001 with 0.5000.",
        ),
        (
            Report("", [replace(COLUMNS[1], mean=1.0)], [Case("a", {"iou": 1.0}), Case("b", {"iou": 1.0})]),
            "All 2 images are perfect: IoU is 1.000 on each.",
        ),
        (
            Report("", [replace(COLUMNS[1], mean=0.0)], [Case("a", {"iou": 0.0}), Case("b", {"iou": 0.0})]),
            "2 images: IoU is 0 on average, 1 being perfect.",
        ),
        (
            Report(
                "",
                [replace(COLUMNS[1], mean=0.0), replace(COLUMNS[2], mean=1.0)],
                [Case("empty", {"iou": 0.0, "v_rand": 1.0})],
            ),
            "1 image was scored, empty: VRand is 1.000.",
        ),
        (
            Report("", [replace(COLUMNS[1], mean=1.0)], [Case("a", {"iou": 1.0}), Case("b", {"iou": None})]),
            "2 images: IoU is 1.000 on average, 1 being perfect.",
        ),
        (
            Report(
                "",
                [replace(COLUMNS[1], mean=0.9), ScoreColumn("mean_iou", "Mean IoU", "higher", "", 0.3, headline=0)],
                [Case("a", {"iou": 0.9, "mean_iou": 0.3})],
            ),
            "1 image was scored, a: Mean IoU is 0.3000.",
        ),
    ],
    ids=[
        "nothing",
        "no-score",
        "undefined",
        "one",
        "some",
        "interval",
        "lower",
        "perfect",
        "zero",
        "one-perfect-score",
        "one-perfect-image",
        "classes",
    ],
)
def test_it_opens_with_the_verdict(tmp_path, report, verdict):
    assert _verdict(_write(tmp_path, report)) == verdict


def test_what_changes_how_to_read_it_stands_above(tmp_path):
    (notes,) = by_class(_write(tmp_path, _report(**FULL)), "notes")
    assert [text_of(note) for note in notes] == [
        "4 images have a score that is undefined; a mean leaves it out.",
        "With only 4 images the 95 % intervals are rough.",
        "One note.",
    ]
    assert not by_class(_write(tmp_path, Report("", COLUMNS[:2], _cases(3))), "notes")


def test_scores_have_direction_interval_and_convention(tmp_path):
    page = _write(tmp_path, _report(**FULL))
    _, *rows = _rows(page, "scores")
    assert [row[0].split()[:-1] for row in rows[::2]] == [["pixel", "error"], ["IoU"], ["VRand"]]
    assert [row[1] for row in rows[::2]] == ["0.01235", "0.9000 0.8500–0.9500", "undefined"]
    assert rows[5] == ["thinned. Undefined if the truth has no foreground."]
    assert [each.get("aria-label") for each in by_class(by_class(page, "scores")[0], "arrow")] == [
        "lower is better", "higher is better", "higher is better",
    ]  # fmt: skip


def test_table_of_images(tmp_path):
    head, *body, mean = _rows(_write(tmp_path, _report()), "images")
    assert head == ["image", "pixel error", "IoU", "VRand"]
    assert body == [[c.name, *("undefined" if v is None else format_number(v) for v in c.scores.values())]
                    for c in _cases(4)]  # fmt: skip
    assert mean == ["mean", "0.01235", "0.9000", "undefined"]


def test_comparison(tmp_path):
    differences = {
        "iou": Difference(0.02, 0.01, 0.03, "b"),
        "pixel_error": Difference(-0.1, -0.3, 0.1, None),
        "v_rand": Difference(None, None, None, None),
    }
    comparison = Comparison("model one", "model two", differences, {"iou": 0.92})
    page = _write(tmp_path, _report(comparison=comparison))
    _, *rows = _rows(page, "comparison")
    assert [(row[0].split()[0], row[1], row[-1]) for row in rows] == [
        ("pixel", "−0.100 −0.300 to +0.100", "neither"),
        ("IoU", "+0.0200 +0.0100 to +0.0300", "B"),
        ("VRand", "undefined", "neither"),
    ]
    assert [text_of(each) for each in by_class(page, "means")] == ["0.9000 → 0.9200"]
    assert len(list(by_class(page, "comparison")[0].iter("svg"))) == 2


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        ((0.02, 0.01, 0.03, "b"),
         "two is better than one in IoU: the difference is +0.0200 (95 % interval +0.0100 to +0.0300)."),
        ((-0.02, -0.03, -0.01, "a"),
         "one is better than two in IoU: the difference is −0.0200 (95 % interval −0.0300 to −0.0100)."),
        ((0.02, None, None, None), "No difference is shown between two and one in IoU: the difference is +0.0200."),
        ((None, None, None, None), "No difference is shown between two and one in IoU."),
    ],
    ids=["b", "a", "one-image", "undefined"],
)  # fmt: skip
def test_which_model_is_better_stands_above(tmp_path, difference, said):
    comparison = Comparison("one", "two", {"iou": Difference(*difference)})
    (sentence,) = by_class(_write(tmp_path, _report(comparison=comparison)), "versus")
    assert text_of(sentence) == said


def test_confusion_matrix_has_numbers_and_shares_of_the_truth(tmp_path):
    _, *rows = _rows(_write(tmp_path, _report(**FULL)), "confusion")
    assert rows == [["membrane", "75.0 % 30", "25.0 % 10"], ["cell", "0.0 % 0", "100.0 % 60"]]


def test_counts_are_summed_over_images(tmp_path):
    page = _write(tmp_path, _report())
    assert _rows(page, "counts") == [["type", "pixels", "clusters"], ["split", "12", "4"], ["hole addition", "6", "–"]]
    assert text_of(page.find(".//caption")) == "Warping types, summed over images"


OPTIONAL = {
    "comparison": {"comparison": None}, "thresholds": {"curves": {}}, "calibration": {"calibration": ()},
    "confusion": {"confusion": None}, "settings": {"settings": {}, "versions": {}, "command": ""},
    "examples": {"cases": [replace(case, pictures={}) for case in _cases(4)]},
    "counts": {"cases": [replace(case, counts={}) for case in _cases(4)]},
}  # fmt: skip


@pytest.mark.parametrize("absent", [None, *OPTIONAL])
def test_a_section_is_there_with_its_data_only(tmp_path, absent):
    page = _write(tmp_path, replace(_report(**FULL), **OPTIONAL.get(absent, {})))
    expected = [
        "comparison",
        "scores",
        "examples",
        "images",
        "thresholds",
        "calibration",
        "confusion",
        "counts",
        "settings",
    ]
    found = [each.get("id") for each in page.iter("section")]
    assert found == [name for name in expected if name != absent]
    assert [link.get("href") for link in page.iter("a")] == [f"#{name}" for name in found]


# ------------------------------------------------------------------------------------------- how it is made


def test_it_loads_nothing(tmp_path):
    page = _write(tmp_path, _report(**FULL))
    links = [v for e in page.iter() for k, v in e.items() if k in {"src", "href", "srcset", "action", "data"}]
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert not re.search(r"https?://|@import|url\(", (tmp_path / "report.html").read_text("utf-8"))
    assert "default-src 'none'" in page.find(".//meta[@http-equiv]").get("content")
    assert len(list(page.iter("script"))) == len(list(page.iter("style"))) == 1


def test_text_is_escaped(tmp_path):
    column = ScoreColumn("iou", "V_" + EVIL, "higher", EVIL, 0.5, EVIL)
    cases = [
        Case(EVIL, {"iou": None}, {EVIL: PIXEL}, EVIL, {EVIL: {EVIL: {EVIL: 1}}}),
        Case(EVIL, {"iou": 0.25}, {EVIL: PIXEL}, EVIL),
        Case("good", {"iou": 0.5}, {EVIL: PIXEL}),
    ]
    report = Report(
        EVIL, [column], cases, {EVIL: EVIL}, {EVIL: EVIL}, {EVIL: [(0.0, 1.0)]}, [EVIL],
        comparison=Comparison(EVIL, EVIL, {"iou": Difference(1, 1, 1, "a")}),
        confusion=ConfusionMatrix([EVIL], [[1]]), command=EVIL,
    )  # fmt: skip
    page = _write(tmp_path, report)
    text = (tmp_path / "report.html").read_text("utf-8")
    assert len(list(page.iter("script"))) == 1
    assert "<script>alert" not in text
    for element in ("title", "h1", "h4", "caption", "figcaption", "code", "dt", "dd"):
        assert EVIL in "".join(page.find(f".//{element}").itertext())


def test_headings_are_in_order_and_pictures_have_words(tmp_path):
    page = _write(tmp_path, _report(**FULL))
    levels = [int(each.tag[1]) for each in page.iter() if re.fullmatch(r"h\d", each.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert page.get("lang") == "en"
    assert text_of(page.find(".//title")) == "Nuclei"
    assert all(each.get("alt") for each in page.iter("img"))
    assert all(each.get("role") == "img" and each.get("aria-label") for each in page.iter("svg"))
    ids = [each.get("id") for each in page.iter() if each.get("id")]
    assert len(set(ids)) == len(ids)
    assert {each.get("aria-labelledby") for each in page.iter() if each.get("aria-labelledby")} <= set(ids)
    assert all(each.get("scope") in {"col", "row"} for each in page.iter("th"))


def _luminance(colour):
    levels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def _mix(colour, share, ground):
    return "#" + "".join(
        f"{round(share * int(colour[k : k + 2], 16) + (1 - share) * int(ground[k : k + 2], 16)):02x}" for k in (1, 3, 5)
    )


def test_contrast_in_light_dark_and_print(tmp_path):
    style = text_of(_write(tmp_path, _report()).find(".//style"))
    roots = [dict(re.findall(r"--(\w+): ([^;]+);", root)) for root in re.findall(r":root \{(.*?)\}", style)]
    assert len(roots) == 3
    for root in roots:
        colours = {k: "#" + "".join(2 * c for c in v[1:]) if len(v) == 4 else v for k, v in root.items()}
        heat = _mix(colours["accent"], int(colours["heat"].rstrip("%")) / 100, colours["page"])
        for ink, ground in (("ink", "page"), ("soft", "page"), ("accent", "page"), ("ink", "faint"), ("soft", "faint")):
            assert _contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
        assert _contrast(colours["ink"], heat) >= 4.5


def _contrast(a, b):
    low, high = sorted((_luminance(a), _luminance(b)))
    return (high + 0.05) / (low + 0.05)


# ------------------------------------------------------------------------------------------- images


def test_undefined_tells_why(tmp_path):
    page = _write(tmp_path, _report())
    abbreviations = [each.get("title") for each in page.iter("abbr")]
    assert set(abbreviations) == {"the truth has no foreground"}
    cells = [each for each in page.iter("td") if each.get("data-value") == ""]
    assert [text_of(each) for each in cells] == ["undefined"] * 4
    assert ">None<" not in (tmp_path / "report.html").read_text("utf-8")


@pytest.mark.parametrize(("n", "n_shown"), [(0, 0), (1, 1), (2, 2), (5, 5), (6, 6), (200, 6)])
def test_pictures_of_the_extremes_only(tmp_path, n, n_shown):
    page = _write(tmp_path, _report(n))
    assert len(list(page.iter("img"))) == 4 * n_shown
    assert len(by_class(page, "images")) == (n > 1)
    if n == 200:
        assert [text_of(each) for each in page.iter("h4")] == [f"image {k:03}" for k in (199, 198, 197, 0, 1, 2)]
        (legend,) = by_class(page, "legend")
        assert [text_of(each) for each in legend] == [f"{name} {meaning}" for _, name, meaning in LEGEND]


def test_on_paper_no_score_is_cut_off_unsaid(tmp_path):
    scores = [ScoreColumn(f"s{k}", f"S{k}", "higher", "", 0.5) for k in range(20)]
    report = Report("", scores, [Case(name, {s.name: 0.5 for s in scores}) for name in "ab"])
    (said,) = by_class(_write(tmp_path, report), "on-paper")
    n = int(re.search(r"first (\d+) scores", text_of(said))[1])
    assert f"nth-child(n+{n + 2}) {{ display: none; }}" in (tmp_path / "report.html").read_text("utf-8")
    assert not by_class(_write(tmp_path, replace(report, scores=scores[:n])), "on-paper")


def test_of_too_many_images_the_worst_are_listed(tmp_path):
    page = _write(tmp_path, _report(2000))
    _, *body, mean = _rows(page, "images")
    assert [row[0] for row in body] == [f"image {k:03}" for k in range(1999, 1999 - MAX_ROWS, -1)]
    assert mean[0] == "mean of 2000"
    assert "The 300 worst of 2000 by IoU; all are in metrics.csv." in text_of(page)
    assert (tmp_path / "report.html").stat().st_size < 300_000


def test_one_image_is_neither_worst_nor_best(tmp_path):
    said = text_of(_write(tmp_path, _report(1)))
    assert "Worst" not in said
    assert "The image" in said


def test_ranking_follows_the_direction_of_the_score():
    error = COLUMNS[0]
    worst, best = extremes([error], _cases(10))
    assert [case.name[-1] for case in worst] == ["9", "8", "7"]
    assert [case.name[-1] for case in best] == ["0", "1", "2"]
    assert ranking_score([error, COLUMNS[1]], _cases(2)) is COLUMNS[1]
    assert ranking_score([COLUMNS[2]], _cases(2)) is None
    assert extremes([COLUMNS[2]], _cases(2)) == ([], [])


# ------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1, "1.000"), (0.123456, "0.1235"), (1234.5, "1234"), (-2.5, "-2.500"), (123456, "123456"),
     (4e-6, "4.000×10⁻⁶"), (1.5e9, "1.500×10⁹")],
)  # fmt: skip
def test_format_number(value, text):
    assert format_number(value) == text


def test_split_subscript():
    assert split_subscript("V_Info") == ("V", "Info", "")
    assert split_subscript("max_pixel_fscore") == ("max_pixel_fscore", "", "")


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.031, 0.98), (0.5, 0.5), (0, 0), (-3, 17), (1e-5, 8e-5)])
def test_ticks_enclose_the_range(low, high):
    ticks = nice_ticks(low, high)
    assert 2 < len(ticks) <= 7
    assert ticks[0] <= low <= high <= ticks[-1]
    np.testing.assert_allclose(np.diff(ticks), ticks[1] - ticks[0])
    assert len(set(tick_labels(ticks))) == len(ticks)


def test_curve_breaks_where_undefined():
    plot = plot_thresholds([(0, None), (0.2, 0.1), (0.4, None), (0.6, 0.2), (0.8, 0.2)], "lower")
    assert plot.path.count("M") == 2
    assert plot.path.count("L") == 1
    assert (plot.best, plot.best_threshold) == (0.1, 0.2)
    assert plot_thresholds([(0, None)]) is None
