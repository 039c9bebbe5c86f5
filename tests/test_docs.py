"""The documentation can not fall behind the commands."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from unetcli.cli import click_commands

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
from generate import with_help  # noqa: E402

COMMANDS = sorted(click_commands())
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_a_page_with_its_options(command):
    page = (ROOT / "docs" / "commands" / f"{command}.md").read_text()
    assert with_help(page, command) == page, "run `make docs`"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_index_names_each_command(command):
    assert f"({command}.md)" in (ROOT / "docs" / "commands" / "index.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_readme_starts_with_the_two_commands():
    code = re.findall(r"```\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert [line.split("#")[0].strip() for line in code[0].strip().splitlines()] == ["make demo", "make test"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_text_exist(page):
    for line in re.findall(r"^unetcli (\S+)", page.read_text(), flags=re.MULTILINE):
        assert line in COMMANDS
