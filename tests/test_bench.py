"""The benchmarks' stopwatch and their command; what they print depends on the machine and is not held."""

import statistics

import pytest
import torch
from torch import nn

from lesson_lib import bench


def test_a_race_calls_both_in_turn_and_changes_who_goes_first():
    calls = []
    race = bench.race(lambda: calls.append("ours"), lambda: calls.append("theirs"), pairs=4)
    assert calls[:4] == ["ours", "theirs", "ours", "theirs"]  # the warm-up
    assert calls[4:] == ["ours", "theirs", "theirs", "ours"] * 2
    assert len(race.ours) == len(race.theirs) == len(race.ratios) == 4


def test_a_race_reports_the_median_of_the_paired_ratios_and_its_spread():
    race = bench.Race([0.1, 0.2, 0.9], [0.1, 0.1, 0.1])
    assert statistics.median(race.ratios) == pytest.approx(2)
    assert "ours 200.0 ms, diffusers 100.0 ms" in str(race)
    assert "median of 3 paired ratios 2.00 (quartiles 1.00 and 9.00)" in str(race)


def test_a_race_names_its_rival():
    race = bench.race(lambda: None, lambda: None, pairs=2, rival="transformers")
    assert " ms, transformers " in str(race)
    assert "diffusers" not in str(race)


def test_one_pair_is_not_a_race():
    with pytest.raises(ValueError, match="at least 2"):
        bench.race(lambda: None, lambda: None, pairs=1)


def test_a_training_step_moves_every_weight():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    before = [weight.detach().clone() for weight in model.parameters()]
    bench._training_step(model, {"input": torch.ones(2, 3)})()
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_every_training_step_uses_that_step_alone():
    model = nn.Linear(3, 1)
    step = bench._training_step(model, {"input": torch.ones(2, 3)})
    step()
    first = model.weight.grad.clone()
    step()
    assert torch.allclose(model.weight.grad, first, rtol=1e-2)


@pytest.mark.parametrize("name", ["vit", "dit"])
def test_both_networks_of_a_race_give_the_same(name, monkeypatch, capsys):
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    raced = []

    def compare(ours, theirs, our_inputs, their_inputs, rival="diffusers"):
        one, other = bench._forward(ours, our_inputs)(), bench._forward(theirs, their_inputs)()
        assert one.std() > 0.1
        assert (one - other).abs().max() <= 1e-4
        raced.append(rival)

    monkeypatch.setattr(bench, "_compete", compare)
    assert bench.main([name]) == 0
    assert raced == [{"vit": "transformers", "dit": "diffusers"}[name]] * 2
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_both_mmdits_of_a_race_give_the_same(monkeypatch, capsys):
    pytest.importorskip("diffusers")
    from lesson_lib.official.mmdit import pack

    kinds = []

    def compare(ours, theirs, our_inputs, their_inputs, rival="diffusers"):
        one, other = bench._forward(ours, our_inputs)(), bench._forward(theirs, their_inputs)()
        one = pack(one, ours.config.patch_size) if other.ndim == 3 else one  # FLUX returns packed patches
        assert one.std() > 0.1
        assert (one - other).abs().max() <= 1e-4
        kinds.append((ours.config.places, len(ours.double_blocks), len(ours.single_blocks), rival))

    monkeypatch.setattr(bench, "_compete", compare)
    assert bench.main(["mmdit"]) == 0
    assert kinds == [("sin-cos", 3, 0, "diffusers"), ("origin", 1, 2, "diffusers"), ("origin", 2, 2, "diffusers")]
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_rotations_race_a_table_and_diffusers_with_the_same_work(monkeypatch, capsys):
    pytest.importorskip("diffusers")
    networks = []

    def compare(ours, theirs, our_inputs, their_inputs, rival="diffusers"):
        assert our_inputs is their_inputs
        networks.append((ours.config.positions, theirs.config.positions, len(our_inputs["x"]), rival))

    def race(ours, theirs):
        for one, other in zip(ours(), theirs(), strict=True):
            assert (one - other).abs().max() <= 1e-5
        return "raced"

    monkeypatch.setattr(bench, "_compete", compare)
    monkeypatch.setattr(bench, "race", race)
    assert bench.main(["rope"]) == 0
    assert networks == [(kind, "sin-cos", 32, "with a table") for kind in ("axial", "mixed")] * 2
    assert capsys.readouterr().out.count("forward and backward: raced") == 2


def test_the_command_takes_several_names_in_order(monkeypatch):
    done = []
    for name in bench.BENCHMARKS:
        monkeypatch.setitem(bench.BENCHMARKS, name, lambda name=name: done.append(name))
    assert bench.main(["vae", "unet"]) == 0
    assert done == ["vae", "unet"]
    done.clear()
    bench.main(["all"])
    assert done == [name for name in bench.BENCHMARKS if name != "speedrun"]


@pytest.mark.parametrize("arguments", [[], ["unet", "nothing"]])
def test_the_command_refuses_what_it_does_not_know(arguments, capsys):
    with pytest.raises(SystemExit):
        bench.main(arguments)
    assert "usage" in capsys.readouterr().err
