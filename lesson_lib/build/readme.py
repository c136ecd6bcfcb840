"""The README's blocks, written from what is known elsewhere: its table of lessons from the registry."""

from __future__ import annotations

from pathlib import Path

from lesson_lib.build.expand import Course, points_text
from lesson_lib.build.sources import BuildError, find_lessons


def put_block(text: str, name: str, body: str) -> str:
    """Return a page's text with `body` between its lines <!-- course:NAME --> and <!-- /course:NAME -->.

    Raises BuildError where the page has no such lines.
    """
    start, end = f"<!-- course:{name} -->", f"<!-- /course:{name} -->"
    head, found, rest = text.partition(start)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise BuildError(f"README.md has no place for this; put {start} and {end} there, on lines of their own")
    return f"{head}{start}\n{body}\n{end}{tail}"


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
    try:
        fresh = put_block(text, "lessons", lessons_table(root, course))
    except BuildError:
        return False
    if write and fresh != text:
        path.write_text(fresh, encoding="utf-8")
    return fresh != text
