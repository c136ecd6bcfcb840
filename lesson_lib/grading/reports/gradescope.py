"""A student's results in the form that Gradescope reads from an autograder.

The form: gradescope-autograders.readthedocs.io, "Autograder Specifications", Output format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lesson_lib.grading.marks import PASSED, Grade
from lesson_lib.grading.reports.names import (
    NO_HAND_IN,
    VERDICTS,
    Run,
    answer_to,
    clean,
    label,
    mark_of,
    number,
    points,
    title,
    told,
    waiting,
)

LONG = 4_000  # characters of one text


def results_json(run: Run, grade: Grade, comments: Mapping[str, str]) -> str:
    """Return results.json. The score is the grade's total, so that lateness counts; each test shows the points before.

    An answer in words that waits for a person has no score yet, so that Gradescope does not mark it as failed.
    """
    attempt = grade.attempt
    lines = [f"{number(grade.total)} of {points(grade.possible)}."]
    lines += [attempt.late] if attempt and attempt.late else []
    lines += [] if attempt else [NO_HAND_IN]
    lines += ["Answers in words wait for a person."] if waiting(grade) else []
    lines += [] if run.complete else ["The run was not finished; points may still change."]
    lines += [run.rubric] if run.rubric else []
    seed = attempt.notebook.seed if attempt else run.seed
    lines.append(f"If you think that this is wrong, ask your instructor and name the exercise and the seed, {seed}.")
    found = {
        "score": round(grade.total, 4),
        "execution_time": round(attempt.notebook.seconds) if attempt else 0,
        "output": clean("\n".join(lines), LONG),
        "output_format": "text",
        "test_output_format": "text",
        "test_name_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "extra_data": {"lesson": run.lesson, "seed": seed, "sha256": attempt.notebook.digest if attempt else ""},
        "tests": [
            *(_exercise(grade, name) for name in grade.worth),
            *(_answer(run, grade, name, comments.get(name, "")) for name in grade.words_worth),
        ],
    }
    return json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _exercise(grade: Grade, exercise: str) -> dict[str, Any]:
    mark = mark_of(grade, exercise)
    test = _test(title(exercise), " ".join((*VERDICTS[mark.status], told(mark))).strip())
    earned = grade.attempt.points.get(exercise, 0.0) if grade.attempt else 0.0
    test |= {"score": round(earned, 4), "max_score": round(grade.worth[exercise], 4)}
    test["status"] = "passed" if mark.status == PASSED else "failed"
    return test | ({"number": label(exercise)} if label(exercise) else {})


def _answer(run: Run, grade: Grade, question: str, comment: str) -> dict[str, Any]:
    given, worth = grade.words.get(question), grade.words_worth[question]
    if given is None:
        note = answer_to(grade, question).note
        return _test(f"In words: {question}", " ".join((f"○ waits for a person ({points(worth)}).", note)).strip())
    test = _test(f"In words: {question}", "\n".join(["What earns the points:", *run.question(question)[1], comment]))
    status = "passed" if given >= worth else "failed"
    return test | {"score": round(given, 4), "max_score": round(worth, 4), "status": status}


def _test(name: str, output: str) -> dict[str, Any]:
    name, output = clean(name, 200), clean(output, LONG)
    return {"name": name, "output": output, "output_format": "text", "visibility": "visible"}
