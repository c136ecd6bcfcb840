"""Lesson set-up: the device, the seed, and how much work a cell may do (the budget)."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

import torch

BUDGETS = ("smoke", "laptop", "gpu", "long")


@dataclass(frozen=True)
class Budget:
    """How large a lesson's runs may be, where they run, and the seed they start from.

    name: one of smoke (tests: seconds), laptop (two to eight CPU cores), gpu (Colab's T4 class) or long (a big GPU).
    """

    name: str
    device: torch.device
    seed: int = 0

    def choose(self, *, smoke: int, laptop: int, gpu: int | None = None, long: int | None = None) -> int:
        """Return the number given for this budget; a larger budget that is not named takes the next smaller one's.

        Lessons ask for steps, batch sizes and numbers of seeds in this way, so that no lesson tests the budget's name.
        """
        gpu = laptop if gpu is None else gpu
        return {"smoke": smoke, "laptop": laptop, "gpu": gpu, "long": gpu if long is None else long}[self.name]

    def generator(self, offset: int = 0) -> torch.Generator:
        """Return a fresh generator on the budget's device, seeded with seed + offset."""
        return torch.Generator(self.device).manual_seed(self.seed + offset)


def pick_device() -> torch.device:
    """Return the fastest device present: CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def pick_budget(device: torch.device | None = None, seed: int = 0) -> Budget:
    """Return the budget that LESSON_BUDGET names, or gpu on CUDA and laptop elsewhere.

    Raises ValueError, listing the right names, where LESSON_BUDGET is none of them.
    """
    device = device or pick_device()
    name = os.environ.get("LESSON_BUDGET") or ("gpu" if device.type == "cuda" else "laptop")
    if name not in BUDGETS:
        raise ValueError(f"LESSON_BUDGET is {name!r}; it must be one of {', '.join(BUDGETS)}")
    return Budget(name, device, seed)


def environment(budget: Budget) -> str:
    """Return one line that describes this machine: paste it into a bug report."""
    device = (
        torch.cuda.get_device_name() if budget.device.type == "cuda" else f"{budget.device.type} × {os.cpu_count()}"
    )
    return (
        f"{device} · Python {platform.python_version()} · torch {torch.__version__} · "
        f"{platform.system()} · budget {budget.name} · seed {budget.seed}"
    )


def start_lesson(lesson: str, seed: int = 0) -> Budget:
    """Seed torch, print the environment line and return the budget; the first call of every lesson."""
    torch.manual_seed(seed)
    budget = pick_budget(seed=seed)
    print(f"Lesson {lesson} · {environment(budget)}")
    return budget
