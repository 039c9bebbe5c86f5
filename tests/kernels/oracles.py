"""Slow, obvious versions of the kernels."""

import numpy as np
from scipy import ndimage
from skimage import measure


def nearest_two(labels, spacing, reach):
    """One distance transform per object, then a sort."""
    ids = np.unique(labels[labels > 0])
    fields = [ndimage.distance_transform_edt(labels != i, sampling=spacing) for i in ids]
    fields += [np.full(labels.shape, np.inf)] * 2
    ordered = np.sort(fields, axis=0)[:2]
    ordered[ordered > reach] = np.inf
    return ordered[0], ordered[1]


def border_terms(labels, borders, spacing):
    """The two terms of the equation, each cut off where it is below epsilon."""
    d1, d2 = nearest_two(labels, spacing, np.inf)
    narrow = _gaussian(d1 + d2, borders.w0, borders.sigma) * ((labels == 0) | borders.inside)
    return narrow + _gaussian(d1, borders.w1, borders.sigma1) * (labels == 0)


def _gaussian(distance, height, width):
    term = height * np.exp(-(distance**2) / (2 * width**2))
    return np.where(term >= 2.0**-25, term, 0.0)


def separation_border(labels, width):
    """Each object grown by the window, laid over all others."""
    footprint = np.ones([2 * width + 1 if n > 1 else 1 for n in labels.shape], bool)
    border = np.zeros(labels.shape, bool)
    for i in np.unique(labels[labels > 0]):
        border |= ndimage.binary_dilation(labels == i, footprint) & (labels > 0) & (labels != i)
    return border


def label(classes, *, full=False):
    """Connected components of the whole image by scikit-image.

    Axes of one pixel are left out: scikit-image would move them forward and number in that order.
    """
    squeezed = np.atleast_1d(np.squeeze(classes))
    return measure.label(squeezed, connectivity=squeezed.ndim if full else 1, background=0).reshape(classes.shape)


def displacement(deformation):
    """Interpolate the control grid with SciPy, pixel by pixel."""
    shape, grid = deformation.shape, deformation.grid
    axes = [np.arange(n) * (g - 1) / max(n - 1, 1) for n, g in zip(shape, grid.shape[1:], strict=True)]
    at = np.array(np.meshgrid(*axes, indexing="ij"))
    return np.array([ndimage.map_coordinates(component, at, order=3, mode="mirror") for component in grid])


def source_positions(deformation):
    """Position in the source of every pixel of the region."""
    pixels = np.indices(deformation.shape).astype(float)
    centre = ((np.array(deformation.shape) - 1) / 2)[:, None, None, None]
    moved = pixels + displacement(deformation) - centre
    offset = deformation.offset[:, None, None, None]
    return np.einsum("ij,jzyx->izyx", deformation.matrix, moved) + centre + offset


def convolved(image, at):
    """Sum Keys' kernel (a = -1/2) over all pixels of an image, along each axis longer than one pixel."""
    axes = [axis for axis in range(3) if image.shape[axis] > 1]
    values = np.empty(at.shape[1:])
    for index in np.ndindex(values.shape):
        near = image
        for axis in axes:
            s = np.abs(at[(axis, *index)] - np.arange(image.shape[axis]))
            inner, outer = 1.5 * s**3 - 2.5 * s**2 + 1, -0.5 * s**3 + 2.5 * s**2 - 4 * s + 2
            kernel = np.where(s <= 1, inner, np.where(s < 2, outer, 0))
            near = (near * kernel.reshape([-1 if a == axis else 1 for a in range(3)])).sum(axis, keepdims=True)
        values[index] = near.item() if near.size == 1 else np.nan
    return values
