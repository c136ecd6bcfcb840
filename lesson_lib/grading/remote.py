"""A learner's answer that runs elsewhere: to the ladder it is a function like any other.

Inputs go into the sandbox, raw arrays come back. What a call changes on the other side (arguments, weights, the state
of a generator) is changed here too, and gradients flow through it, so that exercises.ladder judges it with the same
code that judges an answer in a notebook, in a process that the submission never touches.
"""

from __future__ import annotations

import builtins
import contextlib
import inspect
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle
import torch
from torch import Tensor, nn

from lesson_lib import exercises
from lesson_lib.exercises.attempt import cannot_build, check_weights
from lesson_lib.exercises.compare import flatten
from lesson_lib.exercises.core import Exercise
from lesson_lib.exercises.guard import TimeLimit
from lesson_lib.grading import wire
from lesson_lib.grading.library import MISSING, library_without
from lesson_lib.grading.sandbox import Session

# Small networks and functions that cases pass as arguments are sent with their code: their module is not over there.
cloudpickle.register_pickle_by_value(exercises)

LONGEST = 120.0  # seconds for all that is asked of one answer
ENDS = {
    "itself": "the answer ended its own process",
    "memory or a signal": "the process was ended by a signal, or took more memory or time than there is",
    "unknown": "the process no longer answers",
}


class Ended(Exception):
    """The process of the answer is gone: it ended itself, or a limit ended it."""


class LibraryCalled(Exception):
    """The answer called the library's own version of what it should be."""


class _Shown:
    """A default of the learner's, of which only the text is known here."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


class RemoteAnswer:
    """One answer in its sandbox.

    pieces: the slice of the notebook as (label, source), in the order in which to run it; future: with annotations
    that are not evaluated. name: what the answer is called after that. failures: the errors of pieces that did not
    run (the answer may still work without them).
    """

    def __init__(
        self,
        session: Session,
        exercise: Exercise,
        pieces: Sequence[tuple[str, str]],
        name: str,
        future: bool = False,
    ) -> None:
        self._session, self._exercise, self._pieces = session, exercise, pieces
        self._gone: BaseException | None = None
        self._deadline = time.monotonic() + LONGEST
        self._numbers = itertools.count(1)
        library, sources = library_without(exercise.path)
        method = exercise.resolved.method
        rest = {"sources": sources, "future": future, "seconds": 30.0}
        head, _ = self._do("prepare", library=library, pieces=list(pieces), name=name, method=method, **rest)
        self.kind = str(head.get("kind"))
        self.failures = [_text_of(failure) for failure in _list(head.get("failures"))]
        self._signature = _signature(head.get("signature"))

    @property
    def answer(self) -> Any:
        """What exercises.ladder examines: a function, or a class where the exercise is a method."""
        reference = self._exercise.resolved
        if not reference.method:
            return self._function if self.kind == "function" else None
        if self.kind != "class":
            return self._function
        return self._class()

    @property
    def _function(self) -> Callable[..., Any]:
        def answer(*args: Any, **kwargs: Any) -> Any:
            return self._call(None, args, kwargs)

        return self._dressed(answer)

    def _class(self) -> type:
        """Return a class that builds the library's instance, and whose one method runs in the sandbox."""
        reference, remote = self._exercise.resolved, self
        base: Any = reference.target

        def build(self: Any, *args: Any, **kwargs: Any) -> None:
            base.__init__(self, *args, **kwargs)
            object.__setattr__(self, "_build", kwargs)

        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            return remote._call(self, args, kwargs)

        return type(reference.name, (base,), {"__init__": build, reference.method: self._dressed(method)})

    def _dressed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if self._signature is not None:
            function.__signature__ = self._signature  # type: ignore[attr-defined]
        return function

    # one call

    def _call(self, instance: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        state, hooked = {}, []
        if isinstance(instance, nn.Module):
            state = instance.state_dict(keep_vars=True)
            hooked = [name for name, module in instance.named_modules() if module._forward_hooks]
        leaves = _leaves_behind([*args, *kwargs.values()])
        seen = [value for value in [*args, *leaves] if isinstance(value, Tensor)]
        stored = [(tensor, tensor.grad) for tensor in seen if tensor.is_leaf and tensor.grad is not None]
        message = {
            "number": next(self._numbers),
            "build": None if instance is None else instance._build,
            "state": state,
            "hooked": hooked,
            "args": list(args),
            "kwargs": kwargs,
            "leaves": leaves,
            "stored": stored,
            "generator": torch.get_rng_state(),
            "gradients": torch.is_grad_enabled(),
        }
        # Do here what the answer may do there, so that whoever watches for it tries another device.
        torch.empty(0)
        head, found, tensors = self._exchange({"do": "call", **message}, leaves)
        known = [*tensors, *args, *kwargs.values()]
        self._change(head, found, tensors, known[len(tensors) :], instance)
        inputs = [number for number, tensor in enumerate(tensors) if tensor.requires_grad]
        results = [tensor for tensor, _ in found]
        attached = [place for place, (_, flows) in enumerate(found) if flows]
        if attached and inputs and torch.is_grad_enabled():
            through = _Through.apply(
                self, message["number"], attached, inputs, results, *[tensors[number] for number in inputs]
            )
            for place, tensor in zip(attached, through, strict=True):
                results[place] = tensor
        try:
            return wire.read_result(head.get("value"), results, known)
        except wire.Broken as error:
            raise self._lost(error) from None

    def _do(self, what: str, **message: Any) -> tuple[dict[str, Any], list[Tensor]]:
        head, found, _ = self._exchange({"do": what, **message}, ())
        return head, [tensor for tensor, _ in found]

    def _exchange(self, message: dict[str, Any], leaves: Sequence[Tensor]) -> Any:
        """Send a message and return its answer; meanwhile answer what the other side asks. Raises its errors."""
        if self._gone:
            raise self._gone
        if time.monotonic() > self._deadline:
            self._session.close()
            self._gone = Ended(f"all its cases together took more than {LONGEST:g} seconds")
            raise self._gone
        channel = self._session.channel
        try:
            parts, tensors = wire.pack(message)
            wire.send(channel, *parts)
            while True:
                head, found = wire.unpack_reply(wire.receive(channel))
                if "ask" not in head:
                    break
                gradients = _back(tensors, head["ask"], found, leaves)
                wire.send(channel, *wire.pack({"gradients": gradients})[0])
        except (wire.Broken, OSError) as error:
            raise self._lost(error) from None
        except BaseException:
            self._gone = Ended("it was stopped, and not tried again")
            self._session.close()
            raise
        if "error" in head:
            raise self._error(head["error"], message)
        return head, found, tensors

    def _lost(self, error: Exception) -> BaseException:
        """Return what to raise where the process does not answer any more, or not with an answer."""
        how = self._session.ended_by()
        self._session.close()
        if how == "time":
            self._gone = TimeLimit()
        elif isinstance(error, wire.Broken) and "ended" not in str(error):
            self._gone = Ended(str(error))
        else:
            self._gone = Ended(ENDS.get(how, ENDS["unknown"]))
        return self._gone

    def _error(self, told: Any, message: dict[str, Any]) -> BaseException:
        """Make the error that an answer raised, as nearly as it can be made without the answer."""
        told = told if isinstance(told, dict) else {}
        if told.get("stage") == "weights":
            own = told.get("own")
            shapes = {str(k): tuple(v) for k, v in own.items() if isinstance(v, list)} if isinstance(own, dict) else {}
            try:
                check_weights(self._exercise.name, shapes, message["state"])
            except Exception as differs:
                return differs
        kind, text = str(told.get("type", "Error")), str(told.get("text", ""))
        if kind == MISSING or MISSING in text:
            return LibraryCalled(text)
        if told.get("stage") == "build":
            return cannot_build(self._exercise.name, message["build"], kind, text)
        raised: Any = _exception(kind, _list(told.get("bases")), text)
        raised.learner_line = self._line(told.get("line"))
        return raised  # type: ignore[no-any-return]

    def _line(self, told: Any) -> str:
        """Say where in the notebook an error arose, with the text that was handed in."""
        label, number = told if isinstance(told, list) and len(told) == 2 else ("", 0)
        texts = [text.splitlines() for piece, text in self._pieces if piece == label]
        for lines in texts:
            if type(number) is int and 1 <= number <= len(lines) and lines[number - 1].strip():
                return f"line {number} of the {label.strip('<>')}: {lines[number - 1].strip()[:200]}"
        return ""

    def _change(self, head: Any, found: Any, tensors: Any, arguments: Sequence[Any], instance: Any) -> None:
        """Do here what the call has done there to its arguments, to weights and to generators."""
        own = _within([*arguments, instance])
        try:
            with torch.no_grad():
                for number, place in head["changed"]:
                    if id(tensors[number]) in own:
                        tensors[number].data = _like(found[place][0], tensors[number])
                for number, place in head["stored"]:
                    tensors[number].grad = None if place is None else _like(found[place][0], tensors[number])
            for place, items in head["lists"]:
                old = list(arguments[place])
                arguments[place][:] = [old[item] if item >= 0 else None for item in items]
            for place in head["moved"]:
                torch.rand(1, generator=arguments[place])
            if head["drawn"]:
                torch.rand(1)
            for place, name, value, learns in head["modules"]:
                _set_weight(arguments[place], str(name), None if value is None else found[value][0], learns is True)
            for name, count in head["calls"].items():
                module = instance.get_submodule(name)
                for hook in list(module._forward_hooks.values()):
                    for _ in range(min(int(count), 1000)):
                        hook(module, (), None)
            for number in head["freed"]:
                leaves = _leaves_behind([tensors[number]])
                torch.autograd.grad(tensors[number], leaves, torch.zeros_like(tensors[number]), allow_unused=True)
        except Exception as error:
            raise self._lost(wire.Broken(f"the result cannot be read ({type(error).__name__})")) from None

    def backward(self, number: int, inputs: list[int], gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Send gradients back through an earlier call; return those of the inputs."""
        head, found = self._do("backward", number=number, inputs=inputs, gradients=list(gradients))
        places = _list(head.get("gradients"))
        if len(places) != len(inputs) or not all(p is None or (type(p) is int and 0 <= p < len(found)) for p in places):
            raise self._lost(wire.Broken("the gradients cannot be read"))
        return [None if place is None else found[place] for place in places]


class _Through(torch.autograd.Function):
    """Results of a call in the sandbox, as results of its inputs: gradients go back through the sandbox."""

    @staticmethod
    def forward(ctx: Any, remote: Any, number: int, attached: Any, inputs: Any, results: Any, *tensors: Tensor) -> Any:
        ctx.remote, ctx.number, ctx.attached, ctx.inputs, ctx.count = remote, number, attached, inputs, len(results)
        ctx.shapes = [tensor.shape for tensor in tensors]
        return tuple(results[place] for place in attached)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        given = dict(zip(ctx.attached, gradients, strict=True))
        found = ctx.remote.backward(ctx.number, ctx.inputs, [given.get(place) for place in range(ctx.count)])
        for gradient, shape in zip(found, ctx.shapes, strict=True):
            if gradient is not None and gradient.shape != shape:
                raise Ended("a gradient came back in another shape")
        return None, None, None, None, None, *found


def _back(tensors: list[Tensor], number: Any, found: Any, leaves: Sequence[Tensor]) -> list[Tensor | None]:
    """Work out the way back from a tensor that was computed here."""
    tensor, gradient = tensors[number], found[0][0]
    wanted = [t for t in tensors if t.requires_grad and t.is_leaf]
    assert leaves
    return list(torch.autograd.grad(tensor, wanted, gradient, retain_graph=True, allow_unused=True))


def _leaves_behind(values: Sequence[Any]) -> list[Tensor]:
    """List the tensors from which computed arguments were computed."""
    found: dict[int, Tensor] = {}
    waiting: list[Any] = [value.grad_fn for value in values if isinstance(value, Tensor) and value.grad_fn is not None]
    seen: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            found[id(leaf)] = leaf
        waiting += [parent for parent, _ in node.next_functions]
    return list(found.values())


def _within(values: Sequence[Any]) -> set[int]:
    """Return the ids of the tensors that a call may change: its arguments' and its instance's, none behind those."""
    found: set[int] = set()
    for value in values:
        leaves = value.state_dict(keep_vars=True) if isinstance(value, nn.Module) else flatten(value)
        found |= {id(leaf) for leaf in leaves.values() if isinstance(leaf, Tensor)}
    return found


def _like(value: Tensor, wanted: Tensor) -> Tensor:
    if value.shape != wanted.shape or value.dtype != wanted.dtype:
        raise ValueError("another shape or kind")
    return value


def _set_weight(module: nn.Module, name: str, value: Tensor | None, learns: bool) -> None:
    owner, _, last = name.rpartition(".")
    place = module.get_submodule(owner)
    if value is not None:
        setattr(place, last, nn.Parameter(value, requires_grad=learns))
    getattr(place, last).requires_grad_(learns)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text_of(failure: Any) -> str:
    told = failure if isinstance(failure, dict) else {}
    return f"{told.get('type', 'Error')}: {told.get('text', '')}"[:600]


def _signature(told: Any) -> inspect.Signature | None:
    """Return a signature with the names, kinds and defaults that the sandbox told, or None where they make none."""
    try:
        kinds = [k for _, k in sorted(inspect._ParameterKind.__members__.items(), key=lambda item: item[1])]
        parameters = [
            inspect.Parameter(
                str(name), kinds[kind], default=inspect.Parameter.empty if default is None else _Shown(str(default))
            )
            for name, kind, default in told
        ]
        return inspect.Signature(parameters)
    except (TypeError, ValueError, IndexError):
        return None


def _exception(name: str, bases: Sequence[Any], text: str) -> Exception:
    """Return the built-in error of this name, or else a new one with the nearest built-in error as its base."""
    found: Any = getattr(builtins, name, None)
    if not name.isidentifier() or name in ("TimeLimit", Ended.__name__, LibraryCalled.__name__):
        name = "Error"
    for kind in [found, *(getattr(builtins, str(base), None) for base in bases[1:])]:
        if inspect.isclass(kind) and issubclass(kind, Exception):
            with contextlib.suppress(TypeError):  # some need more than a text
                made: Exception = kind(text) if kind is found else type(name, (kind,), {})(text)
                return made
    return type(name, (Exception,), {})(text)
