"""Colab's packages: the list of them (colab.txt), and an environment of their own that has just these."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lesson_lib import ROOT
from lesson_lib.delivery import DeliveryError, tail

PINS = Path(__file__).with_name("colab.txt")
CONSTRAINTS = ROOT / "constraints.txt"  # what CI runs
IMPORTS = ("torch", "numpy", "matplotlib", "ipywidgets", "IPython", "ipykernel", "datasets", "einops")
READY = ".ready"  # the last file that a complete installation writes
MARK = ".colab-pins"  # the first file: the folder is ours, and these packages are what it was made for


def read_pins(path: Path) -> dict[str, str]:
    """Read what a pip freeze or a requirements file pins: package in PEP 503's normal form → version.

    The version is "" where the line gives none (a checkout, a URL whose last part is not a wheel or an archive of a
    release). Comments, pip's options and lines whose marker does not hold here are left out.
    Raises DeliveryError for what is no such list, and where two lines pin one package differently.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise DeliveryError(f"{path} cannot be read as text: {problem}") from problem
    pins: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        found = _read_line(line, f"{Path(path).name}, line {number}")
        if found:
            name, version = found
            if pins.setdefault(name, version) != version:
                raise DeliveryError(
                    f"{path} has {name} twice, as {pins[name]} and as {version}; keep one of the lines."
                )
    if not any(pins.values()):
        raise DeliveryError(f"{path} pins no package. {_EXPECTED}")
    return pins


_EXPECTED = 'Expected is what "pip freeze" writes: one package a line, like numpy==2.1.3.'


def _read_line(line: str, place: str) -> tuple[str, str] | None:
    """Return (package, version) of one line, or None where the line names no package."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    line = (" " + line).partition(" #")[0].strip().rstrip("\\").partition(" --hash")[0].strip()
    if line.startswith(("-e ", "--editable")):  # -e git+https://…#egg=name
        name = unquote(urlsplit(line.split(maxsplit=1)[-1]).fragment).partition("egg=")[2].partition("&")[0]
        return (canonicalize_name(name), "") if name else None
    if not line or line.startswith("-"):
        return None
    try:
        requirement = Requirement(line)
    except InvalidRequirement as problem:
        raise DeliveryError(f"{place} is {line[:60]!r}. {_EXPECTED}") from problem
    if requirement.marker and not requirement.marker.evaluate():
        return None
    exact = [part.version for part in requirement.specifier if part.operator in ("==", "===")]
    version = _version_of_file(requirement.url) if requirement.url else exact[0] if exact else ""
    return canonicalize_name(requirement.name), version


def _version_of_file(url: str) -> str:
    """Return the version that the name of a wheel or of a release's archive gives, "" for other addresses."""
    from packaging.utils import (
        InvalidSdistFilename,
        InvalidWheelFilename,
        parse_sdist_filename,
        parse_wheel_filename,
    )

    file = unquote(urlsplit(url).path).rpartition("/")[2]
    try:
        return str(parse_wheel_filename(file)[1] if file.endswith(".whl") else parse_sdist_filename(file)[1])
    except (InvalidWheelFilename, InvalidSdistFilename):
        return ""


def environment(folder: Path, pins: Path = PINS, *, base: Path | None = None, torch_index: str | None = None) -> Path:
    """Make an environment that has the packages of the file `pins`, and nothing else; return its python.

    base: the interpreter to make it from (None: the one below this environment). torch_index: an index that has
    Colab's own torch; without one torch is that of constraints.txt, which CI runs, as a plain index gives Colab's
    only with gigabytes of CUDA. A complete environment of the same packages is kept as it is.
    Raises DeliveryError when the folder holds something else (it is left alone) or when an installation fails.
    """
    wanted = installable(read_pins(pins))
    if "torch" in wanted and not torch_index:
        wanted["torch"] = installable(read_pins(CONSTRAINTS))["torch"]
    base = base or Path(getattr(sys, "_base_executable", sys.executable))
    text = f"# Made from {base} with {torch_index or 'no extra index'}\n"
    text += "".join(f"{name}=={version}\n" for name, version in sorted(wanted.items()))
    folder = Path(folder).absolute()
    python = folder / "bin" / "python"
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).exists():
            raise DeliveryError(
                f"{folder} is not empty and was not made by this command; it stays as it is. Name another or delete it."
            )
        if (folder / READY).exists() and (folder / MARK).read_text() == text:
            return python
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text(text)
    _run([str(base), "-m", "venv", "--without-pip", str(folder)], "The environment cannot be made")
    # colab.txt is complete, so nothing is resolved.
    _install(python, [f"{name}=={wanted[name]}" for name in sorted(set(wanted) - {"torch"})], ["--no-deps"])
    if "torch" in wanted:
        torch = [f"torch=={wanted['torch']}"]
        if torch_index:  # from there or not at all
            _install(python, torch, ["--no-deps", "--index-url", torch_index])
        _install(python, torch, [])  # of torch only the version is known: what it needs comes with it
    subprocess.run([str(python), "-I", "-c", _COMPILE], capture_output=True, check=False)
    (folder / READY).touch()
    return python


def installable(pins: Mapping[str, str]) -> dict[str, str]:
    """Return the pins as an index can give them: versions in normal form, without local parts (+cu128).

    Raises DeliveryError for a package without a version, which cannot be installed again.
    """
    from packaging.version import InvalidVersion, Version

    wanted = {}
    for name, version in pins.items():
        try:
            wanted[name] = Version(version).public
        except InvalidVersion as problem:
            raise DeliveryError(f"{name} has the version {version!r}, which no index can give; pin one.") from problem
    return wanted


def _install(python: Path, packages: Sequence[str], options: Sequence[str]) -> None:
    """Install packages with the pip of this environment; the other one needs none."""
    if not packages:
        return
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install"]
    quiet = ["--no-input", "--disable-pip-version-check", "--progress-bar", "off", "-qq"]
    _run([*pip, *quiet, "--only-binary", ":all:", "--no-compile", *options, *packages], "The installation failed")


# pip would compile all 15,000 files, which takes longer than to install them. Python compiles what it imports: these
# are what lessons import, or each kernel of the drill, which may write nothing here, would compile them again (8 s).
# What of them cannot be imported, `verify` and the drill will say.
_COMPILE = """
import ipykernel.kernelapp, ipywidgets, matplotlib.pyplot, matplotlib_inline.backend_inline
import torch, einops.layers.torch, safetensors.torch, datasets, pyarrow.parquet, tqdm.auto
import scipy.ndimage, scipy.stats, sklearn.datasets, sklearn.model_selection, sklearn.svm
from diffusers import AutoencoderKL, DiTTransformer2DModel, SD3Transformer2DModel, UNet2DModel
from transformers import CLIPTextModel, T5EncoderModel, ViTModel
"""


def _run(command: Sequence[str], complaint: str) -> None:
    """Run a command in silence; raise DeliveryError with its last lines when it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode:
        raise DeliveryError(f"{complaint}:\n{tail(done.stdout, 8)}")


_IMPORT = """
import importlib, importlib.metadata, json, sys, time
for name in sys.argv[1:]:
    start = time.perf_counter()
    module = importlib.import_module(name)
    version = getattr(module, "__version__", None) or importlib.metadata.version(name)
    print(json.dumps([name, version, time.perf_counter() - start]), flush=True)
"""


def verify(python: Path, imports: Sequence[str] = IMPORTS) -> list[tuple[str, str, float]]:
    """Import modules in an environment, one after the other: (name, version, seconds) of each.

    Raises DeliveryError with the error's last lines and the module that cannot be imported.
    """
    done = subprocess.run([str(python), "-I", "-c", _IMPORT, *imports], capture_output=True, text=True)
    rows = [tuple(json.loads(line)) for line in done.stdout.splitlines() if line.startswith("[")]
    if done.returncode or len(rows) != len(imports):
        where = Path(python).parent.parent
        raise DeliveryError(f"{imports[len(rows)]} cannot be imported in {where}:\n{tail(done.stderr, 4)}")
    return rows


def arguments(parser: argparse.ArgumentParser) -> None:
    """Say what `environment` takes."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where to make it, .venv-colab for instance")
    parser.add_argument("--pins", type=Path, default=PINS, metavar="FILE", help="other packages than Colab's")


def main(options: argparse.Namespace) -> int:
    """Make the environment, import what the course imports, and print versions and seconds."""
    index = os.environ.get("TORCH_INDEX") or None
    print(f"{len(read_pins(options.pins))} packages into {options.folder}: a minute or two", flush=True)
    start = time.perf_counter()
    python = environment(options.folder, options.pins, torch_index=index)
    print(f"ready after {time.perf_counter() - start:.0f} s; to import takes")
    for name, version, seconds in verify(python):
        print(f"  {name:12} {version:14} {seconds:5.1f} s")
    return 0
