"""The Colab drill: every notebook as a learner on Colab meets it, from a bare clone of the course.

Read origin (the clone) and lesson_run (one notebook) before this. Only what is committed is drilled. A green drill of
all lessons is recorded in docs/drill.json and in the README.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesson_lib import ROOT
from lesson_lib.build.readme import put_block
from lesson_lib.delivery import DeliveryError
from lesson_lib.delivery.colab import PINS, read_pins
from lesson_lib.delivery.lesson_run import Environment, LessonRun, bubblewrap, look_at, run_lesson
from lesson_lib.delivery.origin import (
    PYTHONS,
    Origin,
    compile_sources,
    find_pythons,
    foreign_addresses,
    make_origin,
    sources,
)

COLAB_PYTHON = ROOT / ".venv-colab" / "bin" / "python"
JOBS = 2
NAMED = ("ipykernel", "ipython", "ipywidgets", "numpy", "matplotlib", "datasets", "einops", "diffusers", "torch")


@dataclass(frozen=True)
class Drill:
    """What came of a drill. troubles: what is wrong besides the lessons; seconds: all of it, as a clock has it."""

    origin: Origin
    environment: Environment
    runs: tuple[LessonRun, ...]
    sources: int
    pythons: tuple[str, ...]
    troubles: tuple[str, ...]
    isolation: str
    seconds: float

    @property
    def green(self) -> bool:
        """Whether nothing is wrong."""
        return not self.troubles and not any(run.broke for run in self.runs)

    def lines(self) -> list[str]:
        """Return the report for people: the table, what broke, warnings, and the totals in the last line."""
        missing = [version for version in PYTHONS if version not in self.pythons]
        lines = [f"{self.origin.repository.slug} at {self.origin.commit[:10]}, Python {self.environment.version}"]
        if different := self.environment.differences(read_pins(PINS)):
            lines.append(f"not as on Colab (there): {_some(different)}")
        lines += ["", f"{'lesson':24} {'seconds':>7} {'cells':>6}", *(run.line() for run in self.runs), ""]
        for run in self.runs:
            lines += [f"{run.notebook}: {what}" for what in run.broke]
        lines += self.troubles
        warned = [f"  {run.number}, cell {cell}: {line}" for run in self.runs for cell, line in run.warnings]
        lines += [f"warnings that learners see: {len(warned)}", *warned]
        compiled = f"{self.sources} sources compiled with Python {', '.join(self.pythons)}"
        lines.append(compiled + (f"; not here: {', '.join(missing)}" if missing else ""))
        cells, broken = sum(run.cells for run in self.runs), sum(bool(run.broke) for run in self.runs)
        verdict = "green" if self.green else f"not green ({broken} lessons, {len(self.troubles)} other troubles)"
        lines.append(f"{len(self.runs)} lessons, {cells} cells, {self.seconds:.0f} s, {self.isolation}: {verdict}")
        return lines


def drill(
    lessons: Sequence[str] | None,
    *,
    python: Path = COLAB_PYTHON,
    fork: str | None = None,
    root: Path = ROOT,
    jobs: int = JOBS,
    wall: str | None = None,
) -> Drill:
    """Run lessons (numbers; None or none: all) as Colab would; a line per lesson goes to stderr as it ends.

    python: the interpreter of Colab's environment. fork: owner/name, to drill what that fork would have. root: the
    checkout whose last commit is drilled. jobs: lessons at a time. wall: the path of bubblewrap, "" for none (None:
    where it works). Raises DeliveryError where the drill itself cannot run.
    """
    started = time.perf_counter()
    environment = look_at(Path(python))
    wall = bubblewrap() if wall is None else wall or None
    if not wall:
        _tell("bubblewrap is not here or does not work: only what Python does is watched, not native code")
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
        base = Path(folder).resolve()
        origin = make_origin(root, base, fork)
        if origin.left_out:
            _tell(f"not drilled, since not committed: {_some(origin.left_out)}")
        notebooks = origin.notebooks(lessons or None)
        pythons = find_pythons()
        troubles = compile_sources(origin.tree, pythons)
        if origin.forked:
            troubles += foreign_addresses(origin.tree, origin.forked, origin.repository)
        before = environment.snapshot()

        def run(notebook: Path) -> LessonRun:
            done = run_lesson(notebook, origin, environment, base, wall)
            _tell(done.line())
            return done

        with ThreadPoolExecutor(jobs) as pool:
            runs = tuple(pool.map(run, notebooks))
        after = environment.snapshot()
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        if changed:
            troubles.append(f"{len(changed)} files of the environment changed, {changed[0]} for one")
        compiled = len(sources(origin.tree))
    isolation = "bubblewrap and audit hook" if wall else "audit hook"
    seconds = time.perf_counter() - started
    return Drill(origin, environment, runs, compiled, tuple(pythons), tuple(troubles), isolation, seconds)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _some(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def record_of(done: Drill, date: datetime.date) -> dict[str, Any]:
    """Return what docs/drill.json keeps of a green drill of all lessons; cores are those of the machine."""
    packages = done.environment.packages
    return {
        "date": date.isoformat(),
        "seconds": round(done.seconds, 1),
        "cores": os.cpu_count(),
        "lessons": {run.number: {"seconds": round(run.seconds, 1), "cells": run.cells} for run in done.runs},
        "python": done.environment.version,
        "versions": {name: packages[name] for name in NAMED},
        "torch_on_colab": read_pins(PINS)["torch"],
        "compiled_with": list(done.pythons),
        "isolation": done.isolation,
    }


def sentences(record: Mapping[str, Any]) -> str:
    """Return the README's two sentences on the last green drill."""
    lessons, versions = record["lessons"], dict(record["versions"])
    cells = sum(lesson["cells"] for lesson in lessons.values())
    minutes, seconds = divmod(round(record["seconds"]), 60)
    held = "" if record["isolation"] == "audit hook" else ", with the network cut off"
    torch = versions.pop("torch").partition("+")[0]
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    other = "" if torch == record["torch_on_colab"] else f", where Colab has {record['torch_on_colab']}"
    texts = (
        f"On {record['date']} the Colab drill (`make drill`) ran all {cells} code cells of the {len(lessons)} lessons "
        f"in {minutes} min {seconds:02} s on {record['cores']} cores: each notebook alone in an empty folder, the "
        f"course cloned by its set-up cell, nothing installed{held}.",
        f"It ran on Python {record['python']} with [Colab's](lesson_lib/delivery/colab.txt) {named}, and with torch "
        f"{torch}{other}; every source also compiles with Python {', '.join(record['compiled_with'])}.",
    )
    return "\n".join(textwrap.fill(text, 155, break_long_words=False, break_on_hyphens=False) for text in texts)


def write_record(root: Path, record: Mapping[str, Any]) -> None:
    """Write docs/drill.json and the README's block; raise BuildError where the README has no place for it."""
    readme = root / "README.md"
    text = put_block(readme.read_text(encoding="utf-8"), "drill", sentences(record))
    (root / "docs" / "drill.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    readme.write_text(text, encoding="utf-8")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Say what `drill` takes."""
    parser.add_argument("lessons", nargs="*", metavar="NN", help="lessons, for example 00 04 (default: all)")
    parser.add_argument("--fork", metavar="owner/name", help="restamp a clone for this fork first, and drill that")
    parser.add_argument("--colab-python", type=Path, default=COLAB_PYTHON, metavar="PATH", help=".venv-colab's python")
    parser.add_argument("--jobs", type=int, default=JOBS, help=f"lessons at a time (default: {JOBS})")


def main(options: argparse.Namespace) -> int:
    """Drill, report, and where all lessons are green keep the record; return 0 where nothing is wrong."""
    if options.jobs < 1:
        raise DeliveryError("--jobs takes a number from 1 upwards")
    done = drill(options.lessons, python=options.colab_python, fork=options.fork, jobs=options.jobs)
    print("\n".join(done.lines()))
    if done.green and not options.lessons and not options.fork:
        different = [name for name in done.environment.differences(read_pins(PINS)) if not name.startswith("torch ")]
        if different:
            print(f"not recorded, since these are not Colab's: {_some(different)}")
        else:
            write_record(ROOT, record_of(done, datetime.datetime.now(datetime.UTC).date()))
            print("recorded in docs/drill.json and README.md")
    return 0 if done.green else 1
