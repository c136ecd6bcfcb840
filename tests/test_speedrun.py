"""The race to 90 %: its contestants are what it says, and its clock and its end are right."""

import math
from dataclasses import replace

import pytest
import torch

pytest.importorskip("diffusers")

from lesson_lib.experiments import speedrun
from lesson_lib.experiments.speedrun import EXCHANGES, OURS, THEIRS, factor, networks, race_to_target
from lesson_lib.setup import Budget

SMOKE = Budget("smoke", torch.device("cpu"))


def test_the_two_networks_weigh_the_same_to_within_a_fifth():
    ours, theirs = (
        sum(weight.numel() for weight in make().parameters() if weight.requires_grad) for make in networks().values()
    )
    assert abs(theirs / ours - 1) < 0.2


def test_each_exchange_takes_something_of_theirs():
    for name, one in EXCHANGES.items():
        changed = [field for field, value in vars(one).items() if value != vars(OURS)[field]]
        assert changed, name
        assert "cooldown" in name or all(vars(one)[field] == vars(THEIRS)[field] for field in changed)


def test_the_rate_rises_stays_and_falls_to_zero():
    rates = [factor(replace(OURS, warmup=2, steps=8), step) for step in range(9)]
    assert rates == [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    assert factor(replace(OURS, steps=0), 10**6) == 1.0


@pytest.mark.parametrize("one", [OURS, THEIRS], ids=["ours", "theirs"])
def test_a_race_ends_at_the_first_look_that_reaches_the_target(one, monkeypatch):
    shares = iter([0.5, 0.95, 1.0])
    monkeypatch.setattr(speedrun, "share_as_asked", lambda *arguments: next(shares))
    seconds, looks = race_to_target(replace(one, batch_size=2), SMOKE, cap=60, every=0.0, say=lambda line: None)
    assert [share for _, _, share in looks] == [0.5, 0.95]
    assert seconds == looks[-1][0] > looks[0][0] > 0


@pytest.mark.parametrize("one", [OURS, THEIRS], ids=["ours", "theirs"])
def test_samples_are_drawn_with_the_average_and_training_goes_on_with_the_weights(one, monkeypatch):
    monkeypatch.setattr(speedrun, "SAMPLES", 24)
    monkeypatch.setattr(speedrun, "SAMPLING_STEPS", 2)
    short = replace(one, batch_size=2, steps=3 if one.steps else 0)
    seconds, looks = race_to_target(short, SMOKE, cap=2, every=1.0, say=lambda line: None)
    assert seconds == math.inf
    assert looks
    assert all(share < 0.9 for _, _, share in looks)
