"""Attacks on whoever reads the hand-ins: archives, links, JSON, names and texts that are not what they seem."""

from __future__ import annotations

import csv
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grading_attacks.machine import canaries, files, out
from grading_attacks.notebooks import (
    FEW,
    FILE,
    MODULATE,
    START,
    Cell,
    Entry,
    Member,
    Notebook,
    answer,
    archive,
    check_cell,
    code,
    insert,
    lean,
    right,
    write,
    zeros_deflated,
)

ONE = frozenset({MODULATE})
SIGNATURE = "def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:\n"
WRONG = f"{SIGNATURE}    return x\n"
RARE = "odd, but right"


def wrong() -> Notebook:
    """Return a small notebook with one wrong answer."""
    return answer(lean(MODULATE), MODULATE, WRONG)


def few(*exercises: str) -> Notebook:
    """Return a small notebook with right answers."""
    notebook = lean(*exercises)
    for exercise in exercises:
        answer(notebook, exercise, right(exercise))
    return notebook


def as_json(notebook: Any) -> bytes:
    """Return a notebook's bytes."""
    return json.dumps(notebook, ensure_ascii=False).encode()


def hand_in(
    name: str, what: str, build: Callable[[Path], None], honest: frozenset[str] = frozenset(), **more: Any
) -> Entry:
    """Return an attack by what is handed in, not by what it does when it runs."""
    return Entry(name, "attack", what, build, honest, **more)


def bytes_in(make: Callable[[], bytes], file: str = FILE) -> Callable[[Path], None]:
    """Return a build that writes some bytes."""

    def build(folder: Path) -> None:
        (folder / file).write_bytes(make())

    return build


# --- archives and links ----------------------------------------------------------------------------------------------


def _nothing_unpacked(folder: Path) -> str | None:
    found = [
        place for place in (canaries(folder), folder.parent.parent, folder.parent) if (place / "out.ipynb").exists()
    ]
    return "a member was written outside" if found else None


def _traversal(folder: Path) -> None:
    data = as_json(wrong())
    places = ["../out.ipynb", "../../out.ipynb", f"{canaries(folder)}/out.ipynb", "..\\..\\out.ipynb", "C:\\out.ipynb"]
    members = [Member(place, data) for place in [*places, "a/../../out.ipynb", "con/./../out.ipynb"]]
    (folder / "hand-in.zip").write_bytes(archive(members))


def _links_in_a_zip(folder: Path) -> None:
    neighbour = folder.parent / "fork-bomb-neighbour" / FILE
    members = [
        Member(FILE, str(neighbour).encode(), mode=0o120777),
        Member("07_adaln_2.ipynb", b"/etc/passwd", mode=0o120777),
        Member("here", b"/", mode=0o120777),
        Member("here/out.ipynb", as_json(wrong())),
    ]
    (folder / "hand-in.zip").write_bytes(archive(members))


def _links(folder: Path) -> None:
    (folder / FILE).symlink_to(Path("..") / "fork-bomb-neighbour" / FILE)
    (folder / "zero.ipynb").symlink_to("/dev/zero")
    (folder / "around").symlink_to(".")
    (folder / "everything").symlink_to("/")


def _bomb(claim: int) -> bytes:
    return archive([Member(FILE, zeros_deflated(4096), size=claim, deflated=True)])


def _bombs_in_zips() -> bytes:
    inner = _bomb(1000)
    for _ in range(3):
        outer = io.BytesIO()
        with zipfile.ZipFile(outer, "w", zipfile.ZIP_DEFLATED) as file:
            for number in range(10):
                file.writestr(f"{number}.zip", inner)
        inner = outer.getvalue()
    return inner


def _folder_as_notebook(folder: Path) -> None:
    (folder / FILE).mkdir()
    write(folder / FILE, wrong())


def _run_pickle(folder: Path) -> None:
    order = f"cposix\nsystem\n(S'touch {canaries(folder)}/unpickled'\ntR."
    (folder / FILE).write_bytes(order.encode())


ARCHIVES = [
    hand_in(
        "zip-traversal",
        "is a zip whose members lie above it, at absolute paths and behind backslashes",
        _traversal,
        after=_nothing_unpacked,
    ),
    hand_in(
        "zip-of-links",
        "is a zip of symbolic links to a neighbour's notebook, /etc/passwd and /",
        _links_in_a_zip,
        after=_nothing_unpacked,
    ),
    hand_in("links", "is a folder of symbolic links to a neighbour's notebook, /dev/zero, / and itself", _links),
    hand_in(
        "zip-bomb",
        "is a zip that claims one kilobyte and unpacks to four gigabytes",
        bytes_in(lambda: _bomb(1000), "hand-in.zip"),
    ),
    hand_in(
        "zip-bomb-that-says-so",
        "is a zip that claims four gigabytes and unpacks to as much",
        bytes_in(lambda: _bomb(2**32 - 2), "hand-in.zip"),
    ),
    hand_in(
        "zip-bombs-in-zips", "is a zip of zips of zips of a thousand bombs", bytes_in(_bombs_in_zips, "hand-in.zip")
    ),
    hand_in(
        "zip-of-many",
        "is a zip of 60,000 empty notebooks",
        bytes_in(lambda: archive([Member(f"{n}/{FILE}", b"") for n in range(60_000)]), "hand-in.zip"),
    ),
    hand_in(
        "named-pipe",
        "is a named pipe, from which one reads until somebody writes",
        lambda folder: os.mkfifo(folder / FILE),
    ),
    hand_in(
        "folder-as-notebook",
        "is a folder called 07_adaln.ipynb, with a wrong notebook in it",
        _folder_as_notebook,
    ),
    hand_in(
        "pickle-as-notebook",
        "is a pickle that runs a command when it is read",
        _run_pickle,
        after=lambda folder: "it ran" if (canaries(folder) / "unpickled").exists() else None,
    ),
]


# --- JSON and Python that are hard to read ---------------------------------------------------------------------------


def _of_two_minds() -> bytes:
    """Return JSON with two lists of cells: right ones for who reads the first, wrong ones for who reads the second."""
    shown, hidden = as_json(few(*FEW)), as_json(wrong())
    return shown[: shown.rindex(b"}")] + b", " + hidden[1:]


def _odd_types() -> Notebook:
    notebook: Any = wrong()
    odd: list[Any] = [None, 3, "code", [], {}, {"cell_type": "code"}, {"cell_type": ["code"], "source": "x"}]
    for source in ({"a": 1}, 3, None, True, ["x", 3, None], [["x"]], {"source": "x"}):
        odd.append({"cell_type": "code", "source": source, "metadata": [], "outputs": {"a": 1}})
    notebook["cells"] += odd
    notebook["metadata"] = [["kernelspec"]]
    return notebook


def _many_cells() -> bytes:
    notebook = wrong()
    cell = b'{"cell_type":"code","metadata":{},"source":"x=1"},'
    text = as_json(notebook)
    return text.replace(b'"cells": [', b'"cells": [' + cell * 10**6, 1)


def _huge(megabytes: int) -> bytes:
    """Return a notebook with right answers and one output of that many megabytes."""
    notebook = few(*FEW)
    text = "0123456789abcdef" * 2**16 * megabytes
    notebook["cells"][check_cell(notebook, MODULATE)]["outputs"] = [
        {"output_type": "stream", "name": "stdout", "text": [text]}
    ]
    return as_json(notebook)


def _python_bombs() -> Notebook:
    notebook = few(MODULATE)
    bombs = (
        "(" * 10**5 + ")" * 10**5,
        "-" * 10**5 + "1",
        "x = " + " + ".join(["1"] * 30_000),
        "x" + ".y" * 50_000,
        "x = " + "[" * 90 + "]" * 90,
        "lambda: " * 5_000 + "1",
        "x = 1" + "0" * 10**6,
        "if x:\n" + "".join(" " * n + "if x:\n" for n in range(1, 99)) + " " * 99 + "pass",
        "\0\0\0",
        "x = '" + "\\" * 10**6,
        "f'" + '{f"' * 500,
        "# -*- coding: rot13 -*-\nfnlf = 1",
    )
    for bomb in bombs:
        notebook["cells"].insert(3, {**code("pass"), "source": bomb})
    return notebook


def _with(change: Callable[[Notebook], Any]) -> Callable[[], bytes]:
    def make() -> bytes:
        notebook = wrong()
        change(notebook)
        return as_json(notebook)

    return make


def _huge_numbers() -> bytes:
    text = as_json(wrong())
    return text.replace(b'"execution_count": null', b'"execution_count": 1' + b"0" * 100_000)


FORMATS = [
    hand_in("million-brackets", "is JSON of a million nested brackets", bytes_in(lambda: b"[" * 10**6 + b"]" * 10**6)),
    hand_in(
        "million-brackets-in-a-notebook",
        "is a notebook whose metadata are nested 100,000 deep",
        bytes_in(lambda: as_json(lean(MODULATE))[:-1] + b', "deep": ' + b'{"a":' * 10**5 + b"1" + b"}" * 10**5 + b"}"),
    ),
    hand_in("million-cells", "is a notebook of a million cells", bytes_in(_many_cells)),
    hand_in("huge-integers", "counts its executions with numbers of 100,000 digits", bytes_in(_huge_numbers)),
    hand_in(
        "two-minds",
        "holds two lists of cells under the same key, right answers first and wrong ones last",
        bytes_in(_of_two_minds),
        note="Jupyter and Python read the last, which is wrong",
    ),
    hand_in(
        "odd-types",
        "holds cells that are numbers, lists and nothing, and sources that are dictionaries",
        bytes_in(lambda: as_json(_odd_types())),
    ),
    hand_in(
        "python-bombs",
        "holds cells that make Python's own parser overflow, beside one right answer",
        bytes_in(lambda: as_json(_python_bombs())),
        ONE,
    ),
    hand_in(
        "200-megabytes",
        "is a notebook of 200 MB, nearly all of it one output, with right answers in it",
        bytes_in(lambda: _huge(200)),
        frozenset(FEW),
    ),
    hand_in("300-megabytes", "is a file of 300 MB without any notebook in it", bytes_in(lambda: b"\0" * 300 * 2**20)),
    hand_in(
        "false-version",
        "says that it is of notebook format 10⁹⁹, of no language and of 10⁹ cells",
        bytes_in(
            _with(
                lambda n: n.update(nbformat=10**99, nbformat_minor=-1, metadata={"language_info": None, "cells": 10**9})
            )
        ),
    ),
    hand_in(
        "lesson-of-another-name",
        "redefines __name__, __file__ and __builtins__, and imports from its own folder",
        bytes_in(
            _with(
                lambda n: insert(
                    n,
                    1,
                    "__builtins__ = {}\n__name__ = 'lesson_lib.grading'\nimport sys\n"
                    "sys.path.insert(0, '.')\ndel print\n",
                )
            )
        ),
    ),
]


# --- answers that are hard to read -----------------------------------------------------------------------------------


def _long(name: str) -> Notebook:
    """Return a right answer of 15,000 lines, which somebody will compare with every other."""
    lines = "".join(f"    {name}{n} = {name}{n - 1} + 0 * {n}\n" for n in range(1, 15_000))
    text = f"{SIGNATURE}    {name}0 = x * (1 + scale[:, None])\n{lines}    return {name}14999 + shift[:, None]\n"
    return answer(lean(MODULATE), MODULATE, text)


def _deep() -> Notebook:
    """Return a right answer whose syntax tree is as deep as Python's own reader allows."""
    one = "-" * 900 + "1.0"
    total = " + ".join(["shift[:, None]", *["0"] * 2_000])
    return answer(lean(MODULATE), MODULATE, f"{SIGNATURE}    return x * ({one} + scale[:, None]) + {total}\n")


def _many_candidates() -> Notebook:
    """Hand sixty different answers to check, each of which loops."""
    notebook = lean(MODULATE)
    for number in range(60):
        call = f"def attempt_{number}(x, shift, scale):\n    while {number} >= 0:\n        pass\n\n\n"
        notebook["cells"].append(code(call + f'check("dit.modulate", attempt_{number})'))
    return notebook


def _many_files(folder: Path) -> None:
    for number in range(300):
        (folder / f"07_adaln ({number}).ipynb").write_bytes(b"")


LENGTHS = [
    hand_in(
        "answer-of-15,000-lines", "is right in 15,000 lines", lambda folder: write(folder, _long("x")), ONE, note=RARE
    ),
    hand_in(
        "answer-of-15,000-other-lines",
        "is the same with other names, to be compared with it",
        lambda folder: write(folder, _long("y")),
        ONE,
        note=RARE,
    ),
    hand_in(
        "answer-of-great-depth",
        "is right, in an expression nested as deeply as Python reads",
        lambda folder: write(folder, _deep()),
        ONE,
        note=RARE,
    ),
    hand_in(
        "sixty-candidates",
        "hands sixty answers to check that all loop",
        lambda folder: write(folder, _many_candidates()),
    ),
    hand_in("three-hundred-files", "hands in three hundred empty notebooks", _many_files),
]


# --- names and words that end up in tables and pages -----------------------------------------------------------------

PAYLOADS = ("<img src=x onerror=alert(1)>", "<svg onload=alert(2)>", "<script>alert", "onmouseover=alert")

ATTRIBUTE = "\"' onmouseover=alert(1) x='" + PAYLOADS[1]


def nothing_injected(folder: Path) -> str | None:
    """Say if a page holds a payload as HTML, or a table a cell that a spreadsheet would calculate."""
    for path in files(out(folder)):
        if path.suffix == ".html":
            text = path.read_text(encoding="utf-8")
            if any(payload in text for payload in PAYLOADS[:3]):
                return "a payload stands in a page"
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8-sig") as file:
                cells = [cell for row in csv.reader(file) for cell in row]
            if bad := [cell for cell in cells if cell[:1] in tuple("=+-@\t\r\n|%") and not _number(cell)]:
                return f"a spreadsheet would calculate {bad[0][:40]!r}"
    return None


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def named(name: str, what: str, folder: str, exercise: str = MODULATE) -> Entry:
    """Return a notebook with one right answer, from a student of a hostile name."""

    def build(place: Path) -> None:
        write(place, insert(few(exercise), 0, f"# handed in by {name}"))

    return hand_in(name, what, build, frozenset({exercise}), after=nothing_injected, folder=folder)


WORDS = (
    '=HYPERLINK("http://127.0.0.1/?"&A1,"points") <script>alert(3)</script> </textarea></pre>"><img src=x '
    "onerror=alert(1)> {{7*7}} ${7*7} %s %n \u202eright to left\u202c \x1b[31mred \x00 "
)


def _in_words() -> Notebook:
    notebook = few(MODULATE)
    cell: Cell = next(c for c in notebook["cells"] if c["metadata"].get("name") == "in-words")
    cell["source"] = f'prose("adaln.w1", {WORDS + "word " * 60!r})'
    return notebook


NAMES = [
    named("name-of-a-formula", "comes from a student whose name is a formula", "=cmd|' C calc'!A0"),
    named(
        "name-of-a-formula-behind-a-tab", "comes from a student whose name begins with a tab and a formula", "\t=1+1"
    ),
    named("name-of-a-sum", "comes from a student whose name begins with an at sign", "@SUM(1+1)*cmd"),
    named("name-with-a-minus", "comes from a student whose name begins with a minus", "-2+3+cmd"),
    named("name-of-html", "comes from a student whose name is an image that runs a script", PAYLOADS[0]),
    named("name-in-an-attribute", "comes from a student whose name ends an attribute", ATTRIBUTE),
    named(
        "name-of-a-command",
        "comes from a student whose name is a shell command and a format",
        "$(touch out.ipynb);`id`|%s%n{0.__class__}",
    ),
    named("name-from-right-to-left", "comes from a student whose name turns the line round", "\u202ebypni.nlada_70"),
    named(
        "name-of-two-lines",
        "comes from a student whose name holds a line break and colours of the terminal",
        "Two\nLines\x1b[31m",
    ),
    named("name-of-bytes", "comes from a student whose name is no UTF-8", "Ren\udce9e"),
    named("name-of-255-bytes", "comes from a student whose name is as long as a name can be", "é" * 127),
    named("name-like-another", "comes from a student called Jane Doe", "Jane Doe"),
    named("name-like-that-of-another", "comes from another student, called jane_doe", "jane_doe", START),
    hand_in(
        "script-in-words",
        "answers in words with a formula, scripts, formats and control characters",
        lambda folder: write(folder, _in_words()),
        ONE,
        after=nothing_injected,
    ),
    hand_in(
        "script-in-code",
        "ends the page's code block in its answer, and names its helper like a formula",
        lambda folder: write(
            folder,
            answer(
                lean(MODULATE),
                MODULATE,
                right(MODULATE) + "    # </pre></code><script>alert(4)</script><img src=x onerror=alert(1)>\n",
            ),
        ),
        ONE,
        after=nothing_injected,
    ),
]

FILES = [*ARCHIVES, *FORMATS, *LENGTHS, *NAMES]
