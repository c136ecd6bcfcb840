"""Run an experiment: every variant with every seed, with a progress bar, resuming where it was stopped.

Several machines can each run a share; README.md beside this file says how.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from lesson_lib import ROOT, results
from lesson_lib.setup import BUDGETS, Budget
from lesson_lib.train import peak_memory_mb

Measure = Callable[[str, int, dict[str, Any], Budget], dict[str, Any]]
Run = tuple[int, str]  # a seed and a variant: what is measured at once, and kept in one part


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


def share_of(experiment: Experiment, seeds: int, share: tuple[int, int]) -> list[Run]:
    """Return the runs that machine i of n has to do; share: (i, n), i from 1 to n.

    The shares differ by one run at most, and the seeds of each variant are dealt out over the machines, so that no
    machine gets all the slow ones. Raises ValueError for another i, and where there are fewer runs than machines.
    """
    number, machines = share
    dealt = [(seed, variant) for variant in experiment.variants for seed in range(seeds)]
    if not 1 <= number <= machines:
        raise ValueError(f"share {number}/{machines}: write i/n with i from 1 to n, such as 1/4")
    if machines > len(dealt):
        raise ValueError(f"{experiment.name} has {len(dealt)} runs with {seeds} seeds: too few for {machines} machines")
    return sorted(dealt[number - 1 :: machines], key=lambda run: (run[0], experiment.variants.index(run[1])))


def run(
    experiment: Experiment,
    budget: Budget,
    seeds: int = 5,
    out: Path = results.RESULTS,
    parts: Path = results.PARTS,
    progress: bool = True,
    share: tuple[int, int] = (1, 1),
) -> results.Record | None:
    """Run what is not done yet of all variants and seeds 0 … seeds - 1, and write the record to out/NAME.json.

    Each finished (variant, seed) is kept in a part of its own under parts/NAME, so a stopped run loses at most one.
    share: (i, n) runs only the i-th of n shares, one for each machine; then the record is written, and returned, only
    where the parts of the others are there too: see merge.
    Raises ValueError for fewer than two seeds: one training cannot tell a difference from luck.
    """
    done, todo = _parts(experiment, budget, seeds, parts), share_of(experiment, seeds, share)
    for seed, variant in _watch(todo, progress, experiment.name):
        if done.done(variant, seed):
            continue
        started = time.perf_counter()
        metrics = experiment.measure(variant, seed, done.configuration, budget)
        seconds = time.perf_counter() - started
        done.store(variant, seed, metrics, seconds=seconds, peak_memory_mb=peak_memory_mb(budget.device))
    return _collect(experiment, done, seeds, out)


def merge(
    experiment: Experiment,
    budget: Budget,
    folders: Sequence[Path],
    seeds: int = 5,
    out: Path = results.RESULTS,
    parts: Path = results.PARTS,
) -> results.Record | None:
    """Copy the parts that other machines made, and write the record where none is missing; else return None.

    folders: theirs, copied or mounted here: build/experiments, or the folder of this experiment in it. The first one
    that has a run gives it. Raises as results.Parts.take_from: parts made otherwise are refused, each by name.
    """
    done = _parts(experiment, budget, seeds, parts)
    copied, known = done.take_from(folders)
    print(f"{experiment.name}: {copied} parts copied, {known} were here already")
    return _collect(experiment, done, seeds, out)


def _parts(experiment: Experiment, budget: Budget, seeds: int, folder: Path) -> results.Parts:
    if seeds < 2:
        raise ValueError(
            f"seeds is {seeds}; one training cannot tell a difference from luck, take at least 2 (better 5)"
        )
    if budget.name not in BUDGETS:
        raise ValueError(f"budget is {budget.name!r}; it must be one of {', '.join(BUDGETS)}")
    configuration = experiment.settings(budget)
    sources = results.sources_sha256(*experiment.sources)
    return results.Parts(experiment.name, configuration, sources, budget.name, folder)


def _collect(experiment: Experiment, done: results.Parts, seeds: int, out: Path) -> results.Record | None:
    """Write and return the record, or say which runs it waits for."""
    everything = share_of(experiment, seeds, (1, 1))
    missing = [f"{variant} with seed {seed}" for seed, variant in everything if not done.done(variant, seed)]
    if missing:
        some = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        print(f"{experiment.name}: no record yet, {len(missing)} of {len(everything)} runs are not here: {some}")
        return None
    sweep = None if experiment.x is None else {"name": experiment.x[0], "values": list(experiment.x[1])}
    record = done.collect(experiment.title, experiment.metrics, experiment.variants, list(range(seeds)), sweep)
    results.save(record, out)
    return record


def _watch(todo: list, progress: bool, name: str) -> Any:
    from tqdm.auto import tqdm

    return tqdm(todo, desc=name, unit="run", disable=not progress)
