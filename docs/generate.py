"""Write the options of each command, and the table of presets, into the pages, between marks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from unetcli.presets import preset_table

PAGES = Path(__file__).parent / "commands"
OPTIONS, PRESETS, END = (
    "<!-- options: written by make docs -->",
    "<!-- presets: written by make docs -->",
    "<!-- end -->",
)


def help_text(command: str) -> str:
    """Return what ``unetcli COMMAND --help`` prints at 110 columns, without trailing blanks."""
    environment = {**os.environ, "COLUMNS": "110", "TERM": "dumb", "NO_COLOR": "1"}
    script = "import sys; sys.argv[0] = 'unetcli'; from unetcli.cli import main; main()"
    arguments = [sys.executable, "-c", script, command, "--help"]
    shown = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment).stdout
    return "\n".join(line.rstrip() for line in shown.strip().splitlines())


def presets_text() -> str:
    """Return in what the presets differ, as a table of Markdown."""
    head, *rows = (f"| {' | '.join(row)} |" for row in preset_table())
    return "\n".join([head, "|---" * head.count(" | ") + "|---|", *rows])


def with_help(page: str, command: str) -> str:
    """Return a page with the options of its command renewed, and the table of presets where it has one."""
    page = _between_marks(page, OPTIONS, f"```\n{help_text(command)}\n```")
    return _between_marks(page, PRESETS, f"\n{presets_text()}\n") if PRESETS in page else page


def _between_marks(page: str, begin: str, text: str) -> str:
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n{text}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Renew all pages."""
    for file in sorted(PAGES.glob("*.md")):
        if file.stem != "index":
            file.write_text(with_help(file.read_text(), file.stem))


if __name__ == "__main__":
    main()
