"""Slow, obvious versions of the metrics: written from the definitions, pixel by pixel."""

from collections import Counter, deque
from itertools import combinations

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
