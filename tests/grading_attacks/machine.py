"""Attacks on the machine: answers that kill, fill, wait, spy, write or call where they should not.

Every one is bounded, so that a sandbox that fails costs seconds and not the machine: at most 300 processes, 6 GB of
memory, 2 GB of files, 1 GB of text, ten minutes. None is ever run outside a sandbox by the tests.

An attack that finds a way out says so in an error, which ends in the instructor's log: "reached-" and its name.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import secrets
import socket
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

from grading_attacks.attacks import SIGNATURE
from grading_attacks.notebooks import ALL, EXERCISES, MODULATE, START, Entry, answer, lean, right, solved, write

TOKEN = secrets.token_hex(12)  # of this run: nothing from an earlier run is taken for a success
SECRET = secrets.token_hex(16)
ENVIRONMENT = {"GRADING_CANARY": SECRET}  # the grader runs with it, and no submission may ever see it
DEFINED = "\n\n\n" + SIGNATURE


# --- what is looked at from outside --------------------------------------------------------------------------------


def canaries(folder: Path) -> Path:
    """Return a folder outside submissions and results into which everybody may write; made when first asked for."""
    found = folder.parent.parent / "canaries"
    if not found.exists():
        found.mkdir()
        found.chmod(0o777)
    return found


def out(folder: Path) -> Path:
    """Return the folder of results, which the run puts beside the submissions."""
    return folder.parent.parent / "out"


def files(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder."""
    yield from (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def said(folder: Path, words: str) -> bool:
    """Whether words stand anywhere in the results."""
    return any(words.encode() in path.read_bytes() for path in files(out(folder)))


def never_reached(name: str) -> Callable[[Path], str | None]:
    """Return an after that finds the attack's own message of success in the results."""
    return lambda folder: f"it says that it reached {name}" if said(folder, f"reached-{name}") else None


def machine(
    name: str,
    what: str,
    text: str,
    after: Callable[[Path], str | None] | None = None,
    *,
    honest: frozenset[str] = frozenset(),
    result: str = "torch.zeros_like(x)",
    note: str = "",
) -> Entry:
    """Return an attack whose reach() is called by the answer; it returns True where it has reached something.

    Beside it stands one right answer, which must not suffer.

    In the text, CANARIES, OUT, SUBMISSIONS and TOKEN stand for this run's.
    """
    reach = textwrap.dedent(text).strip("\n")
    call = f'    if reach():\n        raise RuntimeError("reached" + "-{name}")\n    return {result}\n'

    def build(folder: Path) -> None:
        definition = reach + DEFINED + call
        places: dict[str, Path | str] = {
            "CANARIES": canaries(folder),
            "OUT": out(folder),
            "SUBMISSIONS": folder.parent,
            "TOKEN": TOKEN,
        }
        for word, place in places.items():
            definition = re.sub(rf"\b{word}\b", repr(str(place)), definition)
        notebook = answer(lean(MODULATE, START), START, right(START))
        write(folder, answer(notebook, MODULATE, definition))

    def looked(folder: Path) -> str | None:
        return never_reached(name)(folder) or (after(folder) if after else None)

    return Entry(name, "attack", what, build, honest | {START}, note, after=looked)


# --- files and other processes -------------------------------------------------------------------------------------


def _nothing_written(folder: Path) -> str | None:
    places = [canaries(folder) / "written", Path("/tmp") / f"written-{TOKEN}", Path.home() / f"written-{TOKEN}"]
    places += [Path("/dev/shm") / f"written-{TOKEN}", Path("/var/tmp") / f"written-{TOKEN}", folder / "written"]
    found = [str(place) for place in places if place.exists()]
    return f"it wrote {', '.join(found)}" if found else None


def _no_neighbour_changed(folder: Path) -> str | None:
    for path in files(folder.parent):
        if path.stat().st_size < 2**20 and TOKEN.encode() in path.read_bytes()[:200]:
            return f"it changed {path.name} of a neighbour"
    return None


def _grades_as_they_were(folder: Path) -> str | None:
    for path in (out(folder) / "grades.csv", out(folder) / "log" / f"{TOKEN}.json"):
        if path.exists() and TOKEN.encode() in path.read_bytes():
            return f"it wrote into {path.name}"
    return None


def _nothing_told(folder: Path) -> str | None:
    kept = canaries(folder) / "secret.txt"
    if kept.exists() and said(folder, kept.read_text()):
        return "it read a file of the machine"
    return "it read the grader's environment" if said(folder, SECRET) else None


def _with_a_secret(entry: Entry) -> Entry:
    """Return the entry with a file to be read beside the submissions."""

    def build(folder: Path) -> None:
        entry.build(folder)
        (canaries(folder) / "secret.txt").write_text(secrets.token_hex(16))

    return Entry(entry.name, entry.kind, entry.what, build, entry.honest, entry.note, after=entry.after)


OUTSIDE = [
    machine(
        "writes-outside",
        "writes into the folder beside the submissions, /tmp, /dev/shm, the home folder and its own submission",
        """
        import os, pathlib


        def reach():
            places = [CANARIES + "/written", "/tmp/written-" + TOKEN, "/dev/shm/written-" + TOKEN]
            homes = [os.path.expanduser("~"), "/root", "/var/tmp"]
            places += [home + "/written-" + TOKEN for home in homes]
            places += [SUBMISSIONS + "/writes-outside/written", "../" * 20 + CANARIES + "/written"]
            for place in places:
                try:
                    pathlib.Path(place).write_text("here")
                except OSError:
                    pass
        """,
        _nothing_written,
    ),
    machine(
        "makes-folders-outside",
        "makes the folders of the run again in its own world, and links and hard links out of it",
        """
        import os


        def reach():
            for make in (os.makedirs, lambda path: os.symlink("/", path + "/link"), lambda path: os.chmod(path, 0)):
                for place in (OUT, SUBMISSIONS, CANARIES):
                    try:
                        make(place)
                    except OSError:
                        pass
            try:
                os.link(SUBMISSIONS + "/writes-outside/07_adaln.ipynb", CANARIES + "/written")
            except OSError:
                pass
        """,
        _nothing_written,
    ),
    machine(
        "rewrites-a-neighbour",
        "overwrites the notebooks of all other students",
        """
        import glob


        def reach():
            for path in glob.glob(SUBMISSIONS + "/*/*"):
                try:
                    with open(path, "w") as file:
                        file.write(TOKEN)
                except OSError:
                    pass
        """,
        _no_neighbour_changed,
    ),
    machine(
        "rewrites-the-grades",
        "writes points into grades.csv, and a record of its own into the grader's log",
        """
        import os


        def reach():
            for path in (OUT + "/grades.csv", OUT + "/log/" + TOKEN + ".json", "/out/grades.csv", "grades.csv"):
                try:
                    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
                    with open(path, "a") as file:
                        file.write("rewrites-the-grades,100," + TOKEN)
                except OSError:
                    pass
        """,
        _grades_as_they_were,
    ),
    _with_a_secret(
        machine(
            "reads-files",
            "reads the machine's files, the other hand-ins and the grader's results, and tells them in an error",
            """
            import glob


            def reach():
                found = []
                for path in glob.glob(CANARIES + "/*") + glob.glob(SUBMISSIONS + "/*/*") + glob.glob(OUT + "/**"):
                    try:
                        with open(path) as file:
                            found.append(file.read(200))
                    except (OSError, UnicodeError):
                        pass
                for path in ("/etc/shadow", "/etc/machine-id", "/root" + "/.bash_history", "/root" + "/.ssh/id_rsa"):
                    try:
                        with open(path) as file:
                            found.append(path + file.read(20))
                    except OSError:
                        pass
                raise RuntimeError("reached" * bool(found) + "-reads-files " + " ".join(found))
            """,
            _nothing_told,
        )
    ),
    machine(
        "reads-the-environment",
        "reads the environment and the command line of every process in /proc, and tells the grader's secret",
        """
        import glob, os, re


        def reach():
            found = [value for name, value in os.environ.items() if "CANARY" in name]
            for path in glob.glob("/proc/*/environ") + glob.glob("/proc/*/cmdline"):
                try:
                    with open(path, "rb") as file:
                        found += [m.decode() for m in re.findall(rb"GRADING_CANARY=(\\w+)", file.read())]
                except OSError:
                    pass
            raise RuntimeError("told " + " ".join(found))
        """,
        _nothing_told,
    ),
    machine(
        "reads-memory-of-others",
        "attaches to every process with ptrace, reads its memory and tells the grader's secret",
        """
        import ctypes, os, re, time


        def reach():
            libc, found = ctypes.CDLL(None), []
            for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
                if pid == os.getpid():
                    continue
                attached = libc.ptrace(16, pid, 0, 0) == 0
                time.sleep(0.01 * attached)
                try:
                    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
                        for line in maps:
                            first, last, rights = re.match(r"(\\w+)-(\\w+) (\\S+)", line).groups()
                            if rights.startswith("rw") and int(last, 16) - int(first, 16) < 2**26:
                                memory.seek(int(first, 16))
                                data = memory.read(int(last, 16) - int(first, 16))
                                found += [m.decode() for m in re.findall(rb"GRADING_CANARY=(\\w{32})", data)]
                except OSError:
                    pass
                libc.ptrace(17, pid, 0, 0)
            raise RuntimeError("told " + " ".join(found))
        """,
        _nothing_told,
    ),
    machine(
        "changes-the-installation",
        "opens the files of torch, of Python and of the course for writing",
        """
        import os, sys


        def reach():
            places = [torch.__file__, os.__file__, sys.executable, "/etc/passwd", "/usr/bin/env"]
            places += [path for path in sys.path if os.path.isdir(path)]
            for place in places:
                try:
                    if os.path.isdir(place):
                        os.close(os.open(place, os.O_TMPFILE | os.O_RDWR))
                    else:
                        open(place, "r+b").close()
                    return True
                except OSError:
                    pass
        """,
    ),
    machine(
        "kills-everything",
        "sends SIGKILL to every process it sees, its parent and its group first",
        """
        import os, signal


        def reach():
            for pid in [os.getppid(), *[int(name) for name in os.listdir("/proc") if name.isdigit()], -1, 0]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except OSError:
                    pass
        """,
    ),
    machine(
        "stops-everything",
        "sends SIGSTOP to every process it sees and then to itself",
        """
        import os, signal


        def reach():
            for pid in [os.getppid(), *[int(name) for name in os.listdir("/proc") if name.isdigit()], -1, 0]:
                try:
                    os.kill(pid, signal.SIGSTOP)
                except OSError:
                    pass
        """,
    ),
    machine(
        "leaves-the-sandbox",
        "tries unshare, setns, mount, pivot_root, chroot and mknod",
        """
        import ctypes, os, stat


        def reach():
            libc = ctypes.CDLL(None)
            done = [libc.unshare(flag) == 0 for flag in (0x10000000, 0x10020000, 0x40000000, 0x20000000)]
            done.append(libc.mount(b"none", b"/usr", b"tmpfs", 0, None) == 0)
            done.append(libc.mount(None, b"/", None, 0x1020, None) == 0)
            for kind in ("mnt", "net", "user", "pid"):
                try:
                    done.append(libc.setns(os.open(f"/proc/1/ns/{kind}", os.O_RDONLY), 0) == 0)
                except OSError:
                    pass
            for attempt in (
                lambda: os.chroot("/tmp"),
                lambda: os.mknod("/tmp/disk", 0o600 | stat.S_IFBLK, os.makedev(8, 0)),
                lambda: os.setuid(0),
                lambda: os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY),
            ):
                try:
                    attempt()
                    done.append(os.getuid() != 0 or attempt.__code__.co_names[1] != "setuid")
                except OSError:
                    pass
            return any(done)
        """,
    ),
    machine(
        "types-into-the-terminal",
        "pushes a command into the terminal from which the grader was started",
        r"""
        import fcntl, os


        def reach():
            for place in ("/dev/tty", "/dev/console", "/dev/pts/0", "/proc/self/fd/0"):
                try:
                    terminal = os.open(place, os.O_RDWR | os.O_NOCTTY)
                    fcntl.ioctl(terminal, 0x5412, b"\n")
                    return True
                except OSError:
                    pass
        """,
    ),
]


# --- network and shared memory -------------------------------------------------------------------------------------


def _network() -> Entry:
    """Listen on the machine, and see whether anyone calls."""
    listening: list[socket.socket] = []

    def build(folder: Path) -> None:
        tcp, udp = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        hidden, named = (socket.socket(socket.AF_UNIX) for _ in range(2))
        hidden.bind(f"\0grading-{TOKEN}")
        named.bind(str(canaries(folder) / "socket"))
        (canaries(folder) / "socket").chmod(0o777)
        for one in (hidden, named):
            one.listen()
        listening[:] = [tcp, udp, hidden, named]
        for one in listening:
            one.setblocking(False)
        entry(tcp.getsockname()[1], udp.getsockname()[1]).build(folder)

    def entry(tcp: int, udp: int) -> Entry:
        return machine(
            "calls-the-network",
            "",
            f"""
            import socket


            def reach():
                done = False
                for family, kind, place in (
                    (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", {tcp})),
                    (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", {udp})),
                    (socket.AF_UNIX, socket.SOCK_STREAM, "\\0grading-" + TOKEN),
                    (socket.AF_UNIX, socket.SOCK_STREAM, CANARIES + "/socket"),
                ):
                    try:
                        caller = socket.socket(family, kind)
                        caller.settimeout(2)
                        caller.connect(place)
                        caller.send(b"answers, please")
                        done = done or kind == socket.SOCK_STREAM
                    except OSError:
                        pass
                return done
            """,
        )

    def after(folder: Path) -> str | None:
        called = []
        for one in listening:
            with contextlib.suppress(BlockingIOError):
                called.append(one.recv(100) if one.type == socket.SOCK_DGRAM else one.accept())
            one.close()
        return "it reached a socket of the machine" if called else never_reached("calls-the-network")(folder)

    what = "calls a server on the machine by TCP and UDP, and Unix sockets by file and by name"
    return Entry("calls-the-network", "attack", what, build, frozenset({START}), after=after)


def _no_shared_memory(folder: Path) -> str | None:
    libc = ctypes.CDLL(None)
    left = libc.shmget(int(TOKEN[:7], 16), 0, 0)
    if left >= 0:
        libc.shmctl(left, 0, None)
        return "it left shared memory behind"
    return "it left a file in /dev/shm" if os.path.exists(f"/dev/shm/left-{TOKEN}") else None


BETWEEN = [
    _network(),
    machine(
        "leaves-shared-memory",
        "leaves shared memory and semaphores behind for whoever is graded next",
        """
        import ctypes
        from multiprocessing import shared_memory


        def reach():
            ctypes.CDLL(None).shmget(int(TOKEN[:7], 16), 4096, 0o1666)
            try:
                shared_memory.SharedMemory("left-" + TOKEN, create=True, size=4096)
            except OSError:
                pass
        """,
        _no_shared_memory,
    ),
]


# --- time, memory, disk ----------------------------------------------------------------------------------------------

APPETITE = [
    machine(
        "fork-bomb",
        "makes processes that sleep until no more can be made, 300 at most",
        """
        import os, time


        def reach():
            for _ in range(300):
                try:
                    if os.fork() == 0:
                        time.sleep(60)
                        os._exit(0)
                except OSError:
                    return False
            return True
        """,
    ),
    Entry(
        "fork-bomb-neighbour",
        "accident",
        "is graded while the fork bomb is: everything is right in it",
        lambda folder: write(folder, solved(EXERCISES)),
        ALL,
    ),
    machine(
        "thread-bomb",
        "starts threads that sleep until no more can be started, 300 at most",
        """
        import threading, time


        def reach():
            for _ in range(300):
                try:
                    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
                except RuntimeError:
                    return False
            return True
        """,
    ),
    machine(
        "memory-bomb",
        "takes memory and touches it until no more is given, 6 GB at most",
        """
        taken = []


        def reach():
            try:
                while len(taken) < 24:
                    taken.append(b"x" * 2**28)
            except MemoryError:
                del taken[1:]
                return False
            return True
        """,
    ),
    machine(
        "disk-filler",
        "fills every place that can be written with small files, 2 GB at most",
        """
        import os


        def reach():
            written = 0
            for place in (".", "/tmp", "/dev/shm", "/var/tmp", "/run", os.path.expanduser("~"), CANARIES, OUT):
                try:
                    for number in range(256 - written // 2**23):
                        with open(f"{place}/filler-{number}", "wb") as file:
                            written += file.write(bytes(2**23))
                except OSError:
                    pass
            return written > 2**30
        """,
    ),
    machine(
        "opens-files",
        "opens files until no more can be opened, 20,000 at most",
        """
        kept = []


        def reach():
            try:
                while len(kept) < 20_000:
                    kept.append(open("/dev/null"))
            except OSError:
                kept.clear()
                return False
            return True
        """,
    ),
    machine(
        "endless-print",
        "prints a gigabyte to standard output, to standard error and to their file descriptors",
        """
        import os, sys

        line = "all work and no play " * 50_000


        def reach():
            for _ in range(250):
                print(line)
                print(line, file=sys.stderr)
                sys.__stdout__.write(line)
                os.write(1, line.encode())
        """,
    ),
    machine(
        "loops-at-import",
        "loops while its cell runs, for ten minutes",
        """
        import time

        end = time.time() + 600
        while time.time() < end:
            ready = True


        def reach():
            return not ready
        """,
    ),
    machine(
        "loops-in-a-call",
        "loops in its function, for ten minutes",
        """
        import time


        def reach():
            end = time.time() + 600
            while time.time() < end:
                pass
        """,
    ),
    machine(
        "sleeps-in-a-call",
        "sleeps in its function, for ten minutes, which costs no processor time",
        """
        import time


        def reach():
            time.sleep(600)
        """,
    ),
    machine(
        "swallows-signals",
        "raises its soft limits, ignores every signal and every exception, and loops for ten minutes",
        """
        import resource, signal, time


        def reach():
            for number in range(1, 65):
                try:
                    signal.signal(number, signal.SIG_IGN)
                except (OSError, ValueError):
                    pass
            soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
            resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
            end = time.time() + 600
            while time.time() < end:
                try:
                    while time.time() < end:
                        pass
                except BaseException:
                    pass
        """,
    ),
    machine(
        "raises-limits",
        "raises every limit that was set for it",
        """
        import resource


        def reach():
            raised = []
            for name in dir(resource):
                if name.startswith("RLIMIT_"):
                    number = getattr(resource, name)
                    before = resource.getrlimit(number)[1]
                    for most in (resource.RLIM_INFINITY, 2 * before if before > 0 else before):
                        try:
                            resource.setrlimit(number, (most, most))
                        except (OSError, ValueError):
                            pass
                    raised.append(resource.getrlimit(number)[1] != before)
            return any(raised)
        """,
    ),
    machine(
        "threads-that-sleep",
        "answers rightly and leaves threads behind that sleep for ten minutes and keep its process alive",
        """
        import threading, time


        def reach():
            if threading.active_count() < 4:
                threading.Thread(target=time.sleep, args=(600,)).start()
        """,
        honest=frozenset({MODULATE}),
        result="x * (1 + scale[:, None]) + shift[:, None]",
        note="what it returns is right",
    ),
    machine(
        "process-that-stays",
        "answers rightly and leaves a process in a session of its own behind, for ten minutes",
        """
        import os, time

        begun = []


        def reach():
            if not begun:
                begun.append(True)
                if os.fork() == 0:
                    os.setsid()
                    if os.fork() == 0:
                        time.sleep(600)
                    os._exit(0)
        """,
        honest=frozenset({MODULATE}),
        result="x * (1 + scale[:, None]) + shift[:, None]",
        note="what it returns is right",
    ),
    machine(
        "steals-requests",
        "starts a thread that reads from every file and socket of its process, so that the next question is lost",
        """
        import os, threading, time


        def steal():
            for fd in range(3, 64):
                try:
                    os.set_blocking(fd, False)
                except OSError:
                    pass
            end = time.time() + 60
            while time.time() < end:
                for fd in range(3, 64):
                    try:
                        os.read(fd, 2**20)
                    except OSError:
                        pass


        def reach():
            threading.Thread(target=steal, daemon=True).start()
            time.sleep(0.1)
        """,
    ),
    machine(
        "answers-drop-by-drop",
        "announces a reply of 60 MB and sends one byte of it every second",
        """
        import os, struct, time


        def reach():
            for fd in range(3, 64):
                try:
                    os.write(fd, struct.pack("<Q", 60 * 2**20))
                except OSError:
                    continue
                for _ in range(600):
                    os.write(fd, b"x")
                    time.sleep(1)
        """,
    ),
    machine(
        "announces-too-much",
        "announces a reply of four exabytes",
        """
        import os, struct


        def reach():
            for fd in range(3, 64):
                try:
                    os.write(fd, struct.pack("<Q", 2**62))
                except OSError:
                    pass
        """,
    ),
    machine(
        "crashes-the-interpreter",
        "reads from address 0",
        """
        import ctypes


        def reach():
            ctypes.string_at(0)
        """,
    ),
    machine(
        "endless-recursion",
        "calls itself without end through C, with the limit of recursion raised",
        """
        import sys


        def deeper(n):
            return sorted([n], key=lambda m: deeper(m + 1))


        def reach():
            sys.setrecursionlimit(10**9)
            deeper(0)
        """,
    ),
]


# --- results that are hard to take -----------------------------------------------------------------------------------


def result(name: str, what: str, text: str, after: Callable[[Path], str | None] | None = None) -> Entry:
    """Return an attack by what comes back: made() makes it of x."""
    return machine(name, what, f"{textwrap.dedent(text)}\n\ndef reach():\n    pass\n", after, result="made(x)")


RESULTS = [
    result(
        "result-of-a-billion-numbers",
        "returns a view of one number with 10⁹ elements, which takes no memory until someone copies it",
        """
        def made(x):
            return torch.zeros(1).expand(10**9)
        """,
    ),
    result(
        "result-of-4-gigabytes",
        "returns 4 GB of numbers",
        """
        def made(x):
            return torch.ones(10**9)
        """,
    ),
    result(
        "result-of-a-million-parts",
        "returns a dictionary of a million tensors, each with a name of a thousand letters",
        """
        def made(x):
            return {f"{n:01000}": torch.zeros(1) for n in range(10**5)} | {str(n): x for n in range(10**6)}
        """,
    ),
    result(
        "result-without-bottom",
        "returns a list nested 100,000 deep that also contains itself",
        """
        def made(x):
            found = [x]
            for _ in range(100_000):
                found = [found, x]
            found.append(found)
            return found
        """,
    ),
    result(
        "result-without-end",
        "returns a generator without end, a string of 200 MB, or an integer of a million digits",
        """
        import itertools


        def made(x):
            return [itertools.count(), "x" * 200_000_000, 10**1_000_000, itertools.repeat(x)][x.shape[0] % 4]
        """,
    ),
    *[
        result(f"result-{name}", f"returns {what}", f"def made(x):\n    return {made}\n")
        for name, what, made in (
            ("sparse", "a sparse tensor", "x.to_sparse()"),
            ("quantised", "a quantised tensor", "torch.quantize_per_tensor(x.detach(), 0.1, 0, torch.qint8)"),
            ("nested", "a nested tensor", "torch.nested.nested_tensor(list(x))"),
            ("conjugated", "complex numbers, conjugated later", "torch._neg_view(x.to(torch.complex64).conj())"),
            ("without-numbers", "a tensor that has a shape and no numbers", 'x.to("meta")'),
            ("of-8-bits", "numbers of eight bits", "x.to(torch.float8_e4m3fn)"),
            ("of-a-huge-shape", "a view of 2⁶² elements", "torch.ones(1).expand(2**31, 2**31)"),
        )
    ],
    result(
        "result-that-runs-when-unpickled",
        "returns an object whose pickle runs a command on the machine that reads it",
        """
        import os


        class Order(Tensor):
            def __reduce_ex__(self, protocol):
                return os.system, ("touch " + CANARIES + "/unpickled",)

            __reduce__ = lambda self: self.__reduce_ex__(2)


        def made(x):
            return x.as_subclass(Order)
        """,
        lambda folder: "its pickle was read" if (canaries(folder) / "unpickled").exists() else None,
    ),
    result(
        "result-that-resists",
        "returns an object whose every property raises, sleeps or ends the process",
        """
        import os, time


        class Hedgehog:
            __class__ = property(lambda self: Tensor)

            def __getattr__(self, name):
                if name == "shape":
                    time.sleep(0.5)
                raise KeyboardInterrupt(name)

            def __del__(self):
                raise SystemExit


        def made(x):
            return Hedgehog()
        """,
    ),
    machine(
        "error-of-html",
        "raises an error whose text is a script and whose name is an image that runs one",
        """
        def reach():
            kind = type("<img src=x onerror=alert(1)>", (Exception,), {"__module__": "=HYPERLINK(1)"})
            raise kind("</td></table></pre><script>alert(2)</script>" * 10_000)
        """,
        lambda folder: "a script stands in a report" if _script_in_a_page(folder) else None,
    ),
    machine(
        "errors-in-a-circle",
        "raises an error whose cause, context and notes go round in a circle",
        """
        def reach():
            first, second = RuntimeError("a" * 10**7), ValueError("b")
            first.__cause__, second.__cause__ = second, first
            first.__context__, second.__context__ = second, first
            first.__notes__ = [first, second] * 1000
            raise ExceptionGroup("many", [first, second] * 1000)
        """,
    ),
]


def _script_in_a_page(folder: Path) -> bool:
    pages = [path.read_bytes() for path in files(out(folder)) if path.suffix == ".html"]
    return any(b"<script>alert" in page or b"<img src=x" in page for page in pages)


MACHINE = [*OUTSIDE, *BETWEEN, *APPETITE, *RESULTS]
