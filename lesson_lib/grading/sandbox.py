"""Where a submission runs: one throw-away sandbox for each answer, with nothing in it worth taking.

With bubblewrap a process that has torch loaded (worker.serve) makes a copy of itself for each session, and the copy
steps into namespaces that bubblewrap has set up: no network, an empty /tmp, the Python installation to read, no other
process to see, and a user that owns nothing. Killing the sandbox ends everything in it. Where a kernel does not let a
copy step in, and with podman or docker, each session starts a process of its own and pays for the import of torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesson_lib.grading import wire

HERE = Path(__file__).resolve().parent
MODULES = ("numpy", "torch", "torch.nn.functional", "einops", "einops.layers.torch", "cloudpickle", "scipy.linalg")
# Packages that hold the same models, or the library itself where it is installed.
HIDDEN = ("lesson_lib", "diffusers", "transformers", "timm", "torchvision")
KINDS = ("bwrap", "podman", "docker", "none")
USER = 1_900_000_000
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/tmp",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "MPLBACKEND": "agg",
    "MPLCONFIGDIR": "/tmp",
}


class SandboxError(Exception):
    """The sandbox itself does not work here; the text says what to install or to allow."""


@dataclass(frozen=True)
class Limits:
    """What one session may use. Sizes in bytes; seconds of the processor for one call, and for the whole session."""

    memory: int = 1024 * 2**20
    file_size: int = 16 * 2**20
    folder: int = 32 * 2**20
    processes: int = 16
    seconds: float = 6.0
    cpu_seconds: int = 120

    def order(self) -> dict[str, Any]:
        """Return what the worker needs to know."""
        return {
            "memory": self.memory,
            "file_size": self.file_size,
            "processes": self.processes,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "folder": "/tmp",
        }


class Session:
    """A channel to one sandboxed process, and the way to end it and everything that came from it."""

    def __init__(self, channel: Any, status: int | None, keeper: subprocess.Popen[bytes] | None) -> None:
        self.channel, self._status, self._keeper = channel, status, keeper

    def ended_by(self, seconds: float = 1.0) -> str:
        """Say how a session that no longer answers ended: "time", "memory or a signal", "itself" or "unknown"."""
        if self._status is None:
            code = self._keeper.poll() if self._keeper else None
            return "unknown" if code is None else _meaning(-code if code < 0 else code << 8)
        if not select.select([self._status], [], [], seconds)[0]:
            return "unknown"
        told = os.read(self._status, 200).decode(errors="replace")
        if told.startswith("cannot step in"):
            return told
        return _meaning(int(told.split()[1])) if told.startswith("ended ") else "unknown"

    def close(self) -> None:
        """Kill the sandbox with everything in it."""
        with contextlib.suppress(OSError):
            self.channel.close()
        if self._status is not None:
            with contextlib.suppress(OSError):
                os.close(self._status)
            self._status = None
        if self._keeper is not None:
            _kill(self._keeper)
            self._keeper = None


def _meaning(status: int) -> str:
    if os.WIFSIGNALED(status):
        return "time" if os.WTERMSIG(status) == signal.SIGXCPU else "memory or a signal"
    return "itself"


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        process.kill()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    process.wait()


class _Pipes:
    """The standard input and output of a process, used like a socket."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._writing, self._reading = process.stdin, process.stdout

    def recv_into(self, view: memoryview) -> int:
        return self._reading.readinto(view) or 0  # type: ignore[attr-defined, no-any-return]

    def sendall(self, data: bytes) -> None:
        self._writing.write(data)
        self._writing.flush()

    def close(self) -> None:
        self._writing.close()


class Sandbox:
    """Opens sessions, one after the other. Use it with "with": at the end every process is gone."""

    def __init__(self, kind: str = "bwrap", limits: Limits | None = None) -> None:
        if kind not in KINDS:
            raise SandboxError(f"there is no isolation {kind!r}; it must be one of {', '.join(KINDS)}")
        self.kind, self.limits = kind, limits or Limits()
        self._control: socket.socket | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._waiting: tuple[subprocess.Popen[bytes], int] | None = None
        self._steps_in = kind in ("bwrap", "none")

    def __enter__(self) -> Sandbox:
        check(self.kind)
        if self._steps_in:
            self._start_server()
            if not self._answers():
                self._stop_server()
                self._steps_in = False
        if not self._steps_in and not self._answers():
            raise SandboxError(f"a sandbox made with {self.kind} does not answer; its message is above")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_server()

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """Open a fresh sandbox with one process in it; everything of it is gone afterwards."""
        opened = self._copy() if self._steps_in else self._process()
        try:
            yield opened
        finally:
            opened.close()

    # a copy of the process that has torch loaded

    def _start_server(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        given = json.dumps({"modules": MODULES, "control": theirs.fileno(), "order": None})
        with tempfile.TemporaryDirectory() as empty:
            try:
                self._server = subprocess.Popen(
                    [sys.executable, "-I", str(HERE / "worker.py"), given],
                    pass_fds=[theirs.fileno()],
                    env=ENVIRONMENT,
                    cwd=empty,
                    start_new_session=True,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                )
                theirs.close()
                ours.settimeout(120)
                started = ours.recv(1) == b"r"
            except OSError as error:
                raise SandboxError(f"Python does not start beside the sandbox: {error}") from error
            if not started:
                raise SandboxError("the process that loads torch for the sandbox did not start; see the error above")
        self._control = ours

    def _stop_server(self) -> None:
        if self._waiting:
            os.close(self._waiting[1])
            _kill(self._waiting[0])
            self._waiting = None
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._server is not None:
            _kill(self._server)
            self._server = None

    def _answers(self) -> bool:
        """Whether a session starts: not every kernel or security module lets a copy step into a sandbox."""
        with self.session() as opened:
            try:
                if isinstance(opened.channel, socket.socket):
                    opened.channel.settimeout(60)
                wire.send(opened.channel, *wire.pack({"do": "nothing"})[0])
                wire.receive(opened.channel)
            except (OSError, wire.Broken):
                return False
        return True

    def _copy(self) -> Session:
        assert self._control is not None
        keeper, pidfd = (self._waiting or self._keep()) if self.kind == "bwrap" else (None, -1)
        self._waiting = None
        order = self.limits.order() | self._rights()
        ours, theirs = socket.socketpair()
        reading, writing = os.pipe()
        fds = [theirs.fileno(), writing, *([pidfd] if keeper else [])]
        socket.send_fds(self._control, [json.dumps(order).encode()], fds)
        if self._control.recv(1) != b"s":
            raise SandboxError("the process that loads torch for the sandbox has ended")
        theirs.close()
        os.close(writing)
        if keeper:
            os.close(pidfd)
            self._waiting = self._keep()  # the next one is set up while this one is used
        return Session(ours, reading, keeper)

    def _rights(self) -> dict[str, Any]:
        """Return which namespaces a copy enters and who it becomes there."""
        if self.kind == "none":
            return {"namespaces": [], "folder": tempfile.gettempdir(), "processes": 10_000}
        names = ["mount", "uts", "ipc", "pid", "net"]
        if os.geteuid() == 0:
            return {"namespaces": names, "become": USER + os.getpid() % 1_000_000}
        return {"namespaces": ["user", *names]}

    def _keep(self) -> tuple[subprocess.Popen[bytes], int]:
        """Let bubblewrap set up a sandbox in which a shell waits; return it and a handle to its first process."""
        reading, writing = os.pipe()
        command = [*self._bwrap(), "--info-fd", str(writing), "--", "/bin/sh", "-c", "echo; exec cat"]
        keeper = subprocess.Popen(
            command, pass_fds=[writing], env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        os.close(writing)
        told = b""
        while part := os.read(reading, 4096):
            told += part
            if told.rstrip().endswith(b"}"):
                break
        os.close(reading)
        assert keeper.stdout is not None
        if keeper.stdout.read(1) != b"\n" or not told:
            _kill(keeper)
            raise SandboxError("bubblewrap does not start here; its message is above")
        return keeper, os.pidfd_open(json.loads(told)["child-pid"])

    def _bwrap(self, more: Sequence[str] = ()) -> list[str]:
        limits = self.limits
        command = ["bwrap", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
        command += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
        if os.geteuid():
            command += ["--unshare-user", "--disable-userns", "--uid", "65534", "--gid", "65534"]
        for name, value in ENVIRONMENT.items():
            command += ["--setenv", name, value]
        command += ["--perms", "1777", "--size", str(limits.folder), "--tmpfs", "/tmp", "--proc", "/proc"]
        command += ["--dev", "/dev", "--size", str(2**20), "--tmpfs", "/dev/shm"]
        for folder in installation():
            for parent in reversed(Path(folder).parents[:-1]):
                command += ["--perms", "0755", "--dir", str(parent)]  # left alone, they are for root only
            command += ["--ro-bind", folder, folder]
        for name in ("bin", "sbin", "lib", "lib64"):
            if os.path.islink(f"/{name}"):
                command += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
            elif os.path.isdir(f"/{name}"):
                command += ["--ro-bind", f"/{name}", f"/{name}"]
        if os.path.exists("/etc/ld.so.cache"):
            command += ["--ro-bind", "/etc/ld.so.cache", "/etc/ld.so.cache"]
        for folder in _hidden():
            command += ["--tmpfs", folder, "--remount-ro", folder]
        return [*command, *more, "--chdir", "/tmp", "--remount-ro", "/dev", "--remount-ro", "/"]

    # a process of its own

    def _process(self) -> Session:
        order = self.limits.order()
        if self.kind == "bwrap":
            mounts = ["--ro-bind", str(HERE / "worker.py"), "/grader/worker.py"]
            mounts += ["--ro-bind", str(HERE / "wire.py"), "/grader/wire.py"]
            if os.geteuid() == 0:
                mounts += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
                order["become"] = USER + os.getpid() % 1_000_000
            command = [*self._bwrap(mounts), "--", sys.executable]
        else:
            command = [*self._container(), "python3"]
        given = json.dumps({"modules": MODULES, "control": None, "order": order})
        process = subprocess.Popen(
            [*command, "-I", "/grader/worker.py", given],
            env=ENVIRONMENT if self.kind == "bwrap" else None,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdout is not None
        if process.stdout.read(1) != b"r":
            _kill(process)
            raise SandboxError(f"the sandbox does not start with {self.kind}; its message is above")
        return Session(_Pipes(process), None, process)

    def _container(self) -> list[str]:
        limits = self.limits
        image = os.environ.get("LESSON_GRADER_IMAGE", "lesson-grader")
        command = [self.kind, "run", "--rm", "--interactive", "--network", "none", "--read-only"]
        command += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "65534:65534"]
        command += ["--pids-limit", str(limits.processes + 8), "--memory", str(limits.memory + 512 * 2**20)]
        command += ["--tmpfs", f"/tmp:rw,size={limits.folder}", "--workdir", "/tmp", "--pull", "never"]
        for name in ("worker.py", "wire.py"):
            command += ["--volume", f"{HERE / name}:/grader/{name}:ro"]
        for name, value in ENVIRONMENT.items():
            command += ["--env", f"{name}={value}"]
        return [*command, image]


def check(kind: str) -> None:
    """Raise SandboxError with what to do where this isolation cannot work on this machine."""
    if kind == "none":
        return
    if shutil.which(kind) is None:
        advice = "install it (Debian, Ubuntu: apt install bubblewrap)" if kind == "bwrap" else "install it"
        raise SandboxError(
            f"{kind} is not here: {advice}, choose --isolation podman or docker, or, for notebooks that you trust as "
            "you trust your own, --isolation none"
        )
    if kind == "bwrap" and not hasattr(os, "pidfd_open"):
        raise SandboxError("bubblewrap needs Linux; choose --isolation podman or docker")


def installation() -> list[str]:
    """List the folders that Python and torch need, outermost first, none inside another."""
    wanted = {"/usr", sys.base_prefix, sys.prefix, str(Path(sys.executable).resolve().parent.parent)}
    wanted |= {sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    found: list[str] = []
    for folder in sorted(os.path.realpath(path) for path in wanted if os.path.isdir(path)):
        if folder != "/" and not any(folder == outer or folder.startswith(outer + "/") for outer in found):
            found.append(folder)
    return found


def _hidden() -> list[str]:
    places = {sysconfig.get_paths()[key] for key in ("purelib", "platlib")}
    paths = (os.path.realpath(os.path.join(place, name)) for place in places for name in HIDDEN)
    return sorted({path for path in paths if os.path.isdir(path)})
