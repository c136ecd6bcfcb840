"""A class of invented students, to try the grader with before anybody has handed in."""

from __future__ import annotations

import ast
import copy
import inspect
import json
import random
import sys
from pathlib import Path
from typing import Any

from lesson_lib import ROOT
from lesson_lib.exercises import LESSONS, PROSE, REGISTRY
from lesson_lib.exercises.core import Exercise, Mistake
from lesson_lib.exercises.source import imports_for_text, source_of_mistake, without_body

FIRST = (
    "Ada",
    "Bela",
    "Chidi",
    "Dalia",
    "Emeka",
    "Farah",
    "Goro",
    "Hana",
    "Ines",
    "Jonas",
    "Kofi",
    "Lena",
    "Mira",
    "Noor",
)
LAST = (
    "Abebe",
    "Bauer",
    "Costa",
    "Diallo",
    "Endo",
    "Farkas",
    "Gupta",
    "Haddad",
    "Ito",
    "Jansen",
    "Kaya",
    "Lopez",
    "Novak",
)
WORDS = (
    "the",
    "gate",
    "scale",
    "shift",
    "token",
    "is",
    "was",
    "measured",
    "over",
    "five",
    "seeds",
    "interval",
    "larger",
)


def practice(folder: Path, lesson: str, count: int, seed: int = 0) -> list[Path]:
    """Write hand-ins of one lesson as Moodle would export them; return their paths.

    Each exercise of each is right, wrong in a known way, or as it was handed out. The same seed gives the same class.
    Raises ValueError where there is no such lesson or the folder is not empty.
    """
    if lesson not in LESSONS:
        raise ValueError(f"there is no lesson {lesson!r}; the lessons are {', '.join(LESSONS)}")
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; choose another folder")
    name = f"{lesson}_{LESSONS[lesson].slug}.ipynb"
    handed_out = json.loads((ROOT / "notebooks" / name).read_text(encoding="utf-8"))
    for cell in handed_out["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    draw, written = random.Random(seed), []
    everybody = [f"{first} {last}" for first in FIRST for last in LAST]
    if count > len(everybody):
        raise ValueError(f"there are names for {len(everybody)} students, not for {count}")
    people = draw.sample(everybody, count)
    for number, person in enumerate(people, 1):
        path = folder / f"{person}_{1_000_000 + number}_assignsubmission_file_" / name
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(_answered(handed_out, lesson, draw)), encoding="utf-8")
        written.append(path)
    return written


def _answered(handed_out: dict[str, Any], lesson: str, draw: random.Random) -> dict[str, Any]:
    notebook = copy.deepcopy(handed_out)
    diligence = draw.choice((1.0, 0.9, 0.7, 0.4))
    for exercise in (e for e in REGISTRY.values() if e.lesson == lesson):
        text = exercise.solution_source() if draw.random() < diligence else draw.choice(_wrong(exercise))
        for cell in notebook["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and exercise.stub_source().strip() in source:
                cell["source"] = source.replace(exercise.stub_source().strip(), text.strip())
                break
    for question in (q for q in PROSE.values() if q.lesson == lesson):
        words = " ".join(draw.choices(WORDS, k=draw.randint(question.min_words, question.max_words)))
        for cell in notebook["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and f'prose("{question.id}"' in source and draw.random() < diligence:
                cell["source"] = f'prose("{question.id}", """{words}""")'
    return notebook


def _wrong(exercise: Exercise) -> list[str]:
    """Return the stub and the known mistakes that can be written into a notebook."""
    found = [exercise.stub_source()]
    for mistake in exercise.mistakes:
        text = _as_text(exercise, mistake)
        if not text:
            continue
        needs = imports_for_text(text, sys.modules[mistake.function.__module__])
        if not any("lesson_lib.exercises" in line for line in needs):
            found.append("\n".join([*needs, text]))
    return found


def _as_text(exercise: Exercise, mistake: Mistake) -> str:
    """Return a mistake as the code of a notebook, or nothing where it leans on what only its module has."""
    function = mistake.function
    code = getattr(function, "__code__", None)
    if code is None or code.co_freevars:
        return ""
    if function.__name__ != "<lambda>":
        return source_of_mistake(function, exercise.path)
    tree = ast.parse(inspect.getsource(sys.modules[function.__module__]))
    line = next(n for n in ast.walk(tree) if isinstance(n, ast.Lambda) and n.lineno == code.co_firstlineno)
    wanted = list(inspect.signature(exercise.resolved.function).parameters)
    if list(inspect.signature(function).parameters) != wanted:
        return ""
    return without_body(exercise.path, f"return {ast.unparse(line.body)}")
