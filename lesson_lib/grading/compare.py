"""This grader beside nbgrader and otter-grader, on the same ordinary submissions of lesson 07, in one run.

python -m lesson_lib.grading.compare --python OTHER/bin/python --out FILE.json

The other two are no part of the course. Install them once, in an environment of their own:
python -m venv OTHER
OTHER/bin/pip install -c constraints.txt torch numpy einops ipykernel nbgrader==0.9.6 otter-grader==7.0.0

They grade an assignment made of the lesson's exercises alone: a short cell of imports, each answer, a test that holds
it against the library on random inputs, and the library's version again, so that one mistake costs once. Nothing is
trained or drawn. Every grader runs two notebooks at a time; what they need once for a class is done before the clock.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lesson_lib import ROOT
from lesson_lib.exercises import REGISTRY
from lesson_lib.exercises.core import Exercise
from lesson_lib.exercises.source import merge_imports
from lesson_lib.grading.marks import PASSED, Notebook, write_whole

LESSON, JOBS = "07", 2
EXERCISES = {key: exercise for key, exercise in REGISTRY.items() if exercise.lesson == LESSON}
Cell = dict[str, Any]

# What the authors of such an assignment write: the learner's version against the library's, on random inputs.

START = """\
import torch
from torch import nn
from lesson_lib import dit

torch.manual_seed({seed})


def alike(mine, library):
    torch.testing.assert_close(mine, library, rtol=1e-4, atol=1e-5)


def twins(mine, library):
    for weight in library.parameters():
        nn.init.normal_(weight, std=0.3)
    mine.load_state_dict(library.state_dict())
    return mine, library

"""
BLOCK = """
for width, heads in ((12, 3), (10, 2), (15, 5)):
    mine, library = twins(AdaLNZeroBlock(width, heads), dit.AdaLNZeroBlock(width, heads))
    x, c = torch.randn(3, 5, width), torch.randn(3, width)
    alike(mine(x.clone(), c.clone()), library(x, c))
"""
TESTS = {
    "dit.modulate": """
for batch, count, width in ((2, 7, 5), (3, 3, 7), (5, 2, 9)):
    x, shift, scale = torch.randn(batch, count, width), torch.randn(batch, width), torch.randn(batch, width)
    alike(modulate(x.clone(), shift.clone(), scale.clone()), dit.modulate(x, shift, scale))
""",
    "dit.AdaLNZeroBlock.forward": BLOCK,
    "dit.start_modulation": """
for width, parts in ((5, 6), (8, 3), (4, 6)):
    weight = torch.randn(parts * width, width)
    for start in ("zero", "gates", "xavier"):
        alike(start_modulation(weight.clone(), parts, start), dit.start_modulation(weight, parts, start))
drawn = start_modulation(torch.randn(600, 100), 6, "gaussian")
assert drawn.shape == (600, 100) and abs(float(drawn.std()) - 0.001) < 5e-5
try:
    start_modulation(torch.randn(12, 2), 6, "nothing")
except ValueError:
    pass
else:
    raise AssertionError("another start must raise ValueError")
""",
    "dit.AdaLNSingleBlock.forward": """
for width, heads, size in ((12, 3, 0), (10, 2, 7), (15, 5, 4)):
    options = {"context_size": size}
    mine, library = twins(AdaLNSingleBlock(width, heads, **options), dit.AdaLNSingleBlock(width, heads, **options))
    x, shared = torch.randn(3, 5, width), torch.randn(3, 6 * width)
    context = torch.randn(3, 4, size) if size else None
    alike(mine(x.clone(), shared.clone(), context), library(x, shared, context))
""",
    "dit.DiT.run_blocks": """
for way in ("in-context", "cross-attention", "adaln", "adaln-zero", "adaln-single"):
    size = 7 if way == "adaln-single" else 0
    config = dit.DiTConfig(
        input_size=8, hidden_size=16, depth=2, num_heads=2, num_classes=5, conditioning=way, context_size=size
    )
    mine, library = twins(DiT(config), dit.DiT(config))
    tokens, heard = torch.randn(3, 16, 16), [torch.randn(3, 16), torch.randn(3, 16)]
    context = torch.randn(3, 4, size) if size else None
    alike(mine.run_blocks(tokens.clone(), list(heard), context), library.run_blocks(tokens, heard, context))
""",
    "dit.parameters_by_part": """
for way, classes in (("in-context", 7), ("cross-attention", 0), ("adaln-zero", 3), ("adaln-single", 5)):
    config = dit.DiTConfig(
        input_size=8, hidden_size=24, depth=2, num_heads=2, num_classes=classes, conditioning=way
    )
    library = dit.DiT(config)
    assert parameters_by_part(library) == dit.parameters_by_part(library)
""",
    "dit.block_bug": BLOCK,
}

# --- what is graded ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Submission:
    """One student's notebook. honest: the exercises that deserve their points. cells: what the student wrote, by
    exercise, in order; the last of them answers it."""

    name: str
    honest: frozenset[str]
    cells: Mapping[str, Sequence[str]]


@dataclass
class Graded:
    """What a grader made of the submissions. passed: by student, the exercises with points. said: why others have none,
    by student and exercise, the first line of it. cpu_seconds: of all its processes together."""

    seconds: float
    cpu_seconds: float
    passed: dict[str, set[str]] = field(default_factory=dict)
    said: dict[tuple[str, str], str] = field(default_factory=dict)


def hand_in(count: int, seed: int, folder: Path) -> list[Submission]:
    """Write ordinary submissions into a folder, as the tests make them. Raises ValueError where there are no tests."""
    tests = ROOT / "tests"
    if not (tests / "grading_attacks" / "ordinary.py").exists():
        raise ValueError("the comparison needs the course's repository: tests/grading_attacks/ordinary.py is not there")
    sys.path.insert(0, str(tests))
    entries = importlib.import_module("grading_attacks.ordinary").ordinary(count, seed)
    found = []
    for entry in entries:
        place = folder / entry.place
        place.mkdir(parents=True)
        entry.build(place)
        [path] = place.rglob("*.ipynb")
        found.append(Submission(entry.place, frozenset(entry.honest), own_cells(path)))
    return found


def own_cells(path: Path) -> dict[str, list[str]]:
    """Return the code that a student has written or changed, by the exercise whose check follows."""
    [original] = (ROOT / "notebooks").glob(f"{LESSON}_*.ipynb")
    given = set(_code(original))
    waiting: list[str] = []
    found: dict[str, list[str]] = {}
    for source in _code(path):
        call = re.search(r'check\("([\w.]+)"', source)
        if call and call[1] in EXERCISES:
            found[call[1]], waiting = waiting, []
        elif source not in given and not source.startswith("prose("):
            waiting.append(source)
    return found


def _code(path: Path) -> list[str]:
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return ["".join(cell["source"]).strip() for cell in cells if cell["cell_type"] == "code"]


# --- the assignment ----------------------------------------------------------------------------------------------


def imports() -> str:
    """Return the one cell of imports that the exercises need."""
    needed = [line for exercise in EXERCISES.values() for line in exercise.needs()]
    return "\n".join(merge_imports(["import math", "import torch.nn.functional as F", *needed]))


def library_version(exercise: Exercise) -> str:
    """Return the line that puts the library's version in the place of the learner's, whatever that was."""
    return f"from {exercise.resolved.module.__name__} import {exercise.name}"


def test_of(exercise: Exercise) -> str:
    """Return the test of an exercise as code that raises."""
    return START.format(seed=exercise.number) + TESTS[exercise.id]


def cell(source: str, **metadata: Any) -> Cell:
    """Return a code cell."""
    return {"cell_type": "code", "metadata": metadata, "source": source, "execution_count": None, "outputs": []}


def write_notebook(path: Path, cells: Sequence[Cell]) -> None:
    """Write a notebook for the environment's own kernel."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": list(cells), "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 4}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole), "utf-8")


# --- the three graders -------------------------------------------------------------------------------------------

NBGRADER_POINTS = """
import json
from nbgrader.api import Gradebook

found = {}
with Gradebook("sqlite:///gradebook.db") as book:
    for submission in book.assignment_submissions("lesson"):
        grades = [grade for notebook in submission.notebooks for grade in notebook.grades]
        found[submission.student.id] = {grade.name: [grade.score, grade.max_score] for grade in grades}
print(json.dumps(found))
"""
OTTER_POINTS = """
import json, sys
from otter.api import grade_submission

archive, *paths = sys.argv[1:]
found = {}
for path in paths:
    results = grade_submission(path, archive, quiet=True)
    found[path] = {
        name: [test.score, test.possible, *(r.message for r in test.test_case_results if not r.passed)]
        for name, test in results.results.items()
    }
sys.__stdout__.write("\\n" + json.dumps(found))
"""


class Ours:
    """This course's grader, as an instructor starts it."""

    name = "this course"

    def __init__(self, folder: Path, handed_in: Path) -> None:
        self.folder, self.handed_in = folder, handed_in
        folder.mkdir()

    def grade(self) -> Graded:
        """Grade everything, from the folder of submissions to the reports."""
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        command = [sys.executable, "-m", "lesson_lib.grading", "grade", str(self.handed_in), "--lesson", LESSON]
        found = _together([[*command, "--out", str(out), "--jobs", str(JOBS)]], self.folder)[0]
        for path in sorted((out / "log").glob("*.json")):
            notebook = Notebook.from_json(path.read_text("utf-8"))
            student = notebook.file.split("/")[0]
            found.passed[student] = {mark.exercise for mark in notebook.marks if mark.status == PASSED}
            for mark in notebook.marks:
                words = mark.mistake or mark.rung or mark.status
                if mark.status != PASSED:
                    found.said[student, mark.exercise] = f"{words}: {_first_line(mark.advice)}"
        return found


class NbGrader:
    """nbgrader: an assignment in a course of its own for each half of the class, since one autograde runs alone."""

    name = "nbgrader"

    def __init__(self, folder: Path, submissions: Sequence[Submission], python: str) -> None:
        self.folder, self.python = folder, python
        self.courses = [folder / f"half_{number}" for number in range(JOBS)]
        for number, course in enumerate(self.courses):
            blank = {key: ["raise NotImplementedError"] for key in EXERCISES}
            write_notebook(course / "source" / "lesson" / "lesson.ipynb", self._cells(blank))
            (course / "nbgrader_config.py").write_text('c = get_config()\nc.CourseDirectory.course_id = "course"\n')
            _together([self._command("generate_assignment")], course)
            for one in submissions[number::JOBS]:
                write_notebook(course / "submitted" / one.name / "lesson" / "lesson.ipynb", self._cells(one.cells))

    def _command(self, verb: str) -> list[str]:
        return [self.python, "-m", "nbgrader", verb, "lesson", "--force"]

    def _cells(self, answers: Mapping[str, Sequence[str]]) -> list[Cell]:
        def marked(source: str, name: str, points: int = 0, solution: bool = False) -> Cell:
            about: dict[str, Any] = {"grade_id": name, "schema_version": 3, "task": False, "solution": solution}
            about |= {"locked": not solution, "grade": bool(points), **({"points": points} if points else {})}
            return cell(source, nbgrader=about)

        cells = [marked(imports(), "imports")]
        for key, exercise in EXERCISES.items():
            *helpers, answer = answers.get(key) or [exercise.stub_source()]
            name = str(exercise.number)
            cells += [*(cell(helper) for helper in helpers), marked(answer, f"answer-{name}", solution=True)]
            cells.append(marked(test_of(exercise), f"test-{name}", exercise.points))
            cells.append(marked(library_version(exercise), f"library-{name}"))
        return cells

    def grade(self) -> Graded:
        """Run autograde, from submitted notebooks to the gradebook."""
        for course in self.courses:
            shutil.rmtree(course / "autograded", ignore_errors=True)
        found = _together([self._command("autograde")] * JOBS, *self.courses)[0]
        names = {f"test-{exercise.number}": key for key, exercise in EXERCISES.items()}
        for course in self.courses:
            (output,) = _together([[self.python, "-c", NBGRADER_POINTS]], course)[1]
            for student, points in json.loads(output.splitlines()[-1]).items():
                found.passed[student] = {names[name] for name, (got, most) in points.items() if got == most}
                path = course / "autograded" / student / "lesson" / "lesson.ipynb"
                for one in json.loads(path.read_text("utf-8"))["cells"] if path.exists() else ():
                    about = one["metadata"].get("nbgrader", {})
                    errors = [o for o in one.get("outputs", ()) if o["output_type"] == "error"]
                    if about.get("grade_id") in names and errors:
                        told = f"{errors[0]['ename']}: {_first_line(errors[0]['evalue'])}"
                        found.said[student, names[about["grade_id"]]] = told
        return found


class Otter:
    """otter-grader without containers: a process for each half of the class."""

    name = "otter-grader"

    def __init__(self, folder: Path, submissions: Sequence[Submission], python: str) -> None:
        self.folder, self.python = folder, python
        self.archive = folder / "autograder.zip"
        folder.mkdir()
        with zipfile.ZipFile(self.archive, "w") as archive:
            archive.writestr("otter_config.json", "{}")
            for exercise in EXERCISES.values():
                archive.writestr(f"tests/q{exercise.number}.py", self._test_file(exercise))
        self.paths = []
        for one in submissions:
            self.paths.append(folder / "submitted" / one.name / "lesson.ipynb")
            write_notebook(self.paths[-1], self._cells(one.cells))

    def _test_file(self, exercise: Exercise) -> str:
        body = "".join(f"    {line}\n" if line else "\n" for line in test_of(exercise).splitlines())
        head = f'from otter.test_files import test_case\n\nOK_FORMAT = False\nname = "q{exercise.number}"\n'
        return f"{head}points = {exercise.points}\n\n\n@test_case()\ndef test_answer({exercise.name}):\n{body}"

    def _cells(self, answers: Mapping[str, Sequence[str]]) -> list[Cell]:
        cells = [cell('import otter\ngrader = otter.Notebook("lesson.ipynb")'), cell(imports())]
        for key, exercise in EXERCISES.items():
            cells += [cell(source) for source in answers.get(key) or [exercise.stub_source()]]
            cells += [cell(f'grader.check("q{exercise.number}")'), cell(library_version(exercise))]
        return cells

    def grade(self) -> Graded:
        """Grade every notebook through otter's own programming interface."""
        halves = [[str(path) for path in self.paths[number::JOBS]] for number in range(JOBS)]
        commands = [[self.python, "-c", OTTER_POINTS, str(self.archive), *half] for half in halves]
        found, outputs = _together(commands, self.folder)
        names = {f"q{exercise.number}": key for key, exercise in EXERCISES.items()}
        for output in outputs:
            for path, points in json.loads(output.splitlines()[-1]).items():
                student = Path(path).parent.name
                got = {names[Path(name).stem]: scores for name, scores in points.items()}
                found.passed[student] = {key for key, (score, most, *_) in got.items() if score == most}
                found.said |= {(student, key): _error_line(told[0]) for key, (_, _, *told) in got.items() if told}
        return found


def _together(commands: Sequence[Sequence[str]], *places: Path) -> tuple[Graded, list[str]]:
    """Run commands at the same time, each in its place (the last serves the rest); return times and outputs."""

    def run(number: int) -> str:
        place, command = places[min(number, len(places) - 1)], commands[number]
        path = f"{Path(command[0]).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # nbgrader calls alembic by name
        own = {"HOME": str(place), "OMP_NUM_THREADS": "1", "PATH": path, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=place, env={**os.environ, **own}, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"{' '.join(command[1:4])} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        return done.stdout

    def spent() -> float:
        return sum(os.times()[2:4])  # by all processes that have ended, theirs included

    started, before = time.monotonic(), spent()
    with ThreadPoolExecutor(len(commands)) as pool:
        outputs = list(pool.map(run, range(len(commands))))
    return Graded(time.monotonic() - started, spent() - before), outputs


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0][:200]


def _error_line(text: str) -> str:
    """Return the line of a traceback that names the error."""
    lines = [line for line in text.splitlines() if re.match(r"\w*(Error|Exception)\b", line)]
    return _first_line(lines[-1] if lines else text)


# --- the comparison ----------------------------------------------------------------------------------------------


def compare(python: str, count: int, seed: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Grade the same submissions with all three, in every round in the reverse order; return the record.

    python: of the environment with the other two. folder: an empty one. Raises ValueError with a sentence.
    """
    python = os.path.abspath(shutil.which(python) or python)
    versions = _versions(python)
    handed_in = folder / "submissions"
    submissions = hand_in(count, seed, handed_in)
    graders: list[Ours | NbGrader | Otter] = [
        Ours(folder / "course", handed_in),
        NbGrader(folder / "nbgrader", submissions, python),
        Otter(folder / "otter", submissions, python),
    ]
    done: list[dict[str, Any]] = []
    graded: dict[str, list[Graded]] = {grader.name: [] for grader in graders}
    for number in range(rounds):
        order, load = graders[:: 1 if number % 2 == 0 else -1], os.getloadavg()[0]
        for grader in order:
            graded[grader.name].append(grader.grade())
            print(f"round {number + 1}: {grader.name} took {graded[grader.name][-1].seconds:.1f} s", file=sys.stderr)
        seconds = {name: round(found[number].seconds, 1) for name, found in graded.items()}
        cpu = {name: round(found[number].cpu_seconds, 1) for name, found in graded.items()}
        times = {"seconds": seconds, "cpu_seconds": cpu, "load_before": round(load, 1)}
        done.append({"order": [one.name for one in order], **times})
    differences = [one for name, found in graded.items() for one in _differences(name, found, submissions, graded)]
    return {
        "lesson": LESSON,
        "submissions": len(submissions),
        "seed": seed,
        "jobs": JOBS,
        "machine": {"cores": os.cpu_count(), "system": platform.system(), "python": platform.python_version()},
        "versions": versions,
        "rounds": done,
        "agreement": {name: _agreement(name, differences, len(submissions)) for name in graded},
        "differences": differences,
    }


def _versions(python: str) -> dict[str, str]:
    names = ("nbgrader", "otter-grader", "torch")
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {names}}}))"
    try:
        found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ValueError(f"{python} has no nbgrader and otter-grader.\n{__doc__}") from error
    versions: dict[str, str] = json.loads(found.stdout)
    return versions


def _differences(
    name: str, rounds: Sequence[Graded], submissions: Sequence[Submission], graded: Mapping[str, Sequence[Graded]]
) -> list[dict[str, str]]:
    """List the grades that in any round were not what the answer deserves, and why: what the grader says of a right
    answer, or what this course's grader says of a wrong one."""
    found = []
    for one in submissions:
        for key in EXERCISES:
            deserved = key in one.honest
            wrong = [each for each in rounds if (key in each.passed.get(one.name, ())) != deserved]
            if wrong:
                told = [each.said.get((one.name, key), "") for each in (wrong if deserved else graded[Ours.name])]
                what = "no points for a right answer" if deserved else "points for a wrong answer"
                why = next(filter(None, told), "nothing is said")
                place = {"grader": name, "student": one.name, "exercise": key}
                found.append({**place, "what": what, "rounds": f"{len(wrong)} of {len(rounds)}", "why": why})
    return found


def _agreement(name: str, differences: Sequence[Mapping[str, str]], count: int) -> dict[str, int]:
    """Count, for each exercise, the submissions that got what they deserve in every round."""
    missed = Counter(one["exercise"] for one in differences if one["grader"] == name)
    return {key: count - missed[key] for key in EXERCISES}


def table(record: Mapping[str, Any]) -> str:
    """Return the comparison as text: seconds, agreement, and each difference with its reason."""
    count, rounds = record["submissions"], record["rounds"]
    heads = [f"round {number}" for number in range(1, len(rounds) + 1)]
    lines = [f"{'':15}" + "".join(f"{head:>10}" for head in [*heads, "each", "CPU each", *map(_label, EXERCISES)])]
    for name in record["agreement"]:
        times, cpu = ([one[kind][name] for one in rounds] for kind in ("seconds", "cpu_seconds"))
        cells = [f"{seconds:.1f} s" for seconds in times]
        cells += [f"{sum(found) / len(found) / count:.2f} s" for found in (times, cpu)]
        cells += [f"{right}/{count}" for right in record["agreement"][name].values()]
        lines.append(f"{name:15}" + "".join(f"{text:>10}" for text in cells))
    orders = "; ".join(", ".join(one["order"]) for one in rounds)
    lines += ["", f"Below an exercise: submissions that got what they deserve in every round. Order: {orders}."]
    for one in record["differences"]:
        place = f"{one['grader']}, {one['student']}, {_label(one['exercise'])}"
        lines.append(f"{place}: {one['what']}, {one['rounds']} rounds ({one['why']})")
    return "\n".join(lines)


def page(record: Mapping[str, Any]) -> str:
    """Return the comparison as the page docs/grading_comparison.md."""
    machine, versions = record["machine"], record["versions"]
    others = " and ".join(f"{name} {versions[name]}" for name in ("nbgrader", "otter-grader"))
    return f"""# Beside other graders

The same {record["submissions"]} ordinary submissions of lesson {record["lesson"]}, with right answers, known mistakes
and untouched stubs, graded by this course's grader, {others},
{record["jobs"]} notebooks at a time, on {machine["cores"]} cores, each round in the reverse order of the one before.
The other two grade an assignment made for them: only the exercises, with tests that compare with the library on random
inputs. How hostile submissions fare is [another page](grading_attacks.md).

```text
{table(record)}
```

Generated by `python -m lesson_lib.grading.compare --page docs/grading_comparison.md --python …`; the record is
[grading_comparison.json](grading_comparison.json).
"""


def _label(key: str) -> str:
    return EXERCISES[key].label


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print the table and write the record; return 2 with a sentence where something is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m lesson_lib.grading.compare", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--python", required=True, help="the Python with nbgrader and otter-grader")
    parser.add_argument("--count", type=int, default=20, help="submissions")
    parser.add_argument("--seed", type=int, default=0, help="of the submissions")
    parser.add_argument("--rounds", type=int, default=2, help="each in the reverse order of the one before")
    parser.add_argument("--out", type=Path, help="file for the record")
    parser.add_argument("--page", type=Path, help="page to write; the record goes beside it")
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            record = compare(options.python, options.count, options.seed, options.rounds, Path(folder))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.out:
        write_whole(options.out, json.dumps(record, indent=1) + "\n")
    if options.page:
        write_whole(options.page.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
        write_whole(options.page, page(record))
    print(table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
