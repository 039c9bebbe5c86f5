"""The `unetcli` command."""

from __future__ import annotations

import sys

from unetcli.cli import main

if __name__ == "__main__":
    sys.exit(main())
