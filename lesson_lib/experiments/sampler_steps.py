"""How many network calls does a sampler need? DDPM and DDIM on a noise predictor, Euler and Heun on a flow."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import torch

from lesson_lib import denoiser, flow, guidance, noise, samplers, train
from lesson_lib import shapes as shapes_module
from lesson_lib.data import shapes
from lesson_lib.denoiser import ConvDenoiser
from lesson_lib.evaluate import JUDGE_FILE, fd_judge, load_judge, prompt_accuracy
from lesson_lib.experiments.run import Experiment
from lesson_lib.flow import RectifiedFlow
from lesson_lib.guidance import Guided
from lesson_lib.noise import Diffusion
from lesson_lib.setup import Budget
from lesson_lib.train import denoising_loss, fit

CALLS = [3, 5, 9, 17, 33, 65]  # odd, so that Heun (2 steps - 1 calls) spends exactly as many as the others
PROCESSES: dict[str, RectifiedFlow | Diffusion] = {
    "eps": Diffusion.cosine(clip=True),
    "flow": RectifiedFlow(time="logit-normal"),
}
PREDICTS = {"ddpm": "eps", "ddim": "eps", "euler": "flow", "heun": "flow"}


def settings(budget: Budget) -> dict[str, Any]:
    """Return what a repetition must set."""
    return {
        "data": "shapes, 16×16, one object, 4,000 images",
        "network": {"patch_size": 2, "width": 48, "depth": 4},
        "steps": budget.choose(smoke=3, laptop=2000, gpu=6000, long=20_000),
        "batch_size": 64,
        "lr": 2e-3,
        "samples": budget.choose(smoke=72, laptop=360, gpu=2400, long=4800),
        "guidance_scale": 1.0,
        "judge_sha256": hashlib.sha256(JUDGE_FILE.read_bytes()).hexdigest(),
    }


def measure(variant: str, seed: int, configuration: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """Return FD-judge and prompt accuracy of one sampler at every number of calls."""
    predicts = PREDICTS[variant]
    model = _trained(predicts, seed, configuration["steps"], budget)
    judge = load_judge(budget.device)
    count = configuration["samples"]
    real = shapes(2 * count, size=16, seed=77, device=budget.device).images
    labels = (torch.arange(count) % 24).to(budget.device)
    start = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1000 + seed)).to(budget.device)
    found: dict[str, Any] = {"fd_judge": [], "accuracy": []}
    for calls in CALLS:
        steps = (calls + 1) // 2 if variant == "heun" else calls
        generator = budget.generator(seed)
        images = samplers.SAMPLERS[variant](
            Guided(model, labels, 1.0), start, steps, PROCESSES[predicts], generator=generator
        ).clamp(-1, 1)
        found["fd_judge"].append(fd_judge(real, images, judge))
        found["accuracy"].append(prompt_accuracy(images, labels, judge))
    return found


@lru_cache(maxsize=2)
def _trained(predicts: str, seed: int, steps: int, budget: Budget) -> ConvDenoiser:
    data = shapes(4000, size=16, seed=3, device=budget.device)
    torch.manual_seed(seed)
    model = ConvDenoiser(3, patch_size=2, width=48, depth=4, num_classes=24).to(budget.device)
    loss = denoising_loss(PROCESSES[predicts], label_dropout=0.1)
    fit(model, (data.images, data.labels), loss, steps=steps, lr=2e-3, warmup=50, ema=0.995, seed=seed, progress=False)
    return model


EXPERIMENTS = (
    Experiment(
        name="sampler_steps",
        title="How many network calls does each sampler need?",
        variants=tuple(PREDICTS),
        metrics={
            "fd_judge": "Fréchet distance to held-out pictures on the judge's 64 features; lower is better",
            "accuracy": "share of samples in which the judge finds the colour and the shape that were asked for",
        },
        settings=settings,
        measure=measure,
        sources=(samplers, noise, flow, denoiser, guidance, train, shapes_module),
        x=("network calls", [float(calls) for calls in CALLS]),
    ),
)
