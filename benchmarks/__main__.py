"""Print speed and memory as tables: ``python -m benchmarks [weights] [elastic] [sample] [prediction] ...``."""

from __future__ import annotations

import sys

from benchmarks import (
    convert,
    cuda,
    elastic,
    gigapixel,
    instances,
    memory,
    metrics,
    prediction,
    sample,
    slide,
    training,
    weights,
)

PARTS = {
    "weights": weights.run,
    "elastic": elastic.run,
    "sample": sample.run,
    "prediction": prediction.run,
    "instances": instances.run,
    "metrics": metrics.run,
    "training": training.run,
    "memory": memory.run,
    "convert": convert.run,
    "slide": slide.run,
    "gigapixel": gigapixel.run,
    "cuda": cuda.run,
}
BY_DEFAULT = ("weights", "elastic", "sample", "prediction", "instances", "metrics", "training", "memory", "convert")
"""Those that need no GPU, and neither many minutes nor gigabytes of disk."""


def main() -> None:
    """Run the parts that were asked for."""
    for name in sys.argv[1:] or BY_DEFAULT:
        if name not in PARTS:
            sys.exit(f"{name}: no such benchmark; there are {', '.join(PARTS)}")
        PARTS[name]()


if __name__ == "__main__":
    main()
