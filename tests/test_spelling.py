"""Spelling: what people read is English as it is written in Britain, plus the words of tests/dictionary.txt.

Read are pages, notebooks with their comments, sentences and alt texts, and lesson_lib's docstrings, comments and
sentences. Left out are code in backticks, formulas, addresses, paths, calls, names with capitals inside, and in
Python the names that the file itself uses. A word that is right and that the word list lacks goes into the dictionary.
"""

from __future__ import annotations

import builtins
import json
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest
from spellchecker import SpellChecker

from lesson_lib import ROOT
from lesson_lib.delivery.pages import read_page, read_pages, tracked

DICTIONARY = Path(__file__).parent / "dictionary.txt"
CODE = re.compile(r"``.+?``|`[^`]*`|\$[^$]+\$|https?://\S+", re.DOTALL)
PRAGMA = re.compile(r"\b(?:fmt|type|pragma): .*|\bnoqa\b.*")
LETTER = "A-Za-zÀ-ÖØ-öø-ÿ"
WORD = re.compile(rf"(?<![\w./\\@=#-])[{LETTER}]+(?:[-'’][{LETTER}]+)*(?![\w(=/\\@]|[.-]\w)")
PROSE = re.compile(
    r'^[ \t]*"""[\s\S]*?"""|(?P<string>"""[\s\S]*?"""|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\')|#.*', re.MULTILINE
)  # a docstring, another string, or a comment
SENTENCE = re.compile(r"(?:(?<![\w.])[a-z]{2,} ){3}")  # a string with three plain words in a row is for people

ON_PURPOSE = {("notebooks/10_mmdit.ipynb", "sqare")}  # a prompt with mistakes, to see what the network does with it
PYTHON = {*dir(builtins), *sys.stdlib_module_names}

AMERICAN = {
    **{f"{stem}or": f"{stem}our" for stem in ("col", "fav", "flav", "behavi", "neighb", "hon", "hum", "lab", "rum")},
    **{f"{stem}er": f"{stem}re" for stem in ("cent", "fib", "lit", "theat", "calib")},
    **{f"{stem}og": f"{stem}ogue" for stem in ("catal", "anal", "dial")},
    **{f"{stem}ense": f"{stem}ence" for stem in ("def", "off", "lic")},
    **{stem + end: f"{stem}l{end}" for stem in ("label", "model", "travel", "cancel", "level", "signal", "channel")
       for end in ("ed", "ing")},
    "gray": "grey", "artifact": "artefact", "toward": "towards", "math": "mathematics", "skeptic": "sceptic",
    "aging": "ageing", "behavioral": "behavioural", "fulfill": "fulfil", "skillful": "skilful",
}  # fmt: skip
ENDINGS = ("", "s", "ed", "ing", "ful", "less", "able", "ite", "ites", "hood", "hoods", "scale", "ment")
IZE = re.compile(r"(\w{3,}[iy])z(e|es|ed|er|ers|ing|able|ation|ations)")
RESIZE = re.compile(r"(?:re|over|under|up|down|full|half|cap)siz\w+")  # the only ones that are written so everywhere


def british(word: str) -> str:
    """Return the British spelling of an American word, or "" for any other word."""
    for ending in ENDINGS:
        stem = word.removesuffix(ending)
        if stem in AMERICAN and word.endswith(ending) and word not in AMERICAN.values():
            here = AMERICAN[stem]
            return (here[:-1] if here.endswith("re") and ending[:1] in ("e", "i") else here) + ending
    found = IZE.fullmatch(word)
    return f"{found[1]}s{found[2]}" if found and not RESIZE.fullmatch(word) else ""


def words(text: str) -> Iterator[str]:
    """Yield the plain words of a text, in small letters, parts of hyphened words one by one, without 's."""
    for found in WORD.findall(CODE.sub(" ", text)):
        for part in found.replace("’", "'").split("-"):
            part = part.removesuffix("'s")
            if len(part) > 1 and part[1:].islower():
                yield part.lower()


def python_words(source: str) -> Iterator[str]:
    """Yield the words of Python's docstrings, comments and sentences, without the names that its code uses."""
    names = set(re.findall(r"[^\W\d]\w*", PROSE.sub(" ", source)))
    for found in PROSE.finditer(source):
        text = found[0].strip("\"' #")
        if found["string"]:
            text = re.sub(r"\{[^{}]*\}|\\.", " ", text) if SENTENCE.search(text) and "\n" not in text else ""
        yield from (word for word in words(PRAGMA.sub("", text)) if word not in names)


def notebook_words(text: str, prose: Iterable[str]) -> Iterator[str]:
    """Yield the words of a notebook: its text cells (the prose), what its code says in words, its alt texts."""
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    code = "\n".join("".join(cell["source"]) for cell in cells)
    names = set(re.findall(r"[^\W\d]\w*", PROSE.sub(" ", code)))
    yield from (word for part in prose for word in words(part) if word not in names)
    yield from python_words(code)
    for output in (output for cell in cells for output in cell["outputs"]):
        for about in output.get("metadata", {}).values():
            yield from words(about.get("alt", ""))


@cache
def read() -> dict[str, set[str]]:
    """Return the words of each file."""
    files = tracked()
    found = {}
    for page in read_pages(files=files):
        source = (ROOT / page.path).read_text(encoding="utf-8") if page.notebook else ""
        text = notebook_words(source, page.words) if page.notebook else words("\n".join(page.words))
        found[page.path] = set(text)
    for path in files:
        if path.startswith("lesson_lib/") and path.endswith(".py"):
            found[path] = set(python_words((ROOT / path).read_text(encoding="utf-8")))
    return found


@cache
def english() -> SpellChecker:
    return SpellChecker(language="en")


def unknown(found: Iterable[str]) -> set[str]:
    """Return the words that the word list of English lacks, and those that it has in their American spelling."""
    return {word for word in found if british(word) or not (word in PYTHON or word in english())}


def dictionary() -> list[str]:
    return DICTIONARY.read_text(encoding="utf-8").split()


def complaints(found: dict[str, set[str]], allowed: Iterable[str]) -> list[str]:
    """Say which words are spelt wrongly, or not as in Britain, and where they stand."""
    bad = unknown(set().union(*found.values())) - set(allowed)
    return [
        f"{word}{f' (here {british(word)})' if british(word) else ''} in {', '.join(files)}"
        for word in sorted(bad)
        if (files := [file for file in found if word in found[file] and (file, word) not in ON_PURPOSE])
    ]


def test_every_word_is_spelt_right() -> None:
    wrong = complaints(read(), dictionary())
    assert not wrong, "mend these words, or add them to tests/dictionary.txt if they are right:\n" + "\n".join(wrong)


def test_dictionary_holds_what_is_used_and_nothing_else() -> None:
    known = dictionary()
    assert known == sorted(set(known)), "one word a line, sorted, each once"
    assert not [word for word in known if word != word.lower()], "small letters only"
    assert not [word for word in known if british(word)], "American spellings are no words of the course"
    unused = set(known) - unknown(set().union(*read().values()))
    assert not unused, f"no longer used: {' '.join(sorted(unused))}"


LEFT_OUT = (
    "`sqaure` $sqaure$ https://x.example/sqaure sqaure(x) a.sqaure sqaure.py dir/sqaure sqaure=1 Sqaure2 SqauRe SQR"
)


def test_misspelt_words_are_found_wherever_they_are_read() -> None:
    markdown = read_page(
        "page.md", f"# Sqaure one\n\n[Sqaure's two](x.md) {LEFT_OUT}\n\n```\nsqaure = 3\n```\n\n| sqaure |\n|---|"
    )
    assert [word for part in markdown.words for word in words(part)].count("sqaure") == 3
    assert list(words(LEFT_OUT)) == []
    source = '''"""A sqaure module."""
import nubmer
def draw(nubmer, cases={"sqaure": "keys"}):
    """Draw `sqaure` and the nubmer."""
    return f"every nubmer has its own sqaure: {sqaure_of(nubmer)}"  # a sqaure  # noqa: E501 sqaure
HTML = """<sqaure>
"""
'''
    assert list(python_words(source)).count("sqaure") == 3
    assert "nubmer" not in python_words(source)
    outputs = [{"metadata": {"image/png": {"alt": "A sqaure"}}}]
    cells = [{"cell_type": "code", "source": ["emb = 1  # a sqaure"], "outputs": outputs}]
    found = list(notebook_words(json.dumps({"cells": cells}), ["Take emb, not the sqaure."]))
    assert found.count("sqaure") == 3
    assert "emb" not in found
    assert complaints({"a.md": {"sqaure", "colour", "red"}}, ["colour"]) == ["sqaure in a.md"]


@pytest.mark.parametrize(
    ("american", "here"),
    [
        ("color", "colour"), ("colored", "coloured"), ("neighborhood", "neighbourhood"), ("behavioral", "behavioural"),
        ("favorite", "favourite"), ("centered", "centred"), ("centering", "centring"), ("grayscale", "greyscale"),
        ("normalize", "normalise"), ("optimizer", "optimiser"), ("tokenization", "tokenisation"),
        ("analyzed", "analysed"), ("labeled", "labelled"), ("modeling", "modelling"), ("artifacts", "artefacts"),
        ("license", "licence"), ("defense", "defence"), ("dialog", "dialogue"), ("fulfill", "fulfil"),
    ],
)  # fmt: skip
def test_american_spellings_are_mistakes(american: str, here: str) -> None:
    assert british(american) == here
    assert british(here) == ""
    assert complaints({"a.md": {american}}, [american[:0]]) == [f"{american} (here {here}) in a.md"]


@pytest.mark.parametrize(
    "word", ["resize", "sized", "prize", "oversized", "towards", "parameter", "analogy", "literal"]
)
def test_words_that_only_look_american_are_none(word: str) -> None:
    assert british(word) == ""
