"""Forks: writes another repository's address into every place that carries one, without executing anything."""

from __future__ import annotations

import json
import re
from pathlib import Path

from lesson_lib.build.repository import BADGE_HOST, HOST, SETUP_NAME, Repository, read_repository

BLOCK = re.compile(r"(<!-- course:(\w+) -->).*?(<!-- /course:\2 -->)", re.DOTALL)
PAGES = ("README.md", "CONTRIBUTING.md", ".github/**/*.md", ".github/**/*.yml")


def fork(root: Path, slug: str) -> list[Path]:
    """Restamp the course below `root` for the repository `slug` (owner/name) and return the files that changed.

    Changed: lesson_lib/repository.txt; set-up cells and title cards of the notebooks, their outputs kept; in the
    README, CONTRIBUTING and
    .github pages what stands between `<!-- course:NAME -->` and `<!-- /course:NAME -->`. Raises BuildError for a name
    that is no owner/name.
    """
    old, new = read_repository(root), Repository(slug)
    changed = []
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        changed += _rewrite(path, _restamp_notebook(path.read_text(encoding="utf-8"), old, new))
    for path in sorted({path for pattern in PAGES for path in root.glob(pattern)}):
        text = path.read_text(encoding="utf-8")
        changed += _rewrite(path, BLOCK.sub(lambda block: restamp(block[0], old, new), text))
    return changed + _rewrite(root / "lesson_lib" / "repository.txt", new.address + "\n")


def restamp(text: str, old: Repository, new: Repository) -> str:
    """Return a text with the old repository's GitHub and Colab addresses replaced by the new one's."""
    hosts = "|".join(re.escape(host) for host in (HOST, BADGE_HOST))
    return re.sub(rf"({hosts}){re.escape(old.slug)}(?![\w-])", lambda found: found[1] + new.slug, text)


def _restamp_notebook(text: str, old: Repository, new: Repository) -> str:
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        if cell["metadata"].get("name") == SETUP_NAME or cell["cell_type"] == "markdown":
            whole = isinstance(cell["source"], str)
            source = restamp(cell["source"] if whole else "".join(cell["source"]), old, new)
            cell["source"] = source if whole else source.splitlines(keepends=True)
    return json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def _rewrite(path: Path, text: str) -> list[Path]:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return []
    path.write_text(text, encoding="utf-8")
    return [path]
