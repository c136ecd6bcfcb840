"""The grader's command line: python -m lesson_lib.grading {grade,report,practice}."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lesson_lib.grading.practice import practice
from lesson_lib.grading.run import Settings, grade, report
from lesson_lib.grading.sandbox import KINDS, SandboxError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 2 with a sentence on stderr where something was wrong with what was asked."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (ValueError, SandboxError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. What is graded is kept; the same command with --resume goes on.", file=sys.stderr)
        return 130


def _grade(options: argparse.Namespace) -> int:
    settings = Settings(
        submissions=options.submissions,
        lesson=options.lesson,
        out=options.out,
        jobs=options.jobs,
        rubric=options.rubric,
        roster=options.roster,
        times=options.times,
        resume=options.resume,
        seed=options.seed,
        isolation=options.isolation,
    )
    count, seconds = grade(settings)
    print(f"{count} notebooks graded, in {seconds:.0f} s: {options.out / 'grades.csv'}, {options.out / 'class.html'}")
    return 0


def _report(options: argparse.Namespace) -> int:
    grades = report(options.out, options.rubric)
    waiting = sum(len(one.ungraded) for one in grades)
    print(f"Reports of {len(grades)} students written again; {waiting} answers in words wait for a person.")
    return 0


def _practice(options: argparse.Namespace) -> int:
    written = practice(options.folder, options.lesson, options.count, options.seed)
    print(f"{len(written)} invented hand-ins of lesson {options.lesson} in {options.folder}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lesson_lib.grading", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    one = commands.add_parser("grade", help="grade a folder or a zip of notebooks")
    one.add_argument("submissions", type=Path, help="folder or zip, as the LMS exports it; it is never changed")
    one.add_argument("--lesson", required=True, metavar="NN", help='which lesson was handed in, such as "07"')
    one.add_argument("--out", type=Path, required=True, help="new folder for grades and reports")
    one.add_argument("--jobs", type=_positive, default=min(4, os.cpu_count() or 1), help="notebooks at once")
    one.add_argument("--rubric", type=Path, help="rubric.toml: points, late policy, attempts, questions in words")
    one.add_argument("--roster", type=Path, help="CSV with name, id and email of everybody in the class")
    one.add_argument("--times", type=Path, help="CSV with who handed in when, where the export does not tell")
    one.add_argument("--resume", action="store_true", help="go on with the run in OUT; nothing is graded twice")
    one.add_argument("--seed", type=int, help="repeat a run exactly; without it every run draws new cases")
    one.add_argument("--isolation", choices=KINDS, default="bwrap", help="none runs submissions unprotected")
    one.set_defaults(run=_grade)

    two = commands.add_parser("report", help="write the reports again: prose.csv is filled, or the rubric changed")
    two.add_argument("out", type=Path, metavar="OUT", help="the folder of a run")
    two.add_argument("--rubric", type=Path, help="another rubric.toml")
    two.set_defaults(run=_report)

    three = commands.add_parser("practice", help="write the hand-ins of an invented class, to try the grader with")
    three.add_argument("folder", type=Path, metavar="FOLDER", help="new folder")
    three.add_argument("--lesson", required=True, metavar="NN")
    three.add_argument("--count", type=_positive, default=20)
    three.add_argument("--seed", type=int, default=0)
    three.set_defaults(run=_practice)
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
