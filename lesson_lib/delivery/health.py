"""The weekly self-check: what Colab changed since colab.txt was written, and whether the course still runs there."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lesson_lib import ROOT
from lesson_lib.delivery import DeliveryError, drill
from lesson_lib.delivery.colab import CONSTRAINTS, PINS, environment, installable, read_pins, verify

OUT = ROOT / "build" / "health"
PROJECT = ROOT / "pyproject.toml"


# --- what moved --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Move:
    """A package with another version than before."""

    package: str
    old: str
    new: str

    @property
    def step(self) -> str:
        """The first number that differs, as major, minor or patch; "back" is added when the version went down."""
        from packaging.version import Version

        old, new = Version(self.old), Version(self.new)
        step = "major" if old.major != new.major else "minor" if old.minor != new.minor else "patch"
        return f"{step}, back" if new < old else step


@dataclass(frozen=True)
class Comparison:
    """What a freeze changes: `pins` is colab.txt with the freeze's versions put in, for the environment of the drill.

    problems: sentences; each names something that cannot work on Colab, whatever the drill says.
    versions: (package, what pyproject.toml asks, what CI runs, what Colab has) of the packages that the course imports.
    """

    pins: dict[str, str]
    moved: list[Move]
    added: list[str]
    vanished: list[str]
    unknown: list[str]
    problems: list[str]
    versions: list[tuple[str, str, str, str]]

    def text(self) -> str:
        """Return the comparison in Markdown, whose tables read well in a terminal too."""
        parts = [self._summary()]
        if self.moved:
            parts.append(_table(("package", "colab.txt", "freeze", "step"), [_row(move) for move in self.moved]))
        notes = [f"{name} is new in colab.txt: the course imports it, and Colab has it." for name in self.added]
        notes += [f"{name} has vanished from Colab, so the drill's environment has none." for name in self.vanished]
        notes += [f"{name} has no version in the freeze; that of colab.txt stays." for name in self.unknown]
        parts += ["\n".join(f"- {note}" for note in notes)] if notes else []
        return "\n\n".join([*parts, "## CI runs, Colab has", _table(_HEAD, self.versions)])

    def _summary(self) -> str:
        if not self.moved:
            return "No pin moved."
        steps = [move.step.partition(",")[0] for move in self.moved]
        counts = [f"{steps.count(step)} {step}" for step in ("major", "minor", "patch") if step in steps]
        return f"{len(steps)} {'pin' if len(steps) == 1 else 'pins'} moved: {', '.join(counts)}."


_HEAD = ("package", "pyproject.toml", "CI runs", "Colab has")


def compare(
    freeze: Mapping[str, str],
    *,
    pins: Path = PINS,
    project: Path = PROJECT,
    constraints: Path = CONSTRAINTS,
    python: str | None = None,
) -> Comparison:
    """Compare a freeze (package → version) with colab.txt, with pyproject.toml's ranges, and with what CI runs.

    python: Colab's Python, where it is known. A package that the freeze does not name keeps its version, but those of
    colab.txt's first block are Colab's own: they have vanished. Raises DeliveryError for a version that is none.
    """
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet
    from packaging.utils import canonicalize_name

    with project.open("rb") as file:
        about = tomllib.load(file)["project"]
    requirements = [Requirement(line) for line in about["dependencies"]]
    asked = {str(canonicalize_name(one.name)): one.specifier for one in requirements}
    old, colabs = installable(read_pins(pins)), _first_block(pins)
    needed = sorted({*old, *asked})
    known = installable({name: freeze[name] for name in needed if freeze.get(name)})
    vanished = [name for name in sorted(colabs) if name not in freeze]
    new = {name: version for name, version in {**old, **known}.items() if name not in vanished}
    problems = [
        f"Colab has {name} {known[name]}, but pyproject.toml asks {name}{asked[name]}."
        for name in sorted(asked)
        if name in known and not asked[name].contains(known[name], prereleases=True)
    ]
    problems += [
        f"Colab has no {name}, which the course imports; its set-up cell installs nothing."
        for name in sorted(asked)
        if name not in freeze
    ]
    if python and not SpecifierSet(about["requires-python"]).contains(python):
        problems.append(f"Colab runs Python {python}, but pyproject.toml asks {about['requires-python']}.")
    runs = read_pins(constraints)
    return Comparison(
        pins=new,
        moved=[
            Move(name, old[name], new[name]) for name in needed if name in old and old[name] != new.get(name, old[name])
        ],
        added=[name for name in sorted(asked) if name in known and name not in old],
        vanished=vanished,
        unknown=[name for name in needed if freeze.get(name) == ""],
        problems=problems,
        versions=[
            (name, str(asked.get(name, "")), runs.get(name, ""), known.get(name, freeze.get(name, "none") or "?"))
            for name in sorted({*asked, *colabs})
        ],
    )


def _first_block(pins: Path) -> set[str]:
    """Return the packages above colab.txt's first empty line: those that the course meets on Colab."""
    from packaging.utils import canonicalize_name

    lines = pins.read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    return {canonicalize_name(line.partition("==")[0]) for line in lines if "==" in line}


def updated(text: str, comparison: Comparison, date: datetime.date, python: str | None = None) -> str:
    """Return colab.txt with what moved put in: versions in their lines, the freeze's date (and Python) in its heading.

    What vanished is left out, what is new comes last in the first block; every other line stays as it is.
    """
    from packaging.utils import canonicalize_name

    def line_now(line: str) -> str | None:
        name, equal, version = line.partition("==")
        package = canonicalize_name(name)
        if not equal or line.startswith("#"):
            return line
        return None if package in comparison.vanished else f"{name}=={comparison.pins.get(package, version)}"

    blocks = []
    for block in text.rstrip("\n").split("\n\n"):
        lines = [line for line in map(line_now, block.splitlines()) if line is not None]
        blocks.append("\n".join(lines))
    blocks[0] = re.sub(r"freeze of \d{4}-\d\d-\d\d", f"freeze of {date.isoformat()}", blocks[0], count=1)
    if python:
        blocks[0] = re.sub(r"\(Python [\d.]+\)", f"(Python {python})", blocks[0], count=1)
    blocks[0] = "\n".join([blocks[0], *(f"{name}=={comparison.pins[name]}" for name in comparison.added)])
    return "\n\n".join(blocks) + "\n"


def _row(move: Move) -> tuple[str, str, str, str]:
    return move.package, move.old, move.new, move.step


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with columns of even width."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


# --- whether the course still runs -------------------------------------------------------------------------------


@dataclass
class Report:
    """What came of a self-check. problems: what is wrong, each with its details; notes: what the drill ran with."""

    comparison: Comparison
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    drilled: list[str] | None = None

    @property
    def verdict(self) -> str:
        """One sentence: red, green, or compared only."""
        if self.problems:
            return f"Red: {len(self.problems)} {'problem' if len(self.problems) == 1 else 'problems'}."
        return "Not drilled, compared only." if self.drilled is None else "Green: the drill passed with these packages."

    def text(self, date: datetime.date) -> str:
        """Return the report in Markdown, for an issue or a job's summary."""
        parts = [f"# The course and Colab's packages on {date.isoformat()}", f"**{self.verdict}**"]
        for problem in self.problems:
            first, _, rest = problem.partition("\n")
            parts.append(f"- {first}" + (f"\n\n{_fenced(rest)}" if rest else ""))
        parts += [self.comparison.text(), *(["## Drill", " ".join(self.notes)] if self.notes else [])]
        parts += [_fenced("\n".join(self.drilled))] if self.drilled is not None else []
        return "\n\n".join(parts) + "\n"


def _fenced(text: str) -> str:
    return f"````text\n{text}\n````"


def check(comparison: Comparison, lessons: Sequence[str], *, out: Path, python: str | None = None) -> Report:
    """Make an environment of the compared packages in out/environment and drill the lessons (none: all) with it.

    What cannot work at all is reported before anything is installed. python: Colab's, to be named in the notes.
    """
    report = Report(comparison, problems=list(comparison.problems))
    if report.problems:
        return report
    out.mkdir(parents=True, exist_ok=True)
    pins = out / "colab.txt"
    pins.write_text("".join(f"{name}=={version}\n" for name, version in sorted(comparison.pins.items())))
    index = os.environ.get("TORCH_INDEX") or None
    report.notes.append(f"Python {platform.python_version()}" + (f" (Colab: {python})." if python else "."))
    start = time.perf_counter()
    try:
        interpreter = environment(out / "environment", pins, torch_index=index)
        imported = {name: version for name, version, _ in verify(interpreter)}
        report.notes.append(f"{len(comparison.pins)} packages, ready after {time.perf_counter() - start:.0f} s.")
        report.notes += _other_torch(imported["torch"], comparison.pins["torch"])
        done = drill.drill(lessons or None, python=interpreter)
    except DeliveryError as problem:
        report.problems.append(str(problem))
        return report
    # The drill measures against colab.txt; here that is yesterday's.
    report.drilled = [line for line in done.lines() if not line.startswith("not as on Colab")]
    if not done.green:
        report.problems.append("The drill is not green with these packages; what broke stands below.")
    return report


def _other_torch(ours: str, colabs: str) -> list[str]:
    """Return a note where the drill's torch is not Colab's."""
    if ours.partition("+")[0] == colabs:
        return []
    return [f"torch is {ours}, where Colab has {colabs}; with TORCH_INDEX set to an index of it, it would be Colab's."]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Say what `health` takes."""
    parser.add_argument(
        "freeze", type=Path, metavar="FREEZE", help="Colab's pip-freeze.txt; os-info.txt beside it is read"
    )
    parser.add_argument("lessons", nargs="*", metavar="NN", help="lessons to drill, for example 00 04 (default: all)")
    parser.add_argument("--no-drill", action="store_true", help="compare only, install nothing")
    parser.add_argument(
        "--update", action="store_true", help="write the freeze's versions into colab.txt if nothing is red"
    )
    parser.add_argument(
        "--date", type=datetime.date.fromisoformat, metavar="YYYY-MM-DD", help="the freeze's (default: today)"
    )


def main(options: argparse.Namespace) -> int:
    """Compare, drill, write build/health/report.md; return 0 when nothing is red."""
    today = datetime.datetime.now(datetime.UTC).date()
    python = colabs_python(options.freeze.with_name("os-info.txt"))
    comparison = compare(read_pins(options.freeze), pins=PINS, python=python)
    print(comparison.text(), flush=True)
    report = Report(comparison, problems=list(comparison.problems))
    if not options.no_drill:
        report = check(comparison, options.lessons, out=OUT, python=python)
        print("\n".join(["", " ".join(report.notes), *(report.drilled or [])]), flush=True)
    OUT.mkdir(parents=True, exist_ok=True)
    written = OUT / "report.md"
    written.write_text(report.text(today), encoding="utf-8")
    print("\n".join([*report.problems, report.verdict, f"report: {written}"]))
    if options.update and not report.problems:
        text = PINS.read_text(encoding="utf-8")
        PINS.write_text(updated(text, comparison, options.date or today, python), encoding="utf-8")
        print(f"{PINS.name} holds these versions now")
    elif options.update:
        print(f"{PINS.name} stays as it is")
    return 1 if report.problems else 0


def colabs_python(os_info: Path) -> str | None:
    """Return the Python that Colab's os-info.txt names, None where there is no such file or line."""
    text = os_info.read_text(encoding="utf-8", errors="replace") if os_info.is_file() else ""
    found = re.search(r"^Python (3\.\d+(?:\.\d+)?)", text, re.MULTILINE)
    return found[1] if found else None
