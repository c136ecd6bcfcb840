"""Sheets for spreadsheet programs: written so that no cell becomes a formula, read back however they were saved."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lesson_lib.grading.marks import Grade
from lesson_lib.grading.reports.names import NO_HAND_IN, clean, number, waiting

if TYPE_CHECKING:
    from lesson_lib.grading.copies import Pair

CELL = 30_000  # characters; Excel stops at 32,767 and spills the rest into the next rows
SEPARATORS = ",;\t"

# A formula begins with one of four signs, which some programs also take in their full-width, small and minus forms,
# and look for behind blanks, invisible characters and quotes.
_SIGNS = "[-=+@＝＋－＠﹦﹢﹣﹫−]"
_UNSEEN = "\"'\u00ad\u180e\u200b-\u200f\u2060-\u2064\ufeff"
_AT_START = rf"\A{{}}(?=[\s{_UNSEEN}]*{_SIGNS})"
# A program set to another separator cuts our cells at it, and at every line: its cells begin in the middle of ours.
_INSIDE = rf"(?<=[,;\t\r\n]){{}}(?=(?:[^\S\t\r\n]|[{_UNSEEN}])*{_SIGNS})"
_RISKY = re.compile(_AT_START.format("") + "|" + _INSIDE.format(""))
_DEFUSED = re.compile(_AT_START.format("'") + "|" + _INSIDE.format("'"))


def defused(text: str) -> str:
    """Put an apostrophe in front of whatever a spreadsheet program could run; bare takes it away again."""
    return _RISKY.sub("'", text)


def bare(text: str) -> str:
    """Take away the apostrophes that defused put in."""
    return _DEFUSED.sub("", text)


def to_csv(rows: Iterable[Sequence[str | float | int]], separator: str = ",") -> bytes:
    """Return rows as a CSV file: text cleaned and defused, numbers as numbers.

    UTF-8 with a byte order mark: without it Excel reads the file in the computer's old code page and breaks every
    accented name; LibreOffice, Google Sheets, pandas and the LMSs skip it. separator ";" also gives a decimal comma,
    as the spreadsheet that wrote such a file expects.
    """
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=separator, lineterminator="\r\n")
    for row in rows:
        writer.writerow([_cell(value, separator) for value in row])
    return out.getvalue().encode("utf-8-sig")


def _cell(value: str | float | int, separator: str) -> str:
    if isinstance(value, str):
        return defused(clean(value, CELL))
    return number(value, 4).replace(".", "," if separator == ";" else ".")


# --- reading back ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sheet:
    """A sheet as it was found: its columns, a dictionary for each row, and what separates its cells.

    numbers: of the rows, as a spreadsheet program counts them; the columns' names are row 1.
    """

    columns: list[str] = field(default_factory=list)
    rows: list[dict[str, str]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    separator: str = ","


def read_csv(path: Path, needed: Sequence[str], known: Sequence[str]) -> Sheet:
    """Read a sheet as Excel, LibreOffice or Google Sheets saved it: UTF-8, UTF-16 or Windows, cut by , ; or tab.

    needed: the columns without which it makes no sense. known: the columns whose names may be written in any case.
    Raises ValueError, with the row, for what cannot be read.
    """
    text = _decoded(path)
    first, _, rest = text.partition("\n")
    if re.fullmatch(r'"?sep=."?\s*', first):  # Excel's own way to name the separator
        text = rest
    separator = max(SEPARATORS, key=lambda sign: len(set(known) & set(_names(text, sign, known))))
    columns = _names(text, separator, known)
    missing = [name for name in needed if name not in columns]
    if missing:
        found = ", ".join(name for name in columns if name)[:200] or "nothing"
        raise ValueError(f"{path.name}: row 1 must name the column {' and '.join(missing)}; it has {found}")
    twice = [name for i, name in enumerate(columns) if name and name in columns[:i]]
    if twice:
        raise ValueError(f"{path.name}: two columns are called {twice[0]}; give one of them another name")
    columns = [name or f"column {i}" for i, name in enumerate(columns, 1)]
    sheet = Sheet(columns, separator=separator)
    for i, cells in enumerate(_records(path, text, separator), 1):
        if i == 1 or not any(cell.strip() for cell in cells):
            continue
        if any(cell.strip() for cell in cells[len(columns) :]):
            raise ValueError(f"{path.name}, row {i}: there are more cells than columns; is a quote or separator lost?")
        filled = cells + [""] * (len(columns) - len(cells))
        sheet.rows.append({name: bare(clean(cell)) for name, cell in zip(columns, filled, strict=False)})
        sheet.numbers.append(i)
    return sheet


def _decoded(path: Path) -> str:
    data = path.read_bytes()
    tries = ("utf-16",) if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig", "cp1252")
    for encoding in tries:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise ValueError(f"{path.name} is no CSV file of text; save it as “CSV UTF-8” and try again")


def _records(path: Path, text: str, separator: str) -> list[list[str]]:
    rows: list[list[str]] = []
    try:
        rows.extend(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path.name} cannot be read after row {len(rows)}: {error}") from error
    return rows


def _names(text: str, separator: str, known: Sequence[str]) -> list[str]:
    try:
        first = next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), [])
    except csv.Error:
        return []
    names = [" ".join(bare(clean(name)).split()) for name in first]
    return [name.lower() if name.lower() in known else name for name in names]


# --- grades and copies -------------------------------------------------------------------------------------------


def grades_csv(grades: Sequence[Grade], complete: bool) -> bytes:
    """Return grades.csv: a row for every student, (exercises + words) × factor of lateness = total."""
    exercises = list(dict.fromkeys(name for grade in grades for name in grade.worth))
    head = ["name", "id", "email", "section", "key", *exercises, "exercises", "factor of lateness", "words", "total"]
    rows: list[list[str | float | int]] = [[*head, "possible", "attempt kept", "submitted", "notes"]]
    for grade in grades:
        student, attempt = grade.student, grade.attempt
        earned = attempt.points if attempt else {}
        words = sum(given for given in grade.words.values() if given is not None)
        rows.append([student.name, student.id, student.email, student.section, student.key])
        rows[-1] += [earned.get(name, 0.0) for name in exercises]
        rows[-1] += [attempt.before_lateness if attempt else 0, attempt.factor if attempt else 0, words]
        rows[-1] += [grade.total, grade.possible, _kept(grade), attempt.notebook.submitted if attempt else ""]
        rows[-1] += [" ".join(_notes(grade, complete))]
    return to_csv(rows)


def _kept(grade: Grade) -> str:
    if grade.kept is None or not grade.attempt:
        return ""
    return f"{grade.kept + 1} of {len(grade.attempts)}: {grade.attempt.notebook.file}"


def _notes(grade: Grade, complete: bool) -> list[str]:
    attempt = grade.attempt
    notes = [attempt.late, *attempt.notebook.problems] if attempt else [NO_HAND_IN]
    if waiting(grade):
        notes.append(f"Waits for a person: {', '.join(waiting(grade))}.")
    if not complete:
        notes.append("The run was not finished.")
    return [note for note in notes if note]


def copies_csv(pairs: Sequence[Pair], names: dict[str, str]) -> bytes:
    """Return copies.csv: pairs of students for a person to look at. names: of the students, by key."""
    rows: list[list[str | float | int]] = [
        ["first", "first name", "second", "second name", "exercises", "likeness", "why"]
    ]
    for pair in pairs:
        first, second = names.get(pair.first, ""), names.get(pair.second, "")
        rows.append([pair.first, first, pair.second, second, " ".join(pair.exercises), pair.likeness, pair.why])
    return to_csv(rows)
