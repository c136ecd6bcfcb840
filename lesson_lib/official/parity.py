"""How far the course is from the public implementations: measured here where they are installed, else recorded."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

RECORDED = Path(__file__).with_name("parity.json")

# key → the package it needs, and the function (module in this folder, name) that returns what → largest difference
COMPARISONS = {
    "samplers": ("diffusers", "schedulers", "compare_samplers"),
    "embeddings": ("diffusers", "embeddings", "compare_embeddings"),
    "unet": ("diffusers", "unet", "compare_unet"),
    "vae": ("diffusers", "vae", "compare_vae"),
    "vit": ("transformers", "vit", "compare_vit"),
    "dit": ("diffusers", "dit", "compare_dit"),
    "pixart": ("diffusers", "dit", "compare_pixart"),
    "sd3": ("diffusers", "mmdit", "compare_sd3"),
    "flux": ("diffusers", "mmdit", "compare_flux"),
    "qwen-image": ("diffusers", "mmdit", "compare_qwen"),
    "single-stream": ("diffusers", "mmdit", "compare_single_stream"),
    "rope": ("diffusers", "rope", "compare_rope"),
    "rope-llama": ("transformers", "rope", "compare_rope_llama"),
}
# key → the differences that lie in the public implementation, whatever the weights, and are explained where it is built
KNOWN = {"dit": ("as shipped", "frequencies fixed")}


@dataclass(frozen=True)
class Parity:
    """The largest differences of one comparison, the versions it was made with, and whether it was made now.

    known: the differences, apart from the others, that lie in the public implementation as it is shipped.
    """

    differences: dict[str, float]
    versions: dict[str, str]
    fresh: bool
    known: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        made = "measured now" if self.fresh else "recorded"
        told = {**self.known, **self.differences}
        width = max(23, *map(len, told))
        lines = [f"{name:<{width}} {value:.1e}" for name, value in told.items()]
        return "\n".join(["largest difference", *lines, f"{made}, {_versions(self.versions)}"])


def parity(key: str) -> Parity:
    """Return a comparison: made now where the public package is installed, otherwise the recorded one.

    Raises KeyError, listing the comparisons there are, for another.
    """
    if key not in COMPARISONS:
        raise KeyError(f"there is no comparison {key!r}; there is {', '.join(COMPARISONS)}")
    if find_spec(COMPARISONS[key][0]) is None:
        return recorded()[key]
    return measure(key)


def measure(key: str) -> Parity:
    """Make a comparison now; raises ImportError where its public package is absent."""
    package, module, function = COMPARISONS[key]
    differences = getattr(importlib.import_module(f"lesson_lib.official.{module}"), function)()
    known = {name: differences.pop(name) for name in KNOWN.get(key, ())}
    return Parity(differences, {name: version(name) for name in (package, "torch")}, fresh=True, known=known)


def recorded() -> dict[str, Parity]:
    """Return all recorded comparisons by key."""
    entries = json.loads(RECORDED.read_text(encoding="utf-8"))
    return {key: Parity(**entry, fresh=False) for key, entry in entries.items()}


def record() -> None:
    """Make every comparison and write parity.json: what `python -m lesson_lib.official` does."""
    entries = {}
    for key in COMPARISONS:
        found = measure(key)
        print(f"{key}: {found}")
        entries[key] = {name: value for name, value in asdict(found).items() if name != "fresh" and value}
    RECORDED.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())
