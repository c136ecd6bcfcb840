"""The shape of the library: the order of its modules, what an import costs, and that public parts are documented."""

import ast
import json
import subprocess
import sys

import pytest

from lesson_lib import ROOT

LIBRARY = ROOT / "lesson_lib"
# In the order of the lessons.
LESSONS = ["setup", "shapes", "data", "noise", "flow", "samplers", "embed", "condition", "denoiser", "guidance"]
LESSONS += ["attention", "unet", "vae", "position", "vit", "dit", "text", "mmdit", "readout"]
TOOLS = ["processes", "checkpoint", "train", "evaluate", "results", "style", "pictures", "plane", "plot", "diagrams"]
TOOLS += ["widgets"]
ORDER = LESSONS + TOOLS + ["bench", "exercises", "experiments", "official", "grading", "build", "delivery"]
SOURCES = sorted(LIBRARY.rglob("*.py"))


def module_of(path):
    """Return the first part of a module's name below lesson_lib: what the order is about."""
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def imported(path):
    """Yield (line, name) of every part of lesson_lib that a file imports when it is imported itself."""
    tree = ast.parse(path.read_text())
    inside = {child for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for child in ast.walk(node)}
    for node in ast.walk(tree):
        if node in inside:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lesson_lib"):
            rest = (node.module or "").split(".")[1:]
            yield from ((node.lineno, name) for name in ([rest[0]] if rest else [a.name for a in node.names]))
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, a.name.split(".")[1]) for a in node.names if a.name.startswith("lesson_lib."))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(LIBRARY)))
def test_modules_import_only_what_comes_before_them(path):
    own = module_of(path)
    if own == "__init__":
        return
    assert own in ORDER, f"{own} has no place in the order of the modules; give it one in tests/test_layout.py"
    for line, name in imported(path):
        if name in ORDER and name != own:
            assert ORDER.index(name) < ORDER.index(own), f"{path.name}:{line} imports {name}, which comes later"


def test_no_module_is_called_utils():
    assert not [path for path in SOURCES if "util" in path.stem]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(LIBRARY)))
def test_public_parts_have_docstrings(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path.name} does not say what it is for"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.name}:{node.lineno}: {node.name} has no docstring"


def test_importing_the_library_loads_nothing_heavy():
    names = [p.stem for p in SOURCES if p.parent == LIBRARY and p.stem != "__init__"] + ["exercises"]
    code = (
        "import sys, json, torch\nbefore = set(sys.modules)\n"
        + "\n".join(f"import lesson_lib.{name}" for name in names)
        + "\nprint(json.dumps(sorted({m.split('.')[0] for m in set(sys.modules) - before})))"
    )
    loaded = json.loads(subprocess.check_output([sys.executable, "-c", code]))
    heavy = {
        "matplotlib",
        "datasets",
        "ipywidgets",
        "sklearn",
        "scipy",
        "diffusers",
        "transformers",
        "pandas",
        "IPython",
    }
    assert not heavy & set(loaded)
