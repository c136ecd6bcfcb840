"""Every lesson's notebook: it is fresh, its stubs raise, its solutions pass every check.

That the committed student editions run green with no exercise filled is nbval's part: see `make test`.
"""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lesson_lib import ROOT
from lesson_lib.build.__main__ import Builder
from lesson_lib.build.execute import execute
from lesson_lib.build.sources import find_lessons
from lesson_lib.exercises import REGISTRY
from lesson_lib.exercises.ladder import examine

LESSONS = find_lessons(ROOT / "lessons")
EXERCISES = [key for key, exercise in REGISTRY.items() if any(p.name[:2] == exercise.lesson for p in LESSONS)]
each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


@cache
def builder() -> Builder:
    return Builder()


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@each_lesson
def test_committed_notebook_is_what_its_lesson_gives(path: Path) -> None:
    assert builder().stale(path.name[:2]) == []


@each_lesson
def test_student_edition_has_no_solution_in_it(path: Path) -> None:
    sources = {cell.metadata.name: cell.source for cell in code_cells(builder().build(path))}
    for exercise in builder().course.of_lesson(path.name[:2]).values():
        assert exercise.solution_source().strip() not in sources[f"exercise-{exercise.id}"]


def defined_by_stub(exercise_id: str) -> tuple[dict[str, Any], str]:
    """Run what a lesson takes from the library, down to one exercise; return the names and that cell's source.

    After every exercise above it the library's version takes the stub's place, as check does in a notebook.
    """
    exercise = REGISTRY[exercise_id]
    [path] = find_lessons(ROOT / "lessons", exercise.lesson)
    names: dict[str, Any] = {}
    for cell in code_cells(builder().build(path)):
        body = ast.parse(cell.source).body
        taken = cell.metadata.name.startswith(("exercise-", "source-"))
        keep = body if taken else [node for node in body if isinstance(node, (ast.Import, ast.ImportFrom))]
        keep = [node for node in keep if not (isinstance(node, ast.ImportFrom) and node.module == "__future__")]
        future = ast.parse("from __future__ import annotations").body  # IPython keeps it from cell to cell
        exec(compile(ast.Module([*future, *keep], []), cell.metadata.name, "exec"), names)
        if cell.metadata.name == f"exercise-{exercise_id}":
            return names, cell.source
        if cell.metadata.name.startswith("exercise-"):
            above = REGISTRY[cell.metadata.name.removeprefix("exercise-")]
            names[above.name] = above.target
    raise AssertionError(f"{path.name} has no cell for {exercise_id}")


@pytest.mark.parametrize("key", [key for key in EXERCISES if not REGISTRY[key].broken])
def test_stub_raises_not_implemented(key: str) -> None:
    names, source = defined_by_stub(key)
    exercise = REGISTRY[key]
    assert "raise NotImplementedError" in source
    report = examine(exercise, names[exercise.name])
    assert not report.attempted
    assert not report.passed
    with pytest.raises(NotImplementedError):
        call_once(exercise, names[exercise.name])


def call_once(exercise: Any, answer: Any) -> Any:
    case = next(exercise.cases(0, 1))
    if not exercise.resolved.method:
        return answer(*case.args, **case.kwargs)
    return getattr(answer(**case.build), exercise.resolved.method)(*case.args, **case.kwargs)


@pytest.mark.parametrize("key", [key for key in EXERCISES if REGISTRY[key].broken])
def test_broken_code_runs_and_fails_its_check(key: str) -> None:
    names, _ = defined_by_stub(key)
    exercise = REGISTRY[key]
    report = examine(exercise, names[exercise.name])
    assert report.attempted
    assert not report.passed
    assert report.mistake == exercise.broken
    told = next(mistake.sentence for mistake in exercise.mistakes if mistake.name == exercise.broken)
    assert told not in report.text()  # the untouched code must not give the bug away


@each_lesson
@pytest.mark.timeout(600)
def test_solved_edition_passes_every_check(path: Path) -> None:
    notebook = builder().build(path, "solved")
    cost = execute(notebook, ROOT / "notebooks", budget="smoke", strict=True, timeout=300)
    print(f"{path.stem} solved, smoke: {cost.seconds:.0f} s, {cost.peak_memory_mb:.0f} MB at its peak", file=sys.stderr)
