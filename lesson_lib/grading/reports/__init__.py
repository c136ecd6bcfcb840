"""What a run leaves in OUT: grades.csv, a page for each student, the class report, the sheet of answers in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lesson_lib.grading.marks import Grade, Notebook, write_whole
from lesson_lib.grading.reports.classroom import class_page
from lesson_lib.grading.reports.gradescope import results_json
from lesson_lib.grading.reports.names import Run
from lesson_lib.grading.reports.prose import merge, read_words, write_prose
from lesson_lib.grading.reports.sheets import copies_csv, grades_csv
from lesson_lib.grading.reports.student import student_page

if TYPE_CHECKING:
    from lesson_lib.grading.copies import Pair

__all__ = ["Run", "read_words", "write_reports"]


def write_reports(
    out: Path, run: Run, grades: list[Grade], notebooks: list[Notebook], problems: list[str], pairs: list[Pair]
) -> None:
    """Write grades.csv, prose.csv, class.html, copies.csv and, in students/, a page and a results.json for each.

    notebooks: all of them, for the times. problems: what the run met, a sentence each. pairs: answers that are alike.
    Every page and sheet is made before the first is written. Raises ValueError, and writes nothing, where a student's
    key cannot be a file's name or where OUT/prose.csv cannot be read.
    """
    _check_keys(grades)
    merged = merge(out / "prose.csv", run, grades)
    files: dict[str, str | bytes] = {}
    for grade in grades:
        key = grade.student.key
        comments = {question: told for (student, question), told in merged.comments.items() if student == key}
        files[f"students/{key}.html"] = student_page(run, grade, comments)
        files[f"students/{key}.results.json"] = results_json(run, grade, comments)
    files["grades.csv"] = grades_csv(grades, run.complete)
    files["copies.csv"] = copies_csv(pairs, {grade.student.key: grade.student.name for grade in grades})
    left = [f"{name} is of an earlier run: nobody in this one has this key." for name in _left_over(out, files)]
    files["class.html"] = class_page(run, grades, notebooks, [*problems, *merged.gone, *left], pairs)
    write_prose(out / "prose.csv", merged.content)
    for name, content in files.items():
        write_whole(out / name, content)


def _check_keys(grades: Sequence[Grade]) -> None:
    keys = [grade.student.key for grade in grades]
    for key in keys:
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,119}", key):
            raise ValueError(f"the key {key!r} cannot be a file's name; use letters, digits, - _ and .")
    if len({key.lower() for key in keys}) < len(keys):
        twice = next(key for i, key in enumerate(keys) if key.lower() in {other.lower() for other in keys[:i]})
        raise ValueError(f"two students have the key {twice}; their pages would be one file")


def _left_over(out: Path, files: dict[str, str | bytes]) -> list[str]:
    """Return the pages of students who are not in this run; they are left where they are."""
    found = sorted(f"students/{path.name}" for path in (out / "students").glob("*.html"))
    return [name for name in found if name not in files]
