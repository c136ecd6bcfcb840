"""What the hostile and damaged hand-ins are made of: lesson 07's notebook, right answers for it, and an archive writer.

An entry writes its hand-in into a folder of its own; nothing here runs what it writes.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import inspect
import json
import struct
import textwrap
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesson_lib import ROOT
from lesson_lib.exercises import REGISTRY
from lesson_lib.exercises.source import source_of, source_of_mistake

LESSON, FILE = "07", "07_adaln.ipynb"
EXERCISES = tuple(key for key, exercise in REGISTRY.items() if exercise.lesson == LESSON)
ALL = frozenset(EXERCISES)
MODULATE, ZERO, START, SINGLE, RUN, PARTS, BUG = EXERCISES
FEW = (MODULATE, ZERO, START)
Notebook = dict[str, Any]
Cell = dict[str, Any]


def nothing_happened(folder: Path) -> str | None:
    """Return None: an entry that reaches for nothing outside."""
    return None


@dataclass(frozen=True)
class Entry:
    """One hostile or damaged hand-in.

    name: short and plain. folder: its folder's name among the submissions, where that is another. kind: "attack" or
    "accident". what: one sentence for the table. build: writes the hand-in into an empty folder. honest: the exercises
    whose points it deserves. note: why so few or so many. fools: the comparison of naive.py that gives it a point it
    does not deserve, which shows that the attack works (empty: it is not aimed at a comparison, or must never run
    outside a sandbox). varies: what the table says in place of the report, where that depends on chance. after: looks
    at the machine when grading is over and returns a sentence if the attack has reached it.
    """

    name: str
    kind: str
    what: str
    build: Callable[[Path], None]
    honest: frozenset[str] = frozenset()
    note: str = ""
    fools: str = ""
    varies: str = ""
    after: Callable[[Path], str | None] = nothing_happened
    folder: str = ""

    @property
    def place(self) -> str:
        """The name of its folder among the submissions."""
        return self.folder or self.name


# --- answers as text ---------------------------------------------------------------------------------------------


@functools.cache
def answers() -> dict[str, list[Callable[..., Any]]]:
    """Return the course's different right answers to lesson 07, by exercise."""
    spec = importlib.util.spec_from_file_location("answers_07", ROOT / "tests" / "answers" / f"lesson_{LESSON}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ANSWERS  # type: ignore[no-any-return]


@functools.cache
def right(exercise: str, which: int = 1) -> str:
    """Return a right answer as a notebook holds it, a whole class for a method: 0 the library's, 1, 2, … others."""
    path = REGISTRY[exercise].path
    if which == 0:
        return source_of(path)
    return source_of_mistake(answers()[exercise][which - 1], path)


def body(exercise: str, text: str) -> str:
    """Return the stub of an exercise with another body: a function's, or its method's inside the whole class."""
    stub = REGISTRY[exercise].stub_source()
    [line] = [line for line in stub.splitlines() if "raise NotImplementedError" in line]
    indent = line[: len(line) - len(line.lstrip())]
    return stub.replace(line, textwrap.indent(textwrap.dedent(text).strip("\n"), indent))


# --- notebooks ---------------------------------------------------------------------------------------------------


@functools.cache
def _text_of_the_lesson() -> str:
    return (ROOT / "notebooks" / FILE).read_text(encoding="utf-8")


def handed_out() -> Notebook:
    """Return lesson 07's notebook as students get it, without outputs."""
    notebook: Notebook = json.loads(_text_of_the_lesson())
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
    return notebook


def code(source: str) -> Cell:
    """Return a code cell as a student adds it."""
    return {
        "cell_type": "code",
        "id": f"mine-{zlib.crc32(source.encode('utf-8', 'replace')):08x}",
        "metadata": {},
        "execution_count": None,
        "outputs": [],
        "source": textwrap.dedent(source).strip("\n"),
    }


def exercise_cell(notebook: Notebook, exercise: str) -> int:
    """Return the place of an exercise's cell."""
    return _named(notebook, f"exercise-{exercise}")


def check_cell(notebook: Notebook, exercise: str) -> int:
    """Return the place of the cell that checks an exercise."""
    call = f'check("{exercise}"'
    return next(n for n, c in enumerate(notebook["cells"]) if c["cell_type"] == "code" and call in c["source"])


def _named(notebook: Notebook, name: str) -> int:
    return next(n for n, c in enumerate(notebook["cells"]) if c["metadata"].get("name") == name)


def answer(notebook: Notebook, exercise: str, definition: str) -> Notebook:
    """Put a definition in the place of an exercise's stub, below the imports of its cell; return the notebook."""
    cell = notebook["cells"][exercise_cell(notebook, exercise)]
    stub = REGISTRY[exercise].stub_source().rstrip("\n")
    assert stub in cell["source"], f"{exercise}: the notebook does not hold the stub"
    cell["source"] = cell["source"].replace(stub, definition.strip("\n"))
    return notebook


def solved(exercises: Iterable[str] = FEW, which: int = 1) -> Notebook:
    """Return the notebook with right answers to some exercises."""
    notebook = handed_out()
    for exercise in exercises:
        answer(notebook, exercise, right(exercise, which))
    return notebook


def lean(*exercises: str) -> Notebook:
    """Return the notebook without stubs and checks of all other exercises, which is graded faster."""
    notebook = handed_out()
    for exercise in ALL.difference(exercises, {RUN}):  # DiT would be imported in place of it
        del notebook["cells"][check_cell(notebook, exercise)]
        answer(notebook, exercise, "")
    return notebook


def insert(notebook: Notebook, place: int, *sources: str) -> Notebook:
    """Insert code cells before the cell at a place (negative: counted from the end); return the notebook."""
    notebook["cells"][place:place] = [code(source) for source in sources]
    return notebook


def write(folder: Path, notebook: Any, name: str = FILE) -> None:
    """Write a notebook, in the form that Jupyter gives it."""
    (folder / name).write_text(json.dumps(notebook, indent=1, ensure_ascii=False), encoding="utf-8")


def writer(notebook: Callable[[], Notebook]) -> Callable[[Path], None]:
    """Return a build that writes what a function makes."""
    return lambda folder: write(folder, notebook())


def copied(notebook: Notebook) -> Notebook:
    """Return a copy that shares nothing."""
    return copy.deepcopy(notebook)


# --- archives that no zip program would write ----------------------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """A member of an archive. mode: of the file in Unix (symlinks: 0o120777). size: what it claims to unpack to."""

    name: str
    data: bytes
    mode: int = 0o100644
    size: int | None = None
    deflated: bool = False
    encrypted: bool = False


def archive(members: Sequence[Member]) -> bytes:
    """Return a zip archive byte by byte, with any name, mode and claim of size; deflated data is taken as it is."""
    body, directory = bytearray(), bytearray()
    for m in members:
        name = m.name.encode()
        size = len(m.data) if m.size is None else m.size
        method, flags = (8 if m.deflated else 0), (0x800 | int(m.encrypted))
        crc = 0 if m.deflated else zlib.crc32(m.data)
        common = struct.pack("<HHHHHIIIHH", 20, flags, method, 0, 0x5821, crc, len(m.data), size, len(name), 0)
        record = b"PK\1\2" + struct.pack("<H", 0x0314) + common
        directory += record + struct.pack("<HHHII", 0, 0, 0, m.mode << 16, len(body)) + name
        body += b"PK\3\4" + common + name + m.data
    end = struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(directory), len(body), 0)
    return bytes(body + directory) + b"PK\5\6" + end


def zeros_deflated(megabytes: int) -> bytes:
    """Return some megabytes of zeros as a raw deflate stream, made of one block again and again."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * megabytes + packer.flush()


def source(function: Callable[..., Any]) -> str:
    """Return a function's own text."""
    return textwrap.dedent(inspect.getsource(function))
