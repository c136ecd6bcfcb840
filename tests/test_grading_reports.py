"""Reports of the grader: hostile names and texts do nothing, and nothing that a person filled in is ever lost."""

from __future__ import annotations

import base64
import csv
import dataclasses
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lesson_lib.exercises import PROSE, REGISTRY
from lesson_lib.grading.copies import Pair
from lesson_lib.grading.marks import Attempt, Grade, Mark, Notebook, Student, Written
from lesson_lib.grading.reports import Run, read_words, write_reports
from lesson_lib.grading.reports.names import number, told
from lesson_lib.grading.reports.page import CSS, table, tag, text
from lesson_lib.grading.reports.prose import CHANGED, GONE
from lesson_lib.grading.reports.sheets import bare, defused, to_csv

RUN = Run("07", 4242, "2026-03-05T18:00:00+01:00", "bwrap", 187.3, 2, "10 % off for each day late.", True)
EXERCISES = ("dit.modulate", "dit.start_modulation", "dit.parameters_by_part")
WORTH = {name: float(REGISTRY[name].points) for name in EXERCISES}
QUESTION = "adaln.w1"
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></title><svg onload=alert(1)>",
    '=HYPERLINK("http://x.example","grade")',
    '\t＝1+1\n;=2\n,"-3',
    "@SUM(1)|cmd\r\n+1",
    "محمد \u202eنعيم",
    "nul\0 bell\x07 half\ud800 \ufffe",
    "x" * 10_000,
    "&lt;b&gt; 'quoted' \"twice\"",
)


def hand_in(student: Student, marks: tuple[Mark, ...] = (), answer: str = "", **changes: object) -> Grade:
    """Return the grade of a student with one notebook."""
    written = (Written(QUESTION, answer, len(answer.split())),) if answer else ()
    notebook = Notebook(f"n-{student.key}", student.key, f"canvas/{student.name}.ipynb", "ab" * 32, "07", 4242,
                        "2026-03-01T12:30:00+01:00", marks=marks, written=written, seconds=3.0)  # fmt: skip
    points = {mark.exercise: WORTH[mark.exercise] * (mark.status == "passed") for mark in marks}
    grade = Grade(student, (Attempt(notebook, points),), 0, WORTH, {QUESTION: 2.0}, {QUESTION: None})
    return dataclasses.replace(grade, **changes)


def several(answers: dict[str, str]) -> list[Grade]:
    """Return a class with one answer in words each, by key."""
    return [hand_in(Student(key, key.title()), answer=answer) for key, answer in answers.items()]


def write(out: Path, grades: list[Grade], run: Run = RUN, **more: list) -> None:
    """Write all reports of some grades."""
    notebooks = [attempt.notebook for grade in grades for attempt in grade.attempts]
    write_reports(out, run, grades, notebooks, more.get("problems", []), more.get("pairs", []))


def rows(path: Path, separator: str = ",") -> list[dict[str, str]]:
    """Read a sheet as a spreadsheet program does."""
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), delimiter=separator))


def save(
    path: Path, found: list[dict[str, str]], encoding: str = "utf-8-sig", separator: str = ",", **how: object
) -> None:
    """Save a sheet as a person's spreadsheet program might."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(found[0]), delimiter=separator, **how)
    writer.writeheader()
    writer.writerows(found)
    path.write_bytes(out.getvalue().encode(encoding, "replace"))


def fill(path: Path, key: str, points: str, comment: str = "") -> None:
    """Grade a student's answer in words by hand."""
    found = rows(path)
    row = next(row for row in found if row["student"].lstrip("'") == key)
    row["points"], row["comment"] = points, comment
    save(path, found)


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((name, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.words += data


# --- hostile names and texts -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reports of a class whose names, files, answers and problems attack whoever reads them."""
    out = tmp_path_factory.mktemp("hostile")
    grades = []
    for i, bad in enumerate(HOSTILE):
        mark = Mark(EXERCISES[0], "failed", "values", bad, bad, "SECRET 3.1415", "def SOURCE(): ...")
        grade = hand_in(Student(f"s{i}", bad, bad, bad, bad), (mark,), bad)
        notebook = dataclasses.replace(grade.attempts[0].notebook, file=bad, problems=(bad,))
        attempt = Attempt(notebook, {EXERCISES[0]: 0.0}, 0.9, bad)
        grades.append(dataclasses.replace(grade, attempts=(attempt, attempt), words={QUESTION: 1.5}))
    run = dataclasses.replace(RUN, rubric=HOSTILE[0], questions={QUESTION: (HOSTILE[1], HOSTILE)})
    pairs = [Pair("s0", HOSTILE[0], (HOSTILE[1],), 0.97, HOSTILE[0])]
    write(out, grades, run, problems=list(HOSTILE), pairs=pairs)
    return out


HARMLESS = re.compile(
    "html|head|meta|title|style|body|section|footer|div|h[123]|p|bdi|a|b|code|span|ul|li|blockquote"
    "|table|thead|tbody|tr|th|td|svg|rect|line|text"
)


def test_no_page_holds_anything_that_runs(hostile: Path) -> None:
    pages = sorted(hostile.rglob("*.html"))
    assert len(pages) == len(HOSTILE) + 1
    for path in pages:
        page = path.read_text(encoding="utf-8")
        elements = Elements(page)
        assert not [name for name, _ in elements.found if not HARMLESS.fullmatch(name)]
        attributes = [key for _, own in elements.found for key in own]
        assert not [key for key in attributes if key.startswith("on") or key in ("style", "src", "srcset")]
        links = [own["href"] or "" for name, own in elements.found if name == "a"]
        assert all(re.fullmatch(r"students/s\d\.html", link) for link in links)
        assert not re.search("[\0\x07\u202e\ud800]", page)
        assert "<script>alert(1)</script>" in elements.words


def test_policy_allows_the_style_sheet_and_nothing_else(hostile: Path) -> None:
    elements = Elements((hostile / "students/s0.html").read_text(encoding="utf-8"))
    metas = {
        own.get("http-equiv") or own.get("name") or "charset": own for name, own in elements.found if name == "meta"
    }
    policy = metas["Content-Security-Policy"]["content"] or ""
    style = re.search(r"<style>(.*?)</style>", (hostile / "students/s0.html").read_text(encoding="utf-8"), re.DOTALL)
    assert style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")
    assert "unsafe" not in policy
    assert "script-src" not in policy
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_no_student_sees_numbers_or_source(hostile: Path) -> None:
    for path in (hostile / "students").iterdir():
        assert not re.search("SECRET|SOURCE|3.1415", path.read_text(encoding="utf-8"))


def test_gradescope_reads_the_results(hostile: Path) -> None:
    # The form: gradescope-autograders.readthedocs.io, Autograder Specifications.
    for path in (hostile / "students").glob("*.results.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        assert set(found) <= {"score", "execution_time", "output", "output_format", "test_output_format",
                              "test_name_format", "visibility", "stdout_visibility", "extra_data", "tests"}  # fmt: skip
        assert found["output_format"] == found["test_output_format"] == found["test_name_format"] == "text"
        assert found["score"] == pytest.approx(0.9 * 1.5)
        for test in found["tests"]:
            assert set(test) <= {
                "score",
                "max_score",
                "status",
                "name",
                "number",
                "output",
                "output_format",
                "visibility",
            }
            assert test["status"] in ("passed", "failed")
            assert 0 <= test["score"] <= test["max_score"]
            assert test["output_format"] == "text"
            assert test["visibility"] == "visible"
        assert [test.get("number") for test in found["tests"]] == ["7.1", "7.3", "7.6", None]


def test_ungraded_answer_is_not_failed_on_gradescope(tmp_path: Path) -> None:
    write(tmp_path, [hand_in(Student("ada", "Ada"), answer="Because.")])
    test = json.loads((tmp_path / "students/ada.results.json").read_text())["tests"][-1]
    assert "waits for a person" in test["output"]
    assert not {"score", "status"} & set(test)


SIGNS = tuple("=+-@＝＋－＠")
UNSEEN = " \t\r\n\"'\u200b\ufeff\u00a0"
RISKY = st.text(st.sampled_from([*SIGNS, *UNSEEN, ",", ";", "a", "1", "﹢", "−"]), max_size=12)


@given(RISKY)
@settings(max_examples=400, deadline=None)
def test_defusing_takes_itself_back(content: str) -> None:
    assert bare(defused(content)) == content
    assert bare(defused(defused(content))) == defused(content)


@given(st.lists(RISKY, min_size=1, max_size=3), st.sampled_from(",;"), st.sampled_from(",;\t"))
@settings(max_examples=400, deadline=None)
def test_no_cell_is_a_formula_whatever_the_program_cuts_at(cells: list[str], ours: str, theirs: str) -> None:
    content = to_csv([cells], ours).decode("utf-8-sig")
    if ours == theirs:
        found = [cell for row in csv.reader(io.StringIO(content, newline=""), delimiter=theirs) for cell in row]
    else:  # quotes in the middle of a cell protect nothing
        found = [cell for line in re.split(r"[\r\n]", content) for cell in line.split(theirs)]
    for cell in found:
        shown = cell.lstrip(UNSEEN.replace("'", ""))
        assert not shown.startswith((*SIGNS, "﹢", "−")), (content, cell)


def test_sheets_of_hostile_texts(hostile: Path) -> None:
    grades = rows(hostile / "grades.csv")
    assert [row["key"] for row in grades] == [f"s{i}" for i in range(len(HOSTILE))]
    assert grades[3]["name"] == "'" + HOSTILE[3]
    assert bare(grades[3]["name"]) == HOSTILE[3]
    assert float(grades[3]["total"]) == pytest.approx(1.35)
    assert [bare(row["answer"]) for row in rows(hostile / "prose.csv")][3] == HOSTILE[3]
    for path in hostile.glob("*.csv"):
        assert path.read_bytes().startswith(b"\xef\xbb\xbf")
        for row in rows(path):
            assert not [cell for cell in row.values() if cell.lstrip().startswith(SIGNS)]


def test_long_blank_texts_take_no_time() -> None:
    for blank in ("\n", " ", "'", "\t ", ";'"):
        assert bare(defused(blank * 30_000)) == blank * 30_000


def test_elements_escape_what_is_not_an_element() -> None:
    assert tag("p", "a < b", tag("b", "&"), None, title='"') == '<p title="&quot;">a &lt; b<b>&amp;</b></p>'
    assert text("x" * 30, 10) == "x" * 10 + " … (cut here; 30 characters in all)"
    assert table(("A", "B"), [("1", "<")], numbers=(1,)).count("&lt;") == 1


def test_keys_that_are_no_file_names(tmp_path: Path) -> None:
    for key in ("../ada", "", "a/b", ".ada", "a\0", "ada\n"):
        with pytest.raises(ValueError, match="cannot be a file's name"):
            write(tmp_path, [hand_in(Student(key, "Ada"))])
    with pytest.raises(ValueError, match="two students have the key ADA"):
        write(tmp_path, [hand_in(Student("ada", "Ada")), hand_in(Student("ADA", "Ada"))])
    assert not list(tmp_path.iterdir())


# --- a student's page --------------------------------------------------------------------------------------------


def page_of(tmp_path: Path, grade: Grade, run: Run = RUN) -> str:
    write(tmp_path, [grade], run)
    return Elements((tmp_path / f"students/{grade.student.key}.html").read_text(encoding="utf-8")).words


def test_page_says_how_each_exercise_went(tmp_path: Path) -> None:
    advice = REGISTRY[EXERCISES[1]].mistakes[0].sentence
    marks = (
        Mark(EXERCISES[0], "passed"),
        Mark(EXERCISES[1], "failed", "values", "first of three", advice, "SECRET"),
        Mark(EXERCISES[2], "delegated"),
    )
    page = page_of(tmp_path, hand_in(Student("ada", "Ada"), marks, "Because it is."))
    assert f"7.1 {REGISTRY[EXERCISES[0]].title}✓ right2 of 2" in page
    assert f"✗ not yet0 of 3Falls at “values”. {advice}" in page
    assert "✗ calls the library0 of 3It only calls the library's own function" in page
    assert "2 of 10 points" in page
    assert "○ waits for a person (2 points)" in page
    assert all(line in page for line in PROSE[QUESTION].rubric)
    assert "--seed 4242" in page


def test_page_says_lateness_attempts_and_comments(tmp_path: Path) -> None:
    grade = hand_in(Student("ada", "Ada"), (Mark(EXERCISES[0], "passed"),), "Because it is.")
    late = Attempt(grade.attempts[0].notebook, {EXERCISES[0]: 2.0}, 0.5, "Two days late: 50 % are left.")
    grade = dataclasses.replace(grade, attempts=(*grade.attempts, late), kept=1, words={QUESTION: 2.0})
    write(tmp_path, [grade])
    fill(tmp_path / "prose.csv", "ada", "2", "Well <argued>.")
    page = page_of(tmp_path, grade)
    assert "2 of 10 points" in page  # half of 2 + 2
    assert "Two days late: 50 % are left." in page
    assert "Ada.ipynb, handed in 2026-03-01 12:30 +01:00: 2 of 8 points for exercises. It does not count." in page
    assert "Comment: Well <argued>." in page
    assert "waits for a person" not in page


def test_page_without_a_hand_in_or_after_half_a_run(tmp_path: Path) -> None:
    grade = dataclasses.replace(hand_in(Student("ada", "Ada")), attempts=(), kept=None)
    page = page_of(tmp_path, grade, dataclasses.replace(RUN, complete=False))
    assert "Nothing was handed in." in page
    assert "0 of 10 points" in page
    assert "was not finished" in page
    assert rows(tmp_path / "grades.csv")[0]["notes"] == "Nothing was handed in. The run was not finished."


def test_exercises_and_questions_that_the_course_does_not_know(tmp_path: Path) -> None:
    grade = hand_in(Student("ada", "Ada"))
    grade = dataclasses.replace(grade, worth={"own.thing": 3.0}, words_worth={"own.q": 1.0, "lost.q": 1.0}, words={})
    run = dataclasses.replace(RUN, questions={"own.q": ("What did you break?", ["names it: 1"])})
    page = page_of(tmp_path, grade, run)
    assert "own.thing○ not found0 of 3" in page
    assert "What did you break?" in page
    assert "names it: 1" in page
    assert "lost.q" in page


def test_what_is_told_never_comes_from_detail() -> None:
    for status in ("passed", "failed", "empty", "missing", "delegated"):
        sentence = told(Mark(EXERCISES[0], status, "values", "no one", "", "SECRET", "SOURCE"))
        assert not re.search("SECRET|SOURCE", sentence)
        assert bool(sentence) == (status != "passed")


def test_colours_can_be_read_in_light_and_dark() -> None:
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in CSS.split("@media")[:2])
    for colours in (light, dark):
        for name in ("text", "quiet", "good", "bad", "wait", "bar"):
            for ground in ("page", "soft"):
                assert _contrast(colours[name], colours[ground]) >= 4.5, (name, ground)


def _contrast(one: str, other: str) -> float:
    """WCAG 2's contrast of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_grades_add_up(tmp_path: Path) -> None:
    grade = hand_in(Student("ada", "Ada", "007"), (Mark(EXERCISES[0], "passed"), Mark(EXERCISES[1], "passed")))
    attempt = dataclasses.replace(grade.attempts[0], factor=0.9)
    grade = dataclasses.replace(grade, attempts=(attempt,), words={QUESTION: 1.5})
    write(tmp_path, [grade])
    row = rows(tmp_path / "grades.csv")[0]
    assert [row[name] for name in EXERCISES] == ["2", "3", "0"]
    assert (row["exercises"], row["factor of lateness"], row["words"]) == ("5", "0.9", "1.5")
    assert (row["total"], row["possible"]) == ("5.85", "10")
    assert row["attempt kept"] == "1 of 1: canvas/Ada.ipynb"
    assert row["id"] == "007"


@pytest.mark.parametrize(("value", "shown"), [(2.0, "2"), (0.1 + 0.2, "0.3"), (13.3333, "13.33"), (1e6, "1000000")])
def test_numbers(value: float, shown: str) -> None:
    assert number(value) == shown


def test_decimal_comma_where_cells_are_cut_at_semicolons() -> None:
    assert to_csv([["a", 1.5, 2]], ";").decode("utf-8-sig") == "a;1,5;2\r\n"
    assert to_csv([["a", 1.5, 2]], ",").decode("utf-8-sig") == "a,1.5,2\r\n"


def test_texts_have_one_kind_of_line_end() -> None:
    assert text("a\r\nb\rc\n") == "a\nb\nc\n"
    assert to_csv([["a\rb"]]).decode("utf-8-sig") == '"a\nb"\r\n'


# --- answers in words --------------------------------------------------------------------------------------------


def test_sheet_has_a_row_for_everybody(tmp_path: Path) -> None:
    write(tmp_path, several({"ada": "It is\n=so", "ben": ""}))
    ada, ben = rows(tmp_path / "prose.csv")
    assert list(ada)[:11] == ["student", "name", "question id", "question", "rubric", "worth", "words", "note",
                              "answer", "points", "comment"]  # fmt: skip
    assert (ada["student"], ada["worth"], ada["words"], ada["answer"]) == ("ada", "2", "3", "It is\n'=so")
    assert ada["question"] == PROSE[QUESTION].text
    assert ben["note"] == "The notebook has no answer to this question."
    assert read_words(tmp_path / "prose.csv") == {}
    assert read_words(tmp_path / "nowhere.csv") == {}


@pytest.mark.parametrize(
    ("encoding", "separator", "how"),
    [
        ("utf-8-sig", ",", {}),
        ("utf-8", ",", {"quoting": csv.QUOTE_ALL}),
        ("cp1252", ";", {}),
        ("utf-8-sig", ";", {"lineterminator": "\n"}),
        ("utf-16", "\t", {}),
    ],
)
def test_whatever_saved_the_sheet_it_is_read(tmp_path: Path, encoding: str, separator: str, how: dict) -> None:
    path = tmp_path / "prose.csv"
    grades = several({"ada": "α ≈ β; é\n- one", "ben": "Because"})
    write(tmp_path, grades)
    found = [{**row, "Grader": "Zoë"} for row in rows(path)]
    found[0]["points"], found[0]["comment"] = "1,5", "=schön, «gut»"
    save(path, found[::-1], encoding, separator, **how)
    assert read_words(path) == {("ada", QUESTION): 1.5}
    write(tmp_path, grades)
    again = rows(path, ";" if separator == ";" else ",")
    assert [row["student"] for row in again] == ["ada", "ben"]
    assert again[0]["answer"] == "α ≈ β; é\n'- one"
    assert (again[0]["points"], again[0]["comment"], again[0]["Grader"]) == ("1,5", "'=schön, «gut»", "Zoë")
    assert again[0]["note"] == ""  # signs that the old encoding lost are no change of the answer
    assert read_words(path) == {("ada", QUESTION): 1.5}


def test_excel_line_that_names_the_separator(tmp_path: Path) -> None:
    path = tmp_path / "prose.csv"
    path.write_text("sep=;\nStudent;Question ID;Points\nada;adaln.w1;2\n")
    assert read_words(path) == {("ada", QUESTION): 2.0}


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "prose.csv"
    grades = several({"ada": "-1 is = 'more", "ben": "Because", "007": "bond", "may-12": "date", "1e5": "number"})
    write(tmp_path, grades)
    fill(path, "007", "2", "- good\n\n=1")
    write(tmp_path, grades)
    before = path.read_bytes()
    copy = (tmp_path / "prose.csv.bak").read_bytes()
    write(tmp_path, grades)
    assert path.read_bytes() == before
    assert (tmp_path / "prose.csv.bak").read_bytes() == copy
    assert read_words(path) == {("007", QUESTION): 2.0}
    # A spreadsheet program would save these as 7, a date and 100000.
    assert [row["student"] for row in rows(path)] == ["ada", "ben", "'007", "'may-12", "'1e5"]


def test_no_filled_cell_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "prose.csv"
    write(tmp_path, several({"ada": "first", "ben": "second", "cem": "third"}))
    fill(path, "ada", "1")
    fill(path, "ben", "2", "gone soon")
    filled = path.read_bytes()
    write(tmp_path, several({"ada": "another answer", "cem": "third", "dan": "new"}))
    assert (tmp_path / "prose.csv.bak").read_bytes() == filled
    found = {row["student"]: row for row in rows(path)}
    assert list(found) == ["ada", "cem", "dan", "ben"]
    assert (found["ada"]["points"], found["ada"]["note"]) == ("1", CHANGED)
    assert CHANGED.startswith("the answer has changed since it was graded")
    assert found["ada"]["answer"] == "another answer"
    assert (found["ben"]["points"], found["ben"]["comment"], found["ben"]["note"]) == ("2", "gone soon", GONE)
    assert found["cem"]["note"] == ""
    assert read_words(path) == {("ada", QUESTION): 1.0, ("ben", QUESTION): 2.0}
    page = Elements((tmp_path / "class.html").read_text(encoding="utf-8")).words
    assert "prose.csv has points or a comment for ben" in page
    assert "students/ben.html is of an earlier run" in page


def test_a_note_of_a_change_stays_until_a_person_clears_it(tmp_path: Path) -> None:
    path = tmp_path / "prose.csv"
    write(tmp_path, several({"ada": "first"}))
    fill(path, "ada", "1")
    for _ in range(3):
        write(tmp_path, several({"ada": "second"}))
        assert rows(path)[0]["note"] == CHANGED
    found = rows(path)
    found[0]["note"], found[0]["points"] = "", "2"
    save(path, found)
    write(tmp_path, several({"ada": "second"}))
    assert rows(path)[0]["note"] == ""
    assert read_words(path) == {("ada", QUESTION): 2.0}
    write(tmp_path, several({"ada": "third"}))
    assert rows(path)[0]["note"] == CHANGED


def test_someone_who_comes_back_has_everything_again(tmp_path: Path) -> None:
    path = tmp_path / "prose.csv"
    both = several({"ada": "first", "007": "second"})
    write(tmp_path, both)
    fill(path, "007", "1.5", "fine")
    write(tmp_path, both[:1])
    assert [row["student"] for row in rows(path)] == ["ada", "'007"]
    write(tmp_path, both)
    row = rows(path)[1]
    assert (row["points"], row["comment"], row["note"]) == ("1.5", "fine", "")


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ("3", r"prose.csv, row 3 \(ben, adaln.w1\): the points are '3'; write a number from 0 to 2"),
        ("-1", "row 3 .*'-1'; write a number from 0 to 2"),
        ("two", "row 3 .*'two'"),
        ("nan", "row 3"),
        ("1_0", "row 3"),
        ("１", "row 3"),
        ("1/2", "row 3"),
    ],
)
def test_points_that_cannot_be(tmp_path: Path, points: str, message: str) -> None:
    path = tmp_path / "prose.csv"
    grades = several({"ada": "two\nlines", "ben": "x"})
    write(tmp_path, grades)
    fill(path, "ben", points)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(ValueError, match=message):
        read_words(path)
    with pytest.raises(ValueError, match=message):
        write(tmp_path, grades)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_worth_of_a_new_rubric_counts(tmp_path: Path) -> None:
    path = tmp_path / "prose.csv"
    write(tmp_path, several({"ada": "x"}))
    fill(path, "ada", "3")
    assert read_words(path, {QUESTION: 4.0}) == {("ada", QUESTION): 3.0}
    with pytest.raises(ValueError, match="from 0 to 1"):
        read_words(path, {QUESTION: 1.0})


HEAD = b"student,question id,points,comment\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "row 1 must name the column student and question id and points; it has nothing"),
        (b"name,points\nada,2\n", "row 1 must name the column student and question id"),
        (HEAD + b'ada,adaln.w1,2,"open\n', "cannot be read after row 1"),
        (HEAD + b"ada,adaln.w1,2,fine,surplus\n", "row 2: there are more cells than columns"),
        (HEAD + b",,2,whose\n", "row 2 has points .* but no student and question"),
        (HEAD + b"ada,adaln.w1,2,\nada,adaln.w1,1,\n", r"rows 2 and 3 fill in the same answer \(ada, adaln.w1\)"),
        (b"student,question id,points,Points\n", "two columns are called points"),
        (b"PK\x03\x04\0\0\0\0xlsx", "is no CSV file of text"),
        (b"\xff\xfe\0", "is no CSV file of text"),
    ],
)
def test_what_cannot_be_read_is_never_written_over(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "prose.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        write(tmp_path, several({"ada": "x"}))
    assert (tmp_path / "prose.csv").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["prose.csv"]


def test_columns_and_rows_that_a_person_added_stay(tmp_path: Path) -> None:
    path = tmp_path / "prose.csv"
    grades = several({"ada": "x"})
    write(tmp_path, grades)
    found = [{"": "unnamed", **row, "Second Grader": "agrees"} for row in rows(path)]
    found.append({**dict.fromkeys(found[0], ""), "comment": "ask the tutor"})
    save(path, found)
    write(tmp_path, grades)
    again = rows(path)
    assert (again[0]["Second Grader"], again[0]["column 1"]) == ("agrees", "unnamed")
    assert again[1]["comment"] == "ask the tutor"
    before = path.read_bytes()
    write(tmp_path, grades)
    assert path.read_bytes() == before


# --- the class ---------------------------------------------------------------------------------------------------


def test_class_report(tmp_path: Path) -> None:
    known = REGISTRY[EXERCISES[0]].mistakes[0]
    wrong = Mark(EXERCISES[0], "failed", "values", known.name, known.sentence)
    right = tuple(Mark(name, "passed") for name in EXERCISES)
    grades = [hand_in(Student(f"s{i}", f"Student {i}"), right) for i in range(3)]
    grades += [hand_in(Student(f"w{i}", f"Wrong {i}"), (wrong, *right[1:])) for i in range(2)]
    grades.append(hand_in(Student("d", "Dele Gated"), (Mark(EXERCISES[0], "delegated"), *right[1:])))
    grades.append(dataclasses.replace(hand_in(Student("n", "Nobody")), attempts=(), kept=None))
    late = dataclasses.replace(grades[0].attempts[0], factor=0.5, late="A day late.")
    grades[0] = dataclasses.replace(grades[0], attempts=(late,))
    run = dataclasses.replace(RUN, isolation="none")
    pairs = [Pair("s1", "w1", (EXERCISES[1],), 0.97, "The same steps.")]
    write(tmp_path, grades, run, problems=["03_unet.ipynb was not graded."], pairs=pairs)
    page = Elements((tmp_path / "class.html").read_text(encoding="utf-8")).words
    assert "7students6handed in6.33mean of 10 points6median" in page  # 4, 8, 8, 6, 6, 6
    assert "3 of 6 right, 50%" in page
    assert "not yet: 2, calls the library: 1" in page
    assert f"2{known.name}: {known.sentence}" in page
    assert "03_unet.ipynb was not graded." in page
    assert "Dele Gated" in page
    assert "no points are taken" in page
    assert "97%" in page
    assert "× 0.5A day late." in page
    assert "Median 3 s; longest 3 s" in page
    assert "without isolation" in page
    assert "--seed 4242" in page
    alike = rows(tmp_path / "copies.csv")
    assert [(row["first"], row["second"], row["likeness"]) for row in alike] == [("s1", "w1", "0.97")]


def test_class_report_of_nobody(tmp_path: Path) -> None:
    write(tmp_path, [])
    assert "0students0handed in" in Elements((tmp_path / "class.html").read_text(encoding="utf-8")).words
    assert rows(tmp_path / "grades.csv") == []
