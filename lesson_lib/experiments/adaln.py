"""How should a transformer listen: the paper's comparison of conditioning, measured again over seeds."""

from __future__ import annotations

from dataclasses import replace

from lesson_lib.dit import DiTConfig
from lesson_lib.experiments.dit_training import experiment

BASE = DiTConfig.shapes16()
LAPTOP_STEPS = 600
SHARES = (0.25, 0.5, 1.0)

WAYS = {
    "in-context": replace(BASE, conditioning="in-context"),
    "cross-attention": replace(BASE, conditioning="cross-attention"),
    "adaLN": replace(BASE, conditioning="adaln"),
    "adaLN-Zero": BASE,
}
# Widths at which each has the parameters of adaLN-Zero at width 128, to within three percent.
WAYS_EQUAL = {
    "in-context": replace(WAYS["in-context"], hidden_size=156),
    "cross-attention": replace(WAYS["cross-attention"], hidden_size=136),
    "adaLN": replace(WAYS["adaLN"], hidden_size=136),
    "adaLN-Zero": BASE,
}
STARTS = {
    "nothing": replace(BASE, start="xavier"),
    "gates": replace(BASE, start="gates"),
    "everything": BASE,
    "Gaussian": replace(BASE, start="gaussian"),
}
SINGLE = {
    "adaLN-Zero": BASE,
    "adaLN-single": replace(BASE, conditioning="adaln-single"),
    "adaLN-single, wider": replace(BASE, conditioning="adaln-single", hidden_size=148),
}

CHANGED = ("DiTConfig.shapes16, conditioning changed", LAPTOP_STEPS, SHARES)
EXPERIMENTS = (
    experiment("adaln_ways", "Four ways to condition a DiT, at equal width and depth", WAYS, *CHANGED),
    experiment("adaln_ways_equal", "Four ways to condition a DiT, at equal parameters", WAYS_EQUAL, *CHANGED),
    experiment(
        "adaln_zero", "What must be zero at the start: nothing, the gates, everything, or almost?", STARTS, *CHANGED
    ),
    experiment("adaln_single", "One shared modulation layer against one in every block", SINGLE, *CHANGED),
)
