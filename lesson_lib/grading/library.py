"""The library as the sandbox gets it: compiled modules, from which the body of the one graded answer is missing."""

from __future__ import annotations

import marshal
from functools import lru_cache

from lesson_lib import ROOT
from lesson_lib.exercises.source import resolve, source_of, without_body

LEFT_OUT = ("bench", "exercises", "experiments", "official", "grading", "build")
MISSING = "LibraryFunctionCalled"

_ROOT = f'''"""The course's library, without what is being graded."""
from pathlib import Path

ROOT = Path("/course")
DATA = ROOT / "data"


class {MISSING}(Exception):
    """The library's own version of the graded function was called."""
'''

_EXERCISES = '''"""Stands in for the checks of a notebook, which have no say during grading."""
import sys


def check(exercise_id, answer=None):
    """Hand the answer back as it is."""
    return answer


def predict(*args, **kwargs):
    """Do nothing."""


prose = revisit = score = predict
'''

Sent = tuple[dict[str, tuple[bool, bytes]], dict[str, str]]


@lru_cache(maxsize=32)
def library_without(path: str) -> Sent:
    """Return the modules that an answer may import, and their text for tracebacks: name → (is it a package, code).

    path: of the graded function or method, such as "dit.modulate"; of it only the signature is left, and calling it
    raises LibraryFunctionCalled.
    """
    texts = dict(_texts())
    name = resolve(path).module.__name__
    whole = source_of(path)
    stub = without_body(path, f'raise __import__("lesson_lib").{MISSING}("{path}")')
    if texts[name].count(whole) != 1:
        raise ValueError(f"{path} does not stand once in {name}; it cannot be taken out for grading")
    texts[name] = texts[name].replace(whole, stub)
    packages = {"lesson_lib"}
    sent = {key: (key in packages, marshal.dumps(compile(text, _path(key), "exec"))) for key, text in texts.items()}
    return sent, {_path(key): text for key, text in texts.items()}


@lru_cache(maxsize=1)
def _texts() -> dict[str, str]:
    folder = ROOT / "lesson_lib"
    names = sorted(path.stem for path in folder.glob("*.py") if path.stem not in (*LEFT_OUT, "__init__"))
    texts = {f"lesson_lib.{name}": (folder / f"{name}.py").read_text(encoding="utf-8") for name in names}
    return {"lesson_lib": _ROOT, "lesson_lib.exercises": _EXERCISES, **texts}


def _path(name: str) -> str:
    return f"/course/{name.replace('.', '/')}.py"
