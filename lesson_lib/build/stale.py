"""Freshness: says where a committed notebook differs from what its lesson gives now; outputs are not compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write(notebook: Any) -> str:
    """Return a notebook as the text that is committed: sorted keys, one space of indentation, a last newline.

    Raises nbformat's ValidationError where it is no notebook.
    """
    import nbformat

    nbformat.validate(notebook)
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def differences(path: Path, fresh: Any) -> list[str]:
    """Return a sentence for each way in which the notebook at `path` is not the freshly built one (none: it is fresh).

    Compared: cell ids, kinds, sources, names, tags and the notebook's metadata. Also found: code cells that were
    never executed.
    """
    if not path.exists():
        return [f"{path.name} is missing"]
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        cells = {cell["id"]: cell for cell in stored["cells"]}
    except (ValueError, KeyError, TypeError) as problem:
        return [f"{path.name} cannot be read as a notebook ({type(problem).__name__}: {problem})"]
    found = []
    for cell in fresh.cells:
        old = cells.pop(cell.id, None)
        name = cell.metadata.get("name", cell.id)
        if old is None:
            found.append(f"cell {name!r} is missing")
        else:
            found += [f"cell {name!r}: {what}" for what in _cell_differences(old, cell)]
    found += [f"cell {key!r} is in no lesson" for key in cells]
    if not found and [cell["id"] for cell in stored["cells"]] != [cell.id for cell in fresh.cells]:
        found.append("the cells are in another order")
    if stored.get("metadata") != fresh.metadata:
        found.append("the notebook's metadata differs")
    return [f"{path.name}: {sentence}" for sentence in found]


def _cell_differences(old: dict[str, Any], fresh: Any) -> list[str]:
    source = old["source"] if isinstance(old["source"], str) else "".join(old["source"])
    found = [
        what
        for what, same in (
            ("its kind differs", old["cell_type"] == fresh.cell_type),
            ("its source differs", source == fresh.source),
            ("its name or tags differ", old["metadata"] == fresh.metadata),
        )
        if not same
    ]
    if not found and old["cell_type"] == "code" and source.strip() and old.get("execution_count") is None:
        found.append("it was never executed")
    return found


def orphans(notebooks: Path, stems: set[str]) -> list[str]:
    """Return a sentence for each notebook that no lesson makes."""
    names = sorted(path.name for path in notebooks.glob("*.ipynb") if path.stem not in stems)
    return [f"{name} has no lesson; remove it" for name in names]


def keep_outputs(path: Path, fresh: Any) -> bool:
    """Copy the stored outputs into a fresh notebook if its code is unchanged; return whether they were kept.

    So a change of words needs no new execution. With any code cell changed, none are kept: a cell's output depends on
    those above it.
    """
    if not path.exists():
        return False
    import nbformat

    stored = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
    old = [cell for cell in stored.cells if cell.cell_type == "code"]
    new = [cell for cell in fresh.cells if cell.cell_type == "code"]
    if [(c.get("id"), c.source) for c in old] != [(c.id, c.source) for c in new]:
        return False
    for before, cell in zip(old, new, strict=True):
        cell.outputs, cell.execution_count = before.outputs, before.execution_count
    return True
