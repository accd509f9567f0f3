"""The documentation's commands exist with the options that it writes, and the site builds."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from compress import catalogue, cli
from compress.core.stage import STAGES

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "operate").glob("*.md"), ROOT / "README.md"])


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield the words of every `secateur …` line, with the page's name."""
    for page in PAGES:
        for block in re.findall(r"^ *```sh\n(.*?)```", page.read_text(), flags=re.DOTALL | re.MULTILINE):
            for line in block.replace("\\\n", " ").splitlines():
                if line.strip().startswith("secateur "):
                    words = shlex.split(line.strip().split(" | ")[0], comments=True)
                    yield page.name, [word for word in words[1:] if not word.startswith((">", "&"))]


@pytest.fixture(scope="module")
def root() -> typer.core.TyperGroup:
    catalogue.load()
    cli.add_stage_commands()
    cli.add_plugin_commands()
    found = typer.main.get_command(cli.app)
    assert isinstance(found, typer.core.TyperGroup)
    return found


def test_every_command_takes_the_options_that_it_is_written_with(root: typer.core.TyperGroup) -> None:
    seen = 0
    for page, words in commands():
        command, rest = root, list(words)
        while rest and rest[0] in getattr(command, "commands", {}):
            command = command.commands[rest.pop(0)]
        assert not hasattr(command, "commands"), f"{page}: {words} names no command"
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        written = [word.partition("=")[0] for word in rest if re.fullmatch(r"--?[a-z][\w-]*(=.*)?", word)]
        assert [option for option in written if option not in known] == [], f"{page}: {' '.join(words)}"
        seen += 1
    assert seen >= 15


def test_every_stage_accepts_the_configuration_that_it_is_written_with(
    root: typer.core.TyperGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = []

    def run(stage: str, config: dict[str, Any], parents: dict[str, str], given: dict[str, Any]) -> None:
        parsed.append(STAGES[stage].extra["config"].from_json(config))

    monkeypatch.setattr(cli, "_run", run)
    written = [words for _, words in commands() if words[0] == "run" and "…" not in words]
    for words in written:
        root(words, standalone_mode=False)
    assert len(parsed) == len(written) >= 8
    assert any(getattr(config, "units", "channels") != "channels" for config in parsed)


def test_every_page_of_the_navigation_exists() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    nav = yaml.safe_load(text)["nav"]
    names = [name for item in nav for value in item.values() for name in (pages(value))]
    assert [name for name in names if name != "components.md" and not (ROOT / "docs" / name).is_file()] == []


def pages(value: object) -> list[str]:
    """Return the files below one entry of the navigation."""
    if isinstance(value, str):
        return [value]
    assert isinstance(value, list)
    return [name for item in value for inner in item.values() for name in pages(inner)]


@pytest.mark.slow
def test_the_site_builds_and_has_every_component(tmp_path: Path) -> None:
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [Path(sys.executable).parent / "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "components" / "index.html").read_text()
    readmes = [path.parent.name for path in (ROOT / "components").glob("*/component.py")]
    assert len(readmes) >= 15
    assert [name for name in readmes if f'id="{name}"' not in page] == []
