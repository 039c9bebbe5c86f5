"""Slow, obvious versions of what is done tile by tile: of the whole image at once."""

import numpy as np
from scipy import ndimage
from skimage import measure


def random_shape(rng, ndim):
    """Return the shape of some planes, or of a volume, (z, y, x)."""
    return (
        (*rng.integers(1, 4, 1), *rng.integers(1, 90, 2))
        if ndim == 2
        else (*rng.integers(2, 11, 1), *rng.integers(1, 30, 2))
    )


def blobs(rng, shape, *, n_classes=2):
    """Return classes (z, y, x): smooth spots of random size, with holes, and noise."""
    noise = ndimage.gaussian_filter(rng.normal(size=shape), rng.uniform(0.3, 3))
    spots = np.abs(noise) > np.quantile(np.abs(noise), rng.uniform(0.2, 0.8))
    classes = 1 + (ndimage.gaussian_filter(rng.normal(size=shape), 4) > 0) * (n_classes > 1)
    return (spots * classes).astype(np.uint8)


def over_planes(function, classes, ndim, **options):
    """Run a function of a volume over each plane of it, (1, y, x), if `ndim` is 2."""
    if ndim == 3:
        return function(classes, **options)
    return np.concatenate([function(plane[None], **options) for plane in classes])


def label(classes, *, full):
    """Connected parts of equal class of the whole; axes of one pixel aside, whose order scikit-image changes."""
    squeezed = np.atleast_1d(np.squeeze(classes))
    connectivity = squeezed.ndim if full else 1
    return measure.label(squeezed, connectivity=connectivity, background=0).reshape(classes.shape)


def fill_holes(classes, *, full=False):
    """Fill each object by SciPy; leave out parts of the background that touch others."""
    structure = ndimage.generate_binary_structure(3, 1)
    objects = label(classes, full=full)
    background, n = ndimage.label(classes == 0)
    result = classes.copy()
    for i in range(1, n + 1):
        part = background == i
        around = np.unique(objects[ndimage.binary_dilation(part, structure) & ~part])
        if len(around) != 1:
            continue
        mask = objects == around[0]
        if (filled_inside(mask) & part).any():
            result[part] = classes[mask][0]
    return result


def filled_inside(mask):
    """Fill the holes of a mask; a plane is one, not a volume that is open on both sides."""
    if len(mask) == 1:
        return ndimage.binary_fill_holes(mask[0])[None]
    return ndimage.binary_fill_holes(mask)


def label_all(classes, ndim, *, full):
    """Label each plane, or the volume, and number on through the planes."""
    found = over_planes(label, classes, ndim, full=full)
    if ndim == 2:
        before = np.cumsum([0, *found.max(axis=(1, 2))[:-1]])
        found = np.where(found > 0, found + before[:, None, None], 0)
    return found


def keep_large(ids, min_size):
    """Leave out small objects, and number the rest in the same order."""
    kept = [i for i in range(1, ids.max() + 1) if (ids == i).sum() >= min_size]
    result = np.zeros_like(ids)
    for new, old in enumerate(kept, start=1):
        result[ids == old] = new
    return result


def raster_neighbours(shape, full):
    """Yield each pixel with its neighbours, in raster order."""
    steps = list(np.ndindex(*(3 if n > 1 else 1 for n in shape)))
    steps = [tuple(a - (n > 1) for a, n in zip(s, shape, strict=True)) for s in steps]
    steps = [s for s in steps if full or sum(map(abs, s)) <= 1]
    for p in np.ndindex(shape):
        around = [tuple(a + b for a, b in zip(p, s, strict=True)) for s in steps]
        yield p, [q for q in around if all(0 <= a < n for a, n in zip(q, shape, strict=True))]


def watershed(classes, heights, depth, *, full):
    """Climb pixel by pixel, then look at all pairs of neighbours, from the highest on; name by the first pixel."""
    pixels = {p: around for p, around in raster_neighbours(classes.shape, full) if classes[p]}
    alike = {p: [q for q in around if classes[q] == classes[p]] for p, around in pixels.items()}
    peak_of = {}
    for p in pixels:
        top = p
        while (higher := max(alike[top], key=lambda q: heights[q])) != top:  # the first of equally high ones
            top = higher
        peak_of[p] = top
    group = {top: {top} for top in set(peak_of.values())}
    pairs = [(p, q) for p, around in alike.items() for q in around if q > p]
    for p, q in sorted(pairs, key=lambda pair: (-min(heights[pair[0]], heights[pair[1]]), *pair)):
        a, b = group[peak_of[p]], group[peak_of[q]]
        lower = min(max(heights[top] for top in tops) for tops in (a, b))
        if a is not b and lower - min(heights[p], heights[q]) < depth:
            a |= b
            for top in b:
                group[top] = a
    ids, result = {}, np.zeros(classes.shape, np.int64)
    for p in pixels:
        result[p] = ids.setdefault(id(group[peak_of[p]]), len(ids) + 1)
    return result


def distances(classes, spacing, reach):
    """Sixteenths of a pixel to the nearest pixel of another class, by SciPy."""
    heights = np.zeros(classes.shape, np.int64)
    for value in np.unique(classes[classes > 0]):
        is_other = classes != value
        if is_other.any():
            distance = ndimage.distance_transform_edt(~is_other, sampling=spacing)
        else:
            distance = np.full(classes.shape, np.inf)
        heights = np.where(is_other, heights, np.rint(distance.clip(max=reach).astype(np.float32) * np.float32(16)))
    return heights.astype(np.int64)
