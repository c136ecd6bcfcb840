"""The builder: directives, ids, errors, freshness, forks, outputs, and the set-up cell as on Colab."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import torch

from lesson_lib import ROOT
from lesson_lib.build.__main__ import Builder
from lesson_lib.build.execute import clean_outputs, execute, refuse_oversize, to_html
from lesson_lib.build.expand import Course, expand
from lesson_lib.build.fork import fork
from lesson_lib.build.names import NameClash, Names
from lesson_lib.build.readme import restamp_readme
from lesson_lib.build.repository import SETUP_NAME, Repository
from lesson_lib.build.sources import BuildError, find_lessons, read_lesson
from lesson_lib.build.stale import differences, keep_outputs, orphans, write
from lesson_lib.exercises.core import Case, Exercise, LessonCard, Mistake, Prose, Question

LESSON = """\
# %% [markdown] title_card="07"
# # 7 · A small lesson
#
# *Does the builder work?*

# %% name="setup" lesson="07"
from lesson_lib.setup import start_lesson

# %% name="imports"
import torch

from lesson_lib.exercises import check, predict

# %% [markdown]
# ## First words

# %% name="guess"
predict("small.q1")

# %% [markdown] exercise_card="noise.add_noise"
# ### Exercise 7.1 · Add noise
#
# Mix the two.

# %% exercise="noise.add_noise"
from lesson_lib.noise import add_noise

# %% name="check-add_noise"
add_noise = check("noise.add_noise", add_noise)

# %% [markdown] hints="noise.add_noise"
# idea: Two square roots.
# pseudo-code: root of alpha_bar times x0
#   plus the other root times noise
# most common error: forgetting the root.

# %% [markdown] exercise_card="small.bug"
# ### Exercise 7.2 · Find the bug
#
# One line is wrong.

# %% exercise="small.bug"
from lesson_lib.noise import v_target

# %% name="check-bug" tags=["mine"]
v_target = check("small.bug", v_target)

# %% [markdown] hints="small.bug"
# idea: Look at the sign.
# pseudo-code: minus
# most common error: plus.

# %% source="embed.TimeEmbedder"
from lesson_lib.embed import TimeEmbedder

# %% [markdown]
# ## First words
"""


def wrong_sign(x0: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    return alpha_bar * noise + x0


def make_exercise(key: str, number: int, **more: object) -> Exercise:
    mistake = Mistake("wrong sign", wrong_sign, "The sign is wrong.")
    case = {"case": lambda generator, size: Case(), "mistakes": [mistake]}
    card = {"lesson": "07", "number": number, "title": key, "points": number, "minutes": 10, "difficulty": 2}
    return Exercise(id=key, **{**card, **case, **more})  # type: ignore[arg-type]


def make_course(slug: str = "OWNER/REPO") -> Course:
    bug = make_exercise("small.bug", 2, reference="noise.v_target", broken="wrong sign")
    card = LessonCard("07", "small", "A small lesson", "Does the builder work?", 20, ("00", "02"), 3, 2)
    return Course(
        {"noise.add_noise": make_exercise("noise.add_noise", 1), "small.bug": bug},
        {
            "small.q1": Question(id="small.q1", lesson="07", text="Does it?"),
            "small.p1": Prose(id="small.p1", lesson="07", text="Why?", points=2, rubric=["because"]),
        },
        {"07": card},
        Repository(slug),
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("lessons", "notebooks", "lesson_lib"):
        (tmp_path / folder).mkdir()
    (tmp_path / "lessons" / "07_small.py").write_text(LESSON)
    (tmp_path / "lesson_lib" / "repository.txt").write_text("https://github.com/OWNER/REPO\n")
    return tmp_path


def build(root: Path, text: str = LESSON, edition: str = "student", course: Course | None = None):
    (root / "lessons" / "07_small.py").write_text(text)
    return expand(read_lesson(root / "lessons" / "07_small.py"), course or make_course(), edition)  # type: ignore[arg-type]


def by_name(notebook) -> dict[str, str]:
    return {cell.metadata.get("name", cell.source.splitlines()[0]): cell.source for cell in notebook.cells}


# What the directives give


def test_title_card_holds_link_minutes_points_prerequisites_and_glossary(root: Path) -> None:
    title = build(root).cells[0].source
    assert title.startswith("# 7 · A small lesson")
    assert "https://colab.research.google.com/github/OWNER/REPO/blob/main/notebooks/07_small.ipynb" in title
    for words in ("20 minutes", "3 points + 2 for answers in words", "after lessons 0 and 2"):
        assert words in title
    assert "00_start_here.ipynb#Notation-and-glossary" in title
    assert "![" not in title


def test_setup_cell_is_short_installs_nothing_and_names_the_lesson(root: Path) -> None:
    setup = by_name(build(root))["setup"]
    assert len(setup.splitlines()) <= 8
    assert "pip" not in setup
    assert 'start_lesson("07")' in setup
    assert "https://github.com/OWNER/REPO" in setup


def test_exercise_is_a_stub_for_students_and_the_source_when_solved(root: Path) -> None:
    student, solved = by_name(build(root)), by_name(build(root, edition="solved"))
    assert "raise NotImplementedError" in student["exercise-noise.add_noise"]
    assert "raise NotImplementedError" not in solved["exercise-noise.add_noise"]
    assert "def add_noise(" in solved["exercise-noise.add_noise"]
    assert "from lesson_lib.noise import add_noise" not in student["exercise-noise.add_noise"]


def test_debugging_exercise_shows_the_broken_code_to_students_only(root: Path) -> None:
    student, solved = by_name(build(root)), by_name(build(root, edition="solved"))
    assert "return alpha_bar * noise + x0" in student["exercise-small.bug"]
    assert "return alpha_bar * noise + x0" not in solved["exercise-small.bug"]


def test_both_editions_differ_in_exercise_cells_only(root: Path) -> None:
    student, solved = build(root).cells, build(root, edition="solved").cells
    assert [cell.id for cell in student] == [cell.id for cell in solved]
    differ = {a.metadata.name for a, b in zip(student, solved, strict=True) if a.source != b.source}
    assert differ == {"exercise-noise.add_noise", "exercise-small.bug"}


@pytest.mark.parametrize("edition", ["student", "solved"])
def test_cells_from_the_library_bring_the_imports_they_lack(root: Path, edition: str) -> None:
    cells = by_name(build(root, edition=edition))
    names: dict[str, object] = {}
    for name in ("imports", "exercise-noise.add_noise", "exercise-small.bug", "source-embed.TimeEmbedder"):
        code = cells[name].replace("from lesson_lib.exercises import check, predict", "")
        exec(compile(code, name, "exec"), names)
    assert isinstance(names["TimeEmbedder"], type)
    assert "import torch\n" not in cells["exercise-noise.add_noise"]
    assert cells["exercise-noise.add_noise"].count("from torch import Tensor") == 1
    assert "Tensor" not in cells["exercise-small.bug"].split("def ")[0]


def test_exercise_card_holds_points_minutes_difficulty(root: Path) -> None:
    card = by_name(build(root))["### Exercise 7.1 · Add noise"]
    assert card == "### Exercise 7.1 · Add noise\n\n**1 point · 10 minutes · ●●○**\n\nMix the two."


def test_hints_become_three_folds_and_a_pointer_to_the_library(root: Path) -> None:
    [hints, _] = [cell.source for cell in build(root).cells if "<details>" in cell.source]
    summaries = re.findall(r"<summary>(.*?)</summary>", hints)
    assert summaries[:3] == ["Hint 1 · the idea", "Hint 2 · in pseudo-code", "Hint 3 · the most common error"]
    assert hints.count("<details>") == hints.count("</details>") == 4
    assert "plus the other root" in hints
    assert "lesson_lib/noise.py" in hints


def test_tags_and_names(root: Path) -> None:
    cells = {cell.metadata.name: cell for cell in build(root).cells if cell.cell_type == "code"}
    assert cells["exercise-noise.add_noise"].metadata.tags == ["exercise"]
    assert cells["check-bug"].metadata.tags == ["check", "mine"]
    assert cells["guess"].metadata == {"name": "guess"}


# Builds do not change by themselves


def test_two_builds_are_byte_identical_and_carry_the_least_metadata(root: Path) -> None:
    first, second = write(build(root)), write(build(root))
    assert first == second
    notebook = json.loads(first)
    assert notebook["metadata"].keys() == {"kernelspec", "language_info"}
    assert notebook["metadata"]["language_info"] == {"name": "python"}
    assert all(set(cell["metadata"]) <= {"name", "tags"} for cell in notebook["cells"])


def test_ids_are_valid_unique_and_stay_when_a_cell_is_inserted(root: Path) -> None:
    before = [cell.id for cell in build(root).cells]
    assert len(set(before)) == len(before)
    assert all(re.fullmatch(r"[a-zA-Z0-9-_]{1,64}", key) for key in before)
    extra = '# %% [markdown]\n# A new remark.\n\n# %% name="new"\n1 + 1\n\n# %% [markdown]\n# ## First words\n'
    after = [cell.id for cell in build(root, LESSON.replace("# %% [markdown]\n# ## First words\n", extra, 1)).cells]
    assert [key for key in after if key in before] == before
    assert len(after) == len(before) + 2


# Errors are sentences with file and line


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('# %% name="imports"', "# %%", r"07_small.py:9: a code cell needs a name="),
        ('name="guess"', 'name="imports"', r"07_small.py:17: name='imports' stands on line 9 already"),
        ('name="guess"', 'nme="guess"', r"07_small.py:17: unknown directive 'nme'"),
        ('name="guess"', 'name="guess" source="embed.TimeEmbedder"', r":17: a cell has one directive"),
        ('name="guess"', 'name="guess', r":17: cannot read the header"),
        ('exercise="small.bug"', 'exercise="small.bag"', r"exercise names 'small.bag'; lesson 07 has noise.add_noise"),
        ('predict("small.q1")', 'predict("small.q9")', r":17: predict names 'small.q9'; lesson 07 has small.q1"),
        ('check("small.bug"', 'check("small.bog"', r"check names 'small.bog'"),
        ('source="embed.TimeEmbedder"', 'source="embed.TimeEmbeder"', r"has nothing called TimeEmbeder"),
        ("import v_target", "import x0_from_v", r"must hold one line, `from lesson_lib.noise import v_target`"),
        ("# pseudo-code: minus\n", "", r"hints are three lines in this order"),
        ('# %% [markdown] hints="small.bug"', "# %% [markdown]", r"exercise 'small.bug' lacks hints"),
        ('check("small.bug", v_target)', "v_target", r"exercise 'small.bug' lacks a check\(\) call"),
        ('title_card="07"', 'title_card="08"', r":1: title_card must be '07'"),
        ("# ### Exercise 7.2 ·", "# Exercise 7.2 ·", r"starts with a heading"),
        ("### Exercise 7.2", "### Exercise 7.3", r"heading says 7.3; the registry calls it 7.2"),
        ("1", "1 +", r"07_small.py:18: not Python"),
        ("import torch\n", "Tensor = 3\n", r"uses 'Tensor' as \(a variable\).*rename"),
        ("# %% [markdown] title_card", "print()\n# %% [markdown] title_card", r"07_small.py:1: a lesson starts with"),
    ],
)  # fmt: skip
def test_errors_name_file_and_line(root: Path, old: str, new: str, message: str) -> None:
    if old == "1":
        old, new = 'predict("small.q1")', 'predict("small.q1"'
    assert old in LESSON
    with pytest.raises(BuildError, match=message):
        build(root, LESSON.replace(old, new))


def test_lesson_numbers(root: Path) -> None:
    assert [path.name for path in find_lessons(root / "lessons", "7")] == ["07_small.py"]
    with pytest.raises(BuildError, match="there is no lesson 08; lessons: 07"):
        find_lessons(root / "lessons", "08")
    (root / "lessons" / "07_other.py").write_text(LESSON)
    with pytest.raises(BuildError, match="carry the same number"):
        find_lessons(root / "lessons")


def test_names_tell_imports_answers_and_variables_apart() -> None:
    names = Names()
    names.read("import torch.nn.functional as F\nif True:\n    from torch import nn\nx = [rope for rope in ()]")
    names.read("def expand(): ...", answers=True)
    names.read('dit = check("dit", dit)')
    wanted = [
        "from lesson_lib.noise import expand",
        "from torch import Tensor, nn",
        "from torch.nn import functional as F",
    ]
    assert names.missing(wanted) == ["from torch import Tensor"]
    assert names.missing(["import rope", "import dit"]) == ["import rope"]
    with pytest.raises(NameClash, match="rename the notebook's 'x'"):
        names.missing(["from lesson_lib import x"])


# Freshness


def executed(notebook):
    for count, cell in enumerate(c for c in notebook.cells if c.cell_type == "code"):
        cell.execution_count = count + 1
    return notebook


def test_fresh_notebook_has_no_differences_whatever_its_outputs(root: Path) -> None:
    path = root / "notebooks" / "07_small.ipynb"
    notebook = executed(build(root))
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="other text")]
    path.write_text(write(notebook))
    assert differences(path, build(root)) == []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda nb: nb["cells"][2].update(source="import os"), "cell 'imports': its source differs"),
        (lambda nb: nb["cells"][2].update(id="other"), "cell 'imports' is missing"),
        (lambda nb: nb["cells"][2]["metadata"].update(tags=["x"]), "cell 'imports': its name or tags differ"),
        (lambda nb: nb["cells"].append(dict(nb["cells"][2], id="more")), "cell 'more' is in no lesson"),
        (lambda nb: nb["cells"].reverse(), "the cells are in another order"),
        (lambda nb: nb["metadata"].update(widgets={}), "metadata differs"),
        (lambda nb: nb["cells"][2].update(execution_count=None), "cell 'imports': it was never executed"),
        (lambda nb: nb.pop("cells"), "cannot be read as a notebook"),
    ],
)
def test_stale_notebook_is_found(root: Path, spoil, message: str) -> None:
    path = root / "notebooks" / "07_small.ipynb"
    notebook = json.loads(write(executed(build(root))))
    spoil(notebook)
    path.write_text(json.dumps(notebook))
    found = differences(path, build(root))
    assert any(message in sentence for sentence in found), found
    assert all(sentence.startswith("07_small.ipynb") for sentence in found)


def test_builder_lists_missing_notebooks_orphans_and_a_stale_readme(root: Path) -> None:
    builder = Builder(root, make_course())
    (root / "README.md").write_text("# Course\n<!-- course:lessons -->\nold\n<!-- /course:lessons -->\nend\n")
    (root / "notebooks" / "09_gone.ipynb").write_text("{}")
    found = builder.stale()
    assert "07_small.ipynb is missing" in found
    assert "09_gone.ipynb has no lesson; remove it" in found
    assert "README.md: the table of lessons differs" in found
    assert orphans(root / "notebooks", {"09_gone"}) == []
    assert restamp_readme(root, make_course())
    assert not restamp_readme(root, make_course())
    table = (root / "README.md").read_text()
    assert "| [07 · A small lesson](notebooks/07_small.ipynb) | Does the builder work? | 20 |" in table
    assert table.startswith("# Course\n")
    assert table.endswith("\nend\n")


def test_outputs_are_kept_without_execution_only_where_no_code_changed(root: Path) -> None:
    path = root / "notebooks" / "07_small.ipynb"
    path.write_text(write(executed(build(root))))
    words = build(root, LESSON.replace("One line is wrong", "One line is not right"))
    assert keep_outputs(path, words)
    assert words.cells[1].execution_count == 1
    code = build(root, LESSON.replace("import torch\n", "import torch, os\n"))
    assert not keep_outputs(path, code)
    assert code.cells[1].execution_count is None


# Forks


def test_fork_restamps_every_place_and_leaves_the_course_fresh(root: Path) -> None:
    path = root / "notebooks" / "07_small.ipynb"
    notebook = executed(build(root))
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="kept: https://github.com/OWNER/REPO")]
    path.write_text(write(notebook))
    link = "https://github.com/OWNER/REPO"
    (root / "README.md").write_text(
        f"<!-- course:badges -->\n[x]({link}/issues)\n<!-- /course:badges -->\ncite {link}\n"
    )
    changed = fork(root, "ada/my-course.2")
    assert [item.name for item in changed] == ["07_small.ipynb", "README.md", "repository.txt"]
    assert (root / "lesson_lib" / "repository.txt").read_text() == "https://github.com/ada/my-course.2\n"
    assert differences(path, build(root, course=make_course("ada/my-course.2"))) == []
    assert "kept: https://github.com/OWNER/REPO" in path.read_text()
    readme = (root / "README.md").read_text()
    assert "[x](https://github.com/ada/my-course.2/issues)" in readme
    assert f"cite {link}" in readme
    assert fork(root, "ada/my-course.2") == []
    fork(root, "OWNER/REPO")
    assert path.read_text() == write(notebook)


@pytest.mark.parametrize("slug", ["", "ada", "https://github.com/ada/x", "ada/x/y", "ada/x y"])
def test_fork_refuses_what_is_no_owner_and_name(root: Path, slug: str) -> None:
    with pytest.raises(BuildError, match="write owner/name"):
        fork(root, slug)


# Execution and outputs


def code_notebook(*sources: str):
    cells = [nbformat.v4.new_code_cell(text, id=f"c{i}", metadata={"name": f"c{i}"}) for i, text in enumerate(sources)]
    return nbformat.v4.new_notebook(cells=cells)


def test_execution_uses_this_python_the_folder_the_budget_and_a_progress_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LESSON_PROGRESS", "mine.json")
    monkeypatch.setenv("LESSON_STRICT", "1")
    source = (
        "import os, sys\n"
        "print(sys.executable, os.getcwd(), sep='\\n')\n"
        "names = ('LESSON_BUDGET', 'LESSON_STRICT', 'LESSON_PROGRESS')\n"
        "print(*map(os.environ.get, names[:2]), end=' ')\n"
        "print(os.environ[names[2]] != 'mine.json')"
    )
    notebook = code_notebook(source, "print('one', flush=True)\nprint('two')\n3")
    cost = execute(notebook, tmp_path, budget="smoke")
    lines = notebook.cells[0].outputs[0].text.split("\n")
    assert lines[:3] == [sys.executable, str(tmp_path.resolve()), "smoke None True"]
    assert [output.output_type for output in notebook.cells[1].outputs] == ["stream", "execute_result"]
    assert [cell.execution_count for cell in notebook.cells] == [1, 2]
    assert all("execution" not in cell.metadata for cell in notebook.cells)
    assert 0 < cost.seconds < 120
    assert cost.peak_memory_mb > 10


def test_failing_cell_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"cell 'c1' failed:(.|\n)*ZeroDivisionError"):
        execute(code_notebook("1", "1 / 0"), tmp_path, budget="smoke")


def test_outputs_keep_figures_and_text_and_drop_widgets_html_stderr_and_progress_bars() -> None:
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "random"}, "text/plain": "IntSlider()"}
    figure = {"image/png": "AAAA", "text/plain": "a figure", "text/html": "<img>"}
    notebook = code_notebook("show()")
    notebook.metadata["widgets"] = {"state": {}}
    notebook.cells[0].metadata["execution"] = {"iopub.execute_input": "2026"}
    notebook.cells[0].outputs = [
        nbformat.v4.new_output("display_data", widget),
        nbformat.v4.new_output("display_data", figure, metadata={"image/png": {"alt": "words"}}),
        nbformat.v4.new_output("display_data", {"application/javascript": "alert()"}),
        nbformat.v4.new_output("stream", name="stderr", text="100%|###|"),
        nbformat.v4.new_output("stream", name="stdout", text="\r50%\r100%\ndone\n"),
        nbformat.v4.new_output("execute_result", {"text/plain": "<Line2D at 0x7f00deadbeef>"}, execution_count=1),
    ]
    warnings = clean_outputs(notebook)
    kept = notebook.cells[0].outputs
    assert [output.output_type for output in kept] == ["display_data", "stream", "execute_result"]
    assert kept[0].data == {"image/png": "AAAA", "text/plain": "a figure"}
    assert kept[0].metadata == {"image/png": {"alt": "words"}}
    assert kept[1].text == "done\n"
    assert "widgets" not in notebook.metadata
    assert "execution" not in notebook.cells[0].metadata
    assert len(warnings) == 1
    assert "memory address" in warnings[0]


def test_notebooks_over_a_megabyte_are_refused_by_cell() -> None:
    notebook = code_notebook("show()")
    notebook.cells[0].outputs = [nbformat.v4.new_output("display_data", {"image/png": "A" * 1_100_000})]
    with pytest.raises(BuildError, match=r"at most 1000 are committed\. Largest cells: c0 1100 kB"):
        refuse_oversize("x.ipynb", notebook, write(notebook))


def test_page_loads_nothing_from_anywhere() -> None:
    notebook = code_notebook("show()")
    notebook.cells[0].outputs = [nbformat.v4.new_output("display_data", {"image/png": "AAAA"})]
    page = to_html(notebook)
    assert "data:image/png;base64,AAAA" in page
    assert "cdnjs" not in page
    assert not re.findall(r"(?:<script[^>]+src|<link[^>]+href|<img[^>]+src|@import|url\()\W*(?:https?:)?//", page)


TINY = """\
# %% [markdown] title_card="07"
# # 7 · Tiny

# %% name="setup"
from lesson_lib.setup import start_lesson

# %% name="draw"
import matplotlib.pyplot as plt

_ = plt.plot([0, budget.choose(smoke=1, laptop=2)])
"""


def test_builder_writes_student_and_solved_editions_and_a_page(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(root / "lesson_lib")
    (root / "lesson_lib").symlink_to(ROOT / "lesson_lib")
    (root / "lessons" / "07_small.py").write_text(TINY)
    course = make_course()
    builder = Builder(root, Course({}, {}, course.cards, course.repository))
    builder.notebooks("07", budget="smoke")
    assert builder.stale() == []
    stored = (root / "notebooks" / "07_small.ipynb").read_bytes()
    assert b"image/png" in stored
    assert b"budget smoke" in stored
    builder.notebooks(run=False)
    assert (root / "notebooks" / "07_small.ipynb").read_bytes() == stored
    builder.solved()
    assert b"image/png" not in (root / "build" / "solved" / "07_small.ipynb").read_bytes()
    page = builder.run("7", budget="smoke")
    assert "data:image/png;base64," in page.read_text()
    assert re.search(r"build/html/07_small.html: [\d.]+ s, [1-9]\d+ MB at its peak", capsys.readouterr().out)


def test_command_line_explains_and_fails() -> None:
    command = [sys.executable, "-m", "lesson_lib.build"]
    done = subprocess.run([*command, "fork", "no-slash"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "write owner/name" in done.stderr
    assert "Traceback" not in done.stderr


# The set-up cell, where learners are


def run_setup(cell: str, folder: Path, start: str = "", **environment: str) -> str:
    script = f"{start}\n{cell}\nimport lesson_lib, os\nprint(os.path.realpath(os.path.dirname(lesson_lib.__file__)))"
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "COURSE_REPO")}
    environment = {**clean, "LESSON_BUDGET": "smoke", "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def bare_clone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bare repository with the working tree's files, as a learner's GitHub would serve it."""
    folder = tmp_path_factory.mktemp("origin")
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "tree" / name)
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "course"]):
        subprocess.run(["git", *identity, *command], cwd=folder / "tree", check=True)
    subprocess.run(["git", "clone", "-q", "--bare", "tree", "course.git"], cwd=folder, check=True)
    return (folder / "course.git").as_uri()


def test_setup_cell_on_colab_clones_once_and_installs_nothing(bare_clone: str, tmp_path: Path) -> None:
    stub = "import sys, types\nfor name in ('google', 'google.colab'): sys.modules[name] = types.ModuleType(name)"
    cell = make_course().repository.setup_cell("07")
    for _ in range(2):  # the second time the folder is there
        output = run_setup(cell, tmp_path, stub, COURSE_REPO=bare_clone, PIP_NO_INDEX="1", GIT_TERMINAL_PROMPT="0")
        assert output.splitlines()[0].startswith("Lesson 07")
        assert output.splitlines()[1] == str((tmp_path / "course" / "lesson_lib").resolve())
    assert [path.name for path in tmp_path.iterdir()] == ["course"]


@pytest.mark.parametrize("folder", ["", "notebooks"])
def test_setup_cell_finds_the_checkout_it_is_in(folder: str) -> None:
    output = run_setup(make_course().repository.setup_cell("07"), ROOT / folder)
    assert output.splitlines()[-1] == str(ROOT / "lesson_lib")


# The files beside it


def test_environment_file_names_extras_that_exist() -> None:
    yaml = pytest.importorskip("yaml")
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [install] = [line for line in pip if line.startswith("-e ")]
    extras = install[install.index("[") + 1 : install.index("]")].split(",")
    assert set(extras) <= set(project["optional-dependencies"])
    assert "-c constraints.txt" in pip
    assert {"pip", "git"} <= set(filter(lambda item: isinstance(item, str), environment["dependencies"]))


def test_makefile_explains_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split())  # type: ignore[index]
    explained = set(re.findall(r"^([a-z]+):.*## ", text, re.MULTILINE))
    assert targets == explained
    assert {"lab", "test", "run", "notebooks", "fork", "help"} <= targets


def test_linter_moves_no_import_from_one_lesson_cell_to_another(tmp_path: Path) -> None:
    text = '# %% source="b.B"\nfrom b import B\n\n# %% [markdown]\n# text\n\n# %% source="a.A"\nfrom a import A\n'
    (tmp_path / "lessons").mkdir()
    (tmp_path / "lessons" / "07_small.py").write_text(text)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    subprocess.run([sys.executable, "-m", "ruff", "check", "--fix", "-q", "lessons"], cwd=tmp_path, check=False)
    assert (tmp_path / "lessons" / "07_small.py").read_text() == text


def test_setup_name_is_the_one_that_forks_look_for(root: Path) -> None:
    assert SETUP_NAME in by_name(build(root))
