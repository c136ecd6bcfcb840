"""Device, budget and the environment line."""

import pytest
import torch

from lesson_lib import setup
from lesson_lib.setup import Budget


def test_a_wrong_budget_lists_the_right_ones(monkeypatch):
    monkeypatch.setenv("LESSON_BUDGET", "tiny")
    with pytest.raises(ValueError, match="'tiny'; it must be one of smoke, laptop, gpu, long"):
        setup.pick_budget()


def test_the_budget_follows_the_variable_then_the_device(monkeypatch):
    monkeypatch.setenv("LESSON_BUDGET", "long")
    assert setup.pick_budget(torch.device("cpu")).name == "long"
    monkeypatch.delenv("LESSON_BUDGET")
    assert setup.pick_budget(torch.device("cpu")).name == "laptop"
    assert setup.pick_budget(torch.device("cuda")).name == "gpu"


def test_choose_falls_back_to_the_next_smaller_number():
    sizes = [Budget(name, torch.device("cpu")).choose(smoke=1, laptop=5) for name in setup.BUDGETS]
    assert sizes == [1, 5, 5, 5]
    sizes = [Budget(name, torch.device("cpu")).choose(smoke=1, laptop=5, gpu=9) for name in setup.BUDGETS]
    assert sizes == [1, 5, 9, 9]


def test_the_environment_line_is_one_line_that_names_what_matters(monkeypatch, capsys):
    monkeypatch.setenv("LESSON_BUDGET", "smoke")
    budget = setup.start_lesson("00", seed=3)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    for part in ("Lesson 00", "Python", torch.__version__, "budget smoke", "seed 3"):
        assert part in printed
    first, again = (torch.randn(3, generator=budget.generator()) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, torch.randn(3, generator=budget.generator(1)))


def test_the_seed_fixes_torch(monkeypatch):
    monkeypatch.setenv("LESSON_BUDGET", "smoke")
    setup.start_lesson("00")
    first = torch.rand(2)
    setup.start_lesson("00")
    assert torch.equal(first, torch.rand(2))
