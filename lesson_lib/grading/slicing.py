"""Reading a notebook that was handed in: each exercise's answer with what it depends on, and the answers in words.

This file is sent into the sandbox as code and runs there, before anything of the submission does: a file may be made
to break whoever parses it. It uses the standard library alone. Cell ids, tags and metadata are ignored: Colab and
copying lose them. Nothing of the notebook is run here.
"""

from __future__ import annotations

import ast
import json
import re
import symtable
from collections.abc import Iterator
from typing import Any

MOST_CODE, MOST_STATEMENTS, MOST_CANDIDATES = 4_000_000, 20_000, 5
MUTE_MAGICS = ("time", "timeit", "capture", "prun", "python", "python3", "memit", "mprun", "lprun")


def read(data: bytes, wanted: dict[str, Any]) -> dict[str, Any]:
    """Return what a notebook holds: candidates for each exercise, answers in words, and what was odd about it.

    wanted: exercises, a list of [id, name]; imports, name → the import line of the library's version; given, name → the
    import line of the notebook that was handed out; prose, ids.
    """
    problems: list[str] = []
    cells = _cells(data, problems)
    notebook = Notebook(cells, problems)
    answers = {key: notebook.candidates(key, name, wanted) for key, name in wanted["exercises"]}
    words = {key: notebook.words(key) for key in wanted["prose"]}
    return {"problems": problems[:20], "answers": answers, "words": words, "ids": sorted(notebook.checks)[:100]}


# --- the file ----------------------------------------------------------------------------------------------------


def _cells(data: bytes, problems: list[str]) -> list[str]:
    """Return the text of every code cell, in order; of cells that cannot be read an empty one."""
    try:
        found = json.loads(_text(data, problems), strict=False)
    except RecursionError:
        problems.append("This is no notebook: it is nested too deeply.")
        return []
    except ValueError as error:
        what = "it is empty" if not data.strip() else f"it is not JSON ({error})"
        problems.append(f"This is no notebook: {what}. Ask for it again.")
        return []
    cells = found.get("cells") if isinstance(found, dict) else None
    if cells is None and isinstance(found, dict) and isinstance(found.get("worksheets"), list):
        sheets = [sheet for sheet in found["worksheets"] if isinstance(sheet, dict)]
        cells = [cell for sheet in sheets for cell in sheet.get("cells") or []]
    if not isinstance(cells, list):
        problems.append("This is no notebook: it has no list of cells. Ask for it again.")
        return []
    texts = [_source(cell) for cell in cells]
    if sum(map(len, texts)) > MOST_CODE:
        problems.append(f"It holds more than {MOST_CODE:,} characters of code; only those are read.")
        room, kept = MOST_CODE, []
        for text in texts:
            kept.append(text if len(text) <= room else "")
            room -= len(kept[-1])
        texts = kept
    return texts


def _text(data: bytes, problems: list[str]) -> str:
    for start, name in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(start):
            return data.decode(name, errors="replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        problems.append("The file is not UTF-8; letters beyond the English ones may be wrong.")
        return data.decode("latin-1")


def _source(cell: Any) -> str:
    if not isinstance(cell, dict) or cell.get("cell_type") != "code":
        return ""
    source = cell.get("source", cell.get("input", ""))
    if isinstance(source, list):
        source = "".join(part for part in source if isinstance(part, str))
    if not isinstance(source, str):
        return ""
    return source.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8", "replace").decode()


# --- one cell ----------------------------------------------------------------------------------------------------


def _parsed(text: str) -> tuple[str, ast.Module]:
    """Return a cell as Python: as it is, or without its magics and shell lines. Raises SyntaxError and its like."""
    try:
        return text, ast.parse(text)
    except SyntaxError:
        plain = _without_magics(text)
        return plain, ast.parse(plain)


def _without_magics(text: str) -> str:
    """Blank out what only IPython understands; lines keep their numbers."""
    lines = text.split("\n")
    first = next((i for i, line in enumerate(lines) if line.strip()), 0)
    start = re.match(r"%%(\w+)", lines[first].strip()) if lines else None
    if start:
        if start[1] not in MUTE_MAGICS:
            return ""
        lines[first] = ""
    return "\n".join(_plain_line(line) for line in lines)


def _plain_line(line: str) -> str:
    bare = line.strip()
    indent = line[: len(line) - len(line.lstrip())]
    timed = re.match(r"%time\s+(.*)", bare)
    if timed:
        return indent + timed[1]
    if bare.startswith(("%", "!", "?")) or (bare.endswith("?") and "#" not in bare):
        return indent + "pass"
    assigned = re.match(r"([\w, ]+)=\s*[!%]", bare)
    return f"{indent}{assigned[1]}= None" if assigned else line


# --- statements --------------------------------------------------------------------------------------------------


class Statement:
    """One statement at the top of a cell: what it binds, uses and changes, and its text on the right line."""

    def __init__(self, node: ast.stmt, cell: int, text: str, alone: bool) -> None:
        self.node, self.cell = node, cell
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        lines = text.split("\n")[first - 1 : node.end_lineno]
        self.text = "\n" * (first - 1) + ("\n".join(lines) if alone else ast.unparse(node))
        self.binds = frozenset(_bound(node))
        self.changes = frozenset(_changed(node))
        self.is_definition = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        self.is_import = isinstance(node, ast.Import | ast.ImportFrom)
        self.is_star = isinstance(node, ast.ImportFrom) and any(a.name == "*" for a in node.names)
        self._uses: frozenset[str] | None = None

    @property
    def uses(self) -> frozenset[str]:
        """The global names that it needs, now or when what it defines is called."""
        if self._uses is None:
            try:
                self._uses = frozenset(_globals(symtable.symtable(ast.unparse(self.node), "cell", "exec")))
            except (SyntaxError, RecursionError, ValueError):
                self._uses = frozenset(n.id for n in ast.walk(self.node) if isinstance(n, ast.Name))
            counted = (n.target for n in _outside_functions(self.node) if isinstance(n, ast.AugAssign))
            self._uses |= {target.id for target in counted if isinstance(target, ast.Name)}
        return self._uses


def _globals(table: symtable.SymbolTable) -> set[str]:
    top = table.get_type() == "module"
    names = {s.get_name() for s in table.get_symbols() if s.is_referenced() and (top or s.is_global())}
    for child in table.get_children():
        names |= _globals(child)
    return names


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a statement, but not into the bodies of functions and classes inside it."""
    yield node
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
        return
    for child in ast.iter_child_nodes(node):
        yield from _outside_functions(child)


def _bound(statement: ast.stmt) -> Iterator[str]:
    for node in _outside_functions(statement):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
            yield node.id
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name


def _changed(statement: ast.stmt) -> Iterator[str]:
    """Name what a statement changes without binding it anew: table["a"] = 1, block.forward = f, found.append(1)."""
    for node in _outside_functions(statement):
        place: Any = None
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            place = node.value
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            place = node.value.func.value if isinstance(node.value.func, ast.Attribute) else None
            if isinstance(node.value.func, ast.Name) and node.value.func.id == "setattr" and node.value.args:
                place = node.value.args[0]
        while isinstance(place, ast.Attribute | ast.Subscript):
            place = place.value
        if isinstance(place, ast.Name):
            yield place.id


# --- the notebook ------------------------------------------------------------------------------------------------


class Notebook:
    """A notebook's statements in order, and where its checks stand."""

    def __init__(self, cells: list[str], problems: list[str]) -> None:
        self.statements: list[Statement] = []
        self.unread: list[tuple[int, str, str]] = []
        for number, text in enumerate(cells, 1):
            try:
                plain, tree = _parsed(text)
                lines = [line for node in tree.body for line in {node.lineno, node.end_lineno}]
                for node in tree.body:
                    alone = lines.count(node.lineno) == 1 and lines.count(node.end_lineno) == 1
                    self.statements.append(Statement(node, number, plain, alone))
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                where = f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else type(error).__name__
                self.unread.append((number, text, where))
            if len(self.statements) > MOST_STATEMENTS:
                problems.append(f"It has more than {MOST_STATEMENTS:,} statements; the rest is not read.")
                break
        if self.unread:
            cells_named = ", ".join(str(number) for number, _, _ in self.unread[:10])
            problems.append(f"Python cannot read the code of cell {cells_named} (code cells are counted with all).")
        self.future = any("annotations" in s.binds and _is_future(s.node) for s in self.statements)
        self.checks: dict[str, list[tuple[int, ast.expr]]] = {}
        for place, statement in enumerate(self.statements):
            for key, answer in _calls(statement.node, "check"):
                if answer is not None:
                    self.checks.setdefault(key, []).append((place, answer))

    def candidates(self, key: str, name: str, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the versions of an answer to try, each as the pieces to run and the name to take.

        First what was handed to check, the latest first; then the version written last. Where two exercises have one
        name and a check is gone, each has its stretch of the notebook.
        """
        rivals = [other for other, same in wanted["exercises"] if same == name and other != key]
        found: list[dict[str, Any]] = []
        for place, answer in reversed(self.checks.get(key, [])):
            for end in self._ends(answer, place):
                versions = self._version(answer, name, -1, end, wanted, shared=False)
                found += [version | {"behind": end > place} for version in versions]
        if not rivals:
            last = self._last_binding(name, -1, len(self.statements))
            if last is not None:
                found += self._version(ast.Name(name), name, -1, last + 1, wanted, shared=False)
        elif key not in self.checks:
            found += self._by_order(key, name, wanted)
        unique: list[dict[str, Any]] = []
        for version in found:
            if version not in unique:
                unique.append(version)
        if not unique:
            broken = [(number, where) for number, text, where in self.unread if _mentions(text, name)]
            return [{"broken": f"cell {number}, {where}"} for number, where in broken[:1]]
        return unique[:MOST_CANDIDATES]

    def _ends(self, answer: ast.expr, place: int) -> list[int]:
        """Return up to where to read for an answer: its check, or each place behind it where alone it is written."""
        if not isinstance(answer, ast.Name) or self._last_binding(answer.id, -1, place) is not None:
            return [place]
        behind = range(place, len(self.statements))
        found = [i + 1 for i in behind if answer.id in self.statements[i].binds and not _is_check(self.statements[i])]
        return found or [place]

    def _by_order(self, key: str, name: str, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        """Where two exercises have one name and this one's check is gone: the part behind the last earlier check."""
        group = [other for other, same in wanted["exercises"] if same == name]
        written = [i for i, s in enumerate(self.statements) if s.is_definition and name in s.binds]
        before = [p for other in group[: group.index(key)] for p, _ in self.checks.get(other, [])]
        after = [p for other in group[group.index(key) + 1 :] for p, _ in self.checks.get(other, [])]
        start, end = max(before, default=-1), min(after, default=len(self.statements))
        inside = [place for place in written if start < place < end]
        first, last = group.index(key) == 0, key == group[-1]
        if first and after and len(inside) > 1:
            inside = inside[:1]
        elif not (last and before) and len(written) == len(group):
            inside = [written[group.index(key)]]
        elif not (last and before) and not (first and after):
            return []
        return self._version(ast.Name(name), name, start, inside[-1] + 1, wanted, shared=True) if inside else []

    def _version(
        self, answer: ast.expr, name: str, start: int, place: int, wanted: dict[str, Any], *, shared: bool
    ) -> list[dict[str, Any]]:
        """Slice one version: an expression at a place, in which names were bound after start."""
        slice_ = _Slice(self, name, start, place, wanted, shared)
        final = answer.id if isinstance(answer, ast.Name) else "_answer"
        uses = {n.id for n in ast.walk(answer) if isinstance(n, ast.Name)}
        if final == name and slice_.binding(name, place) is None and not slice_.starred():
            return []
        for one in sorted(uses):
            slice_.need(one, place)
        origin = slice_.binding(name, place) if final == name else None
        imported = origin is not None and self.statements[origin].is_import
        pieces = slice_.pieces()
        if final == "_answer":
            pieces.append(["<the call of check>", f"_answer = {ast.unparse(answer)}"])
        return [{"pieces": pieces, "name": final, "future": self.future, "imported": imported}]

    def _last_binding(self, name: str, start: int, end: int) -> int | None:
        for place in range(min(end, len(self.statements)) - 1, start, -1):
            statement = self.statements[place]
            if name in statement.binds and not _is_check(statement):
                return place
        return None

    def words(self, key: str) -> dict[str, Any]:
        """Return the last answer in words that is not empty, or why there is none."""
        note = "not answered"
        for place in range(len(self.statements) - 1, -1, -1):
            for one, answer in _calls(self.statements[place].node, "prose"):
                if one != key:
                    continue
                text = self._string(answer, place) if answer is not None else ""
                if text is None:
                    note = "written by code, not as plain text: read the notebook"
                elif text.strip():
                    return {"text": text.strip()[:20_000], "note": ""}
        return {"text": "", "note": note}

    def _string(self, node: ast.expr, place: int, depth: int = 0) -> str | None:
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, str) else None
        if depth > 50:
            return None
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            parts = [self._string(side, place, depth + 1) for side in (node.left, node.right)]
            return None if None in parts else "".join(part or "" for part in parts)
        if isinstance(node, ast.JoinedStr) and all(isinstance(part, ast.Constant) for part in node.values):
            return "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.args:
            return self._string(node.func.value, place, depth + 1)
        if isinstance(node, ast.Name):
            earlier = self._last_binding(node.id, -1, place)
            statement = self.statements[earlier].node if earlier is not None else None
            if isinstance(statement, ast.Assign) and earlier is not None:
                return self._string(statement.value, earlier, depth + 1)
        return None


class _Slice:
    """The statements that one version of an answer depends on."""

    def __init__(
        self, notebook: Notebook, name: str, start: int, place: int, wanted: dict[str, Any], shared: bool
    ) -> None:
        self.notebook, self.name, self.start, self.place, self.shared = notebook, name, start, place, shared
        self.imports: dict[str, str] = wanted["imports"]
        self.given: dict[str, str] = wanted["given"]
        self.lost: set[str] = set()
        self.others = {same for _, same in wanted["exercises"]} - {name}
        self.chosen: set[int] = set()
        self.borrowed: set[str] = set()
        self.done: set[tuple[str, int]] = set()

    def binding(self, name: str, before: int) -> int | None:
        """Return where a name was bound last before a place, or else where it is bound first behind it."""
        own = name == self.name
        start = self.start if own and self.shared else -1
        found = self.notebook._last_binding(name, start, before)
        if found is not None or (own and self.shared):
            return found
        for place in range(before, len(self.notebook.statements)):
            statement = self.notebook.statements[place]
            if name in statement.binds and not _is_check(statement):
                return place
        return None

    def starred(self) -> bool:
        """Whether something was imported with a star, so that any name may be there."""
        return any(statement.is_star for statement in self.notebook.statements[: self.place])

    def need(self, name: str, before: int) -> None:
        """Add what binds a name, everything that changes it, and all that these need."""
        waiting = [(name, before)]
        while waiting:
            one, limit = waiting.pop()
            if (one, limit) in self.done:
                continue
            self.done.add((one, limit))
            if one in self.others:
                self.borrowed.add(one)
                continue
            if one in ("globals", "eval", "exec", "vars", "locals"):
                definitions = [s for s in self.notebook.statements[: self.place] if s.is_definition]
                waiting += [(bound, self.place) for s in definitions for bound in s.binds]
                continue
            place = self.binding(one, limit)
            if place is None:
                self.lost |= {self.given[one]} if one in self.given and one != self.name else set()
                continue
            statement = self.notebook.statements[place]
            for member in [place, *self._changers(one, place, statement)]:
                if member not in self.chosen:
                    self.chosen.add(member)
                    found = self.notebook.statements[member]
                    end = max(self.place, member) if found.is_definition else member
                    waiting += [(used, end) for used in found.uses]

    def _changers(self, name: str, place: int, statement: Statement) -> list[int]:
        if statement.is_import and not _from_library(statement.node):
            return []
        behind = range(place + 1, min(self.place, len(self.notebook.statements)))
        return [
            i
            for i in behind
            if name in self.notebook.statements[i].changes
            and not _is_check(self.notebook.statements[i])
            and not (self.notebook.statements[i].is_definition)
        ]

    def pieces(self) -> list[list[str]]:
        """Return the slice in the order of the notebook: label and text of each piece."""
        statements = self.notebook.statements
        stars = [i for i, s in enumerate(statements[: self.place]) if s.is_star]
        borrowed = sorted({*self.lost, *(self.imports[name] for name in self.borrowed)})
        found = [["<the course>", "\n".join(borrowed)]]
        for place in sorted({*self.chosen, *stars}):
            statement = statements[place]
            text = statement.text
            if any(True for _ in _calls(statement.node, "check")):
                text = ast.unparse(_Unchecked().visit(ast.parse(text)))
            if not _is_future(statement.node):
                found.append([f"<cell {statement.cell}>", text])
        return found if borrowed else found[1:]


class _Unchecked(ast.NodeTransformer):
    """Puts the answer in the place of check("…", answer)."""

    def visit_Call(self, node: ast.Call) -> Any:
        self.generic_visit(node)
        return (_answer_of(node) or node) if _called(node) == "check" else node


def _called(node: ast.Call) -> str:
    function = node.func
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


def _calls(statement: ast.stmt, name: str) -> Iterator[tuple[str, ast.expr | None]]:
    """Yield id and answer of every call such as check("id", answer) that stands outside of functions."""
    for node in _outside_functions(statement):
        if isinstance(node, ast.Call) and _called(node) == name and node.args:
            key = node.args[0]
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                yield key.value, _answer_of(node)


def _answer_of(node: ast.Call) -> ast.expr | None:
    named = [keyword.value for keyword in node.keywords if keyword.arg == "answer"]
    return node.args[1] if len(node.args) > 1 else named[0] if named else None


def _is_check(statement: Statement) -> bool:
    """Whether a statement only hands a name to check and takes it back: f = check("…", f)."""
    node = statement.node
    value = getattr(node, "value", None)
    if not isinstance(node, ast.Assign | ast.Expr | ast.AnnAssign) or not isinstance(value, ast.Call):
        return False
    answer = _answer_of(value) if _called(value) == "check" else None
    return isinstance(answer, ast.Name) and (isinstance(node, ast.Expr) or answer.id in statement.binds)


def _is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _from_library(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lesson_lib")


def _mentions(text: str, name: str) -> bool:
    return re.search(rf"\b(def|class)\s+{re.escape(name)}\b", text) is not None
