"""Weights and training states on disk: safetensors files with their configuration inside, written whole or not at all.

A safetensors file is 8 bytes that hold the header's length, a JSON header and raw numbers: reading one runs no code,
which a pickle cannot promise (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lesson_lib import processes

MODEL = "course-model-1"
TRAINING = "course-training-1"
_CONTENT = {MODEL: "a model written by save_model", TRAINING: "a training state written by fit"}


class CheckpointError(ValueError):
    """A file that cannot be what was asked for; the message says why. The file itself is never changed."""


def write_tensors(path: Path | str, tensors: Mapping[str, Tensor], config: dict[str, Any], content: str) -> None:
    """Write tensors and their configuration to one file, whole or not at all.

    content: MODEL or TRAINING. The bytes go to a file with the ending .part in the same folder, to the disk, and only
    then take the place of the old file; a process killed at any moment leaves the old file or the new one.
    Raises TypeError where the configuration is not plain JSON (numbers, strings, lists, dictionaries).
    """
    from safetensors.torch import save

    path = Path(path)
    header = {"content": content, "config": _to_json(config)}
    data = save({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}, header)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    _flush_folder(path.parent)


def read_tensors(path: Path | str, content: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors (on the CPU) and the configuration of a file that write_tensors wrote.

    Raises FileNotFoundError where there is none, and CheckpointError where it is damaged or holds something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path)
    data = _read_bytes(path)
    config = _config_in(path, data, content)
    try:
        return load(data), config
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); copy or download it again") from error


def read_config(path: Path | str) -> dict[str, Any]:
    """Return the configuration inside a file that save_model wrote; errors as in read_tensors."""
    path = Path(path)
    return _config_in(path, _read_bytes(path), MODEL)


def save_model(path: Path | str, model: nn.Module, config: dict[str, Any], half: bool = True) -> None:
    """Write a trained model to one small file: its weights, and the configuration that builds it again.

    config: plain JSON, whatever the build function of load_model needs. half: store float32 weights as float16, half
    the size; float64 and whole numbers stay as they are. Raises ValueError for weights that are not finite or that do
    not fit into float16 (above 65504), TypeError for a configuration that is not JSON. Of several processes the first
    one writes; where the model is sharded, all must call it.
    """
    tensors = processes.gathered((name, tensor.detach()) for name, tensor in model.state_dict().items())
    if processes.index() > 0:
        return
    if half:
        short = (torch.float32, torch.bfloat16)
        tensors = {name: tensor.half() if tensor.dtype in short else tensor for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"save_model: {name} holds numbers that are not finite{' in float16' if half else ''}")
    write_tensors(path, tensors, config, MODEL)


def load_model(path: Path | str, build: Callable[[dict[str, Any]], nn.Module]) -> nn.Module:
    """Return the model that save_model wrote, in float32 on the CPU and in evaluation mode.

    build: makes an untrained model from the configuration in the file; the random numbers that it draws are given
    back, so that loading a model changes no later result. Raises FileNotFoundError where there is no file, and
    CheckpointError where it is damaged, foreign, or has other weights than the model that build made (it names them).
    """
    tensors, config = read_tensors(path, MODEL)
    with torch.random.fork_rng(devices=[]):
        model = build(config)
    difference = weights_difference(tensors, model.state_dict())
    if difference:
        raise CheckpointError(f"{path} does not fit the model that build made: {difference}")
    model.load_state_dict(tensors)
    return model.eval()


def weights_difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Say in what two sets of weights differ, by name and shape; an empty string where they agree."""
    missing = [name for name in expected if name not in found]
    extra = sorted(name for name in found if name not in expected)
    shapes = [
        f"{name} is {tuple(found[name].shape)} in the file and {tuple(expected[name].shape)} in the model"
        for name in expected
        if name in found and found[name].shape != expected[name].shape
    ]
    parts = [f"the file lacks {_some(missing)}"] if missing else []
    parts += [f"the model lacks {_some(extra)}"] if extra else []
    return "; ".join(parts + ([_some(shapes)] if shapes else []))


def describe(thing: Any) -> str:
    """Return a short text that differs where two configurations differ: by type, and a dataclass by its fields."""
    if not is_dataclass(thing):
        return type(thing).__name__
    values = ((field.name, getattr(thing, field.name)) for field in fields(thing) if field.repr)
    texts = (f"{name}={describe_tensor(value) if isinstance(value, Tensor) else value!r}" for name, value in values)
    return f"{type(thing).__name__}({', '.join(texts)})"


def describe_tensor(tensor: Tensor, most: int = 2**16) -> str:
    """Return shape, type and a checksum over about `most` of the numbers, spread evenly.

    The stride is odd, so that the numbers looked at are not the same pixel of every image.
    """
    sample = tensor.detach().reshape(-1)[:: tensor.numel() // most | 1].cpu().contiguous()
    return f"{tuple(tensor.shape)} {tensor.dtype} {zlib.crc32(sample.view(torch.uint8).numpy().tobytes()):08x}"


def _some(names: list[str], most: int = 3) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _to_json(config: dict[str, Any]) -> str:
    try:
        return json.dumps(config, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"a configuration holds only numbers, strings, lists and dictionaries: {error}") from error


def _read_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint at {path}")
    return path.read_bytes()


def _config_in(path: Path, data: bytes, content: str) -> dict[str, Any]:
    """Return the configuration in a file's bytes, or say why these bytes are not the content that was asked for."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or data[8:9] != b"{":
        raise CheckpointError(f"{path} is no safetensors file; expected {_CONTENT[content]}")
    if length > len(data) - 8:
        raise CheckpointError(f"{path} is cut off inside its header; copy or download it again")
    try:
        header = json.loads(data[8 : 8 + length])
        notes = header.pop("__metadata__", {})
        size = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} has no readable safetensors header; expected {_CONTENT[content]}") from error
    if size != len(data):
        raise CheckpointError(f"{path} is damaged: {len(data)} bytes where its header says {size}; copy it again")
    if notes.get("content") != content:
        holds = _CONTENT.get(notes.get("content"), "a safetensors file that this course did not write")
        raise CheckpointError(f"{path} is {holds}; expected {_CONTENT[content]}")
    return json.loads(notes["config"])


def _flush_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system lets a folder be opened (Windows does not)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
