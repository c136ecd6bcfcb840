"""The class report: how the lesson went, what went wrong most often, and what needs a person."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from lesson_lib.grading.marks import DELEGATED, FAILED, PASSED, Grade, Notebook
from lesson_lib.grading.reports.names import (
    VERDICTS,
    Run,
    duration,
    heading,
    mark_of,
    mistake_sentence,
    number,
    points,
    waiting,
    when,
)
from lesson_lib.grading.reports.page import Html, bar, join, named, page, section, table, tag, text

if TYPE_CHECKING:
    from lesson_lib.grading.copies import Pair

BINS = 10
MISTAKES = 15  # rows of mistakes at most
NO_POINTS_TAKEN = "For a person to look at; no points are taken."


def class_page(
    run: Run, grades: Sequence[Grade], notebooks: Sequence[Notebook], problems: Sequence[str], pairs: Sequence[Pair]
) -> str:
    """Return the class report. problems: what the run met outside of notebooks, a sentence each."""
    handed_in = [grade for grade in grades if grade.attempt]
    return page(
        f"{run.title}: class report",
        tag("h1", run.title),
        tag("p", "Class report, for instructors. It holds names and grades.", class_="quiet"),
        _warnings(run),
        _figures(grades, handed_in),
        section("Totals", _histogram(handed_in)),
        section("Exercises", _exercises(handed_in)),
        section("Most common mistakes", _mistakes(handed_in)),
        section("What needs a person", _problems(grades, problems)),
        section("Calls the library", _delegated(handed_in)),
        section("Alike answers", _copies(grades, pairs)),
        section("Lateness", _late(handed_in)),
        section("Time for a notebook", _times(notebooks)),
        section("This run", _run(run, notebooks)),
    )


def _warnings(run: Run) -> Html:
    lines = []
    if not run.complete:
        lines.append("✗ The run was not finished: some hand-ins are not graded. Repeat it with --resume.")
    if run.isolation == "none":
        lines.append("✗ The answers ran without isolation: they could read and change whatever the instructor can.")
    return join(*(tag("p", line, class_="note") for line in lines))


def _figures(grades: Sequence[Grade], handed_in: Sequence[Grade]) -> Html:
    totals = [grade.total for grade in handed_in]
    most = max((grade.possible for grade in grades), default=0.0)
    waits = sum(len(waiting(grade)) for grade in handed_in)
    shown = [(str(len(grades)), "students"), (str(len(handed_in)), "handed in")]
    if totals:
        shown += [
            (number(statistics.mean(totals)), f"mean of {points(most)}"),
            (number(statistics.median(totals)), "median"),
        ]
    shown += [(str(waits), "answers in words wait")] if waits else []
    return tag("div", *(tag("div", tag("b", value), name) for value, name in shown), class_="figures")


def _histogram(handed_in: Sequence[Grade]) -> Html | None:
    most = max((grade.possible for grade in handed_in), default=0.0)
    if not most:
        return None
    counts = [0] * BINS
    for grade in handed_in:
        counts[min(int(BINS * grade.total / most), BINS - 1)] += 1
    step, floor, high = 36, 150, 120
    drawn: list[Html] = []
    for i, count in enumerate(counts):
        x, height = 14 + i * step, round(high * count / max(counts), 1)
        drawn.append(
            tag("rect", class_="fill", x=str(x + 2), y=str(floor - height), width=str(step - 4), height=str(height))
        )
        drawn.append(_svg_text(str(count) if count else "", x + step / 2, floor - height - 5))
    drawn.append(tag("line", class_="axis", x1="14", x2=str(14 + BINS * step), y1=str(floor), y2=str(floor)))
    for i in range(0, BINS + 1, 2):
        drawn.append(_svg_text(number(most * i / BINS, 1), 14 + i * step, floor + 16))
    drawn.append(_svg_text(f"total, of {points(most)}", 14 + BINS * step / 2, floor + 36))
    words = "; ".join(
        f"{number(most * i / BINS, 1)} to {number(most * (i + 1) / BINS, 1)}: {count}"
        for i, count in enumerate(counts)
        if count
    )
    picture = tag(
        "svg",
        *drawn,
        **{"viewBox": f"0 0 {28 + BINS * step} 192"},
        width="560",
        role="img",
        aria_label=f"Histogram of totals. {words}.",
    )
    return join(picture, tag("p", "Students by total, of those who handed in.", class_="quiet"))


def _svg_text(content: str, x: float, y: float) -> Html:
    return tag("text", content, x=number(x), y=number(y), text_anchor="middle") if content else Html("")


def _exercises(handed_in: Sequence[Grade]) -> Html:
    rows, others = [], []
    for exercise in dict.fromkeys(name for grade in handed_in for name in grade.worth):
        states = Counter(mark_of(grade, exercise).status for grade in handed_in if exercise in grade.worth)
        right, all_ = states[PASSED], states.total()
        rows.append((heading(exercise), f"{right} of {all_} right, {right / all_:.0%}"))
        rest = [
            f"{VERDICTS[status][1]}: {states[status]}" for status in VERDICTS if status != PASSED and states[status]
        ]
        others.append(join(bar(right / all_, rows[-1][1]), tag("span", ", ".join(rest), class_="quiet")))
    return table(("Exercise", "Right"), rows, numbers=(1,), below=others)


def _mistakes(handed_in: Sequence[Grade]) -> Html:
    marks = [mark_of(grade, name) for grade in handed_in for name in grade.worth]
    found = Counter((mark.exercise, mark.mistake, mark.rung) for mark in marks if mark.status == FAILED)
    rows, sentences = [], []
    for (exercise, mistake, rung), count in found.most_common(MISTAKES):
        rows.append((heading(exercise), str(count)))
        if mistake:
            sentences.append(join(tag("b", text(mistake, 200)), ": ", text(mistake_sentence(exercise, mistake))))
        else:
            sentences.append(text(f"No mistake that the course knows; it falls at “{rung}”."))
    return table(("Exercise", "Students"), rows, numbers=(1,), below=sentences)


def _problems(grades: Sequence[Grade], problems: Iterable[str]) -> Html | None:
    lines = [text(problem) for problem in problems]
    for grade in grades:
        found = [problem for attempt in grade.attempts for problem in attempt.notebook.problems]
        lines += [join(_link(grade), ": ", text(problem)) for problem in dict.fromkeys(found)]
    return tag("ul", *(tag("li", line) for line in lines)) if lines else None


def _delegated(handed_in: Sequence[Grade]) -> Html | None:
    rows = []
    for grade in handed_in:
        found = [name for name in grade.worth if mark_of(grade, name).status == DELEGATED]
        if found:
            rows.append((_link(grade), "; ".join(heading(name) for name in found)))
    told = tag("p", "These answers only call the library's own function: no points.", class_="quiet")
    return join(told, table(("Student", "Exercises"), rows)) if rows else None


def _copies(grades: Sequence[Grade], pairs: Sequence[Pair]) -> Html | None:
    known = {grade.student.key: _link(grade) for grade in grades}
    rows, why = [], []
    for pair in pairs:
        both = [known.get(key, named(key)) for key in (pair.first, pair.second)]
        rows.append((join(both[0], " and ", both[1]), f"{pair.likeness:.0%}"))
        why.append(text("; ".join(heading(name) for name in pair.exercises) + f"\n{pair.why}"))
    told = tag("p", NO_POINTS_TAKEN, class_="quiet")
    return join(told, table(("Students", "Alike"), rows, numbers=(1,), below=why)) if rows else None


def _late(handed_in: Sequence[Grade]) -> Html:
    rows, why = [], []
    for grade in handed_in:
        attempt = grade.attempt
        if attempt and (attempt.late or attempt.factor < 1):
            rows.append((_link(grade), when(attempt.notebook.submitted), f"× {number(attempt.factor)}"))
            why.append(text(attempt.late))
    return table(("Student", "Handed in", "Points"), rows, numbers=(2,), below=why)


def _times(notebooks: Sequence[Notebook]) -> Html | None:
    if not notebooks:
        return None
    longest = max(notebooks, key=lambda notebook: notebook.seconds)
    middle = statistics.median(notebook.seconds for notebook in notebooks)
    told = f"Median {duration(middle)}; longest {duration(longest.seconds)}: "
    return tag("p", told, named(longest.file))


def _run(run: Run, notebooks: Sequence[Notebook]) -> Html:
    rows = [
        ("Started", when(run.started)),
        ("Took", f"{duration(run.seconds)} for {len(notebooks)} notebooks, {run.jobs} at a time"),
        ("Isolation", run.isolation),
        ("Seed", f"{run.seed}; --seed {run.seed} repeats the run exactly"),
        ("Rubric", text(run.rubric)),
    ]
    return table(("What", "How"), rows)


def _link(grade: Grade) -> Html:
    return tag("a", named(grade.student.name), href=f"students/{quote(grade.student.key)}.html")
