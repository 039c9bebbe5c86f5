"""Who else deforms an image with its labels, each as its users call it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from unetcli.kernels.deformation import Deformation, source_positions

Deformed = tuple[NDArray[Any], NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Case:
    """An image with its labels, to be deformed by a grid of 3 displacement vectors along each axis.

    Parameters
    ----------
    image, labels
        (y, x) or (z, y, x), float32 and uint32.
    deformation
        Of the image as a (z, y, x) region; nothing but the grid moves it.
    order
        1: linear, 3: cubic.
    std_px
        Standard deviation of the vectors, for those who draw their own.
    """

    image: NDArray[np.float32]
    labels: NDArray[np.uint32]
    deformation: Deformation
    order: int
    std_px: float

    @property
    def vectors(self) -> NDArray[np.float64]:
        """The grid without an axis that the image lacks, (2, 3, 3) or (3, 3, 3, 3)."""
        grid = self.deformation.grid
        return grid[1:, 0] if self.image.ndim == 2 else grid


class NotOfferedError(Exception):
    """A program has no such interpolation in so many dimensions."""


Deform = Callable[[], Deformed]


def elasticdeform(case: Case) -> Deform:
    """Prepare the package that is the reference: the same grid, the same spline between its points."""
    from elasticdeform import deform_grid

    orders = [case.order, 0]
    return lambda: tuple(deform_grid([case.image, case.labels], case.vectors, order=orders, mode="mirror"))


def scipy(case: Case) -> Deform:
    """Prepare SciPy: the same grid, the same spline between its points, by hand."""

    def deform() -> Deformed:
        positions = scipy_positions(case)
        image = ndimage.map_coordinates(case.image, positions, order=case.order, mode="mirror")
        return image, ndimage.map_coordinates(case.labels, positions, order=0, mode="mirror")

    return deform


def scipy_positions(case: Case) -> NDArray[np.float64]:
    """Return the source position of each pixel as SciPy finds it."""
    shape = case.image.shape
    lattice = np.meshgrid(*(np.linspace(0, 2, n) for n in shape), indexing="ij", sparse=False)
    moved = [ndimage.map_coordinates(component, lattice, order=3, mode="mirror") for component in case.vectors]
    return np.asarray(np.indices(shape) + np.stack(moved))


def opencv(case: Case) -> Deform:
    """Prepare OpenCV, which is given the dense field; labels as float32, for it knows no int32."""
    import cv2

    if case.image.ndim == 3:
        raise NotOfferedError
    lattice = [np.arange(n) for n in (1, *case.image.shape)]
    y, x = source_positions(case.deformation, lattice)[1:, 0].astype(np.float32)
    labels = case.labels.astype(np.float32)
    how = {1: cv2.INTER_LINEAR, 3: cv2.INTER_CUBIC}[case.order]

    def deform() -> Deformed:
        image = cv2.remap(case.image, x, y, how, borderMode=cv2.BORDER_REFLECT_101)
        return image, cv2.remap(labels, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)

    return deform


def torch_grid_sample(case: Case) -> Deform:
    """Prepare torch: the same grid, a bicubic convolution (in volumes linear) between its points; float labels."""
    shape = case.image.shape
    if case.order == 3 and len(shape) == 3:
        raise NotOfferedError
    field, mode = "bicubic" if len(shape) == 2 else "trilinear", {1: "bilinear", 3: "bicubic"}[case.order]
    vectors = torch.from_numpy(case.vectors.astype(np.float32))[None]
    image, labels = (torch.from_numpy(a.astype(np.float32))[None, None] for a in (case.image, case.labels))
    identity = torch.stack(torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij"))
    half = torch.tensor([(n - 1) / 2 for n in shape]).reshape(-1, *[1] * len(shape))
    options: dict[str, Any] = {"padding_mode": "reflection", "align_corners": True}

    def deform() -> Deformed:
        dense = torch.nn.functional.interpolate(vectors, shape, mode=field, align_corners=True)[0]
        positions = (identity + dense / half).flip(0).movedim(0, -1)[None]
        warped = torch.nn.functional.grid_sample(image, positions, mode=mode, **options)
        moved = torch.nn.functional.grid_sample(labels, positions, mode="nearest", **options)
        return warped[0, 0].numpy(), moved[0, 0].numpy()

    return deform


def monai(case: Case) -> Deform:
    """Prepare MONAI: in planes a grid of the same spacing, in volumes smoothed noise."""
    from monai.transforms import Rand2DElasticd, Rand3DElasticd

    common = {"keys": ("image", "labels"), "prob": 1.0, "padding_mode": "reflection"}
    if case.image.ndim == 2:
        spacing = tuple(n // 2 for n in case.image.shape)
        modes = ("bilinear" if case.order == 1 else "bicubic", "nearest")
        transform: Any = Rand2DElasticd(spacing=spacing, magnitude_range=(case.std_px,) * 2, mode=modes, **common)
    elif case.order == 1:
        transform = Rand3DElasticd(
            sigma_range=(5, 7), magnitude_range=(50, 150), mode=("bilinear", "nearest"), **common
        )
    else:
        raise NotOfferedError
    image, labels = (torch.from_numpy(a.astype(np.float32))[None] for a in (case.image, case.labels))

    def deform() -> Deformed:
        result = transform({"image": image, "labels": labels})
        return result["image"][0].numpy(), result["labels"][0].numpy()

    return deform


def batchgenerators(case: Case) -> Deform:
    """Prepare batchgenerators: smoothed noise, with the defaults of its makers."""
    from batchgenerators.augmentations.spatial_transformations import augment_spatial

    shape = case.image.shape
    image, labels = case.image[None, None], case.labels[None, None].astype(np.float32)

    def deform() -> Deformed:
        result = augment_spatial(
            image, labels, shape, [n / 2 for n in shape], do_rotation=False, do_scale=False, random_crop=False,
            order_data=case.order, alpha=(0, 900), sigma=(9, 13),
        )  # fmt: skip
        return result[0][0, 0], result[1][0, 0]

    return deform


def kornia(case: Case) -> Deform:
    """Prepare kornia: smoothed noise, with its defaults; float labels."""
    from kornia.augmentation import AugmentationSequential, RandomElasticTransform

    if case.image.ndim == 3:
        raise NotOfferedError
    resample = {1: "BILINEAR", 3: "BICUBIC"}[case.order]
    transform = AugmentationSequential(RandomElasticTransform(p=1.0, resample=resample), data_keys=["input", "mask"])
    image, labels = (torch.from_numpy(a.astype(np.float32))[None, None] for a in (case.image, case.labels))

    def deform() -> Deformed:
        warped, moved = transform(image, labels)
        return warped[0, 0].numpy(), moved[0, 0].numpy()

    return deform


def torchio(case: Case) -> Deform:
    """Prepare torchio: the fewest control points that it takes, a uniform B-spline, in SimpleITK."""
    import torchio as tio

    depth = case.image.shape[0] if case.image.ndim == 3 else 1
    shape = (1, depth, *case.image.shape[-2:])
    largest = 2 * case.std_px
    transform = tio.RandomElasticDeformation(
        num_control_points=5,
        max_displacement=(largest if depth > 1 else 0, largest, largest),
        locked_borders=0,
        image_interpolation={1: "linear", 3: "bspline"}[case.order],
    )
    subject = tio.Subject(
        image=tio.ScalarImage(tensor=torch.from_numpy(case.image.reshape(shape))),
        labels=tio.LabelMap(tensor=torch.from_numpy(case.labels.reshape(shape).astype(np.int32))),
    )

    def deform() -> Deformed:
        result = transform(subject)
        return tuple(result[key].data.numpy().reshape(case.image.shape) for key in ("image", "labels"))

    return deform


PEERS: dict[str, tuple[Callable[[Case], Deform], str]] = {
    "elasticdeform: the same field": (elasticdeform, "elasticdeform"),
    "SciPy map_coordinates: the same field": (scipy, "scipy"),
    "torch grid_sample: near, the grid upsampled": (torch_grid_sample, "torch"),
    "OpenCV remap: given the dense field": (opencv, "opencv-python-headless"),
    "MONAI RandElastic: its own field": (monai, "monai"),
    "batchgenerators: its own field": (batchgenerators, "batchgenerators"),
    "kornia RandomElasticTransform: its own field": (kornia, "kornia"),
    "torchio RandomElasticDeformation: its own field": (torchio, "torchio"),
}
"""What is compared: name to preparation and package."""
