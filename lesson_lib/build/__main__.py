"""The builder's command line: python -m lesson_lib.build {notebooks,solved,run,check,release,fork}."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lesson_lib import ROOT
from lesson_lib.build.execute import clean_outputs, execute, refuse_oversize, to_html
from lesson_lib.build.expand import Course, Edition, course, expand
from lesson_lib.build.fork import fork
from lesson_lib.build.readme import restamp_readme
from lesson_lib.build.release import release
from lesson_lib.build.repository import read_repository
from lesson_lib.build.sources import BuildError, find_lessons, read_lesson
from lesson_lib.build.stale import differences, keep_outputs, orphans, write
from lesson_lib.setup import BUDGETS


class Builder:
    """Builds the lessons of one checkout: reads root/lessons, writes root/notebooks and root/build."""

    def __init__(self, root: Path = ROOT, known: Course | None = None) -> None:
        self.root = root
        self.course = known or course(read_repository(root))

    def lessons(self, number: str | None = None) -> list[Path]:
        """Return the lesson sources, or the one with this number."""
        return find_lessons(self.root / "lessons", number)

    def _folder(self) -> Path:
        """Return the folder of the committed notebooks, which is also where lessons run."""
        folder = self.root / "notebooks"
        folder.mkdir(exist_ok=True)
        return folder

    def build(self, path: Path, edition: Edition = "student") -> Any:
        """Return one lesson's notebook without outputs."""
        return expand(read_lesson(path), self.course, edition)

    def notebooks(self, number: str | None = None, *, budget: str = "laptop", run: bool = True) -> None:
        """Write the student editions into notebooks/; with run=False outputs stay only where no code changed."""
        for path in self.lessons(number):
            target = self._folder() / f"{path.stem}.ipynb"
            notebook = self.build(path)
            if not run:
                kept = "outputs kept" if keep_outputs(target, notebook) else "no outputs: its code changed"
                _save(target, notebook, f"{kept}")
                continue
            print(f"{path.stem} ({budget})", file=sys.stderr)
            cost = execute(notebook, target.parent, budget=budget)
            for warning in clean_outputs(notebook):
                print(f"  warning: {warning}", file=sys.stderr)
            _save(target, notebook, f"{cost.seconds:.0f} s, {cost.peak_memory_mb:.0f} MB at its peak")

    def solved(self, number: str | None = None, *, run: bool = False, budget: str | None = None) -> None:
        """Write the solved editions into build/solved/; with run, execute them and let every check be strict."""
        for path in self.lessons(number):
            target = self.root / "build" / "solved" / f"{path.stem}.ipynb"
            target.parent.mkdir(parents=True, exist_ok=True)
            notebook = self.build(path, "solved")
            note = "not executed"
            if run:
                cost = execute(notebook, self._folder(), budget=budget, strict=True)
                note = f"every check passed, {cost.seconds:.0f} s, {cost.peak_memory_mb:.0f} MB at its peak"
            _save(target, notebook, note)

    def run(self, number: str, *, budget: str | None = None, edition: Edition = "student") -> Path:
        """Execute one lesson, write it as a page into build/html/, print its seconds and peak memory."""
        [path] = self.lessons(number)
        notebook = self.build(path, edition)
        cost = execute(notebook, self._folder(), budget=budget)
        target = self.root / "build" / "html" / f"{path.stem}.html"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(to_html(notebook), encoding="utf-8")
        print(f"{target.relative_to(self.root)}: {cost.seconds:.1f} s, {cost.peak_memory_mb:.0f} MB at its peak")
        return target

    def release(self, numbers: Sequence[str], target: Path) -> None:
        """Pack the committed notebooks of some lessons for students; refuse those that differ from their lessons."""
        paths = [path for number in numbers for path in self.lessons(number)]
        found = [sentence for number in numbers for sentence in self.stale(number)]
        if found:
            raise BuildError("\n".join([*found, "stale: run `make notebooks` first, students would get the old ones"]))
        notebooks = [self._folder() / f"{path.stem}.ipynb" for path in paths]
        print(f"{target}: {len(notebooks)} notebooks, sha256 {release(notebooks, self.course, target)}")

    def stale(self, number: str | None = None) -> list[str]:
        """Return a sentence for each difference between the committed notebooks and the lessons (none: all fresh)."""
        folder = self.root / "notebooks"
        found = [
            d for path in self.lessons(number) for d in differences(folder / f"{path.stem}.ipynb", self.build(path))
        ]
        if number is None:
            found += orphans(folder, {path.stem for path in self.lessons()})
            found += (
                ["README.md: the table of lessons differs"]
                if restamp_readme(self.root, self.course, write=False)
                else []
            )
        return found


def _save(target: Path, notebook: Any, note: str) -> None:
    text = write(notebook)
    refuse_oversize(target.name, notebook, text)
    target.write_text(text, encoding="utf-8")
    print(f"{target.parent.name}/{target.name}: {len(notebook.cells)} cells, {len(text) // 1000} kB, {note}")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m lesson_lib.build", description="Lessons and library become notebooks."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    notebooks = commands.add_parser("notebooks", help="write the student editions into notebooks/, executed")
    notebooks.add_argument("--no-execute", action="store_true", help="keep the stored outputs where no code changed")
    notebooks.add_argument("--budget", choices=BUDGETS, default="laptop")
    solved = commands.add_parser("solved", help="write the solved editions into build/solved/")
    solved.add_argument("--execute", action="store_true", help="execute them; every check must pass")
    run = commands.add_parser("run", help="execute one lesson and write build/html/")
    run.add_argument("--solved", action="store_true", help="with every exercise solved")
    check = commands.add_parser("check", help="list what is stale in notebooks/ and fail if anything is")
    for command in (notebooks, solved, run, check):
        command.add_argument("--lesson", metavar="NN", required=command is run, help="one lesson, for example 01")
    for command in (solved, run):
        command.add_argument("--budget", choices=BUDGETS, help="default: LESSON_BUDGET, or what suits the device")
    packed = commands.add_parser("release", help="pack the notebooks of some lessons for students")
    packed.add_argument("lessons", nargs="+", metavar="NN", help="lessons, for example 05 06")
    packed.add_argument("--out", type=Path, help="default: build/release/lessons-05-06.zip")
    commands.add_parser("fork", help="write another repository's address everywhere").add_argument(
        "repository", metavar="owner/name"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 1 with a sentence on stderr."""
    given = _arguments(argv)
    try:
        if given.command == "fork":
            for path in fork(ROOT, given.repository):
                print(path.relative_to(ROOT))
            return 0
        builder = Builder()
        if given.command == "release":
            name = f"lessons-{'-'.join(given.lessons)}.zip"
            builder.release(given.lessons, given.out or ROOT / "build" / "release" / name)
            return 0
        if given.command == "notebooks":
            builder.notebooks(given.lesson, budget=given.budget, run=not given.no_execute)
            if restamp_readme(ROOT, builder.course):
                print("README.md: table of lessons")
        elif given.command == "solved":
            builder.solved(given.lesson, run=given.execute, budget=given.budget)
        elif given.command == "run":
            builder.run(given.lesson, budget=given.budget, edition="solved" if given.solved else "student")
        elif stale := builder.stale(given.lesson):
            raise BuildError("\n".join([*stale, "stale: run `make notebooks`, then commit notebooks/"]))
    except BuildError as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
