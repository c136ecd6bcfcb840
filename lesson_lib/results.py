"""Recorded experiments: a checked file for each, parts to resume from, intervals, and verdicts in words."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import platform
import re
import statistics
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import torch

from lesson_lib import DATA, ROOT

RESULTS = DATA / "results"
PARTS = ROOT / "build" / "experiments"


@dataclass(frozen=True)
class Record:
    """One recorded experiment: what was measured, how, by which code, and every seed's numbers.

    experiment: the file's name, lower case with hyphens or underscores. title: the question in words.
    metrics: metric → its definition. configuration: everything that a repetition must set.
    seeds: one integer a repetition. variants: variant → metric → one number a seed, in the order of `seeds`;
    where `x` is given (`{"name": "steps", "values": [1, 2, 4]}`), a list of numbers a seed, one for each x.
    seconds: of all runs together. peak_memory_mb: of the largest one, None where the system does not tell.
    Raises ValueError, naming the field, where something does not fit.
    """

    experiment: str
    title: str
    metrics: dict[str, str]
    configuration: dict[str, Any]
    sources_sha256: str
    hardware: str
    budget: str
    seeds: list[int]
    variants: dict[str, dict[str, list[Any]]]
    seconds: float
    peak_memory_mb: float | None = None
    x: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        _check(self)

    def values(self, variant: str, metric: str, at: float | str | None = None) -> list[float]:
        """Return one variant's numbers, one a seed; where the record sweeps x, at that value of x."""
        if metric not in self.metrics:
            raise ValueError(f"{self.experiment} has no metric {metric!r}; it has {_list(self.metrics)}")
        if variant not in self.variants:
            raise ValueError(f"{self.experiment} has no variant {variant!r}; it has {_list(self.variants)}")
        column = self.variants[variant][metric]
        if self.x is None:
            if at is not None:
                raise ValueError(f"{self.experiment} sweeps nothing: leave `at` out")
            return list(column)
        if at not in self.x["values"]:
            raise ValueError(f"{self.experiment}: `at` must be one of {self.x['name']} = {_list(self.x['values'])}")
        index = self.x["values"].index(at)
        return [row[index] for row in column]

    def curve(self, variant: str, metric: str) -> list[tuple[float, float, float]]:
        """Return (mean, low, high) at every x, with 95 % t-intervals over the seeds; for a band in a figure."""
        if self.x is None:
            raise ValueError(f"{self.experiment} sweeps nothing: use interval(record.values(variant, metric))")
        return [interval(self.values(variant, metric, at)) for at in self.x["values"]]


def save(record: Record, folder: Path = RESULTS) -> Path:
    """Write a record to folder/EXPERIMENT.json, whole or not at all, and return the path."""
    path = folder / f"{record.experiment}.json"
    data = {name: value for name, value in dataclasses.asdict(record).items() if value is not None}
    _write_whole(path, data)
    return path


def load(name: str, folder: Path = RESULTS) -> Record:
    """Return the recorded experiment of that name.

    Raises FileNotFoundError, listing the records there are, or ValueError, saying which field is wrong.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        there = sorted(other.stem for other in folder.glob("*.json"))
        raise FileNotFoundError(
            f"no recorded experiment {name!r} in {folder.name}/; there are: {_list(there) or 'none'}. "
            f"To make it: python -m lesson_lib.experiments {name}"
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON ({error}); restore it or run the experiment again") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path.name}: expects one JSON object, got {type(data).__name__}")
    fields = dataclasses.fields(Record)
    missing = [field.name for field in fields if field.default is dataclasses.MISSING and field.name not in data]
    unknown = sorted(set(data) - {field.name for field in fields})
    if missing or unknown:
        raise ValueError(f"{path.name}: missing keys: {_list(missing) or 'none'}; unknown: {_list(unknown) or 'none'}")
    record = Record(**data)
    if record.experiment != name:
        raise ValueError(f"{path.name}: holds the experiment {record.experiment!r}; its name must be the file's")
    return record


def _check(record: Record) -> None:
    """Raise ValueError naming the first field that does not fit the schema."""

    def demand(good: bool, field: str, wish: str) -> None:
        if not good:
            raise ValueError(f"record {record.experiment!r}: {field} must be {wish}")

    demand(isinstance(record.experiment, str) and bool(re.fullmatch(r"[a-z0-9][a-z0-9_-]*", record.experiment)),
           "experiment", "a file name of lower-case letters, digits, - and _")  # fmt: skip
    for name in ("title", "hardware", "budget"):
        value = getattr(record, name)
        demand(isinstance(value, str) and bool(value.strip()), name, f"a text that is not empty, got {value!r}")
    demand(isinstance(record.sources_sha256, str) and bool(re.fullmatch(r"[0-9a-f]{64}", record.sources_sha256)),
           "sources_sha256", "64 hexadecimal digits: see sources_sha256()")  # fmt: skip
    for name in ("metrics", "configuration", "variants"):
        demand(isinstance(getattr(record, name), dict), name, "a dictionary with string keys")
        demand(all(isinstance(key, str) for key in getattr(record, name)), name, "a dictionary with string keys")
    demand(bool(record.metrics) and all(isinstance(text, str) for text in record.metrics.values()),
           "metrics", "metric → definition, at least one")  # fmt: skip
    for name, value in (("seconds", record.seconds), ("peak_memory_mb", record.peak_memory_mb)):
        good = (value is None and name == "peak_memory_mb") or (_finite(value) and float(value or 0) >= 0)
        demand(good, name, f"a finite number of at least 0, got {value!r}")
    seeds = record.seeds
    demand(isinstance(seeds, list) and bool(seeds) and all(type(seed) is int for seed in seeds),
           "seeds", f"a list of integers, at least one, got {seeds!r}")  # fmt: skip
    demand(len(set(seeds)) == len(seeds), "seeds", f"all different, got {seeds!r}")
    points = None
    if record.x is not None:
        good = isinstance(record.x, dict) and set(record.x) == {"name", "values"}
        demand(good and isinstance(record.x["values"], list) and bool(record.x["values"]),
               "x", '{"name": …, "values": […]} with at least one value, or left out')  # fmt: skip
        points = len(record.x["values"])
    _check_variants(record, points, demand)


def _check_variants(record: Record, points: int | None, demand: Any) -> None:
    demand(bool(record.variants), "variants", "variant → metric → numbers, at least one variant")
    for variant, metrics in record.variants.items():
        where = f"variants[{variant!r}]"
        demand(isinstance(metrics, dict) and set(metrics) == set(record.metrics),
               where, f"a dictionary of exactly the metrics {_list(record.metrics)}, got {_list(metrics)}")  # fmt: skip
        for metric, column in metrics.items():
            place, seeds = f"{where}[{metric!r}]", len(record.seeds)
            demand(isinstance(column, list) and len(column) == seeds, place, f"a list of {seeds}, one entry a seed")
            for row in column:
                if points is None:
                    demand(_finite(row), place, f"finite numbers, got {row!r}")
                else:
                    good = isinstance(row, list) and len(row) == points and all(_finite(value) for value in row)
                    demand(good, place, f"{points} finite numbers a seed, one for each x, got {row!r}")


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _list(names: Any) -> str:
    return ", ".join(str(name) for name in names)


def _write_whole(path: Path, data: Any) -> None:
    """Write JSON beside the folder first and then move it in, so that the folder never holds half a file."""
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.parent.parent / ".part" / f"{path.name}.{os.getpid()}.part"
    part.parent.mkdir(exist_ok=True)
    try:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def sources_sha256(*modules: ModuleType) -> str:
    """Return one hash of the modules' source files, so that a record can tell which code made it.

    The order in which they are named, where they lie and how their lines end do not matter.
    """
    digest = hashlib.sha256()
    for module in sorted(set(modules), key=lambda module: module.__name__):
        if module.__file__ is None:
            raise ValueError(f"sources_sha256: {module.__name__} is a folder without source; name its modules")
        source = Path(module.__file__).read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{module.__name__}\0{hashlib.sha256(source).hexdigest()}\n".encode())
    return digest.hexdigest()


def hardware() -> str:
    """Return one line on what the numbers were measured on: the accelerator or the CPU's cores, and torch's version."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"CPU {platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} cores, torch {torch.__version__}"


class Parts:
    """The finished runs of an experiment, one file for each variant and seed, so that a stopped experiment resumes.

    configuration, sources and budget are hashed together: a part made with others counts as not done. Leave the number
    of seeds out of the configuration, and more can be added later. The files lie in build/, never in data/results/.
    Several machines may each make some of the parts; take_from brings them together.
    """

    def __init__(
        self, name: str, configuration: Mapping[str, Any], sources: str, budget: str, folder: Path = PARTS
    ) -> None:
        self.name, self.configuration, self.sources, self.budget = name, dict(configuration), sources, budget
        self.folder = folder / name
        known = json.dumps([self.configuration, sources, budget], sort_keys=True)
        self.key = hashlib.sha256(known.encode()).hexdigest()

    def read(self, variant: str, seed: int) -> dict[str, Any] | None:
        """Return a finished run's metrics, seconds, peak_memory_mb and hardware, or None where it is not done yet."""
        path = self._path(variant, seed)
        try:
            part = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return part if isinstance(part, dict) and part.get("key") == self.key else None

    def done(self, variant: str, seed: int) -> bool:
        """Return whether this run is finished with this configuration and these sources."""
        return self.read(variant, seed) is not None

    def store(
        self, variant: str, seed: int, metrics: Mapping[str, Any], *, seconds: float, peak_memory_mb: float
    ) -> None:
        """Keep one finished run: metric → number, or → list of numbers, one for each x."""
        part = {
            "key": self.key, "budget": self.budget, "sources_sha256": self.sources, "configuration": self.configuration,
            "variant": variant, "seed": seed, "metrics": dict(metrics),
            "seconds": seconds, "hardware": hardware(),
            "peak_memory_mb": peak_memory_mb if math.isfinite(peak_memory_mb) else None,
        }  # fmt: skip
        _write_whole(self._path(variant, seed), part)

    def collect(
        self, title: str, metrics: Mapping[str, str], variants: Sequence[str], seeds: Sequence[int],
        x: Mapping[str, Any] | None = None,
    ) -> Record:  # fmt: skip
        """Return the record of these variants and seeds; raises ValueError, listing the runs that are not done."""
        runs = {(variant, seed): self.read(variant, seed) for variant in variants for seed in seeds}
        missing = [f"{variant} with seed {seed}" for (variant, seed), run in runs.items() if run is None]
        if missing:
            raise ValueError(f"{self.name}: {len(missing)} of {len(runs)} runs are not done yet: {_list(missing[:5])}")
        finished = {place: run for place, run in runs.items() if run is not None}
        table = {
            variant: {name: [finished[variant, seed]["metrics"].get(name) for seed in seeds] for name in metrics}
            for variant in variants
        }
        peaks = [run["peak_memory_mb"] for run in finished.values()]
        return Record(
            experiment=self.name, title=title, metrics=dict(metrics), configuration=self.configuration,
            sources_sha256=self.sources, hardware="; ".join(sorted({run["hardware"] for run in finished.values()})),
            budget=self.budget, seeds=list(seeds), variants=table,
            seconds=round(sum(run["seconds"] for run in finished.values()), 1),
            peak_memory_mb=max((peak for peak in peaks if peak is not None), default=None),
            x=None if x is None else dict(x),
        )  # fmt: skip

    def take_from(self, folders: Sequence[Path]) -> tuple[int, int]:
        """Copy the finished runs of other machines from their folders of parts, or from this experiment's folder there.

        Returns how many were copied, and how many were left because the same run is here already. Nothing is copied
        where one part does not belong: raises ValueError, naming each such part and what it was made with instead, and
        FileNotFoundError for a folder without parts of this experiment.
        """
        found: list[tuple[Path, dict[str, Any]]] = []
        wrong: list[str] = []
        for folder in folders:
            place = folder / self.name if (folder / self.name).is_dir() else folder
            paths = sorted(place.glob("*.seed*.json"))
            if not paths or (place == folder and folder.name != self.name):
                raise FileNotFoundError(f"there are no parts of {self.name} in {folder}")
            for path in paths:
                part, why = self._foreign(path)
                found += [] if why else [(path, part)]
                wrong += [f"{path} {why}"] if why else []
        if wrong:
            raise ValueError(f"{self.name}: parts that were made otherwise, so none was taken: {'; '.join(wrong)}")
        copied = 0
        for _, part in found:
            if not self.done(part["variant"], part["seed"]):
                _write_whole(self._path(part["variant"], part["seed"]), part)
                copied += 1
        return copied, len(found) - copied

    def _foreign(self, path: Path) -> tuple[dict[str, Any], str]:
        """Return a part, and in words why it does not belong here; no words where it does."""
        try:
            part = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return {}, "is damaged"
        if not isinstance(part, dict) or not {"key", "variant", "seed", "metrics", "seconds", "hardware"} <= set(part):
            return {}, "is no part of an experiment"
        if part["key"] == self.key:
            return part, ""
        if "configuration" not in part:
            return part, "was made with another configuration, budget or library"
        reasons = []
        if part["budget"] != self.budget:
            reasons.append(f"with budget {part['budget']} (here {self.budget})")
        theirs, ours = part["configuration"], json.loads(json.dumps(self.configuration))
        for name in sorted({*theirs, *ours}):
            if theirs.get(name) != ours.get(name):
                reasons.append(f"with {name} = {theirs.get(name)!r} (here {ours.get(name)!r})")
        if part["sources_sha256"] != self.sources:
            reasons.append("by another version of the library's sources")
        return part, f"was made {' and '.join(reasons)}"

    def _path(self, variant: str, seed: int) -> Path:
        return self.folder / f"{quote(variant, safe=' ')}.seed{seed}.json"


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Return (mean, low, high): the mean of independent repetitions and its t-interval.

    Raises ValueError for fewer than two values: one run says nothing about how much runs differ.
    """
    if len(values) < 2:
        raise ValueError(f"interval: needs at least two values (seeds), got {len(values)}")
    from scipy.stats import t

    mean = statistics.fmean(values)
    half = float(t.ppf(0.5 + level / 2, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def proportion_interval(successes: int, trials: int, level: float = 0.95) -> tuple[float, float, float]:
    """Return (share, low, high) of a share of independent trials: Wilson's interval, which stays within 0 and 1."""
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"proportion_interval: needs 0 ≤ successes ≤ trials and a trial, got {successes} of {trials}")
    z = statistics.NormalDist().inv_cdf(0.5 + level / 2)
    share, square = successes / trials, z * z / trials
    centre = (share + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(share * (1 - share) / trials + square / (4 * trials))
    return share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def summary(
    record: Record, metric: str, *, names: Mapping[str, str] | None = None, at: float | str | None = None
) -> str:
    """Return a text table of every variant's mean and 95 % t-interval; one column for each x that is swept."""
    points = [at] if record.x is None or at is not None else record.x["values"]
    rows = [[f"{metric}, by {record.x['name']}" if record.x else metric, *(str(p) if record.x else "" for p in points)]]
    for variant in record.variants:
        rows.append([(names or {}).get(variant, variant)])
        for point in points:
            values = record.values(variant, metric, point)
            half = f" ± {number(interval(values)[2] - interval(values)[0])}" if len(values) > 1 else ""
            rows[-1].append(number(statistics.fmean(values)) + half)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        row[0].ljust(widths[0]) + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    seeds = len(record.seeds)
    foot = f"mean ± 95 % t-interval, {seeds} seeds" if seeds > 1 else "one seed: no interval can be given"
    return "\n".join([*(line.rstrip() for line in lines), foot])


def verdict(
    record: Record,
    metric: str,
    *,
    better: str = "lower",
    names: Mapping[str, str] | None = None,
    at: float | str | None = None,
    variants: Sequence[str] | None = None,
) -> str:
    """Return in words whether the best variant is established as better than the others, with the numbers.

    Seeds are paired: what is judged is the difference of two variants on the same seed, by its 95 % t-interval. With
    more than two variants each interval is widened for all pairs that could have been compared (Bonferroni), because
    the best was picked by looking. A difference is claimed only where its interval leaves out 0.
    better: "lower" or "higher". names: variant → the words to show. at: the value of a swept x.
    variants: compare only these, decided before looking. Raises ValueError for a wrong one of these.
    """
    if better not in ("lower", "higher"):
        raise ValueError(f'verdict: better must be "lower" or "higher", got {better!r}')
    chosen = list(record.variants if variants is None else variants)
    if len(chosen) < 2:
        raise ValueError(f"verdict: needs at least two variants to compare, got {_list(chosen) or 'none'}")
    table = {variant: record.values(variant, metric, at) for variant in chosen}
    means = {variant: statistics.fmean(values) for variant, values in table.items()}
    order = sorted(chosen, key=lambda variant: means[variant], reverse=better == "higher")
    label = {variant: f"{(names or {}).get(variant, variant)} ({number(means[variant])})" for variant in chosen}
    where = f"{metric}" + (f" at {record.x['name']} = {at}" if record.x else "")
    if len(record.seeds) < 2:
        return f"{where}: one seed only, so nothing can be said about a difference between {_and(label.values())}."
    pairs = len(list(combinations(chosen, 2)))
    differences = {other: _paired(table[order[0]], table[other], better, level=1 - 0.05 / pairs) for other in order[1:]}
    return _sentence(where, order, label, differences, better, pairs, len(record.seeds))


def established(
    record: Record, metric: str, variants: Sequence[str], *, better: str = "lower", at: float | str | None = None
) -> str | None:
    """Return the variant that is established as best among these, or None where the intervals do not decide.

    Judged as verdict judges: paired by seed, every interval widened for all pairs that could be compared.
    """
    if better not in ("lower", "higher"):
        raise ValueError(f'established: better must be "lower" or "higher", got {better!r}')
    sign = 1 if better == "lower" else -1
    table = {variant: [sign * value for value in record.values(variant, metric, at)] for variant in variants}
    best = min(table, key=lambda variant: statistics.fmean(table[variant]))
    pairs = len(variants) * (len(variants) - 1) // 2
    for other in variants:
        gains = [theirs - own for own, theirs in zip(table[best], table[other], strict=True)]
        if other != best and interval(gains, 1 - 0.05 / pairs)[1] <= 0:
            return None
    return best


def _paired(best: Sequence[float], other: Sequence[float], better: str, level: float) -> tuple[float, float, float]:
    """Return by how much `best` is better than `other`, seed by seed: (mean, low, high), positive where it is."""
    sign = 1 if better == "lower" else -1
    scale = max(abs(value) for value in [*best, *other])
    gains = [sign * (b - a) for a, b in zip(best, other, strict=True)]
    return interval([0.0 if abs(gain) <= 1e-12 * scale else gain for gain in gains], level)


def _sentence(
    where: str, order: Sequence[str], label: Mapping[str, str], differences: Mapping[str, tuple[float, float, float]],
    better: str, pairs: int, seeds: int,
) -> str:  # fmt: skip
    def amount(other: str) -> str:
        mean, low, high = differences[other]
        return f"{number(mean)} [{number(low)}, {number(high)}]"

    best, *rest = order
    beaten = [other for other in rest if differences[other][1] > 0]
    unclear = _and(f"{label[other]}, difference {amount(other)}" for other in rest if other not in beaten)
    claims = []
    if beaten:
        claims.append(
            f"{label[best]} is {better} than {_and(f'{label[other]} by {amount(other)}' for other in beaten)}"
        )
    if unclear and beaten:
        claims.append(f"no difference is established at this scale from {unclear}")
    elif unclear:
        claims.append(f"no difference is established at this scale between {label[best]} and {unclear}")
    how = f"95 % t-interval of the paired difference, {seeds} seeds"
    if pairs > 1:
        how = f"95 % t-intervals of paired differences, {seeds} seeds, widened for {pairs} comparisons (Bonferroni)"
    return folded(f"{where}: {'; '.join(claims)} ({how}).")


def folded(text: str, indent: str = "") -> str:
    """Break a sentence between words into lines of at most 96 letters; JupyterLab would break it inside them.

    indent: what every line but the first begins with.
    """
    return textwrap.fill(text, 96, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _and(parts: Iterable[str]) -> str:
    """Join as prose does: a, b and c."""
    *first, last = list(parts) or [""]
    return f"{', '.join(first)} and {last}" if first else last


def number(value: float) -> str:
    """Write a number with three digits that count, or with all of a large whole number's."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
