"""Print speed and memory as tables: ``python -m benchmarks [weights] [elastic] [sample] [speed] [metrics] ...``."""

from __future__ import annotations

import sys

from benchmarks import convert, cuda, elastic, memory, metrics, sample, slide, speed, training, weights

PARTS = {
    "weights": weights.run,
    "elastic": elastic.run,
    "sample": sample.run,
    "speed": speed.run,
    "metrics": metrics.run,
    "training": training.run,
    "memory": memory.run,
    "convert": convert.run,
    "slide": slide.run,
    "cuda": cuda.run,
}
BY_DEFAULT = ("weights", "elastic", "sample", "speed", "metrics", "training", "memory", "convert")
"""Those that need no GPU, and neither many minutes nor gigabytes of disk."""


def main() -> None:
    """Run the parts that were asked for."""
    for name in sys.argv[1:] or BY_DEFAULT:
        if name not in PARTS:
            sys.exit(f"{name}: no such benchmark; there are {', '.join(PARTS)}")
        PARTS[name]()


if __name__ == "__main__":
    main()
