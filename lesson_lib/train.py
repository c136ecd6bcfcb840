"""One training loop for every model of the course: AdamW, warm-up, clipping, an average of the weights, checkpoints.

A step touches nothing but the device: the data lie there whole, the batch and the noise are drawn there, and the loss
is read back only every fifty steps, so that a GPU never waits for Python. Under torchrun the same loop trains one model
on several devices: all draw the same batch, each computes its own rows (processes.py).
"""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lesson_lib import processes
from lesson_lib.checkpoint import (
    TRAINING,
    CheckpointError,
    describe,
    describe_tensor,
    load_model,
    read_config,
    read_tensors,
    save_model,
    weights_difference,
    write_tensors,
)
from lesson_lib.embed import drop_labels
from lesson_lib.noise import Diffusion
from lesson_lib.processes import own_rows

__all__ = [
    "CheckpointError",
    "Loss",
    "Process",
    "TrainRecord",
    "classification_loss",
    "denoising_loss",
    "fit",
    "load_model",
    "read_config",
    "save_model",
]

READ_EVERY = 50  # steps between two looks at the loss on a GPU
COMPILE_FROM = 5000  # steps from which compiling, about a minute, pays for itself on a GPU

Loss = Callable[[nn.Module, tuple[Tensor, ...], torch.Generator], Tensor]


class Process(Protocol):
    """What a training loss needs to know of a way to add noise: noise.Diffusion and flow.RectifiedFlow have it."""

    def sample_times(self, count: int, generator: torch.Generator) -> Tensor: ...
    def training_pair(self, x0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]: ...
    def model_time(self, t: Tensor) -> Tensor: ...


@dataclass
class TrainRecord:
    """What a training run did and cost: plot.curves draws its losses, the experiments store its numbers.

    losses: one for each step since step 0. seconds: wall time of all calls together, saving and compiling included.
    peak_memory_mb: of the GPU where there is one, else the largest this process has been (nan where unknown).
    """

    losses: list[float]
    steps: int
    seconds: float
    peak_memory_mb: float
    images_per_second: float
    device: str
    config: dict[str, Any]
    interrupted: bool = False


def denoising_loss(process: Process, *, label_dropout: float = 0.0) -> Loss:
    """Return the loss of every diffusion model here: noise the batch, ask for the target, take the squared error.

    process: noise.Diffusion or flow.RectifiedFlow. The batch is (images,) or (images, condition, ...); the model is
    called with noisy images (B, ...), times (B,) from 0 to 1000, and the conditions. label_dropout: the share of the
    labels (B,) that become the model's null class, model.num_classes, for classifier-free guidance. Where the process
    learns its variance, the model returns twice the channels, and the variational term (bits per number) is added.
    Source: DDPM (arXiv 2006.11239, Eq. 14, without weights); SD3 (arXiv 2403.03206, §3) for the flow.
    """
    if not 0 <= label_dropout <= 1:
        raise ValueError(f"label_dropout is {label_dropout}; it is a share of the labels, from 0 to 1")

    def loss(model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        images, *conditions = batch
        if images.dtype in (torch.float16, torch.bfloat16):
            images = images.float()  # data may be stored in half precision; only a batch of them is widened
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        t = process.sample_times(len(images), generator)
        noisy, target = process.training_pair(images, noise, t)
        if label_dropout:
            if not conditions:
                raise ValueError("label_dropout needs labels: call fit with (images, labels), not with (images,)")
            conditions[0] = drop_labels(conditions[0], label_dropout, int(model.num_classes), generator)  # type: ignore[arg-type]
        noisy, target, images, t, *conditions = own_rows(noisy, target, images, t, *conditions)
        prediction = model(noisy, process.model_time(t), *conditions).float()
        variational = prediction.new_zeros(())
        if isinstance(process, Diffusion) and process.variance == "learned":
            prediction, v = prediction.chunk(2, dim=1)
            if v.shape == target.shape:  # the mean is trained by the squared error alone: it is detached here
                variational = process.variational_term(prediction.detach(), v, images, noisy, t).mean()
        if prediction.shape != target.shape:
            raise ValueError(f"the model returned {tuple(prediction.shape)}; the target is {tuple(target.shape)}")
        return (prediction - target).square().mean() + variational

    loss.description = f"denoising({describe(process)}, label_dropout={label_dropout})"  # type: ignore[attr-defined]
    return loss


def classification_loss(model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
    """Return the cross-entropy of a classifier: model(images) (B, classes) against labels (B,) int64."""
    images, labels = own_rows(*batch)
    return F.cross_entropy(model(images).float(), labels)


def fit(
    model: nn.Module,
    tensors: tuple[Tensor, ...],
    loss: Loss,
    *,
    steps: int,
    batch_size: int = 64,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    warmup: int = 0,
    cooldown: int = 0,
    clip: float = 1.0,
    ema: float = 0.999,
    seed: int = 0,
    checkpoint: Path | str | None = None,
    every: int = 500,
    resume: bool = False,
    compile: bool | None = None,
    progress: bool = True,
    shard: bool = False,
) -> TrainRecord:
    """Train a model on random batches, on the device where it lies; afterwards it holds its averaged weights.

    tensors: (N, ...) each, such as (images, labels); a batch takes the same rows of all, drawn with replacement.
    loss: called with (model, batch, generator), returns a scalar. weight_decay: AdamW's, of all weights but those that
    a module names in its attribute undecayed (the frequencies of MixedRope). warmup: steps in which the learning rate
    rises to lr, where it stays. clip: the largest norm of all gradients together; 0 for no limit. ema: decay of the
    average of the weights; 0 to keep the last ones. checkpoint: a file written every `every` steps and at the end; with
    resume=True an existing one is continued, bit for bit on a CPU. compile: None compiles long runs on a GPU (no other
    device compiles). Interrupting the cell ends the run after the current step, as if that had been the last.
    Under torchrun (processes.start_processes) all processes call fit with the same arguments and share each batch of
    batch_size rows: the losses, the file and the model at the end are those of one process, and a file can be continued
    by any number. shard: each keeps only its share of weights, gradients and averages, for models that do not fit
    (FSDP2); the model stays so, and is compiled only with compile=True. Dropout and batch norm are each process's own.
    Raises CheckpointError where the file is damaged or belongs to another run, FloatingPointError for a loss of nan,
    processes.ProcessLost where another process has ended.
    """
    recipe = Recipe(batch_size, lr, weight_decay, warmup, cooldown, steps if cooldown else 0, clip, ema, seed)
    if steps < 1 or every < 1:
        raise ValueError(f"steps is {steps} and every is {every}; both must be at least 1")
    if resume and checkpoint is None:
        raise ValueError("resume=True needs a file to continue: give checkpoint=path")
    processes.check_batch(batch_size)
    started, run, device = time.perf_counter(), None, _device_of(model)

    def advice() -> str:
        if run is None or not run.saved_step:
            return "No step was saved: start the job again."
        again = f"{checkpoint} holds step {run.saved_step} of {steps}"
        return f"{again}: start the job again with resume=True (--resume), on as many processes as you like."

    with (
        _own_random_state(device, seed + processes.index()),
        _interrupts() as interrupted,
        processes.stay_together(advice),
    ):
        run = _Run(model, tensors, loss, recipe, checkpoint is not None or processes.count() > 1, shard)
        processes.agree({"steps": steps, "every": every, "resume": resume, **run.config})
        if resume and checkpoint is not None and processes.from_first(Path(checkpoint).exists):
            run.restore(Path(checkpoint), steps)
        run.prepare(steps, compile)
        stop = processes.anywhere(interrupted.is_set(), device)
        with _bar(steps, run.step, progress and processes.index() == 0) as bar:
            while run.step < steps and not stop:
                run.advance()
                bar.update()
                if run.step % run.read_every == 0:
                    run.read_losses()
                    bar.set_postfix(loss=f"{run.recent_loss():.4f}", img_s=f"{run.speed():.0f}", refresh=False)
                if processes.count() == 1 or run.step % run.read_every == 0:
                    stop = processes.anywhere(interrupted.is_set(), device)
                if checkpoint is not None and run.step % every == 0 and run.step < steps:
                    run.save(Path(checkpoint), started)
        if checkpoint is not None and run.step > run.saved_step:
            run.save(Path(checkpoint), started)
        if stop and processes.index() == 0:
            kept = f"saved to {checkpoint}; resume=True continues it" if run.saved_step else "not saved"
            print(f"Interrupted after {run.step} of {steps} steps: {kept}. The model holds what it has learned so far.")
        return run.finish(started, stop)


def _decay_groups(model: nn.Module, weights: list[nn.Parameter]) -> list[dict[str, Any]]:
    """Return the optimizer's groups: weights that decay, and those that a module names in its attribute undecayed."""
    kept = {id(getattr(part, name)) for part in model.modules() for name in getattr(part, "undecayed", ())}
    groups = [{"params": [weight for weight in weights if id(weight) not in kept]}]
    spared = [weight for weight in weights if id(weight) in kept]
    return [*groups, {"params": spared, "weight_decay": 0.0}] if spared else groups


@dataclass(frozen=True)
class Recipe:
    """The settings of a run that must stay the same when it is continued; with a cooldown also its last step, end."""

    batch_size: int
    lr: float
    weight_decay: float
    warmup: int
    cooldown: int
    end: int
    clip: float
    ema: float
    seed: int

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be at least 1")
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}; a learning rate is above 0")
        if min(self.clip, self.warmup, self.cooldown, self.weight_decay) < 0:
            raise ValueError("clip, warmup, cooldown and weight_decay must be 0 (off) or more")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}; a decay lies from 0 (no average) to below 1, such as 0.999")

    def lr_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0: up over the warm-up, level, down over the cooldown."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        fall = min(1.0, (self.end - step) / self.cooldown) if self.cooldown else 1.0
        return self.lr * rise * fall

    def decay_at(self, updates: int) -> float:
        """Return the average's decay at its n-th update, counted from 1: small at first, so that it forgets the start.

        Source: min(decay, (1 + n) / (10 + n)), as in TensorFlow's ExponentialMovingAverage and LDM's LitEma.
        """
        return min(self.ema, (1 + updates) / (10 + updates))


class _Objective(nn.Module):
    """A model and its loss as one module: what DistributedDataParallel must wrap, whatever the loss calls."""

    def __init__(self, network: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        return self.loss(self.network, batch, generator)


class _Run:
    """All that a training run carries from one step to the next, so that a file can hold it and it can go on."""

    def __init__(
        self,
        model: nn.Module,
        tensors: tuple[Tensor, ...],
        loss: Loss,
        recipe: Recipe,
        describe_data: bool,
        shard: bool = False,
    ) -> None:
        _check_tensors(tensors)
        self.model, self.recipe = model.train(), recipe
        self.device = _device_of(model)
        self.config = {
            **asdict(recipe),
            "model": type(model).__name__.removeprefix("FSDP"),  # fully_shard renames the class
            "loss": getattr(loss, "description", getattr(loss, "__qualname__", type(loss).__name__)),
            "data": [describe_tensor(tensor) for tensor in tensors] if describe_data else [],
            "device": self.device.type,
            "precision": "bfloat16" if _has_bfloat16(self.device) else "float32",
        }
        self.tensors = tuple(tensor.to(self.device) for tensor in tensors)
        processes.same_start(model)
        if shard:
            processes.shard(model, self.device)
        self.objective: nn.Module = _Objective(model, loss)
        self.named = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.weights = list(self.named.values())
        self.average = [weight.detach().clone() for weight in self.weights] if recipe.ema else []
        self.optimizer = torch.optim.AdamW(
            _decay_groups(model, self.weights), lr=recipe.lr, weight_decay=recipe.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),
        )  # fmt: skip
        self.generator = torch.Generator(self.device).manual_seed(recipe.seed)
        self.step = self.first_step = self.saved_step = 0
        self.seconds_before = 0.0
        self.losses: list[float] = []
        self.unread: list[Tensor] = []
        self.read_every = 1 if self.device.type == "cpu" else READ_EVERY

    def prepare(self, steps: int, compile: bool | None) -> None:
        """Compile the model where that pays, let processes average their gradients, start counting memory and time."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            if compile is None:
                whole = not processes.is_sharded(self.model)  # FSDP2's hooks cut the graph at every block
                compile = steps - self.step >= COMPILE_FROM and sys.platform == "linux" and whole
            if compile:
                self.objective.network = torch.compile(self.model)  # type: ignore[assignment]
        if processes.count() > 1 and not processes.is_sharded(self.model):
            self.objective = DistributedDataParallel(self.objective, gradient_as_bucket_view=True)
        self.clock = time.perf_counter()

    def advance(self) -> None:
        """Take one step: draw a batch, follow its gradient, move the average."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr_at(self.step)
        count = len(self.tensors[0])
        rows = torch.randint(count, (self.recipe.batch_size,), generator=self.generator, device=self.device)
        batch = tuple(tensor[rows] for tensor in self.tensors)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config["precision"] == "bfloat16"):
            loss = self.objective(batch, self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.weights, self.recipe.clip)
        self.optimizer.step()
        self.step += 1
        if self.average:
            with torch.no_grad():
                torch._foreach_lerp_(self.average, list[Tensor](self.weights), 1 - self.recipe.decay_at(self.step))
        self.unread.append(loss.detach())

    def read_losses(self) -> None:
        """Fetch the losses that still lie on the device; the one place where Python waits for it."""
        if not self.unread:
            return
        self.losses += processes.mean(torch.stack(self.unread)).tolist()
        first = self.step - len(self.unread)
        self.unread = []
        for step, value in enumerate(self.losses[first:], first):
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the loss became {value} at step {step}. Try a smaller lr (now {self.recipe.lr}), a longer warmup "
                    f"(now {self.recipe.warmup}) or a smaller clip (now {self.recipe.clip}), and look for numbers that "
                    "are not finite or far outside [-1, 1] in the data."
                )

    def recent_loss(self) -> float:
        """Return the mean of the last fifty losses that were read."""
        recent = self.losses[-50:]
        return sum(recent) / max(1, len(recent))

    def speed(self) -> float:
        """Return images per second since this call of fit took its first step."""
        return (self.step - self.first_step) * self.recipe.batch_size / max(1e-9, time.perf_counter() - self.clock)

    def save(self, path: Path, started: float) -> None:
        """Write the whole state of the run, by the first process; never one whose loss is not finite."""
        self.read_losses()
        tensors = processes.gathered(self._state())
        seconds = self.seconds_before + time.perf_counter() - started
        if processes.index() == 0:
            write_tensors(path, tensors, {**self.config, "step": self.step, "seconds": seconds}, TRAINING)
        processes.wait()
        self.saved_step = self.step

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        """Yield all that a file must hold, in the same order on every process."""
        for name, tensor in self.model.state_dict().items():
            yield f"model/{name}", tensor
        for name, weight in self.named.items():
            for key, tensor in self.optimizer.state.get(weight, {}).items():
                yield f"{key}/{name}", torch.as_tensor(tensor)
        for name, tensor in zip(self.named, self.average, strict=bool(self.average)):
            yield f"average/{name}", tensor
        yield "random/generator", self.generator.get_state()
        for name, tensor in _random_state(self.device).items():
            yield f"random/{name}", tensor
        yield "losses", torch.tensor(self.losses, dtype=torch.float64)

    def restore(self, path: Path, steps: int) -> None:
        """Continue the run in a file that the first process reads, or say in what that run differs from this one."""
        tensors: dict[str, Tensor] = {}

        def read() -> dict[str, Any]:
            found, config = read_tensors(path, TRAINING)
            self._check_same(path, found, config, steps)
            tensors.update(found)
            return config

        config = processes.from_first(read)
        places = dict(self.model.state_dict())
        average = dict(zip(self.named, self.average, strict=bool(self.average)))
        random: dict[str, Tensor] = {}
        for name, tensor in processes.share(tensors, self.device):
            kind, _, key = name.partition("/")
            if kind == "model":
                places[key].copy_(processes.spread(tensor, places[key]))
            elif kind == "average":
                average[key].copy_(processes.spread(tensor, average[key]))
            elif kind in ("exp_avg", "exp_avg_sq"):
                weight = self.named[key]
                self.optimizer.state[weight][kind] = processes.spread(tensor, weight).clone()
            elif kind == "step":
                self.optimizer.state[self.named[key]][kind] = tensor.to(self.device, copy=True)
            elif kind == "random":
                random[key] = tensor.cpu()
            elif kind == "losses":
                self.losses = tensor.tolist()
        self.generator.set_state(random["generator"])
        if processes.index() == 0:
            _set_random_state(self.device, random)
        else:  # the file holds the first one's; with the same, dropout would drop the same numbers everywhere
            torch.manual_seed(self.recipe.seed + 1_000_003 * config["step"] + processes.index())
        self.step = self.first_step = self.saved_step = config["step"]
        self.seconds_before = config["seconds"]

    def _check_same(self, path: Path, tensors: dict[str, Tensor], config: dict[str, Any], steps: int) -> None:
        """Raise CheckpointError, naming each difference, where the run in a file is not this one."""
        saved = {name.removeprefix("model/"): t for name, t in tensors.items() if name.startswith("model/")}
        differences = [weights_difference(saved, self.model.state_dict())] + [
            f"{key} is {config.get(key)} in the file and {value} here"
            for key, value in self.config.items()
            if config.get(key) != value
        ]
        if any(differences):
            raise CheckpointError(
                f"{path} belongs to another run: {'; '.join(filter(None, differences))}. "
                "Give this run another file, or start it afresh with resume=False (which overwrites the file)."
            )
        if config["step"] > steps:
            raise CheckpointError(f"{path} is already at step {config['step']}; ask for at least so many, not {steps}")

    def finish(self, started: float, interrupted: bool) -> TrainRecord:
        """Give the model its averaged weights and return the record."""
        self.read_losses()
        with torch.no_grad():
            for weight, average in zip(self.weights, self.average, strict=bool(self.average)):
                weight.copy_(average)
        self.model.eval()
        seconds = self.seconds_before + time.perf_counter() - started
        return TrainRecord(
            losses=self.losses,
            steps=self.step,
            seconds=seconds,
            peak_memory_mb=peak_memory_mb(self.device),
            images_per_second=self.step * self.recipe.batch_size / max(1e-9, seconds),
            device=str(self.device),
            config=self.config,
            interrupted=interrupted,
        )


def peak_memory_mb(device: torch.device) -> float:
    """Return the most memory used so far in MiB: tensors on a GPU, else this whole process (nan on Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes, Linux KiB


def _check_tensors(tensors: tuple[Tensor, ...]) -> None:
    if not isinstance(tensors, tuple) or not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
        raise TypeError("fit: tensors must be a tuple of tensors, such as (images,) or (images, labels)")
    if len({len(tensor) for tensor in tensors}) > 1 or not len(tensors[0]):
        lengths = ", ".join(str(len(tensor)) for tensor in tensors)
        raise ValueError(f"fit: the tensors must have the same number of rows, at least one; they have {lengths}")


def _device_of(model: nn.Module) -> torch.device:
    weight = next(model.parameters(), None)
    if weight is None:
        raise ValueError("fit: the model has no weights to train")
    return weight.device


def _has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself; a T4 only emulates it, slower than float32."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def _random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the states of the generators that dropout draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def _set_random_state(device: torch.device, states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(states["mps"])


@contextmanager
def _own_random_state(device: torch.device, seed: int) -> Iterator[None]:
    """Seed what dropout draws from for this run, and give the caller's state back afterwards."""
    before = _random_state(device)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        _set_random_state(device, before)


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Turn an interrupt into a flag that the loop reads between two steps; a second one stops at once."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag  # Python delivers interrupts to the main thread only
        return
    before = signal.getsignal(signal.SIGINT) or signal.default_int_handler

    def note(number: int, frame: Any) -> None:
        flag.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)


def _bar(steps: int, done: int, progress: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=steps, initial=done, desc="training", unit="step", disable=not progress)
