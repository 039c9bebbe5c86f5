"""Folders of well-known data sets: which files are images, and which are their truth."""

import re

import pytest

from unetcli.errors import InputError
from unetcli.image.layouts import is_sparse, list_entries


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def found(folder, paths, **how):
    """Return name, path and truth of each entry, below a folder."""
    entries = list_entries([folder / p for p in paths], **how)
    return [(e.name, str(e.path.relative_to(folder)), e.truth and str(e.truth.relative_to(folder))) for e in entries]


def notes(folder, path, **how):
    return " ".join(note for entry in list_entries([folder / path], **how) for note in entry.notes)


CHALLENGE = ("ctc/01/t000.tif", "ctc/01/t001.tif", "ctc/01_GT/SEG/man_seg001.tif", "ctc/01_GT/TRA/man_track000.tif")
SECOND = ("ctc/02/t000.tif", "ctc/02_GT/SEG/man_seg000.tif", "ctc/02_ST/SEG/man_seg000.tif")
BOWL = ("b/A/images/A.png", "b/A/masks/x.png", "b/A/masks/y.png", "b/B/images/B.png", "b/B/masks/z.png")

FRAMES = [("t000", "ctc/01/t000.tif", None), ("t001", "ctc/01/t001.tif", None)]


@pytest.mark.parametrize(
    ("files", "paths", "how", "expected"),
    [
        (CHALLENGE, ["ctc"], {"find_truth": True}, [("t001", "ctc/01/t001.tif", "ctc/01_GT/SEG/man_seg001.tif")]),
        (CHALLENGE, ["ctc"], {}, FRAMES),
        (CHALLENGE, ["ctc/01"], {"find_truth": True}, FRAMES),
        (CHALLENGE, ["ctc/01_GT"], {"is_label": True}, [("man_seg001", "ctc/01_GT/SEG/man_seg001.tif", None)]),
        (CHALLENGE, ["ctc/01_GT/SEG"], {"is_label": True}, [("man_seg001", "ctc/01_GT/SEG/man_seg001.tif", None)]),
        (CHALLENGE, ["ctc/01_GT/TRA"], {"is_label": True}, [("man_track000", "ctc/01_GT/TRA/man_track000.tif", None)]),
        (CHALLENGE, ["ctc"], {"is_label": True}, [("man_seg001", "ctc/01_GT/SEG/man_seg001.tif", None)]),
        (
            (*CHALLENGE, *SECOND),
            ["ctc"],
            {"find_truth": True},
            [
                ("01_t001", "ctc/01/t001.tif", "ctc/01_GT/SEG/man_seg001.tif"),
                ("02_t000", "ctc/02/t000.tif", "ctc/02_GT/SEG/man_seg000.tif"),
            ],
        ),
        (
            (*CHALLENGE, *SECOND),
            ["ctc/01_GT", "ctc/02_ST"],
            {"is_label": True},
            [
                ("01_man_seg001", "ctc/01_GT/SEG/man_seg001.tif", None),
                ("02_man_seg000", "ctc/02_ST/SEG/man_seg000.tif", None),
            ],
        ),
        (
            BOWL,
            ["b"],
            {"find_truth": True},
            [("A", "b/A/images/A.png", "b/A/masks"), ("B", "b/B/images/B.png", "b/B/masks")],
        ),
        (BOWL, ["b/A"], {"find_truth": True}, [("A", "b/A/images/A.png", "b/A/masks")]),
        (BOWL, ["b"], {}, [("A", "b/A/images/A.png", None), ("B", "b/B/images/B.png", None)]),
        (BOWL, ["b"], {"is_label": True}, [("A", "b/A/masks", None), ("B", "b/B/masks", None)]),
        (BOWL, ["b/A/masks"], {"is_label": True, "images": ["A"]}, [("A", "b/A/masks", None)]),
        (BOWL, ["b/B/masks"], {"is_label": True, "images": ["B"]}, [("z", "b/B/masks/z.png", None)]),
        (
            ("m/im_1/x.png", "m/im_1/y.png", "m/im_2/x.png"),
            ["m"],
            {"is_label": True, "images": ["im_1", "im_2"]},
            [("im_1", "m/im_1", None), ("im_2", "m/im_2", None)],
        ),
        (
            ("l/a.png", "l/b.png", "l/deep/c.png"),
            ["l"],
            {"is_label": True, "images": ["a"]},
            [("a", "l/a.png", None), ("b", "l/b.png", None)],
        ),
        (
            ("l/m_1.png", "l/m_2.png"),
            ["l"],
            {"is_label": True, "images": ["im_1"]},
            [("m_1", "l/m_1.png", None), ("m_2", "l/m_2.png", None)],
        ),
        (("im_1/m_1.png", "im_1/m_2.png"), ["im_1"], {"is_label": True, "images": ["im_1"]}, [("im_1", "im_1", None)]),
        (("12/t00.tif", "12/x.tif"), ["12"], {}, [("t00", "12/t00.tif", None), ("x", "12/x.tif", None)]),
    ],
)
def test_what_folders_mean(tmp_path, files, paths, how, expected):
    assert found(make(tmp_path, *files), paths, **how) == expected


def test_what_is_left_out_is_said(tmp_path):
    make(tmp_path, *CHALLENGE, "ctc/03/t000.tif", "ctc/01_GT/SEG/man_seg_000_002.tif")
    said = notes(tmp_path, "ctc", find_truth=True)
    assert "1 frames of 01 without truth left out: t000" in said
    assert "sequences without truth left out: 03" in said
    assert "1 labels of single planes left out: man_seg_000_002.tif" in said
    assert "mark cells for tracking" in notes(tmp_path, "ctc/01_GT/TRA", is_label=True)


@pytest.mark.parametrize(
    ("files", "path", "how", "said"),
    [
        (
            (*CHALLENGE, "ctc/01_GT/SEG/man_seg007.tif"),
            "ctc",
            {"find_truth": True},
            "man_seg007.tif belong to no frame",
        ),
        (
            ("01_GT/SEG/man_seg_1_2.tif",),
            "01_GT",
            {"is_label": True},
            "only single planes of volumes (man_seg_1_2.tif)",
        ),
        (("01_GT/TRA/man_track1.tif",), "01_GT", {"is_label": True}, "holds no folder SEG"),
        (("c/01/t000.tif", "c/01_ST/SEG/man_seg000.tif"), "c", {"is_label": True}, "holds no truth made by hand"),
        (("d/images/a.png", "d/images/b.png", "d/masks/a.png"), "d", {}, "holds 2 images; expected one"),
        (("d/images/a.png", "d/labels/a.png"), "d", {}, "holds no images"),
        (("d/notes.txt",), "d", {"is_label": True}, "holds no images"),
    ],
    ids=[
        "truth without a frame",
        "planes",
        "markers only",
        "silver truth",
        "a plain pair of folders",
        "images and labels",
        "nothing",
    ],
)
def test_folders_that_make_no_sense(tmp_path, files, path, how, said):
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        found(make(tmp_path, *files), [path], **how)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["man_seg001.tif", "man_seg002.tif"], True),
        (["01_man_seg001", "02_man_track001"], True),
        (["man_seg001.tif", "mask_002.tif"], False),
        (["human_seg001"], False),
    ],
)
def test_truth_that_may_be_sparse(names, expected):
    assert is_sparse(names) is expected
