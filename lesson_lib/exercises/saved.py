"""What a learner has done so far: one local JSON file, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

SECTIONS = ("exercises", "guesses", "prose")
Progress = dict[str, dict[str, Any]]


def progress_path() -> Path:
    """Return where progress is kept: LESSON_PROGRESS, or progress.json in the current directory."""
    return Path(os.environ.get("LESSON_PROGRESS") or "progress.json")


def load() -> Progress:
    """Return all progress. A file that cannot be read is set aside as progress.json.broken, and a line says so."""
    path = progress_path()
    empty: Progress = {section: {} for section in SECTIONS}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return empty
    except OSError as error:
        print(f"Your progress in {path} cannot be read ({error.strerror}); it counts as empty for now.")
        return empty
    except ValueError:
        found = None
    if isinstance(found, dict) and all(isinstance(found.get(section, {}), dict) for section in SECTIONS):
        return {section: _entries(section, found.get(section, {})) for section in SECTIONS}
    aside = path.with_name(path.name + ".broken")
    with contextlib.suppress(OSError):
        os.replace(path, aside)
    print(f"Your progress in {path} was damaged. It is kept as {aside.name}, and a new one begins.")
    return empty


def _entries(section: str, found: dict[str, Any]) -> dict[str, Any]:
    """Drop what a check or a guess cannot have written."""
    if section == "guesses":
        return {key: value for key, value in found.items() if isinstance(value, str | int | float)}
    return {key: value for key, value in found.items() if isinstance(value, dict)}


def record(section: str, key: str, entry: Any) -> None:
    """Set one entry and write the file; where it cannot be written a line says so, and the lesson goes on."""
    progress = load()
    progress[section][key] = entry
    try:
        _write(progress_path(), progress)
    except OSError as error:
        print(f"Your progress cannot be saved in {progress_path()} ({error.strerror}); the lesson goes on without.")


def _write(path: Path, progress: Progress) -> None:
    """Write to a second file, push it to the disk, and only then put it in the first one's place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8") as file:
            json.dump(progress, file, indent=1, sort_keys=True, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
