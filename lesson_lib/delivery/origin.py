"""Where the drill's course comes from: a bare clone of the last commit, or of what a fork would have; and its sources.

A set-up cell clones what make_origin returns. foreign_addresses and compile_sources look at its files without running a
lesson: does a fork still lead to where it came from, and does every source compile?
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lesson_lib.build.repository import BADGE_HOST, Repository, read_repository
from lesson_lib.build.sources import BuildError
from lesson_lib.delivery import DeliveryError, tail
from lesson_lib.delivery.pages import tracked

PYTHONS = ("3.11", "3.12", "3.13")


@dataclass(frozen=True)
class Origin:
    """What the set-up cells clone: a bare repository, and beside it the same files in a folder (tree).

    repository: whose address it has. forked: whose it had before a drill for a fork. left_out: uncommitted files.
    """

    bare: Path
    tree: Path
    repository: Repository
    commit: str
    left_out: tuple[str, ...] = ()
    forked: Repository | None = None

    def notebooks(self, lessons: Sequence[str] | None) -> list[Path]:
        """Return the notebooks of these lessons (None: of all); raise DeliveryError for a lesson that has none."""
        found = {path.name[:2]: path for path in sorted((self.tree / "notebooks").glob("[0-9][0-9]_*.ipynb"))}
        wanted = list(found) if lessons is None else list(dict.fromkeys(number.zfill(2) for number in lessons))
        if unknown := [number for number in wanted if number not in found]:
            raise DeliveryError(f"there is no notebook of lesson {', '.join(unknown)}; there are {', '.join(found)}")
        if not wanted:
            raise DeliveryError("no notebook is committed in notebooks/; there is nothing to drill")
        return [found[number] for number in wanted]


def make_origin(root: Path, base: Path, fork: str | None = None) -> Origin:
    """Clone the last commit of `root` into the empty folder `base`; with fork=owner/name, as that fork would have it.

    Raises DeliveryError where `root` is no repository, `fork` no owner/name, or restamping fails.
    """
    if not (root / ".git").exists():
        raise DeliveryError(f"{root} is no git checkout; the drill runs what is committed, so it needs one")
    changed = _git(root, "status", "--porcelain", "-z").split("\0")
    left_out = tuple(entry[3:] for entry in changed if entry[2:3] == " ")  # the second half of a rename has no status
    source, forked = root, None
    if fork:
        source = base / "fork"
        _git(base, "clone", "--quiet", str(root), str(source))
        forked = _restamp(source, fork)
    bare, tree = base / "course.git", base / "tree"
    _git(base, "clone", "--quiet", "--bare", str(source), str(bare))
    commit = _git(source, "rev-parse", "HEAD").strip()
    _git(bare, "update-ref", "refs/heads/main", commit)  # HEAD may be a commit without a branch, as in CI
    _git(bare, "symbolic-ref", "HEAD", "refs/heads/main")
    _git(base, "clone", "--quiet", str(bare), str(tree))
    return Origin(bare, tree, _repository(tree), commit, left_out, forked)


def _repository(tree: Path) -> Repository:
    try:
        return read_repository(tree)
    except (BuildError, OSError) as problem:
        raise DeliveryError(f"the address in lesson_lib/repository.txt cannot be read: {problem}") from problem


def _restamp(clone: Path, fork: str) -> Repository:
    """Run the clone's own `fork` command and commit what it did; return whose address the clone had."""
    old = _repository(clone)
    try:
        if Repository(fork) == old:
            raise DeliveryError(f"{fork} is this repository itself; name another owner or name")
    except BuildError as problem:
        raise DeliveryError(str(problem)) from problem
    environment = {**os.environ, "PYTHONPATH": str(clone)}
    command = [sys.executable, "-m", "lesson_lib.build", "fork", fork]
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise DeliveryError(f"the clone cannot be restamped for {fork}:\n{tail(done.stderr)}")
    identity = ("-c", "user.name=drill", "-c", "user.email=drill@example.org", "-c", "commit.gpgsign=false")
    _git(clone, *identity, "commit", "--quiet", "--all", "--no-verify", "--message", f"As {fork} would have it")
    return old


def foreign_addresses(tree: Path, old: Repository, new: Repository) -> list[str]:
    """Say which lines of a fork's tracked files still lead to the old repository, and which notebook lacks its link.

    In a page owner/name alone counts, in Python only after a host: code may speak of a name. The files below tests/
    may name any repository, since no learner meets them.
    """
    owner, name = (re.escape(part) for part in old.slug.split("/"))
    address = rf"(?:{owner}/{name}|{owner}\.github\.io/{name})(?![\w-]|\.(?!git\b)\w)"
    anywhere, after_host = (re.compile(before + address, re.I) for before in (r"(?<![\w.-])", r"(?<=[/:])"))
    found = []
    for file in tracked(tree):
        try:
            text = (tree / file).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture, weights
        if not file.startswith("tests/"):
            pattern = after_host if file.endswith(".py") else anywhere
            lines = enumerate(text.splitlines(), start=1)
            found += [
                f"{file}:{i} still leads to {old.slug}: {_around(pattern, line)}"
                for i, line in lines
                if pattern.search(line)
            ]
        if file.startswith("notebooks/") and f"{BADGE_HOST}{new.slug}/blob/" not in text:
            found.append(f"{file} has no link that opens it on Colab from {new.slug}")
    return found


def _around(pattern: re.Pattern[str], line: str) -> str:
    match = pattern.search(line)
    assert match
    return line[max(0, match.start() - 40) : match.end() + 30].strip()


def _git(folder: Path, *arguments: str) -> str:
    """Run git in a folder and return what it prints; raise DeliveryError with its complaint where it fails."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    except FileNotFoundError as problem:
        raise DeliveryError("git is not here; install it (Debian, Ubuntu: apt install git)") from problem
    if done.returncode:
        raise DeliveryError(f"git {' '.join(arguments[:2])} failed: {tail(done.stderr)}")
    return done.stdout


_COMPILE = """
import sys, warnings
warnings.simplefilter("error", SyntaxWarning)
for name in filter(None, sys.stdin.read().split("\\0")):
    try:
        with open(name, "rb") as file:
            compile(file.read(), name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as problem:
        print(f"{name}:{getattr(problem, 'lineno', None) or 1}: {getattr(problem, 'msg', problem)}")
"""


def find_pythons() -> dict[str, Path]:
    """Return an interpreter for each version in PYTHONS that runs here: our own, one on PATH, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    folders = [Path(folder) for folder in os.get_exec_path()]
    candidates = [Path(sys.executable)]
    candidates += [folder / f"python{version}" for version in PYTHONS for folder in folders]
    candidates += [path for version in PYTHONS for path in sorted(pyenv.glob(f"{version}.*/bin/python"))]
    found: dict[str, Path] = {}
    for path in candidates:
        named = re.search(r"3\.\d+", path.name)
        if (named and named[0] in found) or not os.access(path, os.X_OK):
            continue
        command = [str(path), "-I", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        version = done.stdout.strip()
        if done.returncode == 0 and version in PYTHONS:  # a shim of pyenv's may be there and lead nowhere
            found.setdefault(version, path)
    return dict(sorted(found.items()))


def sources(tree: Path) -> list[str]:
    """Return the paths of the Python files in a fresh clone."""
    return [path for path in tracked(tree) if path.endswith(".py")]


def compile_sources(tree: Path, pythons: Mapping[str, Path]) -> list[str]:
    """Compile every tracked .py file with each interpreter, writing nothing; say file, line and error of each failure.

    A SyntaxWarning counts as an error: learners would see it.
    """
    names = "\0".join(sources(tree))
    found = []
    for version, python in pythons.items():
        command = [str(python), "-I", "-c", _COMPILE]
        done = subprocess.run(command, cwd=tree, input=names, capture_output=True, text=True)
        found += [f"Python {version}: {line}" for line in done.stdout.splitlines()]
        if done.returncode:
            found.append(f"Python {version} cannot compile here: {tail(done.stderr)}")
    return found
