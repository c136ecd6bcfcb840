"""Packs what students get: notebooks without solutions, a page that says how to start, and checksums."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lesson_lib.build.expand import Course
from lesson_lib.build.sources import BuildError
from lesson_lib.exercises import LESSONS, REGISTRY

EPOCH = (1980, 1, 1, 0, 0, 0)


def release(notebooks: Sequence[Path], course: Course, target: Path) -> str:
    """Write a zip of notebooks for students and return its sha256; the same notebooks give the same bytes.

    notebooks: the committed student editions. Raises BuildError where one of them holds an exercise that is solved.
    """
    files = {f"notebooks/{path.name}": path.read_bytes() for path in notebooks}
    for name, data in files.items():
        solved = solved_exercises(json.loads(data))
        if solved:
            raise BuildError(f"{name} holds the solution of {', '.join(solved)}; students would get it. Not packed.")
    files["START.md"] = _start(notebooks, course).encode()
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items()))
    files["SHA256SUMS"] = sums.encode()
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(files.items()):
            member = zipfile.ZipInfo(name, EPOCH)
            member.external_attr = 0o644 << 16
            archive.writestr(member, data, zipfile.ZIP_DEFLATED, 9)
    return hashlib.sha256(target.read_bytes()).hexdigest()


def solved_exercises(notebook: Any) -> list[str]:
    """Name the exercises whose handed-out stub is not among a notebook's cells, though it checks them."""
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    found = []
    for key, exercise in REGISTRY.items():
        checked = any(f'check("{key}"' in cell for cell in cells)
        if checked and not any(exercise.stub_source().strip() in cell for cell in cells):
            found.append(key)
    return found


def _start(notebooks: Sequence[Path], course: Course) -> str:
    lines = ["# How to start", ""]
    for path in notebooks:
        card = LESSONS[path.name[:2]]
        colab = f"[open it on Colab]({course.repository.colab(path.stem)})"
        lines += [f"- **{card.number} {card.title}**: {card.question} About {card.minutes} minutes; {colab}."]
    lines += [
        "",
        "On Colab: follow the link, then *File › Save a copy in Drive*; your work is saved in your own copy.",
        f"On your machine: `git clone {course.repository.address}`, then `make lab` inside; open the notebook there.",
        "",
        "Press *Run All* first: everything runs with the exercises unfilled. Then write them; each tells you what is",
        "wrong. Hand in the `.ipynb` file itself (*File › Download*). Only what your cells say is graded, not their",
        "outputs, and it does not matter on which machine you ran it.",
        "",
    ]
    return "\n".join(lines)
