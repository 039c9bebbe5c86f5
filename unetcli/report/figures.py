"""Figures drawn by matplotlib, in one style whatever the user's settings are: the same input, the same bytes."""

from __future__ import annotations

import atexit
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unetcli.atomic import write_atomically
from unetcli.errors import InputError
from unetcli.report.pictures import FAINT, GRAY, INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 160

_RC: dict[str, Any] = {
    "font.size": 8,
    "text.color": INK,
    "axes.edgecolor": GRAY,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 3,
    "lines.solid_capstyle": "round",
    "xtick.color": GRAY,
    "ytick.color": GRAY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.major.width": 0.6,
}


@contextmanager
def styled_figure(
    inches: tuple[float, float], layout: Literal["constrained", "compressed"] = "constrained"
) -> Iterator[Figure]:
    """Give a figure in the style of this package, whatever the user's matplotlib is set to."""
    if "MPLCONFIGDIR" not in os.environ and not os.access(Path("~").expanduser(), os.W_OK):
        os.environ["MPLCONFIGDIR"] = folder = tempfile.mkdtemp(prefix="matplotlib-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", _RC]):
        yield Figure(figsize=inches, layout=layout)


def save_png(figure: Figure, path: Path) -> None:
    """Write the PNG, without what would change from run to run."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    write_atomically(path, stream.getvalue())


def require_picture(option: str, path: Path) -> None:
    """Raise an `InputError` if a picture can not be written to a path, before anything is computed for it."""
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(
            f"{option} {path}: can not be written; expected a file in a folder that is there",
            fix=f"{option} picture.png",
        )
