"""The names a notebook has so far: a cell taken from the library brings only the imports that are missing."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from lesson_lib.exercises.source import merge_imports

ANSWER = "(defined in the notebook)"
VARIABLE = "(a variable)"


class NameClash(Exception):
    """A variable of the lesson hides a name that a later library cell needs."""


class Names:
    """The names bound so far, each with its origin: an import's full dotted name, an answer or a variable."""

    def __init__(self) -> None:
        self.origin: dict[str, str] = {}

    def read(self, source: str, *, answers: bool = False) -> None:
        """Take in one code cell. answers: it defines exercises or sources, which may stand in for an import."""
        _Reader(self.origin, ANSWER if answers else VARIABLE).visit(ast.parse(source))

    def missing(self, imports: list[str]) -> list[str]:
        """Return those of the import statements that the notebook still lacks, without the names it has.

        Raises NameClash where the notebook uses a needed name for something else.
        """
        kept = []
        for node in ast.parse("\n".join(imports)).body:
            if not isinstance(node, (ast.Import, ast.ImportFrom)):
                raise ValueError(f"not an import: {ast.unparse(node)}")
            wanted = [alias for alias, pair in zip(node.names, _aliases(node), strict=True) if not self._has(*pair)]
            if wanted:
                node.names = wanted
                kept.append(ast.unparse(node))
        return merge_imports(kept)

    def _has(self, name: str, dotted: str) -> bool:
        origin = self.origin.get(name)
        if origin in (None, dotted):
            return origin is not None
        if origin == ANSWER:
            return True
        raise NameClash(
            f"the notebook uses {name!r} as {origin}, but this code needs {dotted}; rename the notebook's {name!r}"
        )


def _aliases(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
    for alias in node.names:
        if isinstance(node, ast.ImportFrom):
            yield alias.asname or alias.name, f"{node.module}.{alias.name}"
        elif alias.asname:
            yield alias.asname, alias.name
        else:
            yield alias.name.split(".")[0], alias.name.split(".")[0]


class _Reader(ast.NodeVisitor):
    """Notes what a cell binds at its top level; names inside functions, classes and comprehensions do not count."""

    def __init__(self, origin: dict[str, str], kind: str) -> None:
        self.origin = origin
        self.kind = kind

    def visit_Import(self, node: ast.Import) -> None:
        self.origin.update(_aliases(node))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.origin.update(_aliases(node))

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.ClassDef) -> None:
        self.origin[node.name] = self.kind

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.visit_FunctionDef(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self.origin[node.id] = self.kind

    def visit_Assign(self, node: ast.Assign) -> None:
        checked = isinstance(node.value, ast.Call) and any(calls(node.value, ("check",)))
        _Reader(self.origin, ANSWER if checked else self.kind).generic_visit(node)

    def _own_scope(self, node: ast.AST) -> None:
        """Skip a node whose names are its own."""

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_Lambda = _own_scope


def calls(tree: ast.AST, functions: tuple[str, ...]) -> Iterator[tuple[str, str, int]]:
    """Yield (function, first argument, line) for each call of one of these functions on a literal text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield node.func.id, first.value, node.lineno
