"""What a notebook calls: check an answer, note a guess and come back to it, answer in words, see the score."""

from __future__ import annotations

import difflib
import os
import re
from typing import Any, TypeVar

from lesson_lib import diagrams
from lesson_lib.exercises import saved
from lesson_lib.exercises.core import Exercise, Question, counted
from lesson_lib.exercises.ladder import Report, examine
from lesson_lib.exercises.registry import LESSONS, PROSE, QUESTIONS, REGISTRY
from lesson_lib.results import folded
from lesson_lib.widgets import front_end

T = TypeVar("T")


class CheckFailed(AssertionError):
    """An answer that is missing or wrong, where LESSON_STRICT=1 asks for an error instead of a line of text."""


def check(exercise_id: str, answer: T) -> T:
    """Judge an answer, say what is wrong or that nothing is, and return the version the lesson goes on with.

    answer: the learner's function, or the whole class where the exercise is a method. Returned when it is right;
    otherwise the library's own takes its place, so that the cells below run. Raises KeyError for an unknown id and,
    only with LESSON_STRICT=1, CheckFailed for an answer that is missing or wrong.
    """
    exercise = REGISTRY[exercise_id]
    report = examine(exercise, answer)
    _say(report.text())
    if answer is exercise.target:
        print("  (This is the library's own version: nothing is scored.)")
    else:
        _remember(exercise, report)
    if report.passed:
        return answer
    if os.environ.get("LESSON_STRICT") == "1":
        raise CheckFailed(report.text())
    return exercise.target  # type: ignore[no-any-return]


def _say(text: str) -> None:
    """Print a text line by line, each folded between words and indented as it began, or as text after its mark."""
    for line in text.splitlines():
        began = line[: len(line) - len(line.lstrip())]
        print(folded(line, indent="  " if line[:1] in "✓✗○" else began))


def _remember(exercise: Exercise, report: Report) -> None:
    """Note the attempt. Points once earned stay; a stub that was not touched leaves no trace."""
    if not report.attempted:
        return
    before = saved.load()["exercises"].get(exercise.id, {})
    earned = report.passed or bool(before.get("passed"))
    tries = before.get("tries")
    entry = {"passed": earned, "tries": (tries if isinstance(tries, int) else 0) + 1, "last": report.rung or "passed"}
    saved.record("exercises", exercise.id, entry)


def score(lesson: str | None = None) -> None:
    """Print the points of every lesson, or of every exercise of one lesson such as "01"."""
    done = saved.load()
    passed = {key for key, entry in done["exercises"].items() if entry.get("passed") is True}
    if lesson is None:
        rows = [("lesson", "solved", "points")]
        everything = list(REGISTRY.values())
        for number, card in LESSONS.items():
            rows.append((f"{number} {card.title}", *_counts([e for e in everything if e.lesson == number], passed)))
        rows.append(("all", *_counts(everything, passed)))
    else:
        card = LESSONS[lesson]
        rows = [(f"{lesson} {card.title}", "solved", "points")]
        exercises = [e for e in REGISTRY.values() if e.lesson == lesson]
        rows += [(f"{e.label} {e.title}", "✓" if e.id in passed else "", _counts([e], passed)[1]) for e in exercises]
        rows += [
            (f"in words: {_first_words(p.text)}", "written" if p.id in done["prose"] else "", f"? / {p.points}")
            for p in PROSE.values()
            if p.lesson == lesson
        ]
        rows.append(("all", *_counts(exercises, passed)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print(f"{row[0]:<{widths[0]}}   {row[1]:>{widths[1]}}   {row[2]:>{widths[2]}}")


def progress() -> None:
    """Draw the map of the course with your points, and say which lesson comes next. Nothing leaves the machine."""
    done = saved.load()["exercises"]
    points = {number: (0, 0) for number in LESSONS}
    for exercise in REGISTRY.values():
        earned, possible = points[exercise.lesson]
        passed = done.get(exercise.id, {}).get("passed") is True
        points[exercise.lesson] = (earned + exercise.points * passed, possible + exercise.points)
    earned, possible = (sum(column) for column in zip(*points.values(), strict=True))
    following = next((number for number, (have, worth) in points.items() if have < worth), None)
    print(f"{earned} of {possible} points")
    said = ", ".join(f"{number} {have} of {worth}" for number, (have, worth) in points.items())
    diagrams.course_map(
        alt=f"Map of the course with the points earned in each lesson: {said}",
        here=following if following in diagrams.LESSONS else None,
        points={number: pair for number, pair in points.items() if number in diagrams.LESSONS},
    )
    for number in points.keys() - diagrams.LESSONS.keys():
        print(f"{number} · {LESSONS[number].title}, which is not on the map: {' of '.join(map(str, points[number]))}")
    if following is None:
        print("Every exercise of the course is solved.")
    else:
        print(f"The next exercise waits in lesson {following} · {LESSONS[following].title}.")


def _counts(exercises: list[Exercise], passed: set[str]) -> tuple[str, str]:
    solved = [e for e in exercises if e.id in passed]
    points = f"{sum(e.points for e in solved)} / {sum(e.points for e in exercises)}"
    return f"{len(solved)} of {len(exercises)}", points


def _first_words(text: str) -> str:
    words = text.split()
    return " ".join(words[:6]) + (" …" if len(words) > 6 else "")


def predict(question_id: str, guess: str | float | None = None) -> None:
    """Ask for a guess and keep it: with buttons where a notebook is open, or as predict("id", guess) anywhere."""
    question = QUESTIONS[question_id]
    _say(question.text)
    asked = " · ".join(question.choices) or f"a number{f' ({question.unit})' if question.unit else ''}"
    _say(f"  {asked}")
    if guess is not None:
        _keep_guess(question, guess)
    else:
        kept = saved.load()["guesses"].get(question_id)
        print(f"  Your guess so far: {kept}" if kept is not None else "  No guess yet.")
        _show_controls(question, kept)


def _keep_guess(question: Question, guess: str | float) -> bool:
    if question.choices and guess not in question.choices:
        print(f"  {guess!r} is none of the choices: {', '.join(question.choices)}.")
        return False
    if not question.choices and (isinstance(guess, bool) or not isinstance(guess, int | float)):
        print(f"  {guess!r} is not a number.")
        return False
    saved.record("guesses", question.id, guess)
    print(f"  Noted: {guess}{'' if question.choices else ' ' + question.unit}")
    return True


def _show_controls(question: Question, kept: Any) -> None:
    """Show radio buttons or a number field where a live notebook can draw them."""
    if not front_end():
        return
    import ipywidgets
    from IPython.display import display

    if question.choices:
        field: Any = ipywidgets.RadioButtons(
            options=list(question.choices),
            value=kept if kept in question.choices else None,
            layout=ipywidgets.Layout(width="max-content"),  # else long choices lie over each other
        )
    else:
        field = ipywidgets.FloatText(
            value=kept if isinstance(kept, int | float) else 0.0,
            description=question.unit,
            style={"description_width": "initial"},  # else a long unit is cut off
        )
    note, button = ipywidgets.Label(), ipywidgets.Button(description="keep my guess")

    def keep(_: Any) -> None:
        if field.value is None:
            note.value = "Choose one first."
            return
        saved.record("guesses", question.id, field.value)
        note.value = f"Noted: {_value(field.value)}{'' if question.choices else ' ' + question.unit}"

    button.on_click(keep)
    display(ipywidgets.VBox([field, ipywidgets.HBox([button, note])]))


def revisit(question_id: str, measured: str | float | None = None) -> None:
    """Show the guess beside the measurement: the given one, or the one that the question itself computes."""
    question = QUESTIONS[question_id]
    kept = saved.load()["guesses"].get(question_id)
    if measured is None and question.answer is not None:
        measured = question.answer()
    unit = f" {question.unit}" if question.unit else ""
    _say(question.text)
    print(f"  You guessed: {_value(kept)}{unit}" if kept is not None else "  You made no guess.")
    print(f"  Measured: {_value(measured)}{unit}" if measured is not None else "  There is no measurement yet.")
    if kept is not None and measured is not None and question.choices:
        print("  As you thought." if kept == measured else "  Not what you thought.")
    if question.because:
        _say(f"  {question.because}")


def _value(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def prose(question_id: str, answer: str = "") -> None:
    """Keep an answer in words if its length is within the bounds; a person grades it.

    An id that the course does not know may be an instructor's own question: its answer is kept whatever its length.
    """
    words = len(re.findall(r"\S+", answer))
    if question_id not in PROSE:
        near = difflib.get_close_matches(question_id, PROSE, 1, 0.7)
        print(f"○ {question_id!r} is no question of the course{f'; is it {near[0]!r}' if near else ''}?")
        if words:
            saved.record("prose", question_id, {"text": answer.strip(), "words": words})
            print(f"  {words} words, kept in case your instructor asks it.")
        return
    question = PROSE[question_id]
    bounds, worth = f"{question.min_words} to {question.max_words} words", counted(question.points, "point")
    if not words:
        _say(f"○ {question.text}\n  Not answered yet: {bounds}, {worth}, graded by a person.")
    elif not question.min_words <= words <= question.max_words:
        advice = "write a little more" if words < question.min_words else "shorten it"
        print(f"✗ {words} words; {bounds} are asked for: {advice}. It is not kept yet.")
    else:
        saved.record("prose", question_id, {"text": answer.strip(), "words": words})
        print(f"✓ {words} words, kept for whoever grades it ({worth}).")
