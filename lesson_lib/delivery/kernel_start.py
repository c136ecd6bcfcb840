"""How the drill starts a kernel: a stand-in for google.colab, and a watcher that notes what a notebook must not do.

    python kernel_start.py RECORD FOLDER… -- ARGUMENTS OF IPYKERNEL

It needs the standard library only. To RECORD it appends a line of JSON for each write outside the folders, each
look-up or connection beyond this machine, and each process started; and one at the end that says where lesson_lib came
from ("" where nothing imported it). It notes and forbids nothing. It sees what Python does; what native code does, and
a process started from here, it does not see: the drill's sandbox is for those.
"""

from __future__ import annotations

import atexit
import importlib.machinery
import json
import os
import re
import runpy
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# What changes a file or folder: the event, and for each path in it the places of the path and of its folder's handle.
CHANGES: dict[str, tuple[tuple[int, int | None], ...]] = {
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.link": ((1, 3),),
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.rename": ((0, 2), (1, 3)),
    "os.rmdir": ((0, 1),),
    "os.setxattr": ((0, None),),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "os.utime": ((0, 3),),
    "sqlite3.connect": ((0, None),),
}
FOLLOWS = ("open", "os.truncate", "sqlite3.connect")  # these act on what a link points to, the others on the link
CONNECTS = ("socket.connect", "socket.sendto", "socket.sendmsg")
LOOKS_UP = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
PROCESSES = {"subprocess.Popen": 1, "os.system": 0, "os.exec": 1, "os.posix_spawn": 1, "pty.spawn": 0}
LOCAL = ("", "localhost", "0.0.0.0", "::", "::1", "none")


def stand_in_for_colab() -> None:
    """Put a package google with an empty module colab where imports and the course's set-up cells look for them."""
    for name in ("google", "google.colab"):
        module = types.ModuleType(name, "A stand-in: this is not Colab.")
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        module.__path__ = []
        sys.modules[name] = module
    sys.modules["google"].colab = sys.modules["google.colab"]  # type: ignore[attr-defined]


def watch(record: str, folders: Sequence[str]) -> Callable[[str, str], None]:
    """Note in the file `record`, from now on, what happens outside `folders`; return what appends a line to it."""
    inside = tuple(os.path.realpath(folder) + os.sep for folder in (*folders, "/dev"))
    handle = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(kind: str, what: str) -> None:
        os.write(handle, json.dumps({"kind": kind, "what": what}).encode() + b"\n")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        try:
            if event == "open":
                if arguments[2] & WRITES:
                    changed(event, arguments[0], None)
            elif event in CHANGES:
                for path, folder in CHANGES[event]:
                    changed(event, arguments[path], None if folder is None else arguments[folder])
            elif event in CONNECTS or event in LOOKS_UP:
                address = arguments[1] if event in CONNECTS else (arguments[0],)
                if isinstance(address, tuple) and not is_local(address[0]):  # no tuple: a socket in the file system
                    note("network", f"{event} {':'.join(_text(part) for part in address[:2])}")
            elif event in PROCESSES:
                given = arguments[PROCESSES[event]]
                note("process", _text(given) if isinstance(given, str | bytes) else " ".join(map(_text, given)))
        except Exception as problem:
            note("hook", f"{event} {arguments!r:.200}: {problem!r}")

    def changed(event: str, path: Any, folder: Any) -> None:
        if isinstance(path, int) or path is None or _text(path) == ":memory:":
            return
        name = _absolute(_text(path), folder if isinstance(folder, int) and folder >= 0 else None)
        whole = os.path.realpath(name)
        if event not in FOLLOWS:
            whole = os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name))
        if not (whole + os.sep).startswith(inside) and not (event == "os.mkdir" and os.path.isdir(whole)):
            note("write", f"{event} {whole}")

    sys.addaudithook(hook)
    return note


def is_local(host: Any) -> bool:
    """Say whether a host's name or number is this machine's own."""
    name = _text(host).lower().rstrip(".")
    return name in LOCAL or re.fullmatch(r"127(\.\d+){1,3}", name) is not None


def _text(value: Any) -> str:
    return os.fsdecode(value) if isinstance(value, str | bytes | os.PathLike) else str(value)


def _absolute(path: str, folder: int | None) -> str:
    """Return a path from the root; `folder` is the handle that it is relative to, which Linux can name."""
    if folder is not None and not os.path.isabs(path):
        link = f"/proc/self/fd/{folder}"
        if os.path.islink(link):
            return os.path.join(os.readlink(link), path)
    return os.path.abspath(path)


def start(arguments: Sequence[str]) -> None:
    """Watch, stand in for Colab, and become the kernel: what the module's text says."""
    here = arguments.index("--")
    note = watch(arguments[0], arguments[1:here])
    stand_in_for_colab()
    atexit.register(lambda: note("library", getattr(sys.modules.get("lesson_lib"), "__file__", None) or ""))
    sys.argv[1:] = arguments[here + 1 :]
    sys.path[0] = ""  # the folder that the kernel works in, as with python -m
    runpy.run_module("ipykernel_launcher", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    start(sys.argv[1:])
