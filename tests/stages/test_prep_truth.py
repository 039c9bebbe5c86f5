"""Prep takes the truth as people have it: each form ends in the same classes or ids as the plain one."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.conftest import Stopped, assert_same_files, cells, files_of, pixels, stop_after
from unetcli.config import PrepConfig, WeightsConfig
from unetcli.errors import ConfigError, InputError
from unetcli.image.dataset import open_dataset
from unetcli.image.label_sources import COLOUR
from unetcli.image.store import Level, open_store
from unetcli.image.tiling import Box
from unetcli.stages import info, prep, weights

DATA = Path(__file__).parents[2].parent / "shared" / "data"
real = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")

IMAGE, IDS = cells((60, 70), 0)
THREE = (IDS % 3).astype(np.uint8)
PALETTE = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def smooth(mask):
    """Enlarge a mask with interpolation, as many programs do; also return what it shows."""
    twice = Image.fromarray(mask).resize([2 * n for n in mask.shape[::-1]], Image.Resampling.BICUBIC)
    return np.asarray(twice)


def prepare(tmp_path, *labels, image=IMAGE, out="o.zarr", **config):
    """Prepare one picture for each label image; return the result, and the data set."""
    for folder in ("images", "labels"):
        shutil.rmtree(tmp_path / folder, ignore_errors=True)
    for i, array in enumerate(labels):
        save(tmp_path / "images" / f"i{i}.png", image)
        save(tmp_path / "labels" / f"l{i}.png", array)
    paths = [tmp_path / "images"], tmp_path / out
    result = prep.run(*paths, PrepConfig(**config), labels=[tmp_path / "labels"], overwrite=True)
    return result, open_dataset(tmp_path / out)


def truth(dataset, name=None):
    return pixels(dataset.store.path, name, "truth")[0, 0, 0]


def said(result):
    return " | ".join(result["notes"])


# ------------------------------------------------------------------------------------------- colours


@pytest.mark.parametrize("alpha", [False, True], ids=["RGB", "RGBA"])
def test_colours_are_classes_in_order_black_first(tmp_path, alpha):
    colours = PALETTE[THREE]
    if alpha:
        colours = np.dstack([colours, np.random.default_rng(0).integers(0, 256, THREE.shape, np.uint8)])
    result, dataset = prepare(tmp_path, colours)
    assert (dataset.label_kind, dataset.classes) == ("classes", ("#000000", "#0000ff", "#ff0000"))
    assert dataset.store.attributes["data"]["class_values"] == [0, COLOUR + 0x0000FF, COLOUR + 0xFF0000]
    np.testing.assert_array_equal(truth(dataset), np.array([0, 2, 1])[THREE])
    assert "0, #0000ff, #ff0000: taken as classes" in said(result)


@pytest.mark.parametrize(
    "classes",
    ["#000000=back,#ff0000=cell,#0000FF=dust", "0=back, #FF0000=cell, #0000ff=dust"],
    ids=["colours", "a number for a grey"],
)
def test_colours_are_named(tmp_path, classes):
    _, dataset = prepare(tmp_path, PALETTE[THREE], classes=classes)
    assert dataset.classes == ("back", "cell", "dust")
    np.testing.assert_array_equal(truth(dataset), THREE)


@pytest.mark.parametrize("values", [[0, 255], [0, 7, 9]], ids=["mask", "ids"])
def test_a_grey_image_saved_in_colour_is_the_same(tmp_path, values):
    grey = np.array(values, np.uint8)[IDS % len(values)]
    _, plain = prepare(tmp_path, grey, out="grey.zarr")
    _, coloured = prepare(tmp_path, np.dstack([grey] * 3), out="colour.zarr")
    np.testing.assert_array_equal(truth(plain), truth(coloured))
    assert (plain.classes, plain.class_pixels) == (coloured.classes, coloured.class_pixels)


def test_the_indices_of_a_palette_are_the_labels(tmp_path):
    indexed = Image.new("P", THREE.shape[::-1])
    indexed.putdata(THREE.ravel().tolist())
    indexed.putpalette(PALETTE.ravel().tolist())
    save(tmp_path / "i.png", IMAGE)
    indexed.save(tmp_path / "l.png")
    prep.run([tmp_path / "i.png"], tmp_path / "o", PrepConfig(label_kind="classes"), labels=[tmp_path / "l.png"])
    np.testing.assert_array_equal(truth(open_dataset(tmp_path / "o")), THREE)


def test_each_colour_may_be_an_object(tmp_path):
    colours = np.random.default_rng(0).integers(1, 256, (IDS.max() + 1, 3), np.uint8)
    colours[0] = 0
    _, dataset = prepare(tmp_path, colours[IDS], label_kind="instances")
    found = truth(dataset)
    assert dataset.label_kind == "instances"
    for i in range(IDS.max() + 1):
        assert len(np.unique(found[i == IDS])) == 1
    assert len(np.unique(found)) == len(np.unique(IDS))


@pytest.mark.parametrize("size", [(60, 70), (120, 140)], ids=["noise", "smooth edges"])
def test_too_many_colours(tmp_path, size):
    if size == IMAGE.shape:
        colours, image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8), IMAGE
    else:
        channels = [smooth(np.ascontiguousarray(PALETTE[THREE][..., k])) for k in range(3)]
        colours, image = np.dstack(channels), smooth(IMAGE)
    with pytest.raises(InputError, match=r"l0\.png: labels hold \d+ colours; expected one for each class") as error:
        prepare(tmp_path, colours, image=image)
    assert "antialiasing" in error.value.fix


@pytest.mark.parametrize("classes", ["#ff00=a,0=b", "red=a,0=b", "#ff0000=a", "#gg0000=a,0=b", "#000000=a,0=b"])
def test_classes_that_can_not_be_understood(tmp_path, classes):
    with pytest.raises(ConfigError, match="expected VALUE=NAME"):
        prepare(tmp_path, PALETTE[THREE], classes=classes)


def test_a_colour_without_a_name_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"l0\.png: .*#0000ff; expected those of --classes: 0, #ff0000"):
        prepare(tmp_path, PALETTE[THREE], classes="0=back,#ff0000=cell")


# ------------------------------------------------------------------------------------------- a file for each object


def bowl(folder, seeds=(1, 2)):
    """Write pictures as the Data Science Bowl does; return the ids of each."""
    expected = {}
    for seed in seeds:
        image, ids = cells((40, 50), seed)
        save(folder / f"id{seed}" / "images" / f"id{seed}.png", image)
        for k in range(1, ids.max() + 1):
            save(folder / f"id{seed}" / "masks" / f"{k:03d}.png", np.where(ids == k, 255, 0).astype(np.uint8))
        expected[f"id{seed}"] = ids
    return expected


@pytest.mark.parametrize("form", ["the data set", "folders of masks", "its folder as labels"])
def test_a_file_for_each_object(tmp_path, form):
    expected = bowl(tmp_path / "train")
    images, labels = [tmp_path / "train"], []
    if form != "the data set":
        labels = [tmp_path / "train"]
    if form == "folders of masks":
        for name in expected:
            (tmp_path / "m").mkdir(exist_ok=True)
            (tmp_path / "train" / name / "masks").rename(tmp_path / "m" / name)
        labels = [tmp_path / "m"]
    result = prep.run(images, tmp_path / "o", PrepConfig(), labels=labels)
    dataset = open_dataset(tmp_path / "o")
    assert (dataset.label_kind, [i.name for i in dataset.images]) == ("instances", list(expected))
    for name, ids in expected.items():
        np.testing.assert_array_equal(truth(dataset, name), ids)
    assert "labels have a file for each object" in said(result)
    assert "overlap" not in said(result)


def test_objects_of_one_image(tmp_path):
    expected = bowl(tmp_path, seeds=(1,))["id1"]
    prep.run([tmp_path / "id1" / "images"], tmp_path / "o", PrepConfig(), labels=[tmp_path / "id1" / "masks"])
    np.testing.assert_array_equal(truth(open_dataset(tmp_path / "o")), expected)


def test_a_single_object_is_an_object_too(tmp_path):
    bowl(tmp_path / "train", seeds=(1,))
    for path in sorted((tmp_path / "train" / "id1" / "masks").iterdir())[1:]:
        path.unlink()
    prep.run([tmp_path / "train"], tmp_path / "o", PrepConfig())
    assert open_dataset(tmp_path / "o").label_kind == "instances"


def test_overlapping_objects_are_counted(tmp_path):
    bowl(tmp_path / "train", seeds=(1,))
    mask = np.zeros((40, 50), np.uint8)
    mask[:, :10] = 255
    save(tmp_path / "train" / "id1" / "masks" / "000.png", mask)
    result = prep.run([tmp_path / "train"], tmp_path / "o", PrepConfig())
    n = np.count_nonzero(cells((40, 50), 1)[1][:, :10])
    assert f"objects overlap in {n} pixels: they stay with the first one" in said(result)
    assert (truth(open_dataset(tmp_path / "o"))[:, :10] == 1).all()


def test_an_object_that_changed_is_noticed(tmp_path):
    bowl(tmp_path / "train")
    prep.run([tmp_path / "train"], tmp_path / "o", PrepConfig())
    assert prep.run([tmp_path / "train"], tmp_path / "o", PrepConfig())["already_done"]
    save(tmp_path / "train" / "id2" / "masks" / "001.png", np.full((40, 50), 255, np.uint8))
    with pytest.raises(ConfigError, match="inputs labels 1 was"):
        prep.run([tmp_path / "train"], tmp_path / "o", PrepConfig())


def test_an_image_without_objects_is_named(tmp_path):
    bowl(tmp_path / "train")
    shutil.rmtree(tmp_path / "train" / "id1" / "masks")
    with pytest.raises(InputError, match="1 images have no labels, but others do: id1") as error:
        prep.run([tmp_path / "train"], tmp_path / "o", PrepConfig())
    assert error.value.fix


@real
def test_the_data_science_bowl(tmp_path):
    prep.run([DATA / "dsb2018_nuclei" / "per_object"], tmp_path / "o", PrepConfig())
    dataset = open_dataset(tmp_path / "o")
    for image in dataset.images:
        labels = tifffile.imread(DATA / "dsb2018_nuclei" / "labels" / f"{image.name[:12]}.tif")
        np.testing.assert_array_equal(truth(dataset, image.name), labels)
        np.testing.assert_array_equal(
            pixels(tmp_path / "o", image.name)[0, :, 0].transpose(1, 2, 0),
            np.asarray(Image.open(DATA / "dsb2018_nuclei" / "images" / f"{image.name[:12]}.png"))[..., :3],
        )


# ------------------------------------------------------------------------------------------- sequences


CHALLENGE = DATA / "ctc_phc_c2dh_u373"
BY_HAND = [10, 17, 19, 20, 22, 26, 35, 36, 41, 49, 51, 52, 59]


@real
@pytest.mark.parametrize(
    ("images", "labels", "frames"),
    [
        ("", None, BY_HAND),
        ("02", "02_GT/SEG", BY_HAND),
        ("02", "02_GT", BY_HAND),
        ("", "02_ST/SEG", [*range(7), *BY_HAND]),
    ],
    ids=["data set", "SEG", "GT", "silver truth"],
)
def test_the_cell_tracking_challenge(tmp_path, images, labels, frames):
    given = [CHALLENGE / labels] if labels else []
    result = prep.run([CHALLENGE / images], tmp_path / "o", PrepConfig(), labels=given)
    dataset = open_dataset(tmp_path / "o")
    assert [i.name for i in dataset.images] == [f"t{n:03d}" for n in frames]
    assert ("without" in said(result)) == (len(frames) < 20)
    assert all(f"t00{i}" in said(result) for i in range(7) if len(frames) < 20)
    folder = CHALLENGE / ("02_ST" if labels == "02_ST/SEG" else "02_GT") / "SEG"
    for n in frames:
        np.testing.assert_array_equal(truth(dataset, f"t{n:03d}"), tifffile.imread(folder / f"man_seg{n:03d}.tif"))
        np.testing.assert_array_equal(
            pixels(tmp_path / "o", f"t{n:03d}")[0, 0, 0], tifffile.imread(CHALLENGE / "02" / f"t{n:03d}.tif")
        )


def sequence(folder, number, *, frames, truths, shape=(30, 40)):
    for n in frames:
        path = folder / number / f"t{n:03d}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, cells(shape, n)[0], photometric="minisblack")
    for n in truths:
        path = folder / f"{number}_GT" / "SEG" / f"man_seg{n:03d}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, cells(shape, n)[1], photometric="minisblack")


def test_several_sequences(tmp_path):
    sequence(tmp_path / "d", "01", frames=[0, 1, 2], truths=[1])
    sequence(tmp_path / "d", "02", frames=[0, 1], truths=[0, 1])
    whole, parts = tmp_path / "whole.zarr", tmp_path / "parts.zarr"
    prep.run([tmp_path / "d"], whole, PrepConfig())
    images, labels = ([tmp_path / "d" / f"{n}{end}" for n in ("01", "02")] for end in ("", "_GT"))
    prep.run(images, parts, PrepConfig(), labels=labels)
    assert [i.name for i in open_store(whole).images] == ["01_t001", "02_t000", "02_t001"]
    assert_same_files(whole, parts)
    np.testing.assert_array_equal(truth(open_dataset(whole), "02_t000"), cells((30, 40), 0)[1])


def test_frames_of_three_dimensions_are_volumes(tmp_path):
    sequence(tmp_path / "d", "01", frames=[0, 1], truths=[0, 1], shape=(5, 30, 40))
    result = prep.run([tmp_path / "d"], tmp_path / "o", PrepConfig())
    dataset = open_dataset(tmp_path / "o")
    assert (dataset.ndim, dataset.images[0].axes.names) == (3, "zyx")
    assert "volumes with objects in 3D" in said(result)
    np.testing.assert_array_equal(pixels(tmp_path / "o", "t001", "truth")[0, 0], cells((5, 30, 40), 1)[1])


def test_truth_without_its_frame_is_refused(tmp_path):
    sequence(tmp_path / "d", "01", frames=[0, 1], truths=[0, 7])
    for labels in ([], [tmp_path / "d" / "01_GT"]):
        images = [tmp_path / "d" / "01"] if labels else [tmp_path / "d"]
        with pytest.raises(InputError, match="man_seg007") as error:
            prep.run(images, tmp_path / "o", PrepConfig(), labels=labels)
        assert error.value.fix


def test_images_without_labels_are_still_refused(folders, tmp_path):
    labels = tmp_path / "labels"
    shutil.copytree(folders / "ids", labels)
    (labels / "ids_01.tif").unlink()
    with pytest.raises(InputError, match=r"1 images \(img_01\)") as error:
        prep.run([folders / "images"], tmp_path / "o", PrepConfig(), labels=[labels])
    assert "leave out the images" in error.value.fix


# ------------------------------------------------------------------------------------------- boundaries


LINES = np.where(IDS > 0, 255, 0).astype(np.uint8)  # more of 255 than of 0


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_boundaries_of_either_polarity_are_class_0(tmp_path, inverted, named):
    few = 255 if (LINES == 255).mean() < 0.5 else 0
    labels = 255 - LINES if inverted else LINES
    few = 255 - few if inverted else few
    config = {"boundary_value": 255 - few} if named else {}
    result, dataset = prepare(tmp_path, labels, label_kind="boundaries", **config)
    assert (dataset.label_kind, dataset.classes) == ("classes", ("boundary", "cell"))
    np.testing.assert_array_equal(truth(dataset), (labels == few) == named)
    assert (f"boundaries are {few} (" in said(result)) == (not named)


def test_smooth_boundaries_are_cut(tmp_path):
    config = {"label_kind": "boundaries", "image": smooth(IMAGE)}
    with pytest.raises(InputError, match="made of 0, 255") as error:
        prepare(tmp_path, smooth(LINES), **config)
    assert "--label-threshold 128" in error.value.fix
    _, dataset = prepare(tmp_path, smooth(LINES), label_threshold=128, boundary_value=255, **config)
    np.testing.assert_array_equal(truth(dataset), smooth(LINES) < 128)


@pytest.mark.parametrize(
    ("labels", "config", "error", "message"),
    [
        (THREE, {}, InputError, "hold 3 values; expected two, boundaries and cells"),
        (LINES, {"boundary_value": 1}, ConfigError, "--boundary-value 1: labels hold the values 0, 255"),
    ],
)
def test_boundaries_that_make_no_sense(tmp_path, labels, config, error, message):
    with pytest.raises(error, match=message) as caught:
        prepare(tmp_path, labels, label_kind="boundaries", **config)
    assert caught.value.fix


@real
def test_weight_maps_of_membranes_do_not_depend_on_their_polarity(tmp_path):
    image, membranes = (
        np.asarray(Image.open(DATA / "isbi2012" / f"train_{what}_00.png"))[:200, :220] for what in ("image", "label")
    )
    made = []
    for name, labels in (("a", membranes), ("b", 255 - membranes)):
        prepare(tmp_path, labels, image=image, out=f"{name}.zarr", label_kind="boundaries")
        weights.run(tmp_path / f"{name}.zarr", tmp_path / f"{name}w.zarr", WeightsConfig())
        maps = [pixels(tmp_path / f"{name}w.zarr"), pixels(tmp_path / f"{name}w.zarr", label="target")]
        made.append([pixels(tmp_path / f"{name}.zarr", label="truth"), *maps])
    for first, second in zip(*made, strict=True):
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(made[0][0][0, 0, 0], membranes == 255)
    assert len(np.unique(made[0][1])) > 100


# ------------------------------------------------------------------------------------------- values in between


@pytest.mark.parametrize("config", [{}, {"label_kind": "classes"}, {"classes": "0=back,255=cell"}])
def test_smooth_masks_are_refused_with_a_threshold(tmp_path, config):
    with pytest.raises(InputError) as error:
        prepare(tmp_path, smooth(LINES), image=smooth(IMAGE), **config)
    assert "--label-threshold 128" in error.value.fix


@pytest.mark.parametrize("threshold", [1, 128, 255])
def test_a_threshold_cuts_them(tmp_path, threshold):
    _, dataset = prepare(tmp_path, smooth(LINES), image=smooth(IMAGE), label_threshold=threshold)
    assert dataset.classes == ("background", "foreground")
    np.testing.assert_array_equal(truth(dataset), smooth(LINES) >= threshold)


def test_a_threshold_cuts_colours_by_their_brightest_channel(tmp_path):
    red = np.dstack([smooth(LINES), *[np.zeros_like(smooth(LINES))] * 2])
    _, dataset = prepare(tmp_path, red, image=smooth(IMAGE), label_threshold=128)
    np.testing.assert_array_equal(truth(dataset), smooth(LINES) >= 128)


def test_three_smooth_classes_are_to_be_exported_again(tmp_path):
    large = np.hypot(*np.indices(IMAGE.shape)).astype(np.uint8) // 31
    with pytest.raises(InputError) as error:
        prepare(tmp_path, smooth(np.array([0, 127, 255], np.uint8)[large]), image=smooth(IMAGE))
    assert "nearest-neighbour" in error.value.fix


def test_ids_that_are_named_as_such_are_never_refused(tmp_path):
    _, dataset = prepare(tmp_path, smooth(LINES), image=smooth(IMAGE), label_kind="instances")
    np.testing.assert_array_equal(truth(dataset), smooth(LINES))


@pytest.mark.parametrize("config", [{}, {"label_threshold": 128}])
def test_masks_of_one_and_of_eight_bits_go_together(tmp_path, config):
    _, dataset = prepare(tmp_path, LINES, LINES > 0, **config)
    assert (dataset.label_kind, len(dataset.classes)) == ("classes", 2)
    for name in ("i0", "i1"):
        np.testing.assert_array_equal(truth(dataset, name), LINES > 0)


@real
@pytest.mark.parametrize("what", ["mitochondria", "synapses", "membranes", "labels"])
def test_the_ventral_nerve_cord(tmp_path, what):
    folder = tmp_path / "labels"
    folder.mkdir()
    for path in (DATA / "vnc_sstem").glob(f"{what}_*.png"):
        shutil.copy(path, folder)
    images = sorted((DATA / "vnc_sstem").glob("raw_*.tif"))
    smooth_edges = what in ("mitochondria", "synapses")
    if smooth_edges:
        with pytest.raises(InputError, match=f"{what}_00.png: labels are made of 0, 255"):
            prep.run(images, tmp_path / "o", PrepConfig(), labels=[folder])
    config = PrepConfig(label_threshold=128) if smooth_edges else PrepConfig(label_kind="classes")
    prep.run(images, tmp_path / "o", config, labels=[folder])
    dataset = open_dataset(tmp_path / "o")
    for image, path in zip(dataset.images, sorted(folder.iterdir()), strict=True):
        drawn = np.asarray(Image.open(path))
        codes = [0, 32, 64, 96, 128, 159, 191, 223, 255]
        expected = np.searchsorted(codes, drawn) if what == "labels" else drawn if drawn.dtype == bool else drawn > 127
        np.testing.assert_array_equal(truth(dataset, image.name), expected)


# ------------------------------------------------------------------------------------------- images and labels swapped


def test_swapped_images_and_labels_are_noticed(tmp_path):
    result, _ = prepare(tmp_path, IMAGE, image=LINES)
    assert "i0.png: the image holds only two values; are images and labels swapped?" in said(result)
    assert "l0.png: labels change from pixel to pixel" in said(result)
    for labels in (IDS.astype(np.uint8), LINES, PALETTE[THREE]):
        assert "swapped" not in said(prepare(tmp_path, labels)[0])


# ------------------------------------------------------------------------------------------- pixels of each class


@pytest.mark.parametrize(
    ("config", "names", "expected"),
    [
        (
            {"label_kind": "classes"},
            ("class_0", "class_1", "class_2"),
            [np.count_nonzero(k == THREE) for k in range(3)],
        ),
        ({}, ("background", "object"), [(THREE == 0).sum(), (THREE > 0).sum()]),
        ({"classes": "2=a,0=b,1=a"}, ("a", "b"), [(THREE > 0).sum(), (THREE == 0).sum()]),
        ({"classes": "0=a,7=none,1=c,2=c"}, ("a", "none", "c"), [(THREE == 0).sum(), 0, (THREE > 0).sum()]),
    ],
    ids=["classes", "objects", "joined", "a class that is missing"],
)
def test_pixels_of_each_class_are_counted(tmp_path, small_tiles, monkeypatch, config, names, expected):
    monkeypatch.setattr("unetcli.image.truth.SAMPLE_TILE", (1, 1, 1, 16, 16))
    result, dataset = prepare(tmp_path, THREE, THREE, **config)
    assert dataset.classes == names
    assert dataset.class_pixels == tuple(2 * n for n in expected)
    share = f"{names[0]} {100 * expected[0] / THREE.size:.3g} %"
    assert share in result["shares"]
    assert share in info.run(tmp_path / "o.zarr")["shares"]


def test_a_resumed_run_counts_the_same(tmp_path, small_tiles):
    prepare(tmp_path, THREE, THREE, out="whole.zarr")
    arguments = [tmp_path / "images"], tmp_path / "o.zarr", PrepConfig()
    with pytest.raises(Stopped):
        prep.run(*arguments, labels=[tmp_path / "labels"], progress=stop_after(8))
    prep.run(*arguments, labels=[tmp_path / "labels"])
    assert_same_files(tmp_path / "o.zarr", tmp_path / "whole.zarr")


def test_data_sets_without_counts_can_be_opened(tmp_path):
    prepare(tmp_path, THREE)
    file = tmp_path / "o.zarr" / "zarr.json"
    content = json.loads(file.read_text())
    del content["attributes"]["unetcli"]["data"]["class_pixels"]
    file.write_text(json.dumps(content))
    assert open_dataset(tmp_path / "o.zarr").class_pixels is None
    assert "shares" not in info.run(tmp_path / "o.zarr")


# ------------------------------------------------------------------------------------------- pyramid


def test_pyramid_of_classes_by_mode(tmp_path, small_tiles, monkeypatch):
    monkeypatch.setattr("unetcli.image.pyramid.SMALLEST", 16)
    prepare(tmp_path, THREE, label_kind="classes", label_pyramid="mode")
    expected = THREE
    for k in range(1, 4):
        y, x = (n // 2 * 2 for n in expected.shape)
        fours = np.stack([expected[i:y:2, j:x:2] for i in (0, 1) for j in (0, 1)], axis=-1)
        counts = (fours[..., None] == fours[..., None, :]).sum(axis=-1)
        expected = np.take_along_axis(fours, counts.argmax(axis=-1)[..., None], axis=-1)[..., 0]
        level = Level(tmp_path / "o.zarr" / "labels" / "truth" / str(k), open_store(tmp_path / "o.zarr").images[0].axes)
        np.testing.assert_array_equal(level.read(Box.whole(level.shape))[0, 0, 0], expected)


def test_a_pyramid_of_ids_by_mode_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="ids of objects"):
        prepare(tmp_path, IDS.astype(np.uint8), label_pyramid="mode")
    assert not (tmp_path / "o.zarr").exists()


def test_the_sources_are_never_touched(tmp_path):
    bowl(tmp_path / "train")
    before = files_of(tmp_path / "train")
    prep.run([tmp_path / "train"], tmp_path / "o", PrepConfig())
    assert files_of(tmp_path / "train") == before


def test_commands(tmp_path, cli):
    save(tmp_path / "i.png", IMAGE)
    save(tmp_path / "l.png", PALETTE[THREE])
    arguments = ["prep", tmp_path / "i.png", "--labels", tmp_path / "l.png", "-o", tmp_path / "o.zarr"]
    assert cli(*arguments, "--classes", "#000000=back,#ff0000=cell") == 3
    assert "#0000ff" in cli.err
    assert cli(*arguments, "--classes", "#000000=back,#ff0000=cell,#0000ff=dust", "--label-pyramid", "mode") == 0
    assert "back" in cli.out
    assert cli(*arguments, "--boundary-value", "0") == 4


# ------------------------------------------------------------------------------------------- masks saved differently


def save_masks(folder, *masks, palettes=None):
    """Write images and masks in pairs."""
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for k, mask in enumerate(masks):
        np.save(folder / "images" / f"{k}.npy", np.random.default_rng(k).integers(0, 99, mask.shape).astype("uint8"))
        picture = Image.fromarray(mask.astype("uint8"))
        if palettes:
            picture.putpalette(palettes[k])
        picture.save(folder / "labels" / f"{k}.png")


@pytest.mark.parametrize(("kind", "is_refused"), [(None, True), ("classes", True), ("instances", False)])
def test_palettes_in_another_order_are_refused_for_classes(tmp_path, kind, is_refused):
    mask = np.zeros((20, 30), bool)
    mask[5:9, 5:20] = True
    save_masks(tmp_path, mask, ~mask, palettes=[[0, 0, 0, 255, 0, 0], [255, 0, 0, 0, 0, 0]])
    arguments = [tmp_path / "images"], tmp_path / "o.zarr", PrepConfig(label_kind=kind)
    if not is_refused:
        prep.run(*arguments, labels=[tmp_path / "labels"])
        return
    with pytest.raises(InputError, match=r"1\.png: its palette has other colours than that of 0\.png"):
        prep.run(*arguments, labels=[tmp_path / "labels"])


def test_masks_of_one_and_of_255_are_not_ids(tmp_path):
    mask = np.zeros((20, 30), "uint8")
    mask[5:9, 5:20] = 1
    save_masks(tmp_path, mask, mask * 255)
    arguments = [tmp_path / "images"], tmp_path / "o.zarr"
    with pytest.raises(InputError, match="some masks hold 0 and 1, others 0 and 255") as error:
        prep.run(*arguments, PrepConfig(), labels=[tmp_path / "labels"])
    prep.run(*arguments, PrepConfig(classes=error.value.fix.split()[1]), labels=[tmp_path / "labels"])
    assert open_dataset(tmp_path / "o.zarr").class_pixels == (2 * 540, 2 * 60)


@pytest.mark.parametrize("kind", [None, "classes"])
def test_many_colours_are_classes_only_if_that_is_said(tmp_path, kind):
    codes = np.arange(20).repeat(30).reshape(20, 30)
    (tmp_path / "l").mkdir()
    Image.fromarray(np.stack([codes * 7, codes * 3, 255 - codes], -1).astype("uint8")).save(tmp_path / "l" / "a.png")
    np.save(tmp_path / "a.npy", codes.astype("uint16"))
    arguments = [tmp_path / "a.npy"], tmp_path / "o.zarr", PrepConfig(label_kind=kind)
    if kind:
        prep.run(*arguments, labels=[tmp_path / "l"])
        assert len(open_dataset(tmp_path / "o.zarr").classes) == 20
        return
    with pytest.raises(InputError, match="20 colours") as error:
        prep.run(*arguments, labels=[tmp_path / "l"])
    assert "--label-kind classes" in error.value.fix
