"""Accidents: honest work in a notebook, a file or an archive that something has happened to. None may cost a point."""

from __future__ import annotations

import json
import random
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from grading_attacks.files import as_json, bytes_in
from grading_attacks.notebooks import (
    ALL,
    BUG,
    EXERCISES,
    FEW,
    FILE,
    MODULATE,
    PARTS,
    RUN,
    SINGLE,
    START,
    ZERO,
    Entry,
    Member,
    Notebook,
    answer,
    archive,
    body,
    check_cell,
    copied,
    exercise_cell,
    handed_out,
    insert,
    right,
    solved,
    write,
    writer,
)
from lesson_lib import ROOT

SIGNATURE = "def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:\n"
RIGHT = f"{SIGNATURE}    return x * (1 + scale[:, None]) + shift[:, None]\n"
WRONG = f"{SIGNATURE}    return x * scale[:, None] + shift[:, None]\n"


def accident(name: str, what: str, notebook: Callable[[], Notebook], honest: Iterable[str], note: str = "") -> Entry:
    """Return an accident that is one notebook."""
    return Entry(name, "accident", what, writer(notebook), frozenset(honest), note)


def in_bytes(name: str, what: str, make: Callable[[], bytes], honest: Iterable[str], note: str = "") -> Entry:
    """Return an accident that is one file."""
    return Entry(name, "accident", what, bytes_in(make), frozenset(honest), note)


def one(
    name: str, what: str, definition: str, exercise: str = MODULATE, *, honest: bool = True, note: str = ""
) -> Entry:
    """Return an accident in one exercise's cell; the others are not answered."""
    made = textwrap.dedent(definition)
    return accident(name, what, lambda: answer(handed_out(), exercise, made), {exercise} if honest else (), note)


# --- the file --------------------------------------------------------------------------------------------------------


def _changed(change: Callable[[Notebook], Any], exercises: Iterable[str] = FEW) -> Callable[[], Notebook]:
    """Return a function that makes a solved notebook and does something to it."""

    def make() -> Notebook:
        notebook = solved(exercises)
        change(notebook)
        return notebook

    return make


def _through_colab(notebook: Notebook) -> None:
    """Do what Colab does: its own ids and metadata, none of the course's, lines as a list, outputs with ids."""
    notebook["metadata"] = {
        "colab": {"provenance": [], "toc_visible": True, "collapsed_sections": ["x"]},
        "kernelspec": {"name": "python3", "display_name": "Python 3"},
        "language_info": {"name": "python"},
        "accelerator": "GPU",
    }
    notebook.update(nbformat=4, nbformat_minor=0)
    for number, cell in enumerate(notebook["cells"]):
        cell.pop("id", None)
        cell["metadata"] = {"id": f"aB{number:010}", "colab": {"base_uri": "https://localhost:8080/"}}
        cell["source"] = cell["source"].splitlines(keepends=True)
        if cell["cell_type"] == "code":
            cell["metadata"]["outputId"] = f"0f{number:010}"
            cell["execution_count"] = number
            cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["done\n"]}]


def _old(notebook: Notebook) -> None:
    notebook.update(nbformat=4, nbformat_minor=0)
    for cell in notebook["cells"]:
        cell.pop("id", None)


def _stripped(notebook: Notebook) -> None:
    notebook["metadata"] = {}
    for cell in notebook["cells"]:
        cell["metadata"] = {}
        cell["id"] = "same-for-all"


def _other_kernel(notebook: Notebook) -> None:
    notebook["metadata"] = {
        "kernelspec": {"name": "ir", "display_name": "R", "language": "R"},
        "language_info": {"name": "R", "file_extension": ".r", "version": "4.3"},
    }


def _deleted(notebook: Notebook) -> None:
    for exercise in (ZERO, RUN):
        del notebook["cells"][exercise_cell(notebook, exercise)]
    del notebook["cells"][:8]


def _no_checks(notebook: Notebook) -> None:
    for exercise in EXERCISES:
        del notebook["cells"][check_cell(notebook, exercise)]


def _duplicated(notebook: Notebook) -> None:
    """Put each exercise's empty cell in again above the answered one, as copying cells does."""
    empty = handed_out()
    for exercise in FEW:
        stub = copied(empty["cells"][exercise_cell(empty, exercise)])
        notebook["cells"].insert(exercise_cell(notebook, exercise), {**stub, "metadata": {}})


def _shuffled(notebook: Notebook) -> None:
    random.Random(7).shuffle(notebook["cells"])


def _sources_of_all_kinds(notebook: Notebook) -> None:
    for number, cell in enumerate(notebook["cells"]):
        if number % 3 == 0:
            cell["source"] = cell["source"].splitlines(keepends=True)
        elif number % 3 == 1:
            cell["source"] = list(cell["source"])


def _windows(notebook: Notebook) -> None:
    for cell in notebook["cells"]:
        cell["source"] = cell["source"].replace("\n", "\r\n")


def _not_a_number(notebook: Notebook) -> None:
    cell = notebook["cells"][check_cell(notebook, MODULATE)]
    data = {"application/json": [float("nan"), float("inf")]}
    cell["outputs"] = [{"output_type": "display_data", "data": data, "metadata": {}}]


def _half_a_character(notebook: Notebook) -> None:
    notebook["cells"][0]["source"] += " \ud83d"
    insert(notebook, 5, "print('\ud83d')  # half of a smile")
    place = exercise_cell(notebook, MODULATE)
    notebook["cells"][place]["source"] += "  # \ud83d"


def _pictures(notebook: Notebook) -> None:
    picture = {"output_type": "display_data", "data": {"image/png": "iVBORw0KGgo" * 10**5}, "metadata": {}}
    for exercise in EXERCISES:
        page = {"text/html": "</script><script>alert(5)</script>" * 1000}
        html = {"output_type": "display_data", "data": page, "metadata": {}}
        notebook["cells"][check_cell(notebook, exercise)]["outputs"] = [picture] * 3 + [html]


def _bytes_of(change: Callable[[Notebook], Any], encode: Callable[[str], bytes]) -> Callable[[], bytes]:
    return lambda: encode(json.dumps(_changed(change)(), ensure_ascii=False))


def _with_accents(notebook: Notebook) -> None:
    for cell in notebook["cells"]:
        cell["source"] = cell["source"].encode("latin-1", "ignore").decode("latin-1")
    insert(notebook, 3, "# mes réponses à la leçon\nélève = 'Renée'")


def _nothing(notebook: Notebook) -> None:
    """Leave the notebook as it is."""


FILE_ACCIDENTS = [
    accident("untouched", "hands in the notebook as it was handed out", handed_out, ()),
    accident("all-right", "answers everything rightly", lambda: solved(EXERCISES), ALL),
    accident("library's-own-text", "has the library's own lines, which many will write", lambda: solved(FEW, 0), FEW),
    accident("through-colab", "went through Colab and back", _changed(_through_colab, EXERCISES), ALL),
    accident("format-4.0", "was saved in notebook format 4.0, without ids", _changed(_old), FEW),
    accident("metadata-lost", "has lost all metadata; all cells have the same id", _changed(_stripped), FEW),
    accident("another-kernel", "says that it is written in R", _changed(_other_kernel), FEW),
    accident(
        "cells-deleted",
        "lacks the imports and two exercises",
        _changed(_deleted, (*FEW, PARTS)),
        {MODULATE, START, PARTS},
    ),
    accident("checks-deleted", "lacks every call of check", _changed(_no_checks, EXERCISES), ALL),
    accident("cells-twice", "holds the empty cells again above the answers", _changed(_duplicated), FEW),
    accident("cells-shuffled", "has its cells in another order", _changed(_shuffled), FEW),
    accident(
        "sources-of-all-kinds",
        "stores sources as text, as lines and as single letters",
        _changed(_sources_of_all_kinds),
        FEW,
    ),
    accident("windows-lines", "ends its lines as Windows does", _changed(_windows), FEW),
    accident("nan-in-json", "holds NaN and Infinity in an output, as Python writes them", _changed(_not_a_number), FEW),
    in_bytes(
        "half-a-character",
        "holds halves of characters, as broken emoji leave them",
        lambda: json.dumps(_changed(_half_a_character)()).encode(),
        FEW,
    ),
    accident("20-megabytes", "holds 20 MB of pictures and pages", _changed(_pictures), FEW),
    in_bytes(
        "byte-order-mark", "begins with a byte order mark", _bytes_of(_nothing, lambda t: t.encode("utf-8-sig")), FEW
    ),
    in_bytes("utf-16", "was saved as UTF-16", _bytes_of(_nothing, lambda t: t.encode("utf-16")), FEW),
    in_bytes(
        "latin-1",
        "was saved as Latin-1, with accents",
        _bytes_of(_with_accents, lambda t: t.encode("latin-1", "replace")),
        FEW,
    ),
    in_bytes(
        "cut-off",
        "breaks off in the middle",
        lambda: as_json(solved())[:60_000],
        (),
        "no JSON reader can read it; the report says so",
    ),
    in_bytes("empty-file", "is empty", bytes, ()),
    in_bytes("blank-file", "holds nothing but line breaks", lambda: b"\n\n \n", ()),
    in_bytes("json-null", "is JSON, but no notebook: null", lambda: b"null", ()),
    in_bytes("json-list", "is JSON, but no notebook: a list", lambda: b'[1, "a", []]', ()),
    in_bytes(
        "cells-are-a-number", "is a notebook whose cells are a number", lambda: b'{"cells": 3, "nbformat": 4}', ()
    ),
    in_bytes("a-picture", "is a PNG", lambda: b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 100, ()),
    in_bytes(
        "a-web-page",
        "is the web page that a download gave in place of the notebook",
        lambda: b"<!DOCTYPE html><html><body>Sign in to continue</body></html>",
        (),
    ),
]


# --- archives and folders --------------------------------------------------------------------------------------------


def _from_a_mac(folder: Path) -> None:
    members = [
        Member("my work/", b"", mode=0o40755),
        Member(f"my work/{FILE}", as_json(solved())),
        Member("my work/.DS_Store", b"\0\0\0\1Bud1"),
        Member(f"__MACOSX/my work/._{FILE}", b"\0\5\26\7"),
        Member(f"my work/.ipynb_checkpoints/{FILE.removesuffix('.ipynb')}-checkpoint.ipynb", as_json(handed_out())),
    ]
    (folder / "hand-in.zip").write_bytes(archive(members))


def _two_attempts(folder: Path) -> None:
    write(folder, solved([START]), "07_adaln.ipynb")
    write(folder, solved([MODULATE]), "07_adaln (1).ipynb")
    (folder / ".ipynb_checkpoints").mkdir()
    write(folder / ".ipynb_checkpoints", solved([PARTS]), "07_adaln-checkpoint.ipynb")


def _other_lesson(folder: Path) -> None:
    (folder / "06_dit.ipynb").write_bytes((ROOT / "notebooks" / "06_dit.ipynb").read_bytes())


def _damaged_zip(folder: Path) -> None:
    whole = archive([Member(FILE, as_json(solved())), Member("b.ipynb", as_json(handed_out()))])
    (folder / "hand-in.zip").write_bytes(whole[: len(whole) // 2])


def _encrypted_zip(folder: Path) -> None:
    (folder / "hand-in.zip").write_bytes(archive([Member(FILE, as_json(solved()), encrypted=True)]))


def _zip_in_zip(folder: Path) -> None:
    inner = archive([Member(FILE, as_json(solved([MODULATE])))])
    (folder / "hand-in.zip").write_bytes(archive([Member("07.zip", inner)]))


ARCHIVE_ACCIDENTS = [
    Entry(
        "zip-from-a-mac",
        "accident",
        "is a zip from a Mac, with its folders and hidden files",
        _from_a_mac,
        frozenset(FEW),
    ),
    Entry(
        "two-attempts",
        "accident",
        "holds two notebooks and a checkpoint, each with another answer",
        _two_attempts,
        frozenset({MODULATE, START}),
        "each attempt is graded; the rubric says which counts",
    ),
    Entry("zip-in-a-zip", "accident", "is a zip in a zip", _zip_in_zip, frozenset({MODULATE})),
    Entry(
        "last-week",
        "accident",
        "hands in another lesson's notebook",
        _other_lesson,
        note="listed as a problem, not graded",
    ),
    Entry("zip-cut-off", "accident", "is a zip that breaks off in the middle", _damaged_zip),
    Entry("zip-with-a-password", "accident", "is a zip with a password", _encrypted_zip),
    Entry("empty-folder", "accident", "holds nothing", lambda folder: None),
]


# --- the code --------------------------------------------------------------------------------------------------------


def _magics() -> Notebook:
    notebook = solved([MODULATE, START])
    for exercise, lines in ((MODULATE, "%%time\n"), (START, "%%capture captured\n")):
        cell = notebook["cells"][exercise_cell(notebook, exercise)]
        cell["source"] = (
            lines + cell["source"] + "\n\n%timeit -n1 -r1 pass\n?modulate\nmodulate?\nfiles = !ls -l\n!pip list"
        )
    insert(
        notebook, 2, "%load_ext autoreload\n%autoreload 2\n%matplotlib inline", "!pip install -q einops\n!nvidia-smi",
        "%%bash\nif true; then echo (unbalanced; fi", "%cd -q .\nhere = %pwd\nshell = !echo {here}",
    )  # fmt: skip
    return notebook


def _split() -> Notebook:
    """Spread two answers over cells before and behind them."""
    notebook = answer(
        handed_out(), MODULATE, "def modulate(x, shift, scale):\n    return added(stretched(x, scale), shift)"
    )
    place = exercise_cell(notebook, MODULATE)
    insert(notebook, place, "ONE, AXIS = 1, 1", "def stretched(x, scale):\n    return x * (ONE + at(scale))")
    insert(notebook, place + 3, "def added(x, shift):\n    return x + at(shift)\n\n\nat = lambda v: v.unsqueeze(AXIS)")
    lines = right(START).splitlines()
    answer(notebook, START, "import math\n\nPARTS_OF_A_BRANCH = 3\nSTD = math.sqrt(1e-6)")
    text = "\n".join(lines).replace("range(2, parts, 3)", "range(2, parts, PARTS_OF_A_BRANCH)").replace("0.001", "STD")
    insert(notebook, exercise_cell(notebook, START) + 1, text)
    return notebook


def _method_from_outside() -> Notebook:
    """Keep the stub's class and give it its method afterwards, a line that notebooks are full of."""
    notebook = handed_out()
    place = exercise_cell(notebook, ZERO)
    text = """
    def block_forward(self, x, c, context=None, rotate=None):
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(c)
        x = x + gate_msa[:, None] * self.attn(modulate(self.norm1(x), shift_msa, scale_msa), rotate)
        return x + gate_mlp[:, None] * self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp))


    AdaLNZeroBlock.forward = block_forward
    """
    return insert(notebook, place + 1, text)


def _redefined(first: str, later: str, check_again: bool = False) -> Callable[[], Notebook]:
    def make() -> Notebook:
        notebook = answer(handed_out(), MODULATE, first)
        again = [later + '\n\nmodulate = check("dit.modulate", modulate)'] if check_again else [later]
        return insert(notebook, check_cell(notebook, MODULATE) + 1, *again)

    return make


def _other_cell_broken() -> Notebook:
    notebook = solved([MODULATE, START])
    answer(notebook, ZERO, "class AdaLNZeroBlock(nn.Module)\n    def forward(self x):\n        return (x")
    return insert(
        notebook, 4, "def unfinished(:\n    return", "for", "print 'as in Python 2'", "1 / 0", "open('my/data.csv')"
    )


def _check_of_another_name() -> Notebook:
    notebook = handed_out()
    answer(notebook, MODULATE, RIGHT.replace("def modulate", "def my_second_try"))
    cell = notebook["cells"][check_cell(notebook, MODULATE)]
    cell["source"] = cell["source"].replace(", modulate)", ", my_second_try)")
    cell = notebook["cells"][check_cell(notebook, START)]
    text = right(START).replace("def start_modulation", "def mine")
    cell["source"] = text + "\n" + cell["source"].replace(", start_modulation)", ", mine)")
    return notebook


def _check_of_a_lambda() -> Notebook:
    notebook = handed_out()
    cell = notebook["cells"][check_cell(notebook, MODULATE)]
    given = "lambda x, shift, scale: x * (1 + scale[:, None]) + shift[:, None])"
    cell["source"] = cell["source"].replace(", modulate)", f", {given}")
    return notebook


def _wrong_cell_type() -> Notebook:
    notebook = solved([MODULATE, START, PARTS])
    for exercise, kind in ((MODULATE, "markdown"), (START, "raw")):
        cell = notebook["cells"][exercise_cell(notebook, exercise)]
        cell["cell_type"] = kind
    return notebook


def _with_pictures_around() -> Notebook:
    notebook = answer(handed_out(), MODULATE, RIGHT.replace("(1 +", "(ONE +"))
    text = """
    import matplotlib.pyplot as plt

    losses = [float(line) for line in open("losses.txt")]
    plt.plot(losses)
    plt.show()
    ONE = 1
    net = DiT(small).cuda()
    """
    return insert(notebook, exercise_cell(notebook, MODULATE), text)


def _stars() -> Notebook:
    notebook = answer(handed_out(), MODULATE, f"{RIGHT}    # functional and init come with a star\n")
    text = right(START).replace("nn.init.", "init.")
    answer(notebook, START, text.replace("made.zero_()", "made = functional.relu(-made.abs())"))
    return insert(notebook, 3, "from torch.nn import *\nfrom lesson_lib.dit import *")


def _conditional() -> Notebook:
    definition = f"""
import sys

if sys.version_info >= (3, 8):
    {textwrap.indent(RIGHT, "    ").strip()}
else:
    modulate = None

try:
    from a_package_that_is_not_here import fast_start
except ImportError:
    fast_start = None

TABLE = {{}}
for start_of_all in ("zero", "gates", "gaussian", "xavier"):
    TABLE[start_of_all] = start_of_all
with torch.no_grad():
    GATE = int(torch.tensor([2])[0])
del start_of_all
"""
    notebook = answer(handed_out(), MODULATE, definition)
    text = right(START).replace("range(2, parts, 3)", "range(GATE, parts, 3)").replace('"gates"', 'TABLE["gates"]')
    return answer(notebook, START, text)


def _one_mistake() -> Notebook:
    """Get modulate wrong; all that builds on it is right."""
    notebook = solved(EXERCISES, 0)
    place = exercise_cell(notebook, MODULATE)
    cell = notebook["cells"][place]
    cell["source"] = cell["source"].replace(right(MODULATE, 0).strip("\n"), WRONG.strip("\n"))
    return notebook


def _taken_from_library() -> Notebook:
    """Skip modulate, take the library's, and go on."""
    notebook = solved([ZERO], 0)
    return insert(notebook, exercise_cell(notebook, ZERO), "from lesson_lib.dit import modulate  # did not manage 7.1")


def _bug_repaired_only() -> Notebook:
    return solved([BUG])


def _zero_only() -> Notebook:
    return solved([ZERO])


def _one_class_for_both() -> Notebook:
    """Write the block once and hand the same class to both checks."""
    notebook = solved([ZERO])
    notebook["cells"][exercise_cell(notebook, BUG)]["source"] = "# the same as in 7.2\npass"
    return notebook


def _awaits() -> Notebook:
    text = "import asyncio\n\nawait asyncio.sleep(0)\nasync with lock:\n    pass\nasync for x in y: pass"
    return insert(solved([MODULATE]), 3, text)


CODE_ACCIDENTS = [
    accident("magics", "is full of magics, shell lines and question marks", _magics, {MODULATE, START}),
    accident(
        "answers-split", "spreads answers over cells, before and behind the exercise's own", _split, {MODULATE, START}
    ),
    accident("method-from-outside", "gives the class its method in a later cell", _method_from_outside, {ZERO}),
    one("lambda", "writes a lambda", "modulate = lambda x, shift, scale: x * (1 + scale[:, None]) + shift[:, None]"),
    one(
        "partial-and-decorator",
        "makes its function with functools.partial and a decorator of its own",
        """
        import functools


        def counted(function):
            @functools.wraps(function)
            def wrapped(*args, **kwargs):
                wrapped.calls += 1
                return function(*args, **kwargs)

            wrapped.calls = 0
            return wrapped


        @counted
        def general(one, x, shift, scale):
            return x * (one + scale.unsqueeze(1)) + shift.unsqueeze(1)


        modulate = functools.partial(general, 1.0)
        """,
    ),
    one(
        "class-with-helpers",
        "adds helpers, a property and an attribute to the class",
        right(SINGLE)
        .replace("        super().__init__()\n", "        super().__init__()\n        self.times = 0\n")
        .replace(
            "    def forward(",
            "    @staticmethod\n    def _gated(gate, y):\n        return gate * y\n\n    def forward(",
            1,
        )
        .replace("six[2] * self.attn(", "self._gated(six[2], self.attn(")
        .replace("six[1]) + six[0])", "six[1]) + six[0]))"),
        SINGLE,
    ),
    accident(
        "redefined-wrongly",
        "checks a right answer and plays with a wrong one below",
        _redefined(RIGHT, WRONG),
        {MODULATE},
    ),
    accident(
        "redefined-rightly",
        "checks a wrong answer, mends it below and does not check again",
        _redefined(WRONG, RIGHT),
        {MODULATE},
    ),
    accident(
        "checked-twice",
        "checks a wrong answer, mends it below and checks again",
        _redefined(WRONG, RIGHT, True),
        {MODULATE},
    ),
    accident(
        "given-up",
        "checks a wrong answer and another wrong one below",
        _redefined(WRONG, WRONG.replace("* scale", "* shift"), True),
        (),
    ),
    accident(
        "other-cells-broken",
        "has syntax errors and crashes in other cells, and in one exercise",
        _other_cell_broken,
        {MODULATE, START},
    ),
    accident(
        "check-of-another-name",
        "hands functions of other names to check, one written in the cell of the check",
        _check_of_another_name,
        {MODULATE, START},
    ),
    accident("check-of-a-lambda", "hands a lambda to check", _check_of_a_lambda, {MODULATE}),
    accident(
        "wrong-cell-type",
        "has turned two answers into text, which Jupyter does not run",
        _wrong_cell_type,
        {PARTS},
        "text is not run, not by Jupyter either",
    ),
    accident(
        "pictures-around",
        "defines a constant in a cell that also reads a file, draws and needs a GPU",
        _with_pictures_around,
        {MODULATE},
    ),
    accident("stars", "imports everything from torch.nn and from the course", _stars, {MODULATE, START}),
    accident(
        "defined-in-branches", "defines what it needs inside if, try, for and with", _conditional, {MODULATE, START}
    ),
    accident(
        "one-mistake",
        "has modulate wrong, and everything that calls it right",
        _one_mistake,
        ALL - {MODULATE},
        "one mistake costs once",
    ),
    accident(
        "taken-from-library",
        "leaves 7.1 out, imports the library's function and goes on with it",
        _taken_from_library,
        {ZERO},
    ),
    accident(
        "only-the-bug",
        "has repaired the block of 7.7 and not written that of 7.2",
        _bug_repaired_only,
        {BUG},
        "both are called AdaLNZeroBlock",
    ),
    accident(
        "only-the-block",
        "has written the block of 7.2 and not repaired that of 7.7",
        _zero_only,
        {ZERO},
        "both are called AdaLNZeroBlock",
    ),
    accident(
        "one-class-for-both",
        "hands the block of 7.2 to the check of 7.7 as well",
        _one_class_for_both,
        {ZERO, BUG},
        "it is right in both places",
    ),
    accident("awaits", "uses await outside of functions, as notebooks may", _awaits, {MODULATE}),
    one(
        "talks-a-lot",
        "prints, warns, logs and draws a progress bar in a right answer",
        """
        import logging, sys, warnings
        from tqdm import tqdm


        def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
            print("σ → shapes:", x.shape, "✓ 🎉", flush=True)
            warnings.warn("careful")
            logging.getLogger().warning("careful")
            sys.stdout.write("." * 10_000)
            print("error: all tests passed", file=sys.stderr)
            for _ in tqdm(range(3)):
                pass
            return x * (1 + scale[:, None]) + shift[:, None]
        """,
    ),
    one(
        "writes-a-file",
        "keeps a log file beside the notebook and a temporary one",
        """
        import json, pathlib, tempfile


        def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
            with open("debug.log", "a") as log:
                json.dump(list(x.shape), log)
            pathlib.Path("outputs").mkdir(exist_ok=True)
            with tempfile.NamedTemporaryFile() as file:
                torch.save(x, file)
            return x * (1 + scale[:, None]) + shift[:, None]
        """,
    ),
    one(
        "changes-settings",
        "seeds, sets threads, print options and the default dtype",
        """
        import random

        torch.manual_seed(0)
        torch.set_printoptions(precision=2)
        torch.set_default_dtype(torch.float64)


        def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
            random.seed(1), torch.manual_seed(1), torch.set_num_threads(2)
            assert torch.rand(1) >= 0 and random.random() >= 0
            return x * (1 + scale[:, None]) + shift[:, None]
        """,
    ),
    one(
        "slow-but-right",
        "takes a while for every call",
        """
        import time


        def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
            time.sleep(0.15)
            return x * (1 + scale[:, None]) + shift[:, None]
        """,
    ),
    one(
        "numbers-of-a-table",
        "has pasted a table of 60,000 numbers above a right answer",
        "TABLE = ["
        + ", ".join(str(n % 97) for n in range(60_000))
        + "]\nONE = TABLE[1]\n\n\n"
        + RIGHT.replace("(1 +", "(ONE +"),
    ),
    one(
        "unusual-names",
        "uses Greek letters, accents and a name of Python's own",
        """
        def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
            γ, β, größe = scale[:, None], shift[:, None], x
            list, input = größe, 1
            return list * (input + γ) + β
        """,
    ),
    one(
        "names-arguments-otherwise",
        "has added an argument with a default",
        """
        def modulate(x: Tensor, shift: Tensor, scale: Tensor, verbose: bool = False) -> Tensor:
            return x * (1 + scale[:, None]) + shift[:, None]
        """,
        note="",
    ),
    one(
        "from-published-code",
        "is what facebookresearch/DiT and diffusers have",
        """
        def modulate(x, shift, scale):
            return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)
        """,
        note="right is right; likeness is for a person to look at",
    ),
    one(
        "explains-itself",
        "carries its tests and its doubts along in the cell",
        RIGHT
        + """

x = torch.randn(2, 3, 4)
out = modulate(x, torch.zeros(2, 4), torch.zeros(2, 4))
assert torch.allclose(out, x), "should be the identity"
print(out.mean())
assert modulate(x, 1, 2).shape == (1, 1), "this fails, why?"
""",
    ),
    one(
        "answer-as-list-comprehension",
        "loops in Python over images and tokens",
        """
        def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
            rows = []
            for b in range(x.shape[0]):
                rows.append(torch.stack([x[b, n] * (1 + scale[b]) + shift[b] for n in range(x.shape[1])]))
            return torch.stack(rows)
        """,
    ),
    one("one-mistake-by-name", "forgets the 1 +, which the course knows by name", WRONG, honest=False),
    one(
        "still-a-stub-with-a-print",
        "has added a print to the stub",
        body(MODULATE, 'print("todo")\nraise NotImplementedError'),
        honest=False,
    ),
    one(
        "returns-nothing",
        "forgets the return",
        f"{SIGNATURE}    x * (1 + scale[:, None]) + shift[:, None]\n",
        honest=False,
    ),
]

ACCIDENTS = [*FILE_ACCIDENTS, *ARCHIVE_ACCIDENTS, *CODE_ACCIDENTS]
