"""Stores of others: written here with zarr-python in each layout there is, read back pixel for pixel or refused."""

import json

import numpy as np
import pytest
import zarr

from unetcli.errors import InputError
from unetcli.image.axes import Channel
from unetcli.image.inputs import open_inputs
from unetcli.image.store import open_store, survey
from unetcli.image.tiling import Box

TYPES = {"t": "time", "c": "channel"}


def whole(level):
    return level.read(Box.whole(level.shape))


def numbered(*shape, dtype="uint16"):
    return np.random.default_rng(0).integers(1, 200, shape).astype(dtype)


def described(axis):
    unit = {"unit": "micrometer"} if axis in "zyx" else {}
    return {"name": axis, "type": TYPES.get(axis, "space"), **unit}


def write_image(path, array, axes="yx", *, version="0.5", n_levels=1, scale=None, where="{}", dims=None, **ome):
    """Write an OME-Zarr image with zarr-python; `where` names the levels, further keywords are metadata."""
    zarr_format = 3 if version >= "0.5" else 2
    group = zarr.open_group(path, mode="a", zarr_format=zarr_format)
    datasets = []
    for k in range(n_levels):
        level = array[..., :: 2**k, :: 2**k]
        settings = {"dimension_names": list(dims or axes)} if zarr_format == 3 else {}
        chunks = tuple(max(1, n // 2) for n in level.shape)
        place = where.format(k)
        group.create_array(place, shape=level.shape, dtype=level.dtype, chunks=chunks, **settings)[...] = level
        sizes = [s * (2**k if a in "yx" else 1) for s, a in zip(scale or [1.0] * len(axes), axes, strict=True)]
        datasets.append({"path": place, "coordinateTransformations": [{"type": "scale", "scale": sizes}]})
    multiscale = {"datasets": datasets, "version": version}
    if version >= "0.4":
        multiscale["axes"] = [described(a) for a in axes]
    elif version == "0.3":
        multiscale["axes"] = list(axes)
    if version < "0.4":
        for dataset in datasets:
            del dataset["coordinateTransformations"]
    set_ome(path, {"multiscales": [multiscale], **ome}, version)
    return path


def set_ome(path, metadata, version="0.5"):
    """Set the OME-Zarr metadata of a group."""
    group = zarr.open_group(path, mode="a", zarr_format=3 if version >= "0.5" else 2)
    group.attrs.update({"ome": {"version": version, **metadata}} if version >= "0.5" else metadata)


def edit(path, change):
    """Change the OME-Zarr metadata of an image of version 0.5."""
    file = path / "zarr.json"
    content = json.loads(file.read_text())
    change(content["attributes"]["ome"])
    file.write_text(json.dumps(content))


def first(ome):
    return ome["multiscales"][0]


# ------------------------------------------------------------------------------------------- versions


@pytest.mark.parametrize(
    ("version", "axes"),
    [("0.1", "tczyx"), ("0.2", "tczyx"), ("0.3", "czyx"), ("0.4", "zyx"), ("0.5", "tyx"), ("0.5-dev-x", "yx")],
)
def test_each_version_is_read(tmp_path, version, axes):
    array = numbered(*(n for a, n in zip("tczyx", (2, 3, 2, 20, 30), strict=True) if a in axes))
    path = write_image(tmp_path / "a.ome.zarr", array, axes, version=version, n_levels=3, where="deep/s{}/image")
    (image,) = open_store(path).images
    assert (image.name, image.axes.names, image.version) == ("a", axes, version)
    np.testing.assert_array_equal(whole(image.level), array.reshape(image.level.shape))
    for k in range(3):
        np.testing.assert_array_equal(whole(image.at(k)).squeeze(), array[..., :: 2**k, :: 2**k])


def test_a_sharded_array_is_read(tmp_path):
    array = numbered(3, 65, 70)
    path = write_image(tmp_path / "a.zarr", array, "zyx")
    settings = {"shape": array.shape, "dtype": "u2", "chunks": (1, 16, 16), "shards": (2, 32, 48)}
    sharded = zarr.create_array(path / "0", overwrite=True, **settings)
    sharded[...] = array
    level = open_store(path).images[0].level
    assert (level.chunk, level.shard) == ((1, 1, 1, 16, 16), (1, 1, 2, 32, 48))
    np.testing.assert_array_equal(whole(level)[0, 0], array)


def test_levels_have_the_pixel_size_that_they_state(tmp_path):
    path = write_image(tmp_path / "a.zarr", numbered(2, 40, 60), "zyx", n_levels=2, scale=[5.0, 0.3, 0.3])
    edit(
        path,
        lambda ome: ome["multiscales"][0]["datasets"][1]["coordinateTransformations"][0].update(scale=[5, 0.7, 0.9]),
    )
    (found,) = open_inputs([path], level=1)
    assert found.source.axes.scale == (5, 0.7, 0.9)
    assert found.source.axes.units == ("micrometer",) * 3
    assert open_inputs([path])[0].source.axes.scale == (5, 0.3, 0.3)


def test_a_level_without_a_scale_is_as_much_coarser_as_it_is_smaller(tmp_path):
    path = write_image(tmp_path / "a.zarr", numbered(40, 60), n_levels=3, scale=[0.5, 0.25])
    edit(path, lambda ome: first(ome)["datasets"][2].pop("coordinateTransformations"))
    assert open_store(path).images[0].at(2).axes.scale == (2.0, 1.0)


@pytest.mark.parametrize("level", [2, -1, 99])
def test_a_level_that_is_not_there(tmp_path, level):
    path = write_image(tmp_path / "a.zarr", numbered(40, 60), n_levels=2)
    with pytest.raises(InputError, match=f"has no level {level}; there are 2: 0 is yx 40 x 60, 1 is yx 20 x 30"):
        open_inputs([path], level=level)


# ------------------------------------------------------------------------------------------- layouts


def write_plate(path, version="0.5", wells=("A/1", "B/03")):
    """Write a plate with two images in each well; return their pixels by name."""
    found = {}
    for k, well in enumerate(wells):
        for image in ("0", "field_1"):
            found[f"{well}/{image}".replace("/", "_")] = array = numbered(10, 12) + 300 * k + 100 * len(found)
            write_image(path / well / image, array, version=version)
        set_ome(path / well, {"well": {"images": [{"path": "0"}, {"path": "field_1"}]}}, version)
    plate = {"wells": [{"path": w, "rowIndex": 0, "columnIndex": 0} for w in wells], "bioformats2raw.layout": 3}
    set_ome(path, {"plate": plate, "bioformats2raw.layout": 3}, version)
    return found


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_plate(tmp_path, version):
    expected = write_plate(tmp_path / "p.zarr", version)
    store = open_store(tmp_path / "p.zarr")
    assert store.kind == "plate"
    assert [i.name for i in store.images] == list(expected) == ["A_1_0", "A_1_field_1", "B_03_0", "B_03_field_1"]
    for image in store.images:
        np.testing.assert_array_equal(whole(image.level)[0, 0, 0], expected[image.name])


def test_a_well(tmp_path):
    expected = write_plate(tmp_path / "p.zarr")
    store = open_store(tmp_path / "p.zarr" / "B" / "03")
    assert (store.kind, [i.name for i in store.images]) == ("well", ["0", "field_1"])
    np.testing.assert_array_equal(whole(store.images[1].level)[0, 0, 0], expected["B_03_field_1"])


def test_what_a_plate_lists_but_does_not_hold_is_a_fault(tmp_path):
    path = tmp_path / "p.zarr"
    write_plate(path)
    listed = [{"path": w} for w in ("A/1", "A/2", "B/03", "C/1")]
    set_ome(path / "A" / "1", {"well": {"images": [{"path": "0"}, {"path": "7"}]}})
    zarr.create_group(path / "C" / "1")
    set_ome(path, {"plate": {"wells": listed}})
    store = survey(path)
    assert [i.name for i in store.images] == ["A_1_0", "B_03_0", "B_03_field_1"]
    assert [str(fault).partition("p.zarr/")[2][:22] for fault in store.faults] == [
        "A/2: does not exist; t", "C/1: has no 'well' met", "A/1/7: does not exist;",
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"A/2: does not exist.*2 more faults") as caught:
        open_store(path)
    assert "info" in caught.value.fix


def test_a_bioformats2raw_layout_without_a_series(tmp_path):
    for k in (0, 1, 10, 2):
        write_image(tmp_path / "a.zarr" / str(k), numbered(5, 6) + k, version="0.4")
    set_ome(tmp_path / "a.zarr", {"bioformats2raw.layout": 3}, "0.4")
    assert [i.name for i in open_store(tmp_path / "a.zarr").images] == ["0", "1", "2", "10"]


def write_labels(path, arrays, version="0.5"):
    for name, array in arrays.items():
        write_image(path / "labels" / name, array, "zyx"[-array.ndim :], version=version, **{"image-label": {}})
    set_ome(path / "labels", {"labels": list(arrays)}, version)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_labels_alone(tmp_path, version):
    path = write_image(tmp_path / "a.zarr", numbered(10, 12), version=version)
    ids = numbered(10, 12, dtype="int64")
    write_labels(path, {"cells": ids, "nuclei": ids + 1}, version)
    (alone,) = open_store(path / "labels" / "nuclei").images
    assert alone.is_label
    np.testing.assert_array_equal(whole(alone.level)[0, 0, 0], ids + 1)
    group = open_store(path / "labels")
    assert (group.kind, [i.name for i in group.images]) == ("labels", ["cells", "nuclei"])


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("names", "shape"),
    [
        ("yx", (9, 7)),
        ("zyx", (3, 9, 7)),
        ("yxc", (9, 7, 4)),
        ("xyz", (7, 9, 3)),
        ("CYX", (2, 9, 7)),
        ("xytzc", (7, 6, 2, 3, 4)),
    ],
)
@pytest.mark.parametrize("said", ["by the array", "by the user"])
def test_a_plain_array_of_any_order_of_axes(tmp_path, zarr_format, names, shape, said):
    array = numbered(*shape)
    told = {"dimension_names": list(names)} if zarr_format == 3 and said == "by the array" else {}
    chunks = tuple(n // 2 + 1 for n in shape)
    stored = zarr.create_array(
        tmp_path / "a.zarr", shape=shape, dtype="u2", chunks=chunks, zarr_format=zarr_format, **told
    )
    stored[...] = array
    if zarr_format == 2 and said == "by the array":
        stored.attrs["_ARRAY_DIMENSIONS"] = list(names)
    (found,) = open_inputs([tmp_path / "a.zarr"], axes=names if said == "by the user" else None)
    ordered = [a for a in "tczyx" if a in names.lower()]
    assert (found.name, found.source.axes.names) == ("a", "".join(ordered))
    expected = array.transpose([names.lower().index(a) for a in ordered]).reshape(found.source.shape)
    np.testing.assert_array_equal(whole(found.source), expected)
    box = Box(tuple(n // 2 for n in found.source.shape), found.source.shape)
    np.testing.assert_array_equal(found.source.read(box), expected[box.slices])


@pytest.mark.parametrize(
    ("shape", "dims", "axes", "note"),
    [
        ((9, 7), None, "yx", ""),
        ((9, 7, 3), None, "cyx", "taken as colour channels"),
        ((5, 9, 7), None, "zyx", "taken as z planes"),
        ((9, 7), ["lat", "lon"], "yx", ""),
    ],
)
def test_a_plain_array_without_names_is_told_by_the_rules_for_files(tmp_path, shape, dims, axes, note):
    zarr.create_array(tmp_path / "a.zarr", shape=shape, dtype="u1", dimension_names=dims)
    (found,) = open_inputs([tmp_path / "a.zarr"])
    assert found.source.axes.names == axes
    assert note in " ".join(found.source.notes)


def test_axes_of_other_names_are_not_guessed(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(5, 9, 7), dtype="u1", dimension_names=["time", "lat", "lon"])
    with pytest.raises(InputError, match="its axes are called time, lat, lon") as caught:
        open_inputs([tmp_path / "a.zarr"])
    assert "--axes zyx" in caught.value.fix
    assert open_inputs([tmp_path / "a.zarr"], axes="tyx")[0].source.shape == (5, 1, 1, 9, 7)


def test_four_axes_without_names_are_asked_for(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(2, 3, 9, 7), dtype="u1")
    with pytest.raises(InputError, match="has 4 axes") as caught:
        open_inputs([tmp_path / "a.zarr"])
    assert "--axes czyx" in caught.value.fix


def test_a_plain_group_is_refused_with_what_lies_in_it(tmp_path):
    group = zarr.create_group(tmp_path / "a.zarr")
    group.create_array("raw/em", shape=(4, 4), dtype="u1")
    write_image(tmp_path / "a.zarr" / "images" / "b", numbered(4, 4))
    with pytest.raises(InputError, match="without 'multiscales', but holds images/b, raw/em") as caught:
        open_store(tmp_path / "a.zarr")
    assert caught.value.fix.endswith("a.zarr/images/b")
    assert open_store(tmp_path / "a.zarr/images/b").images
    assert open_store(tmp_path / "a.zarr/raw/em").images


def test_consolidated_metadata_do_not_hide_labels(tmp_path):
    path = write_image(tmp_path / "a.zarr", numbered(10, 12))
    with pytest.warns(UserWarning, match="Consolidated metadata"):
        zarr.consolidate_metadata(path)
    write_labels(path, {"cells": numbered(10, 12)})
    assert open_store(path).images[0].label_names == ("cells",)


# ------------------------------------------------------------------------------------------- refused


def scales(*numbers):
    return lambda ome: first(ome)["datasets"][0]["coordinateTransformations"][0].update(scale=list(numbers))


def ascending(ome):
    first(ome)["datasets"].reverse()


REFUSED = {
    "order yxc": ("yxc", None, {}, r"axes are \(y, x, c\); expected the order", "--axes yxc"),
    "order xy": ("xy", None, {}, r"axes are \(x, y\); expected the order", "--axes xy"),
    "order cxy": ("cxy", None, {}, r"axes are \(c, x, y\); expected the order", "--axes cxy"),
    "no y": ("zx", None, {}, r"axes are \(z, x\); expected some of", "--axes yx"),
    "twice the same": ("yx", lambda o: first(o)["axes"][0].update(name="x"), {}, r"axes are \(x, x\)", "--axes yx"),
    "too few": ("cyx", lambda o: first(o)["axes"].pop(0), {}, r"\(y, x\) but its shape is \(10, 12, 14\)", "zyx"),
    "no names": ("yx", lambda o: first(o).pop("axes"), {}, "has no names for its 2 axes", "--axes yx"),
    "the array calls them otherwise": ("zyx", None, {"dims": "cyx"}, r"its array calls them \(c, y, x\)", "--axes"),
    "scale 0": ("yx", scales(0, 1), {}, r"pixel size is \(0.0, 1.0\); expected finite numbers above 0", "scale"),
    "scale negative": ("yx", scales(1, -2), {}, "pixel size is", "scale"),
    "scale NaN": ("yx", scales(float("nan"), 1), {}, "pixel size is", "scale"),
    "scale infinite": ("yx", scales(1, float("inf")), {}, "pixel size is", "scale"),
    "scale too long": ("yx", scales(1, 1, 1), {}, "its scale has 3 numbers for the axes", None),
    "levels ascending": ("yx", ascending, {"n_levels": 2}, "1 is 5 x 6, but level 0 is 10 x 12", "/0"),
    "version to come": ("yx", lambda o: o.update(version="0.6"), {}, "is OME-Zarr 0.6; expected 0.1 to 0.5", "convert"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_read_wrongly_is_refused(tmp_path, case):
    axes, change, settings, said, fix = REFUSED[case]
    path = write_image(tmp_path / "a.zarr", numbered(*(10, 12, 14)[: len(axes)]), axes, **settings)
    if change:
        edit(path, change)
    with pytest.raises(InputError, match=said) as caught:
        open_store(path)
    assert str(path) in str(caught.value)
    assert fix is None or fix in caught.value.fix


@pytest.mark.parametrize(
    ("dtype", "is_label", "said"),
    [
        ("complex64", False, "pixels are complex64"),
        ("int64", False, "pixels are int64"),
        ("uint64", False, "pixels are uint64"),
        ("float32", True, "labels are float32"),
        ("complex64", True, "labels are complex64"),
        ("int64", True, None),
        ("uint64", True, None),
        ("bool", True, None),
        ("bool", False, None),
        ("float64", False, None),
    ],
)
@pytest.mark.parametrize("kind", ["image", "array"])
def test_types_of_pixels(tmp_path, kind, dtype, is_label, said):
    if kind == "image":
        write_image(tmp_path / "a.zarr", np.ones((4, 5), dtype))
    else:
        zarr.create_array(tmp_path / "a.zarr", shape=(4, 5), dtype=dtype)
    if said is None:
        assert open_store(tmp_path / "a.zarr", is_label=is_label).images
    else:
        with pytest.raises(InputError, match=said):
            open_store(tmp_path / "a.zarr", is_label=is_label)


@pytest.mark.parametrize("kind", ["image", "array"])
def test_no_pixels(tmp_path, kind):
    if kind == "image":
        write_image(tmp_path / "a.zarr", np.ones((2, 3), "u1"))
    zarr.create_array(tmp_path / "a.zarr" / ("0" if kind == "image" else ""), shape=(0, 5), dtype="u1", overwrite=True)
    with pytest.raises(InputError, match="has no pixels"):
        open_store(tmp_path / "a.zarr")


def test_chunks_too_large_to_read_are_refused(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(90_000, 90_000), chunks=(90_000, 90_000), dtype="u1")
    with pytest.raises(InputError, match=r"chunks of 90000 x 90000 pixels, 7\.5 GiB each"):
        open_store(tmp_path / "a.zarr")


@pytest.mark.parametrize("shape", [(10**12, 5), (10**8, 10**8)])
def test_sizes_that_can_not_be_are_refused(tmp_path, shape):
    zarr.create_array(tmp_path / "a.zarr", shape=shape, chunks=(64, 64), dtype="u1")
    with pytest.raises(InputError, match=r"claims .* pixels; expected at most"):
        open_store(tmp_path / "a.zarr")


def test_units_that_are_not_known_are_dropped_with_a_note(tmp_path):
    path = write_image(tmp_path / "a.zarr", numbered(10, 12))
    edit(path, lambda ome: [a.update(unit=u) for a, u in zip(first(ome)["axes"], ("pixel", "µm"), strict=True)])
    level = open_store(path).images[0].level
    assert level.axes.units == (None, "micrometer")
    assert level.notes == ("unit 'pixel' of axis y is not one of OME-Zarr: left out (--pixel-size gives the true one)",)


# ------------------------------------------------------------------------------------------- channels

RED, PLAIN = {"label": "DAPI", "color": "ff0000"}, {"label": "GFP"}
CHANNELS = {
    "named and coloured": ([RED, PLAIN], [("DAPI", "FF0000"), ("GFP", "")]),
    "numbers": ([{"label": 0}, {"label": 1}], [("0", ""), ("1", "")]),
    "the same name": ([RED, {**RED, "color": "#00FF00FF"}], [("DAPI_0", "FF0000"), ("DAPI_1", "00FF00")]),
    "no names": ([{}, {"label": None}], [("channel_0", ""), ("channel_1", "")]),
    "bad colours": ([{**RED, "color": "red"}, {**PLAIN, "color": 5}], [("DAPI", ""), ("GFP", "")]),
    "too few": ([RED], []),
    "too many": ([RED, PLAIN, PLAIN], []),
    "not a list": ({"a": 1}, []),
    "not mappings": (["a", "b"], []),
    "null": (None, []),
}


@pytest.mark.parametrize("case", CHANNELS)
def test_channels(tmp_path, case):
    listed, expected = CHANNELS[case]
    path = write_image(tmp_path / "a.zarr", numbered(2, 5, 6), "cyx", omero={"channels": listed})
    found = open_store(path).images[0].level.channels
    assert found == tuple(Channel(*pair) for pair in expected)


@pytest.mark.parametrize("omero", [None, 5, [], "x", {}], ids=str)
def test_bad_omero_is_ignored(tmp_path, omero):
    path = write_image(tmp_path / "a.zarr", numbered(2, 5, 6), "cyx", omero=omero)
    assert open_store(path).images[0].level.channels == ()


# ------------------------------------------------------------------------------------------- labels of others


@pytest.mark.parametrize(
    ("names", "asked", "expected"),
    [
        ([], None, None),
        (["cells"], None, "cells"),
        (["cells", "truth"], None, "truth"),
        (["cells", "nuclei"], None, None),
        (["cells", "nuclei"], "nuclei", "nuclei"),
        (["cells", "truth"], "cells", "cells"),
    ],
)
def test_which_label_image_is_taken(tmp_path, names, asked, expected):
    path = write_image(tmp_path / "a.zarr", numbered(10, 12))
    arrays = {name: numbered(10, 12) + k for k, name in enumerate(names)}
    write_labels(path, arrays)
    (found,) = open_inputs([path], label_name=asked)
    assert found.label_names == tuple(names)
    if expected is None:
        assert found.labels is None
    else:
        np.testing.assert_array_equal(whole(found.labels)[0, 0, 0], arrays[expected])


def test_labels_that_are_asked_for_but_not_there(tmp_path):
    write_labels(write_image(tmp_path / "a.zarr", numbered(10, 12)), {"cells": numbered(10, 12)})
    with pytest.raises(InputError, match=r"has no labels 'x' \(found: cells\)"):
        open_inputs([tmp_path / "a.zarr"], label_name="x")


def test_labels_of_the_same_odd_order_follow_the_axes_that_are_given(tmp_path):
    image, ids = numbered(12, 10, 2), numbered(12, 10)
    path = write_image(tmp_path / "a.zarr", image, "xyc")
    write_image(path / "labels" / "cells", ids, "xy", **{"image-label": {}})
    set_ome(path / "labels", {"labels": ["cells"]})
    (found,) = open_inputs([path], axes="xyc")
    np.testing.assert_array_equal(whole(found.source)[0, :, 0], image.transpose(2, 1, 0))
    np.testing.assert_array_equal(whole(found.labels)[0, 0, 0], ids.T)


def test_labels_are_read_at_the_level_of_the_image(tmp_path):
    path = write_image(tmp_path / "a.zarr", numbered(20, 12), n_levels=2)
    ids = numbered(20, 12)
    write_image(path / "labels" / "cells", ids, n_levels=2, **{"image-label": {}})
    set_ome(path / "labels", {"labels": ["cells"]})
    (found,) = open_inputs([path], level=1)
    np.testing.assert_array_equal(whole(found.labels)[0, 0, 0], ids[::2, ::2])
    assert found.labels.shape == found.source.shape


def test_a_store_of_which_nothing_is_stored_has_a_note(tmp_path):
    path = write_image(tmp_path / "a.zarr", np.zeros((10, 12), "u1"))
    for part in (path / "0").rglob("c"):
        assert not list(part.rglob("*"))
    write_labels(path, {"cells": np.zeros((10, 12), "u1")})
    (found,) = open_inputs([path])
    assert [note.partition(": ")[2] for note in found.source.notes] == [
        "no chunk is stored: all pixels are the fill value", "no chunk is stored: these labels are left out",
    ]  # fmt: skip
    assert found.labels is None
    assert not whole(found.source).any()
