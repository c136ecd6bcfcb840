"""The committed notebooks open everywhere: in JupyterLab, on Colab, in VS Code and on GitHub."""

from __future__ import annotations

import base64
import copy
import io
import json
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import pytest
from PIL import Image

from lesson_lib import ROOT
from lesson_lib.build.execute import KEPT, LIMIT_BYTES

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def misfits(text: str) -> list[str]:
    """Say what some front end would not render, or would render as an error, in a notebook file's text."""
    found = [f"{len(text.encode())} bytes; at most {LIMIT_BYTES}"] if len(text.encode()) > LIMIT_BYTES else []
    notebook = json.loads(text)
    if (notebook["nbformat"], notebook["nbformat_minor"]) < (4, 5):
        return [*found, "older than nbformat 4.5, so its cells have no ids"]
    ids = [cell.get("id") for cell in notebook["cells"]]
    if repeated := [f"{key}: {count} cells with this id" for key, count in Counter(ids).items() if count > 1]:
        return [*found, *repeated]
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as problem:
        return [*found, f"no notebook: {problem.message}"]
    about = notebook["metadata"]
    kernel, language = about.get("kernelspec", {}), about.get("language_info", {})
    if (kernel.get("name"), kernel.get("language")) != ("python3", "python") or not kernel.get("display_name"):
        found.append(f"Colab and VS Code do not find the kernel {kernel}")
    if language.get("name") != "python":
        found.append(f"GitHub and VS Code do not know the language {language}")
    if extra := sorted(set(about) - {"kernelspec", "language_info"}):
        found.append(f"metadata of one front end: {', '.join(extra)}")
    for cell in notebook["cells"]:
        found += [f"{cell['id']}: {what}" for what in _cell_misfits(cell)]
    return found


def _cell_misfits(cell: dict[str, Any]) -> list[str]:
    found = [f"metadata of one front end: {key}" for key in sorted(set(cell["metadata"]) - {"name", "tags"})]
    if cell["cell_type"] != "code":
        return found
    if cell["execution_count"] is None and "".join(cell["source"]).strip():
        found.append("never executed")
    for output in cell["outputs"]:
        if output["output_type"] == "error":
            found.append(f"shows an error: {output['ename']}")
        if output.get("execution_count", cell["execution_count"]) != cell["execution_count"]:
            found.append("an output with another number than its cell's")
        found += [f"an output of the kind {kind}" for kind in output.get("data", {}) if kind not in KEPT]
        if picture := output.get("data", {}).get("image/png"):
            try:
                Image.open(io.BytesIO(base64.b64decode("".join(picture)))).verify()
            except (OSError, ValueError) as problem:
                found.append(f"a picture that cannot be opened: {problem}")
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebook_opens_everywhere(path: Path) -> None:
    assert misfits(path.read_text(encoding="utf-8")) == []


@cache
def sound() -> dict[str, Any]:
    picture = io.BytesIO()
    Image.new("L", (2, 2)).save(picture, "png")
    data = {"image/png": base64.b64encode(picture.getvalue()).decode(), "text/plain": "[figure]"}
    figure = {"output_type": "display_data", "data": data, "metadata": {}}
    result = {"output_type": "execute_result", "data": {"text/plain": "3"}, "metadata": {}, "execution_count": 1}
    code = {"cell_type": "code", "id": "a", "source": "1 + 2", "metadata": {"name": "sum"}, "execution_count": 1}
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "cells": [
            {**code, "outputs": [figure, result]},
            {"cell_type": "markdown", "id": "b", "source": "# Words", "metadata": {}},
        ],
    }


WIDGET = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "slider"}
ERROR = {"output_type": "error", "ename": "KeyError", "evalue": "", "traceback": []}


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda nb, code, out: nb.update(nbformat_minor=4), "older than nbformat 4.5"),
        (lambda nb, code, out: nb["cells"][1].update(id="a"), "a: 2 cells with this id"),
        (lambda nb, code, out: code.update(id="no spaces"), "no notebook"),
        (lambda nb, code, out: code.pop("outputs"), "no notebook"),
        (lambda nb, code, out: nb["metadata"]["kernelspec"].update(name="colab-gpu"), "do not find the kernel"),
        (lambda nb, code, out: nb["metadata"].pop("language_info"), "do not know the language"),
        (lambda nb, code, out: nb["metadata"].update(widgets={}), "front end: widgets"),
        (lambda nb, code, out: nb["metadata"].update(colab={}), "front end: colab"),
        (lambda nb, code, out: code["metadata"].update(id="x7"), "a: metadata of one front end: id"),
        (lambda nb, code, out: code.update(execution_count=None), "never executed"),
        (lambda nb, code, out: out[1].update(execution_count=2), "another number than its cell's"),
        (lambda nb, code, out: out[1].update(data=WIDGET), "of the kind application/vnd.jupyter.widget-view+json"),
        (lambda nb, code, out: out[1].update(data={"text/html": "<b>3</b>"}), "of the kind text/html"),
        (lambda nb, code, out: out.append(ERROR), "shows an error: KeyError"),
        (lambda nb, code, out: out[0]["data"].update({"image/png": "AAAA"}), "cannot be opened"),
        (lambda nb, code, out: code.update(source="#" * LIMIT_BYTES), "at most 1000000"),
    ],
)
def test_misfits_are_found(spoil: Callable[..., None], complaint: str) -> None:
    notebook = copy.deepcopy(sound())
    assert misfits(json.dumps(notebook)) == []
    spoil(notebook, notebook["cells"][0], notebook["cells"][0]["outputs"])
    assert any(complaint in found for found in misfits(json.dumps(notebook)))
