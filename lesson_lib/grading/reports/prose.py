"""The sheet of answers in words: a person fills in points and comments, and no later run loses one of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lesson_lib.grading.marks import Grade, write_whole
from lesson_lib.grading.reports.names import Run, answer_to, clean, number
from lesson_lib.grading.reports.sheets import CELL, Sheet, read_csv, to_csv

Key = tuple[str, str]  # student, question

OURS = ("student", "name", "question id", "question", "rubric", "worth", "words", "note", "answer")
FILLED = ("points", "comment")
# Names the answer that was graded, so that a change is seen even where a spreadsheet program lost signs of the text.
VERSION = "answer version"
COLUMNS = (*OURS, *FILLED, VERSION)
NEEDED = ("student", "question id", "points")
CHANGED = "the answer has changed since it was graded; clear this note once you have graded it again"
GONE = "nobody in this run has this answer"
# What a spreadsheet program takes for a number, a date or a truth value, and saves as something else.
_TAKEN = re.compile(
    r"\d.*|(true|false)|(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[-_. ]?\d.*", re.IGNORECASE
)


def read_words(path: Path, worth: Mapping[str, float] | None = None) -> dict[Key, float]:
    """Return the points that a person filled in, by student and question; nothing where there is no sheet yet.

    worth: of every question, where the rubric may have changed since the sheet was written. Raises ValueError, with
    the rows, for points that are no number from 0 to the question's worth and for anything that cannot be read.
    """
    return _points(path, _read(path), worth or {})


def _read(path: Path) -> Sheet:
    return read_csv(path, NEEDED, COLUMNS) if path.exists() else Sheet()


def _points(path: Path, sheet: Sheet, worth: Mapping[str, float]) -> dict[Key, float]:
    found: dict[Key, float] = {}
    wrong = []
    for row, line in zip(sheet.rows, sheet.numbers, strict=True):
        text = row["points"].strip().removeprefix("'")
        if not text:
            continue
        student, question = _key(row)
        most = worth.get(question, _number(row.get("worth", "")))
        given = _number(text)
        if not student or not question:
            wrong.append(f"row {line} has points ({text[:40]}) but no student and question")
        elif given is None or (most is not None and given > most):
            limit = f"a number from 0 to {number(most)}" if most is not None else "a number, 0 or more"
            wrong.append(f"row {line} ({student}, {question}): the points are {text[:40]!r}; write {limit}")
        else:
            found[student, question] = given
    if wrong:
        raise ValueError("\n".join(f"{path.name}, {sentence}" for sentence in wrong[:20]))
    return found


def _number(text: str) -> float | None:
    text = text.strip().removeprefix("'").replace(",", ".")
    return float(text) if re.fullmatch(r"[0-9]{1,9}\.?[0-9]{0,9}|\.[0-9]{1,9}", text) else None


def _key(row: Mapping[str, str]) -> Key:
    return row["student"].strip().removeprefix("'"), row["question id"].strip().removeprefix("'")


def _proof(key: str) -> str:
    """Return a key that a spreadsheet program leaves alone: 007 and may-12 would come back as 7 and a date."""
    return f"'{key}" if _TAKEN.fullmatch(key) else key


# --- merging -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Merged:
    """The sheet as it should be now. comments: a person's, by student and question. gone: a sentence for each row
    that somebody filled and that belongs to nobody in this run."""

    content: bytes
    comments: dict[Key, str]
    gone: list[str]


def merge(path: Path, run: Run, grades: Sequence[Grade]) -> Merged:
    """Return the sheet for these grades with everything that people wrote into the one in its place.

    Rows that belong to nobody any more come last. Raises ValueError where the sheet in its place cannot be read: it
    is never written over then.
    """
    old = _read(path)
    _points(path, old, {question: most for grade in grades for question, most in grade.words_worth.items()})
    earlier = _by_key(path, old)
    comments = {key: row["comment"].strip() for key, row in earlier.items() if row.get("comment", "").strip()}
    columns = [*COLUMNS, *(name for name in old.columns if name not in COLUMNS)]
    rows: list[list[str | float | int]] = [list(columns)]
    for key, row in _fresh(run, grades):
        kept = earlier.pop(key, {})
        if _filled(kept) and (CHANGED in kept.get("note", "") or _changed(kept, row)):
            row["note"] = _note(str(row["note"]), CHANGED)
        rows.append([row[name] if name in row else kept.get(name, "") for name in columns])
    for key, kept in earlier.items():
        note = _note(GONE, CHANGED if CHANGED in kept.get("note", "") else "")
        row = {**kept, "student": _proof(key[0]), "question id": _proof(key[1]), "note": note}
        rows.append([row.get(name, "") for name in columns])
    rows += [[row.get(name, "") for name in columns] for row in old.rows if not all(_key(row))]
    gone = [
        f"{path.name} has points or a comment for {student}, {question}, but {GONE}; the row is kept at its end."
        for (student, question), row in earlier.items()
        if _filled(row)
    ]
    return Merged(to_csv(rows, ";" if old.separator == ";" else ","), comments, gone)


def write_prose(path: Path, content: bytes) -> None:
    """Put the sheet in its place; where that changes one, the old one stays beside it as prose.csv.bak."""
    old = path.read_bytes() if path.exists() else None
    if old == content:
        return
    if old is not None:
        write_whole(path.with_name(path.name + ".bak"), old)
    write_whole(path, content)


def _fresh(run: Run, grades: Sequence[Grade]) -> Iterator[tuple[Key, dict[str, str | float | int]]]:
    for grade in grades:
        for question, worth in grade.words_worth.items():
            text, rubric = run.question(question)
            answer = answer_to(grade, question)
            yield (
                (grade.student.key, question),
                {
                    "student": _proof(grade.student.key),
                    "name": grade.student.name,
                    "question id": _proof(question),
                    "question": text,
                    "rubric": "\n".join(rubric),
                    "worth": worth,
                    "words": answer.words,
                    "note": answer.note,
                    "answer": answer.text,
                    VERSION: _version(answer.text),
                },
            )


def _by_key(path: Path, sheet: Sheet) -> dict[Key, dict[str, str]]:
    """Return the rows by student and question; two rows for one answer become one, where they do not differ."""
    found: dict[Key, dict[str, str]] = {}
    lines: dict[Key, int] = {}
    for row, line in zip(sheet.rows, sheet.numbers, strict=True):
        key = _key(row)
        if not all(key):
            continue
        other = found.setdefault(key, row)
        theirs = [name for name in sheet.columns if name in FILLED or name not in COLUMNS]
        if any(row[name].strip() and other[name].strip() and row[name] != other[name] for name in theirs):
            both = f"rows {lines[key]} and {line}"
            raise ValueError(f"{path.name}: {both} fill in the same answer ({', '.join(key)}); keep one of them")
        found[key] = {**other, **{name: other[name] if other[name].strip() else row[name] for name in theirs}}
        lines.setdefault(key, line)
    return found


def _filled(row: Mapping[str, str]) -> bool:
    return any(row.get(name, "").strip() for name in FILLED)


def _changed(kept: Mapping[str, str], row: Mapping[str, str | float | int]) -> bool:
    if kept.get(VERSION, "").strip():
        return kept[VERSION].strip() != row[VERSION]
    return _version(kept.get("answer", "")) != row[VERSION]


def _version(text: str) -> str:
    """Name an answer by its words: blanks and apostrophes, which spreadsheet programs change, do not count."""
    words = re.sub(r"[\s'\u200b-\u200f\ufeff]", "", clean(text, CELL))
    return "v" + hashlib.sha256(words.encode()).hexdigest()[:12]


def _note(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
