"""A rubric means what it says, says so where it means nothing, and takes no point from anybody on a guess."""

import itertools
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lesson_lib.exercises.registry import PROSE, REGISTRY
from lesson_lib.grading import rubric as module
from lesson_lib.grading.marks import DELEGATED, EMPTY, FAILED, MISSING, PASSED, Mark, Notebook, Student
from lesson_lib.grading.rubric import Late, Rubric, grades, lateness, read_rubric

DEADLINE = datetime(2026, 3, 31, 23, 59, tzinfo=UTC)
LATE = Late(DEADLINE, 0.1, grace_minutes=30, floor=0.5)
EXERCISES = [key for key, exercise in REGISTRY.items() if exercise.lesson == "07"]
JANE, BO, ANN = Student("jane", "Jane"), Student("bo", "Bo"), Student("ann", "ann")


def read(tmp_path, text: str, lesson: str = "07") -> Rubric:
    path = tmp_path / "rubric.toml"
    path.write_text(text)
    return read_rubric(path, lesson)


def notebook(key: str, passed=(), submitted="", late_hint=False, file="", other=FAILED) -> Notebook:
    marks = tuple(Mark(name, PASSED if name in passed else other) for name in ("a", "b", "c"))
    return Notebook(key, key, file or f"{key}.ipynb", "", "07", 0, submitted, late_hint, marks)


def after(days=0.0, minutes=0.0) -> str:
    return (DEADLINE + timedelta(days=days, minutes=minutes)).isoformat()


class TestReading:
    def test_without_a_file_the_course_decides(self):
        for lesson in {exercise.lesson for exercise in REGISTRY.values()}:
            rubric = read_rubric(None, lesson)
            assert rubric.points == {key: e.points for key, e in REGISTRY.items() if e.lesson == lesson}
            assert rubric.words == {key: p.points for key, p in PROSE.items() if p.lesson == lesson}
            assert (rubric.late, rubric.keep, rubric.questions, rubric.lesson) == (None, "best", (), lesson)

    def test_the_example_in_the_documentation_is_a_rubric(self, tmp_path):
        lines = module.__doc__.splitlines()
        example = "\n".join(line[4:] for line in lines if line.startswith("    "))
        rubric = read(tmp_path, example)
        assert rubric.points["dit.modulate"] == 4
        assert rubric.points["dit.block_bug"] == 0
        assert rubric.points["dit.start_modulation"] == REGISTRY["dit.start_modulation"].points
        assert rubric.words == {"adaln.w1": 3, "adaln.mine": 2}
        assert rubric.late == Late(datetime.fromisoformat("2026-03-31T23:59:00+02:00"), 0.1, 30, 0.5)
        (question,) = rubric.questions
        assert (question.id, question.lesson, len(question.rubric)) == ("adaln.mine", "07", 2)
        assert (question.min_words, question.max_words) == (30, 120)
        words = rubric.in_words
        for part in ("best attempt", "2026-03-31 23:59 UTC+02:00", "30 minutes of grace", "10 %", "50 %"):
            assert part in words

    def test_ids_without_quotes_mean_the_same(self, tmp_path):
        rubric = read(tmp_path, "[points]\ndit.modulate = 1.5\ndit.AdaLNZeroBlock.forward = 9\n[words]\nadaln.w1 = 0\n")
        assert rubric.points["dit.modulate"] == 1.5
        assert rubric.points["dit.AdaLNZeroBlock.forward"] == 9
        assert rubric.words == {"adaln.w1": 0}

    def test_keep_may_stand_at_the_end(self, tmp_path):
        late = f"[late]\ndeadline = {DEADLINE.isoformat()}\nper_day = 0.1\n"
        assert read(tmp_path, f'{late}keep = "last"').keep == "last"
        assert read(tmp_path, f'keep = "last"\n{late}').keep == "last"

    def test_a_deadline_may_be_text(self, tmp_path):
        rubric = read(tmp_path, '[late]\ndeadline = "2026-03-31T23:59:00Z"\nper_day = 1')
        assert rubric.late == Late(DEADLINE, 1.0)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("[points]\n'dit.modulat' = 3", "no 'dit.modulat'; is it dit.modulate"),
            ("[points]\n'vit.patchify' = 3", "vit.patchify belongs to lesson 05"),
            ("[point]\n'dit.modulate' = 3", "no 'point'; is it points"),
            ("[points]\n'dit.modulate' = -1", "it must be a number, 0 or more"),
            ("[points]\n'dit.modulate' = true", "it must be a number, 0 or more"),
            ("[points]\n'dit.modulate' = '3'", "it must be a number, 0 or more"),
            ("[points]\n'dit.modulate' = nan", "it must be a number, 0 or more"),
            ("[points]\n'dit.modulate' = inf", "it must be a number, 0 or more"),
            ("points = 3", "a table is expected"),
            ("[words]\n'adaln.w2' = 3", "is it adaln.w1"),
            ("[words]\n'dit.w1' = 3", "dit.w1 belongs to lesson 06"),
            ("keep = 'all'", "it must be \"best\" or \"last\""),
            ("keep = 'best'\n[late]\nkeep = 'last'\ndeadline = 2026-01-01T00:00:00Z\nper_day = 0.1",
             "keep stands in it twice"),
            ("[late]\nper_day = 0.1", "it needs deadline"),
            ("[late]\n", "it needs deadline and per_day"),
            ("[late]\ndeadline = 2026-03-31T23:59:00\nper_day = 0.1", "and zone"),
            ("[late]\ndeadline = 2026-03-31\nper_day = 0.1", "and zone"),
            ("[late]\ndeadline = 'soon'\nper_day = 0.1", "and zone"),
            ("[late]\ndeadline = 2026-03-31T23:59:00Z\nper_day = 10", "per_day is 10; it is a share between 0 and 1"),
            ("[late]\ndeadline = 2026-03-31T23:59:00Z\nper_day = 0.1\nfloor = 50", "floor is 50; it is a share"),
            ("[late]\ndeadline = 2026-03-31T23:59:00Z\nper_day = 0.1\ngrace = 5", "no 'grace'; is it grace_minutes"),
            ("[late]\ndeadline = 2026-03-31T23:59:00Z\nper_day = 0.1\ngrace_minutes = -5", "grace_minutes is -5"),
            ("[question]\nid = 'x'", "two brackets"),
            ("[[question]]\nid = 'x'\ntext = 'Why?'", "question 1: it needs points and rubric"),
            ("[[question]]\nid = 'x y'\ntext = 'Why?'\npoints = 1\nrubric = []", "the id is 'x y'"),
            ("[[question]]\nid = 'x'\ntext = ' '\npoints = 1\nrubric = []", "text must say"),
            ("[[question]]\nid = 'x'\ntext = 'Why?'\npoints = 1.5\nrubric = []", "a whole number"),
            ("[[question]]\nid = 'x'\ntext = 'Why?'\npoints = 1\nrubric = 'a'", "a list of lines"),
            ("[[question]]\nid = 'x'\ntext = 'Why?'\npoints = 1\nrubric = []\nmin_words = 200", "more than max_words"),
            ("[[question]]\nid = 'adaln.w1'\ntext = 'Why?'\npoints = 1\nrubric = []", "the id adaln.w1 is taken"),
            ("[[question]]\nid = 'dit.modulate'\ntext = 'Why?'\npoints = 1\nrubric = []", "is taken"),
            (2 * "[[question]]\nid = 'x'\ntext = 'Why?'\npoints = 1\nrubric = []\n", "question 2: the id x is taken"),
            ("[points\n", "not valid TOML"),
        ],
    )  # fmt: skip
    def test_what_means_nothing_is_a_sentence(self, tmp_path, text, words):
        with pytest.raises(ValueError, match=words) as raised:
            read(tmp_path, text)
        assert "rubric.toml" in str(raised.value)

    def test_a_file_that_cannot_be_read_is_a_sentence(self, tmp_path):
        with pytest.raises(ValueError, match="cannot be read"):
            read_rubric(tmp_path / "missing.toml", "07")
        (tmp_path / "latin.toml").write_bytes("# ä".encode("latin-1"))
        with pytest.raises(ValueError, match="not valid TOML"):
            read_rubric(tmp_path / "latin.toml", "07")
        with pytest.raises(ValueError, match="no lesson '7'; the lessons are 00, 01"):
            read_rubric(None, "7")


class TestLateness:
    RUBRIC = Rubric("07", late=LATE)

    @pytest.mark.parametrize(
        ("submitted", "factor", "words"),
        [
            (after(days=-1), 1.0, ""),
            (after(), 1.0, ""),
            (after(minutes=1), 1.0, "1 minute after the deadline, within the grace"),
            (after(minutes=30), 1.0, "30 minutes after the deadline, within the grace"),
            (after(minutes=30.01), 0.9, "31 minutes after the deadline (1 day begun): 90 % of the points remain."),
            (after(days=1), 0.9, "1 day after the deadline (1 day begun)"),
            (after(days=1, minutes=30), 0.9, "1 day and 30 minutes after the deadline (1 day begun)"),
            (after(days=1, minutes=31), 0.8, "1 day and 31 minutes after the deadline (2 days begun): 80 %"),
            (after(days=2, minutes=185), 0.7, "2 days and 3 hours after the deadline (3 days begun): 70 %"),
            (after(days=5), 0.5, "(5 days begun): 50 %"),
            (after(days=400), 0.5, "(400 days begun): 50 % of the points remain."),
        ],
    )
    def test_costs_a_share_for_every_day_begun(self, submitted, factor, words):
        found, sentence = lateness(self.RUBRIC, submitted, False)
        assert found == factor
        assert words in sentence
        assert bool(words) == bool(sentence)

    def test_the_zone_of_the_hand_in_does_not_matter(self):
        for hours in (-11, 0, 2, 14):
            there = (DEADLINE + timedelta(days=1)).astimezone(timezone(timedelta(hours=hours)))
            assert lateness(self.RUBRIC, there.isoformat(), False)[0] == 0.9

    def test_nothing_is_taken_off_on_a_guess(self):
        factor, sentence = lateness(self.RUBRIC, "", True)
        assert factor == 1
        assert "a person must decide" in sentence
        assert lateness(self.RUBRIC, "", False) == (1.0, "It is not known when it was handed in: nothing is taken off.")
        factor, sentence = lateness(self.RUBRIC, after(days=-1), True)
        assert factor == 1
        assert "marks it late, but its time is before the deadline" in sentence
        for submitted, hint in itertools.product(("", after(days=9)), (False, True)):
            assert lateness(Rubric("07"), submitted, hint) == (1.0, "")

    @settings(deadline=None)
    @given(
        minutes=st.floats(-1e5, 1e6), per_day=st.floats(0, 1), floor=st.floats(0, 1), grace=st.floats(0, 1e4),
        more=st.floats(0, 1e4),
    )  # fmt: skip
    def test_never_helps_to_be_later_and_stays_a_share(self, minutes, per_day, floor, grace, more):
        rubric = Rubric("07", late=Late(DEADLINE, per_day, grace, floor))
        first, second = (lateness(rubric, after(minutes=m), False)[0] for m in (minutes, minutes + more))
        assert round(floor, 9) <= round(second, 9) <= round(first, 9) <= 1


class TestGrades:
    RUBRIC = Rubric("07", {"a": 2.0, "b": 3.0, "c": 0.0}, {"w": 2.0, "mine": 4.0}, late=LATE)

    def grade(self, *notebooks, rubric=None, words=None):
        (grade,) = grades(notebooks, {n.key: JANE for n in notebooks}, [JANE], rubric or self.RUBRIC, words or {})
        return grade

    def test_points_are_for_what_passed_and_nothing_else(self):
        for status in (FAILED, EMPTY, MISSING, DELEGATED):
            grade = self.grade(notebook("n", ("a",), after(-1), other=status))
            assert grade.attempts[0].points == {"a": 2, "b": 0, "c": 0}
        everything = Notebook("n", "n", "n", "", "07", 0, marks=(Mark("a", PASSED), Mark("unknown", PASSED)))
        assert self.grade(everything).total == 2
        assert self.grade(Notebook("n", "n", "n", "", "07", 0)).total == 0

    def test_every_student_has_one_grade_in_the_rosters_order(self):
        notebooks = [notebook("1", "a"), notebook("2", "ab"), notebook("3", "b")]
        owners = {"1": BO, "2": Student("zed", "zed"), "3": ANN}
        found = grades(notebooks, owners, [JANE, BO], self.RUBRIC, {})
        assert [grade.student.key for grade in found] == ["jane", "bo", "ann", "zed"]
        assert [grade.kept for grade in found] == [None, 0, 0, 0]
        assert [grade.total for grade in found] == [0, 2, 3, 5]
        assert {grade.possible for grade in found} == {11}

    def test_lateness_takes_its_share_of_everything(self):
        grade = self.grade(notebook("n", "ab", after(days=1)), words={("jane", "w"): 1.0, ("bo", "mine"): 4.0})
        assert grade.words == {"w": 1.0, "mine": None}
        assert grade.ungraded == ["mine"]
        assert grade.total == pytest.approx(0.9 * (5 + 1))

    def test_the_best_attempt_is_the_best_after_lateness(self):
        early, late = notebook("1", "b", after(days=-1)), notebook("2", "ab", after(days=9))
        assert self.grade(late, early).attempt.notebook == early
        assert self.grade(early, notebook("3", "ab", after(days=1))).attempt.notebook.key == "3"

    def test_of_equally_good_attempts_the_earlier_counts(self):
        attempts = [notebook(str(n), "a", after(days=-n)) for n in range(1, 5)]
        for order in itertools.permutations(attempts):
            grade = self.grade(*order)
            assert grade.attempt.notebook.key == "4"
            assert [attempt.notebook.key for attempt in grade.attempts] == ["4", "3", "2", "1"]

    def test_the_last_attempt_is_the_last_by_time_or_else_by_name(self):
        last = Rubric("07", self.RUBRIC.points, keep="last")
        timed = [
            notebook("z", "ab", after(days=-3)),
            notebook("a", "a", after(days=-1)),
            notebook("m", "b", after(days=-2)),
        ]
        files = ["x/07_adaln.ipynb", "x/07_adaln-1.ipynb", "x/07_adaln-2.ipynb", "x/07_adaln-10.ipynb"]
        named = [notebook(str(n), "a", file=file) for n, file in enumerate(files)]
        half = [*named[:3], notebook("3", "a", after(days=-99), file=files[3])]
        for many, key in ((timed, "a"), (named, "3"), (half, "3")):
            for order in itertools.permutations(many):
                assert self.grade(*order, rubric=last).attempt.notebook.key == key

    def test_a_wrong_file_is_not_the_last_attempt(self):
        last = Rubric("07", self.RUBRIC.points, keep="last")
        real, wrong = notebook("1", "ab", file="a.ipynb"), notebook("2", file="b.ipynb", other=MISSING)
        damaged = Notebook("3", "3", "c.ipynb", "", "07", 0, problems=("It is no notebook.",))
        assert self.grade(real, wrong, damaged, rubric=last).total == 5
        assert self.grade(wrong, damaged, rubric=last).kept == 1
        blank = notebook("4", file="d.ipynb", other=EMPTY)
        assert self.grade(real, blank, rubric=last).total == 0

    def test_a_grade_is_its_own(self):
        first, second = grades([], {}, [JANE, BO], self.RUBRIC, {})
        first.worth["a"] = 99.0
        assert second.worth["a"] == self.RUBRIC.points["a"] == 2

    def test_nothing_handed_in_is_nothing_earned(self):
        (grade,) = grades([], {}, [JANE], self.RUBRIC, {("jane", "w"): 2.0})
        assert (grade.total, grade.attempt, grade.attempts) == (0, None, ())

    def test_the_courses_rubric_grades_the_course(self):
        rubric = read_rubric(None, "07")
        marks = tuple(Mark(key, PASSED) for key in EXERCISES)
        full = Notebook("n", "n", "n.ipynb", "", "07", 0, marks=marks)
        assert self.grade(full, rubric=rubric).exercise_points == sum(REGISTRY[key].points for key in EXERCISES)
