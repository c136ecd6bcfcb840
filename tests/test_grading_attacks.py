"""Hostile and damaged hand-ins: no undeserved point, no deserved one lost, the batch finishes, nothing else changes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from grading_attacks import ENTRIES
from grading_attacks.machine import ENVIRONMENT, TOKEN, canaries, machine, said
from grading_attacks.notebooks import EXERCISES, Entry, right
from grading_attacks.ordinary import mistakes, ordinary
from grading_attacks.outcomes import Outcome, outcomes, table
from sandboxes import needs_bwrap

from lesson_lib import ROOT
from lesson_lib.exercises import REGISTRY
from lesson_lib.exercises.ladder import examine

PAGE = ROOT / "docs" / "grading_attacks.md"
TESTS = Path(__file__).resolve().parent
CONTROL = machine("control", "says that it has reached something", "def reach():\n    return True")

pytestmark = needs_bwrap


@dataclass(frozen=True)
class Batch:
    """One run over all entries: where it was, how it ended, what came of each entry, what it changed elsewhere."""

    submissions: Path
    code: int
    said: str
    outcomes: dict[str, Outcome]
    changed: list[str]


def _digests(folder: Path) -> dict[str, str]:
    """Return what stands at every place below a folder: a digest of each file, where each link leads, or the kind."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            kind = f"link to {os.readlink(path)}"
        elif path.is_file():
            with path.open("rb") as file:
                kind = hashlib.file_digest(file, "sha256").hexdigest()
        else:
            kind = f"{path.lstat().st_mode:o}"
        found[str(path.relative_to(folder))] = kind
    return found


def _course() -> dict[str, str]:
    """Return digests of the files that belong to the repository, the page that this test writes excepted."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    paths = [ROOT / name for name in listed.split("\0") if name]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths if p.is_file() and p != PAGE}


@pytest.fixture(scope="module")
def batch() -> Iterator[Batch]:
    """Build every entry and grade them all in one run."""
    root = Path(tempfile.mkdtemp(prefix="attacks-"))
    root.chmod(0o755)
    try:
        yield _run(root)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _run(root: Path) -> Batch:
    submissions, out, entries = root / "submissions", root / "out", [*ENTRIES, CONTROL]
    submissions.mkdir()
    for entry in entries:
        (submissions / entry.place).mkdir()
        entry.build(submissions / entry.place)
    canaries(submissions / "any")
    before = {**_digests(submissions), **_course()}
    command = [sys.executable, "-m", "lesson_lib.grading", "grade", str(submissions), "--lesson", "07"]
    done = subprocess.run(
        [*command, "--out", str(out), "--jobs", "2", "--seed", "7"],
        cwd=root,
        env={**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
    )
    after = {**_digests(submissions), **_course()}
    changed = sorted(place for place in {*before, *after} if before.get(place) != after.get(place))
    found = outcomes(entries, submissions, out) if done.returncode == 0 else []
    named = {outcome.entry.name: outcome for outcome in found}
    return Batch(submissions, done.returncode, done.stdout + done.stderr, named, changed)


def test_there_are_many_and_each_is_another() -> None:
    assert len(ENTRIES) >= 55
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)
    assert len({entry.place for entry in ENTRIES}) == len(ENTRIES)
    for entry in ENTRIES:
        assert entry.what
        assert entry.honest <= set(EXERCISES)


@pytest.mark.slow
@pytest.mark.timeout(960)
def test_the_batch_finishes(batch: Batch) -> None:
    assert batch.code == 0, batch.said[-3000:]
    assert "Traceback" not in batch.said
    assert (batch.submissions.parent / "out" / "grades.csv").stat().st_size > 0


@pytest.mark.slow
@pytest.mark.timeout(960)
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_each_gets_what_it_deserves(batch: Batch, entry: Entry) -> None:
    outcome = batch.outcomes[entry.name]
    assert not outcome.given - entry.honest, f"undeserved points: {outcome.report}"
    assert not entry.honest - outcome.given, f"lost points: {outcome.report}"


@pytest.mark.slow
@pytest.mark.timeout(960)
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_none_reaches_the_machine(batch: Batch, entry: Entry) -> None:
    assert entry.after(batch.submissions / entry.place) is None


@pytest.mark.slow
@pytest.mark.timeout(960)
def test_an_attack_that_succeeds_would_be_seen(batch: Batch) -> None:
    folder = batch.submissions / CONTROL.place
    assert said(folder, "reached-control")
    assert CONTROL.after(folder) is not None


@pytest.mark.slow
@pytest.mark.timeout(960)
def test_nothing_outside_of_out_changes(batch: Batch) -> None:
    assert not batch.changed
    root = batch.submissions.parent
    assert {path.name for path in root.iterdir()} == {"submissions", "out", "canaries"}
    assert {path.name for path in (root / "canaries").iterdir()} <= {"secret.txt", "socket"}
    for place in ("/tmp", "/var/tmp", "/dev/shm", Path.home()):
        assert not [path for path in Path(place).glob("*") if TOKEN in path.name]


@pytest.mark.slow
@pytest.mark.timeout(960)
def test_the_page_is_up_to_date(batch: Batch) -> None:
    page = table([batch.outcomes[entry.name] for entry in ENTRIES])
    if os.environ.get("UPDATE_ATTACK_TABLE") == "1":
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page, encoding="utf-8")
    assert PAGE.exists(), "run this test once with UPDATE_ATTACK_TABLE=1"
    assert PAGE.read_text(encoding="utf-8").splitlines() == page.splitlines()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_attacks_deceive_a_grader_that_runs_notebooks_in_its_own_process() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "grading_attacks.naive"],
        cwd=TESTS,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(TESTS)])},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    given = json.loads(done.stdout)
    aimed = [entry for entry in ENTRIES if entry.fools]
    assert len(aimed) >= 40
    powerless = [entry.name for entry in aimed if not set(given[entry.name]) - entry.honest - {"ended early"}]
    assert not powerless, f"these attacks do not even deceive a simple grader: {', '.join(powerless)}"


@pytest.mark.parametrize("exercise", EXERCISES)
def test_the_mistakes_of_ordinary_hand_ins_are_wrong_and_the_answers_right(exercise: str) -> None:
    assert len(mistakes(exercise)) >= 3
    for name, text in mistakes(exercise).items():
        assert text not in (right(exercise, 0), REGISTRY[exercise].stub_source())
        assert not _passes(exercise, text), name
    for which in range(3):
        assert _passes(exercise, right(exercise, which))


def _passes(exercise: str, text: str) -> bool:
    names: dict[str, object] = {"__name__": "__main__"}
    exec(
        "import torch.nn.functional as F\nfrom lesson_lib.dit import *\n" + "\n".join(REGISTRY[exercise].needs()), names
    )
    exec(text, names)
    return examine(REGISTRY[exercise], names[REGISTRY[exercise].name]).passed


def test_ordinary_hand_ins_are_the_same_for_a_seed_and_all_kinds_occur(tmp_path: Path) -> None:
    first, again, other = ordinary(20, 1), ordinary(20, 1), ordinary(20, 2)
    for name, entries in (("first", first), ("again", again), ("other", other)):
        for entry in entries:
            (tmp_path / name / entry.place).mkdir(parents=True)
            entry.build(tmp_path / name / entry.place)
    assert _digests(tmp_path / "first") == _digests(tmp_path / "again")
    assert _digests(tmp_path / "first") != _digests(tmp_path / "other")
    assert [entry.honest for entry in first] == [entry.honest for entry in again]
    solved = [len(entry.honest) for entry in first]
    assert min(solved) < 4
    assert max(solved) == len(EXERCISES)
