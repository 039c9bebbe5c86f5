"""Write the options of each command into its page, between two marks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PAGES = Path(__file__).parent / "commands"
BEGIN, END = "<!-- options: written by make docs -->", "<!-- end -->"


def help_text(command: str) -> str:
    """Return what ``unetcli COMMAND --help`` prints at 110 columns, without trailing blanks."""
    environment = {**os.environ, "COLUMNS": "110", "TERM": "dumb", "NO_COLOR": "1"}
    script = "import sys; sys.argv[0] = 'unetcli'; from unetcli.cli import main; main()"
    arguments = [sys.executable, "-c", script, command, "--help"]
    shown = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment).stdout
    return "\n".join(line.rstrip() for line in shown.strip().splitlines())


def with_help(page: str, command: str) -> str:
    """Return a page with the options of its command renewed."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n```\n{help_text(command)}\n```\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Renew all pages."""
    for file in sorted(PAGES.glob("*.md")):
        if file.stem != "index":
            file.write_text(with_help(file.read_text(), file.stem))


if __name__ == "__main__":
    main()
