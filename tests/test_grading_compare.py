"""The page that compares the graders says what its record says."""

import json

from lesson_lib import ROOT
from lesson_lib.grading.compare import main, page

PAGE = ROOT / "docs" / "grading_comparison.md"


def test_the_page_is_made_of_its_record() -> None:
    record = json.loads(PAGE.with_suffix(".json").read_text())
    assert PAGE.read_text() == page(record)
    assert record["submissions"] == 20
    for one in record["rounds"]:
        assert one["seconds"]["this course"] < min(one["seconds"]["nbgrader"], one["seconds"]["otter-grader"])
    assert not [one for one in record["differences"] if one["grader"] == "this course"]


def test_without_the_others_it_says_how_to_get_them(capsys) -> None:
    assert main(["--python", "/nowhere/python"]) == 2
    assert "pip install" in capsys.readouterr().err
