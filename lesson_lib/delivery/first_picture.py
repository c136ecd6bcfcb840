"""A newcomer's first minutes, timed: from git clone over `make lab` to the first picture that their machine draws."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lesson_lib import ROOT
from lesson_lib.build.readme import put_block
from lesson_lib.delivery import DeliveryError, tail
from lesson_lib.delivery.browser import HEIGHT, LESSON_SECONDS, SETTLED, WIDTH, Log
from lesson_lib.delivery.chromium import need_browser, open_page
from lesson_lib.delivery.jupyterlab import DROPPED, FIRST, LOCALHOST, Tab, end_on_sigterm, serve

RECORD = ROOT / "docs" / "first_picture.json"


class Journey:
    """The steps of one newcomer, in seconds; those that wait for the network also in bytes."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.steps: list[dict[str, Any]] = []

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any]]:
        """Time what happens inside; yield the step, to which a download adds its "bytes"."""
        step: dict[str, Any] = {"step": name}
        started = time.monotonic()
        yield step
        step["seconds"] = round(time.monotonic() - started, 1)
        self.steps.append(step)
        amount = f", {step['bytes'] / 1e6:.1f} MB" if "bytes" in step else ""
        self.log.say(f"{name}: {step['seconds']} s{amount}")


def travel(source: str, folder: Path, log: Log) -> dict[str, Any]:
    """Go the whole way in an empty folder, as somebody who has only git, make, Python and a browser; return the record.

    source: an address that git can clone. The home folder is new and pip's cache is empty. Packages are downloaded
    first and then installed from the folder that they lie in, so that the network's share is known; `make lab` itself
    does the two in one. Raises DeliveryError, with the last lines of its output, where a step fails.
    """
    journey, clone, wheels = Journey(log), folder / "course", folder / "wheels"
    dropped = {*DROPPED, "PYTHONPATH", "PIP_CACHE_DIR", "XDG_CACHE_HOME", "MPLCONFIGDIR", "VIRTUAL_ENV"}
    environment = {k: v for k, v in os.environ.items() if k not in dropped} | {"HOME": str(folder / "home")}
    (folder / "home").mkdir()
    with journey.step("git clone") as step:
        _run(["git", "clone", "--quiet", source, str(clone)], folder, environment)
        step["bytes"] = _size(clone / ".git" / "objects")
    with journey.step("a virtual environment"):
        _run(["make", ".venv/bin/python"], clone, environment)
    with journey.step("download of packages") as step:
        for command in downloads(clone, wheels, environment):
            _run(command, clone, environment)
        step["bytes"] = _size(wheels)
    with journey.step("unpacking of packages"):
        offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
        _run(["make", ".venv/.lab-ready"], clone, environment | offline)
    with open_page(width=WIDTH, height=HEIGHT, allowed=[LOCALHOST]) as (page, watch), ExitStack() as running:
        with journey.step("JupyterLab's start"):
            lab = serve(clone, folder / "jupyter", command=("make", "lab"), extra={"HOME": environment["HOME"]})
            server = running.enter_context(lab)
        with journey.step("lesson 00 opens"):
            page.goto(server.opened)
            tab = Tab(page, FIRST)
            tab.wait_ready()
        _first_picture(journey, tab)
        if watch.problems:
            raise DeliveryError("in the browser:\n" + "\n".join(f"- {problem}" for problem in watch.problems))
    python = _run([".venv/bin/python", "-c", "import platform; print(platform.python_version())"], clone, environment)
    return record(journey.steps, python.strip(), next(wheels.glob("torch-*")))


def _first_picture(journey: Journey, tab: Tab) -> None:
    """Run all cells and wait for the first picture; the one that came with the notebook is marked, and not it."""
    cell = tab.panel.locator(".jp-CodeCell", has=tab.page.locator(".jp-RenderedImage")).first
    cell.locator("img").evaluate("image => { image.dataset.old = 1; }")
    place = cell.evaluate("cell => [...cell.parentElement.children].indexOf(cell)")
    with journey.step("Run All, to the first picture"):
        tab.run_all()
        picture = tab.panel.locator(f".jp-Cell >> nth={place}").locator("img:not([data-old])")
        picture.wait_for(state="attached", timeout=LESSON_SECONDS * 1000)
        tab.page.wait_for_function(SETTLED, arg=picture.element_handle())
    tab.page.screenshot(path=journey.log.path.with_suffix(".png"))


def downloads(clone: Path, wheels: Path, environment: Mapping[str, str]) -> list[list[str]]:
    """Return the commands that download what `make lab` would install: its own pip command, turned into a download.

    pip builds the course itself with what pyproject.toml asks for, and that has to be in the folder too.
    """
    planned = _run(["make", "-n", ".venv/.lab-ready"], clone, environment).splitlines()
    install = next((shlex.split(line) for line in planned if " pip install " in line), None)
    if install is None:
        raise DeliveryError("`make lab` of that clone installs nothing with pip; look at its Makefile")
    at = install.index("install")
    command = [*install[:at], "download", "--quiet", "-d", str(wheels)]
    wanted = [word for word in install[at + 1 :] if word != "-e"]
    builders = tomllib.loads((clone / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    return [[*command, *wanted], [*command, *builders]]


def record(steps: Sequence[Mapping[str, Any]], python: str, torch: Path) -> dict[str, Any]:
    """Return what is kept: the date, the machine, the steps, and the network's share of seconds and bytes."""
    network = [step for step in steps if "bytes" in step]
    return {
        "date": datetime.date.today().isoformat(),
        "machine": {"cores": os.cpu_count(), "python": python, "system": platform.system()},
        "torch": {"version": torch.name.split("-")[1], "bytes": torch.stat().st_size},
        "steps": list(steps),
        "seconds": round(sum(step["seconds"] for step in steps), 1),
        "network": {
            "seconds": round(sum(step["seconds"] for step in network), 1),
            "bytes": sum(step["bytes"] for step in network),
        },
    }


def sentence(kept: Mapping[str, Any]) -> str:
    """Return the README's sentence about a record."""
    machine, network, torch = kept["machine"], kept["network"], kept["torch"]
    speed = network["bytes"] / 1e6 / max(network["seconds"], 0.1)
    build = "the CPU build of PyTorch" if torch["version"].endswith("+cpu") else "PyTorch"
    return (
        f"From `git clone` to the first picture that lesson 00 draws, a first visit took {_duration(kept['seconds'])} "
        f"on {machine['cores']} cores with Python {machine['python']} ({kept['date']}), {network['seconds']:.0f} s of "
        f"them for what comes over the network: {network['bytes'] / 1e6:.0f} MB, here at {speed:.0f} MB a second, "
        f"{torch['bytes'] / 1e6:.0f} MB of it {build}."
    )


def arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("--from", dest="source", default=str(ROOT), help="what to clone (default: this repository)")


def main(options: argparse.Namespace) -> int:
    """Time the way; write docs/first_picture.json, the README's sentence, and a log and a picture in build/."""
    need_browser()
    end_on_sigterm()
    source = Path(options.source).resolve().as_uri() if Path(options.source).exists() else options.source
    build = ROOT / "build" / "first_picture"
    build.mkdir(parents=True, exist_ok=True)
    log = Log(build / "first_picture.txt")
    with tempfile.TemporaryDirectory(prefix="course-", ignore_cleanup_errors=True) as folder:
        kept = travel(source, Path(folder), log)
    log.say("everything is put away again")
    readme = ROOT / "README.md"
    text = put_block(readme.read_text(encoding="utf-8"), "first-picture", sentence(kept))
    RECORD.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    readme.write_text(text, encoding="utf-8")
    print(sentence(kept))
    return 0


def _run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        command, cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        raise DeliveryError(f"{shlex.join(command)} failed:\n{tail(done.stdout + done.stderr, 10)}")
    return done.stdout


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
