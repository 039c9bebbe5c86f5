"""Print speed and memory as a table: ``python -m benchmarks [speed] [memory] [convert] [cuda]``."""

from __future__ import annotations

import sys

from benchmarks import convert, cuda, memory, speed

PARTS = {"speed": speed.run, "memory": memory.run, "convert": convert.run, "cuda": cuda.run}


def main() -> None:
    """Run the parts that were asked for: by default those that need no GPU."""
    for name in sys.argv[1:] or ["speed", "memory", "convert"]:
        PARTS[name]()


if __name__ == "__main__":
    main()
