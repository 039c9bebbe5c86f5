"""What the values of label images mean: classes with names, or ids of objects."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.errors import ConfigError, InputError
from unetcli.image.inspect import interpolated
from unetcli.image.label_sources import COLOUR, ObjectFiles, ShownLabels
from unetcli.image.source import Source
from unetcli.image.streaming import reduce_tiles, work_on
from unetcli.image.tiling import Box, Tile, TileGrid, spans

Block = NDArray[Any]
BAND = 64
"""Rows whose classes are looked up at once: positions take eight bytes a pixel."""
COUNTED = 2**20
"""Values up to this are counted in a table."""
MERGED = 2**22
"""Entries of the tables of tiles that wait to be added up, at least."""
SAMPLE_TILE = (1, 16, 1, 2048, 2048)
"""Tiles in which label values are counted: files have no shards."""
MANY = 255
"""Classes are kept in 8 bits."""
FEW = 16
"""More colours than this may come from smoothed edges."""


@dataclass(frozen=True)
class LabelMap:
    """What label values become.

    Parameters
    ----------
    kind
        ``classes`` or ``instances``.
    values
        Of classes: the label values; colours as `label_sources.COLOUR` says.
    names
        Name of each class; of instances, background and object.
    indices
        Of classes: the class of each label value.
    pixels
        Number of pixels of each name, in all labels together.
    """

    kind: str
    values: tuple[int, ...]
    names: tuple[str, ...]
    indices: tuple[int, ...]
    pixels: tuple[int, ...] = ()

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type in which labels are stored: uint32 for ids, uint8 for classes."""
        return np.dtype(np.uint32 if self.kind == "instances" else np.uint8)

    def __call__(self, _: Tile | None, block: Block) -> Block:
        """Turn label values to class indices (uint8), or keep ids (uint32)."""
        if self.kind == "instances":
            return block.astype(self.dtype)
        mapped: Block = np.empty(block.shape, self.dtype)
        for first, last in spans(0, block.shape[3], BAND):
            mapped[..., first:last, :] = self._classes_of(block[..., first:last, :])
        return mapped

    def _classes_of(self, block: Block) -> Block:
        values = np.asarray(self.values)
        order = np.argsort(values)
        at = np.searchsorted(values, block, sorter=order).clip(max=len(values) - 1)
        classes: Block = np.array(self.indices, dtype=self.dtype)[order[at]]
        return classes

    def counted(self, counts: Mapping[int, int]) -> LabelMap:
        """Return the same with the number of pixels of each class, from that of each value."""
        pixels = [0] * len(self.names)
        classes = dict(zip(self.values, self.indices, strict=True))
        for value, n in counts.items():
            pixels[classes[value] if self.kind == "classes" else int(value != 0)] += n
        return replace(self, pixels=tuple(pixels))


def make_label_map(
    truths: Sequence[Source],
    notes: list[str],
    *,
    kind: str | None = None,
    classes: str | None = None,
    boundary: int | None = None,
) -> LabelMap | None:
    """Find out what the values of label images mean; all of them are read once.

    Parameters
    ----------
    truths
        All label images of a collection.
    notes
        Assumptions are added here, in plain words.
    kind
        ``classes``, ``instances`` or ``boundaries``; by default two values, and colours, are classes, more values
        are instances. Boundaries become class 0 of two classes.
    classes
        ``VALUE=NAME`` of each class, as `--classes` takes them.
    boundary
        Of boundaries: their value; by default the one of fewer pixels.

    Returns
    -------
    LabelMap or None
        None without labels.

    Raises
    ------
    InputError, ConfigError
        If values and settings do not fit.
    """
    if not truths:
        if classes or kind == "boundaries":
            raise ConfigError(
                f"{'--classes' if classes else '--label-kind boundaries'}: there are no labels", fix="--labels LABELS"
            )
        return None
    if kind is None and any(_object_files(truths)):
        kind = "instances"
    named = _parse_classes(classes) if classes else {}
    if kind != "instances":
        _check_one_palette(truths)
    counts = count_values(truths)
    if len(counts) < 2:
        raise InputError(
            f"{truths[0].name}: labels hold only the value {value_text(min(counts))}; "
            "expected background and something else",
            fix="check that these are the labels, and not empty ones",
        )
    if named:
        _check_named(truths, counts, named)
        names = tuple(dict.fromkeys(named.values()))  # values of one name are one class
        found = LabelMap("classes", tuple(named), names, tuple(names.index(name) for name in named.values()))
        return found.counted(counts)
    if kind != "instances":
        check_not_interpolated(truths, counts, most_colours=MANY if kind == "classes" else FEW)
    if kind == "boundaries":
        return _boundary_map(truths, notes, counts, boundary).counted(counts)
    values = sorted(counts)
    if kind is None:
        _check_one_white(truths, values)
        kind = "instances" if len(values) > 2 and not _has_colours(truths, values) else "classes"
        shown = f"{len(values)} values" if len(values) > 8 else f"the values {', '.join(map(value_text, values))}"
        notes.append(f"labels hold {shown}: taken as {kind} (--label-kind says otherwise)")
    return (_instances(truths, values) if kind == "instances" else _classes(truths, values)).counted(counts)


def show_truth(
    truths: Sequence[Source],
    notes: list[str],
    *,
    is_cut: bool,
    kind: str | None,
    classes: str | None,
    boundary: int | None,
    ignored: int | None = None,
) -> tuple[list[Source], LabelMap | None]:
    """Show truth to be compared with: ids, or the class of each pixel.

    Parameters
    ----------
    truths, notes, kind, classes, boundary
        As in `make_label_map`. Where nothing is said, and there are no colours, values stay as they are.
    is_cut
        Whether a threshold left two values.
    ignored
        A value that stands for pixels that do not count: shown as the background, and no class.

    Returns
    -------
    list of Source
        The truth as it is to be compared with.
    LabelMap or None
        What its values were taken for; None where they stayed as they are.

    Raises
    ------
    InputError
        If values between others show that the truth was resized or smoothed.
    """
    notes += overlap_notes(truths)
    if ignored is not None:
        background = _background(truths, ignored, kind, classes)
        truths = [ShownLabels(truth, truth.dtype, partial(_replaced, ignored, background)) for truth in truths]
    if kind is None and classes is None and not any(map(_is_coloured, truths)):
        _check_one_palette(truths)
        if not is_cut:
            check_not_interpolated(truths, count_values(truths))
        return list(truths), None
    if kind == "instances" and classes is None:  # of any size, and there may be none
        return list(truths), LabelMap("instances", (), ("background", "object"), ())
    label_map = make_label_map(truths, notes, kind=kind, classes=classes, boundary=boundary)
    if label_map is None or label_map.kind == "instances":
        return list(truths), label_map
    return [ShownLabels(truth, label_map.dtype, partial(label_map, None)) for truth in truths], label_map


def _background(truths: Sequence[Source], ignored: int, kind: str | None, classes: str | None) -> int:
    """Return the value of the first class: 0 of ids and masks, else the lowest but for the one to ignore."""
    if classes is not None:
        return next(iter(_parse_classes(classes)))
    if kind == "instances" or (kind is None and not any(map(_is_coloured, truths))):
        return 0
    return min((value for value in count_values(truths) if value != ignored), default=0)


def _replaced(value: int, by: int, block: Block) -> Block:
    replaced: Block = np.where(block == value, block.dtype.type(by), block)
    return replaced


def count_values(truths: Sequence[Source]) -> Counter[int]:
    """Count the pixels of each value in labels, tile by tile."""
    works = [w for truth in truths for w in work_on(truth.name, TileGrid(truth.shape, SAMPLE_TILE), [truth])]
    tables = zip(works, reduce_tiles(lambda _, block: _unique(block), works), strict=True)
    counts: Counter[int] = Counter()
    for _, of_truth in itertools.groupby(tables, key=lambda found: id(found[0].sources[0])):
        values, n = _merged(table for _, table in of_truth)
        counts.update(dict(zip(map(int, values.tolist()), n.tolist(), strict=True)))
    return counts


def _merged(tables: Iterable[tuple[Block, Block]]) -> tuple[Block, Block]:
    """Add up tables of values and of how often each is there, many at a time: there may be millions of ids."""
    waiting: list[tuple[Block, Block]] = []
    most = size = 0
    for table in tables:
        waiting.append(table)
        size += len(table[0])
        if size > max(most, MERGED):
            waiting = [_added(waiting)]
            size = len(waiting[0][0])
            most = 2 * size
    return _added(waiting)


def _added(tables: Sequence[tuple[Block, Block]]) -> tuple[Block, Block]:
    values, at = np.unique(np.concatenate([values for values, _ in tables]), return_inverse=True)
    return values, np.bincount(at, weights=np.concatenate([n for _, n in tables])).astype(np.int64)


def _unique(block: Block) -> tuple[Block, Block]:
    """Return the values of a block and how often each is there; small ones are counted, which beats sorting.

    Of large ones each run of equal pixels is sorted as one value: objects are much wider than a pixel.
    """
    flat = block.ravel()
    if block.dtype.kind in "iu" and flat.min() >= 0 and flat.max() < COUNTED:
        counts = np.bincount(flat.astype(np.int64, copy=False))
        values = np.flatnonzero(counts)
        return values.astype(block.dtype), counts[values]
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    lengths = np.diff(starts, append=flat.size)
    values, run = np.unique(flat[starts], return_inverse=True)
    return values, np.bincount(run, weights=lengths).astype(np.int64)


def check_not_interpolated(truths: Sequence[Source], counts: Mapping[int, int], *, most_colours: int = FEW) -> None:
    """Refuse labels whose edges hold mixtures of values, as resizing and JPEG make them.

    Parameters
    ----------
    truths, counts
        Labels, and how often each value is in them.
    most_colours
        More colours are taken for mixtures, whatever their shares.

    Raises
    ------
    InputError
        With the threshold that makes two classes of them.
    """
    values = sorted(counts)
    if _has_colours(truths, values):
        rarest = sorted(counts.values())[: len(values) // 2]
        if len(values) > most_colours or (len(values) > FEW and 100 * sum(rarest) < sum(counts.values())):
            raise InputError(
                f"{truths[0].name}: labels hold {len(values)} colours; expected one for each class, without smooth "
                "edges between",
                fix="export them again without antialiasing, as PNG; or --label-threshold 128 for two classes; or "
                "--label-kind instances, if each colour is an object; or --label-kind classes, if it is a class",
            )
        return
    made_of = interpolated(values, [counts[v] for v in values])
    if made_of:
        middle = (made_of[0] + made_of[-1] + 1) // 2
        nearest = "export the labels again with nearest-neighbour resizing, not as JPEG"
        raise InputError(
            f"{truths[0].name}: labels are made of {', '.join(map(str, made_of))}, with {len(values) - len(made_of)} "
            "rare values between, as smooth edges, resizing and JPEG make them; expected a meaning for each value",
            fix=f"--label-threshold {middle}; or --classes, if each value is a class" if len(made_of) == 2 else nearest,
        )


def swap_notes(image: Source, truth: Source) -> list[str]:
    """Warn where an image looks like labels, and labels look like an image; the middle of both is looked at."""
    notes = []
    if len(np.unique(_middle(image))) == 2:
        notes.append(f"{image.name}: the image holds only two values; are images and labels swapped?")
    labels = _middle(truth)
    neighbours = labels[..., 1:] == labels[..., :-1]
    if neighbours.size and neighbours.mean() < 0.5:
        notes.append(f"{truth.name}: labels change from pixel to pixel, as pictures do; are images and labels swapped?")
    return notes


def overlap_notes(truths: Sequence[Source]) -> list[str]:
    """Say how many pixels several objects claim, where each has a file of its own; these are read once."""
    n = sum(files.n_overlapping() for files in _object_files(truths))
    return [f"objects overlap in {n} pixels: they stay with the first one"] if n else []


def _object_files(truths: Sequence[Source]) -> list[ObjectFiles]:
    return [layer for truth in truths for layer in _layers(truth) if isinstance(layer, ObjectFiles)]


def _middle(source: Source) -> Block:
    """Return up to 512 x 512 pixels from the middle of the middle plane, of all channels."""
    t, c, z, y, x = source.shape
    low = (t // 2, 0, z // 2, max(0, y // 2 - 256), max(0, x // 2 - 256))
    return source.read(Box(low, (low[0] + 1, c, low[2] + 1, min(y, low[3] + 512), min(x, low[4] + 512))))


def value_text(value: int) -> str:
    """Write a label value for people: colours as ``#ff0000``."""
    return f"#{value - COLOUR:06x}" if COLOUR <= value < 2 * COLOUR else str(value)


def _has_colours(truths: Sequence[Source], values: Sequence[int]) -> bool:
    """Tell whether there is a colour among the values: colour files that hold grey only are grey."""
    return values[-1] >= COLOUR and any(map(_is_coloured, truths))


def _is_coloured(truth: Source) -> bool:
    return any(isinstance(layer, ShownLabels) and layer.is_coloured for layer in _layers(truth))


def _layers(source: Source | None) -> Iterator[Source]:
    """Yield a source, and what it shows in another way."""
    while source is not None:
        yield source
        source = getattr(source, "source", None)


def _check_one_palette(truths: Sequence[Source]) -> None:
    """Refuse files whose indices stand for different colours: many programs order a palette anew for each file."""
    palettes = [
        (truth.name, p) for truth in truths for layer in _layers(truth) if (p := getattr(layer, "palette", b""))
    ]
    for name, palette in palettes[1:]:
        first_name, first = palettes[0]
        n = min(len(first), len(palette))
        if palette[:n] != first[:n]:
            raise InputError(
                f"{name}: its palette has other colours than that of {first_name}, so the same index means another "
                "class; expected one palette for all labels",
                fix="save the labels in RGB: each colour is a class then; or --label-kind instances, if they are ids",
            )


def _check_one_white(truths: Sequence[Source], values: Sequence[int]) -> None:
    """Refuse masks of which some hold 0 and 1, others 0 and 255: together they look like ids of objects."""
    if values == [0, 1, 255] and len(truths) > 1 and all(len(count_values([truth])) <= 2 for truth in truths):
        raise InputError(
            f"{truths[0].name}: some masks hold 0 and 1, others 0 and 255; expected the same values in all",
            fix="--classes 0=background,1=foreground,255=foreground",
        )


def _check_named(truths: Sequence[Source], counts: Mapping[int, int], named: Mapping[int, str]) -> None:
    unnamed = sorted(counts.keys() - named.keys())
    if unnamed:
        few = not interpolated(list(counts), list(counts.values()))
        first = next(truth for truth in truths if count_values([truth]).keys() - named.keys())
        raise InputError(
            f"{first.name}: labels hold the values {', '.join(map(value_text, unnamed[:5]))}; expected those of "
            f"--classes: {', '.join(map(value_text, sorted(named)))}",
            fix="name a class for each value" if few else "--label-threshold 128, if these are smooth edges of a mask",
        )


def _boundary_map(
    truths: Sequence[Source], notes: list[str], counts: Mapping[int, int], boundary: int | None
) -> LabelMap:
    """Tell which of two values marks the boundaries."""
    if len(counts) != 2:
        raise InputError(
            f"{truths[0].name}: labels hold {len(counts)} values; expected two, boundaries and cells",
            fix="--label-threshold, if there are values between; or --classes, to name several values of each",
        )
    if boundary is not None and boundary not in counts:
        raise ConfigError(
            f"--boundary-value {boundary}: labels hold the values {', '.join(map(str, sorted(counts)))}",
            fix=f"--boundary-value {min(counts, key=lambda v: (counts[v], v))}",
        )
    line = boundary if boundary is not None else min(counts, key=lambda v: (counts[v], v))
    (inside,) = counts.keys() - {line}
    shares = {v: f"{value_text(v)} ({100 * counts[v] / sum(counts.values()):.3g} % of pixels)" for v in counts}
    if boundary is None:
        notes.append(f"boundaries are {shares[line]}, cells are {shares[inside]}: --boundary-value says otherwise")
    return LabelMap("classes", (line, inside), ("boundary", "cell"), (0, 1))


def _instances(truths: Sequence[Source], values: Sequence[int]) -> LabelMap:
    if values[0] < 0 or values[-1] >= 2**32:
        raise InputError(f"{truths[0].name}: ids are {values[0]} to {values[-1]}; expected 0 to {2**32 - 1}")
    return LabelMap("instances", (), ("background", "object"), ())


def _classes(truths: Sequence[Source], values: Sequence[int]) -> LabelMap:
    if len(values) > MANY:
        raise InputError(
            f"{truths[0].name}: labels hold {len(values)} values; expected at most {MANY} classes",
            fix="--label-kind instances, if these are object ids",
        )
    names = tuple(f"class_{v}" for v in values)
    if _has_colours(truths, values):
        names = tuple(f"#{v * 0x10101:06x}" if v < COLOUR else value_text(v) for v in values)
    if len(values) == 2:
        names = ("background", "foreground")
    return LabelMap("classes", tuple(values), names, tuple(range(len(values))))


def _parse_classes(text: str) -> dict[int, str]:
    try:
        pairs = [piece.split("=") for piece in text.split(",")]
        classes = {_parse_value(value.strip()): name.strip() for value, name in pairs}
    except ValueError:
        classes = {}
    if len(set(classes.values())) < 2 or len(classes) != text.count("=") or not all(classes.values()):
        raise ConfigError(
            f"--classes {text}: expected VALUE=NAME for each class",
            fix="--classes 0=membrane,255=cell, or --classes '#000000=background,#ff0000=cell'",
        )
    return classes


def _parse_value(text: str) -> int:
    """Read a label value: a number, or a colour; a grey colour is the number of its grey."""
    if not text.startswith("#"):
        return int(text)
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        raise ValueError(text)
    red, green, blue = bytes.fromhex(text[1:])
    return red if red == green == blue else COLOUR + int(text[1:], 16)
