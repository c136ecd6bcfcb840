"""Patch size against width: where should a DiT spend its arithmetic, and does arithmetic alone foretell quality?"""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

from lesson_lib.dit import DiTConfig
from lesson_lib.experiments.dit_training import experiment
from lesson_lib.results import Record, interval

BASE = DiTConfig.shapes16()
LAPTOP_STEPS = 300
WIDTHS = {8: (64, 128, 256), 4: (64, 128, 192), 2: (32, 64, 96)}
GRID = {
    f"p{patch} w{width}": replace(BASE, patch_size=patch, hidden_size=width)
    for patch, widths in WIDTHS.items()
    for width in widths
}


def correlation(record: Record) -> dict[str, tuple[float, float, float]]:
    """Return (mean, low, high) of the correlation of fd_judge with "log MACs" and with "MACs", over the seeds.

    One Pearson correlation over all cells for each seed, then a 95 % t-interval of Fisher's transform of them. The
    paper's −0.93 is between FID and log Gflops of twelve models, one training each (arXiv 2212.09748, Fig. 8).
    """
    found = {}
    for name, scale in (("log MACs", math.log), ("MACs", float)):
        per_seed = []
        for place in range(len(record.seeds)):
            macs = [scale(record.values(variant, "macs_millions")[place]) for variant in record.variants]
            distances = [record.values(variant, "fd_judge")[place] for variant in record.variants]
            per_seed.append(math.atanh(statistics.correlation(macs, distances)))
        mean, low, high = interval(per_seed)
        found[name] = (math.tanh(mean), math.tanh(low), math.tanh(high))
    return found


EXPERIMENTS = (
    experiment(
        "dit_grid", "Patch size and width of a DiT after equal steps", GRID,
        "DiTConfig.shapes16, patch size and width changed", LAPTOP_STEPS,
    ),
)  # fmt: skip
