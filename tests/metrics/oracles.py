"""Slow, obvious versions of the metrics: written from the definitions, pixel by pixel."""

from collections import Counter, deque
from fractions import Fraction
from itertools import combinations, permutations, product

import numpy as np
from scipy import ndimage
from skimage.measure import label

RING = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]


def pair_counts(truth, prediction):
    """Pixels of each pair of ids."""
    return Counter(zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True))


def rand_error(truth, prediction):
    """Share of pairs of pixels that are together on one side only."""
    pixels = list(zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True))
    pairs = list(combinations(pixels, 2))
    return sum((a[0] == b[0]) != (a[1] == b[1]) for a, b in pairs) / len(pairs)


def singletons(truth, prediction):
    """The truth's foreground as two flat label images; each pixel of prediction 0 is a segment of its own."""
    inside = truth != 0
    t, p = truth[inside].astype(np.int64), prediction[inside].astype(np.int64)
    alone = p == 0
    p[alone] = p.max(initial=0) + 1 + np.arange(alone.sum())
    return t, p


def v_rand(truth, prediction):
    """F-score, split, merge over ordered pairs of foreground pixels, a pixel with itself included."""
    t, p = singletons(truth, prediction)
    together_t, together_p = t[:, None] == t, p[:, None] == p
    both = (together_t & together_p).sum()
    return 2 * both / (together_t.sum() + together_p.sum()), both / together_t.sum(), both / together_p.sum()


def entropy(*labels):
    """Entropy of the joint distribution of label images, in nats."""
    counts = np.array(list(Counter(zip(*(x.ravel().tolist() for x in labels), strict=True)).values()))
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def edge_neighbours(y, x, shape):
    """Left, up, right, down, inside the image."""
    around = ((y, x - 1), (y - 1, x), (y, x + 1), (y + 1, x))
    return [(v, u) for v, u in around if 0 <= v < shape[0] and 0 <= u < shape[1]]


def flood(segments):
    """The flooding of Vincent and Soille, dictionary by dictionary."""
    height, width = segments.shape
    label_of = {(y, x): int(segments[y, x]) for y in range(height) for x in range(width) if segments[y, x]}
    if not label_of:
        return np.ones(segments.shape, np.int64)

    queue = deque(
        (y, x)
        for x in range(width)
        for y in range(height)
        if (y, x) not in label_of and any(n in label_of for n in edge_neighbours(y, x, segments.shape))
    )
    queued, flag = set(queue), False
    while queue:
        pixel = queue.popleft()
        for n in edge_neighbours(*pixel, segments.shape):
            if label_of.get(n, -1) > 0:
                if pixel not in label_of or (label_of[pixel] == 0 and flag):
                    label_of[pixel] = label_of[n]
                elif label_of[pixel] > 0 and label_of[pixel] != label_of[n]:
                    label_of[pixel], flag = 0, False
            elif label_of.get(n, -1) == 0:
                if pixel not in label_of:
                    label_of[pixel], flag = 0, True
            elif n not in queued:
                queued.add(n)
                queue.append(n)
    return np.array([[label_of[y, x] for x in range(width)] for y in range(height)])


def is_simple(patch):
    """Tell whether flipping the centre of a 3x3 patch changes no component, by labelling the ring."""
    ring = patch.astype(bool).copy()
    ring[1, 1] = False
    ids, _ = ndimage.label(ring)  # 4-connected
    edges = [ids[0, 1], ids[1, 0], ids[1, 2], ids[2, 1]]
    outside = ~ring
    outside[1, 1] = False
    n_membrane = ndimage.label(outside, np.ones((3, 3)))[1]
    return len({i for i in edges if i}) == 1 and n_membrane == 1


def warp(truth, prediction, threshold=0.5, mask=None):
    """Passes over all mismatched pixels, listed anew and each one looked at, until nothing changes."""
    warped = np.pad(truth != 0, 1)
    target = np.pad(prediction.astype(np.float64) > threshold, 1)
    allowed = np.pad(np.ones(truth.shape, bool) if mask is None else mask != 0, 1)
    key = np.pad(np.abs(prediction.astype(np.float64) - threshold).astype(np.float32), 1)
    n_before = None
    while True:
        pixels = [(y, x) for x in range(warped.shape[1]) for y in range(warped.shape[0])]
        pixels = [(y, x) for y, x in pixels if warped[y, x] != target[y, x] and allowed[y, x]]
        if len(pixels) in (0, n_before):
            return warped[1:-1, 1:-1], len(pixels)
        n_before = len(pixels)
        for y, x in sorted(pixels, key=lambda pixel: -key[pixel]):
            if is_simple(warped[y - 1 : y + 2, x - 1 : x + 2]):
                warped[y, x] ^= True


def leftover_class(warped, y, x, radius):
    """The row of the table of classes that a leftover pixel falls into."""

    def around(ids, y, x):
        cells = [(y + dy, x + dx) for dy, dx in RING]
        return {int(ids[v, u]) for v, u in cells if 0 <= v < ids.shape[0] and 0 <= u < ids.shape[1]}

    values = around(label(warped, connectivity=1), y, x)
    centre = warped[y, x]
    if values <= {0}:  # an image of one pixel has nothing around
        return "object_deletion" if centre else "object_addition"
    if len(values) == 1:
        return "hole_addition" if centre else "hole_deletion"
    if len(values) > 2:
        return "split" if centre else "merge"
    if not centre:
        return "hole_addition"
    top, left = max(y - radius, 0), max(x - radius, 0)
    cleared = warped.copy()
    cleared[y, x] = False
    window = label(cleared[top : y + radius + 1, left : x + radius + 1], connectivity=1)
    return "split" if len(around(window, y - top, x - left)) > 2 else "hole_deletion"


def object_pixels(labels):
    """The set of pixels of each object."""
    return [set(np.flatnonzero(labels == i)) for i in np.unique(labels) if i]


def iou_matrix(truth, prediction):
    """IoU of each true with each predicted object, as exact fractions."""
    return [
        [Fraction(len(t & p), len(t | p)) for p in object_pixels(prediction)] for t in object_pixels(truth)
    ]  # fmt: skip


def assignments(n_rows, n_columns):
    """Every way to pair as many rows with columns as there can be."""
    if n_rows > n_columns:
        return [[(row, column) for column, row in pairs] for pairs in assignments(n_columns, n_rows)]
    return [list(enumerate(columns)) for columns in permutations(range(n_columns), n_rows)]


def most_matches(truth, prediction, threshold):
    """Pairs of IoU of at least a threshold in the best of all assignments."""
    ious = iou_matrix(truth, prediction)
    ways = assignments(len(ious), len(object_pixels(prediction)))
    return max(sum(ious[i][j] >= threshold for i, j in pairs) for pairs in ways)


def one_to_one_aji(truth, prediction):
    """Shared pixels of the pairs of the best assignment, of all foreground; ties give one value each."""
    ious = iou_matrix(truth, prediction)
    true, predicted = object_pixels(truth), object_pixels(prediction)

    def worth(pairs):
        return sum(ious[i][j] >= Fraction(1, 2) for i, j in pairs), sum(ious[i][j] for i, j in pairs)

    ways = assignments(len(true), len(predicted))
    best = max(map(worth, ways))
    n = np.count_nonzero((truth != 0) | (prediction != 0))
    return {sum(len(true[i] & predicted[j]) for i, j in pairs) / n for pairs in ways if worth(pairs) == best}


def partners(truth, prediction):
    """For each true object the IoU and the index of what covers more than half of it, or None."""
    predicted = object_pixels(prediction)
    found = []
    for t in object_pixels(truth):
        covering = [(len(t & p) / len(t | p), j) for j, p in enumerate(predicted) if 2 * len(t & p) > len(t)]
        found.append(covering[0] if covering else None)
    return found


def edge_pixels(mask):
    """Foreground pixels with a neighbour by a face that is background or outside."""
    steps = [np.eye(mask.ndim, dtype=int)[axis] * sign for axis in range(mask.ndim) for sign in (-1, 1)]
    padded = np.pad(mask, 1)
    return [p for p in np.argwhere(mask) if not all(padded[tuple(p + 1 + step)] for step in steps)]


def contour_pixels(mask):
    """Pixels that differ from one that lies 0 or 1 on along each axis."""
    inside = [tuple(p) for p in np.ndindex(mask.shape)]
    return [p for p in inside if any(mask[p] != mask[q] for q in onward(p, mask.shape))]


def onward(pixel, shape):
    """Pixels of the image that lie 0 or 1 on along each axis."""
    ranges = [range(k, min(k + 2, n)) for k, n in zip(pixel, shape, strict=True)]
    return list(product(*ranges))


def nearest(pixels, others):
    """Distance of each pixel to the nearest of the others."""
    return [min(float(np.linalg.norm(np.subtract(p, q))) for q in others) for p in pixels]
