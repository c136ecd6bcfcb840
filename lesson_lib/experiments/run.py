"""Run an experiment: every variant with every seed, with a progress bar, resuming where it was stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from lesson_lib import ROOT, results
from lesson_lib.setup import BUDGETS, Budget
from lesson_lib.train import peak_memory_mb

Measure = Callable[[str, int, dict[str, Any], Budget], dict[str, Any]]


@dataclass(frozen=True)
class Experiment:
    """One comparison: its question, its variants, what is measured, and the function that runs one of them once.

    measure: called with (variant, seed, configuration, budget); returns metric → number, or → list, one for each x.
    settings: a function from the budget to the configuration (steps, sizes, samples). sources: the modules whose text
    decides the outcome; a change of one of them makes finished parts count as not done. x: (name, values) of a sweep.
    """

    name: str
    title: str
    variants: tuple[str, ...]
    metrics: Mapping[str, str]
    settings: Callable[[Budget], dict[str, Any]]
    measure: Measure
    sources: tuple[ModuleType, ...]
    x: tuple[str, list[float]] | None = None


def folder_for(budget: Budget, shipped: Path) -> Path:
    """Return where an outcome is written: the shipped folder, or its namesake in build/ at the smoke budget.

    A smoke run learns nothing and must never replace what is shipped.
    """
    return ROOT / "build" / shipped.name if budget.name == "smoke" else shipped


def run(
    experiment: Experiment,
    budget: Budget,
    seeds: int = 5,
    out: Path = results.RESULTS,
    parts: Path = results.PARTS,
    progress: bool = True,
) -> results.Record:
    """Run what is not done yet of all variants and seeds 0 … seeds - 1, and write the record to out/NAME.json.

    Each finished (variant, seed) is kept in a part of its own under parts/NAME, so a stopped run loses at most one.
    Raises ValueError for fewer than two seeds: one training cannot tell a difference from luck.
    """
    if seeds < 2:
        raise ValueError(
            f"seeds is {seeds}; one training cannot tell a difference from luck, take at least 2 (better 5)"
        )
    if budget.name not in BUDGETS:
        raise ValueError(f"budget is {budget.name!r}; it must be one of {', '.join(BUDGETS)}")
    configuration = experiment.settings(budget)
    sources = results.sources_sha256(*experiment.sources)
    done = results.Parts(experiment.name, configuration, sources, budget.name, parts)
    todo = [(seed, variant) for seed in range(seeds) for variant in experiment.variants]
    for seed, variant in _watch(todo, progress, experiment.name):
        if done.done(variant, seed):
            continue
        started = time.perf_counter()
        metrics = experiment.measure(variant, seed, configuration, budget)
        seconds = time.perf_counter() - started
        done.store(variant, seed, metrics, seconds=seconds, peak_memory_mb=peak_memory_mb(budget.device))
    sweep = None if experiment.x is None else {"name": experiment.x[0], "values": list(experiment.x[1])}
    record = done.collect(experiment.title, experiment.metrics, experiment.variants, list(range(seeds)), sweep)
    results.save(record, out)
    return record


def _watch(todo: list, progress: bool, name: str) -> Any:
    from tqdm.auto import tqdm

    return tqdm(todo, desc=name, unit="run", disable=not progress)
