"""The README's table of lessons, written from the registry: minutes and points stand in one place."""

from __future__ import annotations

from pathlib import Path

from lesson_lib.build.expand import Course, points_text
from lesson_lib.build.sources import find_lessons

START, END = "<!-- course:lessons -->", "<!-- /course:lessons -->"


def lessons_table(root: Path, course: Course) -> str:
    """Return a Markdown table with a row for every lesson that has a source: link, question, minutes, points, Colab."""
    rows = ["| lesson | the question it answers | minutes | worth | |", "|---|---|---|---|---|"]
    for path in find_lessons(root / "lessons"):
        card = course.cards[path.name[:2]]
        link = f"[{path.name[:2]} · {card.title}](notebooks/{path.stem}.ipynb)"
        colab = f"[![Open lesson {path.name[:2]} in Colab](.github/open-in-colab.svg)]({course.repository.colab(path.stem)})"
        rows.append(f"| {link} | {card.question} | {card.minutes} | {points_text(card)} | {colab} |")
    return "\n".join(rows)


def restamp_readme(root: Path, course: Course, *, write: bool = True) -> bool:
    """Write the table between the README's markers, if it has them, and return whether it differed."""
    path = root / "README.md"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    head, found, rest = text.partition(START)
    _, closed, tail = rest.partition(END)
    if not found or not closed:
        return False
    fresh = f"{head}{START}\n{lessons_table(root, course)}\n{END}{tail}"
    if write and fresh != text:
        path.write_text(fresh, encoding="utf-8")
    return fresh != text
