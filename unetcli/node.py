"""What is kept on this computer alone, from run to run: a folder outside of the home, which clusters share."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from unetcli import __version__


def node_cache() -> Path:
    """Return the folder of this user and version; the home would be slow on clusters, or read-only."""
    return Path(tempfile.gettempdir()) / f"unetcli-{os.getuid()}-{__version__}"
