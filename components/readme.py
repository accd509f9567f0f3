"""`python -m components.readme [--check]`: write each component's README from its signature, or compare."""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Return the components' names: the folders that hold a component.py."""
    return sorted(path.parent.name for path in FOLDER.glob("*/component.py"))


def component(name: str) -> Any:
    """Return a component by its name."""
    return getattr(importlib.import_module(f"components.{name}.component"), name)


def readme(name: str) -> str:
    """Return the README of a component, from its signature, docstring and metadata."""
    import yaml
    from docstring_parser import parse

    made = component(name)
    text = parse(inspect.getdoc(made.python_func) or "")
    about = {item.arg_name: " ".join((item.description or "").split()) for item in text.params}
    spec, meta = made.component_spec, yaml.safe_load((FOLDER / name / "metadata.yaml").read_text())
    needs = [f"{item['name']} {item['version']}" for item in meta["dependencies"]["kubeflow"]]
    services = [f"{item['name']} {item['version']}" for item in meta["dependencies"].get("external_services", [])]
    parts = [
        f"# {name}",
        text.short_description or "",
        text.long_description or "",
        "## Inputs",
        _table(("name", "type", "default", "what"), _inputs(spec, about)),
        "## Outputs",
        _table(("name", "type", "what"), _outputs(spec, about, _returned(made.python_func))),
        "## Use",
        f"```python\nfrom components.{name}.component import {name}\n\n{_call(name, spec)}\n```",
        f"Stability: {meta['stability']}. Needs {', '.join([*needs, *services])}. Tags: {', '.join(meta['tags'])}.",
        "Made by `python -m components.readme`; change the signature or the docstring instead.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _inputs(spec: Any, about: dict[str, str]) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, item in (spec.inputs or {}).items():
        default = f"`{item.default!r}`" if item.optional else "required"
        found.append((f"`{name}`", item.type.removeprefix("typing."), default, about.get(name, "")))
    return found


def _outputs(spec: Any, about: dict[str, str], returned: dict[str, str]) -> list[tuple[str, ...]]:
    return [
        (f"`{name}`", item.type.split("@")[0], about.get(name) or returned.get(name) or returned.get("", ""))
        for name, item in (spec.outputs or {}).items()
    ]


def _returned(function: Any) -> dict[str, str]:
    """Return the docstring's section about what is returned, by name; under "" when it names nothing."""
    section = (inspect.getdoc(function) or "").partition("Returns:\n")[2]
    lines = [line.strip() for line in section.splitlines() if line.strip()]
    named = dict(line.split(": ", 1) for line in lines if line.split(": ")[0].isidentifier() and ": " in line)
    return named or {"": " ".join(lines)}


def _call(name: str, spec: Any) -> str:
    required = [item for item, kind in (spec.inputs or {}).items() if not kind.optional]
    return f"task = {name}({', '.join(f'{item}=…' for item in required)})"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = (head, ("---",) * len(head), *rows)
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def main(arguments: list[str] | None = None) -> int:
    """Write or compare; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m components.readme", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, and fail when one differs")
    options = parser.parse_args(arguments)
    stale = []
    for name in names():
        path, text = FOLDER / name / "README.md", readme(name)
        if not options.check:
            path.write_text(text)
        elif not path.is_file() or path.read_text() != text:
            stale.append(name)
    if stale:
        print(f"READMEs of {', '.join(stale)} are not what the signatures say: run `make readmes`.", file=sys.stderr)
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
