"""What passes between the trusted grader and the sandbox.

Towards the sandbox: pickles, with every tensor taken out and sent as raw numbers, so that both sides can speak of
"tensor 3". Back from it: JSON with a list of raw arrays behind it, whose kinds and sizes are checked before anything
is made of them; never a pickle, never anything compressed. Each message begins with its length in eight bytes.

The sandbox gets this file as text; it imports nothing of the library.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import re
import socket
import struct
from collections.abc import Callable
from typing import Any

import cloudpickle
import torch
from torch import Tensor

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128),
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
    )
}
LARGEST_REPLY = 64 * 2**20
LARGEST_HEAD = 4 * 2**20
DEEPEST, MOST_LEAVES, LONGEST_TEXT = 8, 10_000, 20_000


class Broken(Exception):
    """What came is no message: cut off, too large, or not what the format says. The text is a sentence."""


# --- bytes -------------------------------------------------------------------------------------------------------


def send(channel: socket.socket, *parts: bytes | memoryview) -> None:
    """Send one message made of parts."""
    channel.sendall(struct.pack("<Q", sum(len(part) for part in parts)))
    for part in parts:
        channel.sendall(part)


def receive(channel: socket.socket, largest: int = LARGEST_REPLY) -> bytearray:
    """Return the next message's bytes. Raises Broken where it is too large or the other side has gone."""
    (length,) = struct.unpack("<Q", _exactly(channel, 8))
    if length > largest:
        raise Broken(f"the result has {length / 2**20:,.0f} MB; the limit is {largest / 2**20:,.0f} MB")
    return _exactly(channel, length)


def _exactly(channel: socket.socket, length: int) -> bytearray:
    data = bytearray(length)
    view, done = memoryview(data), 0
    while done < length:
        count = channel.recv_into(view[done:])
        if not count:
            raise Broken("the process ended before it answered")
        done += count
    return data


# --- towards the sandbox -----------------------------------------------------------------------------------------


class _Packer(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles what the grader hands over; tensors are noted in a list and stand in the pickle as their numbers."""

    def __init__(self, file: io.BytesIO, tensors: list[Tensor]) -> None:
        super().__init__(file)
        self._tensors = tensors
        self._number = {id(tensor): number for number, tensor in enumerate(tensors)}

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return None
        if id(value) not in self._number:
            self._number[id(value)] = len(self._tensors)
            self._tensors.append(value)
        return self._number[id(value)]


class _Unpacker(pickle.Unpickler):
    """Unpickles what the grader sent; numbers become the tensors that were sent with it."""

    def __init__(self, data: bytes, tensors: list[Tensor]) -> None:
        super().__init__(io.BytesIO(data))
        self._tensors = tensors

    def persistent_load(self, number: Any) -> Tensor:
        return self._tensors[number]


def pack(value: Any) -> tuple[list[Any], list[Tensor]]:
    """Return a value as the parts of a message, and the tensors in it in the order of their numbers."""
    tensors: list[Tensor] = []
    file = io.BytesIO()
    _Packer(file, tensors).dump(value)
    described = [(*_describe(t), t.requires_grad, t.is_leaf, isinstance(t, torch.nn.Parameter)) for t in tensors]
    head = pickle.dumps((described, file.getvalue()))
    return [struct.pack("<Q", len(head)), head, *(_raw(t) for t in tensors if t.device.type != "meta")], tensors


def unpack(data: bytearray, join: Callable[[list[Tensor], list[int]], None]) -> tuple[Any, list[Tensor]]:
    """Return what pack was given, and the tensors in it. Only ever called in the sandbox: a pickle can do anything.

    join: replaces, in the list, the tensors of these numbers, which are results of others on the grader's side.
    """
    (length,) = struct.unpack_from("<Q", data)
    described, body = pickle.loads(memoryview(data)[8 : 8 + length])
    place, tensors, results = 8 + length, [], []
    for number, (device, dtype, shape, wants_gradient, is_leaf, is_parameter) in enumerate(described):
        if device == "meta":
            tensor = torch.empty(shape, dtype=DTYPES[dtype], device="meta")
        else:
            tensor, place = _tensor(data, place, dtype, shape)
        if is_parameter:
            tensor = torch.nn.Parameter(tensor, requires_grad=wants_gradient)
        elif wants_gradient and is_leaf:
            tensor.requires_grad_()
        elif wants_gradient:
            results.append(number)
        tensors.append(tensor)
    join(tensors, results)
    return _Unpacker(body, tensors).load(), tensors


def _describe(tensor: Tensor) -> tuple[str, str, list[int]]:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise Broken(f"a tensor of {dtype} cannot be sent; the course uses {', '.join(DTYPES)}")
    return tensor.device.type, dtype, list(tensor.shape)


def _raw(tensor: Tensor) -> memoryview | bytes:
    flat = tensor.detach().resolve_conj().resolve_neg().to("cpu").contiguous().view(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else b""


def _tensor(data: bytearray, place: int, dtype: str, shape: list[int]) -> tuple[Tensor, int]:
    """Make a tensor of the bytes at a place; return it and the place behind it."""
    kind = DTYPES[dtype]
    end = place + math.prod(shape) * kind.itemsize
    if end > len(data):
        raise Broken("the result is shorter than it says")
    if end == place:
        return torch.empty(shape, dtype=kind), end
    raw = torch.frombuffer(data, dtype=torch.uint8, count=end - place, offset=place)
    if kind is torch.bool:
        return (raw != 0).view(shape), end
    return raw.clone().view(kind).view(shape), end


# --- back from the sandbox ---------------------------------------------------------------------------------------


def describe_result(value: Any, tensors: list[Tensor], known: dict[int, Any], depth: int = 0) -> Any:
    """Return a result as JSON; tensors are added to the list, arguments that come back are named by number.

    known: id of a tensor or object that was sent → how to name it. What has no JSON is named by its type.
    """
    kind = type(value)
    if id(value) in known:
        return {"argument": known[id(value)]}
    if value is None or kind in (bool, str):
        return {"plain": value[:LONGEST_TEXT] if kind is str else value}
    if kind is int:
        return {"integer": str(value)} if value.bit_length() < 4096 else {"opaque": "int"}
    if kind is float:
        return {"float": value.hex()}
    if kind is complex:
        return {"complex": [value.real.hex(), value.imag.hex()]}
    if isinstance(value, Tensor):
        tensors.append(value)
        return {"tensor": len(tensors) - 1}
    if kind.__module__ == "numpy":
        return {"numpy": str(getattr(value, "dtype", ""))[:40]}
    if depth < DEEPEST and isinstance(value, list | tuple):
        inside = [describe_result(item, tensors, known, depth + 1) for item in value[:MOST_LEAVES]]
        return {"list" if isinstance(value, list) else "tuple": inside}
    if depth < DEEPEST and isinstance(value, dict) and all(type(key) is str for key in value):
        listed = list(value.items())[:MOST_LEAVES]
        return {"dict": [[key, describe_result(item, tensors, known, depth + 1)] for key, item in listed]}
    return {"opaque": kind.__name__[:80]}


def pack_reply(head: dict[str, Any], tensors: list[Tensor]) -> list[Any]:
    """Return a reply as the parts of a message: JSON, then the arrays' raw numbers."""
    head["tensors"] = [[*_describe(t), bool(t.requires_grad)] for t in tensors]
    text = json.dumps(head).encode()
    return [struct.pack("<Q", len(text)), text, *(_raw(t) for t in tensors if t.device.type != "meta")]


def unpack_reply(data: bytearray) -> tuple[dict[str, Any], list[tuple[Tensor, bool]]]:
    """Return a reply's JSON and its tensors, each with whether a gradient flows through it. Trusts nothing.

    Raises Broken for whatever is not exactly such a reply.
    """
    try:
        (length,) = struct.unpack_from("<Q", data)
        if length > LARGEST_HEAD or 8 + length > len(data):
            raise Broken("the head of the result is too long")
        head = json.loads(bytes(memoryview(data)[8 : 8 + length]))
        place, tensors = 8 + length, []
        if len(head["tensors"]) > MOST_LEAVES:
            raise Broken(f"the result has {len(head['tensors']):,} tensors; the limit is {MOST_LEAVES:,}")
        for device, dtype, shape, attached in head["tensors"]:
            if len(shape) > 16 or not all(type(n) is int and 0 <= n < 2**40 for n in shape):
                raise Broken("the result has a shape that no tensor has")
            if device == "meta":
                tensor = torch.empty(shape, dtype=DTYPES[dtype], device="meta")
            elif device == "cpu":
                tensor, place = _tensor(data, place, dtype, shape)
            else:
                raise Broken("the result is on a device that is not there")
            tensors.append((tensor, attached is True))
        if place != len(data):
            raise Broken("the result is longer than it says")
        return head, tensors
    except Broken:
        raise
    except Exception as error:  # whatever a forged reply does to json, struct or torch
        raise Broken(f"the result cannot be read ({type(error).__name__})") from error


class Opaque:
    """Stands for a result that is neither a number nor a tensor; its class bears the name of the result's."""


def read_result(told: Any, tensors: list[Tensor], known: list[Any], depth: int = 0) -> Any:
    """Make the result that describe_result wrote down. known: what was sent, by number. Raises Broken."""
    try:
        ((kind, inside),) = told.items()
        if kind == "argument":
            return known[inside]
        if kind == "plain" and (inside is None or type(inside) in (bool, str)):
            return inside
        if kind == "integer" and len(inside) < 1300:
            return int(inside)
        if kind == "float":
            return float.fromhex(inside)
        if kind == "complex":
            return complex(*(float.fromhex(part) for part in inside))
        if kind == "tensor" and inside >= 0:
            return tensors[inside]
        if kind == "numpy":
            import numpy as np

            return np.zeros(0)
        if kind in ("list", "tuple") and depth < DEEPEST:
            items = [read_result(item, tensors, known, depth + 1) for item in inside]
            return items if kind == "list" else tuple(items)
        if kind == "dict" and depth < DEEPEST:
            return {str(key): read_result(item, tensors, known, depth + 1) for key, item in inside}
        if kind == "opaque" and re.fullmatch(r"[A-Za-z_]{1,20}", str(inside)):
            return type(str(inside), (Opaque,), {})()
        if kind == "opaque":
            return Opaque()
    except Exception as error:
        raise Broken(f"the result cannot be read ({type(error).__name__})") from error
    raise Broken("the result is of no known kind")
