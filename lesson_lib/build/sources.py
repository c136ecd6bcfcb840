"""Lesson sources: reads a jupytext percent file into cells, each with its one directive and the line it stands on."""

from __future__ import annotations

import ast
import io
import itertools
import re
import tokenize
from dataclasses import dataclass
from pathlib import Path

CODE_DIRECTIVES = ("name", "exercise", "source")
TEXT_DIRECTIVES = ("title_card", "exercise_card", "hints")
OTHER_KEYS = ("tags", "cellView", "lesson")  # lesson= documents the set-up cell; the number comes from the file's name
LESSON_FILE = re.compile(r"(\d\d)_([a-z0-9_]+)\.py")


class BuildError(Exception):
    """A lesson that cannot be built; the message is a sentence with file and line."""


@dataclass(frozen=True)
class Cell:
    """One cell of a lesson source: its text, the directive in its header (or none), and the header's line number."""

    markdown: bool
    text: str
    directive: str
    value: str
    tags: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class Lesson:
    """One lesson source file: its path, its two-digit number, and its cells from top to bottom."""

    path: Path
    number: str
    cells: tuple[Cell, ...]

    def error(self, cell: Cell | None, sentence: str) -> BuildError:
        """Return the error that points at a cell's header (at the first line without a cell)."""
        return BuildError(f"{self.path.parent.name}/{self.path.name}:{cell.line if cell else 1}: {sentence}")


def find_lessons(folder: Path, number: str | None = None) -> list[Path]:
    """Return the lesson sources of a folder in order, or the one with this number ("1" and "01" are the same lesson).

    Raises BuildError where the number has no lesson, and where two files carry the same number.
    """
    paths = sorted(path for path in folder.glob("*.py") if LESSON_FILE.fullmatch(path.name))
    numbers = [path.name[:2] for path in paths]
    for first, second in itertools.pairwise(paths):
        if first.name[:2] == second.name[:2]:
            raise BuildError(f"{first.name} and {second.name} carry the same number; a lesson has one source")
    if number is None:
        return paths
    if number.zfill(2) not in numbers:
        raise BuildError(f"there is no lesson {number}; lessons: {', '.join(numbers) or 'none yet'}")
    return [paths[numbers.index(number.zfill(2))]]


def read_lesson(path: Path) -> Lesson:
    """Read one lesson source.

    Raises BuildError with file and line where the file is no Python, a header cannot be read, a code cell has no
    name, or two cells carry the
    same name.
    """
    import jupytext

    match = LESSON_FILE.fullmatch(path.name)
    if not match:
        raise BuildError(f"{path.name}: a lesson source is called NN_topic.py, for example 01_noise_and_flow.py")
    text = path.read_text(encoding="utf-8")
    place = f"{path.parent.name}/{path.name}"
    try:
        ast.parse(text)
    except SyntaxError as problem:
        raise BuildError(f"{place}:{problem.lineno}: not Python: {problem.msg}") from problem
    lines = _header_lines(text)
    if not lines or text[: text.find("# %%")].strip():
        raise BuildError(f'{place}:1: a lesson starts with a cell header, `# %% [markdown] title_card="{match[1]}"`')
    nodes = jupytext.reads(text, fmt="py:percent").cells
    if len(nodes) != len(lines):
        raise BuildError(
            f"{place}:1: {len(lines)} cell headers but {len(nodes)} cells; write `# %%` only where a cell starts"
        )
    lesson = Lesson(path, match[1], ())
    cells = tuple(_cell(lesson, node, line) for node, line in zip(nodes, lines, strict=True))
    _refuse_repeats(lesson, cells)
    return Lesson(path, match[1], cells)


def _header_lines(text: str) -> list[int]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [
        t.start[0] for t in tokens if t.type == tokenize.COMMENT and t.start[1] == 0 and t.string.startswith("# %%")
    ]


def _cell(lesson: Lesson, node: dict, line: int) -> Cell:
    markdown = node["cell_type"] == "markdown"
    metadata = {key: value for key, value in node["metadata"].items() if key != "lines_to_next_cell"}
    known = TEXT_DIRECTIVES if markdown else CODE_DIRECTIVES
    blank = Cell(markdown, node["source"], "", "", tuple(metadata.get("tags", ())), line)
    if node["cell_type"] not in ("markdown", "code"):
        raise lesson.error(blank, f"a cell is code or [markdown], not {node['cell_type']}")
    if "incorrectly_encoded_metadata" in metadata:
        raise lesson.error(
            blank, f'cannot read the header {metadata["incorrectly_encoded_metadata"]!r}; write key="value"'
        )
    if unknown := sorted(set(metadata) - set(known) - set(OTHER_KEYS)):
        raise lesson.error(blank, f"unknown directive {unknown[0]!r}; this kind of cell takes {', '.join(known)}")
    given = [key for key in known if key in metadata]
    if len(given) > 1:
        raise lesson.error(blank, f"a cell has one directive, this one has {' and '.join(given)}")
    if not given:
        if not markdown:
            raise lesson.error(blank, "a code cell needs a name=, an exercise= or a source=")
        return blank
    value = metadata[given[0]]
    if not isinstance(value, str) or not value:
        raise lesson.error(blank, f'{given[0]} needs a text in quotes, {given[0]}="…"')
    return Cell(markdown, node["source"], given[0], value, blank.tags, line)


def _refuse_repeats(lesson: Lesson, cells: tuple[Cell, ...]) -> None:
    seen: dict[tuple[str, str], int] = {}
    for cell in cells:
        key = (cell.directive, cell.value)
        if cell.directive and key in seen:
            raise lesson.error(cell, f"{cell.directive}={cell.value!r} stands on line {seen[key]} already")
        seen[key] = cell.line
