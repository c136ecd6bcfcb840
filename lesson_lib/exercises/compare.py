"""Compare what an answer returns with what is expected, and say in words how the two differ.

Numbers are compared as numpy arrays, by functions taken at import, so that a notebook which replaces
torch.allclose changes nothing here. Nothing is ever broadcast.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

_detach, _to, _numpy, _view_as_real = Tensor.detach, Tensor.to, Tensor.numpy, torch.view_as_real
_abs, _isfinite, _isnan, _sort, _argmax, _ravel = np.abs, np.isfinite, np.isnan, np.sort, np.argmax, np.ravel

Array = np.ndarray[Any, np.dtype[np.float64]]


def flatten(value: Any, label: str = "") -> dict[str, Any]:
    """List the tensors and numbers in a result by where they stand: "" for the result itself, "[0]", "[1]", …"""
    if isinstance(value, list | tuple):
        items: Any = enumerate(value)
    elif isinstance(value, dict):
        items = value.items()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
    else:
        return {label: value}
    return {place: leaf for key, item in items for place, leaf in flatten(item, f"{label}[{key}]").items()}


def array(value: Any) -> Array:
    """Return a tensor or a number as a float64 array."""
    if not isinstance(value, Tensor):
        return np.asarray(value, dtype=np.float64)
    value = _detach(value)
    if value.is_complex():
        value = _view_as_real(value)
    return _numpy(_to(value, device="cpu", dtype=torch.float64))


def is_number(value: Any) -> bool:
    """Whether the value is a plain number (a truth value counts)."""
    return isinstance(value, bool | int | float | complex)


def kind(value: Any) -> str:
    """Name what was returned, for a sentence."""
    if value is None:
        return "nothing (None)"
    if isinstance(value, Tensor):
        return "a tensor"
    if isinstance(value, np.ndarray | np.generic):
        return "a numpy array"
    if isinstance(value, tuple | list):
        return f"{len(value)} things in a {type(value).__name__}"
    if is_number(value):
        return "a number"
    article = "an" if type(value).__name__[0].lower() in "aeiou" else "a"
    return f"{article} {type(value).__name__}"


def shape_text(value: Any) -> str:
    """Write a shape as (4, 3, 8, 8); a number is ()."""
    return str(tuple(value.shape)) if isinstance(value, Tensor) else "()"


def close(a: Array, b: Array, tolerance: float) -> bool:
    """Whether a equals the expected b: same shape, same NaNs and infinities, errors small beside b's largest number."""
    if a.shape != b.shape:
        return False
    finite = _isfinite(b)
    if not (_isfinite(a) == finite).all() or not (_isnan(a) == _isnan(b)).all():
        return False
    infinite = ~finite & ~_isnan(b)
    return bool((a[infinite] == b[infinite]).all() and (_abs(a - b)[finite] <= tolerance * _scale(b[finite])).all())


def _scale(expected: Array) -> float:
    largest = float(_abs(expected).max()) if expected.size else 0.0
    return max(largest, 1e-6) if largest > 0 else 1.0


def equal(a: Any, b: Any, tolerance: float) -> bool:
    """Whether two results hold the same things in the same places: kind, shape, dtype, device and values."""
    left, right = flatten(a), flatten(b)
    return left.keys() == right.keys() and all(_leaf_equal(left[k], right[k], tolerance) for k in left)


def _leaf_equal(a: Any, b: Any, tolerance: float) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
            return False
        return a.device.type == "meta" or close(array(a), array(b), tolerance)
    if is_number(a) and is_number(b):
        return close(array(a), array(b), tolerance)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.shape == b.shape and a.dtype == b.dtype and bool(np.array_equal(a, b))
    return kind(a) == kind(b) and (not isinstance(a, str) or a == b)


def difference(a: Array, b: Array, tolerance: float) -> str:
    """Say how far a lies from the expected b, and any simple relation between the two."""
    error = np.asarray(_abs(a - b))  # of two numbers numpy makes a scalar
    error[~_isfinite(error)] = np.inf
    wrong = float((error > tolerance * _scale(b[_isfinite(b)])).mean())
    place = np.unravel_index(int(_argmax(error)), error.shape)
    where = f" at [{', '.join(map(str, place))}]" if place else ""
    share = "" if a.size == 1 else f" {_percent(wrong)} of the numbers differ."
    return f"you return {a[place]:.4g}{where}, {b[place]:.4g} is expected.{share}{_relation(a, b)}"


def _percent(share: float) -> str:
    return "All" if share == 1 else f"{max(1, min(99, round(100 * share)))} %"


def _relation(a: Array, b: Array) -> str:
    scale = _scale(b)
    if a.size < 4 or not _isfinite(a).all() or not _isfinite(b).all() or b.std() < 1e-6 * scale:
        return ""
    if _abs(a).max() == 0:
        return " Yours are all zero."
    if a.std() < 1e-6 * max(1.0, float(_abs(a).max())):
        return f" Yours are all {a.flat[0]:.4g}."
    factor = float((a * b).sum() / (b * b).sum())
    if _abs(a - factor * b).max() < 1e-4 * scale * max(1.0, abs(factor)):
        return " Yours have the opposite sign." if abs(factor + 1) < 1e-3 else f" Yours are {factor:.4g} × as large."
    shift = float((a - b).mean())
    if _abs(a - b - shift).max() < 1e-4 * scale:
        return f" Yours are {abs(shift):.4g} too {'large' if shift > 0 else 'small'} everywhere."
    if _abs(_sort(_ravel(a)) - _sort(_ravel(b))).max() < 1e-4 * scale:
        return " The numbers are right but stand in other places."
    return ""
