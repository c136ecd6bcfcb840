"""Every notebook that was handed in is found, whatever exported it; it is given to its owner and harms nobody."""

import hashlib
import io
import os
import stat
import struct
import tempfile
import tracemalloc
import zipfile
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lesson_lib.grading import submissions
from lesson_lib.grading.marks import Student
from lesson_lib.grading.submissions import (
    HandIn,
    display,
    find,
    folded,
    match,
    natural,
    read_roster,
    read_times,
    timed,
)

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs links and pipes")


FORGED = "submission_102:\n  :submitters:\n  - :name: Mallory\n  :created_at: 1999-01-01 00:00:00 Z\n"


def tree(root: Path, *files: str | tuple[str, bytes]) -> Path:
    """Write files below a folder; each holds its own path, unless bytes are given."""
    for file in files:
        name, content = file if isinstance(file, tuple) else (file, file.encode())
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def packed(*files, compression=zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip of files; each holds its own path, unless bytes are given. A name may be a ZipInfo."""
    beside = io.BytesIO()
    with zipfile.ZipFile(beside, "w", compression) as archive:
        for file in files:
            name, content = file if isinstance(file, tuple) else (file, file.encode())
            archive.writestr(name, content)
    return beside.getvalue()


def both(tmp_path: Path, *files) -> list[Path]:
    """Return the same hand-ins as a folder and as a zip."""
    folder = tree(tmp_path / "submissions", *files)
    archive = tmp_path / "export.zip"
    archive.write_bytes(packed(*files))
    return [folder, archive]


def by_owner(handins: list[HandIn]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for handin in handins:
        found.setdefault(handin.owner, []).append(handin.file)
    return found


def fingerprint(root: Path) -> dict[str, object]:
    """Everything about a tree that looking at it must not change."""
    return {
        str(path.relative_to(root)): (path.lstat().st_mode, path.lstat().st_mtime_ns, path.lstat().st_size)
        for path in sorted(root.rglob("*"))
    }


class TestConventions:
    def test_canvas(self, tmp_path):
        files = (
            "doejane_LATE_12345_67890_07_adaln-1.ipynb",
            "o_brien_12346_67891_07_adaln.ipynb",
            "garcíajosé_12347_67892_Untitled7.ipynb",
            "anon_a1B2c_67893_07_adaln.ipynb",
            "LATE_anon_A1b2C_67894_07_adaln.ipynb",
            "doejane_LATE_12345_67889_notes.pdf",
        )
        for root in both(tmp_path, *files):
            handins, problems = find(root, "07")
            assert not problems
            found = {handin.file: handin for handin in handins}
            assert set(found) == set(files[:5])
            jane = found[files[0]]
            assert (jane.owner, jane.clues, jane.late_hint, jane.submitted) == (
                "doejane",
                ("doejane", "12345"),
                True,
                "",
            )
            assert found[files[1]].clues == ("o_brien", "12346")
            assert found[files[2]].clues == ("garcíajosé", "12347")
            assert [found[file].late_hint for file in files[1:5]] == [False, False, False, True]
            owners, _ = match(handins, [])
            assert len({owner.key for owner in owners.values()}) == 5  # capitals tell the two anonymous ones apart
            assert jane.read() == files[0].encode()

    def test_canvas_second_upload_is_an_attempt_of_the_same_student(self, tmp_path):
        root = tree(
            tmp_path, "doejane_12_67890_07_adaln.ipynb", "doejane_12_67999_07_adaln-1.ipynb", "bo_13_700_x.ipynb"
        )
        handins, _ = find(root, "07")
        owners, _ = match(handins, [])
        assert [owners[handin.key].key for handin in handins] == ["bo-13", "doejane-12", "doejane-12"]

    def test_names_that_look_a_little_like_canvas_are_not_taken_apart_wrongly(self, tmp_path):
        handins, _ = find(tree(tmp_path, "jane_2024_07_adaln.ipynb", "bob_2024_07_adaln.ipynb"), "07")
        owners, _ = match(handins, [])
        assert len({owner.key for owner in owners.values()}) == 2

    def test_moodle_in_folders(self, tmp_path):
        files = (
            "Jane Doe_1234567_assignsubmission_file_/07_adaln.ipynb",
            "Jane Doe_1234567_assignsubmission_onlinetext_/onlinetext.html",
            "Łukasz Żak_1234568_assignsubmission_file/deep/er/answer.ipynb",
            "Participant_12_assignsubmission_file_/07_adaln.ipynb",
        )
        for root in both(tmp_path, *files):
            handins, _ = find(root, "07")
            assert by_owner(handins) == {
                "Jane Doe": [files[0]], "Łukasz Żak": [files[2]], "Participant 12": [files[3]],
            }  # fmt: skip
            assert {handin.owner: handin.clues for handin in handins}["Jane Doe"] == ("Jane Doe", "Participant 1234567")

    def test_moodle_flat(self, tmp_path):
        files = (
            "Jane Doe_1234567_assignsubmission_file_07_adaln.ipynb",
            "Participant_12_assignsubmission_file_07_adaln.ipynb",
            "Participant_13_assignsubmission_file_my_homework.ipynb",
        )
        for root in both(tmp_path, *files):
            assert set(by_owner(find(root, "07")[0])) == {"Jane Doe", "Participant 12", "Participant 13"}

    def test_blind_moodle_meets_the_grading_sheet(self, tmp_path):
        root = tree(
            tmp_path / "s",
            "Participant_12_assignsubmission_file_x.ipynb",
            "Participant_1_assignsubmission_file_x.ipynb",
        )
        sheet = tmp_path / "grading.csv"
        sheet.write_text(
            "Identifier,Full name,Email address\nParticipant 12,Jane Doe,jane@x.edu\nParticipant 1,Bo Li,b@x.edu\n"
        )
        handins, _ = find(root, "07")
        owners, problems = match(handins, read_roster(sheet))
        assert not problems
        assert {handin.owner: owners[handin.key].name for handin in handins} == {
            "Participant 12": "Jane Doe", "Participant 1": "Bo Li",
        }  # fmt: skip

    def test_gradescope(self, tmp_path):
        metadata = {
            "submission_101": {
                ":submitters": [{":name": "Jane 'J' Doe: the 2nd", ":sid": "0123", ":email": "jane@x.edu"}],
                ":created_at": "2026-03-01 17:34:00.861687000 Z",
                ":score": 2.0,
                ":results": {"output": FORGED},
                ":history": [{":id": 99, ":created_at": "2026-02-01 10:00:00 Z", ":score": 0.0}],
            },
            "submission_102": {
                ":submitters": [
                    {":name": "Zoë 王", ":sid": 7, ":email": "z@x.edu"},
                    {":name": "Bo Li", ":sid": None, ":email": "bo@x.edu"},
                ],
                ":created_at": "2026-03-02 09:00:00.5 -0700",
            },
            "submission_103": {":submitters": []},
        }  # fmt: skip
        texts = [yaml.safe_dump(metadata, sort_keys=False)]
        texts += [yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True).replace("\n", "\r\n")]
        for text in texts:
            people = submissions._submitters(text)
            assert [[owner.clues for owner in people[name]] for name in metadata] == [
                [("Jane 'J' Doe: the 2nd", "0123", "jane@x.edu")],
                [("Zoë 王", "7", "z@x.edu"), ("Bo Li", "bo@x.edu")],
                [],
            ]
            assert datetime.fromisoformat(people["submission_101"][0].submitted) == datetime.fromisoformat(
                "2026-03-01T17:34:00.861687+00:00"
            )
        files = (
            ("submission_metadata.yml", texts[0].encode()), "submission_101/07_adaln.ipynb",
            "submission_102/work/07_adaln.ipynb", "submission_103/07_adaln.ipynb",
        )  # fmt: skip
        for root in both(
            tmp_path,
            *(
                ("assignment_9_export/" + f[0], f[1]) if isinstance(f, tuple) else f"assignment_9_export/{f}"
                for f in files
            ),
        ):
            handins, problems = find(root, "07")
            assert not problems
            assert set(by_owner(handins)) == {"Jane 'J' Doe: the 2nd", "Zoë 王", "Bo Li", "submission 103"}
            times = {handin.owner: handin.submitted for handin in handins}
            assert times["Zoë 王"] == times["Bo Li"] == "2026-03-02T09:00:00.500000-07:00"
            assert times["submission 103"] == ""
            group = [handin for handin in handins if handin.owner in ("Zoë 王", "Bo Li")]
            assert group[0].file == group[1].file
            assert group[0].key != group[1].key

    def test_gradescope_as_ruby_writes_it(self):
        text = (
            "---\nsubmission_5:\n  :submitters:\n  - :name: First Last\n    :sid: '123456789'\n    :email: f@b.edu\n"
            "  :created_at: 2026-04-26 17:34:00.861687000 Z\n  :results:\n    output: |-\n      :name: Mallory\n"
            "  :history:\n  - :id: 4\n    :created_at: 2026-04-25 17:34:00.861687000 Z\n"
        )
        text += "submission_6:\n  :submitters:\n  - :name: |-\n      Mallory\n      :email: jane@x.edu\n    :sid: '6'\n"
        assert [owner.clues for owner in submissions._submitters(text)["submission_6"]] == [("6",)]
        (owner,) = submissions._submitters(text)["submission_5"]
        assert owner.clues == ("First Last", "123456789", "f@b.edu")
        assert owner.submitted == "2026-04-26T17:34:00.861687+00:00"

    def test_google_drive_and_classroom(self, tmp_path):
        files = (
            "Jane Doe - 07_adaln.ipynb", "Copy of Bo Li - 07_adaln.ipynb", "Ann Lee - Copy of 07_adaln (2).ipynb",
            "07_adaln - José García.ipynb", "Kim/Copy of 07_adaln.ipynb", "Kim/07_adaln (1).ipynb",
            "Lou/Untitled3.ipynb", "07_adaln_final_mary_poppins_v2.ipynb", "lesson 7 Al Be.ipynb",
            "Homework 7 - Cy Do.ipynb",
        )  # fmt: skip
        for root in both(tmp_path, *files):
            handins, problems = find(root, "07")
            assert not problems
            assert {owner: len(found) for owner, found in by_owner(handins).items()} == {
                "Jane Doe": 1, "Bo Li": 1, "Ann Lee": 1, "José García": 1, "Kim": 2, "Lou": 1, "mary poppins": 1,
                "Al Be": 1, "Cy Do": 1,
            }  # fmt: skip

    def test_notebooks_that_name_nobody_stay_apart(self, tmp_path):
        files = ("07_adaln.ipynb", "07_adaln (1).ipynb", "Copy of 07_adaln.ipynb", "homework.ipynb")
        handins, _ = find(tree(tmp_path / "submissions", *files), "07")
        owners, problems = match(handins, [Student("x", "Adaln Homework")])
        assert len(handins) == len({owner.key for owner in owners.values()}) == len(problems) == 4
        assert all("nothing in its name says whose it is" in problem for problem in problems)

    def test_nbgrader(self, tmp_path):
        files = (
            "submitted/jdoe/07/07_adaln.ipynb", "submitted/bo/07/07_adaln.ipynb", "submitted/bo/06/06_dit.ipynb",
            ("submitted/jdoe/07/timestamp.txt", b"2026-03-01 15:58:23.948203 UTC\n"),
            ("submitted/bo/07/timestamp.txt", b"2026-03-01 08:00:00 America/Los_Angeles"),
            ("submitted/bo/06/timestamp.txt", b"2026-02-01 08:00:00"),
        )  # fmt: skip
        for root in both(tmp_path, *files):
            handins, problems = find(root, "07")
            assert {handin.owner: handin.submitted for handin in handins} == {
                "jdoe": "2026-03-01T15:58:23.948203+00:00", "bo": "2026-03-01T08:00:00-08:00",
            }  # fmt: skip
            assert problems == [
                "bo: by the name, 06_dit.ipynb belongs to another lesson and is not graded for lesson 07."
            ]

    def test_nbgraders_students_are_not_taken_for_sections(self, tmp_path):
        places = ("jane/07a", "jane/06a", "bob/07b", "bob/06b")
        stamps = [(f"{place}/timestamp.txt", b"2026-03-01 10:00:00 UTC") for place in places]
        handins, _ = find(tree(tmp_path, *(f"{place}/work.ipynb" for place in places), *stamps), "07")
        assert [(handin.owner, handin.section) for handin in handins] == [("bob", "")] * 2 + [("jane", "")] * 2
        assert all(handin.submitted for handin in handins)

    def test_a_students_own_timestamp_is_not_believed(self, tmp_path):
        stamp = ("Mallory/07/timestamp.txt", b"1999-01-01 00:00:00 UTC")
        root = tree(tmp_path / "a", "Jane/07/07_adaln.ipynb", "Mallory/07/07_adaln.ipynb", stamp)
        handins, problems = find(root, "07")
        assert [handin.submitted for handin in handins] == ["", ""]
        assert any("none is believed" in problem for problem in problems)
        inside = packed("07_adaln.ipynb", ("timestamp.txt", b"1999-01-01 00:00:00 UTC"))
        for name in ("07", "work"):
            root = tree(tmp_path / name, (f"Jane/{name}.zip", inside), (f"Mallory/{name}.zip", inside))
            assert {handin.submitted for handin in find(root, "07")[0]} == {""}

    def test_a_students_own_metadata_is_not_believed(self, tmp_path):
        forged = b"submission_1:\n  :submitters:\n  - :name: Jane Doe\n  :created_at: 1999-01-01 00:00:00 Z\n"
        zipped = packed("submission_1/07_adaln.ipynb", ("submission_metadata.yml", forged))
        root = tree(
            tmp_path, "Jane Doe/07_adaln.ipynb", "Mal/submission_1/07_adaln.ipynb",
            ("Mal/submission_metadata.yml", forged), ("Mel.zip", zipped), ("homework.zip", zipped),
        )  # fmt: skip
        handins, _ = find(root, "07")
        assert {handin.submitted for handin in handins} == {""}
        assert {owner: len(files) for owner, files in by_owner(handins).items()} == {
            "Jane Doe": 1, "Mal": 1, "Mel": 1, "submission 1": 1,
        }  # fmt: skip

    def test_folder_or_zip_or_notebook_per_student(self, tmp_path):
        work = packed("answers/07_adaln.ipynb", "answers/data.csv", "__MACOSX/answers/._07_adaln.ipynb")
        files = ("anna/sub/07_adaln.ipynb", "ben.ipynb", ("cleo.zip", work), "dora_07_adaln.ipynb",
                 "e.mail@x.edu.ipynb", "Fay Go 1234567/hw.ipynb")  # fmt: skip
        for root in both(tmp_path, *files):
            handins, problems = find(root, "07")
            assert not problems
            assert {handin.owner: (handin.file, handin.clues) for handin in handins} == {
                "anna": ("anna/sub/07_adaln.ipynb", ("anna",)),
                "ben": ("ben.ipynb", ("ben",)),
                "cleo": ("cleo.zip/answers/07_adaln.ipynb", ("cleo",)),
                "dora": ("dora_07_adaln.ipynb", ("dora",)),
                "e.mail@x.edu": ("e.mail@x.edu.ipynb", ("e.mail@x.edu",)),
                "Fay Go": ("Fay Go 1234567/hw.ipynb", ("Fay Go", "1234567")),
            }
            assert next(h for h in handins if h.owner == "cleo").read() == b"answers/07_adaln.ipynb"

    def test_what_is_inside_cannot_hand_in_for_somebody_else(self, tmp_path):
        forged = packed("doejane_12345_67890_07_adaln.ipynb", "Jane Doe_1_assignsubmission_file_/07_adaln.ipynb")
        root = tree(
            tmp_path, ("mallory_99_10001_work.zip", forged), "doejane_12345_20002_07_adaln.ipynb",
            "Bob_7_assignsubmission_file_/doejane_12345_30003_x.ipynb",
            ("Bob_7_assignsubmission_file_/work.zip", forged), ("zed.zip", forged),
        )  # fmt: skip
        handins, _ = find(root, "07")
        owners, _ = match(handins, [Student("jane", "Jane Doe", "12345")])
        assert [handin.file for handin in handins if owners[handin.key].key == "jane"] == [
            "doejane_12345_20002_07_adaln.ipynb"
        ]
        assert {owner: len(files) for owner, files in by_owner(handins).items()} == {
            "mallory": 2, "doejane": 1, "Bob": 3, "zed": 2,
        }  # fmt: skip

    def test_wrappers_and_sections(self, tmp_path):
        canvas = [packed("a_11_111_x.ipynb", "b_12_112_x.ipynb"), packed("c_13_113_x.ipynb")]
        wrapped = tree(tmp_path / "1", ("hw/export.zip", canvas[0]), "hw/readme.txt")
        assert set(by_owner(find(wrapped, "07")[0])) == {"a", "b"}
        sections = tree(tmp_path / "2", ("monday.zip", canvas[0]), ("friday.zip", canvas[1]))
        assert {(h.owner, h.section) for h in find(sections, "07")[0]} == {
            ("a", "monday.zip"),
            ("b", "monday.zip"),
            ("c", "friday.zip"),
        }
        plain = tree(
            tmp_path / "3", "mon/jane/07_adaln.ipynb", "mon/bob/07_adaln.ipynb", "fri/jane li/x.ipynb", "fri/al/x.ipynb"
        )
        assert {(h.owner, h.section) for h in find(plain, "07")[0]} == {
            ("jane", "mon"),
            ("bob", "mon"),
            ("jane li", "fri"),
            ("al", "fri"),
        }
        lessons = tree(tmp_path / "4", "06_dit/jane.ipynb", "07_adaln/jane.ipynb", "07_adaln/bob.ipynb")
        assert [h.file for h in find(lessons, "07")[0]] == ["07_adaln/bob.ipynb", "07_adaln/jane.ipynb"]

    def test_one_student_alone(self, tmp_path):
        for place in ("class/jane", "jane"):
            root = tree(tmp_path / "a" / place, "07_adaln.ipynb")
            assert [h.owner for h in find(root, "07")[0]] == ["jane"]
        assert [h.owner for h in find(tmp_path / "a" / "class", "07")[0]] == ["jane"]
        handins, _ = find(root / "07_adaln.ipynb", "07")
        assert [handin.read() for handin in handins] == [b"07_adaln.ipynb"]


class TestWhatIsGraded:
    def test_notebooks_of_other_lessons_are_passed_over_and_unclear_names_kept(self, tmp_path):
        files = (
            "jane/05_vit.ipynb", "jane/Copy of 06-dit (1).ipynb", "jane/07_adaln.ipynb", "jane/answers.ipynb",
            "bob/05_vit/work.ipynb", "bob/Lesson 5.ipynb", "cat/107_adaln.ipynb", "dan/07_adaln/from 06_dit.ipynb",
        )  # fmt: skip
        handins, problems = find(tree(tmp_path, *files), "07")
        assert by_owner(handins) == {
            "cat": ["cat/107_adaln.ipynb"],
            "jane": ["jane/07_adaln.ipynb", "jane/answers.ipynb"],
        }
        assert len(problems) == 3
        assert "jane: by the name, 05_vit.ipynb, Copy of 06-dit (1).ipynb belong to other lessons" in " ".join(problems)
        assert len(find(tmp_path)[0]) == len(files)

    def test_every_lesson_of_the_course_is_known_by_its_file_name(self, tmp_path):
        names = [path.name for path in (Path(__file__).parents[1] / "notebooks").glob("*.ipynb")]
        assert len(names) > 10
        root = tree(tmp_path, *(f"jane/{name}" for name in names), *(f"{name[:-6]}-2 (bob).ipynb" for name in names))
        for name in names:
            handins, _ = find(root, name[:2])
            assert {handin.owner for handin in handins} == {"jane", "bob"}
            assert all(name[:-6] in handin.file for handin in handins)

    def test_what_is_no_hand_in_is_passed_over(self, tmp_path):
        files = (
            "jane/.ipynb_checkpoints/07_adaln-checkpoint.ipynb", "__MACOSX/jane/._07_adaln.ipynb",
            "jane/._07_adaln.ipynb", ".DS_Store", "jane/data.csv", "jane/07_adaln.py", "jane/.venv/x/demo.ipynb",
            "readme.ipynb.bak",
        )  # fmt: skip
        for root in both(tmp_path, "jane/07_adaln.ipynb", *files):
            handins, problems = find(root, "07")
            assert ([handin.file for handin in handins], problems) == (["jane/07_adaln.ipynb"], [])

    def test_endings_that_browsers_add(self, tmp_path):
        handins, _ = find(tree(tmp_path, "jane.ipynb.txt", "bob.IPYNB", "cat.ipynb.json", "dan.json"), "07")
        assert [handin.owner for handin in handins] == ["bob", "cat", "jane"]

    def test_who_handed_in_something_else_is_not_passed_over_silently(self, tmp_path):
        root = tree(tmp_path, "jane/07.py", "bob/work.rar", ("cat.zip", packed("a.txt")), "dan/07_adaln.ipynb")
        problems = "\n".join(find(root, "07")[1])
        for line in (
            "jane: there is no notebook",
            "bob/work.rar: an archive that is not read",
            "cat.zip: there is no note",
        ):
            assert line in problems
        assert "dan" not in problems
        assert "No notebook of lesson 07 was found" in find(tree(tmp_path / "empty", "a.txt"), "07")[1][0]

    def test_too_many_from_one_student_leave_the_others_alone(self, tmp_path):
        many = packed(*(f"{n}.ipynb" for n in range(3000)), "z/07_adaln.ipynb")
        handins, problems = find(tree(tmp_path, ("mallory.zip", many), "jane.ipynb"), "07")
        assert len(by_owner(handins)["mallory"]) == 20
        assert "mallory.zip/z/07_adaln.ipynb" in by_owner(handins)["mallory"]
        assert by_owner(handins)["jane"] == ["jane.ipynb"]
        assert problems == ["mallory: only 20 of 3001 notebooks are graded; the rest are too many or too large."]

    @pytest.mark.parametrize("place", ["missing", "file.txt"])
    def test_what_cannot_hold_submissions_is_refused(self, tmp_path, place):
        (tmp_path / "file.txt").write_text("hello")
        with pytest.raises(ValueError, match="neither a folder nor a zip nor a notebook"):
            find(tmp_path / place)


class TestKeys:
    FILES = ("Jane/07_adaln.ipynb", "jane/07_adaln.ipynb", "JANE.ipynb", "con.ipynb", "王小明.ipynb", "😀.ipynb",
             "=cmd.ipynb", "<script>alert(1)<.ipynb", "-rf.ipynb", "a" * 200 + ".ipynb",
             "a" * 199 + "b.ipynb")  # fmt: skip

    def test_keys_are_safe_unique_and_stable(self, tmp_path):
        archive = tmp_path / "export.zip"
        archive.write_bytes(packed(*self.FILES))
        first, _ = find(archive, "07")
        assert len(first) == len({handin.key for handin in first}) == len(self.FILES)
        for handin in first:
            assert 3 < len(handin.key) <= 80
            assert set(handin.key) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.")
            assert handin.key[0] not in ".-"
        archive.write_bytes(packed("zoe.ipynb", *reversed(self.FILES), "adam.ipynb"))
        second = {handin.file: handin.key for handin in find(archive, "07")[0]}
        assert {handin.file: handin.key for handin in first}.items() <= second.items()

    def test_students_keys_do_not_depend_on_who_else_handed_in(self, tmp_path):
        root = tree(tmp_path, "doejane_12_345_x.ipynb", "王小明.ipynb", "王小红.ipynb", "con.ipynb", "Jane  DOE.ipynb")
        handins, _ = find(root, "07")
        together, _ = match(handins, [])
        for handin in handins:
            assert match([handin], [])[0][handin.key] == together[handin.key]
        keys = sorted(student.key for student in together.values())
        assert len(set(keys)) == 5
        assert "doejane-12" in keys
        assert "con" not in keys
        assert all(set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for key in keys)

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(names=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40), min_size=1))
    def test_any_name_in_a_zip_can_be_lived_with(self, tmp_path, names):
        archive = tmp_path / "odd.zip"
        archive.write_bytes(packed(*((f"{name}.ipynb", b"{}") for name in dict.fromkeys(names))))
        handins, problems = find(archive, "07")
        owners, more = match(handins, [])
        assert len({handin.key for handin in handins}) == len(handins)
        for text in (*problems, *more, *(h.file for h in handins), *(h.owner for h in handins)):
            text.encode()
            assert "\n" not in text
            assert "\0" not in text
            assert "\u202e" not in text
        for handin in handins:
            assert handin.read() == b"{}"
            assert owners[handin.key].key

    @POSIX
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(name=st.binary(min_size=1, max_size=60).filter(lambda raw: not set(raw) & {0, 47} and raw[:1] != b"."))
    def test_any_bytes_in_a_file_name_can_be_lived_with(self, tmp_path_factory, name):
        folder = tmp_path_factory.mktemp("odd")
        (Path(os.fsdecode(os.fsencode(folder) + b"/" + name + b".ipynb"))).write_bytes(b"{}")
        tree(folder, "jane.ipynb")
        handins, problems = find(folder, "07")
        odd = [handin for handin in handins if handin.file != "jane.ipynb"]
        assert not problems
        assert len(handins) == 2 or name == b"jane"
        for handin in odd:
            assert handin.read() == b"{}"
            (handin.file + handin.owner).encode("utf-8", "strict")


@contextmanager
def nobodys_folder():
    """A folder of one's own without root's rights, where there are any: root reads everything."""
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as folder:
        if root:
            os.chown(folder, 65534, -1)
            os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            if root:
                os.seteuid(0)


class TestHostileFolders:
    @POSIX
    def test_links_pipes_and_devices_are_listed_and_never_opened(self, tmp_path):
        secret = tree(tmp_path / "outside", "secret.ipynb", "deep/07_adaln.ipynb")
        root = tree(tmp_path / "in", "jane/07_adaln.ipynb", "bob/07_adaln.ipynb")
        (root / "bob/link.ipynb").symlink_to(secret / "secret.ipynb")
        (root / "bob/folder").symlink_to(secret)
        (root / "bob/loop").symlink_to(root)
        (root / "bob/dangling.ipynb").symlink_to("/nowhere")
        os.mkfifo(root / "bob/pipe.ipynb")
        before = fingerprint(tmp_path)
        handins, problems = find(root, "07")
        assert [handin.read() for handin in handins] == [b"bob/07_adaln.ipynb", b"jane/07_adaln.ipynb"]
        assert sorted(problem.split(";")[0] for problem in problems) == [
            "bob/dangling.ipynb: a link", "bob/folder: a link", "bob/link.ipynb: a link", "bob/loop: a link",
            "bob/pipe.ipynb: no ordinary file",
        ]  # fmt: skip
        assert fingerprint(tmp_path) == before

    @POSIX
    def test_a_file_that_becomes_a_link_or_a_pipe_is_not_read(self, tmp_path):
        tree(tmp_path, "jane.ipynb", "bob.ipynb", "cat.ipynb")
        handins, _ = find(tmp_path, "07")
        for name in ("jane", "bob", "cat"):
            (tmp_path / f"{name}.ipynb").unlink()
        (tmp_path / "jane.ipynb").symlink_to(__file__)
        os.mkfifo(tmp_path / "bob.ipynb")
        for handin in handins:
            with pytest.raises(ValueError, match="It cannot be read") as raised:
                handin.read()
            assert str(tmp_path) not in str(raised.value)

    @POSIX
    def test_unreadable_files_and_folders_cost_nobody_else(self):
        with nobodys_folder() as root:
            tree(root, "jane.ipynb", "bob/07_adaln.ipynb", "cat.ipynb", ("dan.zip", packed("x.ipynb")))
            for name in ("jane.ipynb", "bob", "dan.zip"):
                (root / name).chmod(0)
            try:
                handins, problems = find(root, "07")
            finally:
                (root / "bob").chmod(0o700)
            assert [handin.owner for handin in handins] == ["cat", "jane"]
            assert problems == [
                "bob: this folder cannot be read (Permission denied).",
                "dan.zip: it cannot be read (Permission denied).",
            ]  # fmt: skip
            with pytest.raises(ValueError, match="cannot be read: Permission denied"):
                handins[1].read()

    def test_very_deep_folders_end(self, tmp_path):
        tree(tmp_path, "jane.ipynb", "/".join(["bob", *["d"] * 60, "07_adaln.ipynb"]))
        handins, problems = find(tmp_path, "07")
        assert [handin.owner for handin in handins] == ["jane"]
        assert any("too many folders" in problem for problem in problems)

    def test_a_limit_holds_for_files(self, tmp_path):
        tree(tmp_path, ("jane.ipynb", b"x" * 1000))
        (handin,) = find(tmp_path, "07")[0]
        assert handin.size == len(handin.read(1000)) == 1000
        with pytest.raises(ValueError, match="It cannot be read: it is larger than 999 bytes"):
            handin.read(999)


def member(name: str, mode: int = 0o100644, system: int = 3) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr, info.compress_type = system, mode << 16, zipfile.ZIP_DEFLATED
    return info


def patched(data: bytes, central: dict[int, bytes], local: dict[int, bytes] | None = None, which: int = 0) -> bytes:
    """Overwrite fields of a member's central and local headers, by their offsets."""
    raw = bytearray(data)
    for signature, fields in ((b"PK\1\2", central), (b"PK\3\4", local or {})):
        start = -1
        for _ in range(which + 1):
            start = raw.index(signature, start + 1)
        for offset, value in fields.items():
            raw[start + offset : start + offset + len(value)] = value
    return bytes(raw)


class TestHostileZips:
    @pytest.mark.parametrize(
        ("zipped", "words"),
        [
            (packed((member("a.ipynb", stat.S_IFLNK | 0o777), b"/etc/passwd")), "a link; links are not followed"),
            (packed((member("folder", stat.S_IFLNK | 0o777), b"/etc")), "a link; links are not followed"),
            (packed((member("a.ipynb", stat.S_IFIFO | 0o644), b"")), "no ordinary file"),
            (packed("../../../../tmp/evil.ipynb"), "leads out of the zip"),
            (packed("ok/../../evil.ipynb"), "leads out of the zip"),
            (packed("..\\..\\evil.ipynb"), "leads out of the zip"),
            (packed("/".join("d" * 60) + "/x.ipynb"), "too many folders"),
            (patched(packed("a.ipynb"), {8: b"\1\0"}, {6: b"\1\0"}), "locked with a password"),
            (packed("a.ipynb", compression=zipfile.ZIP_LZMA), "packed by a method that is not read"),
            (packed("a.ipynb", compression=zipfile.ZIP_BZIP2), "packed by a method that is not read"),
            (packed(("a.ipynb", bytes(80 * 2**20))), "times when unpacked"),
            (b"PK\3\4 this is no zip", "cannot be opened as a zip"),
            (b"", "cannot be opened as a zip"),
            (packed("a.ipynb")[:-10], "cannot be opened as a zip"),
            (packed(("in.zip", b"PK broken"), "a.txt"), "cannot be opened as a zip"),
        ],
    )  # fmt: skip
    def test_is_listed_and_costs_nobody_else(self, tmp_path, zipped, words):
        root = tree(tmp_path / "in", ("mallory.zip", zipped), "jane.ipynb")
        before = fingerprint(tmp_path)
        handins, problems = find(root, "07")
        assert [handin.owner for handin in handins] == ["jane"]
        assert any(problem.startswith("mallory.zip") and words in problem for problem in problems), problems
        assert fingerprint(tmp_path) == before

    def test_absolute_names_lose_their_root(self, tmp_path):
        files = ("/etc/07_adaln.ipynb", "C:\\Users\\jane\\answers.ipynb", "./x//y.ipynb")
        root = tree(tmp_path, ("jane.zip", packed(*((member(file), file.encode()) for file in files))), "bob.ipynb")
        handins, _ = find(root, "07")
        assert by_owner(handins)["jane"] == [
            "jane.zip/C:/Users/jane/answers.ipynb", "jane.zip/etc/07_adaln.ipynb", "jane.zip/x/y.ipynb",
        ]  # fmt: skip
        assert {handin.read().decode() for handin in handins} == {*files, "bob.ipynb"}

    def test_two_members_of_one_name_are_two_attempts(self, tmp_path):
        with pytest.warns(UserWarning, match="Duplicate name"):
            zipped = packed(("07_adaln.ipynb", b"first"), ("07_adaln.ipynb", b"second"))
        handins, _ = find(tree(tmp_path, ("jane.zip", zipped), "bob.ipynb"), "07")
        assert len({handin.key for handin in handins}) == 3
        assert {handin.read() for handin in handins} == {b"first", b"second", b"bob.ipynb"}

    def test_control_characters_and_reversed_text_are_not_shown(self, tmp_path):
        name = "07_adaln\x1b[2J\r\n\u202ebnypi.ipynb"
        handins, _ = find(tree(tmp_path, ("jane.zip", packed(name)), "bob.ipynb"), "07")
        (file,) = by_owner(handins)["jane"]
        assert file == "jane.zip/07_adaln�[2J���bnypi.ipynb"
        assert display("ok‌ क्‍ष") == "ok‌ क्‍ष"  # joiners belong to many languages

    def test_a_name_ends_at_a_nul(self, tmp_path):
        zipped = packed("evil.ipynbQ.png", "evilQ.ipynb").replace(b"Q", b"\0")
        handins, _ = find(tree(tmp_path, ("jane.zip", zipped), "bob.ipynb"), "07")
        assert by_owner(handins)["jane"] == ["jane.zip/evil.ipynb"]
        assert handins[1].read() == b"evil.ipynbQ.png"

    def test_a_size_that_lies_is_found_out(self, tmp_path):
        data = packed(("07_adaln.ipynb", b"x" * 5000))
        small = struct.pack("<L", 10)
        root = tree(tmp_path, ("jane.zip", patched(data, {24: small}, {22: small})), "bob.ipynb")
        handins, _ = find(root, "07")
        lying = next(handin for handin in handins if handin.owner == "jane")
        assert lying.size == 10
        with pytest.raises(ValueError, match="It cannot be read"):
            lying.read()

    def test_no_more_is_read_than_the_limit(self, tmp_path):
        root = tree(tmp_path, ("jane.zip", packed(("07_adaln.ipynb", bytes(60 * 2**20)))), "bob.ipynb")
        handin = next(handin for handin in find(root, "07")[0] if handin.owner == "jane")
        tracemalloc.start()
        with pytest.raises(ValueError, match="larger than 1 MB"):
            handin.read(2**20)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 * 2**20

    def test_damaged_contents_are_a_sentence(self, tmp_path):
        data = bytearray(packed(("07_adaln.ipynb", os.urandom(4000))))
        data[200:260] = b"\0" * 60
        handins, _ = find(tree(tmp_path, ("jane.zip", bytes(data)), "bob.ipynb"), "07")
        with pytest.raises(ValueError, match=r"It cannot be read: .+"):
            next(handin for handin in handins if handin.owner == "jane").read()

    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=12))
    def test_whatever_is_damaged_only_sentences_come_of_it(self, tmp_path, flips):
        inner = packed("07_adaln.ipynb", "data.csv")
        data = bytearray(packed(("work.zip", inner), "doejane_12_345_x.ipynb", ("b/c.ipynb", b"y" * 99)))
        for place, value in flips:
            data[int(place * len(data))] = value
        tree(tmp_path, ("jane.zip", bytes(data)), "bob.ipynb")
        handins, problems = find(tmp_path, "07")
        assert "bob" in by_owner(handins)
        assert all(isinstance(problem, str) for problem in problems)
        for handin in handins:
            with suppress(ValueError):
                assert len(handin.read(1000)) <= 1000

    def test_a_list_of_members_that_claims_to_be_huge_is_not_read(self, tmp_path):
        data = bytearray(packed("a.ipynb"))
        end = data.rindex(b"PK\5\6")
        data[end + 12 : end + 16] = struct.pack("<L", 2**31 - 1)
        handins, problems = find(tree(tmp_path, ("mallory.zip", bytes(data)), "jane.ipynb"), "07")
        assert len(handins) == 1
        assert any(problem.startswith("mallory.zip: it cannot be opened as a zip") for problem in problems)

    def test_a_crowd_of_members_is_not_looked_into(self, tmp_path, monkeypatch):
        monkeypatch.setattr(submissions, "MEMBERS", 100)
        crowd = packed(*(f"{n}.txt" for n in range(100)), "07_adaln.ipynb")
        handins, problems = find(tree(tmp_path, ("mallory.zip", crowd), "jane.ipynb"), "07")
        assert [handin.owner for handin in handins] == ["jane"]
        assert problems == ["mallory.zip: it holds 101 files, more than 100; it is not looked into."]
        monkeypatch.setattr(submissions, "_DIRECTORY", 1000)
        assert "list of members is too long" in find(tmp_path, "07")[1][0]

    def test_zips_in_zips(self, tmp_path):
        three = packed(("3.zip", packed(("4.zip", packed("too deep.ipynb")), "in 3.ipynb")), "in 2.ipynb")
        root = tree(tmp_path / "a", ("jane.zip", packed(("2.zip", three), "07_adaln.ipynb")), "bob.ipynb")
        handins, problems = find(root, "07")
        assert by_owner(handins)["jane"] == [
            "jane.zip/2.zip/3.zip/in 3.ipynb", "jane.zip/2.zip/in 2.ipynb", "jane.zip/07_adaln.ipynb",
        ]  # fmt: skip
        assert {handin.read() for handin in handins} == {b"07_adaln.ipynb", b"in 2.ipynb", b"in 3.ipynb", b"bob.ipynb"}
        assert "jane.zip/2.zip/3.zip/4.zip: too many zips in each other; it is not looked into." in problems
        export = tmp_path / "export.zip"
        students = packed(("work.zip", packed("07_adaln.ipynb")))
        export.write_bytes(packed(("doejane_12_345_x.zip", students), "libo_13_346_07_adaln.ipynb"))
        handins, problems = find(export, "07")
        assert not problems
        assert by_owner(handins)["doejane"] == ["doejane_12_345_x.zip/work.zip/07_adaln.ipynb"]
        assert handins[0].read() == b"07_adaln.ipynb"

    def test_many_inner_bombs_are_not_unpacked(self, tmp_path, monkeypatch):
        unpacked = []
        up_to = submissions._up_to
        monkeypatch.setattr(submissions, "_UNPACKED", 9 * 2**20)
        monkeypatch.setattr(submissions, "_up_to", lambda *args: unpacked.append(up_to(*args)) or unpacked[-1])
        bomb = packed(("k.zip", bytes(2 * 2**20)))
        flat = packed(*((f"{n}.zip", bytes(2 * 2**20)) for n in range(30)))
        deep = packed(*((f"{n}.zip", bomb) for n in range(30)))
        root = tree(tmp_path, ("mallory.zip", flat), ("mel.zip", deep), "jane.ipynb", ("bob.zip", packed("x.ipynb")))
        handins, problems = find(root, "07")
        assert [handin.owner for handin in handins] == ["bob", "jane"]
        assert sum(map(len, unpacked)) < 20 * 2**20
        assert sum("too much is packed" in problem for problem in problems) > 45

    def test_one_students_bombs_leave_room_for_the_others(self, tmp_path, monkeypatch):
        monkeypatch.setattr(submissions, "_UNPACKED", 2**20)
        monkeypatch.setattr(submissions, "_UNPACKED_OF_ONE", 2**19)
        bombs = packed(*((f"{n}.zip", bytes(2**18)) for n in range(30)))
        honest = packed(("work.zip", packed(("07_adaln.ipynb", os.urandom(300_000)))))
        (tmp_path / "e.zip").write_bytes(packed(("a_11_111_x.zip", bombs), ("b_12_112_x.zip", honest)))
        assert [handin.owner for handin in find(tmp_path / "e.zip", "07")[0]] == ["b"]

    def test_a_name_that_is_a_regular_expressions_nightmare_takes_no_time(self, tmp_path):
        long = 60_000
        names = [
            " " * long,
            "a" * long,
            "(1)" * (long // 3),
            "_1" * (long // 2),
            "copy of " * (long // 8),
            "a." * (long // 2),
        ]
        (tmp_path / "odd.zip").write_bytes(packed(*((f"{n}{name}.ipynb", b"{}") for n, name in enumerate(names))))
        start = datetime.now()
        handins, _ = find(tmp_path / "odd.zip", "07")
        match(handins, [Student("a", "A B")])
        assert datetime.now() - start < timedelta(seconds=3)
        assert len(handins) == len(names)
        assert all(len(handin.file) <= 302 for handin in handins)

    def test_a_zip_that_changes_after_it_was_found_is_not_read_for_another(self, tmp_path):
        root = tree(tmp_path, ("jane.zip", packed("07_adaln.ipynb")), "bob.ipynb")
        handin = next(handin for handin in find(root, "07")[0] if handin.owner == "jane")
        (root / "jane.zip").write_bytes(packed("other.ipynb", "07_adaln.ipynb"))
        with pytest.raises(ValueError, match="no longer where it was found"):
            handin.read()

    def test_names_without_a_declared_encoding(self, tmp_path):
        raw = packed("XXXXXXX.ipynb").replace(b"XXXXXXX", "Zoë M".encode().ljust(7, b"_"))
        (tmp_path / "mac.zip").write_bytes(raw)
        assert [handin.owner for handin in find(tmp_path / "mac.zip", "07")[0]] == ["Zoë M"]


class TestRosterAndTimes:
    ROSTER = (
        "Student,ID,SIS Login ID,Section\n    Points Possible,,,\n"
        '"Doe, Jane",12345,jane@x.edu,A\n"van der Berg, Anna",7,anna@x.edu,B\n'
        '"Li, Bo",8,bo1@x.edu,B\n"Li, Bo",9,bo2@x.edu,A\n'
    )

    def roster(self, tmp_path, text=None, name="roster.csv"):
        (tmp_path / name).write_text(self.ROSTER if text is None else text, encoding="utf-8-sig")
        return tmp_path / name

    def test_reads_what_lmss_export(self, tmp_path):
        students = read_roster(self.roster(tmp_path))
        assert students[0] == Student("doejane-12345", "Doe, Jane", "12345", "jane@x.edu", "A")
        assert [student.id for student in students] == ["12345", "7", "8", "9"]
        gradescope = "First Name,Last Name,SID,Email,Sections\nJane,Doe,0123,jane@x.edu,\n"
        assert read_roster(self.roster(tmp_path, gradescope)) == [
            Student("janedoe-0123", "Jane Doe", "0123", "jane@x.edu")
        ]
        european = 'Name;E-Mail\n"Zoë; die Zweite";zoe@x.edu\n王小明;w@x.edu\n'
        names = read_roster(self.roster(tmp_path, european))
        assert [student.name for student in names] == ["Zoë; die Zweite", "王小明"]
        assert len({student.key for student in names}) == 2
        assert all(student.key.isascii() for student in names)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("name\nJane Doe\nBo\njane doe\n", "lines 2 and 4 are the same jane doe; give each its own id"),
            ("who,what\na,b\n", "names no student"),
            ("", "names no student"),
        ],
    )
    def test_a_roster_that_cannot_be_used_is_a_sentence(self, tmp_path, text, words):
        with pytest.raises(ValueError, match=words):
            read_roster(self.roster(tmp_path, text))

    def test_a_roster_in_another_encoding_or_none_at_all_is_a_sentence(self, tmp_path):
        (tmp_path / "latin.csv").write_bytes("name\nZoë\n".encode("latin-1"))
        with pytest.raises(ValueError, match="not written in UTF-8"):
            read_roster(tmp_path / "latin.csv")
        with pytest.raises(ValueError, match="cannot be read"):
            read_roster(tmp_path / "missing.csv")

    @pytest.mark.parametrize(
        ("file", "student"),
        [
            ("doejane_12345_678_x.ipynb", "12345"), ("doejane_999_678_x.ipynb", "12345"), ("Jane Doe.ipynb", "12345"),
            ("DOE, jane.ipynb", "12345"), ("12345.ipynb", "12345"), ("jane@x.edu.ipynb", "12345"),
            ("jane.ipynb", "12345"),
            ("jane_doe_07_adaln.ipynb", "12345"), ("Jàne Döe/07_adaln.ipynb", "12345"),
            ("vanderberganna_1_678_x.ipynb", "7"),
            ("Anna van der Berg_55_assignsubmission_file_/x.ipynb", "7"), ("Anna van der Berg - 07_adaln.ipynb", "7"),
            ("libo_9_678_x.ipynb", "9"), ("libo_8_678_x.ipynb", "8"), ("bo2@x.edu/07_adaln.ipynb", "9"),
            ("Bo Li.ipynb", ""), ("libo_10_678_x.ipynb", ""), ("Jan Doe.ipynb", ""), ("Doe.ipynb", ""),
        ],
    )  # fmt: skip
    def test_finds_the_student(self, tmp_path, file, student):
        handins, _ = find(tree(tmp_path / "s", file), "07")
        owners, problems = match(handins, read_roster(self.roster(tmp_path)))
        owner = owners[handins[0].key]
        assert (owner.id if student else "") == student
        assert bool(problems) == (not student)
        if not student:
            assert owner.key not in {known.key for known in read_roster(tmp_path / "roster.csv")}
            assert "graded under its own name" in problems[0]

    def test_letters_that_are_more_than_accents_tell_names_apart(self):
        assert folded("José GARCÍA-Núñez") == folded("jose garcia nunez") == "josegarcianunez"
        assert folded("किरण") != folded("करण")
        assert folded("が") != folded("か")
        assert folded("ﬁnn") == "finn"

    def test_times_from_a_table(self, tmp_path):
        text = (
            "Name,Email,Submission Time\nJane Doe,jane@x.edu,2026-03-01 17:00:00 -0700\n"
            "Bo Li,bo1@x.edu,2026-03-02T08:00Z\n"
            "Bo Li,bo2@x.edu,2026-03-03T08:00:00+01:00\nAnn,ann@x.edu,\n"
        )
        times = read_times(self.roster(tmp_path, text, "times.csv"))
        assert times == {
            "Jane Doe": "2026-03-01T17:00:00-07:00", "jane@x.edu": "2026-03-01T17:00:00-07:00",
            "bo1@x.edu": "2026-03-02T08:00:00+00:00", "bo2@x.edu": "2026-03-03T08:00:00+01:00",
        }  # fmt: skip

    def test_moodles_long_dates_and_times_without_a_zone_are_local(self, tmp_path):
        text = 'Full name,Last modified (submission)\nJane,"Thursday, 12 October 2023, 8:33 PM"\nBo,2023-10-12 20:33\n'
        times = read_times(self.roster(tmp_path, text, "times.csv"))
        assert times["Jane"] == times["Bo"] == datetime(2023, 10, 12, 20, 33).astimezone().isoformat()

    @pytest.mark.parametrize(
        "time", ["yesterday", "2026-13-01 10:00", "12/10/2026", "2026-03-01 10:00 Foo/Bar", "99999"]
    )
    def test_a_time_that_cannot_be_read_is_a_sentence(self, tmp_path, time):
        with pytest.raises(ValueError, match=r"line 2: .* is no time"):
            read_times(self.roster(tmp_path, f"name,time\nJane,{time}\n", "times.csv"))

    def test_two_times_for_one_student_need_files(self, tmp_path):
        rows = "7,2026-03-01T10:00Z,a/1.ipynb\n7,2026-03-02T10:00Z,a/2.ipynb\n"
        with pytest.raises(ValueError, match="line 3: 7 has two times"):
            read_times(self.roster(tmp_path, f"id,time,place\n{rows}", "times.csv"))
        times = read_times(self.roster(tmp_path, f"id,time,file\n{rows}", "times.csv"))
        handins, _ = find(tree(tmp_path / "s", "a/1.ipynb", "a/2.ipynb", "b/1.ipynb"), "07")
        owners, _ = match(handins, [])
        assert [handin.submitted[:10] for handin in timed(handins, times, owners)] == ["2026-03-01", "2026-03-02", ""]

    def test_a_table_fills_in_what_the_lms_does_not_say(self, tmp_path):
        bo = "submission_1:\n  :submitters:\n  - :name: Bo Li\n    :sid: '8'\n  :created_at: 2026-01-01 00:00:00 Z\n"
        root = tree(
            tmp_path / "s", "submission_1/x.ipynb", "doejane_12345_678_x.ipynb", "Anna van der Berg.ipynb",
            ("submission_metadata.yml", bo.encode()),
        )  # fmt: skip
        handins, _ = find(root, "07")
        roster = read_roster(self.roster(tmp_path))
        owners, _ = match(handins, roster)
        times = {"8": "2026-02-02T00:00:00+00:00", "jane@x.edu": "2026-03-03T00:00:00+00:00"}
        found = {owners[handin.key].name: handin.submitted[:10] for handin in timed(handins, times, owners)}
        assert found == {"Li, Bo": "2026-01-01", "Doe, Jane": "2026-03-03", "van der Berg, Anna": ""}

    def test_neither_files_nor_zips_tell_a_time(self, tmp_path):
        (tmp_path / "e.zip").write_bytes(packed((member("jane.ipynb"), b"{}"), "bob.ipynb"))
        root = tree(tmp_path / "s", "jane.ipynb")
        os.utime(root / "jane.ipynb", (0, 0))
        assert {handin.submitted for place in (tmp_path / "e.zip", root) for handin in find(place, "07")[0]} == {""}


class TestNatural:
    def test_sorts_as_people_do(self):
        files = ["07_adaln.ipynb", "07_adaln-1.ipynb", "07_adaln-2.ipynb", "07_adaln-10.ipynb", "08.ipynb"]
        assert sorted(reversed(files), key=natural) == files

    @given(first=st.text(max_size=60), second=st.text(max_size=60))
    def test_compares_anything(self, first, second):
        assert (natural(first) < natural(second)) or natural(second) <= natural(first)
        natural("9" * 10_000)


def test_the_same_tree_gives_the_same_answer_and_is_left_alone(tmp_path):
    root = tree(tmp_path / "s", "b/07_adaln.ipynb", "a_LATE_1_234_07_adaln.ipynb", ("c.zip", packed("07_adaln.ipynb")))
    before = fingerprint(root), hashlib.sha256((root / "c.zip").read_bytes()).hexdigest()
    first, second = find(root, "07"), find(str(root), "07")
    for handin in first[0]:
        handin.read()
    assert first == second
    assert before == (fingerprint(root), hashlib.sha256((root / "c.zip").read_bytes()).hexdigest())
