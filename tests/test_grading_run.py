"""Whole runs of the grader from the command line: grades, resuming, repeating, and what it refuses."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from sandboxes import needs_bwrap

from lesson_lib import ROOT
from lesson_lib.build.__main__ import Builder
from lesson_lib.exercises import REGISTRY
from lesson_lib.grading.__main__ import main
from lesson_lib.grading.marks import Mark, Notebook

EXERCISES = [key for key, exercise in REGISTRY.items() if exercise.lesson == "07"]
WORTH = {key: REGISTRY[key].points for key in EXERCISES}


def notebooks() -> dict[str, bytes]:
    """Return lesson 07 as handed out, and solved."""
    builder = Builder()
    [path] = builder.lessons("07")
    return {kind: json.dumps(builder.build(path, kind)).encode() for kind in ("student", "solved")}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def handed_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six hand-ins: three solved, one half solved, one empty, one that is no notebook."""
    folder = tmp_path_factory.mktemp("class") / "submissions"
    kinds = notebooks()
    half = json.loads(kinds["solved"])
    given = {cell["metadata"].get("name"): cell for cell in json.loads(kinds["student"])["cells"]}
    for cell in half["cells"]:
        name = cell["metadata"].get("name", "")
        if name.startswith("exercise-") and EXERCISES.index(name.removeprefix("exercise-")) >= 3:
            cell["source"] = given[name]["source"]
    files = {"Ada": kinds["solved"], "Bo": kinds["solved"], "Cy": kinds["solved"], "Di": json.dumps(half).encode()}
    for name, data in {**files, "Eve": kinds["student"], "Flo": b"not a notebook"}.items():
        path = folder / name / "07_adaln.ipynb"
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    return folder


def grader(*arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lesson_lib.grading", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=250, **more)


def table(out: Path) -> dict[str, dict[str, str]]:
    with (out / "grades.csv").open(encoding="utf-8-sig", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def tree(folder: Path) -> dict[str, tuple[int, str]]:
    """Return every file below a folder with its time and digest."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def graded(handed_in: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The class after one run; nothing but OUT has changed."""
    out = tmp_path_factory.mktemp("graded") / "out"
    before = tree(handed_in)
    done = grader("grade", handed_in, "--lesson", "07", "--out", out, "--jobs", 2, "--seed", 11)
    assert done.returncode == 0, done.stderr
    assert tree(handed_in) == before
    return out


@needs_bwrap
@pytest.mark.slow
def test_everybody_gets_what_they_deserve(graded: Path) -> None:
    rows = table(graded)
    assert list(rows) == ["Ada", "Bo", "Cy", "Di", "Eve", "Flo"]
    for name, solved in {"Ada": 7, "Bo": 7, "Cy": 7, "Di": 3, "Eve": 0, "Flo": 0}.items():
        points = {key: float(rows[name][key]) for key in EXERCISES}
        assert points == {key: WORTH[key] * (place < solved) for place, key in enumerate(EXERCISES)}, name
    report = (graded / "class.html").read_text()
    assert "not JSON" in report


@needs_bwrap
@pytest.mark.slow
def test_students_learn_what_failed_and_no_numbers(graded: Path) -> None:
    keys = {row["name"]: row["key"] for row in table(graded).values()}
    page = (graded / "students" / f"{keys['Di']}.html").read_text()
    assert "as it was handed out" in page
    results = json.loads((graded / "students" / f"{keys['Ada']}.results.json").read_text())
    assert results["score"] == sum(WORTH.values())
    assert (graded / "log").is_dir()


@needs_bwrap
@pytest.mark.slow
def test_a_run_can_be_repeated_exactly(graded: Path, handed_in: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    done = grader("grade", handed_in, "--lesson", "07", "--out", again, "--jobs", 1, "--seed", 11)
    assert done.returncode == 0, done.stderr
    assert (again / "grades.csv").read_bytes() == (graded / "grades.csv").read_bytes()
    for path in sorted((graded / "log").glob("*.json")):
        one, other = (Notebook.from_json((out / "log" / path.name).read_text()) for out in (graded, again))
        assert [(m.exercise, m.status, m.rung, m.detail) for m in one.marks] == [
            (m.exercise, m.status, m.rung, m.detail) for m in other.marks
        ]


@needs_bwrap
@pytest.mark.slow
def test_killed_in_the_middle_and_resumed(graded: Path, handed_in: Path, tmp_path: Path) -> None:
    """Same grades, no notebook twice, and nothing of the killed run is left running."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "lesson_lib.grading", "grade", str(handed_in), "--lesson", "07", "--out", str(out)]
    command += ["--jobs", "1", "--seed", "11"]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL) as run:
        deadline = time.monotonic() + 120
        while len(list((out / "log").glob("*.json"))) < 2:
            assert time.monotonic() < deadline
            assert run.poll() is None
            time.sleep(0.05)
        run.kill()
    before = {path.name: path.stat().st_mtime_ns for path in (out / "log").glob("*.json")}
    assert 2 <= len(before) < 6
    assert not (out / "grades.csv").exists()
    refused = grader("grade", handed_in, "--lesson", "07", "--out", out)
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    done = grader("grade", handed_in, "--lesson", "07", "--out", out, "--jobs", 2, "--resume")
    assert done.returncode == 0, done.stderr
    assert {name: (out / "log" / name).stat().st_mtime_ns for name in before} == before
    assert table(out) == table(graded)
    _wait_until_gone(run.pid)


def _wait_until_gone(session: int) -> None:
    import psutil

    deadline = time.monotonic() + 30
    while True:
        left = []
        for process in psutil.process_iter():
            try:
                left += [process] if os.getsid(process.pid) == session else []
            except (OSError, psutil.Error):
                continue
        if not left:
            return
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


@needs_bwrap
@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done(handed_in: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "lesson_lib.grading", "grade", str(handed_in), "--lesson", "07", "--out", str(out)]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True) as run:
        while not list((out / "log").glob("*.json")):
            assert run.poll() is None
            time.sleep(0.05)
        os.killpg(run.pid, signal.SIGINT)
        assert run.wait(60) == 130
        assert run.stderr is not None
        assert "--resume" in run.stderr.read()


@needs_bwrap
@pytest.mark.slow
def test_a_zip_a_roster_and_a_rubric(handed_in: Path, tmp_path: Path) -> None:
    archive = tmp_path / "class.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(handed_in / "Ada" / "07_adaln.ipynb", "Ada/07_adaln.ipynb")
    roster, rules = tmp_path / "roster.csv", tmp_path / "rubric.toml"
    roster.write_text("name,id,email\nAda,12345,ada@example.org\nZoe,12346,zoe@example.org\n")
    rules.write_text('[points]\n"dit.modulate" = 10\n')
    out = tmp_path / "out"
    done = grader("grade", archive, "--lesson", "07", "--out", out, "--roster", roster, "--rubric", rules)
    assert done.returncode == 0, done.stderr
    rows = table(out)
    assert float(rows["Ada"]["dit.modulate"]) == 10
    assert float(rows["Zoe"]["total"]) == 0
    rules.write_text('[points]\n"dit.modulate" = 4\n')
    before = {path.name: path.stat().st_mtime_ns for path in (out / "log").iterdir()}
    assert main(["report", str(out), "--rubric", str(rules)]) == 0
    assert float(table(out)["Ada"]["dit.modulate"]) == 4
    assert {path.name: path.stat().st_mtime_ns for path in (out / "log").iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["grade", "{nowhere}", "--lesson", "07", "--out", "{out}"], "is not there"),
        (["grade", "{full}", "--lesson", "99", "--out", "{out}"], "no lesson '99'"),
        (["grade", "{full}", "--lesson", "07", "--out", "{full}/out"], "inside the submissions"),
        (["grade", "{full}", "--lesson", "07", "--out", "{full2}"], "not empty"),
        (["grade", "{full}", "--lesson", "07", "--out", "{out}", "--rubric", "{nowhere}"], "cannot be read"),
        (["report", "{full}"], "holds no run"),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {name: tmp_path / name for name in ("nowhere", "full", "full2", "out")}
    for name in ("full", "full2"):
        places[name].mkdir()
        (places[name] / "x.txt").write_text("x")
    assert main([argument.format(**places) for argument in arguments]) == 2
    assert words in capsys.readouterr().err
    assert not places["out"].exists()


def test_no_isolation_warns_loudly(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = grader("grade", tmp_path / "empty", "--lesson", "07", "--out", tmp_path / "out", "--isolation", "none")
    assert done.returncode == 0, done.stderr
    assert "all your rights" in done.stderr


def test_a_mark_of_an_unknown_status_is_refused() -> None:
    with pytest.raises(ValueError, match="must be one of"):
        Mark("dit.modulate", "perhaps")
    with pytest.raises(ValueError, match="no record"):
        Notebook.from_json('{"marks": []}')
