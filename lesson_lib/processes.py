"""Several processes that train one model: who is who, which rows are whose, and what happens when one of them ends.

torchrun starts the processes; each holds the whole data and draws the whole batch from the same generator, so that
nothing random depends on how many there are, and keeps its own rows only where the network begins. A process that is
alone can call everything here: then nothing is sent and nothing changes.
"""

from __future__ import annotations

import datetime
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lesson_lib.setup import pick_device

Result = TypeVar("Result")
_SAYING, _SAID = threading.Lock(), threading.Event()  # a process ends once, and says so once


class ProcessLost(ConnectionError):
    """Another process of the job has ended, so this one cannot go on; the message says how to continue."""


def count() -> int:
    """Return how many processes train together; 1 without torchrun."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def index() -> int:
    """Return the number of this process, from 0; the one with 0 writes the files and draws the progress bar."""
    return dist.get_rank() if count() > 1 else 0


@contextmanager
def start_processes(minutes: float = 10) -> Iterator[torch.device]:
    """Join the job that torchrun started and give this process its device; without torchrun, only pick the device.

    Use it as `with start_processes() as device: ...`. GPUs talk through NCCL, everything else through gloo. minutes:
    how long a process may be silent before the others give up. When one ends, the others print one sentence and end
    too, with status 1. Inside another start_processes it only gives the device. Raises ValueError where torchrun
    started more processes than this machine has GPUs.
    """
    device = pick_device()
    if not dist.is_available() or not dist.is_torchelastic_launched():
        yield device
        return
    if device.type == "cuda":
        place, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if place >= there:
            raise ValueError(
                f"torchrun started process {place + 1} on a machine with {there} GPUs: --nproc-per-node {there}"
            )
        device = torch.device("cuda", place)
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")  # gloo carries nothing else
    if dist.is_initialized():
        yield device
        return
    patience = datetime.timedelta(minutes=minutes)
    if device.type == "cuda":
        dist.init_process_group("nccl", timeout=patience, device_id=device)
    else:
        dist.init_process_group("gloo", timeout=patience)
    try:
        with stay_together(lambda: "Start the job again."):
            yield device
    except ProcessLost:
        raise SystemExit(1) from None  # the sentence is printed; a stack of network errors would bury it
    dist.destroy_process_group()  # not after an error: it could wait for processes that are gone


def own_rows(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return this process's rows of tensors that hold the whole batch; alone, the tensors themselves.

    tensors: (B, ...) each. Returns (B / processes, ...) each. A loss calls it once everything random is drawn, before
    the network runs; a loss that does not is right too, but every process computes the whole batch.
    Raises ValueError where the batch does not divide.
    """
    if count() == 1:
        return tensors
    check_batch(len(tensors[0]))
    return tuple(tensor.chunk(count())[index()] for tensor in tensors)


def check_batch(batch_size: int) -> None:
    """Raise ValueError, saying what would fit, where a batch cannot be split evenly over the processes."""
    if batch_size % count():
        nearest = max(1, batch_size // count()) * count()
        raise ValueError(
            f"batch_size is {batch_size}, the rows of all {count()} processes together, and must divide by {count()}; "
            f"{nearest} does"
        )


def mean(tensor: Tensor) -> Tensor:
    """Return the mean over the processes of a tensor that each of them has; alone, the tensor itself."""
    if count() == 1:
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total / count()


def anywhere(flag: bool, device: torch.device) -> bool:
    """Return whether any process raises this flag; all get the same answer, so that all can act on it together."""
    return bool(mean(torch.tensor(float(flag), device=device)) > 0) if count() > 1 else flag


def wait() -> None:
    """Wait until every process has come here."""
    if count() > 1:
        dist.barrier()


def from_first(make: Callable[[], Result]) -> Result:
    """Let the first process do what it alone can, such as reading its disk; give its result, or its error, to all."""
    if count() == 1:
        return make()
    box: list[Any] = [None, None]
    if index() == 0:
        try:
            box[0] = make()
        except Exception as error:
            box[1] = error
    dist.broadcast_object_list(box)
    if box[1] is not None:
        raise box[1]
    return box[0]


def agree(settings: Mapping[str, Any]) -> None:
    """Raise ValueError, on all processes alike, where they were not started with the same settings."""
    if count() == 1:
        return
    everyones: list[Any] = [None] * count()
    dist.all_gather_object(everyones, dict(settings))
    for number, theirs in enumerate(everyones):
        for key, value in everyones[0].items():
            if theirs.get(key) != value:
                raise ValueError(
                    f"{key} is {value} in process 0 and {theirs.get(key)} in process {number}: all processes must run "
                    "the same command on the same data"
                )


def share(tensors: Mapping[str, Tensor], device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """Yield the first process's tensors on all processes, by name and one at a time, so that memory holds few copies.

    tensors: of the first process, on the CPU; what the others pass is ignored. Those get theirs on the device.
    """
    if count() == 1:
        yield from tensors.items()
        return
    sizes = from_first(lambda: {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()})
    for name, (shape, dtype) in sizes.items():
        sent = tensors[name].to(device) if index() == 0 else torch.empty(shape, dtype=dtype, device=device)
        dist.broadcast(sent, 0)
        yield name, sent


def same_start(model: nn.Module) -> None:
    """Give every process the first one's weights and buffers."""
    if count() > 1 and not is_sharded(model):
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, 0)


def shard(model: nn.Module, device: torch.device) -> None:
    """Cut a model's weights into one share for each process, in place, and with them gradients and optimiser: FSDP2.

    A block's weights are put together only while the block computes. Afterwards all processes must call the model
    together. Alone it changes nothing. Raises ValueError for a model without model.blocks.
    Source: torch.distributed.fsdp.fully_shard (https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html).
    """
    if count() == 1 or is_sharded(model):
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.ModuleList) or not len(blocks):
        raise ValueError(f"shard=True cuts a model along its blocks, and {type(model).__name__} has no model.blocks")
    mesh = init_device_mesh(device.type, (count(),))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def is_sharded(model: nn.Module) -> bool:
    """Return whether the weights of a model lie in shares on several processes."""
    return any(hasattr(weight, "full_tensor") for weight in model.parameters())


def gathered(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Return whole tensors by name, on the first process; the others get an empty dictionary.

    Where tensors are sharded, all processes must call this, in the same order; the whole ones lie on the CPU.
    """
    found = {}
    for name, tensor in tensors:
        if hasattr(tensor, "full_tensor"):
            tensor = tensor.full_tensor().cpu() if index() == 0 else tensor.full_tensor()
        if index() == 0:
            found[name] = tensor
    return found


def spread(whole: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor as another one lies: this process's share of it, or all of it, on the same device."""
    if not hasattr(like, "full_tensor"):
        return whole.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return distribute_tensor(whole.to(like.device), mesh, placements, src_data_rank=None)


@contextmanager
def stay_together(advice: Callable[[], str]) -> Iterator[None]:
    """Print one sentence when another process of the job has ended, and end this one too.

    advice: called at that moment; says how to go on. The end shows itself in two ways: as an error of gloo or NCCL,
    which becomes ProcessLost, or as torchrun's SIGTERM, which ends this process with status 143 whatever it is doing.
    """
    if count() == 1:
        yield
        return

    def say(what: str) -> str:
        sentence = f"Process {index()} of {count()}: {what} {advice()}"
        with _SAYING:  # the error and the signal may come at the same moment
            if not _SAID.is_set():
                print(f"\n{sentence}", file=sys.stderr, flush=True)
            _SAID.set()
        return sentence

    def told_to_end() -> None:
        say("torchrun ends the job, because another process has ended or somebody has stopped it.")
        os._exit(128 + signal.SIGTERM)  # the main thread may wait for ever inside NCCL: it cannot be asked to leave

    with _on_sigterm(told_to_end):
        try:
            yield
        except RuntimeError as error:
            if not _is_of_the_network(error):
                raise
            reason = re.sub(r"^\[\S*\] ", "", str(error).strip()).split(". ")[0].splitlines()[0]
            raise ProcessLost(say(f"another process of the job has ended, or is silent ({reason}).")) from error


def _is_of_the_network(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(name in str(error) for name in ("gloo", "NCCL"))


@contextmanager
def _on_sigterm(act: Callable[[], None]) -> Iterator[None]:
    """Call a function in a thread of its own when SIGTERM arrives; also while the main thread is inside C code.

    Python runs signal handlers between two of its own instructions only, but writes the signal's number into the
    wake-up file at once (https://docs.python.org/3/library/signal.html#signal.set_wakeup_fd).
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread only
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def listen() -> None:
        while number := os.read(reading, 1):
            if number[0] == signal.SIGTERM:
                act()
        os.close(reading)

    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    file_before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=listen, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(file_before)
        signal.signal(signal.SIGTERM, before)
        os.close(writing)
