"""A race to 90 %: our DiT with our recipe against diffusers' U-Net trained as its tutorial says.

`python -m lesson_lib.bench speedrun` runs it. A contestant learns until the judge reads the colour and the shape that
were asked for in 90 % of its samples; only the seconds of training count, on a CPU those that its processor works for
it, so that other work on the machine does not. Then one ingredient of ours at a time is
exchanged for theirs, to say what each buys.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lesson_lib.data import shapes
from lesson_lib.dit import DiT, DiTConfig
from lesson_lib.evaluate import load_judge, prompt_accuracy, trained_parameters
from lesson_lib.flow import RectifiedFlow
from lesson_lib.guidance import Guided
from lesson_lib.noise import Diffusion
from lesson_lib.samplers import SAMPLERS
from lesson_lib.setup import Budget
from lesson_lib.train import Recipe, denoising_loss

TARGET = 0.9
SAMPLES, SAMPLING_STEPS = 240, 20


@dataclass(frozen=True)
class Contestant:
    """One way to train: the network ("DiT" or "U-Net"), the process, the optimiser's settings, the guidance.

    steps: how many are planned; in the second half the learning rate falls to zero in a line. 0: a cosine to zero
    at the end of the cap, as in diffusers' tutorial. ema: the decay of the average of
    the weights, or "tutorial" for diffusers' EMAModel(use_ema_warmup, inv_gamma 1, power 3/4, decay 0.9999).
    """

    network: str = "DiT"
    process: str = "flow"
    batch_size: int = 32
    lr: float = 2e-3
    warmup: int = 50
    steps: int = 3200
    ema: float | str = 0.995
    guidance_scale: float = 2.0


OURS = Contestant()
THEIRS = Contestant("U-Net", "ddpm", 64, 1e-4, 500, 0, "tutorial", 1.0)
EXCHANGES = {
    "our recipe, their U-Net": replace(OURS, network="U-Net"),
    "ours, DDPM's loss and schedule": replace(OURS, process="ddpm"),
    "ours, without guidance": replace(OURS, guidance_scale=1.0),
    "ours, their average of the weights": replace(OURS, ema="tutorial"),
    "ours, their batch and learning rate": replace(OURS, batch_size=64, lr=1e-4, warmup=500, steps=0),
    "ours, without the cooldown": replace(OURS, steps=10**9),
}


class ClassUNet(nn.Module):
    """diffusers' UNet2DModel as the loop calls a network: model(x, t, labels), with a row for the null class."""

    num_classes = 24

    def __init__(self) -> None:
        from diffusers import UNet2DModel

        super().__init__()
        self.unet: Any = UNet2DModel(
            sample_size=16, in_channels=3, out_channels=3, block_out_channels=(32, 64, 64), layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"), num_class_embeds=self.num_classes + 1,
        )  # fmt: skip

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return self.unet(sample=x, timestep=t, class_labels=labels).sample


def networks() -> dict[str, Callable[[], nn.Module]]:
    """Return how the two networks are made."""
    return {"DiT": lambda: DiT(DiTConfig.shapes16()), "U-Net": ClassUNet}


def race_to_target(
    one: Contestant, budget: Budget, cap: float = 1800.0, every: float = 15.0, say: Callable[[str], object] = print
) -> tuple[float, list[tuple[float, int, float]]]:
    """Train one contestant until 90 % of its samples are as asked: (seconds, [(seconds, steps, share), …]).

    cap: the most seconds of training; inf is returned where these, or the planned steps, do not suffice. every: seconds
    of training between two looks at first; later a tenth of those so far. Looking, at 240 samples of 20 steps from the
    averaged weights, is not counted.
    """
    from diffusers.optimization import get_cosine_schedule_with_warmup
    from diffusers.training_utils import EMAModel

    torch.manual_seed(0)
    device, data = budget.device, shapes(8000, size=16, seed=3, device=budget.device)
    model = networks()[one.network]().to(device)
    process = RectifiedFlow(time="logit-normal") if one.process == "flow" else Diffusion.linear(clip=True)
    loss_of = denoising_loss(process, label_dropout=0.1 if one.guidance_scale != 1 else 0.0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=one.lr, weight_decay=0.0)
    tutorial = one.ema == "tutorial"
    average = EMAModel(
        model.parameters(), decay=0.9999 if tutorial else float(one.ema), use_ema_warmup=tutorial, power=0.75
    )  # fmt: skip
    schedule: Any = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: factor(one, step))
    generator = torch.Generator(device).manual_seed(0)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    trained, steps, looks, look_at = 0.0, 0, list[tuple[float, int, float]](), every
    while trained < cap and (steps < one.steps or not one.steps):
        started = clock()
        rows = torch.randint(len(data.labels), (one.batch_size,), generator=generator, device=device)
        loss = loss_of(model, (data.images[rows], data.labels[rows]), generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        average.step(model.parameters())
        steps += 1
        if steps % 50 == 0:
            loss.item()  # a GPU has finished before the clock is read
        trained += clock() - started
        if steps == 20 and not one.steps:  # the cosine ends where the cap does, as far as 20 steps tell
            whole = max(steps + 1, round(cap / (trained / steps)))
            schedule = get_cosine_schedule_with_warmup(optimiser, one.warmup, whole, last_epoch=-1)
        if trained >= look_at or steps == one.steps:
            look_at = trained + max(every, 0.1 * trained)
            share = share_as_asked(one, model, average, process, budget)
            looks.append((trained, steps, share))
            say(f"    {trained:6.0f} s  {steps:6} steps  {share:.1%}")
            if share >= TARGET:
                return trained, looks
    return float("inf"), looks


def factor(one: Contestant, step: int) -> float:
    """Return the share of the learning rate at a step: up over the warm-up, level, down to zero in the second half."""
    return Recipe(one.batch_size, 1.0, 0.0, one.warmup, one.steps // 2, one.steps, 0.0, 0.0, 0).lr_at(step)


@torch.no_grad()
def share_as_asked(
    one: Contestant, model: nn.Module, average: Any, process: RectifiedFlow | Diffusion, budget: Budget
) -> float:
    """Return the share of samples, drawn with the averaged weights, in which the judge reads what was asked for."""
    labels = (torch.arange(SAMPLES) % 24).to(budget.device)
    noise = torch.randn(SAMPLES, 3, 16, 16, generator=torch.Generator().manual_seed(5)).to(budget.device)
    average.store(model.parameters())
    average.copy_to(model.parameters())
    sampler = SAMPLERS["euler" if one.process == "flow" else "ddim"]
    images = sampler(Guided(model.eval(), labels, one.guidance_scale), noise, SAMPLING_STEPS, process).clamp(-1, 1)
    average.restore(model.parameters())
    model.train()
    return prompt_accuracy(images, labels, load_judge(budget.device))


def run(
    budget: Budget, cap: float = 1800.0, patience: float = 1.5, names: Sequence[str] = ()
) -> dict[str, float]:  # fmt: skip
    """Race ours, theirs and each exchange; print what each took; return name → seconds, inf where the cap came first.

    cap: seconds of training for ours and theirs. patience: an exchange is stopped after so many times ours. names: of
    the exchanges to make; all of them if empty.
    """
    for name, make in networks().items():
        print(f"{name}: {trained_parameters(make()):,} weights")
    found: dict[str, float] = {}
    chosen = {name: one for name, one in EXCHANGES.items() if not names or name in names}
    for name, one in {"ours": OURS, "theirs": THEIRS, **chosen}.items():
        limit = min(cap, patience * found["ours"]) if name in EXCHANGES else cap
        print(f"  {name}", flush=True)
        found[name], looks = race_to_target(one, budget, limit, say=lambda line: print(line, flush=True))
        reached = f"{found[name]:.0f} s" if found[name] < float("inf") else f"not within {limit:.0f} s"
        best = max((share for _, _, share in looks), default=0.0)
        print(f"{name}: {reached} (best {best:.1%}); {found[name] / found['ours']:.2f} of ours")
    return found
