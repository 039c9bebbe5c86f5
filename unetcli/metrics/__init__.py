"""Scores of segmentations, each a function of arrays or of a table that adds up over tiles.

`score`, `summarize` and `compare` do with arrays what ``unetcli evaluate`` does with files.

Examples
--------
>>> import numpy as np
>>> from unetcli.metrics import score
>>> score(np.array([[0.2, 0.9]]), np.array([[0, 1]]), metrics=["iou", "pixel_error"]).values
{'iou': 1.0, 'pixel_error': 0.0}
"""

from unetcli.metrics.comparison import Difference
from unetcli.metrics.scoring import ImageScores, Mean, compare, score, summarize

__all__ = ["Difference", "ImageScores", "Mean", "compare", "score", "summarize"]
