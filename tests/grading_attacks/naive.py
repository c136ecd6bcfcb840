"""A grader as they are usually written: it runs the notebook's cells in its own process and compares there.

It exists to be cheated. An attack that gets a wrong answer past it is an attack that works; the course's grader has to
give the same notebook nothing. Run as a program, it prints which exercises it gives to each attack that names one of
its comparisons: only those are harmless enough to run outside a sandbox.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lesson_lib import dit
from lesson_lib.exercises import REGISTRY, ladder
from lesson_lib.exercises.attempt import prepared
from lesson_lib.exercises.core import Case, Exercise

SECONDS = 20


def _allclose(got: Any, expected: Any) -> bool:
    return bool(torch.allclose(got, expected, atol=1e-5))


def _assert_close(got: Any, expected: Any) -> bool:
    try:
        torch.testing.assert_close(got, expected)
    except AssertionError:
        return False
    return True


def _equals(got: Any, expected: Any) -> bool:
    same = got == expected
    return bool(same.all()) if hasattr(same, "all") else bool(same)


def _item_by_item(got: Any, expected: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def _numpy(got: Any, expected: Any) -> bool:
    got, expected = (value.numpy() if hasattr(value, "numpy") else value for value in (got, expected))
    try:
        np.testing.assert_allclose(got, expected, atol=1e-5)
    except AssertionError:
        return False
    return True


def _largest_error(got: Any, expected: Any) -> bool:
    return not (got - expected).abs().max() > 1e-5


COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "allclose": _allclose,
    "assert_close": _assert_close,
    "==": _equals,
    "item by item": _item_by_item,
    "numpy": _numpy,
    "largest error": _largest_error,
}


def points(notebook: dict[str, Any], comparison: str) -> list[str]:
    """Run a notebook's exercise cells and those that a student added; return the exercises that get points.

    comparison: a key of COMPARISONS, or "check", the notebooks' own ladder in this process.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    exec("import torch\nimport torch.nn.functional as F\nfrom torch import Tensor, nn", names)
    exec("from dataclasses import replace\nfrom lesson_lib.dit import *", names)
    exec("from lesson_lib.exercises import REGISTRY, check", names)
    versions: dict[str, Any] = {}
    for cell in notebook["cells"]:
        label = cell["metadata"].get("name", "exercise-")
        if cell["cell_type"] == "code" and label.startswith("exercise-"):
            exec(compile("".join(cell["source"]), "<cell>", "exec"), names)
            key = label.removeprefix("exercise-")
            versions[key] = names[REGISTRY[key].name] if key else None
    return [key for key, answer in versions.items() if key and _passes(REGISTRY[key], answer, comparison)]


def _passes(exercise: Exercise, answer: Any, comparison: str) -> bool:
    try:
        if comparison == "check":
            return bool(ladder.examine(exercise, answer).passed)
        return all(_right(exercise, answer, case, comparison) for case in exercise.cases(0, 2))
    except Exception:
        return False


def _right(exercise: Exercise, answer: Any, case: Case, comparison: str) -> bool:
    mine, theirs = case.copy(), case.copy()
    target = exercise.target if exercise.target is not answer else getattr(dit, exercise.name)
    expected = prepared(exercise, target, mine)(*mine.args, **mine.kwargs)
    got = prepared(exercise, answer, theirs)(*theirs.args, **theirs.kwargs)
    return COMPARISONS[comparison](got, expected)


def in_a_process_of_its_own(notebook: dict[str, Any], comparison: str) -> list[str]:
    """Return points(notebook, comparison) from a child that may do to its own torch what it likes."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "points.json"
        child = os.fork()
        if child == 0:
            try:
                resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
                with open(os.devnull, "w") as nowhere:
                    sys.stdout = nowhere
                    told.write_text(json.dumps(points(notebook, comparison)))
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        return json.loads(told.read_text()) if told.exists() else ["ended early"]


def main() -> None:
    """Print what this grader gives to every attack that is aimed at it, as JSON: name → exercises."""
    from grading_attacks import ENTRIES
    from grading_attacks.notebooks import FILE, handed_out

    points(handed_out(), "allclose")  # what every process needs is loaded once, before they part
    found = {}
    for entry in ENTRIES:
        if entry.fools:
            with tempfile.TemporaryDirectory() as folder:
                entry.build(Path(folder))
                notebook = json.loads((Path(folder) / FILE).read_text(encoding="utf-8"))
            found[entry.name] = in_a_process_of_its_own(notebook, entry.fools)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
