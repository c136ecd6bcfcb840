"""The gallery of results: every record of data/results with its figure, its numbers and the command that repeats it."""

from __future__ import annotations

import ast
import html
import math
import re
import statistics
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from lesson_lib import plot, results
from lesson_lib.build.expand import Course
from lesson_lib.build.repository import BRANCH
from lesson_lib.build.sources import find_lessons
from lesson_lib.delivery.site.figures import picture
from lesson_lib.exercises.core import counted
from lesson_lib.results import Record

INTRODUCTION = """\
# Results

Every experiment that a lesson quotes, drawn from its record in `data/results/`: {count} records, grouped by the lesson
that uses them first. A dot is one seed; a bar, a band or a ± is the mean with its 95 % t-interval over the seeds.
Intervals of single variants are not yet a comparison: the lessons compare variants seed by seed, and say in words where
a difference is established.

These are small networks, small pictures and short trainings. What holds here need not hold at another size."""


def write(root: Path, page: Path, extra: Path, course: Course) -> None:
    """Write the gallery's page, and its figures into extra/figures."""
    folder = extra / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    lessons = find_lessons(root / "lessons")
    used = used_by(lessons, sorted(path.stem for path in (root / "data" / "results").glob("*.json")))
    records = {name: results.load(name, root / "data" / "results") for name in used}
    stems = {path.name[:2]: path.stem for path in lessons}
    parts = [INTRODUCTION.format(count=len(records))]
    for number in [*stems, ""]:
        own = [record for name, record in records.items() if (used[name] or [""])[0] == number]
        if own:
            heading = f"{number} · {course.cards[number].title}" if number else "Used by no lesson yet"
            parts.append(f"## {heading}")
        for record in own:
            links = [f"[lesson {n}](notebooks/{stems[n]}.ipynb)" for n in used[record.experiment]]
            address = f"{course.repository.address}/blob/{BRANCH}/data/results/{record.experiment}.json"
            parts += entry(record, links, address, folder)
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def used_by(lessons: list[Path], names: list[str]) -> dict[str, list[str]]:
    """Return for each record the numbers of the lessons whose code loads it, in the order of the first of them."""
    found: dict[str, list[str]] = {name: [] for name in names}
    order: list[str] = []
    for path in lessons:
        for pattern in _loaded(path.read_text(encoding="utf-8")):
            for name in names:
                if fnmatchcase(name, pattern) and path.name[:2] not in found[name]:
                    found[name].append(path.name[:2])
                    order.append(name)
    return {name: found[name] for name in dict.fromkeys([*order, *names])}


def _loaded(source: str) -> Iterator[str]:
    """Yield the names that `results.load(…)` is called with; a variable part of a name is a star."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and node.args]
    for call in sorted(calls, key=lambda node: (node.lineno, node.col_offset)):
        name = call.args[0]
        if ast.unparse(call.func) != "results.load":
            continue
        if isinstance(name, ast.Constant):
            yield str(name.value)
        elif isinstance(name, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in name.values)


def entry(record: Record, lessons: list[str], address: str, folder: Path) -> list[str]:
    """Return one record's paragraphs; its figures are written into `folder`.

    lessons: links to those that use it. address: of the record's file in the repository.
    """
    first, *others = record.metrics
    sections = {metric: _metric(record, metric, folder) for metric in record.metrics}
    seeds = f"{counted(len(record.seeds), 'seed')} ({_join(str(seed) for seed in record.seeds)})"
    memory = f", {record.peak_memory_mb:,.0f} MB at the peak" if record.peak_memory_mb else ""
    used = f"Used by {_join(lessons)}. " if lessons else ""
    variants = _join(plain(variant) for variant in record.variants)
    varied = f"{plain(record.x['name'])} ({_join(map(_short, record.x['values']))}), for " if record.x else ""
    parts = [
        f"### {plain(record.title)}",
        f"{used}Varied: {varied}{variants}. {seeds}, budget `{record.budget}`, {plain(record.hardware)}.",
        *sections[first],
    ]
    if others:
        parts += [_open(f"Other metrics: {', '.join(others)}")]
        parts += [paragraph for metric in others for paragraph in sections[metric]] + ["</details>"]
    parts += [
        _open("How to repeat it, and what was kept equal"),
        f"```bash\npython -m lesson_lib.experiments {record.experiment} --budget {record.budget} "
        f"--seeds {len(record.seeds)}\n```",
        f"All runs together took {record.seconds:,.0f} seconds{memory}. The [record]({address}) holds every seed's "
        "numbers.",
        "\n".join(f"- {plain(name)}: {plain(_value(value))}" for name, value in record.configuration.items()),
        "</details>",
    ]
    return [part for part in parts if part]


def _metric(record: Record, metric: str, folder: Path) -> list[str]:
    """Return one metric's definition, figure and table; what no seed changes, such as a count, needs no figure."""
    parts = [f"**`{metric}`**: {plain(record.metrics[metric])}."]
    if varies(record, metric):
        alt = alt_text(record, metric)
        path = folder / f"{record.experiment}-{metric}.png"
        path.write_bytes(draw(record, metric, alt))
        parts.append(picture(path, "figures", alt))
    return [*parts, table(record, metric)]


def varies(record: Record, metric: str) -> bool:
    """Return whether any variant's numbers differ between the seeds."""
    return any(any(row != column[metric][0] for row in column[metric]) for column in record.variants.values())


def draw(record: Record, metric: str, alt: str) -> bytes:
    """Return the PNG of one metric, drawn as the lessons draw it: curves over what is swept, else intervals."""
    better = _better(record, metric)
    with plot.capture() as pictures:
        if record.x is None:
            plot.intervals(record, metric, alt=alt, better=better)
        else:
            series = {variant: column[metric] for variant, column in record.variants.items()}
            numbers = [abs(value) for rows in series.values() for row in rows for value in row]
            arrow = {"higher": " (higher is better)", "lower": " (lower is better)"}.get(better or "", "")
            plot.curves(
                record.x["values"], series, xlabel=record.x["name"], ylabel=metric + arrow, alt=alt,
                logx=_wide(record.x["values"], 8), logy=_wide(numbers, 20) and max(numbers) > 1,
            )  # fmt: skip
    return pictures[-1]


def _better(record: Record, metric: str) -> str | None:
    """Read in a metric's definition which direction is better, where it says so."""
    found = re.search(r"\b(higher|lower) is better", record.metrics[metric])
    return found[1] if found else None


def _wide(values: list[float], factor: float) -> bool:
    """Return whether positive numbers reach over such a factor, so that a logarithmic axis shows more."""
    return min(values) > 0 and max(values) >= factor * min(values)


def alt_text(record: Record, metric: str) -> str:
    """Return what a metric's figure shows, with its numbers."""
    over = f" over {record.x['name']} = {_join(_short(v) for v in record.x['values'])}" if record.x else ""
    rows = [f"{variant} {', '.join(cells)}" for variant, cells in _cells(record, metric).items()]
    what = f"mean ± 95 % t-interval of {len(record.seeds)} seeds" if len(record.seeds) > 1 else "one seed"
    return f"{metric}{over}, {what}: {'; '.join(rows)}"


def table(record: Record, metric: str) -> str:
    """Return a metric's numbers as a Markdown table: a row for each variant, a column for each x that is swept."""
    heads = [_short(value) for value in record.x["values"]] if record.x else [metric]
    corner = plain(f"by {record.x['name']}") if record.x else ""
    rows = [[corner, *map(plain, heads)], ["---", *["---:"] * len(heads)]]
    rows += [[plain(variant), *cells] for variant, cells in _cells(record, metric).items()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cells(record: Record, metric: str) -> dict[str, list[str]]:
    """Return for each variant "mean ± half of the interval", once for each x."""
    points = record.x["values"] if record.x else [None]
    cells: dict[str, list[str]] = {}
    for variant in record.variants:
        columns = [record.values(variant, metric, point) for point in points]
        cells[variant] = [measured(values) for values in columns]
    return cells


def measured(values: Sequence[float]) -> str:
    """Write a mean with the half of its 95 % t-interval, both as exactly as two digits of the half allow."""
    mean = statistics.fmean(values)
    half = results.interval(values)[2] - mean if len(values) > 1 else 0.0
    if half <= 1e-9 * abs(mean):
        return _short(mean)
    places = max(0, 1 - math.floor(math.log10(half)))
    return f"{mean:,.{places}f}\u00a0±\u00a0{half:,.{places}f}"  # no line break around the sign


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else results.number(value)


def _value(value: object) -> str:
    """Write a setting: a dictionary as its entries, a list as its items."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items())
    return ", ".join(map(_value, value)) if isinstance(value, list) else str(value)


def _join(texts: Iterable[str]) -> str:
    return ", ".join(texts)


def _open(title: str) -> str:
    return f"<details><summary>{html.escape(title)}</summary>"


def plain(text: str) -> str:
    """Return a text as Markdown that shows just this text, in a table too."""
    return re.sub(r"([\\`*_\[\]<>$|{}#~])", r"\\\1", str(text))
