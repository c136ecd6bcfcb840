"""The landing page: what the README says in its parts, the map of the course with links, the table of lessons."""

from __future__ import annotations

import html
import re
import textwrap
from pathlib import Path

from lesson_lib import diagrams
from lesson_lib.build.expand import Course
from lesson_lib.build.readme import lessons_table
from lesson_lib.build.sources import find_lessons
from lesson_lib.delivery import DeliveryError
from lesson_lib.delivery.site.links import Links
from lesson_lib.style import ink

# A door: who it is for, as the README's list says it, and where it leads.
DOORS = {
    "Learners": ("Start with lesson 00", "notebooks/{start}.ipynb"),
    "Instructors": ("Read the instructor's guide", "docs/instructors.md"),
    "Engineers": ("See what was measured", "gallery.md"),
}
BOX, STEP, HEAD = (184, 84), (226, 116), 34  # of the map, in pixels


def page(root: Path, course: Course, links: Links) -> str:
    """Return the landing page. Raises DeliveryError, naming the heading, where the README lacks a part."""
    readme = _readme(root)
    lessons = {path.name[:2]: path.stem for path in find_lessons(root / "lessons")}
    start = next(iter(lessons.values()))
    paragraphs = [
        f"# {title(root)}",
        links.rewrite(readme.split("\n", 1)[1].partition("\n## ")[0].strip(), "README.md"),
        "## Three doors",
        _doors(links.rewrite(section(readme, "For whom"), "README.md"), start),
        "## The map",
        "Each box leads to a lesson. An arrow means “uses what you built there”.",
        course_map(lessons),
        "## Two commands",
        links.rewrite(section(readme, "Two commands"), "README.md"),
        "## Lessons",
        links.rewrite(lessons_table(root, course), "README.md"),
        "## Cite",
        section(readme, "Cite"),
    ]
    return "\n\n".join(paragraphs) + "\n"


def title(root: Path) -> str:
    """Return the course's name: the README's first line."""
    return _readme(root).splitlines()[0].removeprefix("# ").strip()


def licence(root: Path) -> str:
    """Return the README's words on the licence, as HTML for the foot of every page."""
    text = re.sub(r"\[[^\]]*\]\([^)]*\)", "", section(_readme(root), "Licence"))
    sentences = [sentence for sentence in re.split(r"(?<=\.)\s+", text) if ":" in sentence]
    return f"<p>{html.escape(' '.join(sentences))}</p>"


def section(readme: str, heading: str) -> str:
    """Return what stands under a heading of the second level."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", readme, re.MULTILINE | re.DOTALL)
    if not found:
        raise DeliveryError(f"README.md: the site's landing page needs its section `## {heading}`")
    return found[1].strip()


def _readme(root: Path) -> str:
    return (root / "README.md").read_text(encoding="utf-8")


def _doors(bullets: str, start: str) -> str:
    """Return a card for each entry of the README's list of readers."""
    texts = {name: text for name, text in re.findall(r"^- \*\*(\w+)\*\* (.+?)(?=^- |\Z)", bullets, re.M | re.S)}
    if set(texts) != set(DOORS):
        raise DeliveryError(f"README.md, For whom: expects the entries {', '.join(DOORS)}, found {', '.join(texts)}")
    cards = []
    for name, (label, target) in DOORS.items():
        words = " ".join(line.strip() for line in texts[name].splitlines()).strip()
        link = f"[{label}]({target.format(start=start)})"
        cards.append(f":::{{grid-item-card}} {name}\n{words[0].upper()}{words[1:]}\n\n{link}\n:::")
    return "::::{grid} 1 1 3 3\n:gutter: 3\n\n" + "\n\n".join(cards) + "\n::::"


# The map, with links


def course_map(lessons: dict[str, str]) -> str:
    """Return the map of the course as SVG, with a link in every box; drawn from the same data as lesson 00's.

    lessons: number → name of the notebook; a lesson of the map that is not among them has no box.
    """
    places = {number: place for number, place in diagrams.LESSONS.items() if number in lessons}
    width = (len(diagrams.STAGES) - 1) * STEP[0] + BOX[0] + 44
    height = HEAD + max(row for *_, row in places.values()) * STEP[1] + BOX[1] + 12
    parts = [
        f'<div class="course-map"><svg xmlns="http://www.w3.org/2000/svg" viewBox="-22 0 {width} {height}" '
        f'role="group" aria-label="Map of the course: each lesson, and which lessons build on it">',
        '<defs><marker id="course-map-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path d="M0 0.5 L8 4 L0 7.5 Z"/></marker></defs>',
    ]
    for column, (stage, colour) in enumerate(diagrams.STAGES):
        parts.append(f'<text class="stage" x="{column * STEP[0]}" y="20" fill="{ink(colour)}">{stage}</text>')
    for before, after in diagrams.BUILDS_ON:
        if before in places and after in places:
            path = _arrow(_corner(places[before]), _corner(places[after]))
            parts.append(f'<path class="arrow" d="{path}" marker-end="url(#course-map-tip)"/>')
    for number, place in places.items():
        parts.append(_box(number, lessons[number], place))
    return "\n".join([*parts, "</svg></div>"])


def _corner(place: tuple[str, str, int, int]) -> tuple[int, int]:
    _, _, column, row = place
    return column * STEP[0], HEAD + row * STEP[1]


def _arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    """Return the path between two boxes: along the row, along the column, or past the box between them."""
    (ax, ay), (bx, by) = start, end
    wide, high = BOX
    if ax != bx:
        return f"M{ax + wide} {ay + high // 2} L{bx} {by + high // 2}"
    if abs(ay - by) > STEP[1]:
        return f"M{ax} {ay + high * 3 // 4} h-18 V{by + high // 2} h18"
    top, bottom = (ay + high, by) if by > ay else (ay, by + high)
    return f"M{ax + wide // 2} {top} V{bottom}"


def _box(number: str, stem: str, place: tuple[str, str, int, int]) -> str:
    name, question, column, _ = place
    x, y = _corner(place)
    colour = diagrams.STAGES[column][1]
    lines = "".join(
        f'<tspan x="{x + 12}" dy="{17 if i else 0}">{html.escape(line)}</tspan>'
        for i, line in enumerate(textwrap.wrap(question, 25))
    )
    return (
        f'<a href="notebooks/{stem}.html"><rect x="{x}" y="{y}" width="{BOX[0]}" height="{BOX[1]}" rx="8" '
        f'fill="{colour}" fill-opacity="0.16" stroke="{ink(colour)}"/>'
        f'<text class="lesson" x="{x + 12}" y="{y + 27}">{number}  {html.escape(name)}</text>'
        f'<text class="question" x="{x + 12}" y="{y + 51}">{lines}</text></a>'
    )
