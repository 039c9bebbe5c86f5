"""Write the table of image files tried into formats.md: ``python docs/formats.py FOLDER``, by hand.

FOLDER holds the folders of `FOLDERS`. Each file is converted by ``unetcli prep`` for real, so the table is true
for the version that wrote it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tifffile

from unetcli.config import PrepConfig
from unetcli.errors import InputError
from unetcli.stages import prep

PAGE = Path(__file__).with_name("formats.md")
BEGIN, END = "<!-- files: written by docs/formats.py -->", "<!-- end of files -->"
FOLDERS = ("tiff_odd/good", "tiff_odd/broken", "ome_tiff", "ome_tiff/multi_tiff", "ome_tiff/multifile", "wsi")
HEAD = "| file | what it is | what `unetcli prep` makes of it |\n|---|---|---|"


def what_it_is(path: Path) -> str:
    """Describe the first image of a file as tifffile sees it."""
    try:
        with tifffile.TiffFile(path) as tif:
            page, series = tif.series[0].keyframe, tif.series[0]
            parts = (
                f"{' x '.join(map(str, series.shape))} {series.dtype}",
                tifffile.PHOTOMETRIC(int(page.photometric)).name,
                compression_name(int(page.compression)),
                "tiled" if page.is_tiled else "strips",
                "BigTIFF" if tif.is_bigtiff else "",
                "big-endian" if tif.byteorder == ">" else "",
                f"{len(series.levels)} levels" if len(series.levels) > 1 else "",
                series.kind if series.kind in ("ome", "imagej", "svs") else "",
            )
    except Exception:  # a broken file is what this table is about
        return "OME-XML" if path.suffix == ".ome" else "not readable by tifffile"
    return ", ".join(str(part) for part in parts if part != "")


def compression_name(code: int) -> str:
    """Return the name of a compression, or its number."""
    return tifffile.COMPRESSION(code).name if code in set(tifffile.COMPRESSION) else str(code)


def outcome(path: Path, out: Path) -> str:
    """Convert a file; return what became of it, or why it was refused."""
    try:
        done = prep.run([path], out, PrepConfig(), overwrite=True)
    except InputError as error:
        return f"refused: {str(error).removeprefix(f'{path}: ')}"
    notes = "; ".join(done["notes"])
    return f"{done['size']} {done['dtype']}" + (f"; {notes}" if notes else "")


def rows(data: Path) -> Iterator[str]:
    """Yield the rows of the table."""
    with tempfile.TemporaryDirectory() as folder:
        for name in FOLDERS:
            for path in sorted(p for p in (data / name).iterdir() if p.suffix in (".tif", ".tiff", ".svs", ".ome")):
                what, became = what_it_is(path), outcome(path, Path(folder) / "out.zarr")
                shown = (f"`{name}/{path.name}`", what, became.replace(f"{path.parent}/", ""))
                yield "| " + " | ".join(text.replace("|", "\\|") for text in shown) + " |"


def main() -> None:
    """Renew the table."""
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    table = "\n".join([HEAD, *rows(Path(sys.argv[1]))])
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
