"""Reading notebooks as they come back from learners: moved, split, copied, half broken, and still graded fairly."""

import json
import textwrap

import pytest

from lesson_lib.grading.slicing import read

WANTED = {
    "exercises": [["a.first", "first"], ["a.Block", "Block"], ["a.second", "second"], ["a.bug", "Block"]],
    "imports": {
        "first": "from lesson_lib.a import first",
        "Block": "from lesson_lib.a import Block",
        "second": "from lesson_lib.a import second",
    },
    "given": {"math": "import math"},
    "prose": ["a.w1"],
}


def notebook(*cells: str, **more: object) -> bytes:
    found = [{"cell_type": "code", "source": textwrap.dedent(cell).strip("\n"), "metadata": {}} for cell in cells]
    return json.dumps({"cells": found, "metadata": {}, "nbformat": 4, "nbformat_minor": 0, **more}).encode()


def value_of(data: bytes, key: str = "a.first", argument: int = 3, version: int = 0) -> object:
    """Run the slice of one answer and call it: what the sandbox does, for code that these tests wrote."""
    found = read(data, WANTED)["answers"][key]
    if not found:
        return "missing"
    if "broken" in found[version]:
        return found[version]["broken"]
    names: dict[str, object] = {}
    for label, text in found[version]["pieces"]:
        exec(compile(text, label, "exec"), names)
    try:
        return names[found[version]["name"]](argument)  # type: ignore[operator]
    except NotImplementedError:
        return "empty"


HONEST = {
    "plain": ["def first(x): return x + 1", 'first = check("a.first", first)'],
    "a helper": ["def helper(x): return x + 1", "def first(x): return helper(x)", 'first = check("a.first", first)'],
    "helper below": ["def first(x): return helper(x)", "def helper(x): return x + 1", 'check("a.first", first)'],
    "a lambda": ["step = 1", "first = lambda x: x + step", 'first = check("a.first", first)'],
    "another name": ["def mine(x): return x + 1", 'first = check("a.first", mine)'],
    "a lambda in the check": ["step = 1", 'first = check("a.first", lambda x: x + step)'],
    "keyword": ["def mine(x): return x + 1", 'first = check("a.first", answer=mine)'],
    "no check": ["def first(x): return x + 1"],
    "two in a line": ["step = 1; first = lambda x: x + step"],
    "timed": ["%%time\ndef first(x): return x + 1", 'first = check("a.first", first)'],
    "magics": ["%matplotlib inline\n!pip list\nstep = 1\n?step\ndef first(x): return x + step"],
    "shell output kept": ["files = !ls\ndef first(x): return x + 1"],
    "timed statement": ["%time step = 1", "def first(x): return x + step"],
    "imports": ["import math as m\nfrom functools import partial", "def first(x): return x + int(m.cos(0))"],
    "a table filled later": ["table = {}", "table['step'] = 1", "def first(x): return x + table['step']"],
    "a list appended to": ["found = []", "found.append(1)", "def first(x): return x + found[0]"],
    "counted up": ["step = 0", "step += 1", "def first(x): return x + step"],
    "under if": ["if True:\n    def first(x): return x + 1", 'check("a.first", first)'],
    "decorated": [
        "import functools\ndef plus(f):\n    @functools.wraps(f)\n    def g(x): return f(x) + 1\n    return g",
        "@plus\ndef first(x): return x",
    ],
    "unrelated syntax error": ["def first(x): return x + 1", "this is no Python", 'first = check("a.first", first)'],
    "training above": ["raise RuntimeError('no data')", "def first(x): return x + 1", 'check("a.first", first)'],
    "stub copied below": [
        "def first(x): return x + 1",
        'first = check("a.first", first)',
        "def first(x): raise NotImplementedError",
        'first = check("a.first", first)',
    ],
    "mended below without a check": [
        "def first(x): return x - 1",
        'first = check("a.first", first)',
        "def first(x): return x + 1",
    ],
    "spoiled below": ["def first(x): return x + 1", 'first = check("a.first", first)', "def first(x): return 0"],
    "by name": ["def helper(x): return x + 1", "def first(x): return globals()['helper'](x)"],
    "starred": ["from math import *", "def first(x): return x + int(cos(0))"],
    "check wrapped": ["def first(x): return x + 1", 'print(check("a.first", first))'],
    "a lost import": ["def first(x): return x + int(math.cos(0))", 'first = check("a.first", first)'],
    "written below its check": [
        'first = check("a.first", first)',
        "def first(x): return 0",
        "def first(x): return x + 1",
    ],
    "CRLF": ["def first(x):\r\n    return x + 1"],
    "global statement": ["step = 0\ndef set_step():\n    global step\n    step = 1", "def first(x): return x + 1"],
}


@pytest.mark.parametrize("name", list(HONEST))
def test_an_honest_answer_is_found(name: str) -> None:
    data = notebook(*HONEST[name])
    assert 4 in [value_of(data, version=v) for v in range(len(read(data, WANTED)["answers"]["a.first"]))]


def test_other_exercises_come_from_the_library() -> None:
    data = notebook("def second(x): return 0", 'second = check("a.second", second)', "def first(x): return second(x)")
    pieces = read(data, WANTED)["answers"]["a.first"][0]["pieces"]
    assert pieces[0][1] == "from lesson_lib.a import second"
    assert not any("return 0" in text for _, text in pieces)


def test_a_method_may_be_put_into_its_class_afterwards() -> None:
    cells = ["class Block:\n    def __call__(self, x): raise NotImplementedError"]
    cells += ["def mine(self, x): return x + 1", "Block.forward = mine", 'Block = check("a.Block", Block)']
    pieces = read(notebook(*cells), WANTED)["answers"]["a.Block"][0]["pieces"]
    assert any("Block.forward = mine" in text for _, text in pieces)
    assert any("def mine" in text for _, text in pieces)


SOLVED = "class Block:\n    kind = 'solved'"
BROKEN = "class Block:\n    kind = 'broken'"


@pytest.mark.parametrize(
    ("cells", "first", "bug"),
    [
        ([SOLVED, 'Block = check("a.Block", Block)', BROKEN, 'Block = check("a.bug", Block)'], "solved", "broken"),
        ([BROKEN, 'Block = check("a.Block", Block)', SOLVED, 'Block = check("a.bug", Block)'], "broken", "solved"),
        ([SOLVED, BROKEN, 'Block = check("a.bug", Block)'], "solved", "broken"),
        ([SOLVED, 'Block = check("a.Block", Block)', BROKEN], "solved", "broken"),
        ([SOLVED, BROKEN], "solved", "broken"),
        ([SOLVED, 'Block = check("a.Block", Block)'], "solved", None),
        ([SOLVED, 'Block = check("a.Block", Block)', 'Block = check("a.bug", Block)'], "solved", "solved"),
        ([SOLVED, 'Block = check("a.Block", Block)', 'Block = check("a.bug", Block)', BROKEN], "solved", "solved"),
        ([SOLVED], None, None),
    ],
)
def test_two_exercises_of_one_name_stay_apart(cells: list[str], first: str | None, bug: str | None) -> None:
    answers = read(notebook(*cells), WANTED)["answers"]
    for key, kind in (("a.Block", first), ("a.bug", bug)):
        texts = ["\n".join(text for _, text in version["pieces"]) for version in answers[key]]
        assert [f"kind = '{kind}'" in text for text in texts] == ([True] if kind else []), (key, texts)


def test_missing_and_unreadable_answers_say_so() -> None:
    found = read(notebook("x = 1", "def first(x:\n    return x"), WANTED)
    assert found["answers"]["a.second"] == []
    assert found["answers"]["a.first"] == [{"broken": "cell 2, line 1: '(' was never closed"}]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "no list of cells"),
        (b'{"cells": 3}', "no list of cells"),
        ("é".encode("latin-1"), "not UTF-8"),
    ],
)
def test_what_is_no_notebook_is_named(data: bytes, words: str) -> None:
    found = read(data, WANTED)
    assert any(words in problem for problem in found["problems"]), found["problems"]
    assert all(answers == [] for answers in found["answers"].values())


def test_odd_files_are_read() -> None:
    good = notebook("def first(x): return x + 1")
    assert value_of(b"\xef\xbb\xbf" + good) == 4
    assert value_of(good.decode().encode("utf-16")) == 4
    old = {"worksheets": [{"cells": [{"cell_type": "code", "input": ["def first(x):\n", "    return x + 1"]}]}]}
    assert value_of(json.dumps(old).encode()) == 4
    strange = [None, 3, {"cell_type": "code", "source": {"a": 1}}, {"cell_type": "code", "source": ["def first(x)", 4]}]
    strange += [{"cell_type": "code", "source": "\ud800 = 1"}, {"cell_type": "markdown", "source": "def first(x): 1"}]
    strange += [{"cell_type": "code", "source": ["def first(x): ", "return x + 1"]}]
    assert value_of(json.dumps({"cells": strange}).encode()) == 4


def test_huge_code_is_cut_and_still_answered() -> None:
    data = notebook("def first(x): return x + 1", "x = [" + "1," * 3_000_000 + "]")
    found = read(data, WANTED)
    assert any("characters of code" in problem for problem in found["problems"])
    assert value_of(data) == 4


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ('prose("a.w1", """one two""")', "one two"),
        ('prose("a.w1", "one " "two")', "one two"),
        ('prose("a.w1", "one " + "two")', "one two"),
        ('text = "one two"\nprose("a.w1", text)', "one two"),
        ('prose("a.w1", answer="one two")', "one two"),
        ('prose("a.w1", """ one two """.strip())', "one two"),
        ('prose("a.w1", "one two")\nprose("a.w1", "")', "one two"),
        ('prose("a.w1", "")', ""),
        ('prose("a.w2", "one two")', ""),
        ("prose('a.w1', open('x').read())", ""),
    ],
)
def test_answers_in_words(cell: str, text: str) -> None:
    found = read(notebook(cell), WANTED)["words"]["a.w1"]
    assert found["text"] == text
    assert bool(found["note"]) == (not text)
