"""The library's code as text: what the builder prints into notebooks as a stub, a solution or a part to read.

A path names something in lesson_lib without the package: "noise.add_noise" (a function), "condition.FiLM" (a class),
"condition.FiLM.forward" (a method; its text is always that of the whole class) or "embed.CONVENTIONS" (a constant).
"""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import inspect
import re
import symtable
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
FUTURE = "from __future__ import annotations"


@dataclass(frozen=True)
class Reference:
    """What a path stands for: module "lesson_lib.condition", name "FiLM", method "forward" (empty for a function)."""

    path: str
    module: ModuleType
    name: str
    method: str = ""

    @property
    def target(self) -> Any:
        """The function itself, or the class where the path names a class or a method."""
        return getattr(self.module, self.name)

    @property
    def function(self) -> Callable[..., Any]:
        """The function or method whose body the learner writes."""
        found = getattr(self.target, self.method) if self.method else self.target
        return found  # type: ignore[no-any-return]


def resolve(path: str) -> Reference:
    """Find what a path such as "noise.add_noise" or "condition.FiLM.forward" stands for.

    Raises ValueError with a sentence where there is no such module, name or method in the library.
    """
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            module = importlib.import_module("lesson_lib." + ".".join(parts[:cut]))
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("lesson_lib"):
                raise
            continue
        name, method, *rest = *parts[cut:], ""
        if not hasattr(module, name):
            raise ValueError(f"{path}: {module.__name__} has nothing called {name}")
        if any(rest) or (method and not hasattr(getattr(module, name), method)):
            raise ValueError(f"{path}: {name} has no method {'.'.join([method, *filter(None, rest)])}")
        return Reference(path, module, name, method)
    raise ValueError(f"{path}: lesson_lib has no module {parts[0]}; a path looks like noise.add_noise")


def source_of(path: str) -> str:
    """Return the library's source of a function, a class or a constant, decorators included, ending in a newline.

    For a method the source of its whole class. Imports are not part of it: see imports_for.
    """
    reference = resolve(path)
    text, tree = _parsed(reference.module)
    return _cut(text, _top_level(tree, reference))


def stub_of(path: str) -> str:
    """Return what the learner is given: signature and docstring, the body replaced by raise NotImplementedError.

    For a method the whole class with that one body replaced.
    """
    return without_body(path, f'raise NotImplementedError("write {path}")')


def without_body(path: str, body: str) -> str:
    """Return source_of(path) with another body in the function or method that the path names."""
    reference = resolve(path)
    source = source_of(path)
    node = ast.parse(source).body[0]
    if reference.method and isinstance(node, ast.ClassDef):
        node = next(n for n in node.body if isinstance(n, Definition) and n.name == reference.method)
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        raise ValueError(f"{path}: an exercise must name a function or a method, this is neither")
    return _replace_body(source, node, body)


def imports_for(path: str) -> list[str]:
    """Return the import lines that source_of(path) needs in a fresh notebook, sorted, one statement each.

    Names that the library's module defines itself come from there: "from lesson_lib.noise import expand".
    """
    return imports_for_text(source_of(path), resolve(path).module)


def imports_for_text(source: str, module: ModuleType) -> list[str]:
    """Return the import lines that a piece of the given module's source needs to run on its own."""
    table = symtable.symtable(source, "<source>", "exec")
    defined = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    available = _bindings(module)
    lines = {available[name] for name in _globals(table) - defined if name in available}
    if _names_itself_in_annotations(source):
        lines.add(FUTURE)
    return merge_imports(lines)


def merge_imports(lines: Iterable[str]) -> list[str]:
    """Join "from m import a" and "from m import b" into one line and sort: the course's own modules come last."""
    names: dict[str, list[str]] = {}
    for line in sorted(set(lines), key=str.casefold):
        origin, _, listed = line.partition(" import ")
        found = names.setdefault(origin, [])
        found += [one for one in re.split(r",\s*", listed.strip("() ,\n")) if one not in found]
    merged = [f"{origin} import {', '.join(found)}" if found != [""] else origin for origin, found in names.items()]
    return [_wrapped(line) for line in sorted(merged, key=_import_order)]


def source_of_mistake(function: Callable[..., Any], path: str) -> str:
    """Return a known mistake's source under the reference's name; a method's mistake stands inside its whole class.

    Raises ValueError for a lambda: what a notebook shows must be written with def.
    """
    reference = resolve(path)
    if inspect.isclass(function):
        return _renamed(textwrap.dedent(inspect.getsource(function)), reference.name)
    source = textwrap.dedent(inspect.getsource(function))
    node = ast.parse(source).body[0] if source.startswith(("def ", "@", "async ")) else None
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        raise ValueError(f"{path}: the code that a notebook shows must be written with def, not lambda")
    if not reference.method:
        return _with_signature_of(stub_of(path), source, node)
    return _with_signature_of(stub_of(path), source, node, reference.method)


# --- parts -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _parsed(module: ModuleType) -> tuple[str, ast.Module]:
    text = inspect.getsource(module)
    return text, ast.parse(text)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Walk a module's top level, looking into its if and try blocks (TYPE_CHECKING imports)."""
    for statement in body:
        yield statement
        for inner in ("body", "orelse", "finalbody"):
            if isinstance(statement, ast.If | ast.Try):
                yield from _statements(getattr(statement, inner, []))


def _targets(statement: ast.stmt) -> list[str]:
    if isinstance(statement, Definition):
        return [statement.name]
    found = getattr(statement, "targets", [getattr(statement, "target", None)])
    return [n.id for target in found if target is not None for n in ast.walk(target) if isinstance(n, ast.Name)]


def _top_level(tree: ast.Module, reference: Reference) -> ast.stmt:
    for statement in _statements(tree.body):
        if reference.name in _targets(statement):
            return statement
    raise ValueError(
        f"{reference.path}: {reference.name} is imported into {reference.module.__name__}, not written there"
    )


def _cut(text: str, node: ast.stmt) -> str:
    lines = text.splitlines()[_first_line(node) - 1 : node.end_lineno]
    return textwrap.dedent("\n".join(lines)) + "\n"


def _first_line(node: ast.stmt) -> int:
    return min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])


def _docstring_end(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the last line of the signature and the docstring."""
    first = node.body[0]
    if ast.get_docstring(node) is not None:
        return first.end_lineno or first.lineno
    return first.lineno - 1


def _replace_body(source: str, node: ast.FunctionDef | ast.AsyncFunctionDef, body: str) -> str:
    lines = source.splitlines()
    indented = textwrap.indent(textwrap.dedent(body), " " * (node.col_offset + 4)).splitlines()
    lines[_docstring_end(node) : node.end_lineno] = indented
    return "\n".join(lines) + "\n"


def _with_signature_of(stub: str, source: str, node: ast.FunctionDef | ast.AsyncFunctionDef, method: str = "") -> str:
    """Put the body of a mistake under the signature and docstring of the reference."""
    body = "\n".join(source.splitlines()[_docstring_end(node) : node.end_lineno])
    place = ast.parse(stub).body[0]
    if method and isinstance(place, ast.ClassDef):
        place = next(n for n in place.body if isinstance(n, Definition) and n.name == method)
    assert isinstance(place, ast.FunctionDef | ast.AsyncFunctionDef)
    return _replace_body(stub, place, body)


def _renamed(source: str, name: str) -> str:
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.ClassDef)
    lines = source.splitlines()
    lines[node.lineno - 1] = lines[node.lineno - 1].replace(f"class {node.name}", f"class {name}", 1)
    return "\n".join(lines) + "\n"


def _bindings(module: ModuleType) -> dict[str, str]:
    """Map every top-level name of a module to the import line that brings it into a notebook."""
    _, tree = _parsed(module)
    found: dict[str, str] = {}
    for statement in _statements(tree.body):
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                written = f"{alias.name} as {alias.asname}" if alias.asname else alias.name
                found[alias.asname or alias.name.split(".")[0]] = f"import {written}"
        elif isinstance(statement, ast.ImportFrom) and statement.module != "__future__":
            origin = "." * statement.level + (statement.module or "")
            if statement.level:
                origin = importlib.util.resolve_name(origin, module.__package__)
            for alias in statement.names:
                written = f"{alias.name} as {alias.asname}" if alias.asname else alias.name
                found[alias.asname or alias.name] = f"from {origin} import {written}"
        else:
            found.update({name: f"from {module.__name__} import {name}" for name in _targets(statement)})
    return found


def _globals(table: symtable.SymbolTable) -> set[str]:
    top = table.get_type() == "module"
    names = {s.get_name() for s in table.get_symbols() if s.is_referenced() and (top or s.is_global())}
    for child in table.get_children():
        names |= _globals(child)
    return names - set(dir(builtins))


def _names_itself_in_annotations(source: str) -> bool:
    """Whether a class mentions itself in an annotation, which needs postponed evaluation."""
    node = ast.parse(source).body[0]
    if not isinstance(node, ast.ClassDef):
        return False
    annotations = [getattr(n, "annotation", None) for n in ast.walk(node)]
    annotations += [getattr(n, "returns", None) for n in ast.walk(node)]
    inside = (n for a in annotations if a is not None for n in ast.walk(a))
    return any(isinstance(n, ast.Name) and n.id == node.name for n in inside)


def _wrapped(line: str) -> str:
    if len(line) <= 110:
        return line
    start, _, names = line.partition(" import ")
    body = textwrap.fill(names, 106, initial_indent="    ", subsequent_indent="    ")
    return f"{start} import (\n{body},\n)"


def _import_order(line: str) -> tuple[bool, bool, bool, str]:
    return (line != FUTURE, " lesson_lib" in line, line.startswith("from"), line)
