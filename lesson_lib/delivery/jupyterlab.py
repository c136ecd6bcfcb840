"""JupyterLab as `make lab` starts it, without touching the learner's own settings, and a notebook's tab in its page."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesson_lib.delivery import DeliveryError, tail
from lesson_lib.delivery.chromium import SECONDS

LOCALHOST = "127.0.0.1"
FIRST = "00_start_here.ipynb"
STOP_SECONDS = 30  # how long a server may take to end its kernels and itself
INSTALLED = ("make", "-o", ".venv/.lab-ready", "-o", ".venv/bin/python", "lab")  # -o: take it as made, install nothing
NOT_COPIED = {".git", "build"}  # of the top folder, with every .venv
NOWHERE_COPIED = {"__pycache__", ".ipynb_checkpoints", "progress.json"}  # a learner's progress stays the learner's
# What a learner's terminal has not: the marks of make, of pytest and of the course's own headless runs.
DROPPED = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PYTEST_VERSION", "PYTEST_CURRENT_TEST", "MPLBACKEND", "BROWSER")


@dataclass(frozen=True)
class Server:
    """A JupyterLab that runs: where it listens, and the address that it opened a browser with (a file that leads on).

    output: the file with what it printed.
    """

    address: str
    opened: str
    output: Path


def copy_course(root: Path, folder: Path) -> None:
    """Copy the working tree into a new folder, without history, builds and progress; .venv becomes a link to ours."""

    def left_out(where: str, names: list[str]) -> set[str]:
        top = Path(where) == root
        return {n for n in names if n in NOWHERE_COPIED or (top and (n in NOT_COPIED or n.startswith(".venv")))}

    shutil.copytree(root, folder, ignore=left_out)
    (folder / ".venv").symlink_to(sys.prefix, target_is_directory=True)


def free_port() -> int:
    """Return a port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        return int(probe.getsockname()[1])


def surroundings(scratch: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """Write Jupyter's configuration into scratch and return the environment in which `make lab` reads it.

    The command line of `make lab` stays as it is. The configuration gives a free port, and a program that writes down
    the address instead of opening a browser. extra: variables on top, such as LESSON_BUDGET.
    """
    config = scratch / "config"
    config.mkdir(parents=True)
    note = f'sh -c \'echo "$0" > "{scratch}/opened"\' %s'
    (config / "jupyter_lab_config.py").write_text(
        f"c.ServerApp.ip = {LOCALHOST!r}\nc.ServerApp.port = {free_port()}\nc.ServerApp.browser = {note!r}\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in DROPPED and not k.startswith(("JUPYTER", "LESSON_"))}
    environment |= {
        "JUPYTER_CONFIG_DIR": str(config),
        "JUPYTER_DATA_DIR": str(scratch / "data"),
        "JUPYTER_RUNTIME_DIR": str(scratch / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(scratch / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(scratch / "workspaces"),
        "IPYTHONDIR": str(scratch / "ipython"),
    }
    return environment | dict(extra)


@contextmanager
def serve(
    course: Path, scratch: Path, *, command: Sequence[str] = INSTALLED, extra: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run `make lab` in a copy of the course, yield the server once it has opened its browser, and stop it at the end.

    scratch: an empty folder for everything that Jupyter keeps. extra: more environment variables. The server and its
    kernels are gone when this returns, whatever happened. Raises DeliveryError, with the end of its output, where it
    ends or opens nothing within SECONDS.
    """
    environment = surroundings(scratch, extra or {})
    output = scratch / "jupyterlab.txt"
    with output.open("wb") as sink:
        process = subprocess.Popen(
            command, cwd=course, env=environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield _when_open(process, scratch, output)
    finally:
        _stop(process, scratch)


def _when_open(process: subprocess.Popen[bytes], scratch: Path, output: Path) -> Server:
    opened, deadline = scratch / "opened", time.monotonic() + SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        address = opened.read_text() if opened.exists() else ""
        if address.endswith("\n") and (record := _record(scratch)):
            return Server(f"http://{LOCALHOST}:{record['port']}", address.strip(), output)
        time.sleep(0.05)
    said = output.read_text(errors="replace")
    raise DeliveryError(f"`make lab` opened no page; its last lines:\n{tail(said, 15)}")


def _record(scratch: Path) -> dict[str, Any] | None:
    """Return what the running server wrote about itself, if it is there."""
    for path in (scratch / "runtime").glob("jpserver-*.json"):
        return dict(json.loads(path.read_text()))
    return None


def _stop(process: subprocess.Popen[bytes], scratch: Path) -> None:
    """Ask the server to end, which ends its kernels; end the whole group where it does not."""
    record = _record(scratch)
    with suppress(ProcessLookupError, subprocess.TimeoutExpired):
        if record:
            os.kill(record["pid"], signal.SIGTERM)  # to the server alone: make waits for it, and we for make
        else:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def end_on_sigterm() -> None:
    """Let SIGTERM end this process as Ctrl-C does, so that what it started is stopped on the way out."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


class Tab:
    """A notebook's tab in JupyterLab's page, worked as a learner works it: menus, mouse, keyboard."""

    def __init__(self, page: Any, name: str) -> None:
        self.page, self.name = page, name
        self.panel = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")  # the one in front

    def bring(self) -> None:
        """Put the tab in front and wait until its notebook shows."""
        self.page.get_by_role("tab", name=self.name, exact=True).click()
        self.panel.locator(".jp-RenderedMarkdown h1").first.wait_for()

    def wait_ready(self) -> None:
        """Wait until the tab is there, its first cell is drawn and its kernel waits for work."""
        self.bring()
        self.panel.get_by_role("button", name="Python 3 (ipykernel)", exact=True).wait_for()
        self.wait_idle(SECONDS)

    def choose(self, menu: str, item: str) -> None:
        """Open a menu at the top of the page and choose an item."""
        self.page.get_by_role("menuitem", name=menu, exact=True).click()
        self.page.locator(".lm-Menu-itemLabel").get_by_text(item, exact=True).click()

    def run_all(self) -> None:
        """Choose Run, Run All Cells; return once the kernel works."""
        self.choose("Run", "Run All Cells")
        self._indicator("busy").wait_for()

    def wait_idle(self, seconds: float) -> None:
        """Wait until the kernel is idle and no cell of the tab in front is left to run."""
        self._indicator("idle").wait_for(timeout=seconds * 1000)
        waiting = self.panel.locator(".jp-InputPrompt").get_by_text("[*]:", exact=True)
        if waiting.count():
            waiting.last.wait_for(state="detached", timeout=seconds * 1000)

    def run_cell(self, text: str) -> Any:
        """Run the first code cell that contains a text (Shift+Enter in it), wait for its end and return it."""
        cell = self.panel.locator(".jp-CodeCell", has_text=text).first
        cell.locator(".cm-content").click()
        self.page.keyboard.press("Shift+Enter")
        cell.get_by_text("[*]:", exact=True).wait_for()
        cell.get_by_text("[*]:", exact=True).wait_for(state="detached")
        self.wait_idle(SECONDS)
        return cell

    def save(self) -> None:
        """Choose File, Save Notebook, and wait until it is on the disk."""
        self.choose("File", "Save Notebook")
        self.page.locator(".lm-TabBar-tab.lm-mod-current.jp-mod-dirty").wait_for(state="detached")

    def contents(self) -> list[str]:
        """Open the table of contents at the left and return its lines."""
        opener = self.page.get_by_role("tab", name="Table of Contents", exact=True)
        if opener.get_attribute("aria-selected") != "true":  # a second click would close it
            opener.click()
        self.page.locator("#table-of-contents").get_by_text(self.name).wait_for()
        lines = self.page.locator(".jp-tocItem-content")
        lines.first.wait_for()
        return [str(line) for line in lines.all_inner_texts()]

    def _indicator(self, status: str) -> Any:
        return self.panel.locator(f".jp-Notebook-ExecutionIndicator[data-status={status}]")
