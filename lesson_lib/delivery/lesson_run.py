"""One notebook as Colab would run it: alone in an empty folder, with Colab's packages, watched from inside and outside.

Its set-up cell runs as it is: git sends the course's address, and no other, to the bare clone. Two watchers hold what a
learner on Colab relies on (nothing installed, nothing written elsewhere, no network but the clone): kernel_start inside
the kernel, and bubblewrap around it where it works. run_lesson starts a process of its own that runs `drive`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesson_lib import ROOT
from lesson_lib.build.execute import kernel_manager, plain
from lesson_lib.delivery import DeliveryError, tail
from lesson_lib.delivery.origin import Origin

CELL_SECONDS = 300
LESSON_SECONDS = 1200
# What a learner on Colab does not need: installers, and programs that fetch.
PROGRAMS = r"pip[\d.]*|uv|conda|mamba|micromamba|easy_install|apt|apt-get|dpkg|npm|curl|wget|aria2c|gdown"
UNWANTED = re.compile(rf"(?:^|[\s/;&|\"'])(?:{PROGRAMS})(?=$|[\s;&|\"'])")


_ENVIRONMENT = """
import importlib.metadata, json, platform, sysconfig
versions = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions() if d.metadata["Name"]}
paths = sysconfig.get_paths()
print(json.dumps([platform.python_version(), versions, [paths["purelib"], paths["platlib"]]]))
"""


@dataclass(frozen=True)
class Environment:
    """Colab's Python, as far as this machine has it: its version, those of its packages, and where these lie."""

    python: Path
    version: str
    packages: Mapping[str, str]
    folders: tuple[Path, ...]

    def differences(self, pins: Mapping[str, str]) -> list[str]:
        """Say which packages are not those that Colab has."""
        here = {name: version.partition("+")[0] for name, version in self.packages.items()}
        return [f"{name} {here.get(name, 'missing')} ({pin})" for name, pin in pins.items() if here.get(name) != pin]

    def snapshot(self) -> dict[str, tuple[int, int]]:
        """Return size and time of each file of the installed packages, so that a change can be seen."""
        found = {}
        for top in self.folders:
            for folder, names, files in os.walk(top):
                names[:] = [name for name in names if name != "__pycache__"]
                for file in files:
                    state = os.lstat(os.path.join(folder, file))
                    found[os.path.join(folder, file)] = (state.st_size, state.st_mtime_ns)
        return found


def look_at(python: Path) -> Environment:
    """Ask an interpreter what it has; raise DeliveryError where it is missing or has no kernel."""
    from packaging.utils import canonicalize_name

    advice = "python -m lesson_lib.delivery environment .venv-colab makes it"
    try:
        done = subprocess.run([str(python), "-I", "-c", _ENVIRONMENT], capture_output=True, text=True)
    except OSError as problem:
        raise DeliveryError(f"{python} does not run ({problem.strerror}); {advice}") from problem
    if done.returncode:
        raise DeliveryError(f"{python} does not run; {advice}:\n{tail(done.stderr)}")
    version, packages, folders = json.loads(done.stdout)
    packages = {str(canonicalize_name(name)): found for name, found in packages.items()}
    if "ipykernel" not in packages:
        raise DeliveryError(f"{python} has no ipykernel, so it cannot run a notebook; {advice}")
    return Environment(
        Path(python).absolute(), version, packages, tuple(Path(folder) for folder in dict.fromkeys(folders))
    )


def bubblewrap() -> str | None:
    """Return the path of bubblewrap where it works here, else None."""
    path = shutil.which("bwrap")
    if path is None:
        return None
    works = subprocess.run([*_walls(path, ()), "true"], capture_output=True, check=False).returncode == 0
    return path if works else None


def _walls(path: str, writable: Sequence[Path]) -> list[str]:
    """Return the command that runs another without a network and with everything to read but these folders."""
    command = [path, "--die-with-parent", "--unshare-net", "--unshare-pid", "--unshare-ipc"]
    command += ["--ro-bind", "/", "/", "--dev", "/dev", "--tmpfs", "/dev/shm", "--proc", "/proc"]
    return command + [part for folder in writable for part in ("--bind", str(folder), str(folder))] + ["--"]


@dataclass(frozen=True)
class LessonRun:
    """One notebook's run: seconds from the kernel's start to the last output, and code cells that ran to the end.

    broke: a text for each thing that must not be (none: green). warnings: (cell, line) of what a learner sees in red.
    """

    notebook: str
    seconds: float
    cells: int
    broke: tuple[str, ...]
    warnings: tuple[tuple[str, str], ...]

    @property
    def number(self) -> str:
        """The lesson's two digits."""
        return self.notebook[:2]

    def line(self) -> str:
        """Return the lesson's row of the table."""
        first = self.broke[0].splitlines()[0] if self.broke else "ok"
        return f"{self.notebook.removesuffix('.ipynb'):24} {self.seconds:7.1f} {self.cells:6}  {first}"


def run_lesson(notebook: Path, origin: Origin, environment: Environment, base: Path, wall: str | None) -> LessonRun:
    """Run a notebook in an empty folder below `base`, as Colab would, and judge what was seen.

    wall: the path of bubblewrap, or None to go without.
    """
    top = base / f"lesson-{notebook.name[:2]}"
    content, home, caches, told = (top / name for name in ("content", "home", "caches", "told"))
    for folder in (content, home, caches / "tmp", told):
        folder.mkdir(parents=True)
    copy = content / notebook.name
    copy.write_bytes(notebook.read_bytes())
    record, result, job = told / "record.jsonl", told / "result.json", told / "job.json"
    starter = Path(__file__).with_name("kernel_start.py")
    kernel = [str(environment.python), str(starter), str(record), str(content), str(caches), "--"]
    kernel += ["-f", "{connection_file}", "--log-level=40"]
    job.write_text(json.dumps({"notebook": str(copy), "kernel": kernel, "result": str(result)}))
    code = "import sys; from lesson_lib.delivery.lesson_run import drive; drive(sys.argv[1])"
    command = [sys.executable, "-c", code, str(job)]
    if wall:
        command = [*_walls(wall, (content, home, caches, told)), *command]
    variables = _variables(origin, environment, home, caches)
    try:
        done = subprocess.run(
            command,
            cwd=content,
            env=variables,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LESSON_SECONDS,
        )
        complaint = f"its kernel could not be driven (status {done.returncode}):\n{tail(done.stderr)}"
    except subprocess.TimeoutExpired:
        complaint = f"it was stopped after {LESSON_SECONDS} s"
    if not result.exists():
        return LessonRun(notebook.name, 0.0, 0, (complaint,), ())
    found = json.loads(result.read_text())
    broke = [found["broke"]] if found["broke"] else []
    broke += judge_record(record.read_text() if record.exists() else "", content)
    broke += _strays(top, content, home, notebook)
    return LessonRun(notebook.name, found["seconds"], found["cells"], tuple(broke), _warnings(found["stderr"]))


def _variables(origin: Origin, environment: Environment, home: Path, caches: Path) -> dict[str, str]:
    """Return all the environment variables of a drilled lesson: nothing of ours, and every folder a throw-away one."""
    return {
        "PATH": f"{environment.python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "TMPDIR": str(caches / "tmp"),
        **{f"XDG_{kind}_HOME": str(caches / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA", "STATE")},
        "IPYTHONDIR": str(caches / "ipython"),
        "JUPYTER_CONFIG_DIR": str(caches / "jupyter"),
        "JUPYTER_DATA_DIR": str(caches / "jupyter"),
        "MPLCONFIGDIR": str(caches / "matplotlib"),
        "PYTHONPATH": str(ROOT),  # for the driver; the kernel gets none
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "OMP_NUM_THREADS": "1",
        "LESSON_BUDGET": "smoke",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "file",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{origin.bare.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": origin.repository.address,
    }


def drive(job: str) -> None:
    """Run the notebook that a job names in the folder we are in, in the kernel it names; write what came of it.

    The job is a file of JSON: notebook (read only), kernel (a command with {connection_file} in it), result (where).
    The result: seconds, cells (code cells that ran to the end), broke (a text or ""), stderr (pairs of cell and text).
    """
    # nbformat's checks do without this optional part, which takes two seconds to load and concerns no notebook.
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    given = json.loads(Path(job).read_text())

    notebook = nbformat.read(given["notebook"], as_version=4)
    current, ended, broke = "the kernel's start", 0, ""

    def name(cell: Any, index: int) -> str:
        return str(cell.metadata.get("name", f"number {index}"))

    def begin(cell: Any, cell_index: int) -> None:
        nonlocal current
        current = name(cell, cell_index)

    def end(cell: Any, cell_index: int, execute_reply: Any) -> None:
        nonlocal ended
        ended += execute_reply["content"]["status"] == "ok"

    client = NotebookClient(
        notebook,
        km=kernel_manager(given["kernel"]),
        timeout=CELL_SECONDS,
        startup_timeout=120,
        force_raise_errors=True,  # Colab's Run All stops at a cell that raises, whatever tag it carries
        store_widget_state=False,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": os.getcwd()}},
        on_cell_execute=begin,
        on_cell_executed=end,
    )
    started = time.perf_counter()
    try:
        client.execute(cleanup_kc=True, env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"})
    except CellExecutionError as problem:
        broke = f"cell {current!r} raised {problem.ename}: {problem.evalue}\n{tail(plain(problem.traceback))}"
    except CellTimeoutError:
        broke = f"cell {current!r} took more than {CELL_SECONDS} s"
    except (DeadKernelError, RuntimeError) as problem:
        broke = f"the kernel died at cell {current!r}: {problem}"
    seconds = time.perf_counter() - started
    cells = [(name(cell, i), cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    streams = [(key, output) for key, cell in cells for output in cell.outputs if output.output_type == "stream"]
    stderr = [(key, output.text) for key, output in streams if output.name == "stderr"]
    told = {"seconds": seconds, "cells": ended, "broke": broke, "stderr": stderr}
    Path(given["result"]).write_text(json.dumps(told))


def judge_record(text: str, content: Path) -> list[str]:
    """Say what in a kernel's record (kernel_start) a learner on Colab would not want; each thing once.

    content: the folder that the notebook worked in, from whose clone lesson_lib must have come.
    """
    sentences = {
        "write": "it wrote outside its folder: {}",
        "network": "it asked for the network: {}",
        "hook": "the watcher did not understand an event: {}",
    }
    found: dict[str, None] = {}
    kinds = set()
    for line in text.splitlines():
        entry = json.loads(line)
        kind, what = entry["kind"], entry["what"]
        kinds.add(kind)
        if kind in sentences:
            found[sentences[kind].format(what)] = None
        elif kind == "process" and UNWANTED.search(what):
            found[f"it installs or fetches something: {what}"] = None
        elif kind == "library" and what and not what.startswith(str(content / "course") + os.sep):
            found[f"lesson_lib came from {what}, not from the clone that the set-up cell makes"] = None
    if "library" not in kinds:
        found["its kernel left no record of its end, so it was killed or never started"] = None
    return list(found)


def _strays(top: Path, content: Path, home: Path, notebook: Path) -> list[str]:
    """Say what lies where nothing should: native code and other processes leave no record in the kernel."""
    found = [f"it left {path.name} in the home folder" for path in sorted(home.iterdir())]
    expected = {"content", "home", "caches", "told"}
    found += [f"it left {path.name} beside its folder" for path in sorted(top.iterdir()) if path.name not in expected]
    if (content / notebook.name).read_bytes() != notebook.read_bytes():
        found.append("the notebook's file was changed while it ran")
    return found


def _warnings(stderr: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return (cell, line) of each warning, without the line of source that Python prints below it."""
    lines = [(cell, line.strip()) for cell, text in stderr for line in text.splitlines()]
    return tuple((cell, line) for cell, line in lines if re.search(r"\bWARNING\b|Warning: ", line))
