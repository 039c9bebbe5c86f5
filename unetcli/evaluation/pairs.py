"""Predictions and their truth as they are to be compared: opened, paired, and each pixel given its meaning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.config import EvaluateConfig
from unetcli.errors import InputError
from unetcli.image.axes import describe_shape
from unetcli.image.inputs import Input, open_inputs
from unetcli.image.label_sources import ShownLabels
from unetcli.image.layouts import is_sparse
from unetcli.image.location import Location
from unetcli.image.pairing import listed, pair
from unetcli.image.source import AnyArray, Source, View, unnamed_pages_note
from unetcli.image.streaming import reduce_tiles, work_on
from unetcli.image.tiling import Box, Tile, TileGrid
from unetcli.image.truth import SAMPLE_TILE, LabelMap, show_truth
from unetcli.metrics.measuring import check_values
from unetcli.metrics.thresholds import to_probabilities

Block = NDArray[Any]


@dataclass(frozen=True)
class Pair:
    """A prediction and its truth, each (t, 1, z, y, x) of the same size.

    Parameters
    ----------
    name
        Of the prediction.
    prediction
        bool: a mask; float: probabilities of foreground; integers: object ids, or classes.
    truth
        bool: a mask; integers: object ids, or classes.
    image
        The picture, where it is known.
    counted
        bool: pixels that are False in one of them do not count.
    classes
        Names of the classes, if both sides hold them; empty if not.
    """

    name: str
    prediction: Source
    truth: Source
    image: Source | None = None
    counted: tuple[Source, ...] = ()
    classes: tuple[str, ...] = ()

    @property
    def has_ids(self) -> bool:
        """Whether both sides hold object ids."""
        return not self.classes and self.prediction.dtype.kind in "iu" and self.truth.dtype.kind in "iu"

    @property
    def has_probabilities(self) -> bool:
        """Whether the prediction has a threshold."""
        return self.prediction.dtype.kind == "f"


@dataclass(frozen=True)
class Others:
    """What is compared, shown or looked at beside a prediction and its truth.

    Parameters
    ----------
    images
        The pictures that were segmented.
    roi
        Masks: only pixels in them count.
    compare
        A second prediction.
    """

    images: Location | None = None
    roi: Location | None = None
    compare: Location | None = None


@dataclass(frozen=True)
class EveryPlane(View):
    """A single plane, shown as every plane of a stack."""

    n_t: int
    n_z: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the stack."""
        return (self.n_t, 1, self.n_z, *self.source.shape[3:])

    def read(self, box: Box) -> AnyArray:
        """Return the pixels of a box that lies inside the stack."""
        return np.broadcast_to(self.source.read(box.replace(0, 0, 1).replace(2, 0, 1)), box.shape)


def open_pairs(
    prediction: Location, truth: Location, others: Others, config: EvaluateConfig
) -> tuple[list[Pair], list[Pair], list[str]]:
    """Open what is compared.

    Parameters
    ----------
    prediction, truth
        Stores, files, or folders of files; paired by name, else by the numbers in the names.
    others
        What is paired with the predictions.
    config
        What the pixels mean.

    Returns
    -------
    list of Pair
        In the order of the predictions.
    list of Pair
        The same with the second prediction; empty if there is none.
    list of str
        What was left out and assumed, in plain words.

    Raises
    ------
    InputError
        If images have no partner, other sizes than theirs, or pixels that can not be what is said of them.
    """
    predictions = _open_predictions(prediction, [])
    names = [i.name for i in predictions]
    truths = open_inputs([truth], is_label=True, threshold=config.label_threshold, images=names)
    found = pair(
        names,
        [i.name for i in truths],
        a="predictions",
        b="truth",
        allow_extra_a=is_sparse([i.name for i in truths]),
        allow_extra_b=config.fail_under is None,  # a gate must not pass what was never predicted
    )
    predictions, truths = [predictions[i] for i, _ in found.pairs], [truths[j] for _, j in found.pairs]
    names = [i.name for i in predictions]
    notes = [*found.notes, *(note for i in truths for note in i.notes), *_data_set_notes(predictions[0])]
    stored = [i.labels or i.source for i in truths]
    pictures: Sequence[Source | None] = [i.source if i.labels else None for i in truths]
    if others.images is not None:
        pictures = [i.source for i in _partners(names, others.images, "images", _open_pictures)]
    compared = _partners(names, others.compare, "predictions of --compare", _open_predictions)
    regions = [i.labels or i.source for i in _partners(names, others.roi, "regions", _open_regions)]
    for k, item in enumerate(predictions):
        for what, sources in (("truth", stored), ("the picture", pictures), ("the other prediction", compared)):
            if sources and (other := sources[k]) is not None:
                _check_size(what, other.source if isinstance(other, Input) else other, item.source)
        _check_truth(stored[k])
    for what, sources in (
        ("prediction", [i.source for i in predictions]),
        ("truth", stored),
        ("prediction of --compare", [i.source for i in compared]),
        ("region of interest", regions),
    ):
        notes += _reading_notes(what, sources)
    regions = [_region(region, item.source) for region, item in zip(regions, predictions, strict=False)]
    counted = [tuple(kept) for kept in zip(*([regions] if regions else []), *_not_ignored(stored, config), strict=True)]
    label_map = _label_map(truths[0])
    shown, made = show_truth(
        stored, notes, is_cut=config.label_threshold is not None, ignored=config.ignore_label, **_meaning(config)
    )
    label_map = made or label_map
    kind = label_map.kind if label_map else None
    classes = _classes(label_map, [*predictions, *compared], notes, config)
    are_masks = not classes and (kind == "classes" or (kind is None and all(map(_is_mask, shown))))
    shown = [_shown_truth(source, are_masks) for source in shown]

    def with_predictions(items: Sequence[Input]) -> list[Pair]:
        sources = _shown_predictions(items, config.prediction_kind, label_map, classes)
        return [
            Pair(names[k], source, shown[k], pictures[k], counted[k] if counted else (), classes)
            for k, source in enumerate(sources)
        ]

    pairs, others_of = with_predictions(predictions), with_predictions(compared)
    notes += _guesses([*predictions, *compared], [*pairs, *others_of], config)
    return pairs, others_of, notes


# ------------------------------------------------------------------------------------------- partners


def _partners(
    names: Sequence[str], place: Location | None, what: str, opener: Callable[[Location, Sequence[str]], list[Input]]
) -> list[Input]:
    """Open what belongs to each prediction; nothing if there is no such thing."""
    if place is None:
        return []
    found = opener(place, names)
    pairs = pair(names, [i.name for i in found], a="predictions", b=what, allow_extra_b=True).pairs
    return [found[j] for _, j in pairs]


def _open_predictions(place: Location, names: Sequence[str]) -> list[Input]:
    """Open predictions as images, which they may be; ids of 64 bits are labels only."""
    try:
        return open_inputs([place], images=names)
    except InputError:
        with suppress(InputError):
            labels = open_inputs([place], is_label=True, images=names)
            if any(item.source.dtype.kind in "iu" and item.source.dtype.itemsize == 8 for item in labels):
                return labels
        raise


def _open_pictures(place: Location, names: Sequence[str]) -> list[Input]:
    return open_inputs([place], images=names)


def _open_regions(place: Location, names: Sequence[str]) -> list[Input]:
    return open_inputs([place], is_label=True, images=names)


def _check_size(what: str, source: Source, prediction: Source) -> None:
    t, _, *zyx = prediction.shape
    wanted, found = (t, 1, *zyx), (source.shape[0], 1, *source.shape[2:])
    if found != wanted:
        raise InputError(
            f"{source.name}: {what} is {describe_shape(found)}; expected {describe_shape(wanted)}, "
            f"as {prediction.name}",
            fix="bring all to the size of the image that was segmented",
        )


def _check_truth(truth: Source) -> None:
    """Refuse a truth that can not be labels."""
    if truth.shape[1] != 1:
        raise InputError(f"{truth.name}: truth has {truth.shape[1]} channels; expected one")
    if truth.dtype.kind not in "bui":
        raise InputError(f"{truth.name}: truth is {truth.dtype}; expected integers (labels or classes)")


def _region(region: Source, prediction: Source) -> Source:
    """Show where a region of interest is; that of a single plane is that of each plane."""
    t, _, z, *_ = prediction.shape
    if (region.shape[0], region.shape[2]) == (1, 1) != (t, z):
        region = EveryPlane(region, t, z)
    _check_size("the region of interest", region, prediction)
    return ShownLabels(region, np.dtype(np.bool_), _is_not_zero)


def _not_ignored(truths: Sequence[Source], config: EvaluateConfig) -> list[list[Source]]:
    """Show which pixels of the truth have another value than the one to ignore."""
    if config.ignore_label is None:
        return []
    differs = partial(_differs_from, config.ignore_label)
    return [[ShownLabels(truth, np.dtype(np.bool_), differs) for truth in truths]]


def _is_not_zero(block: Block) -> Block:
    is_foreground: Block = block != 0
    return is_foreground


def _differs_from(value: int, block: Block) -> Block:
    differs: Block = block != value
    return differs


# ------------------------------------------------------------------------------------------- meaning


def _meaning(config: EvaluateConfig) -> dict[str, Any]:
    """Return what is said of the truth: what holds classes is compared with classes."""
    said = config.meaning()
    if config.prediction_kind == "classes" and said["kind"] is None:
        said["kind"] = "classes"
    return said


def _label_map(truth: Input) -> LabelMap | None:
    """Return what a data set of `prep` says of its labels."""
    data = truth.attributes.get("data") or {}
    if not data.get("label_kind"):
        return None
    names = tuple(data["classes"])
    values = tuple(range(len(names)))
    return LabelMap(data["label_kind"], values, names, values)


def _classes(
    label_map: LabelMap | None, predictions: Sequence[Input], notes: list[str], config: EvaluateConfig
) -> tuple[str, ...]:
    """Return the names of the classes, if both sides hold more than two; say so where only one does."""
    known = label_map.names if label_map and label_map.kind == "classes" else ()
    of_predictions = [_predicted_classes(i) for i in predictions]
    if config.prediction_kind not in (None, "classes", "probabilities"):
        return ()
    asked = config.prediction_kind == "classes"
    for item, predicted in zip(predictions, of_predictions, strict=True):
        if len(known) > 2 and len(predicted) > 2 and len(predicted) != len(known):
            raise InputError(
                f"{item.source.name}: has {len(predicted)} classes ({', '.join(predicted)}); expected those of the "
                f"truth, {', '.join(known)}",
                fix="--prediction-kind mask, to score all but the first together",
            )
    if len(known) > 2 and (asked or all(len(predicted) > 2 for predicted in of_predictions)):
        return known
    if predicted := next((p for p in of_predictions if len(p) > 2), ()):
        notes.append(f"the prediction has {len(predicted)} classes: all but {predicted[0]} count as foreground")
    return ()


def _predicted_classes(item: Input) -> tuple[str, ...]:
    """Return the classes of a prediction, or those of which it holds the probability, as far as it says."""
    described = item.attributes.get("prediction", {})
    named = tuple(described.get("channels", described.get("classes", ())))
    n = item.source.shape[1]
    return named or tuple(f"class_{c}" for c in range(n) if n > 2 and item.source.dtype.kind == "f")


def _shown_truth(source: Source, is_mask: bool) -> Source:
    """Show truth as a mask, or as classes or object ids."""
    if is_mask:
        return ShownLabels(source, np.dtype(np.bool_), _is_not_zero)
    return ShownLabels(source, source.dtype, partial(_checked, source.name))


def _shown_predictions(
    items: Sequence[Input], kind: str | None, label_map: LabelMap | None, classes: Sequence[str]
) -> list[Source]:
    """Show predictions; integers of which nothing is said are masks if all of them may be."""
    unsaid = [i.source for i in items if i.source.dtype.kind != "f" and not i.attributes.get("prediction")]
    are_masks = kind is None and not classes and all(map(_is_mask, unsaid))
    return [_shown_prediction(item, kind, are_masks, label_map, classes) for item in items]


def _shown_prediction(
    item: Input, kind: str | None, is_mask: bool, label_map: LabelMap | None, classes: Sequence[str]
) -> Source:
    """Show a prediction as a mask, object ids, classes, or probabilities of foreground.

    Of several classes the foreground is everything but class 0. Integer probabilities are divided by the
    largest value of their type.
    """
    _check_kind(item)
    source, attributes = item.source, item.attributes.get("prediction", {})
    as_classes = kind == "classes"
    kind = attributes.get("kind") if kind is None or as_classes else kind
    if kind == "probabilities" or (kind is None and source.dtype.kind == "f"):
        several = source.shape[1] > 2
        of_map = np.result_type(source.dtype, np.float32) if source.dtype.kind == "f" else np.float32
        dtype = np.dtype(np.uint8 if several and classes else np.bool_ if several else of_map)
        return ShownLabels(source, dtype, partial(_foreground_of, source.name, bool(classes)))
    if source.shape[1] != 1:
        raise InputError(
            f"{source.name}: has {source.shape[1]} channels of {source.dtype}; expected one, or probabilities",
            fix="save it in gray, one channel; or --prediction-kind probabilities, if each channel is a class",
        )
    if classes:
        show = _checked if attributes or label_map is None else partial(_class_of, label_map)
        return ShownLabels(source, np.dtype(np.int64), partial(show, source.name))
    if as_classes or kind == "mask" or (kind is None and is_mask):
        return ShownLabels(source, np.dtype(np.bool_), _is_not_zero)
    if source.dtype.kind not in "biu":
        raise InputError(f"{source.name}: labels are {source.dtype}; expected integers")
    return ShownLabels(source, source.dtype, partial(_checked, source.name))


def _check_kind(item: Input) -> None:
    """Refuse what `tile-predict` wrote that is no prediction: of which no foreground can be told."""
    described = item.attributes.get("prediction", {})
    classes = described.get("classes", [])
    channels = described.get("channels", classes)
    of_foreground = channels == classes or (len(channels) == 1 and channels != classes[:1])
    if described.get("kind") == "uncertainty" or not of_foreground:
        raise InputError(
            f"{item.source.name}: holds the {described['kind']} {', '.join(channels)}; expected a mask, or the "
            "probabilities of all classes, or of one that is not the background",
            fix="score the mask; or tile-predict --probabilities without --classes",
        )


def _checked(name: str, block: Block) -> Block:
    check_values(name, block)
    return block


def _class_of(label_map: LabelMap, name: str, block: Block) -> Block:
    """Look up classes that are kept as the values that the truth has."""
    if unknown := set(np.unique(block).tolist()) - set(label_map.values):
        raise InputError(
            f"{name}: holds the value {min(unknown)}; expected those of the classes of the truth: "
            f"{', '.join(map(str, sorted(label_map.values)))}",
            fix="--prediction-kind mask, or labels",
        )
    return label_map(None, block)


def _foreground_of(name: str, as_classes: bool, block: Block) -> Block:
    """Return probabilities of foreground; of more than two classes the likeliest, or whether it is not the first."""
    probabilities = to_probabilities(block)
    check_values(name, probabilities)
    if block.shape[1] > 2:
        likeliest: Block = probabilities.argmax(axis=1, keepdims=True).astype(np.uint8)
        return likeliest if as_classes else likeliest != 0
    shown: Block = 1 - probabilities[:, :1] if block.shape[1] == 2 else probabilities
    return shown


def _is_mask(source: Source) -> bool:
    """Tell whether an image holds one value at most beside 0; it is read until a second one is found."""
    if source.dtype == np.bool_:
        return True
    found: set[Any] = set()
    n_channels = source.shape[1]
    tiles = TileGrid(source.shape, (1, n_channels, *SAMPLE_TILE[2:]))
    for values in reduce_tiles(_some_values, work_on(source.name, tiles, [source])):
        found |= values
        if len(found - {0}) > 1:
            return False
    return True


def _some_values(_: Tile, block: Block) -> set[Any]:
    """Return the values of a block: all if there are two at most, else three."""
    low, high = block.min(), block.max()
    between = block[(block != low) & (block != high)]
    return {low.item(), high.item(), *between.ravel()[:1].tolist()}


def _reading_notes(what: str, sources: Sequence[Source]) -> list[str]:
    """Say what was assumed when images were opened, once of all it is true of; pages without a name are planes here."""
    names: dict[str, list[str]] = {}
    for source in sources:
        unnamed = unnamed_pages_note(getattr(source, "order", "zyx"))
        for note in source.notes:
            if note != unnamed:
                names.setdefault(note, []).append(source.name)
    return [f"{what} {listed(of)}: {note}" for note, of in names.items()]


def _guesses(predictions: Sequence[Input], pairs: Sequence[Pair], config: EvaluateConfig) -> list[str]:
    """Say which predictions are taken as object ids though their truth is a mask: maps of 8 bits look like ids."""
    guessed = dict.fromkeys(
        made.name
        for item, made in zip(predictions, pairs, strict=True)
        if made.prediction.dtype.kind in "iu" and made.truth.dtype == np.bool_ and "prediction" not in item.attributes
    )
    if config.prediction_kind is not None or not guessed:
        return []
    found = f"several values beside 0 are taken as object ids, though the truth is a mask: {listed(list(guessed))}"
    return [f"{found} (else --prediction-kind probabilities, or mask)"]


def _data_set_notes(prediction: Input) -> list[str]:
    """Say that gray values are scored, where labels may have been meant."""
    if "data" in prediction.attributes:
        return ["the prediction is a data set of unetcli prep: its gray values are taken as labels"]
    if prediction.label_names:
        name = f"{prediction.name}/labels/{prediction.label_names[0]}"
        return [f"the prediction is an image with labels: its gray values are scored, not those of {name}"]
    return []
