"""Answers that are built alike: pairs of students for a person to look at, never a verdict.

Structure is compared, names are not. Short exercises have few different right answers, so being alike says little by
itself: what was handed out, the library's own solution and the known mistakes count nothing, what more of the class
has written counts less, and a pair is listed only for enough of what is rare. Nothing of an answer is run.
"""

from __future__ import annotations

import ast
import inspect
import json
import math
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

from lesson_lib import ROOT
from lesson_lib.exercises.core import Exercise, counted
from lesson_lib.exercises.source import Definition

LONGEST = 60_000  # characters of an answer; a longer one is not compared
SMALLEST, LARGEST = 4, 200  # nodes of a piece that is compared as a whole
ALIKE = 0.6  # share of an answer's own code that must be met again in the other
SLIGHT = 8.0  # rare nodes in common; fewer are chance
ENOUGH = 40.0  # rare nodes in common, over all exercises, that are worth a person's time in a large class


@dataclass(frozen=True)
class Pair:
    """Two students whose answers are built alike. exercises: where, sorted. why: one sentence for whoever looks.

    likeness: 0 to 1, which share of the code that is neither given nor common is in both; of the smaller answer.
    """

    first: str
    second: str
    exercises: tuple[str, ...]
    likeness: float
    why: str


def similar(
    sources: Mapping[str, Mapping[str, str]],
    handed_out: Mapping[str, str],
    solutions: Mapping[str, str],
    common: Mapping[str, Sequence[str]] | None = None,
) -> list[Pair]:
    """List the pairs of students whose answers are built alike in a way that the class does not share, likest first.

    sources: by student, then by exercise. handed_out, solutions, common: by exercise, what everybody may have seen or
    come to (see common_sources). An answer that is no Python or longer than 60,000 characters is left out.
    """
    found: dict[tuple[str, str], list[Meeting]] = defaultdict(list)
    for exercise in sorted({exercise for answers in sources.values() for exercise in answers}):
        answers = {student: own[exercise] for student, own in sorted(sources.items()) if exercise in own}
        known = [handed_out.get(exercise, ""), solutions.get(exercise, ""), *(common or {}).get(exercise, ())]
        for pair, meeting in meetings(exercise, answers, known).items():
            found[pair].append(meeting)
    bar = ENOUGH * (1 + 25 / max(len(sources), 8))  # among few students, being the only two says less
    pairs = [_pair(*names, met) for names, met in found.items() if _evidence(met) >= bar]
    return sorted(pairs, key=lambda pair: (-pair.likeness, -len(pair.exercises), pair.first, pair.second))


def common_sources(exercise: Exercise) -> list[str]:
    """Return the known mistakes of an exercise, with what stands around them, and the code of its lesson's notebook."""
    modules = {mistake.function.__module__ for mistake in exercise.mistakes}
    return [text for name in sorted(modules) for text in _statements(name)] + _cells(exercise.lesson)


@lru_cache(maxsize=16)
def _statements(module: str) -> list[str]:
    text = inspect.getsource(sys.modules[module])
    return _texts(ast.parse(text), text)


@lru_cache(maxsize=16)
def _cells(lesson: str) -> list[str]:
    notebooks = sorted((ROOT / "notebooks").glob(f"{lesson}_*.ipynb"))
    cells = [cell for path in notebooks for cell in json.loads(path.read_text("utf-8"))["cells"]]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


# --- where two students meet -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Meeting:
    """What two answers to one exercise have in common: piece -> its nodes, weighed by how few students share it.

    own: the nodes of the smaller answer, weighed alike. among: how many students, these two included, share the
    commonest piece. literal: whether the two are the same word for word.
    """

    exercise: str
    shared: dict[int, float]
    own: float
    among: int
    literal: bool


def meetings(exercise: str, answers: Mapping[str, str], known: Iterable[str]) -> dict[tuple[str, str], Meeting]:
    """Find the pairs of students whose answers to an exercise share most of what is rare in them.

    An index from pieces to students leads to the pairs, so that those who share nothing rare are never compared.
    """
    given = frozenset[int]().union(*map(_given, known))
    cut = {student: pieces(text, given) for student, text in answers.items()}
    writers = sum(map(bool, cut.values()))
    students_with: dict[int, list[str]] = defaultdict(list)
    for student, own in cut.items():
        for piece in own:
            students_with[piece].append(student)
    weight = {piece: _weight(len(students), writers) for piece, students in students_with.items()}
    total = {student: sum(nodes * weight[piece] for piece, nodes in own.items()) for student, own in cut.items()}
    shared: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for piece, students in students_with.items():
        for one, other in combinations(students, 2) if weight[piece] else ():
            shared[one, other][piece] = weight[piece] * min(cut[one][piece], cut[other][piece])
    found = {}
    for (one, other), nodes in shared.items():
        least = min(total[one], total[other])
        if sum(nodes.values()) >= max(SLIGHT, ALIKE * least):
            among = max(len(students_with[piece]) for piece in nodes)
            literal = answers[one].split() == answers[other].split()
            found[one, other] = Meeting(exercise, nodes, least, among, literal)
    return found


def _weight(students: int, writers: int) -> float:
    """Return what a node counts that so many of all writers share: 1 for two of them, 0 for a sixth of the class."""
    limit = min(max(6.0, writers / 6), 30.0)
    return max(0.0, 1 - math.log(max(students, 2) / 2) / math.log(limit / 2))


def _evidence(met: list[Meeting]) -> float:
    """Return the rare nodes in common; a piece that stands in two exercises was copied once and counts once."""
    return sum({piece: nodes for one in met for piece, nodes in one.shared.items()}.values())


def _pair(first: str, second: str, met: list[Meeting]) -> Pair:
    likeness = min(1.0, sum(sum(one.shared.values()) for one in met) / sum(one.own for one in met))
    literal, among = sum(one.literal for one in met), max(one.among for one in met)
    how = f"{likeness:.0%} of what is neither given nor common in {counted(len(met), 'answer')} is built alike"
    text = "the same word for word" if literal == len(met) else f"{literal} of them word for word"
    words = text if literal else "the wording or the order differs"
    others = f"at most {counted(among - 2, 'other student')} wrote" if among > 2 else "nobody else wrote"
    return Pair(first, second, tuple(one.exercise for one in met), likeness, f"{how}, {words}; {others} any of it.")


@lru_cache(maxsize=4096)
def _given(text: str) -> frozenset[int]:
    tree = _parsed(text)
    texts = [words for place in _places(tree) for words in _texts(place, text)] if tree else []
    return frozenset([*pieces(text), *map(hash, texts)])


# --- an answer in pieces -----------------------------------------------------------------------------------------


def pieces(source: str, known: Collection[int] = ()) -> Counter[int]:
    """Cut an answer into pieces: its expressions, statements and functions of 4 to 200 nodes, known by their structure.

    Returns piece -> the nodes that belong to it and to no smaller piece. What is known is left out, with all in it:
    pieces, and statements and methods by the hash of their text.
    """
    tree = _parsed(source)
    found: Counter[int] = Counter()
    if tree is None:
        return found
    for body in _places(tree) if known else ():
        body.body = [
            node for node, text in zip(body.body, _texts(body, source), strict=True) if hash(text) not in known
        ]
    labels, parents = _outline(tree)
    sizes = [1] * len(labels)
    for place in range(len(labels) - 1, 0, -1):
        sizes[parents[place]] += sizes[place]
    smallest: list[int | None] = [None] * len(labels)
    place = 0
    while place < len(labels):
        piece = smallest[parents[place]] if place else None
        if SMALLEST <= sizes[place] <= LARGEST:
            piece = _structure(labels[place : place + sizes[place]])
            if piece in known:
                place += sizes[place]
                continue
        smallest[place] = piece
        if piece is not None:
            found[piece] += 1
        place += 1
    return found


def _parsed(source: str) -> ast.Module | None:
    """Read an answer as Python, or return None; whatever a hostile source makes of the parser stays here."""
    if len(source) > LONGEST:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _places(tree: ast.Module) -> list[ast.Module | ast.ClassDef]:
    """Return the places in which given code stands beside a student's own: the answer itself and its classes."""
    return [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]


def _texts(place: ast.Module | ast.ClassDef, source: str) -> list[str]:
    """Return the lines of each statement of a place."""
    lines = source.split("\n")
    return ["\n".join(lines[node.lineno - 1 : node.end_lineno]) for node in place.body]


def _structure(labels: Sequence[str]) -> int:
    """Hash a piece's nodes; the answer's own names count by their first appearance in the piece, whatever they are."""
    seen: dict[str, int] = {}
    return hash(tuple(seen.setdefault(label, len(seen)) if label[0] == "$" else label for label in labels))


def _outline(tree: ast.Module) -> tuple[list[str], list[int]]:
    """List a label for each node, parents first, and beside it the place of its parent. Names that it binds get a $."""
    own, imported = _names(tree)
    labels: list[str] = []
    parents: list[int] = []
    waiting: list[tuple[ast.AST, int]] = [(tree, 0)]
    while waiting:
        node, parent = waiting.pop()
        label, children = _described(node, own, imported)
        waiting += [(child, len(labels)) for child in reversed(children)]
        labels.append(label)
        parents.append(parent)
    return labels, parents


def _names(tree: ast.Module) -> tuple[set[str], dict[str, str]]:
    """Return the names that an answer binds itself, and the last word of what each imported name stands for."""
    own, imported = set(), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imported.update({(one.asname or one.name): one.name.split(".")[-1] for one in node.names})
        elif isinstance(node, ast.arg):
            own.add(node.arg)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            own.add(node.id)
        elif isinstance(node, Definition | ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            own.add(node.name)
    return own, imported


# Names, annotations and what only the parser needs. Imports, docstrings and pass are left out as statements.
_PASSED_OVER = {
    "annotation",
    "ctx",
    "kind",
    "name",
    "names",
    "rest",
    "returns",
    "simple",
    "type_comment",
    "type_params",
}


def _described(node: ast.AST, own: set[str], imported: Mapping[str, str]) -> tuple[str, list[ast.AST]]:
    """Return a node's label, which holds all but the names that may differ, and the nodes below it."""
    if isinstance(node, ast.arg):
        return f"${node.arg}", []
    if isinstance(node, ast.Name | ast.Attribute):
        return _name(node, own, imported)
    if isinstance(node, ast.Constant):
        value = hex(node.value) if isinstance(node.value, int) else repr(node.value)
        return f"{type(node.value).__name__} {value}", []
    label, children = [type(node).__name__], list[ast.AST]()
    if isinstance(node, ast.AnnAssign):
        return "Assign 1", [node.target, *filter(None, [node.value])]
    for field, value in ast.iter_fields(node):
        if field in _PASSED_OVER:
            continue
        items = list(_kept(value)) if isinstance(value, list) else [value]
        below = [item for item in items if isinstance(item, ast.AST) and item._fields]
        label += [str(len(items)), *(type(item).__name__ for item in items if item not in below)]
        label += [item for item in items if isinstance(item, str)]
        children += below
    return " ".join(label), children


def _kept(items: Iterable[Any]) -> Iterator[Any]:
    """Leave out the statements that change nothing: imports, docstrings, pass, annotations without a value."""
    for item in items:
        bare = isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant)
        empty = isinstance(item, ast.AnnAssign) and item.value is None
        if not (bare or empty or isinstance(item, ast.Import | ast.ImportFrom | ast.Pass | ast.Global | ast.Nonlocal)):
            yield item


def _name(node: ast.Name | ast.Attribute, own: set[str], imported: Mapping[str, str]) -> tuple[str, list[ast.AST]]:
    """Describe a name. One of a library is the same however it was imported: F.silu, torch.nn.functional.silu, silu."""
    if isinstance(node, ast.Name):
        return (f"${node.id}", []) if node.id in own else (f"Name {imported.get(node.id, node.id)}", [])
    root: ast.AST = node
    while isinstance(root, ast.Attribute):
        root = root.value
    if isinstance(root, ast.Name) and root.id not in own:
        return f"Name {node.attr}", []
    return f"Attribute {node.attr}", [node.value]
