"""The repository's address: lesson_lib/repository.txt has it, set-up cells and badges are written from it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from lesson_lib import ROOT
from lesson_lib.build.sources import BuildError

HOST = "https://github.com/"
BADGE_HOST = "https://colab.research.google.com/github/"
BRANCH = "main"
SETUP_NAME = "setup"


@dataclass(frozen=True)
class Repository:
    """A repository on GitHub, named as there: owner/name."""

    slug: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+", self.slug):
            raise BuildError(f"{self.slug!r} is no repository; write owner/name, for example REPO=ada/diffusion-course")

    @property
    def address(self) -> str:
        """The address to clone from and to link to."""
        return HOST + self.slug

    def colab(self, stem: str) -> str:
        """Return the address that opens a notebook on Colab."""
        return f"{BADGE_HOST}{self.slug}/blob/{BRANCH}/notebooks/{stem}.ipynb"

    def setup_cell(self, number: str) -> str:
        """Return the set-up cell of a lesson: on Colab it fetches the course, elsewhere it finds its folder."""
        return SETUP.format(address=self.address, number=number)


SETUP = """\
import os, subprocess, sys

repository = os.environ.get("COURSE_REPO", "{address}")
if "google.colab" in sys.modules and not os.path.isdir("course"):
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", repository, "course"], check=True)
sys.path[:0] = [os.path.abspath(d) for d in (".", "..", "course") if os.path.isdir(f"{{d}}/lesson_lib")]
from lesson_lib.setup import start_lesson
budget = start_lesson("{number}")"""


def read_repository(root: Path = ROOT) -> Repository:
    """Return the repository that lesson_lib/repository.txt names."""
    text = (root / "lesson_lib" / "repository.txt").read_text(encoding="utf-8").strip()
    return Repository(text.removeprefix(HOST).removesuffix("/").removesuffix(".git"))
