"""What a run of the grader made of the hostile and damaged hand-ins, and the table of all of them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grading_attacks.notebooks import EXERCISES, LESSON, Entry
from lesson_lib.exercises import REGISTRY
from lesson_lib.grading.marks import DELEGATED, EMPTY, MISSING, PASSED, Mark, Notebook
from lesson_lib.grading.submissions import display, find

INTRODUCTION = """# Attacks and accidents

Every row is a hand-in that a test builds and grades (`tests/test_grading_attacks.py`), with the command that
instructors use. *Deserved* and *given* are exercises of lesson 07. The run also has to finish, to leave the submissions
and the course as they were, and to give no attack anything outside its sandbox: no file, no connection, no secret.

This page is generated: `UPDATE_ATTACK_TABLE=1 python -m pytest tests/test_grading_attacks.py`.
"""
LONGEST = 130


@dataclass(frozen=True)
class Outcome:
    """What became of one entry: the notebooks that were graded for it, and what the run says of its other files."""

    entry: Entry
    notebooks: tuple[Notebook, ...]
    remarks: tuple[str, ...]

    @property
    def given(self) -> frozenset[str]:
        """The exercises that got points in any of its notebooks."""
        return frozenset(mark.exercise for mark in self._marks if mark.status == PASSED)

    @property
    def _marks(self) -> list[Mark]:
        return [mark for notebook in self.notebooks for mark in notebook.marks]

    @property
    def report(self) -> str:
        """What the reports say, short and the same in every run."""
        if self.entry.varies:
            return self.entry.varies
        said = list(self.remarks)
        for notebook in self.notebooks:
            said += notebook.problems
            said += [_verdict(mark) for mark in notebook.marks if mark.status not in (PASSED, EMPTY, MISSING)]
        told = list(dict.fromkeys(_steady(one) for one in said if one))
        if not told:
            return "right" if self.given else "as handed out" if self.notebooks else "no notebook"
        return "; ".join(told[:2]) + (f"; and {len(told) - 2} more" if len(told) > 2 else "")


def _verdict(mark: Mark) -> str:
    label = REGISTRY[mark.exercise].label
    if mark.status == DELEGATED:
        return f"{label} calls the library's own version"
    if mark.mistake:
        return f"{label} {mark.rung}: known mistake “{mark.mistake}”"
    told = mark.advice.splitlines()[0] if mark.advice else ""
    told = re.sub(r"^(It stops with (?:an error|\w+))\b.*", r"\1.", told)
    return f"{label} {mark.rung or mark.status}: {told}"


def _steady(text: str) -> str:
    """Return a sentence in one line, without what differs from run to run."""
    text = re.sub(r"0x[0-9a-f]+", "0x…", " ".join(text.split()))
    text = re.sub(r"(it is not JSON) \(.*\)", r"\1", text)  # Python's versions word it differently
    text = re.sub(r"\bcells? \d+(, \d+)*", "some cells", text)
    return text if len(text) <= LONGEST else text[: LONGEST - 1].rstrip() + "…"


def outcomes(entries: Sequence[Entry], submissions: Path, out: Path) -> list[Outcome]:
    """Read what a run wrote into OUT, for each entry."""
    handins, _ = find(submissions, LESSON)
    places = {handin.key: handin.path.relative_to(submissions.resolve()).parts[0] for handin in handins}
    graded: dict[str, list[Notebook]] = {}
    for path in sorted((out / "log").glob("*.json")):
        notebook = Notebook.from_json(path.read_text("utf-8"))
        graded.setdefault(places[notebook.key], []).append(notebook)
    problems = json.loads((out / "run.json").read_text("utf-8"))["problems"]
    return [Outcome(e, tuple(graded.get(e.place, ())), tuple(_remarks(e, problems))) for e in entries]


def _remarks(entry: Entry, problems: Sequence[str]) -> list[str]:
    """Return the run's own sentences about an entry's files, without their place."""
    start = display(entry.place)
    return [re.sub(r"^.*?: ", "", one) for one in problems if re.match(re.escape(start) + r"(/|:)", one)]


def table(found: Sequence[Outcome]) -> str:
    """Return the page with all outcomes."""
    attacks = sum(o.entry.kind == "attack" for o in found)
    lines = [INTRODUCTION, f"{attacks} attacks and {len(found) - attacks} accidents.", ""]
    for kind, heading in (("attack", "## Attacks"), ("accident", "## Accidents")):
        lines += [
            heading,
            "",
            "| name | what it does | deserved | given | what the report says |",
            "|---|---|---|---|---|",
        ]
        for outcome in found:
            if outcome.entry.kind == kind:
                note = f" ({outcome.entry.note})" if outcome.entry.note else ""
                cells = [f"`{outcome.entry.name}`", outcome.entry.what + note, _labels(outcome.entry.honest)]
                lines.append("| " + " | ".join(map(_cell, [*cells, _labels(outcome.given), outcome.report])) + " |")
        lines.append("")
    return "\n".join(lines)


def _labels(exercises: frozenset[str]) -> str:
    if exercises == frozenset(EXERCISES):
        return "all"
    return ", ".join(REGISTRY[key].label for key in EXERCISES if key in exercises) or "none"


def _cell(text: str) -> str:
    """Return text that cannot end its cell nor become HTML."""
    for character in "\\|`*_<>[]" if not text.startswith("`") else "|":
        text = text.replace(character, "\\" + character if character != "<" else "&lt;")
    return text
