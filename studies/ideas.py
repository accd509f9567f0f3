"""Writes docs/ideas.md: `python -m studies.ideas`, or `--check` to see whether it is up to date.

One row an idea: the pieces whose cards name it, the studies that judge it, and their verdict.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compress import catalogue
from compress.core.registry import FAMILIES
from compress.studies.finder import find_study, study_names
from compress.studies.record import RANKING

ROOT = Path(__file__).resolve().parents[1]
SOURCE, TARGET = ROOT / "docs" / "ideas.toml", ROOT / "docs" / "ideas.md"
STUDIES = ROOT / "studies"

HEAD = """# The ideas

Written by `python -m studies.ideas` from `docs/ideas.toml`, the cards of the pieces and the studies' results.
A piece is written as *family* `name`; `secateur describe name` explains it, `secateur study 0001` runs a study. An idea
with neither piece nor study is not built yet, one without a verdict not judged yet.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the page; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m studies.ideas", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the page is out of date")
    options = parser.parse_args(arguments)
    catalogue.load()
    text = page(tomllib.loads(SOURCE.read_text()), pieces_by_idea(), verdicts_by_idea(STUDIES))
    if not options.check:
        TARGET.write_text(text)
        return 0
    if TARGET.is_file() and TARGET.read_text() == text:
        return 0
    print(f"{TARGET} is out of date: run `python -m studies.ideas`.", file=sys.stderr)
    return 1


def pieces_by_idea() -> dict[str, list[str]]:
    """Return "*family* name" of every registered piece by the ids on its card.

    Raises:
        ValueError: A card names an idea that docs/ideas.toml has not.
    """
    known = tomllib.loads(SOURCE.read_text())["ideas"]
    found: dict[str, list[str]] = defaultdict(list)
    for family in FAMILIES.values():
        for name in family:
            for idea in ids_of(family[name].idea):
                if idea not in known:
                    raise ValueError(f"{family.name} {name!r} names idea {idea!r}, which {SOURCE} has not.")
                found[idea].append(f"*{family.name}* `{name}`")
    return dict(found)


def ids_of(text: str) -> list[str]:
    """Return the ids on a card; several stand behind one another with commas.

    >>> ids_of("C9, D3"), ids_of("")
    (['C9', 'D3'], [])
    """
    return [part.strip() for part in text.split(",") if part.strip()]


def verdicts_by_idea(root: Path) -> dict[str, list[str]]:
    """Return by idea a line of Markdown for every study that judges it: a link, and the verdict if there is one."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in study_names(root):
        loaded = find_study(root, name)
        contents = ranked_results(loaded.folder / "results")
        link = f"[{loaded.number}](../studies/{name}/README.md)"
        for idea in loaded.study.ideas:
            found[idea].append(f"{link}: {_verdict(contents, idea)}")
    return dict(found)


def _verdict(contents: Sequence[Mapping[str, Any]], idea: str) -> str:
    """Return what is said of the idea by the most telling results that have a word on it, complete or not.

    Where no results have one, it is the headline of those that never do, of complete ones first.
    """
    own = [(results, results["ideas"].get(idea)) for results in contents]
    complete_first = sorted(contents, key=lambda results: bool(results["missing"]))
    own += [(results, results["headline"]) for results in complete_first if idea not in results["ideas"]]
    for results, said in own:
        if said:
            return f"{said} ({results['preset']}{', not complete' if results['missing'] else ''})"
    return "not run yet" if not contents else "not judged yet"


def ranked_results(folder: Path) -> list[dict[str, Any]]:
    """Return the committed results of all presets, the most telling first."""
    return [json.loads(path.read_text()) for preset in RANKING if (path := folder / f"{preset}.json").is_file()]


def page(source: Mapping[str, Any], pieces: Mapping[str, list[str]], verdicts: Mapping[str, list[str]]) -> str:
    """Return the whole page."""
    ideas: Mapping[str, str] = source["ideas"]
    done_by: Mapping[str, list[str]] = source["done_by"]
    lines = [HEAD]
    for letter, title in source["parts"].items():
        lines += [f"## {letter} · {title}", "", "| id | idea | pieces | studies and verdicts |", "|---|---|---|---|"]
        for idea, what in ideas.items():
            if idea.rstrip("0123456789") == letter:
                own = [*pieces.get(idea, []), *(f"`{place}`" for place in done_by.get(idea, []))]
                cells = (idea, what, ", ".join(own), "<br>".join(verdicts.get(idea, [])))
                lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
