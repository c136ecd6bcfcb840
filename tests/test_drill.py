"""The Colab drill, with small courses: it is green where all is well, and sees each thing that must not happen."""

import datetime
import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import nbformat
import pytest

from lesson_lib import ROOT, widgets
from lesson_lib.build.readme import put_block
from lesson_lib.build.repository import Repository
from lesson_lib.build.sources import BuildError
from lesson_lib.delivery import DeliveryError, drill, kernel_start, lesson_run, origin
from lesson_lib.delivery.colab import PINS, read_pins
from lesson_lib.exercises import LESSONS

REPOSITORY = Repository("ada/course")
START_LESSON = """
import warnings

def start_lesson(lesson):
    print("Lesson", lesson)
    warnings.warn("something is old", DeprecationWarning, stacklevel=2)
"""
FORK = """
import sys
from lesson_lib import ROOT
from lesson_lib.build.fork import fork

fork(ROOT, sys.argv[2])
"""
TIDY = """
import os, pathlib, sys, tempfile
assert "google.colab" in sys.modules and "COURSE_REPO" not in os.environ and os.environ["LESSON_BUDGET"] == "smoke"
pathlib.Path("mine.txt").write_text("kept")
with tempfile.TemporaryDirectory() as folder:
    pathlib.Path(folder, "a").touch()
from IPython import get_ipython
get_ipython()
"""


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=trunk")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True)


def notebook(number: str, *cells: str, setup: str = "") -> nbformat.NotebookNode:
    """A lesson with its link, its set-up cell and more cells, each with a tag by which some tools let it raise."""
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"# Open on {REPOSITORY.colab(number)}")])
    for i, source in enumerate((setup or REPOSITORY.setup_cell(number), *cells)):
        metadata = {"name": f"cell-{i}" if i else "setup", "tags": ["raises-exception"]}
        made.cells.append(nbformat.v4.new_code_cell(source, metadata=metadata))
    return made


def make_course(root: Path, notebooks: dict[str, nbformat.NotebookNode], **files: str) -> Path:
    """Commit a course that is small, and whose library is the real one as far as forks need it."""
    library = root / "lesson_lib"
    (library / "build").mkdir(parents=True)
    (root / "notebooks").mkdir()
    shutil.copy(ROOT / "lesson_lib" / "__init__.py", library)
    for name in ("__init__", "fork", "repository", "sources"):
        shutil.copy(ROOT / "lesson_lib" / "build" / f"{name}.py", library / "build")
    (library / "build" / "__main__.py").write_text(FORK)
    (library / "setup.py").write_text(START_LESSON)
    (library / "repository.txt").write_text(REPOSITORY.address + "\n")
    (root / "README.md").write_text(f"<!-- course:x -->[open]({REPOSITORY.address})<!-- /course:x -->\n")
    for number, made in notebooks.items():
        nbformat.write(made, root / "notebooks" / f"{number}_small.ipynb")
    for name, text in files.items():
        (root / f"{name}.md").write_text(text)
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "course")
    return root


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_course(tmp_path_factory.mktemp("good"), {"00": notebook("00", TIDY)})


@pytest.fixture(scope="module")
def wall() -> str:
    found = lesson_run.bubblewrap()
    if found is None:
        pytest.skip("bubblewrap is not here or does not work")
    return found


# A drill that is green


def test_a_good_course_is_green_and_only_what_is_committed_counts(
    good: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COURSE_REPO", "https://example.org/nothing")
    stray = good / "lesson_lib" / "broken.py"
    stray.write_text("def")
    done = drill.drill(None, python=Path(sys.executable), root=good)
    stray.unlink()
    assert done.green, done.lines()
    assert [(run.number, run.cells) for run in done.runs] == [("00", 2)]
    assert "not drilled, since not committed: lesson_lib/broken.py" in capsys.readouterr().err
    [(cell, line)] = done.runs[0].warnings
    assert (cell, line.split(": ", 1)[1]) == ("setup", "DeprecationWarning: something is old")
    report = "\n".join(done.lines())
    assert "warnings that learners see: 1" in report
    assert done.lines()[-1].startswith("1 lessons, 2 cells, ")
    assert done.lines()[-1].endswith(": green")


def test_a_fork_is_green_and_one_address_left_behind_is_found(good: Path, tmp_path: Path) -> None:
    made = {"00": notebook("00", f"# see {REPOSITORY.address}")}
    left = make_course(tmp_path / "left", made, guide="one\ngit clone git@github.com:ada/course.git\n")
    done = drill.drill(["0"], python=Path(sys.executable), root=left, fork="bob/his-course", wall="")
    assert done.origin.repository == Repository("bob/his-course")
    assert done.runs[0].broke == ()  # its set-up cell asks for the fork's address, and no other is served
    assert not done.green
    first, second = done.troubles
    assert first == "guide.md:2 still leads to ada/course: git clone git@github.com:ada/course.git"
    assert second.startswith("notebooks/00_small.ipynb:")
    (tmp_path / "base").mkdir()
    cloned = origin.make_origin(good, tmp_path / "base", "bob/his-course")
    assert origin.foreign_addresses(cloned.tree, REPOSITORY, cloned.repository) == []
    assert origin.foreign_addresses(cloned.tree, REPOSITORY, Repository("eve/other")) == [
        "notebooks/00_small.ipynb has no link that opens it on Colab from eve/other"
    ]


@pytest.mark.parametrize(
    ("line", "page", "code"),
    [
        ("https://ada.github.io/course/", True, True),
        ("raw.githubusercontent.com/ada/course/main/x.png", True, True),
        ("git@github.com:ADA/Course.git", True, True),
        ("repository: ada/course", True, False),
        ("ada/course-two and ada/course.js and madada/course", False, False),
    ],
)
def test_which_addresses_are_the_old_ones(tmp_path: Path, line: str, page: bool, code: bool) -> None:
    (tmp_path / "tests").mkdir()
    for name in ("code.py", "page.md", "tests/page.md"):  # no learner meets what the tests name
        (tmp_path / name).write_text(line)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    told = origin.foreign_addresses(tmp_path, REPOSITORY, Repository("bob/his"))
    assert [sentence.split(" ")[0] for sentence in told] == ["code.py:1"] * code + ["page.md:1"] * page


# What a notebook must not do, seen from inside the kernel alone

HABITS = """
import os, pathlib, socket, subprocess, sys
pathlib.Path.home().joinpath("notes.txt").write_text("x")
os.mkdir("../stray")
try:
    socket.create_connection(("192.0.2.1", 9), 0.2)
except OSError:
    pass
subprocess.run([sys.executable, "-m", "pip", "--version"])
open("03_small.ipynb", "a").write(" ");
"""
BROKEN = {
    "01": notebook("01", setup=Repository("someone/else").setup_cell("01")),
    "02": notebook("02", "1", "1 / 0", "2"),
    "03": notebook("03", HABITS),
    "04": notebook("04", "import os; os._exit(1)"),
}
SEEN = {
    "01": ["cell 'setup' raised CalledProcessError: "],
    "02": ["cell 'cell-2' raised ZeroDivisionError: division by zero"],
    "03": [
        "it wrote outside its folder: open /",
        "it wrote outside its folder: os.mkdir /",
        "it asked for the network: socket.getaddrinfo 192.0.2.1",
        "it asked for the network: socket.connect 192.0.2.1:9",
        "it installs or fetches something: ",
        "it left notes.txt in the home folder",
        "it left stray beside its folder",
        "the notebook's file was changed",
    ],
    "04": ["the kernel died at cell 'cell-1'", "its kernel left no record of its end"],
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> drill.Drill:
    """A drill of all of these without a sandbox; one of them also changes what is installed, behind Python's back."""
    folder = tmp_path_factory.mktemp("packages")
    BROKEN["03"].cells[-1].source += f"\nsubprocess.run(['touch', {str(folder / 'new.py')!r}]);"
    root = make_course(tmp_path_factory.mktemp("broken"), BROKEN)
    seen = lesson_run.look_at(Path(sys.executable))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            drill, "look_at", lambda python: lesson_run.Environment(seen.python, seen.version, seen.packages, (folder,))
        )
        return drill.drill(None, python=Path(sys.executable), root=root, wall="")


@pytest.mark.parametrize("number", SEEN)
def test_what_must_not_happen_is_seen(broken: drill.Drill, number: str) -> None:
    [run] = [run for run in broken.runs if run.number == number]
    assert len(run.broke) == len(SEEN[number]), run.broke
    for sentence, start in zip(run.broke, SEEN[number], strict=True):
        assert sentence.startswith(start)
    assert run.line().split("  ")[-1] == run.broke[0].splitlines()[0]


def test_a_failing_cell_ends_the_lesson_and_shows_the_end_of_its_traceback(broken: drill.Drill) -> None:
    run = broken.runs[1]
    assert run.cells == 2
    assert run.broke[0].splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert "\x1b" not in run.broke[0]


def test_an_installation_is_seen_whoever_made_it(broken: drill.Drill) -> None:
    assert not broken.green
    [trouble] = broken.troubles
    assert trouble.startswith("1 files of the environment changed, ")
    assert trouble.endswith("new.py for one")
    assert broken.lines()[-1].endswith("audit hook: not green (4 lessons, 1 other troubles)")


# What the kernel cannot see, and the sandbox does not let through


CHILDREN = """
import subprocess, sys
lines = ("open('../stray', 'w')", "import socket; socket.create_connection(('192.0.2.1', 9), 5)")
said = [subprocess.run([sys.executable, "-c", line], capture_output=True, text=True).stderr for line in lines]
raise OSError(" and ".join(text.splitlines()[-1] for text in said))
"""


def test_processes_cannot_leave_the_sandbox(wall: str, tmp_path: Path) -> None:
    root = make_course(tmp_path, {"00": notebook("00", CHILDREN)})
    [run] = drill.drill(None, python=Path(sys.executable), root=root, wall=wall).runs
    [told] = run.broke
    assert "Read-only file system" in told
    assert "Network is unreachable" in told


# The watcher


def test_a_library_from_elsewhere_is_seen(tmp_path: Path) -> None:
    record = {"kind": "library", "what": "/somewhere/lesson_lib/__init__.py"}
    [told] = lesson_run.judge_record(json.dumps(record), tmp_path)
    assert told.startswith("lesson_lib came from /somewhere")


def test_the_watcher_follows_links_and_handles(tmp_path: Path) -> None:
    inside, outside, record = tmp_path / "in", tmp_path / "out", tmp_path / "record"
    script = f"""
import os, sqlite3, sys
sys.path.insert(0, {str(ROOT / "lesson_lib" / "delivery")!r})
import kernel_start
inside, outside = {str(inside)!r}, {str(outside)!r}
os.mkdir(inside), os.mkdir(outside)
os.symlink(outside + "/target", inside + "/link")
open(outside + "/old", "w").close()
kernel_start.watch({str(record)!r}, [inside])
open(inside + "/fine", "w").close()
open(outside + "/old").close()
open("/dev/null", "w").close()
os.makedirs(outside, exist_ok=True)
sqlite3.connect(":memory:").close()
os.remove(inside + "/fine")
open(inside + "/link", "w").close()
os.remove(inside + "/link")
handle = os.open(outside, os.O_RDONLY)
os.mkdir("new", dir_fd=handle)
os.rename(outside + "/old", inside + "/moved")
sqlite3.connect(outside + "/base").close()
os.chmod(handle, 0o700)
os.chdir(outside)
os.open("relative", os.O_CREAT)
"""
    subprocess.run([sys.executable, "-I", "-c", script], check=True)
    seen = [json.loads(line)["what"].split(" ") for line in record.read_text().splitlines()]
    assert [(event, Path(path).relative_to(outside.resolve()).name) for event, path in seen] == [
        ("open", "target"),
        ("os.mkdir", "new"),
        ("os.rename", "old"),
        ("sqlite3.connect", "base"),
        ("open", "relative"),
    ]


@pytest.mark.parametrize(
    ("command", "unwanted"),
    [
        ("/usr/bin/python3 -m pip install x", True),
        ("/bin/sh -c 'pip3 install x'", True),
        ("apt-get update", True),
        ("/opt/bin/wget https://example.org", True),
        ("git clone --quiet --depth 1 https://github.com/ada/course course", False),
        ("uname -p", False),
        ("python -c 'import pipeline, captain'", False),
    ],
)
def test_which_processes_are_unwanted(tmp_path: Path, command: str, unwanted: bool) -> None:
    library = json.dumps({"kind": "library", "what": f"{tmp_path}/course/lesson_lib/__init__.py"})
    record = json.dumps({"kind": "process", "what": command}) + "\n" + library
    told = lesson_run.judge_record(record, tmp_path)
    assert told == ([f"it installs or fetches something: {command}"] if unwanted else [])


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), (b"LOCALHOST.", True), ("::1", True), ("127.com.example.org", False)]
)
def test_which_hosts_are_local(host: str | bytes, local: bool) -> None:
    assert kernel_start.is_local(host) is local


def test_the_stand_in_leads_the_library_as_colab_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("google", "google.colab"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))  # so that it is put back
        del sys.modules[name]
    monkeypatch.delenv("LESSON_HEADLESS", raising=False)
    assert not widgets.front_end()
    kernel_start.stand_in_for_colab()
    assert widgets.front_end()
    import google.colab

    with pytest.raises(ImportError):
        from google.colab import userdata  # noqa: F401
    assert google.colab.__spec__.name == "google.colab"


# The sources


def test_sources_compile_with_each_python_and_leave_nothing(tmp_path: Path) -> None:
    for name, text in {"good.py": "x = 1\n", "bad.py": "x = 1\ndef", "odd.py": "1 is 1\n", "none.txt": "def"}.items():
        (tmp_path / name).write_text(text)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    before = sorted(tmp_path.iterdir())
    odd, bad = sorted(origin.compile_sources(tmp_path, {"3.x": Path(sys.executable)}), key=lambda line: "bad" in line)
    assert bad == "Python 3.x: bad.py:2: invalid syntax"
    assert odd.startswith('Python 3.x: odd.py:1: "is" with')
    assert sorted(tmp_path.iterdir()) == before


def test_pythons_that_only_look_like_one_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, name, code in (
        ("shims", "python3.12", "exit 127"),
        ("bin", "python3.12", "echo 3.12"),
        ("bin", "python3.11", "echo 3.9"),
        ("pyenv/versions/3.13.0/bin", "python", "echo 3.13"),
    ):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / name).write_text(f"#!/bin/sh\n{code}\n")
        (tmp_path / folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path / "shims"), str(tmp_path / "bin")]))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    assert origin.find_pythons() == {
        "3.12": tmp_path / "bin" / "python3.12",
        "3.13": tmp_path / "pyenv" / "versions" / "3.13.0" / "bin" / "python",
    }


# What cannot be drilled


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"lessons": ["00", "7"]}, "there is no notebook of lesson 07; there are 00"),
        ({"fork": "no-slash"}, "write owner/name"),
        ({"fork": "ada/course"}, "is this repository itself"),
        ({"python": Path("/nowhere/python")}, "environment .venv-colab makes it"),
        ({"root": Path("/")}, "is no git checkout"),
    ],
)
def test_what_cannot_be_drilled_gets_a_sentence(good: Path, change: dict, sentence: str) -> None:
    given = {"lessons": None, "python": Path(sys.executable), "root": good, "wall": "", **change}
    with pytest.raises(DeliveryError, match=sentence):
        drill.drill(given.pop("lessons"), **given)


# The record


def finished(version: str = "9.9", broke: tuple[str, ...] = ()) -> drill.Drill:
    """A drill as it would be with Colab's packages, but for ipykernel's version and what broke."""
    packages = {**read_pins(PINS), "torch": "1.0+cpu", "ipykernel": version}
    cloned = origin.Origin(Path(), Path(), REPOSITORY, "0" * 40)
    run = lesson_run.LessonRun("00_small.ipynb", 61.25, 7, broke, ())
    environment = lesson_run.Environment(Path(), "3.11.7", packages, ())
    return drill.Drill(cloned, environment, (run,), 1, ("3.11",), (), "bubblewrap and audit hook", 62.5)


@pytest.mark.parametrize(
    ("done", "words", "status", "recorded"),
    [
        (finished(read_pins(PINS)["ipykernel"]), [], 0, True),
        (finished(read_pins(PINS)["ipykernel"]), ["00"], 0, False),
        (finished(read_pins(PINS)["ipykernel"]), ["--fork", "bob/his"], 0, False),
        (finished(read_pins(PINS)["ipykernel"], ("it broke",)), [], 1, False),
        (finished("9.9"), [], 0, False),
    ],
)
def test_only_a_green_drill_of_everything_with_colabs_packages_is_recorded(
    done: drill.Drill, words: list[str], status: int, recorded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import argparse

    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("before\n<!-- course:drill -->\nstale\n<!-- /course:drill -->\nafter\n")
    monkeypatch.setattr(drill, "ROOT", tmp_path)
    monkeypatch.setattr(drill, "drill", lambda *given, **more: done)
    parser = argparse.ArgumentParser()
    drill.arguments(parser)
    assert drill.main(parser.parse_args(words)) == status
    assert (tmp_path / "docs" / "drill.json").exists() is recorded
    text = (tmp_path / "README.md").read_text()
    assert ("stale" in text) is not recorded
    if recorded:
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        told = " ".join(text.split())
        assert f"On {today} the Colab drill (`make drill`) ran all 7 code cells of the 1 lessons in 1 min 02 s" in told
        assert "nothing installed, with the network cut off." in told
        assert "torch 1.0, where Colab has 2.11.0; every source also compiles with Python 3.11." in told
        assert text.startswith("before\n")
        assert text.endswith("\nafter\n")


def test_the_record_has_every_lesson_and_the_readme_says_what_it_says() -> None:
    record = json.loads((ROOT / "docs" / "drill.json").read_text())
    assert set(record["lessons"]) == set(LESSONS), "drill all lessons again: make drill"
    readme = (ROOT / "README.md").read_text()
    told = put_block(readme, "drill", drill.sentences(record))
    assert readme == told, "the README's block on the drill is not docs/drill.json's"


def test_a_readme_without_a_place_for_the_date_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("<!-- course:drill -->")
    with pytest.raises(BuildError, match="has no place"):
        drill.write_record(tmp_path, json.loads((ROOT / "docs" / "drill.json").read_text()))
    assert not (tmp_path / "docs").exists()
