"""The shared library of the course: modules in the order of the lessons, each short enough to read."""

from pathlib import Path

__version__ = "0.1.0"

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
