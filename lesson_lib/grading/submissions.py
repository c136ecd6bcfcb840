"""Find the notebooks that students handed in, in any folder or zip, and say whose each one is.

What is known by its name, at the top of SUBMISSIONS or below folders and zips that hold everything else:

    Canvas      doejane_LATE_12345_67890_07_adaln-1.ipynb, anon_a1B2c_67890_07_adaln.ipynb: family name first, then the
                numbers of the student and of the file
    Moodle      "Jane Doe_1234567_assignsubmission_file_/07_adaln.ipynb", the same flat, or Participant_12_… when
                marking is blind
    Gradescope  submission_12345/ beside submission_metadata.yml; every submitter of a group gets the notebook
    Google      "Jane Doe - 07_adaln.ipynb", "Copy of 07_adaln.ipynb" or "07_adaln (1).ipynb" in a folder per student
    nbgrader    STUDENT/ASSIGNMENT/07_adaln.ipynb beside timestamp.txt
    otherwise   a folder or a zip per student, or one notebook named after each student

Whoever owns the outermost name owns everything below it: a student cannot hand in for somebody else by what stands
inside her own folder or zip, and metadata there is not believed.

Times. Only what the LMS wrote is evidence of when something was handed in: submission_metadata.yml, timestamp.txt
where every student has one, and times.csv from the instructor where those say nothing. A file's own modification time
is none, because copying and unpacking change it. Nor is the time of a zip's member: Canvas and Moodle write the moment
of the download there, a student's own zip whatever her clock said. A time without a zone is this machine's local time.

Nothing is unpacked to the disk, no link is followed, and no more of a member is read than a limit allows, whatever its
header says.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import io
import os
import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import IO, Any, NamedTuple
from zoneinfo import ZoneInfo

from lesson_lib.exercises.registry import LESSONS
from lesson_lib.grading.marks import Student

LIMIT = 256 * 2**20
MEMBERS = 50_000
_DIRECTORY = 8 * 2**20  # bytes of a zip's list of members, read into memory at once
_DEPTH = 40
_ZIPS_DEEP = 2
_UNPACKED, _UNPACKED_OF_ONE = 2**30, 64 * 2**20  # bytes of zips inside one zip, beyond some times its own size
_RATIO, _RATIO_FROM = 200, 64 * 2**20
_NOTEBOOKS, _TOGETHER = 20, 2**30
_NOTES = 200
_METADATA, _STAMP = "submission_metadata.yml", "timestamp.txt"
_ANONYMOUS = re.compile(r"(?P<late>LATE_)?anon_(?P<user>[A-Za-z0-9]+)_[1-9][0-9]*_.+", re.DOTALL)
_CANVAS = re.compile(r"(?P<name>\w+?)_(?P<late>LATE_)?(?P<user>[1-9][0-9]*)_[1-9][0-9]{2,}_.+", re.DOTALL)
_MOODLE = re.compile(r"(?P<name>.+?)_(?P<number>[0-9]+)_assignsubmission_file(_.*)?", re.DOTALL)
_GRADESCOPE = re.compile(r"submission_([0-9]{1,18})")
_NOTEBOOK = re.compile(r".+\.ipynb(\.txt|\.json)?", re.IGNORECASE | re.DOTALL)
_OTHER_ARCHIVE = re.compile(r".+\.(rar|7z|tar|tgz|gz|bz2|xz)", re.IGNORECASE | re.DOTALL)
_COPY = re.compile(
    r"(copy of|kopie von|kopie van|copie de|copia de|cópia de)\s+|\s*\([0-9]+\)$|\s+-\s+(copy|kopie)$", re.I
)
_NOBODY = re.compile(
    r"(?<![^\W_])(?:final|v[0-9]+|solutions?|solved|submissions?|submitted|hand-?ins?|notebooks?|colab|untitled[0-9]*"
    r"|(?:home-?works?|hw|assignments?|lessons?|exercises?)[ _-]*[0-9]{0,3}|(?:lab|week)[ _-]*[0-9]{1,3}"
    r"|drive-download-\S+)(?![^\W_])",
    re.IGNORECASE,
)
_EDGES = " _-–.,;()[]+#"
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_NUMBER = re.compile(r"(?<![0-9A-Za-z])[0-9]{5,}(?![0-9A-Za-z])")
_BROKEN = (OSError, EOFError, MemoryError, RuntimeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class HandIn:
    """A notebook that somebody handed in, not read yet.

    key: unique, safe as a file name, the same for the same place in the same tree. owner: what names the student, for
    a person. clues: the name, number and e-mail address that were found; empty where nothing says whose it is. file:
    its place below SUBMISSIONS, for a person, with zips written like folders. size: in bytes, as declared. submitted:
    ISO 8601 with a zone, or empty. late_hint: Canvas marked it late. section: the folder of a section around it.
    """

    key: str
    owner: str
    clues: tuple[str, ...]
    file: str
    size: int
    submitted: str = ""
    late_hint: bool = False
    section: str = ""
    path: Path = field(default=Path(), repr=False)
    members: tuple[tuple[int, str], ...] = field(default=(), repr=False)

    def read(self, limit: int = LIMIT) -> bytes:
        """Return its bytes. Raises ValueError, with a sentence, if there are more than limit or they cannot be had."""
        return _read(self.path, self.members, limit)


class _Item(NamedTuple):
    """A file of the tree: its names from the top, zips among them; where it lies; its place in each zip on the way."""

    parts: tuple[str, ...]
    path: Path
    members: tuple[tuple[int, str], ...]
    size: int


class _Owner(NamedTuple):
    name: str
    clues: tuple[str, ...] = ()
    late: bool = False
    submitted: str = ""
    section: str = ""


class _Owned(NamedTuple):
    item: _Item
    owner: _Owner


class _Group(NamedTuple):
    """Items that lie together. depth: how many names they share. believed: no student can have put metadata there."""

    items: list[_Item]
    depth: int = 0
    section: str = ""
    person: _Owner | None = None
    believed: bool = True


_Notes = dict[tuple[str, ...], list[str]]


# --- for everyone ------------------------------------------------------------------------------------------------


def find(root: str | Path, lesson: str = "") -> tuple[list[HandIn], list[str]]:
    """List what was handed in under a folder, a zip or one notebook, in a fixed order, and what was odd about it.

    lesson: such as "07"; notebooks that are named after another lesson are then passed over. Raises ValueError where
    there is nothing that could hold submissions.
    """
    root = Path(root).resolve()
    notes: _Notes = {}
    items = _walk(root, notes)
    notebooks = [item for item in items if _NOTEBOOK.fullmatch(item.parts[-1])]
    alone = _person(root.name) if len(notebooks) == 1 else None
    owned = list(_settle(_Group(items, person=alone), notes))
    handins = list(_handins(_chosen(owned, lesson, notes)))
    problems = [line for lines in notes.values() for line in (*lines[:_NOTES], *_more(len(lines) - _NOTES))]
    if not handins:
        problems.append(f"No notebook{f' of lesson {lesson}' if lesson else ''} was found in {display(root.name)}.")
    return sorted(handins, key=lambda handin: (natural(handin.file), handin.key)), problems


def read_roster(path: str | Path) -> list[Student]:
    """Read the class from a CSV file with a header, as Canvas, Moodle and Gradescope export it or as written by hand.

    Wanted are columns such as name (or first name and last name), id, email and section; everything else is ignored.
    Raises ValueError for a file without names or for two lines that cannot be told apart.
    """
    students: dict[str, tuple[int, Student]] = {}
    for line, row in _rows(path):
        name, number, email = _row_name(row), _cell(row, *_ID_COLUMNS), _cell(row, *_EMAIL_COLUMNS)
        if not (name or number or email) or folded(name) in ("pointspossible", "studenttest"):
            continue
        student = _student(name or number or email, number, email, _cell(row, "section", "sections", "group"))
        if student.key in students:
            other = students[student.key][0]
            raise ValueError(f"{path}: lines {other} and {line} are the same {student.name}; give each its own id")
        students[student.key] = (line, student)
    if not students:
        raise ValueError(f"{path} names no student; its first line must head a column name, id or email")
    return [student for _, student in students.values()]


def read_times(path: str | Path) -> dict[str, str]:
    """Read when things were handed in: a column that tells a student or a file, and one with the time.

    Returns {name, id, e-mail address or file: ISO 8601 with a zone}. A time without a zone is this machine's local
    time. A name that two lines share counts for neither. Raises ValueError for a time that cannot be read.
    """
    times: dict[str, str] = {}
    shared: set[str] = set()
    for line, row in _rows(path):
        text = _cell(row, *_TIME_COLUMNS)
        moment = _moment(text) if text else None
        if text and moment is None:
            raise ValueError(f"{path}, line {line}: {text!r} is no time; write 2026-03-31T23:59:00+02:00")
        if moment is None:
            continue
        file, sure = _cell(row, "file"), [_cell(row, *_ID_COLUMNS), _cell(row, *_EMAIL_COLUMNS)]
        time = moment.isoformat()
        for clue in filter(None, [file] if file else [*sure, _row_name(row)]):
            if times.setdefault(clue, time) == time:
                continue
            if clue in (file, *sure):
                raise ValueError(f"{path}, line {line}: {clue} has two times; tell them apart in a column file")
            shared.add(clue)
    return {clue: time for clue, time in times.items() if clue not in shared}


def timed(handins: Sequence[HandIn], times: Mapping[str, str], owners: Mapping[str, Student]) -> list[HandIn]:
    """Fill in what times.csv says, where the LMS left no time. owners: by the hand-ins' keys, from match."""
    by_clue = {folded(clue): time for clue, time in times.items()}
    found = []
    for handin in handins:
        student = owners.get(handin.key)
        clues = [*handin.clues, *([student.id, student.email, student.name] if student else [])]
        known = (by_clue[folded(clue)] for clue in clues if folded(clue) in by_clue)
        time = handin.submitted or times.get(handin.file) or next(known, "")
        found.append(dataclasses.replace(handin, submitted=time))
    return found


def match(handins: Sequence[HandIn], roster: Sequence[Student]) -> tuple[dict[str, Student], list[str]]:
    """Give every hand-in its student, by its key: one of the roster, or else one made from its name.

    Names match whatever the case, the accents and the order of first and last name; a hand-in that fits nobody, or
    several, is graded under its own name. Returns the sentences about those as well.
    """
    index: dict[str, list[Student]] = {}
    for student in roster:
        for clue in _known_as(student):
            index.setdefault(clue, []).append(student)
    owners, problems = {}, []
    for handin in handins:
        fits = _fitting(index, (*handin.clues, handin.section))
        if len(fits) == 1:
            owners[handin.key] = fits[0]
            continue
        owners[handin.key] = _own_student(handin)
        if not handin.clues:
            problems.append(f"{handin.file}: nothing in its name says whose it is; it is graded under that name.")
        elif roster:
            who = "nobody" if not fits else " or ".join(student.key for student in fits)
            problems.append(f"{handin.owner} ({handin.file}) fits {who} in the roster; graded under its own name.")
    return owners, problems


def folded(text: str) -> str:
    """Return what two ways to write a name have in common: letters and digits, without case and accents."""
    letters = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return "".join(
        c for c in letters if (c.isalnum() or unicodedata.category(c)[0] == "M") and not "\u0300" <= c <= "\u036f"
    )


def natural(file: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts files as people do: 07_adaln, 07_adaln-1, 07_adaln-2, 07_adaln-10."""
    pieces = re.split(r"([0-9]{1,18})", re.sub(r"\.ipynb(\.txt|\.json)?$", "", file.casefold()))
    return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces if piece]


def display(text: str, most: int = 120) -> str:
    """Return text that a person can be shown: without control characters and marks that turn lines around, not long."""
    bad = ("Cc", "Cs", "Zl", "Zp")
    clean = "".join("�" if unicodedata.category(c) in bad or c in _TURNING else c for c in text)
    return clean if len(clean) <= most else f"{clean[: most // 2]}…{clean[-(most // 2) :]}"


_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


# --- folders and zips --------------------------------------------------------------------------------------------


def _walk(root: Path, notes: _Notes) -> list[_Item]:
    if root.is_dir():
        return list(_folder(root, (), notes))
    if not root.is_file():
        raise ValueError(f"{root} is neither a folder nor a zip nor a notebook")
    if _NOTEBOOK.fullmatch(root.name):
        return [_Item((root.name,), root, (), root.stat().st_size)]
    if not zipfile.is_zipfile(root):
        raise ValueError(f"{root} is neither a folder nor a zip nor a notebook, or it is damaged")
    with _opened(root) as file:
        return list(_zip(file, _Item((), root, (), root.stat().st_size), notes))


def _folder(folder: Path, parts: tuple[str, ...], notes: _Notes) -> Iterator[_Item]:
    """Yield what may matter below a folder: notebooks, and what the LMS wrote about them."""
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        _note(notes, parts, f"this folder cannot be read ({error.strerror})")
        return
    held = False
    for entry in entries:
        if not _passed_over(entry.name):
            for item in _entry(entry, (*parts, entry.name), notes):
                held = True
                yield item
    if entries and not held and len(parts) == 1:
        _note(notes, parts, "there is no notebook in it")


def _entry(entry: os.DirEntry[str], parts: tuple[str, ...], notes: _Notes) -> Iterator[_Item]:
    if entry.is_symlink():
        _note(notes, parts, "a link; links are not followed")
    elif entry.is_file(follow_symlinks=False):
        yield from _file(Path(entry.path), parts, notes)
    elif not entry.is_dir(follow_symlinks=False):
        _note(notes, parts, "no ordinary file; it is not opened")
    elif len(parts) > _DEPTH:
        _note(notes, parts, "too many folders in each other; it is not looked into")
    else:
        yield from _folder(Path(entry.path), parts, notes)


def _file(path: Path, parts: tuple[str, ...], notes: _Notes) -> Iterator[_Item]:
    try:
        item = _Item(parts, path, (), path.lstat().st_size)
        if not _is_zip(parts[-1]):
            yield from _wanted(item, notes)
            return
        with _opened(path) as file:
            yield from _zip(file, item, notes)
    except OSError as error:
        _note(notes, parts, f"it cannot be read ({error.strerror})")


def _wanted(item: _Item, notes: _Notes) -> Iterator[_Item]:
    if _NOTEBOOK.fullmatch(item.parts[-1]) or item.parts[-1] in (_METADATA, _STAMP):
        yield item
    elif _OTHER_ARCHIVE.fullmatch(item.parts[-1]):
        _note(notes, item.parts, "an archive that is not read here; unpack it, or pack it as a zip")


def _zip(file: IO[bytes], at: _Item, notes: _Notes, rooms: tuple[list[int], ...] = ()) -> Iterator[_Item]:
    """Yield what may matter in a zip, and in zips inside it.

    rooms: bytes that may still be unpacked, one number for each zip around; a list, for all zips inside share it.
    """
    rooms = rooms or ([_UNPACKED + 4 * at.size],)
    try:
        archive = _archive(file)
    except _BROKEN as error:
        _note(notes, at.parts, f"it cannot be opened as a zip ({_reason(error)})")
        return
    with archive:
        members = archive.infolist()
        if len(members) > MEMBERS:
            _note(notes, at.parts, f"it holds {len(members)} files, more than {MEMBERS}; it is not looked into")
            return
        held = False
        for index, member in enumerate(members):
            names = _names(member)
            if member.is_dir() or not names or any(map(_passed_over, names)):
                continue
            place = (*at.members, (index, member.filename))
            item = _Item((*at.parts, *names), at.path, place, member.file_size)
            for found in _member(archive, member, item, rooms, notes):
                held = True
                yield found
    if not held and at.parts:
        _note(notes, at.parts, "there is no notebook in it")


def _member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, item: _Item, rooms: tuple[list[int], ...], notes: _Notes
) -> Iterator[_Item]:
    """Yield a member that may matter, or what a zip inside the zip holds."""
    trouble = _trouble(member, item.parts[-len(_names(member)) :])
    if trouble:
        _note(notes, item.parts, trouble)
    elif not _is_zip(item.parts[-1]):
        yield from _wanted(item, notes)
    elif len(item.members) > _ZIPS_DEEP:
        _note(notes, item.parts, "too many zips in each other; it is not looked into")
    elif any(room[0] < member.file_size for room in rooms):
        _note(notes, item.parts, "too much is packed in the zips around it; it is not looked into")
    else:
        for room in rooms:
            room[0] -= member.file_size
        try:
            with archive.open(member) as packed:
                data = _up_to(packed, LIMIT)
        except _BROKEN as error:
            _note(notes, item.parts, f"it cannot be unpacked ({_reason(error)})")
        else:
            own = _UNPACKED_OF_ONE + 20 * member.compress_size
            yield from _zip(io.BytesIO(data), item, notes, (*rooms, [own]))


def _names(member: zipfile.ZipInfo) -> tuple[str, ...]:
    """Return a member's path as names, without a root. A name that tells no encoding is UTF-8 where that fits."""
    name = member.filename
    if not member.flag_bits & 0x800:
        try:
            name = name.encode("cp437").decode()
        except UnicodeError:
            name = member.filename
    return tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def _trouble(member: zipfile.ZipInfo, names: Sequence[str]) -> str:
    """Say why a member is not touched, or nothing."""
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "a link; links are not followed"
    if not (_NOTEBOOK.fullmatch(names[-1]) or _is_zip(names[-1])):
        return ""
    if kind in (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK):
        return "no ordinary file; it is not opened"
    if ".." in names or len(names) > _DEPTH:
        return "its path leads out of the zip, or through too many folders; it is not opened"
    if member.flag_bits & 1:
        return "it is locked with a password; ask for a copy without one"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "it is packed by a method that is not read here; ask for an ordinary zip"
    if member.file_size > max(_RATIO_FROM, _RATIO * member.compress_size):
        return f"it would grow {member.file_size // max(member.compress_size, 1)} times when unpacked; it is not opened"
    return ""


class _Careful(io.BufferedReader):
    """A file that refuses to be read in large pieces: zipfile reads a list of members whole, however long it claims."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _DIRECTORY:
            raise ValueError("its list of members is too long")
        return super().read(size)


def _archive(file: IO[bytes]) -> zipfile.ZipFile:
    raw: Any = file
    return zipfile.ZipFile(_Careful(raw))


def _opened(path: Path) -> IO[bytes]:
    """Open an ordinary file, and nothing that has taken its place since: no link, and no pipe that would wait."""
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY", "O_CLOEXEC"):
        flags |= getattr(os, name, 0)
    file = os.fdopen(os.open(path, flags), "rb", buffering=0)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(0, "it is no ordinary file")
    return file


def _read(path: Path, members: Sequence[tuple[int, str]], limit: int) -> bytes:
    with ExitStack() as stack:
        try:
            file: IO[bytes] = stack.enter_context(_opened(path))
            for step, (index, name) in enumerate(members, start=1):
                archive = stack.enter_context(_archive(file))
                member = archive.infolist()[index] if index < len(archive.infolist()) else None
                if member is None or member.filename != name:
                    raise ValueError("it is no longer where it was found")
                file = stack.enter_context(archive.open(member))
                if step < len(members):
                    file = io.BytesIO(_up_to(file, LIMIT))
            return _up_to(file, limit)
        except _BROKEN as error:
            raise ValueError(f"It cannot be read: {_reason(error)}.") from error


def _up_to(file: IO[bytes], limit: int) -> bytes:
    """Read to the end, whatever size was declared. Raises ValueError past the limit."""
    read = io.BytesIO()
    for chunk in iter(functools.partial(file.read, 2**20), b""):
        if read.tell() + len(chunk) > limit:
            amount = f"{limit // 2**20} MB" if limit >= 2**20 else f"{limit} bytes"
            raise ValueError(f"it is larger than {amount}")
        read.write(chunk)
    return read.getvalue()


def _reason(error: Exception) -> str:
    """Say what went wrong without a path of this machine."""
    said = (error.strerror or "") if isinstance(error, OSError) else str(error)
    return display(said.rstrip(".")) or type(error).__name__


def _passed_over(name: str) -> bool:
    return name == "__MACOSX" or (name.startswith(".") and name != "..")


def _is_zip(name: str) -> bool:
    return name.lower().endswith(".zip")


# --- whose it is -------------------------------------------------------------------------------------------------


def _settle(group: _Group, notes: _Notes) -> Iterator[_Owned]:
    """Yield every notebook of a group with its owner; a group of several submitters yields one for each."""
    depth = group.depth
    entries: dict[str, list[_Item]] = {}
    for item in group.items:
        if _NOTEBOOK.fullmatch(item.parts[-1]):
            entries.setdefault(item.parts[depth], []).append(item)
    records = _records(group, notes) if group.believed else {}
    known = {name: records.get(name) or _by_convention(name) for name in entries}
    folders = [name for name, items in entries.items() if any(len(item.parts) > depth + 1 for item in items)]

    def below(name: str) -> _Group:
        items = [item for item in group.items if item.parts[depth] == name and len(item.parts) > depth + 1]
        return group._replace(items=items, depth=depth + 1)

    if len(entries) == 1 and folders and not known[folders[0]]:
        yield from _settle(below(folders[0])._replace(person=_person(folders[0]) or group.person), notes)
        return
    if len(folders) == len(entries) and not any(known.values()) and _are_sections([below(name) for name in folders]):
        for name in folders:
            yield from _settle(below(name)._replace(section=display(name), person=None), notes)
        return
    stamps = _stamps(group, folders, entries, notes) if group.believed else {}
    for name, items in entries.items():
        owners = known[name] or [owner for owner in [_person(name)] if owner]
        if not owners and name in folders:
            yield from _settle(below(name)._replace(person=None, believed=False), notes)
            items = [item for item in items if len(item.parts) == depth + 1]
        owners = owners or [group.person or _Owner(display(name, 80))]
        for item in items:
            time = stamps.get(item.parts[: depth + 2], "")
            for owner in owners:
                placed = owner._replace(submitted=owner.submitted or time, section=group.section)
                yield _Owned(item, placed)


def _by_convention(name: str) -> list[_Owner]:
    """Read a name that an LMS made. A list of one, or empty."""
    name = name[:250]
    if found := _ANONYMOUS.fullmatch(name):
        # Capitals tell two of these apart, names do not: hence a second clue.
        distinct = hashlib.sha256(found["user"].encode()).hexdigest()[:8]
        return [_Owner(f"anon {found['user']}", (f"anon {found['user']}", distinct), bool(found["late"]))]
    if found := _CANVAS.fullmatch(name):
        return [_Owner(display(found["name"], 80), (found["name"], found["user"]), bool(found["late"]))]
    if found := _GRADESCOPE.fullmatch(name):
        return [_Owner(f"submission {found[1]}", (f"submission {found[1]}",))]
    if found := _MOODLE.fullmatch(name):
        participant = f"Participant {found['number']}"
        if found["name"] == "Participant":
            return [_Owner(participant, (participant,))]
        return [_Owner(display(found["name"], 80), (found["name"], participant))]
    return []


def _person(name: str) -> _Owner | None:
    """Read the student from a name that a person gave, or nothing if only the course is in it."""
    text = unicodedata.normalize("NFC", display(name, 250))
    text = re.sub(r"\.(zip|ipynb(\.txt|\.json)?)$", "", text, flags=re.IGNORECASE)
    emails, numbers = _EMAIL.findall(text), _NUMBER.findall(_EMAIL.sub(" ", text))
    for pattern in (_EMAIL, _NUMBER, *(pattern for _, pattern in _lesson_patterns())):
        text = pattern.sub(" ", text)
    pieces = (_NOBODY.sub(" ", piece) for piece in re.split(r"\s[-–]\s", _without_copies(text)))
    text = next((" ".join(_words(piece)) for piece in pieces if folded(piece)), "")
    clues = tuple(dict.fromkeys(clue for clue in (text, *numbers[:1], *emails[:1]) if folded(clue)))
    return _Owner(display(clues[0], 80), clues) if clues else None


def _without_copies(text: str) -> str:
    """Drop "Copy of" and "(1)", however many there are."""
    longer = ""
    while text != longer:
        longer, text = text, _COPY.sub("", text).strip(_EDGES)
    return text


def _words(text: str) -> list[str]:
    return [word for word in (word.strip(_EDGES) for word in re.split(r"[\s_]+", text)) if folded(word)]


def _are_sections(groups: list[_Group]) -> bool:
    """Say whether each of several folders holds a part of the class, so that no single student could make it look so.

    Either all of them are exports of an LMS, or each holds several folders and no name occurs twice.
    """
    if any(item.parts[-1] == _STAMP for group in groups for item in group.items):
        return False
    children = []
    for group in groups:
        inside = [item for item in group.items if _NOTEBOOK.fullmatch(item.parts[-1])]
        export = any(item.parts[group.depth :] == (_METADATA,) for item in group.items)
        names = {item.parts[group.depth] for item in inside}
        flat = any(len(item.parts) == group.depth + 1 for item in inside)
        children.append((names, flat, export or all(map(_by_convention, names))))
    if all(exported for _, _, exported in children):
        return len(children) > 1
    together = [name for names, _, _ in children for name in names]
    return len(set(together)) == len(together) and all(len(names) > 1 and not flat for names, flat, _ in children)


def _stamps(
    group: _Group, folders: Sequence[str], entries: Mapping[str, list[_Item]], notes: _Notes
) -> dict[tuple[str, ...], str]:
    """Return the times that nbgrader wrote, by folder of an assignment; none unless every folder has one."""
    depth = group.depth + 2
    stamps = [
        item for item in group.items if item.parts[-1] == _STAMP and len(item.parts) == depth + 1
        and not any(_is_zip(part) for part in item.parts[group.depth : -1])
    ]  # fmt: skip
    places = {item.parts[:depth] for item in stamps}
    wanted = {item.parts[:depth] for items in entries.values() for item in items}
    if not stamps or len(folders) < len(entries):
        return {}
    if not wanted <= places:
        _note(notes, stamps[0].parts, "not every hand-in has such a file, so none is believed; give times with --times")
        return {}
    times = {}
    for item in stamps:
        try:
            moment = _moment(_read(item.path, item.members, 2**16).decode(errors="replace"), UTC)
        except ValueError:
            moment = None
        if moment is None:
            _note(notes, item.parts, "it says no time that can be read")
        else:
            times[item.parts[:depth]] = moment.isoformat()
    return times


def _records(group: _Group, notes: _Notes) -> dict[str, list[_Owner]]:
    """Read the submitters from Gradescope's metadata, if it lies at the top of the group."""
    found = [item for item in group.items if item.parts[group.depth :] == (_METADATA,)]
    try:
        return _submitters(_read(found[0].path, found[0].members, LIMIT).decode(errors="replace")) if found else {}
    except ValueError as error:
        _note(notes, found[0].parts, str(error))
        return {}


def _submitters(text: str) -> dict[str, list[_Owner]]:
    """Read names, numbers, addresses and times from submission_metadata.yml; whatever else stands there is passed over.

    Not a reader of YAML: it goes by the exact indentation that Gradescope writes, which the output of a student's
    program, quoted further down in the same file, never has.
    """
    records: dict[str, tuple[list[dict[str, str]], list[str]]] = {}
    people: list[dict[str, str]] = []
    times: list[str] = []
    listing, indent = False, 0
    for line in text.split("\n"):
        line = line.rstrip("\r")
        if found := re.fullmatch(r"([^\s#-].*):\s*", line):
            people, times, listing = [], [], False
            records[_scalar(found[1])] = (people, times)
        elif found := re.match(r"  (:\w+):(.*)", line):
            listing = found[1] == ":submitters"
            times += [found[2]] if found[1] == ":created_at" else []
        elif listing and (found := re.fullmatch(r"( {2}| {4})- +:(name|sid|email):(.*)", line)):
            indent = len(found[1]) + 2
            people.append({found[2]: _scalar(found[3])})
        elif listing and people and (found := re.fullmatch(rf" {{{indent}}}:(name|sid|email):(.*)", line)):
            people[-1].setdefault(found[1], _scalar(found[2]))
    return {name: _submitting(people, times) for name, (people, times) in records.items()}


def _submitting(people: list[dict[str, str]], times: list[str]) -> list[_Owner]:
    moment = _moment(_scalar(times[0])) if times else None
    owners = []
    for person in people:
        clues = tuple(value for value in (person.get(key, "") for key in ("name", "sid", "email")) if folded(value))
        time = moment.isoformat() if moment else ""
        owners += [_Owner(display(clues[0], 80), clues, submitted=time)] if clues else []
    return owners


def _scalar(text: str) -> str:
    """Return what a value of YAML on one line stands for, if it is text; null and what is not understood are empty."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    if len(text) > 1 and text[0] == text[-1] == '"':
        return re.sub(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", _unescaped, text[1:-1])
    return "" if text in ("~", "null") or text[:1] in tuple("|>&*!{[") else text


def _unescaped(found: re.Match[str]) -> str:
    code = next((int(digits, 16) for digits in found.groups()[:3] if digits), None)
    if code is None:
        return str(found[4])
    return chr(code) if code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF else "�"


# --- what is kept ------------------------------------------------------------------------------------------------


def _chosen(owned: list[_Owned], lesson: str, notes: _Notes) -> Iterator[_Owned]:
    """Pass over notebooks of other lessons, and what is too much from one student."""
    by_owner: dict[tuple[str, ...], list[_Owned]] = {}
    for one in owned:
        by_owner.setdefault(_identity(one.owner.clues, one.owner.section, "/".join(one.item.parts)), []).append(one)
    for everything in by_owner.values():
        about = [_lesson_of(one, lesson) for one in everything]
        others = [one for one, other in zip(everything, about, strict=True) if lesson and other not in ("", lesson)]
        kept = [
            (other != lesson, len(one.item.parts), natural(_shown(one.item.parts)), one)
            for one, other in zip(everything, about, strict=True) if not lesson or other in ("", lesson)
        ]  # fmt: skip
        who = everything[0].owner.name
        if others:
            names = ", ".join(display(one.item.parts[-1], 60) for one in others[:3]) + (", …" if others[3:] else "")
            verb = "belongs to another lesson and is" if len(others) == 1 else "belong to other lessons and are"
            _note(notes, (who, ""), f"by the name, {names} {verb} not graded for lesson {lesson}", who)
        total = 0
        for count, (*_, one) in enumerate(sorted(kept, key=lambda entry: entry[:3])):
            total += one.item.size
            if count >= _NOTEBOOKS or (count and total > _TOGETHER):
                reason = f"only {count} of {len(kept)} notebooks are graded; the rest are too many or too large"
                _note(notes, (who, ""), reason, who)
                break
            yield one


def _lesson_of(one: _Owned, lesson: str) -> str:
    """Return the lesson that a notebook's name, or else the nearest folder around it, speaks of; or nothing."""
    for name in reversed(one.item.parts):
        text = re.sub(r"[\s-]+", "_", name.casefold())
        found = [number for number, pattern in _lesson_patterns() if pattern.search(text)]
        if found:
            return lesson if lesson in found else found[0]
    return ""


@functools.cache
def _lesson_patterns() -> list[tuple[str, re.Pattern[str]]]:
    """List (number, what speaks of that lesson in a name): 07_adaln, lesson 7; with the -1 of a second upload."""
    found = []
    for number, card in LESSONS.items():
        slug = "[ _-]*".join(map(re.escape, card.slug.split("_")))
        spoken = rf"lesson[ _-]*0*{int(number)}(?![0-9])"
        found.append((number, re.compile(rf"(?<![0-9])(?:{number}[ _-]*{slug}|{spoken})(?:-[0-9]+)?", re.IGNORECASE)))
    return found


def _handins(owned: Iterable[_Owned]) -> Iterator[HandIn]:
    seen: dict[tuple[str, ...], int] = {}
    for item, owner in owned:
        seen[item.parts] = seen.get(item.parts, 0) + 1
        place = "\0".join((*item.parts, str(seen[item.parts])))
        digest = hashlib.sha256(place.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        start = re.sub(r"[^a-z0-9]", "", folded(owner.name))[:40] or "handin"
        yield HandIn(
            f"{start}-{digest}", owner.name, owner.clues, _shown(item.parts), item.size, owner.submitted, owner.late,
            owner.section, item.path, item.members,
        )  # fmt: skip


def _shown(parts: Sequence[str]) -> str:
    return display("/".join(display(part) for part in parts), 300)


def _note(notes: _Notes, parts: tuple[str, ...], sentence: str, where: str = "") -> None:
    where = where or _shown(parts) or "SUBMISSIONS"
    notes.setdefault(parts[:-1], []).append(f"{where}: {sentence}.")


def _more(number: int) -> list[str]:
    return [f"… and {number} more of that kind."] if number > 0 else []


# --- students ----------------------------------------------------------------------------------------------------


def _student(name: str, number: str = "", email: str = "", section: str = "") -> Student:
    """Make a student whose key depends on nothing but the name and the id, or else the e-mail address."""
    told = [folded(text) for text in (name, number or email) if folded(text)]
    slugs = [re.sub(r"[^a-z0-9]", "", text)[:32] for text in told]
    key = "-".join(slug for slug in slugs if slug)
    if slugs != told or not key or key in _RESERVED:
        key = "-".join(filter(None, (key, hashlib.sha256("\0".join(told or [name]).encode()).hexdigest()[:8])))
    return Student(key, display(name), display(number), display(email), display(section))


_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}


def _identity(clues: Sequence[str], section: str, otherwise: str) -> tuple[str, ...]:
    return (section, *map(folded, clues)) if clues else ("", "", otherwise)


def _own_student(handin: HandIn) -> Student:
    """Make a student from what the hand-in says of itself."""
    if not handin.clues:
        return Student(handin.key, handin.owner, section=handin.section)
    email = next((clue for clue in handin.clues if "@" in clue), "")
    number = next((clue for clue in handin.clues[1:] if clue != email), "")
    student = _student(handin.clues[0], number, email, handin.section)
    if not handin.section:
        return student
    return dataclasses.replace(student, key=f"{student.key}-{hashlib.sha256(handin.section.encode()).hexdigest()[:6]}")


def _known_as(student: Student) -> set[str]:
    """Return, folded, everything that may stand for a student: the name from every word on, the id, the address."""
    words = re.split(r"[\s,]+", student.name.strip())
    names = {folded("".join(words[start:] + words[:start])) for start in range(len(words))}
    return (names | {folded(student.id), folded(student.email), folded(student.email.split("@")[0])}) - {""}


def _fitting(index: Mapping[str, list[Student]], clues: Iterable[str]) -> list[Student]:
    """Return whom the first clue that fits anybody names; where it names several, the next ones decide."""
    fits: list[Student] = []
    for clue in clues:
        named = index.get(folded(clue), [])
        fits = [student for student in fits if student in named] or fits or named
        if len(fits) == 1:
            break
    return fits


# --- tables and times --------------------------------------------------------------------------------------------

_ID_COLUMNS = ("id", "student id", "sid", "student number", "id number", "identifier", "sis user id", "user id")
_EMAIL_COLUMNS = ("email", "email address", "e-mail", "e-mail address", "sis login id", "login")
_TIME_COLUMNS = (
    "submitted", "time", "submitted at", "submission time", "timestamp", "created at", "last modified (submission)",
)  # fmt: skip


def _rows(path: str | Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (number of the line, cells by folded heading) of a table separated by commas, semicolons or tabs."""
    try:
        text = Path(path).read_text("utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not written in UTF-8; save it as CSV UTF-8") from error
    head = text.split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count))
    try:
        heading = [folded(cell) for cell in next(reader, [])]
        for row in reader:
            yield reader.line_num, dict(zip(heading, (cell.strip() for cell in row), strict=False))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from error


def _cell(row: Mapping[str, str], *columns: str) -> str:
    return next((row[folded(column)] for column in columns if row.get(folded(column))), "")


def _row_name(row: Mapping[str, str]) -> str:
    first, last = _cell(row, "first name", "given name"), _cell(row, "last name", "surname", "family name")
    return _cell(row, "name", "student", "full name", "student name", "display name") or f"{first} {last}".strip()


def _moment(text: str, zone: tzinfo | None = None) -> datetime | None:
    """Read a time as LMSs write it, or return None. zone: of a time that names none; otherwise this machine's."""
    text = " ".join(text.split())
    shape = (
        r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d(?::\d\d)?)(?:[.,](\d+))? ?(Z|UTC|GMT|[+-]\d\d:?\d\d|[A-Za-z]+/[A-Za-z_/+-]+)?"
    )
    try:
        if found := re.fullmatch(shape, text):
            day, clock, fraction, named = found.groups()
            moment = datetime.fromisoformat(f"{day}T{clock}")
            moment = moment.replace(microsecond=int((fraction or "0").ljust(6, "0")[:6]))
            if named and "/" in named:
                zone = ZoneInfo(named)
            elif named:
                zone = UTC if named[0].isalpha() else datetime.strptime(named, "%z").tzinfo
        else:
            moment = _long_date(text)
        return moment.replace(tzinfo=zone) if zone else moment.astimezone()
    except (ValueError, OverflowError, OSError, LookupError):
        return None


def _long_date(text: str) -> datetime:
    """Read "Thursday, 12 October 2023, 8:33 PM", as Moodle's tables have it."""
    for shape in ("%A, %d %B %Y, %I:%M %p", "%A, %d %B %Y, %H:%M"):
        try:
            return datetime.strptime(text, shape)
        except ValueError:
            continue
    raise ValueError(f"{text} is no time")
