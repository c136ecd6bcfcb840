"""Try one answer on one case: build it where it is a class, call it, and write down everything worth comparing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lesson_lib.exercises.compare import flatten
from lesson_lib.exercises.core import Case, Exercise
from lesson_lib.exercises.guard import Outcome, call

# Taken at import, so that a notebook which replaces torch.equal changes nothing here.
_grad, _equal, _nan_to_num = torch.autograd.grad, torch.equal, torch.nan_to_num


class CannotBuild(Exception):
    """The learner's class does not build, or holds other parameters than the course's; the message is a sentence."""


class _Factories(TorchFunctionMode):
    """Notes whether a tensor is made from nothing on the default device."""

    makers = (
        *(torch.arange, torch.linspace, torch.logspace, torch.zeros, torch.ones, torch.full, torch.empty, torch.eye),
        *(torch.rand, torch.randn, torch.randint, torch.randperm, torch.tril_indices, torch.triu_indices),
        *(torch.tensor, torch.as_tensor, torch.from_numpy),
    )

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.seen |= function in self.makers and kwargs.get("device") is None
        return function(*args, **kwargs)


@dataclass
class Attempt:
    """What came of one call: its result or error, what it printed, and the arguments it changed."""

    outcome: Outcome
    changed: list[str] = field(default_factory=list)
    gradients: dict[str, Tensor | None] = field(default_factory=dict)
    attached: bool = True

    @property
    def value(self) -> Any:
        """The result."""
        return self.outcome.value

    @property
    def error(self) -> BaseException | None:
        """The error, where there was one."""
        return self.outcome.error


def attempt(exercise: Exercise, answer: Any, case: Case, device: str | None = None) -> Attempt:
    """Call an answer on a copy of the case, on a device if one is named; no gradients are asked for."""
    fresh = case.copy(device)
    before = named_arguments(exercise, fresh)
    kept = {name: tensor.clone() for name, tensor in before.items()}

    def run() -> Any:
        return prepared(exercise, answer, fresh, device)(*fresh.args, **fresh.kwargs)

    # The first use of another device imports parts of torch, which must not be cut short.
    outcome = call(run, 60 if device else exercise.seconds, case.seed)
    changed = [] if device else [name for name, tensor in before.items() if not _same(tensor, kept[name])]
    return Attempt(outcome, changed)


def makes_tensors_without_device(exercise: Exercise, answer: Any, case: Case) -> bool:
    """Whether an answer calls torch.arange, torch.zeros, … without device=, so that it may fail on another device."""
    fresh = case.copy()
    watch = _Factories()

    def run() -> None:
        function = prepared(exercise, answer, fresh)
        with watch:
            function(*fresh.args, **fresh.kwargs)

    call(run, exercise.seconds, case.seed)
    return watch.seen


def attempt_gradients(exercise: Exercise, answer: Any, case: Case) -> Attempt:
    """Call an answer with gradients and send one random combination of its results back to arguments and weights.

    attached is False where no result depends on any of them.
    """
    fresh = case.copy()
    inputs = {name: t.requires_grad_() for name, t in named_arguments(exercise, fresh).items() if t.is_floating_point()}
    found = Attempt(Outcome())

    def run() -> None:
        function = prepared(exercise, answer, fresh)
        owner = getattr(function, "__self__", None)
        if isinstance(owner, nn.Module):
            inputs.update({f"self.{name}": weight for name, weight in owner.named_parameters() if weight.requires_grad})
        leaves = flatten(function(*fresh.args, **fresh.kwargs)).values()
        results = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
        found.attached = bool(results)
        if results and inputs:
            g = torch.Generator().manual_seed(case.seed)
            mixing = [torch.randn(r.shape, generator=g, dtype=torch.float32).to(r) for r in results]
            total = torch.stack([(r * m).sum().float() for r, m in zip(results, mixing, strict=True)]).sum()
            gradients = _grad(total, list(inputs.values()), allow_unused=True)
            found.gradients = dict(zip(inputs, gradients, strict=True))

    found.outcome = call(run, exercise.seconds, case.seed)
    return found


def prepared(exercise: Exercise, answer: Any, case: Case, device: str | None = None) -> Callable[..., Any]:
    """Return what to call: the function, or the method of an instance that the case builds, with the case's weights."""
    method = exercise.resolved.method
    if not method:
        return answer  # type: ignore[no-any-return]
    instance = _built(answer, case, exercise.name)
    if isinstance(instance, nn.Module):
        if exercise.randomise:
            _give_weights(instance, _random_weights(exercise, case), exercise.name)
        if device:
            instance = instance.to(device)
    return getattr(instance, method)  # type: ignore[no-any-return]


def named_arguments(exercise: Exercise, case: Case) -> dict[str, Tensor]:
    """Return the tensors among a case's arguments, also inside lists, by the reference's names."""
    tensors: dict[str, Tensor] = {}
    for name, value in bound_arguments(exercise, case).items():
        for place, leaf in flatten(value, name).items():
            if isinstance(leaf, Tensor):
                tensors[place] = leaf
    return tensors


def bound_arguments(exercise: Exercise, case: Case) -> dict[str, Any]:
    """Return a case's arguments by the reference's names."""
    reference = exercise.resolved
    leading = (None,) if reference.method else ()
    bound = inspect.signature(reference.function).bind(*leading, *case.args, **case.kwargs)
    return dict(list(bound.arguments.items())[len(leading) :])


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and _equal(_nan_to_num(a), _nan_to_num(b))


def _built(answer: Any, case: Case, name: str) -> Any:
    torch.default_generator.manual_seed(case.seed)
    try:
        return answer(**case.build)
    except NotImplementedError:
        raise
    except Exception as error:
        raise cannot_build(name, case.build, type(error).__name__, str(error)) from error


def cannot_build(name: str, build: Mapping[str, Any], kind: str, text: str) -> CannotBuild:
    """Return what to raise where a class does not build: its arguments, and the error's kind and text."""
    given = ", ".join(f"{key}={_short(value)}" for key, value in build.items())
    return CannotBuild(
        f"{name}({given}) cannot be built: {kind}: {text}. "
        "Only the body of the one method is yours to write; leave the constructor as it was."
    )


def _short(value: Any) -> str:
    return f"<{type(value).__name__}>" if isinstance(value, Tensor | nn.Module) or callable(value) else repr(value)


def _random_weights(exercise: Exercise, case: Case) -> dict[str, Tensor]:
    """Return random weights for the reference: every parameter moves, so that no zero hides a mistake."""
    torch.default_generator.manual_seed(case.seed)
    module = exercise.target(**case.copy().build)
    g = torch.Generator().manual_seed(case.seed)
    weights = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        fan_in = max(1, parameter[0].numel()) if parameter.ndim > 1 else 4
        weights[name] += torch.randn(parameter.shape, generator=g, dtype=torch.float32).to(parameter) / fan_in**0.5
    return weights


def _give_weights(instance: nn.Module, weights: dict[str, Tensor], name: str) -> None:
    check_weights(name, {key: tensor.shape for key, tensor in instance.state_dict().items()}, weights)
    instance.load_state_dict(weights)


def check_weights(name: str, own: Mapping[str, Sequence[int]], weights: Mapping[str, Tensor]) -> None:
    """Raise CannotBuild where a class holds other parameters, own by name and shape, than the weights it must take."""
    missing, extra = [k for k in weights if k not in own], [k for k in own if k not in weights]
    if missing or extra:
        told = [f"{name} has no weights called {', '.join(missing)}"] * bool(missing)
        told += [f"{', '.join(extra)} should not be there"] * bool(extra)
        raise CannotBuild("; ".join(told) + ". Leave the constructor and its names as they were.")
    for key, tensor in weights.items():
        if tuple(own[key]) != tuple(tensor.shape):
            shapes = f"{tuple(own[key])}; {tuple(tensor.shape)} is expected"
            raise CannotBuild(f"{name}: the weights {key} have shape {shapes}. Leave the constructor as it was.")
