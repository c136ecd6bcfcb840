"""A student's page: what is right, what is not yet and what may help, never an input or an expected value."""

from __future__ import annotations

from collections.abc import Mapping

from lesson_lib.grading.marks import DELEGATED, FAILED, PASSED, Attempt, Grade
from lesson_lib.grading.reports.names import (
    NO_HAND_IN,
    VERDICTS,
    Run,
    answer_to,
    heading,
    mark_of,
    number,
    points,
    told,
    waiting,
    when,
)
from lesson_lib.grading.reports.page import Html, bar, join, named, page, section, table, tag, text


def student_page(run: Run, grade: Grade, comments: Mapping[str, str]) -> str:
    """Return a student's page. comments: what a person wrote on the answers in words, by question."""
    student = grade.student
    about = [part for part in (student.id, student.section) if part]
    return page(
        f"{run.title}: {student.name}",
        tag("h1", run.title),
        tag("p", named(student.name), *(join(" · ", named(part)) for part in about)),
        _total(run, grade),
        section("Exercises", _exercises(grade)),
        section("Answers in words", *(_answer(run, grade, name, comments.get(name, "")) for name in grade.words_worth)),
        section("Your notebook", _notebook(grade)),
        section("Other notebooks that you handed in", _others(grade)),
        _footer(run, grade),
    )


def _total(run: Run, grade: Grade) -> Html:
    total = f"{number(grade.total)} of {points(grade.possible)}"
    waits = sum(grade.words_worth[question] for question in waiting(grade))
    lines: list[Html | None] = [tag("p", total, class_="total")]
    lines.append(bar(grade.total / grade.possible if grade.possible else 0.0, total))
    if not grade.attempt:
        lines.append(tag("p", NO_HAND_IN, class_="note"))
    elif grade.attempt.late:
        lines.append(tag("p", text(grade.attempt.late), class_="note"))
    if waits:
        lines.append(tag("p", f"○ So far: {points(waits)} of answers in words wait for a person.", class_="note"))
    if not run.complete:
        lines.append(
            tag("p", "○ The run that wrote this page was not finished. Points may still change.", class_="note")
        )
    lines.append(tag("p", text(run.rubric), class_="quiet") if run.rubric else None)
    return join(*lines)


def _exercises(grade: Grade) -> Html:
    rows, help_ = [], []
    for exercise, worth in grade.worth.items():
        mark = mark_of(grade, exercise)
        sign, words = VERDICTS[mark.status]
        colour = {PASSED: "good", FAILED: "bad", DELEGATED: "bad"}.get(mark.status, "wait")
        earned = grade.attempt.points.get(exercise, 0.0) if grade.attempt else 0.0
        state = tag("span", f"{sign} {words}", class_=f"state {colour}")
        rows.append((heading(exercise), state, f"{number(earned)} of {number(worth)}"))
        help_.append(text(told(mark)))
    return table(("Exercise", "Result", "Points"), rows, numbers=(2,), below=help_)


def _answer(run: Run, grade: Grade, question: str, comment: str) -> Html:
    asked, rubric = run.question(question)
    answer, given, worth = answer_to(grade, question), grade.words.get(question), grade.words_worth[question]
    if given is not None:
        state = tag("span", f"{number(given)} of {points(worth)}", class_="state")
    elif answer.text.strip():
        state = tag("span", f"○ waits for a person ({points(worth)})", class_="state wait")
    else:
        state = tag("span", f"○ no answer ({points(worth)})", class_="state wait")
    return join(
        tag("h3", f"Question {list(grade.words_worth).index(question) + 1}"),
        tag("p", text(asked), class_="lines"),
        tag("p", state),
        tag("p", tag("b", "Comment: "), text(comment), class_="note lines", dir="auto") if comment else None,
        tag("p", text(answer.note), class_="quiet") if answer.note else None,
        tag("p", "What earns the points:", class_="quiet") if rubric else None,
        tag("ul", *(tag("li", text(line)) for line in rubric)) if rubric else None,
        tag("p", f"Your answer, as it was read ({answer.words} words):", class_="quiet") if answer.text else None,
        tag("blockquote", text(answer.text), class_="lines", dir="auto") if answer.text else None,
    )


def _notebook(grade: Grade) -> Html | None:
    if not grade.attempt:
        return None
    problems = grade.attempt.notebook.problems
    return join(
        tag("p", _line(grade.attempt, "")),
        tag("ul", *(tag("li", text(problem)) for problem in problems)) if problems else None,
    )


def _others(grade: Grade) -> Html | None:
    others = [attempt for i, attempt in enumerate(grade.attempts) if i != grade.kept]
    most = f" of {points(sum(grade.worth.values()))} for exercises. It does not count."
    return tag("ul", *(tag("li", _line(attempt, most)) for attempt in others)) if others else None


def _line(attempt: Attempt, most: str) -> Html:
    notebook = attempt.notebook
    handed_in = f", handed in {when(notebook.submitted)}" if notebook.submitted else ""
    late = f" {attempt.late}" if most and attempt.late else ""
    earned = f": {number(attempt.total)}{most}" if most else ""
    return join(named(notebook.file.rsplit("/", 1)[-1]), text(handed_in), earned, text(late))


def _footer(run: Run, grade: Grade) -> Html:
    digest = f", and the notebook's sha256, {grade.attempt.notebook.digest[:16]}…" if grade.attempt else ""
    seed = grade.attempt.notebook.seed if grade.attempt else run.seed
    tried = (
        "Each exercise was tried on fresh random inputs beside the course's own solution. It counts when it is right "
        "on all of them; one that is wrong takes no points from another."
    )
    ask = (
        "If you think that a grade is wrong, write to your instructor: name the exercise and say why, with the seed of "
        f"this run, {seed}{digest}. The instructor repeats the run exactly with "
    )
    top = tag("h2", "How this was graded, and how to ask again")
    return tag(
        "footer",
        top,
        tag("p", tried),
        tag("p", ask, tag("code", f"--seed {seed}"), "."),
        tag("p", f"Graded {when(run.started)}.", class_="quiet"),
    )
