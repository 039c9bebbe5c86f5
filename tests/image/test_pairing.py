"""Which files are meant, and which belong together."""

import re

import pytest

from unetcli.errors import InputError
from unetcli.image.pairing import list_images, pair, stem


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x.ome.tif", "x"),
        ("x.ome.zarr", "x"),
        ("x.OME.TIFF", "x"),
        ("folder.d/x.v2.png", "x.v2"),
        ("x.y", "x.y"),
        (".tif", ".tif"),
        ("slide.svs", "slide"),
    ],
)
def test_stem(name, expected):
    assert stem(name) == expected


def test_folder_is_listed_in_natural_order_without_hidden_and_other_files(tmp_path):
    touch(tmp_path, "t10.tif", "t2.TIF", "t1.png", ".t0.tif", "Thumbs.db", "notes.txt", "deep/t5.tif")
    touch(tmp_path, "t3.ome.zarr/zarr.json", "t4/.zattrs")
    names = [p.name for p in list_images([tmp_path])]
    assert names == ["t1.png", "t2.TIF", "t3.ome.zarr", "t4", "t10.tif"]


def test_names_that_differ_in_zeros_only_have_a_fixed_order(tmp_path):
    touch(tmp_path, "a01.tif", "a1.tif", "A1.tif")
    assert [p.name for p in list_images([tmp_path])] == ["A1.tif", "a01.tif", "a1.tif"]


def test_files_and_stores_are_taken_as_they_are(tmp_path):
    touch(tmp_path, "b.dat", "store/zarr.json", "a.tif")
    paths = [tmp_path / n for n in ("b.dat", "store", "a.tif")]
    assert list_images(paths) == paths


def test_missing_path_and_folder_without_images_are_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere: does not exist"):
        list_images([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="holds no images"):
        list_images([touch(tmp_path, "notes.txt")])


@pytest.mark.parametrize(
    ("names_a", "names_b", "expected"),
    [
        (["x.tif"], ["something.png"], [(0, 0)]),
        (["a.tif", "b.tif"], ["b.ome.zarr", "a.png"], [(0, 1), (1, 0)]),
        (["image_07", "image_08"], ["label_08", "label_7"], [(0, 1), (1, 0)]),
        (["01/t010.tif", "01/t009.tif"], ["GT/man_seg009.tif", "GT/man_seg010.tif"], [(0, 1), (1, 0)]),
        (["set1_raw.tif", "set15_raw.tif"], ["set1_instances.png", "set15_instances.png"], [(0, 0), (1, 1)]),
        (["t1_z2", "t2_z1"], ["m_2_1", "m_1_2"], [(0, 1), (1, 0)]),
    ],
    ids=["single", "stem", "numbers", "folders", "sets", "order-of-numbers"],
)
def test_pairs(names_a, names_b, expected):
    assert list(pair(names_a, names_b).pairs) == expected


@pytest.mark.parametrize(
    ("names_a", "names_b", "named"),
    [
        (["a.tif", "b.tif"], ["a.png"], "b.tif"),
        (["a.tif"], ["a.png", "b.png"], "b.png"),
        (["i_1", "j_1"], ["k_1", "l_1"], "i_1, j_1"),
        (["a.tif", "a.png", "b.tif"], ["a.npy", "b.npy", "c.npy"], "a.tif, a.png"),
        (["x.tif", "y.tif"], ["p.tif", "q.tif"], "x.tif, y.tif"),
        (["a.tif", "b.tif"], [], "a.tif, b.tif"),
    ],
    ids=["no-label", "no-image", "same-number", "same-stem", "nothing-alike", "empty"],
)
def test_what_has_not_one_partner_is_refused_by_name(names_a, names_b, named):
    with pytest.raises(InputError, match=re.escape(named)) as caught:
        pair(names_a, names_b)
    assert caught.value.fix


def test_extra_truth_is_allowed_with_a_note():
    found = pair(["b.tif"], ["a.tif", "b.tif"], a="predictions", b="truth", allow_extra_b=True)
    assert found.pairs == ((0, 1),)
    assert found.notes == ("1 truth without predictions left out: a.tif",)
    with pytest.raises(InputError, match=r"1 predictions \(c.tif\)"):
        pair(["b.tif", "c.tif"], ["a.tif", "b.tif", "d.tif"], a="predictions", allow_extra_b=True)


def test_frames_without_truth_are_left_out_where_truth_is_sparse():
    frames = ["t000", "t001", "t002"]
    found = pair(frames, ["man_seg001"], allow_extra_a=True)
    assert found.pairs == ((1, 0),)
    assert found.notes == ("2 images without labels left out: t000, t002",)
    with pytest.raises(InputError, match="man_seg007"):
        pair(frames, ["man_seg001", "man_seg007"], allow_extra_a=True)
    with pytest.raises(InputError, match="t000"):  # alone, but of another number
        pair(["t000"], ["man_seg001"], allow_extra_a=True)


def test_at_most_ten_names_are_listed():
    with pytest.raises(InputError, match="and 15 more") as caught:
        pair([f"a{chr(65 + i)}" for i in range(25)], [])
    assert str(caught.value).partition(")")[0].count(",") == 9
