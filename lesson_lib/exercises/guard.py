"""Run a learner's code safely: a time limit, its prints caught, the random numbers and torch's settings put back."""

from __future__ import annotations

import contextlib
import io
import linecache
import random
import signal
import sysconfig
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import torch

LIBRARY = str(Path(__file__).resolve().parent.parent)
INSTALLED = tuple({sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")})
KEPT = 2000


class TimeLimit(BaseException):
    """The call took too long. Not an Exception, so that a learner's "except Exception" does not swallow it."""


@dataclass
class Outcome:
    """What came of a call: its value or its error, and what it printed."""

    value: Any = None
    error: BaseException | None = None
    printed: str = ""


class _Beginning(io.StringIO):
    """Keeps only the first few characters, so that a loop that prints fills no memory."""

    def write(self, text: str) -> int:
        room = KEPT - self.tell()
        super().write(text[: max(0, room)])
        return len(text)


def call(function: Callable[[], Any], seconds: float, seed: int) -> Outcome:
    """Call a function that may fail in any way, with torch's global random numbers seeded, and report what came of it.

    Stopping the notebook (KeyboardInterrupt) still stops it.
    """
    printed = _Beginning()
    outcome = Outcome()
    with _restored_settings(seed), warnings.catch_warnings(), contextlib.redirect_stdout(printed):
        warnings.simplefilter("ignore")
        with contextlib.redirect_stderr(_Beginning()):
            try:
                with _time_limit(seconds):
                    outcome.value = function()
            except (Exception, SystemExit, TimeLimit) as error:
                outcome.error = error
    outcome.printed = printed.getvalue()
    return outcome


@contextlib.contextmanager
def _restored_settings(seed: int) -> Iterator[None]:
    state, python_state, numpy_state = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    grad, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    torch.default_generator.manual_seed(seed)
    torch.set_grad_enabled(True)
    try:
        yield
    finally:
        torch.set_rng_state(state)
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(dtype)


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeLimit after some seconds, again and again, where the platform has timers; elsewhere do nothing."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeLimit

    started = time.monotonic()
    handler = signal.signal(signal.SIGALRM, stop)
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, seconds, 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if remaining:
            signal.setitimer(signal.ITIMER_REAL, max(0.01, remaining - (time.monotonic() - started)), interval)


def learner_line(trace: TracebackType | None) -> str:
    """Say on which line of the learner's own code an error arose: 'line 3 of add_noise: "return x0 * a"'."""
    frames = traceback.extract_tb(trace)
    own = [f for f in frames if not f.filename.startswith((LIBRARY, "<frozen", "<torch", *INSTALLED))]
    if not own:
        return ""
    last = own[-1]
    text = (last.line or linecache.getline(last.filename, last.lineno or 0)).strip()
    return f"line {last.lineno} of the cell, in {last.name}" + (f": {text}" if text else "")
