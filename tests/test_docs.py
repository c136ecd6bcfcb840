"""What the documents promise is there: commands, checksums, and nothing about any particular machine."""

import hashlib
import re

import pytest

from lesson_lib import DATA, ROOT
from lesson_lib.delivery.pages import tracked
from lesson_lib.exercises import LESSONS

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DATA.rglob("README.md"))]
DOCUMENTS += [ROOT / "lesson_lib" / "experiments" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {".py", ".md", ".yml", ".toml", ".txt", ".json", ".ipynb", ""}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_exist(document):
    text = document.read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE):
        assert target in targets, f"{document.name} names make {target}"
    for module in re.findall(r"(?:python|torchrun[^\n]*?) +-m (lesson_lib[.a-z_]*)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), f"{document.name} names {module}"


def test_the_readme_gives_both_commands_and_every_lesson():
    text = (ROOT / "README.md").read_text()
    assert "make lab" in text
    assert "make test" in text
    for number, card in LESSONS.items():
        row = next((line for line in text.splitlines() if f"notebooks/{number}_{card.slug}.ipynb" in line), "")
        assert f"| {card.minutes} |" in row, f"the README's row of lesson {number} is missing or stale: make notebooks"


def test_ci_runs_the_command_of_the_readme():
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_the_issue_form_asks_for_the_environment_line():
    yaml = pytest.importorskip("yaml")
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "problem.yml").read_text())
    assert any(item.get("id") == "environment" and item["validations"]["required"] for item in form["body"])


def test_checkpoints_are_small_and_their_card_is_right():
    card = (DATA / "checkpoints" / "README.md").read_text()
    files = sorted((DATA / "checkpoints").glob("*.safetensors"))
    assert files
    for file in files:
        assert file.stat().st_size <= 5_000_000, f"{file.name} is over 5 MB"
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert file.name in card, f"{file.name} is not in the card"
        assert digest in card, f"the card of the checkpoints has another sha256 for {file.name}"
    assert sum(file.stat().st_size for file in files) <= 40_000_000


def test_no_file_names_a_machine():
    bad = re.compile(r"(?:^|[^\w.])/(?:work|root|home)/\w")
    for path in (ROOT / name for name in tracked()):
        if path.suffix in TEXT and path.stat().st_size < 2_000_000 and path != ROOT / "tests" / "test_docs.py":
            found = bad.search(path.read_text(errors="replace"))
            assert not found, f"{path.relative_to(ROOT)} names a folder of some machine: {found.group()!r}"
