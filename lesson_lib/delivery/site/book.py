"""Jupyter Book, run in its own environment on the site's source; its warnings count as errors."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from lesson_lib import ROOT
from lesson_lib.delivery import DeliveryError

ENVIRONMENT = ROOT / ".venv-site"
PACKAGES = "import sysconfig; print(sysconfig.get_path('purelib'))"
MATHJAX = ("tex-chtml.js", "output/chtml/fonts/woff-v2")  # the one program that pages load, and the fonts it asks for
UNUSED = ("_static/**/*.map", "_static/locales", "objects.inv")  # debuggers' files and what only other projects read
# Warnings that are no errors: what their text matches, and why. None is needed now.
ALLOWED: tuple[tuple[str, str], ...] = ()


def python(environment: Path = ENVIRONMENT) -> Path:
    """Return the interpreter of Jupyter Book's environment; raises DeliveryError where there is none."""
    for place in ("bin/python", "Scripts/python.exe"):
        if (environment / place).exists():
            return environment / place
    raise DeliveryError(f"there is no {environment.name} here; `make site` makes it and builds the site in it")


def build(source: Path, target: Path, work: Path) -> None:
    """Build the site from its source into `target`, which is replaced; `work` is a scratch folder.

    Raises DeliveryError where Jupyter Book fails or warns.
    """
    shutil.rmtree(work, ignore_errors=True)
    options = ["build", str(source), "--path-output", str(work), "-q", "-n", "--keep-going"]
    command = [str(python()), "-c", "from jupyter_book.cli.main import main; main()", *options]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "SPHINX"))}
    run = subprocess.run(command, capture_output=True, text=True, env={**environment, "NO_COLOR": "1"}, check=False)
    said = re.sub(r"\x1b\[[0-9;]*m", "", run.stdout + run.stderr)
    problems = warnings(said)
    built = work / "_build" / "html"
    if run.returncode or problems or not (built / "index.html").is_file():
        told = "\n".join(problems) or said[-3000:]
        raise DeliveryError(f"Jupyter Book did not build {source.name}:\n{told.replace(f'{source}{os.sep}', '')}")
    shutil.rmtree(target, ignore_errors=True)
    shutil.move(built, target)
    shutil.rmtree(work)
    for pattern in UNUSED:
        for path in target.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    _add_mathjax(target / "_static" / "mathjax")


def warnings(said: str) -> list[str]:
    """Return the lines in which Sphinx warns or complains, less those that are allowed."""
    lines = [line for line in said.splitlines() if re.search(r"\b(WARNING|ERROR|CRITICAL|SEVERE)\b: ", line)]
    return [line for line in lines if not any(re.search(pattern, line) for pattern, _ in ALLOWED)]


def _add_mathjax(folder: Path) -> None:
    """Copy what pages with formulas load, from the package that carries MathJax."""
    found = subprocess.run([str(python()), "-c", PACKAGES], capture_output=True, text=True, check=True).stdout.strip()
    mathjax = Path(found) / "sphinx-mathjax-offline" / "static" / "mathjax"
    if not mathjax.is_dir():
        raise DeliveryError(f"{ENVIRONMENT.name} has no MathJax; remove that folder and run `make site` again")
    for name in MATHJAX:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (mathjax / name).is_dir():
            shutil.copytree(mathjax / name, folder / name)
        else:
            shutil.copyfile(mathjax / name, folder / name)
