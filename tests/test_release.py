"""What instructors hand out: packed notebooks without a solution, and a class to try the grader with."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from lesson_lib import ROOT
from lesson_lib.build.__main__ import Builder
from lesson_lib.build.release import release, solved_exercises
from lesson_lib.build.sources import BuildError
from lesson_lib.exercises import LESSONS, REGISTRY
from lesson_lib.grading.practice import practice


def test_a_release_holds_the_notebooks_and_their_checksums(tmp_path: Path) -> None:
    notebooks = sorted((ROOT / "notebooks").glob("0[56]_*.ipynb"))
    digests = [release(notebooks, Builder().course, tmp_path / name) for name in ("one.zip", "two.zip")]
    assert digests[0] == digests[1] == hashlib.sha256((tmp_path / "one.zip").read_bytes()).hexdigest()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert sorted(archive.namelist()) == [
            "SHA256SUMS",
            "START.md",
            *(f"notebooks/{path.name}" for path in notebooks),
        ]
        for line in archive.read("SHA256SUMS").decode().splitlines():
            digest, name = line.split("  ")
            assert hashlib.sha256(archive.read(name)).hexdigest() == digest
        start = archive.read("START.md").decode()
    assert all(LESSONS[path.name[:2]].question in start for path in notebooks)


def test_a_solved_notebook_is_not_handed_out(tmp_path: Path) -> None:
    builder = Builder()
    [path] = builder.lessons("07")
    solved = builder.build(path, "solved")
    assert solved_exercises(solved) == [key for key, exercise in REGISTRY.items() if exercise.lesson == "07"]
    (tmp_path / "07_adaln.ipynb").write_text(json.dumps(solved))
    with pytest.raises(BuildError, match=r"dit\.modulate"):
        release([tmp_path / "07_adaln.ipynb"], builder.course, tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_no_committed_notebook_holds_a_solution(path: Path) -> None:
    assert solved_exercises(json.loads(path.read_text())) == []


def test_an_invented_class_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    one, two, other = (practice(tmp_path / name, "07", 5, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    texts = [[path.read_text() for path in paths] for paths in (one, two, other)]
    assert texts[0] == texts[1] != texts[2]
    assert len(set(texts[0])) > 1
    assert [path.parent.name for path in one] == [path.parent.name for path in two]
    with pytest.raises(ValueError, match="not empty"):
        practice(tmp_path / "a", "07", 5)
    with pytest.raises(ValueError, match="no lesson '77'"):
        practice(tmp_path / "d", "77", 5)
    with pytest.raises(ValueError, match="not for 1000"):
        practice(tmp_path / "e", "07", 1000)
