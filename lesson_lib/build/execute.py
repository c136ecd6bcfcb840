"""Execution: runs a notebook in a fresh kernel of this very Python and keeps the outputs that may be committed."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesson_lib.build.sources import BuildError

KEPT = ("image/png", "text/plain", "text/markdown", "text/latex")
WIDGET = "application/vnd.jupyter.widget-view+json"
LIMIT_BYTES = 1_000_000
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


@dataclass(frozen=True)
class Run:
    """What one execution cost: seconds, and the peak MB of the kernel and its children (0 without psutil)."""

    seconds: float
    peak_memory_mb: float


def execute(
    notebook: Any, folder: Path, *, budget: str | None = None, strict: bool = False, timeout: int = 1200
) -> Run:
    """Run every cell of a notebook in place, in a new kernel that works in `folder`.

    budget: the value of LESSON_BUDGET in the kernel (None: as in this process). strict: LESSON_STRICT=1, so that a
    failing check raises.
    timeout: seconds for one cell. The learner's own progress file is not touched. Progress goes to stderr, a line per
    code cell.
    Raises BuildError with the cell's name and its error where a cell raises, dies or takes too long.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    manager = kernel_manager([sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=40"])
    current = {"name": "the kernel's start"}
    started = time.perf_counter()
    client = NotebookClient(
        notebook,
        km=manager,
        timeout=timeout,
        store_widget_state=False,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
        on_cell_start=_announce(notebook, current),
    )
    with tempfile.TemporaryDirectory() as scratch, _MemoryWatch(manager) as memory:
        environment = _environment(Path(scratch), budget, strict)
        try:
            client.execute(env=environment, cleanup_kc=True)  # a manager of ours is not ended otherwise
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as problem:
            raise BuildError(f"cell {current['name']!r} failed:\n{plain(str(problem))}") from problem
    notebook.metadata = _copy(METADATA)
    return Run(time.perf_counter() - started, memory.peak_mb)


def _environment(scratch: Path, budget: str | None, strict: bool) -> dict[str, str]:
    environment = {**os.environ, "LESSON_PROGRESS": str(scratch / "progress.json"), "LESSON_HEADLESS": "1"}
    environment["PYTHONHASHSEED"] = "0"
    environment.pop("LESSON_STRICT", None)
    environment.pop("MPLBACKEND", None)
    if budget:
        environment["LESSON_BUDGET"] = budget
    if strict:
        environment["LESSON_STRICT"] = "1"
    return environment


def kernel_manager(argv: Sequence[str]) -> Any:
    """Return a manager that starts kernels with this command, whatever kernel is installed under the name python3.

    argv: the command, with {connection_file} where that file's path belongs.
    """
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    class ThisKernel(AsyncKernelManager):
        """Starts the kernel that was asked for."""

        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(argv=list(argv), display_name="Python 3", language="python")

    return ThisKernel(kernel_name="python3")


def _announce(notebook: Any, current: dict[str, str]) -> Callable[..., None]:
    total = sum(cell.cell_type == "code" for cell in notebook.cells)
    count = iter(range(1, total + 1))

    def start(cell: Any, cell_index: int) -> None:
        if cell.cell_type == "code":
            current["name"] = cell.metadata.get("name", f"number {cell_index}")
            print(f"  {next(count)}/{total} {current['name']}", file=sys.stderr, flush=True)

    return start


class _MemoryWatch:
    """Samples the memory of the kernel's processes five times a second, in a thread."""

    def __init__(self, manager: Any) -> None:
        self.manager = manager
        self.peak_mb = 0.0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _MemoryWatch:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    def _watch(self) -> None:
        try:
            import psutil
        except ImportError:
            return
        while not self.stop.wait(0.2):
            pid = getattr(self.manager.provisioner, "pid", None)
            if not pid:
                continue
            try:
                kernel = psutil.Process(pid)
                family = [kernel, *kernel.children(recursive=True)]
                self.peak_mb = max(self.peak_mb, sum(process.memory_info().rss for process in family) / 1e6)
            except psutil.Error:
                continue


def clean_outputs(notebook: Any) -> list[str]:
    """Leave only the outputs that are committed; return a warning for each that would differ in every build.

    Kept: figures (PNG) and text. Dropped: widgets, HTML, stderr, lines that a progress bar drew over, time stamps.
    """
    warnings = []
    notebook.metadata = _copy(METADATA)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.metadata.pop("execution", None)
        cell.outputs = [kept for output in cell.outputs if (kept := _kept(output)) is not None]
        text = "\n".join(
            output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in cell.outputs
        )
        if re.search(r"\bat 0x[0-9a-f]{6,}", text):
            warnings.append(f"cell {cell.metadata.get('name')!r} prints a memory address, which differs in every build")
    return warnings


def _kept(output: Any) -> Any | None:
    if output.output_type == "stream":
        if output.name != "stdout":
            return None
        lines = output.text.split("\n")
        output.text = "\n".join(line for line in lines if "\r" not in line)
        return output if output.text.strip() else None
    if output.output_type in ("display_data", "execute_result"):
        if WIDGET in output.data:
            return None
        output.data = {kind: content for kind, content in output.data.items() if kind in KEPT}
        output.metadata = {kind: content for kind, content in output.metadata.items() if kind in KEPT}
        return output if output.data else None
    return output


def refuse_oversize(name: str, notebook: Any, text: str) -> None:
    """Raise BuildError, naming the three largest cells, where a notebook's text is longer than a megabyte."""
    if len(text.encode()) <= LIMIT_BYTES:
        return
    sizes = sorted(
        ((len(str(cell.get("outputs", ""))), cell.metadata.get("name", cell.id)) for cell in notebook.cells),
        reverse=True,
    )
    largest = ", ".join(f"{cell} {size // 1000} kB" for size, cell in sizes[:3])
    raise BuildError(
        f"{name} has {len(text) // 1000} kB; at most {LIMIT_BYTES // 1000} are committed. Largest cells: {largest}"
    )


def to_html(notebook: Any) -> str:
    """Return a notebook as one HTML page that loads nothing from anywhere: figures inside, formulas as TeX."""
    from nbconvert import HTMLExporter

    page, _ = HTMLExporter(embed_images=True, mathjax_url="", require_js_url="").from_notebook_node(notebook)
    for remote in (
        r'<script[^>]*\bsrc="(?:(?:https?:)?//[^"]*)?"[^>]*>\s*</script>',
        r'<script type="module">.*?</script>',
    ):
        page = re.sub(remote, "", page, flags=re.DOTALL)  # the second loads a drawing tool for diagrams in Mermaid
    return page


def _copy(metadata: dict[str, dict[str, str]]) -> Any:
    from nbformat import from_dict

    return from_dict(metadata)


def plain(text: str) -> str:
    """Return a text without the colours that terminals and notebooks give it."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
