"""The report: everything is in it, escaped, and it loads nothing."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from unetcli.report.html import (
    Case,
    Report,
    ScoreColumn,
    extremes,
    format_number,
    ranking_score,
    split_subscript,
    write_report,
)
from unetcli.report.pictures import ADDED, MISSED, to_png_data_uri
from unetcli.report.threshold_plot import nice_ticks, plot_thresholds, tick_labels

COLUMNS = (
    ScoreColumn("pixel_error", "pixel error", "lower", "share of differing pixels", 0.0123456),
    ScoreColumn("iou", "IoU", "higher", "TP/(TP+FP+FN)", 0.9),
    ScoreColumn("v_rand", "V_Rand", "higher", "thinned", None, "the truth has no foreground"),
)
PIXEL = to_png_data_uri(np.zeros((1, 1), np.uint8))
VOID = {"meta", "img", "br", "link", "line", "path", "circle"}


class _Page(HTMLParser):
    """Elements, attributes and text of a page; checks that tags are balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.text, self.tooltips = [], [], [], "", []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in {"src", "href", "srcset", "action", "data"}]
        self.tooltips += [value for name, value in attrs if name == "title"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def _cases(n):
    return [
        Case(
            f"image {k:03}",
            {"pixel_error": k / n, "iou": 1 - k / n, "v_rand": None},
            dict.fromkeys(("image", "truth", "prediction", "errors"), PIXEL),
        )
        for k in range(n)
    ]


def _report(n=4, **changes):
    curves = {"iou": [(0.1, None), (0.3, 0.5), (0.5, 0.8), (0.7, None), (0.9, 0.6)], "other": [(0.5, 3.0)]}
    return replace(
        Report("Nuclei", COLUMNS, _cases(n), {"truth": "truth.zarr"}, {"unetcli": "1.2.3"}, curves, ["One note."]),
        **changes,
    )


def _write(tmp_path, report):
    path = tmp_path / "report.html"
    write_report(path, report)
    assert list(tmp_path.iterdir()) == [path]
    text = path.read_text("utf-8")
    return text, _Page(text)


def _squeeze(text):
    return re.sub(r"\s+", " ", text)


def test_everything_is_in_it(tmp_path):
    report = _report()
    text, page = _write(tmp_path, report)
    said = _squeeze(page.text)
    assert "4 images were scored; on average VRand is undefined, IoU 0.9000 and pixel error 0.01235." in said
    for column in COLUMNS:
        assert column.convention in said
        assert f"{column.better} is better" in said
    for case in report.cases:
        assert case.name in said
        assert format_number(case.scores["iou"]) in said
    for word in ("Nuclei", "truth.zarr", "1.2.3", "One note.", "Worst by IoU", "Best by IoU", "other"):
        assert word in said
    assert "best 0.8000 at threshold 0.5" in said
    assert MISSED in text
    assert ADDED in text


def test_same_report_same_bytes(tmp_path):
    write_report(tmp_path / "a.html", _report())
    write_report(tmp_path / "b.html", _report())
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_it_loads_nothing(tmp_path):
    text, page = _write(tmp_path, _report())
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not re.search(r"https?://|@import|url\(", text)
    assert "default-src 'none'" in text
    assert page.tags.count("script") == page.tags.count("style") == 1


def test_text_is_escaped(tmp_path):
    evil = "<script>alert(1)</script>\"'><b>&"
    column = ScoreColumn("iou", "V_" + evil, "higher", evil, None, evil)
    case = Case(evil, {"iou": None}, {evil: PIXEL})
    good = Case("good", {"iou": 0.5}, {evil: PIXEL})
    curves = {evil: [(0.0, 1.0)]}
    report = Report(evil, [column], [case, good], {evil: evil}, {evil: evil}, curves, [evil])
    text, page = _write(tmp_path, report)
    assert page.tags.count("script") == 1
    assert "<script>alert" not in text
    assert evil in page.text
    assert evil in page.tooltips


def test_undefined_tells_why(tmp_path):
    text, page = _write(tmp_path, _report())
    assert page.tooltips.count("the truth has no foreground") == 4 + 2 + 4  # table, tile and mean, pictures
    assert "4 images have a score that is undefined" in page.text
    assert 'data-value=""' in text
    assert ">None<" not in text


@pytest.mark.parametrize(("n", "n_shown"), [(0, 0), (1, 1), (2, 2), (5, 5), (6, 6), (200, 6)])
def test_pictures_of_the_extremes_only(tmp_path, n, n_shown):
    text, page = _write(tmp_path, _report(n))
    assert page.tags.count("img") == 4 * n_shown
    assert page.tags.count("tbody") == (n > 0)
    assert len(re.findall(r'<th scope="row" title="image \d+', text)) == n
    if n == 200:
        shown = re.findall(r"<h3>(image \d+)</h3>", text)
        assert shown == [f"image {k:03}" for k in (199, 198, 197, 0, 1, 2)]


def test_one_image_is_neither_worst_nor_best(tmp_path):
    _, page = _write(tmp_path, _report(1))
    said = _squeeze(page.text)
    assert "1 image was scored: VRand" in said
    assert "Worst" not in said
    assert "The image" in said


def test_nothing_to_say(tmp_path):
    _, page = _write(tmp_path, Report("Empty", [], []))
    assert "No image was scored." in page.text
    _, page = _write(tmp_path, Report("Only names", [], [Case("a", {})]))
    assert "1 image was scored." in _squeeze(page.text)


def test_ranking_follows_the_direction_of_the_score():
    error = COLUMNS[0]
    worst, best = extremes([error], _cases(10))
    assert [case.name[-1] for case in worst] == ["9", "8", "7"]
    assert [case.name[-1] for case in best] == ["0", "1", "2"]
    assert ranking_score([error, COLUMNS[1]], _cases(2)) is COLUMNS[1]
    assert ranking_score([COLUMNS[2]], _cases(2)) is None
    assert extremes([COLUMNS[2]], _cases(2)) == ([], [])


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
