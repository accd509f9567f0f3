"""MkDocs builds one page of all components from the READMEs beside them, so that none is written twice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def on_files(files: Any, config: Any) -> Any:
    """Add `components.md` to what MkDocs renders."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "components.md", content=components()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Let links that leave `docs` lead nowhere but to their file's name: the site holds `docs` alone."""
    return re.sub(r"\[([^\]]+)\]\((?:\.\./)+(?!.*docs/)[^)]*\)", r"\1", markdown)


def components() -> str:
    """Return the page: every component's README, one heading deeper."""
    texts = [path.read_text() for path in sorted((ROOT / "components").glob("*/README.md"))]
    deeper = (re.sub(r"^#", "##", text, flags=re.MULTILINE) for text in texts)
    return "# Components\n\nOne component a stage; they share one image.\n\n" + "\n".join(deeper)
