"""A whole run: find the notebooks, grade them in parallel, write each result the moment it is there, then the reports.

OUT holds run.json (what was asked for, the seed, who handed in what), log/ (one file for each notebook, which is also
what --resume reads), a copy of the rubric, and the reports, which can be made again without running anything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lesson_lib import ROOT, __version__
from lesson_lib.exercises import REGISTRY
from lesson_lib.exercises.core import Prose
from lesson_lib.grading import reports, rubric, submissions
from lesson_lib.grading.copies import common_sources, similar
from lesson_lib.grading.judge import Judge
from lesson_lib.grading.marks import FAILED, PASSED, Grade, Notebook, Student, write_whole
from lesson_lib.grading.sandbox import Sandbox, SandboxError

LONGEST = 1800.0  # seconds for one notebook, before its process is given up
TRIES = 2
UNSAFE = """
  !! --isolation none: the code of every submission runs with all your rights.
  !! It can read and delete your files, send them away, and change other students' grades.
  !! Use it only for notebooks that you would run yourself without looking.
"""


@dataclass(frozen=True)
class Settings:
    """What the command line asks for."""

    submissions: Path
    lesson: str
    out: Path
    jobs: int = 2
    rubric: Path | None = None
    roster: Path | None = None
    times: Path | None = None
    resume: bool = False
    seed: int | None = None
    isolation: str = "bwrap"


def grade(settings: Settings) -> tuple[int, float]:
    """Grade everything; return how many notebooks are graded now, and the seconds that this took.

    Raises ValueError or SandboxError, with a sentence, before anything is graded.
    """
    if not settings.submissions.exists():
        raise ValueError(f"{settings.submissions} is not there; name a folder or a zip of notebooks")
    lessons = {exercise.lesson for exercise in REGISTRY.values()}
    if settings.lesson not in lessons:
        raise ValueError(f"there is no lesson {settings.lesson!r}; the lessons are {', '.join(sorted(lessons))}")
    rules = rubric.read_rubric(settings.rubric, settings.lesson)
    roster = submissions.read_roster(settings.roster) if settings.roster else []
    times = submissions.read_times(settings.times) if settings.times else {}
    seed = _open(settings)
    if settings.isolation == "none":
        print(UNSAFE, file=sys.stderr)
    handins, problems = submissions.find(settings.submissions, settings.lesson)
    owners, more = submissions.match(handins, roster)
    handins = submissions.timed(handins, times, owners)
    students = list({s.key: s for s in [*roster, *owners.values()]}.values())
    about = {
        "lesson": settings.lesson,
        "seed": seed,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "isolation": settings.isolation,
        "jobs": settings.jobs,
        "course": {"version": __version__, "sources": _sources(), "torch": torch.__version__},
        "students": [dataclasses.asdict(student) for student in students],
        "handins": [_stamp(handin, owners[handin.key]) for handin in handins],
        "problems": _some([*problems, *more]),
        "seconds": 0.0,
    }
    _save(settings.out, about)
    if settings.rubric:
        write_whole(settings.out / "rubric.toml", settings.rubric.read_bytes())
    started = time.monotonic()
    done = {handin.key for handin in handins if _is_graded(settings.out, handin, settings.lesson, seed)}
    waiting = [handin for handin in handins if handin.key not in done]
    bar = tqdm(total=len(handins), initial=len(done), desc="grading", unit="notebook", disable=None)
    with bar, _Jobs(settings, seed, rules.questions, min(settings.jobs, len(waiting))) as jobs:
        for handin, notebook in jobs.grade(waiting):
            whole = dataclasses.replace(notebook, key=handin.key, **_stamped(handin, owners[handin.key]))
            _log(settings.out, whole)
            bar.update()
    seconds = round(time.monotonic() - started, 1)
    about["seconds"] = seconds
    _save(settings.out, about)
    report(settings.out)
    return len(handins), seconds


def report(out: Path, rules_file: Path | None = None) -> list[Grade]:
    """Write every report of a run again: with another rubric, or with the points that prose.csv holds by now."""
    try:
        about = json.loads((out / "run.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{out} holds no run of the grader: run.json cannot be read ({error})") from error
    if rules_file:
        rubric.read_rubric(rules_file, about["lesson"])
        write_whole(out / "rubric.toml", rules_file.read_bytes())
    kept = out / "rubric.toml"
    rules = rubric.read_rubric(kept if kept.exists() else None, about["lesson"])
    students = {key["key"]: Student(**key) for key in about["students"]}
    notebooks, owners = [], {}
    for handin in about["handins"]:
        path = out / "log" / f"{handin['key']}.json"
        if path.exists():
            notebooks.append(dataclasses.replace(Notebook.from_json(path.read_text("utf-8")), **handin))
            owners[handin["key"]] = students[handin["student"]]
    words = reports.read_words(out / "prose.csv", rules.words) if (out / "prose.csv").exists() else {}
    grades = rubric.grades(notebooks, owners, list(students.values()), rules, words)
    run = reports.Run(
        lesson=about["lesson"],
        seed=about["seed"],
        started=about["started"],
        isolation=about["isolation"],
        seconds=about["seconds"],
        jobs=about["jobs"],
        rubric=rules.in_words,
        complete=len(notebooks) == len(about["handins"]),
        questions={question.id: (question.text, question.rubric) for question in rules.questions},
    )
    odd = [f"{n.file}: {problem}" for n in notebooks for problem in n.problems]
    reports.write_reports(out, run, grades, notebooks, [*about["problems"], *odd], _alike(grades))
    return grades


def _alike(grades: Sequence[Grade]) -> Any:
    """Compare the answers that count, between students."""
    sources = {
        grade.student.key: {
            mark.exercise: mark.source for mark in grade.attempt.notebook.marks if mark.status in (PASSED, FAILED)
        }
        for grade in grades
        if grade.attempt
    }
    asked = sorted({exercise for own in sources.values() for exercise in own})
    given = {key: "\n".join([*REGISTRY[key].needs(), REGISTRY[key].stub_source()]) for key in asked}
    solved = {key: "\n".join([*REGISTRY[key].needs(), REGISTRY[key].solution_source()]) for key in asked}
    return similar(sources, given, solved, {key: common_sources(REGISTRY[key]) for key in asked})


# --- OUT ---------------------------------------------------------------------------------------------------------


def _open(settings: Settings) -> int:
    """Make OUT, or find the run in it that is to go on; return the seed."""
    out, source = settings.out.resolve(), settings.submissions.resolve()
    if out == source or out.is_relative_to(source):
        raise ValueError(
            f"{settings.out} lies inside the submissions; choose a folder outside, nothing there is touched"
        )
    earlier = settings.out / "run.json"
    if settings.resume and earlier.exists():
        about = json.loads(earlier.read_text("utf-8"))
        if about["lesson"] != settings.lesson:
            raise ValueError(f"{settings.out} holds a run of lesson {about['lesson']}; this one is {settings.lesson}")
        if settings.seed not in (None, about["seed"]):
            raise ValueError(f"{settings.out} holds a run with the seed {about['seed']}; leave --seed out to go on")
        if about["course"]["sources"] != _sources():
            print("The course has changed since that run began: notebooks graded then are kept.", file=sys.stderr)
        return int(about["seed"])
    if settings.out.exists() and any(settings.out.iterdir()):
        raise ValueError(f"{settings.out} is not empty; --resume goes on with a run in it, or choose another folder")
    settings.out.mkdir(parents=True, exist_ok=True)
    return secrets.randbelow(2**40) if settings.seed is None else settings.seed


def _save(out: Path, about: dict[str, Any]) -> None:
    write_whole(out / "run.json", json.dumps(about, indent=1, ensure_ascii=False))


def _some(problems: list[str], most: int = 200) -> list[str]:
    left = len(problems) - most
    return problems if left <= 0 else [*problems[:most], f"… and {left} more of this kind."]


def _stamp(handin: submissions.HandIn, student: Student) -> dict[str, Any]:
    return {"key": handin.key, **_stamped(handin, student)}


def _stamped(handin: submissions.HandIn, student: Student) -> dict[str, Any]:
    return {
        "student": student.key,
        "file": handin.file,
        "submitted": handin.submitted,
        "late_hint": handin.late_hint,
    }


def _is_graded(out: Path, handin: submissions.HandIn, lesson: str, seed: int) -> bool:
    """Whether a run that is resumed has graded this very file already."""
    path = out / "log" / f"{handin.key}.json"
    try:
        found = Notebook.from_json(path.read_text("utf-8"))
        digest = hashlib.sha256(handin.read()).hexdigest()
    except (OSError, ValueError):
        return False
    return (found.lesson, found.seed, found.digest) == (lesson, seed, digest)


def _log(out: Path, notebook: Notebook) -> None:
    """Write what came of a notebook: for people first, then the file that says that it is done."""
    lines = [notebook.file, f"sha256 {notebook.digest}, lesson {notebook.lesson}, seed {notebook.seed}", ""]
    lines += [*notebook.problems, ""] if notebook.problems else []
    for mark in notebook.marks:
        lines += [f"{mark.exercise}: {mark.status} {mark.rung} {mark.mistake}".rstrip() + f" ({mark.seconds:.1f} s)"]
        lines += [f"    {line}" for line in mark.detail.splitlines()]
        lines += ["    ---", *(f"    {line}" for line in mark.source.splitlines()), ""] if mark.source else [""]
    for answer in notebook.written:
        lines += [f"{answer.question}: {answer.words} words {answer.note}".rstrip(), answer.text, ""]
    text = "\n".join(lines).encode("utf-8", "replace")
    write_whole(out / "log" / f"{notebook.key}.txt", text)
    write_whole(out / "log" / f"{notebook.key}.json", notebook.to_json().encode("utf-8", "replace"))


def _sources() -> str:
    """Return a digest of the code that decides about grades."""
    found = hashlib.sha256()
    for path in sorted((ROOT / "lesson_lib").rglob("*.py")):
        found.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


# --- parallel ----------------------------------------------------------------------------------------------------


@dataclass
class _Job:
    """One process that grades, and what it is busy with."""

    process: Any
    connection: Connection
    handin: submissions.HandIn | None = None
    since: float = 0.0


class _Jobs:
    """Some processes that grade one notebook at a time. One that dies is replaced; what it did is tried once more."""

    def __init__(self, settings: Settings, seed: int, questions: Sequence[Prose], count: int) -> None:
        self._arguments = (settings.isolation, settings.lesson, seed, questions)
        self._context: Any = multiprocessing.get_context("fork" if sys.platform.startswith("linux") else "spawn")
        self._count = max(0, count)
        self._jobs: list[_Job] = []

    def __enter__(self) -> _Jobs:
        torch.set_num_threads(1)
        self._jobs = [self._start() for _ in range(self._count)]
        return self

    def __exit__(self, *_: object) -> None:
        for job in self._jobs:
            self._end(job)

    def _start(self) -> _Job:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, os.getpid(), *self._arguments), daemon=True)
        process.start()
        theirs.close()
        return _Job(process, ours)

    def _end(self, job: _Job) -> None:
        job.connection.close()
        job.process.terminate()
        job.process.join(5)
        if job.process.is_alive():
            job.process.kill()
            job.process.join()

    def grade(self, handins: Sequence[submissions.HandIn]) -> Iterator[tuple[submissions.HandIn, Notebook]]:
        """Yield each with its marks, in the order in which they are done."""
        waiting, tries = list(reversed(handins)), dict.fromkeys((h.key for h in handins), 0)
        left = len(handins)
        while left:
            for job in self._jobs:
                if job.handin is None and waiting:
                    job.handin, job.since = waiting.pop(), time.monotonic()
                    tries[job.handin.key] += 1
                    with contextlib.suppress(OSError):
                        job.connection.send(job.handin)
            ready = wait([job.connection for job in self._jobs if job.handin], timeout=5)
            for place, job in enumerate(self._jobs):
                handin = job.handin
                late = handin is not None and time.monotonic() - job.since > LONGEST
                if handin is None or (job.connection not in ready and not late):
                    continue
                found = None if late else _received(job.connection)
                if isinstance(found, SandboxError):
                    raise found
                job.handin = None
                if found is None:
                    self._end(job)
                    self._jobs[place] = self._start()
                    if tries[handin.key] < TRIES:
                        waiting.append(handin)
                        continue
                    found = _given_up(handin, *self._arguments[1:3])
                left -= 1
                yield handin, found


def _received(connection: Connection) -> Any:
    try:
        return connection.recv()
    except (EOFError, OSError):
        return None


def _given_up(handin: submissions.HandIn, lesson: str, seed: int) -> Notebook:
    told = f"It could not be graded: the grader's own process ended {TRIES} times. Look at it."
    return Notebook(handin.key, "", handin.file, "", lesson, seed, problems=(told,))


def _work(
    connection: Connection, parent: int, isolation: str, lesson: str, seed: int, questions: Sequence[Prose]
) -> None:
    """Grade what comes through the connection, until it closes or the process that asked is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    os.environ["LESSON_STRICT"] = "0"
    with contextlib.ExitStack() as stack:
        try:
            box = stack.enter_context(Sandbox(isolation))
        except SandboxError as error:
            connection.send(error)
            return
        judge = Judge(box, lesson, seed, questions)
        while True:
            while not connection.poll(1):
                if os.getppid() != parent:
                    return
            try:
                handin = connection.recv()
            except EOFError:
                return
            try:
                data = handin.read()
            except (ValueError, OSError) as error:
                connection.send(Notebook(handin.key, "", handin.file, "", lesson, seed, problems=(str(error),)))
                continue
            # An error here ends this process; another takes its place and tries the notebook once more.
            connection.send(judge.grade(handin.key, data))
