"""The sandbox from inside, and an answer in it: the same verdict as in a notebook, and nothing worth taking there."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import os
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import hypothesis
import pytest
import torch
from hypothesis import strategies
from sandboxes import needs_bwrap
from torch import Tensor

from lesson_lib import ROOT
from lesson_lib.exercises import LESSONS, REGISTRY
from lesson_lib.exercises.core import Case, Exercise
from lesson_lib.exercises.guard import call
from lesson_lib.exercises.ladder import Climb, Trial
from lesson_lib.grading import wire
from lesson_lib.grading.judge import trials
from lesson_lib.grading.library import library_without
from lesson_lib.grading.remote import LONGEST, Ended, LibraryCalled, RemoteAnswer
from lesson_lib.grading.sandbox import ENVIRONMENT, Limits, Sandbox, SandboxError, check, installation

ANSWERS = Path(__file__).parent / "answers"
MODULATE = REGISTRY["dit.modulate"]


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox("bwrap") as opened:
        yield opened


def run(box: Sandbox, code: str, exercise: Exercise = MODULATE, name: str = "modulate", seconds: float = 30) -> Any:
    """Let an answer to an exercise run once in the sandbox and return what it returns."""
    case = next(exercise.cases(1, 1))
    with box.session() as session:
        remote = RemoteAnswer(session, exercise, [("<cell 1>", code)], name)
        outcome = call(lambda: remote.answer(*case.args, **case.kwargs), seconds, 0)
    if outcome.error:
        raise outcome.error
    return outcome.value


def asked(box: Sandbox, expression: str) -> Any:
    """Return the value that an expression has inside, as text."""
    return run(
        box, f"def modulate(x, shift, scale):\n    import os, sys, socket, gc, pathlib\n    return str({expression})"
    )


# --- what is there to see ----------------------------------------------------------------------------------------


@needs_bwrap
def test_nothing_of_the_machine_is_in_the_sandbox(box: Sandbox, tmp_path: Path) -> None:
    installed = {Path(folder).parts[2] for folder in installation() if Path(folder).parts[1] == "tmp"}
    assert set(eval(asked(box, "os.listdir('/tmp')"))) == installed  # empty, but for a Python that is installed there
    assert asked(box, "sorted(p for p in os.listdir('/proc') if p.isdigit())").count(",") <= 3
    assert (
        asked(box, "os.getuid() == 0 or os.geteuid() == 0 or bool(os.getgroups() and 0 in os.getgroups())") == "False"
    )
    assert asked(box, f"os.path.exists({str(ROOT / 'lesson_lib')!r})") == "False"
    assert asked(box, f"os.path.exists({str(ROOT / 'tests')!r})") == "False"
    assert asked(box, f"os.path.exists({str(tmp_path)!r})") == "False"
    assert (
        asked(box, "[l for l in open('/proc/self/status') if l.startswith('CapEff')]")
        == "['CapEff:\\t0000000000000000\\n']"
    )
    assert asked(box, "[l for l in open('/proc/self/status') if 'NoNewPrivs' in l]") == "['NoNewPrivs:\\t1\\n']"


@needs_bwrap
def test_no_variable_of_the_machine_is_in_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_MACHINE", "a secret")
    with Sandbox("bwrap") as opened:
        inside = eval(asked(opened, "dict(os.environ)"))
    assert ENVIRONMENT.items() <= inside.items()
    added = {name for name in inside if name not in ENVIRONMENT}
    assert added <= {"LC_CTYPE", "TORCHINDUCTOR_CACHE_DIR"}  # set by Python and by torch, inside


@needs_bwrap
@pytest.mark.parametrize(
    "statement",
    [
        "socket.create_connection(('127.0.0.1', 80), 1)",
        "socket.create_connection(('1.1.1.1', 53), 1)",
        "open('/usr/x', 'w')",
        "open('/x', 'w')",
        "open('/dev/x', 'w')",
        "os.setuid(0)",
        "os.mkdir('/proc/x')",
        "__import__('lesson_lib.exercises.lesson_07')",
        "__import__('lesson_lib.grading.judge')",
        "__import__('diffusers.models')",
        "open('/proc/1/environ').read()",
        "os.kill(1, 0)",
    ],
)
def test_what_would_reach_out_fails(box: Sandbox, statement: str) -> None:
    code = f"def modulate(x, shift, scale):\n    import os, socket\n    {statement}\n    return 'done'"
    with pytest.raises((OSError, ImportError)):
        run(box, code)


@needs_bwrap
def test_a_listening_server_outside_is_not_reached(box: Sandbox) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        with pytest.raises(OSError, match=r"refused|unreachable"):
            run(
                box,
                f"import socket\ndef modulate(*given): socket.create_connection({server.getsockname()}, 1)",
            )
        with pytest.raises(TimeoutError):
            server.accept()


@needs_bwrap
@pytest.mark.parametrize(
    "key", ["dit.modulate", "dit.AdaLNZeroBlock.forward", "noise.add_noise", "text.RMSNorm.forward"]
)
def test_the_reference_is_not_in_the_sandbox(box: Sandbox, key: str) -> None:
    """Neither in the library that is sent, nor in any code object of the process, nor in a file."""
    exercise = REGISTRY[key]
    wanted = exercise.resolved.function.__code__.co_code
    sent, texts = library_without(exercise.path)
    assert not any(wanted in code for _, code in sent.values())
    assert inspect.getsource(exercise.resolved.function) not in "".join(texts.values())
    case = next(exercise.cases(1, 1))
    parts, _ = wire.pack({"args": case.args, "build": case.build})
    assert wanted not in b"".join(bytes(part) for part in parts)
    module = exercise.resolved.module.__name__
    code = f"""
import gc, importlib, types
importlib.import_module({module!r})
def modulate(x, shift, scale):
    wanted, found = bytes.fromhex({bytes(b ^ 85 for b in wanted).hex()!r}), 0
    for one in gc.get_objects():
        code = getattr(one, "__code__", None)
        if isinstance(code, types.CodeType) and bytes(b ^ 85 for b in code.co_code) == wanted:
            found += 1
    return found
"""
    stripped = dataclasses.replace(MODULATE, id=key) if not exercise.resolved.method else None
    assert run(box, code, stripped or _as_function(exercise)) == 0


@pytest.mark.parametrize("key", list(REGISTRY))
def test_nothing_that_is_sent_holds_the_reference(key: str) -> None:
    exercise = REGISTRY[key]
    wanted = exercise.resolved.function.__code__.co_code
    sent, _ = library_without(exercise.path)
    assert not any(wanted in code for _, code in sent.values())
    for case in exercise.cases(3, 4):
        parts, _ = wire.pack({"args": case.args, "kwargs": case.kwargs, "build": case.build})
        assert wanted not in b"".join(bytes(part) for part in parts)
        assert b"Mistake" not in b"".join(bytes(part) for part in parts[:2])


def _as_function(exercise: Exercise) -> Exercise:
    """Return an exercise whose answer is called like modulate, but without the reference of another."""

    class Stripped(Exercise):
        @property
        def path(self) -> str:
            return exercise.path

        @property
        def resolved(self) -> Any:
            return dataclasses.replace(exercise.resolved, method="")

    fields = {f.name: getattr(MODULATE, f.name) for f in dataclasses.fields(MODULATE)}
    return Stripped(**fields)


@needs_bwrap
def test_calling_the_library_is_no_answer(box: Sandbox) -> None:
    with pytest.raises(LibraryCalled):
        run(box, "from lesson_lib.dit import modulate")
    with pytest.raises(LibraryCalled):
        run(box, "import lesson_lib.dit as d\ndef modulate(*given): return getattr(d, 'modu' + 'late')(*given)")


@needs_bwrap
def test_limits_hold(box: Sandbox) -> None:
    def code(body: str) -> str:
        return "import os, torch, threading\ndef modulate(x, shift, scale):\n    " + body.replace("\n", "\n    ")

    with pytest.raises((MemoryError, RuntimeError, Ended)):
        run(box, code("return torch.ones(3 * 2**28).sum() + bytearray(2**31)[0]"))
    with pytest.raises(OSError, match=r"space|large"):
        run(box, code("with open('/tmp/x', 'wb') as f:\n    for _ in range(100): f.write(bytes(2**20))"))
    with pytest.raises(OSError, match=r"space|large|quota"):
        run(box, code("for i in range(100):\n    with open(f'/tmp/{i}', 'wb') as f: f.write(bytes(2**20))"))
    forked = "n = 0\ntry:\n    while n < 300:\n        if not os.fork(): threading.Event().wait(60)\n        n += 1"
    assert run(box, code(forked + "\nexcept OSError: pass\nreturn n")) < Limits().processes
    with pytest.raises(Ended, match="limit"):
        run(box, code("return torch.zeros(2**25)"))


@needs_bwrap
def test_a_loop_is_stopped_by_the_processor_time_and_a_sleep_by_the_clock() -> None:
    with Sandbox("bwrap", dataclasses.replace(Limits(), seconds=0.5)) as small:
        started = time.monotonic()
        with pytest.raises(BaseException) as caught:
            run(small, "def modulate(x, shift, scale):\n    while True: pass")
        assert type(caught.value).__name__ == "TimeLimit"
        assert time.monotonic() - started < 20
    with Sandbox("bwrap") as box, pytest.raises(BaseException) as caught:
        run(box, "import time\ndef modulate(x, shift, scale): time.sleep(100)", seconds=1)
    assert type(caught.value).__name__ == "TimeLimit"


@needs_bwrap
def test_what_ends_the_process_ends_only_this_answer(box: Sandbox) -> None:
    for body in ("os._exit(0)", "os.kill(os.getpid(), 9)", "os.closerange(3, 100)", "os.abort()"):
        with pytest.raises(Ended):
            run(box, f"import os\ndef modulate(x, shift, scale): {body}")
    assert run(box, "def modulate(x, shift, scale): return 3") == 3


@needs_bwrap
def test_sessions_share_nothing(box: Sandbox) -> None:
    leave = "open('/tmp/x', 'w').write('x'); import builtins; builtins.left = 1; torch.left = 1"
    run(box, f"import torch\ndef modulate(x, shift, scale):\n    {leave}\n    return 1")
    assert (
        asked(box, "os.path.exists('/tmp/x') or hasattr(__builtins__, 'left') or hasattr(sys.modules['torch'], 'left')")
        == "False"
    )


@needs_bwrap
def test_a_process_of_its_own_gives_the_same(box: Sandbox) -> None:
    """Where a kernel lets no copy step in, every session starts Python anew."""
    alone = Sandbox("bwrap")
    alone._steps_in = False
    code = "def modulate(x, shift, scale): return x * (1 + scale[:, None]) + shift[:, None]"
    assert torch.equal(run(alone, code), run(box, code))
    assert asked(alone, "os.getuid()") not in ("0", str(os.getuid()) if os.getuid() == 0 else "")
    with pytest.raises(OSError, match=r"refused|unreachable"):
        run(alone, "import socket\ndef modulate(x, shift, scale): socket.create_connection(('1.1.1.1', 53), 1)")


def test_an_isolation_that_is_not_here_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SandboxError, match="apt install bubblewrap"):
        check("bwrap")
    with pytest.raises(SandboxError, match="podman is not here"):
        check("podman")
    with pytest.raises(SandboxError, match="must be one of"):
        Sandbox("nothing")


def test_without_isolation_the_same_code_runs() -> None:
    with Sandbox("none") as open_box:
        code = "def modulate(x, shift, scale): return x * (1 + scale[:, None]) + shift[:, None]"
        case = next(MODULATE.cases(1, 1))
        assert torch.allclose(run(open_box, code), MODULATE.target(*case.args))


# --- what comes back ---------------------------------------------------------------------------------------------


@hypothesis.given(strategies.binary(max_size=300))
@hypothesis.settings(deadline=None, max_examples=300)
def test_bytes_that_are_no_reply_are_refused(data: bytes) -> None:
    with pytest.raises(wire.Broken):
        wire.unpack_reply(bytearray(data))


FORGED = [
    {"tensors": [["cpu", "float32", [10**9], True]]},
    {"tensors": [["cpu", "float32", [-1], True]]},
    {"tensors": [["cpu", "object", [1], True]]},
    {"tensors": [["cuda", "float32", [], True]]},
    {"tensors": [["cpu", "float32", [2**39, 2**39], True]]},
    {"tensors": "x"},
    {"tensors": [[]]},
    {},
    [],
]


@pytest.mark.parametrize("head", FORGED, ids=str)
def test_forged_heads_are_refused(head: Any) -> None:
    import json

    text = json.dumps(head).encode()
    with pytest.raises(wire.Broken):
        wire.unpack_reply(bytearray(struct.pack("<Q", len(text)) + text))


@hypothesis.given(
    strategies.recursive(
        strategies.none() | strategies.booleans() | strategies.integers() | strategies.text(max_size=5),
        lambda inner: (
            strategies.lists(inner, max_size=3)
            | strategies.dictionaries(strategies.text(max_size=9), inner, max_size=3)
        ),
        max_leaves=10,
    )
)
@hypothesis.settings(deadline=None, max_examples=300)
def test_results_that_say_nonsense_are_refused_or_plain(told: Any) -> None:
    try:
        found = wire.read_result(told, [torch.zeros(2)], ["argument"])
    except wire.Broken:
        return
    assert isinstance(found, Tensor | str | int | float | complex | list | tuple | dict | wire.Opaque | None)


@pytest.mark.parametrize(
    "value",
    [1, -(2**70), 1.5, float("inf"), 1j, "a", None, True, [1, (2.0, {"a": None})], torch.arange(3), torch.tensor(True)],
    ids=str,
)
def test_results_come_through_unchanged(value: Any) -> None:
    tensors: list[Tensor] = []
    head = {"value": wire.describe_result(value, tensors, {})}
    parts = wire.pack_reply(head, tensors)
    read, found = wire.unpack_reply(bytearray(b"".join(bytes(part) for part in parts)))
    got = wire.read_result(read["value"], [tensor for tensor, _ in found], [])
    assert torch.equal(got, value) if isinstance(value, Tensor) else got == value
    assert type(got) is type(value)


@pytest.mark.parametrize("dtype", list(wire.DTYPES.values()), ids=str)
def test_every_kind_of_number_comes_through(dtype: torch.dtype) -> None:
    value = torch.randn(3, 5).mul(3).to(dtype)[:, ::2]
    parts, _ = wire.pack({"value": value})
    message, _ = wire.unpack(bytearray(b"".join(bytes(part) for part in parts)), lambda tensors, results: None)
    assert message["value"].dtype == dtype
    assert torch.equal(message["value"], value)


@needs_bwrap
@pytest.mark.parametrize(
    "reply",
    [
        "b'\\x00' * 8",
        "b'\\xff' * 8",
        "b'\\x05' + b'\\x00' * 7 + b'hello'",
        "__import__('pickle').dumps(print)",
        "(2**40).to_bytes(8, 'little')",
    ],
)
def test_a_forged_reply_on_the_channel_ends_the_answer(box: Sandbox, reply: str) -> None:
    code = f"""
import os
def modulate(x, shift, scale):
    for fd in os.listdir("/proc/self/fd"):
        try:
            os.write(int(fd), {reply})
        except OSError:
            pass
    os._exit(0)
"""
    with pytest.raises(Ended):
        run(box, code)


# --- the same verdict as in a notebook ---------------------------------------------------------------------------


def _answers(number: str) -> tuple[dict[str, Any], str]:
    path = ANSWERS / f"lesson_{number}.py"
    spec = importlib.util.spec_from_file_location(f"answers_{number}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    text = path.read_text()
    return module.ANSWERS, text[: text.index("ANSWERS = {")]


def _pieces(exercise: Exercise, function: Any, text: str) -> tuple[list[tuple[str, str]], str]:
    """Write an answer of tests/answers as the cells of a notebook."""
    given = "\n".join([*exercise.needs(), exercise.stub_source()])
    if inspect.isclass(function):
        return [
            ("<cell 1>", given),
            ("<cell 2>", text),
            ("<cell 3>", f"{exercise.name} = {function.__name__}"),
        ], exercise.name
    pieces = [("<cell 1>", given), ("<cell 2>", text)]
    if not exercise.resolved.method:
        return pieces, function.__name__
    dressed = f"""
import inspect
_stub = {exercise.name}.{exercise.resolved.method}
{function.__name__}.__signature__ = inspect.signature(_stub)
{exercise.name}.{exercise.resolved.method} = {function.__name__}
"""
    return [*pieces, ("<cell 3>", dressed)], exercise.name


def _patient(exercise: Exercise) -> Exercise:
    return dataclasses.replace(exercise, seconds=60.0)


@needs_bwrap
@pytest.mark.parametrize("number", list(LESSONS))
def test_every_right_answer_passes_in_the_sandbox(box: Sandbox, number: str) -> None:
    answers, text = _answers(number)
    for key, functions in answers.items():
        exercise = _patient(REGISTRY[key])
        trial = Trial(exercise, list(exercise.cases(20, 4, 1)))
        for function in functions:
            pieces, name = _pieces(exercise, function, text)
            with box.session() as session:
                report = trial.examine(RemoteAnswer(session, exercise, pieces, name).answer)
            assert report.passed, f"{key}, {function.__name__}: {report.text()}"


@needs_bwrap
@pytest.mark.parametrize("number", list(LESSONS))
def test_mistakes_are_named_in_the_sandbox_as_in_a_notebook(box: Sandbox, number: str) -> None:
    """Every third one. Those that call the library's own version, to change what it returns, end there as they must."""
    tried = 0
    for exercise in map(_patient, (e for e in REGISTRY.values() if e.lesson == number)):
        trial = Trial(exercise, list(exercise.cases(21, 4)))
        for mistake in exercise.mistakes[::3]:
            answer = exercise.adopt(mistake.function)
            local = trial.examine(answer)
            code = f"import cloudpickle\n{exercise.name} = cloudpickle.loads({cloudpickle.dumps(answer)!r})"
            with box.session() as session:
                report = trial.examine(RemoteAnswer(session, exercise, [("<cell 1>", code)], exercise.name).answer)
            if LibraryCalled.__name__ in report.sentence:
                continue
            assert (report.rung, report.mistake) == (local.rung, local.mistake), f"{exercise.id}: {mistake.name}"
            tried += 1
    assert tried >= 1


@pytest.mark.parametrize("number", list(LESSONS))
def test_the_graders_cases_tell_right_from_wrong(number: str) -> None:
    """With any seed: every known mistake falls, every right answer stands."""
    answers, _ = _answers(number)
    for seed in (1, 2):
        for key, trial in trials(number, seed).items():
            exercise = REGISTRY[key]
            for mistake in exercise.mistakes:
                assert Climb(trial, exercise.adopt(mistake.function)).first_failure()[0], (
                    f"{key}: {mistake.name}, {seed}"
                )
            for function in answers[key]:
                assert not Climb(trial, exercise.adopt(function)).first_failure()[0], (
                    f"{key}: {function.__name__}, {seed}"
                )


@needs_bwrap
def test_an_answer_may_take_only_so_long_in_all(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    assert LONGEST > 60
    monkeypatch.setattr("lesson_lib.grading.remote.LONGEST", 1.0)
    case = next(MODULATE.cases(1, 1))
    with box.session() as session:
        remote = RemoteAnswer(
            session, MODULATE, [("<cell 1>", "import time\ndef modulate(x, s, t): time.sleep(.6)")], "modulate"
        )
        remote.answer(*case.args)
        remote.answer(*case.args)
        with pytest.raises(Ended, match="together took more than"):
            remote.answer(*case.args)


@needs_bwrap
def test_what_a_case_keeps_to_itself_cannot_be_changed(box: Sandbox) -> None:
    """A function among the arguments has tensors of its own; an answer that changes those changes nothing here."""
    kept = torch.ones(3)
    exercise = REGISTRY["samplers.heun_step"]
    case = Case(lambda x, t: x * kept, *next(exercise.cases(1, 1)).args[1:])
    code = "def heun_step(model, *rest):\n    model.__closure__[0].cell_contents.zero_()\n    return rest[0]"
    with box.session() as session:
        remote = RemoteAnswer(session, exercise, [("<cell 1>", code)], "heun_step")
        remote.answer(*case.args)
    assert torch.equal(kept, torch.ones(3))
