"""Attacks on the points: wrong answers that pretend to be right, and answers that let the library answer."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

from grading_attacks.notebooks import (
    BUG,
    MODULATE,
    PARTS,
    RUN,
    SINGLE,
    START,
    ZERO,
    Entry,
    Notebook,
    answer,
    body,
    check_cell,
    insert,
    lean,
    write,
)
from lesson_lib.exercises import REGISTRY
from lesson_lib.exercises.attempt import attempt

SIGNATURE = "def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:\n"


def attack(
    name: str,
    what: str,
    definition: str,
    exercise: str = MODULATE,
    fools: str = "",
    *,
    note: str = "",
    varies: str = "",
) -> Entry:
    """Return an attack that stands in one exercise's cell in place of the answer."""

    def build(folder: Path) -> None:
        write(folder, answer(lean(exercise), exercise, textwrap.dedent(definition)))

    return Entry(name, "attack", what, build, note=note, fools=fools, varies=varies)


def trick(name: str, what: str, text: str, fools: str = "", varies: str = "") -> Entry:
    """Return an attack whose trick() runs with the cell and again with each call; the answer itself is wrong."""
    trick = textwrap.dedent(text).strip("\n")
    call = (
        f"\n\n\nDONE = trick()\n\n\n{SIGNATURE}    trick()\n    return torch.zeros_like(x) if DONE is None else DONE\n"
    )
    return attack(name, what, trick + call, fools=fools, varies=varies)


def finder(name: str, what: str, text: str, fools: str = "allclose", *, note: str = "") -> Entry:
    """Return an attack that looks for the library's modulate: find() returns something to call, or raises."""
    found = textwrap.dedent(text).strip("\n")
    call = f"\n\n\n{SIGNATURE}    return find()(x, shift, scale)\n"
    return attack(name, what, found + call, fools=fools, note=note)


def from_notebook(name: str, what: str, notebook: Callable[[], Notebook], fools: str = "") -> Entry:
    """Return an attack that needs more than one cell."""
    return Entry(name, "attack", what, lambda folder: write(folder, notebook()), fools=fools)


# --- the comparison replaced ---------------------------------------------------------------------------------------

COMPARISON = [
    trick(
        "replaced-allclose",
        "replaces torch.allclose, torch.equal and torch.isclose by functions that always agree",
        """
        def trick():
            torch.allclose = torch.equal = lambda *args, **kwargs: True
            torch.isclose = lambda a, b, **kwargs: torch.ones_like(a, dtype=torch.bool)
        """,
        "allclose",
    ),
    trick(
        "replaced-assert-close",
        "replaces torch.testing.assert_close by a function that never raises",
        """
        def trick():
            torch.testing.assert_close = torch.testing._comparison.assert_close = lambda *args, **kwargs: None
        """,
        "assert_close",
    ),
    trick(
        "replaced-equals",
        "replaces Tensor.__eq__ and Tensor.__sub__: every tensor equals every other",
        """
        def trick():
            torch.Tensor.__eq__ = lambda self, other: torch.ones(self.shape, dtype=torch.bool)
            torch.Tensor.__ne__ = lambda self, other: torch.zeros(self.shape, dtype=torch.bool)
            torch.Tensor.__sub__ = torch.Tensor.sub = lambda self, other, **kwargs: torch.zeros(self.shape)
        """,
        "==",
    ),
    trick(
        "replaced-numpy",
        "replaces numpy's comparisons, abs and isfinite",
        """
        def trick():
            import numpy as np

            np.testing.assert_allclose = np.testing.assert_array_equal = lambda *args, **kwargs: None
            np.allclose = np.array_equal = lambda *args, **kwargs: True
            np.abs = np.absolute = np.zeros_like
            np.isfinite = lambda a: np.ones(np.shape(a), dtype=bool)
        """,
        "numpy",
    ),
    trick(
        "replaced-tensor-methods",
        "replaces Tensor.numpy, detach, cpu and tolist, so that every tensor reads as zeros",
        """
        def trick():
            import numpy as np

            torch.Tensor.numpy = lambda self, **kwargs: np.zeros(self.shape, dtype=np.float32)
            torch.Tensor.detach = torch.Tensor.cpu = torch.Tensor.contiguous = lambda self: torch.zeros(self.shape)
            torch.Tensor.tolist = lambda self: []
        """,
        "numpy",
    ),
    trick(
        "replaced-builtins",
        "replaces the builtins all, any, abs and sum",
        """
        def trick():
            import builtins

            builtins.all, builtins.any = (lambda values: True), (lambda values: False)
            builtins.abs = builtins.sum = lambda *values, **kwargs: 0
        """,
        "item by item",
    ),
    trick(
        "replaced-errors",
        "replaces AssertionError, NotImplementedError and Exception in builtins by classes that nobody catches",
        """
        def trick():
            import builtins

            class Fine(BaseException):
                pass

            builtins.AssertionError = builtins.NotImplementedError = builtins.Exception = builtins.ValueError = Fine
        """,
    ),
    trick(
        "replaced-open-and-import",
        "replaces builtins.open, print, isinstance and __import__",
        """
        def trick():
            import builtins

            builtins.isinstance = lambda value, kind: True
            builtins.open = builtins.print = lambda *args, **kwargs: None
            builtins.__import__ = lambda *args, **kwargs: torch
        """,
    ),
    attack(
        "duck-typed-result",
        "returns an object that looks like a tensor and agrees with everything",
        """
        class Agreeable:
            def __init__(self, like):
                self.shape, self.dtype, self.device, self.requires_grad = like.shape, like.dtype, like.device, True

            @classmethod
            def __torch_function__(cls, function, types, args=(), kwargs=None):
                return True

            def __eq__(self, other):
                return True

            def __array__(self, *args, **kwargs):
                return torch.zeros(self.shape).numpy()

            def __getattr__(self, name):
                return lambda *args, **kwargs: self


        def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
            return Agreeable(x)
        """,
        fools="allclose",
    ),
    attack(
        "tensor-subclass",
        "returns a subclass of Tensor whose __torch_function__ answers True to every comparison",
        """
        class Agreeing(Tensor):
            @classmethod
            def __torch_function__(cls, function, types, args=(), kwargs=None):
                if function in (torch.allclose, torch.equal, torch.isclose, Tensor.allclose, Tensor.equal):
                    return True
                return super().__torch_function__(function, types, args, kwargs or {})


        def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
            return torch.zeros_like(x).as_subclass(Agreeing)
        """,
        fools="allclose",
    ),
    attack(
        "class-of-another",
        "returns an object whose __class__ says Tensor",
        """
        class Pretender:
            def __init__(self, like):
                self.like = like

            __class__ = property(lambda self: Tensor)
            __eq__ = lambda self, other: True

            def __getattr__(self, name):
                return getattr(self.like, name)


        def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
            return Pretender(x)
        """,
        fools="==",
    ),
    attack(
        "agreeable-numbers",
        "returns a dict and integers of subclasses that are equal to everything",
        """
        class Number(int):
            __eq__ = lambda self, other: True
            __ne__ = lambda self, other: False
            __hash__ = int.__hash__


        class Parts(dict):
            __eq__ = lambda self, other: True
            __ne__ = lambda self, other: False


        def parameters_by_part(model: DiT) -> dict[str, int]:
            return Parts.fromkeys(("attention", "perceptron", "modulation", "embedders", "ends"), Number(1))
        """,
        PARTS,
        "==",
    ),
    attack(
        "asks-the-comparison",
        "returns an object whose __array__ takes the expected numbers out of the comparing function's frame",
        """
        import sys


        class Asks:
            def __init__(self, like):
                self.like = like

            def __array__(self, *args, **kwargs):
                frame = sys._getframe()
                while frame:
                    for name in ("desired", "expected", "want", "reference"):
                        found = frame.f_locals.get(name)
                        if hasattr(found, "shape") and tuple(found.shape) == tuple(self.like.shape):
                            return found.numpy() if isinstance(found, Tensor) else found
                    frame = frame.f_back
                return self.like.numpy()


        def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
            return Asks(x)
        """,
        fools="numpy",
    ),
    attack(
        "nan-result",
        "returns NaN everywhere: no error is larger than a tolerance",
        f"{SIGNATURE}    return torch.full_like(x, float('nan'))\n",
        fools="largest error",
    ),
    attack(
        "broadcast-result",
        "returns one number in place of a tensor, and relies on broadcasting and on a changed subtraction",
        """
        class Broad(Tensor):
            __sub__ = __rsub__ = lambda self, other: torch.zeros(1)


        def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
            return torch.zeros(()).as_subclass(Broad)
        """,
        fools="largest error",
    ),
    trick(
        "patched-check",
        "replaces check, examine and Report.passed of the course",
        """
        def trick():
            import lesson_lib.exercises as course
            from lesson_lib.exercises import ask, ladder

            passed = lambda exercise, *args, **kwargs: ladder.Report(exercise)
            ladder.examine = ask.examine = course.examine = passed
            course.check = ask.check = lambda name, answer: answer
            ladder.Report.passed = property(lambda self: True)
        """,
        "check",
    ),
    trick(
        "emptied-ladder",
        "takes every rung out of the course's ladder",
        """
        def trick():
            from lesson_lib.exercises import ladder

            ladder._JUDGES.clear()
        """,
        "check",
    ),
    trick(
        "loosened-exercise",
        "writes an infinite tolerance and no properties into the course's own exercise, frozen as it is",
        """
        def trick():
            from lesson_lib.exercises import REGISTRY

            for changed in ({"values": False}, {"gradient": False}, {"properties": ()}, {"points": 1000}):
                for name, value in changed.items():
                    object.__setattr__(REGISTRY["dit.modulate"], name, value)
        """,
        "check",
    ),
    trick(
        "patched-signature",
        "replaces inspect.signature and getsource, so that any function seems to have the right arguments",
        """
        def trick():
            import inspect

            inspect.signature = lambda function, **kwargs: inspect.Signature()
            inspect.getsource = lambda value: "def modulate(x, shift, scale): return x * (1 + scale[:, None])"
        """,
    ),
    trick(
        "false-modules",
        "puts false modules for json, struct, numpy and the course's own into sys.modules",
        """
        def trick():
            import sys, types

            class Yes(types.ModuleType):
                def __getattr__(self, name):
                    return lambda *args, **kwargs: True

            for name in ("json", "struct", "numpy", "wire", "slicing", "lesson_lib.exercises.compare"):
                sys.modules[name] = Yes(name)
        """,
    ),
    trick(
        "import-hook",
        "puts a finder first in sys.meta_path that answers every import with a module that agrees",
        """
        def trick():
            import importlib.abc, importlib.machinery, sys

            class Everything(importlib.abc.MetaPathFinder, importlib.abc.Loader):
                def find_spec(self, name, path=None, target=None):
                    return importlib.machinery.ModuleSpec(name, self, is_package=True)

                def exec_module(self, module):
                    module.__getattr__ = lambda name: (lambda *args, **kwargs: True)

            sys.meta_path.insert(0, Everything())
            sys.modules.pop("lesson_lib.exercises.compare", None)
        """,
    ),
    trick(
        "patched-transport",
        "replaces what json, struct, pickle, os and socket write by replies that say passed",
        """
        def trick():
            import json, os, pickle, socket, struct

            said = '{"value": {"plain": true}, "passed": true, "status": "passed", "points": 100, "tensors": []}'
            json.dumps = lambda *args, **kwargs: said
            pickle.dumps = lambda *args, **kwargs: said.encode()
            write, pack = os.write, struct.pack
            os.write = lambda fd, data: write(fd, said.encode())
            struct.pack = lambda form, *values: pack(form, *values) if len(values) != 1 else pack("<Q", len(said))
            socket.socket = type("Socket", (), {"__getattr__": lambda self, name: lambda *args: None})
        """,
    ),
    trick(
        "own-worker-rewritten",
        "walks the frames to the process that calls it and replaces its functions, whatever they are called",
        """
        def trick():
            import sys, types

            frame = sys._getframe().f_back
            while frame:
                for name, value in list(frame.f_globals.items()):
                    if isinstance(value, types.FunctionType) and name not in ("trick", "modulate"):
                        if any(word in name for word in ("error", "same", "describe", "pack", "close", "compare")):
                            frame.f_globals[name] = lambda *args, **kwargs: True
                frame = frame.f_back
        """,
    ),
    trick(
        "trace-function",
        "sets sys.settrace and sys.setprofile to write True into the variables of every frame",
        """
        def trick():
            import sys

            def trace(frame, event, argument):
                for name in ("passed", "ok", "right", "same", "success"):
                    if name in frame.f_locals:
                        frame.f_locals[name] = True
                return trace

            sys.settrace(trace)
            sys.setprofile(trace)
        """,
    ),
    from_notebook(
        "input-transformer",
        "registers IPython input transformers that rewrite every assert and every check in later cells",
        lambda: insert(
            answer(lean(MODULATE), MODULATE, f"{SIGNATURE}    return x\n"),
            2,
            """
            def rewrite(lines):
                return [line.replace("assert ", "True or ").replace("check(", "print(") for line in lines]

            shell = get_ipython()
            shell.input_transformers_post.append(rewrite)
            shell.input_transformers_cleanup.append(rewrite)
            """,
        ),
    ),
]


# --- the library answers -------------------------------------------------------------------------------------------

DELEGATION = [
    attack(
        "library-by-another-name",
        "imports the library's function under another name and calls it",
        """
        from lesson_lib.dit import modulate as helper


        def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
            return helper(x, shift, scale)
        """,
        fools="allclose",
    ),
    attack(
        "library-itself",
        "imports the library's function in place of writing one",
        "from lesson_lib.dit import modulate\n",
        fools="allclose",
    ),
    attack(
        "library-method",
        "calls the library's method on its own object",
        body(
            ZERO, "from lesson_lib import dit\n\nreturn dit.AdaLNZeroBlock.forward(self, x, c, context, rotate=rotate)"
        ),
        ZERO,
        "allclose",
    ),
    attack(
        "library-subclass",
        "inherits the method from the library's class",
        """
        from lesson_lib import dit


        class AdaLNSingleBlock(dit.AdaLNSingleBlock):
            pass
        """,
        SINGLE,
        "allclose",
    ),
    attack(
        "library-subclass-of-all",
        "inherits run_blocks from the library's DiT and calls it with super",
        """
        import lesson_lib.dit


        class DiT(lesson_lib.dit.DiT):
            def run_blocks(self, tokens: Tensor, heard: Sequence[Tensor], context: Tensor | None = None) -> Tensor:
                return super().run_blocks(tokens, heard, context)
        """,
        RUN,
        "allclose",
    ),
    attack(
        "library-from-a-dictionary",
        "takes the library's class out of the dictionary BLOCKS",
        """
        from lesson_lib.dit import BLOCKS as everything


        class AdaLNZeroBlock(everything["adaln-zero"]):
            pass
        """,
        BUG,
        "allclose",
    ),
    attack(
        "library-from-a-model",
        "builds the library's DiT and lets one of its blocks answer",
        body(
            ZERO,
            """
            from lesson_lib.dit import DiT, DiTConfig

            model = DiT(DiTConfig(4, 2, 1, hidden_size=8, depth=1, num_heads=2, num_classes=0))
            return type(model.blocks[0]).forward(self, x, c, context, rotate)
            """,
        ),
        ZERO,
        "allclose",
    ),
    attack(
        "library-from-subclasses",
        "finds the library's class among the subclasses of nn.Module",
        body(
            ZERO,
            """
            kinds = [k for k in nn.Module.__subclasses__() if k.__name__ == "AdaLNZeroBlock" and k is not type(self)]
            return kinds[0].forward(self, x, c, context, rotate)
            """,
        ),
        ZERO,
        "allclose",
    ),
    attack(
        "library-through-a-caller",
        "lets the library's FinalLayer call the function, with its norm and its linear layer taken out",
        """
        from lesson_lib.dit import FinalLayer


        def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
            layer = FinalLayer(x.shape[-1], 1, "adaln")
            layer.norm_final, layer.linear = nn.Identity(), nn.Identity()
            layer.adaLN_modulation = nn.Identity()
            layer.adaLN_modulation.forward = lambda c: (shift, scale)
            return layer(x, shift)
        """,
        fools="allclose",
    ),
    finder(
        "library-through-another-module",
        "imports the function from another module that has imported it",
        """
        def find():
            from lesson_lib.mmdit import modulate as borrowed

            return borrowed
        """,
    ),
    finder(
        "library-through-globals",
        "takes the function from the globals of a library method that uses it",
        """
        def find():
            from lesson_lib.dit import AdaLNBlock

            return AdaLNBlock.forward.__globals__["modulate"]
        """,
    ),
    finder(
        "library-from-its-code",
        "makes a new function of the code object of the library's",
        """
        def find():
            import types

            from lesson_lib import dit

            return types.FunctionType(dit.modulate.__code__, vars(dit), "mine", dit.modulate.__defaults__)
        """,
    ),
    finder(
        "library-by-getattr",
        "puts the names of module and function together from pieces",
        """
        def find():
            return getattr(__import__("lesson" + "_lib.dit", fromlist=["x"]), "".join(["modu", "late"]))
        """,
    ),
    finder(
        "library-by-exec",
        "imports the function in a string that is given to exec, in base 64",
        """
        def find():
            import base64

            names = {}
            exec(base64.b64decode("ZnJvbSBsZXNzb25fbGliLmRpdCBpbXBvcnQgbW9kdWxhdGU="), names)
            return names["modulate"]
        """,
    ),
    finder(
        "library-by-pickle",
        "lets pickle import the function",
        r"""
        def find():
            import pickle

            return pickle.loads(b"clesson_lib.dit\nmodulate\n.")
        """,
    ),
    finder(
        "library-reloaded",
        "throws the library's modules away and imports them again",
        """
        def find():
            import importlib, sys

            for name in [name for name in sys.modules if name.startswith("lesson_lib")]:
                del sys.modules[name]
            return importlib.import_module("lesson_lib.dit").modulate
        """,
    ),
    finder(
        "library-behind-its-refusal",
        "catches the error of the missing function and looks through the frames and closures of whoever raised it",
        """
        def find():
            try:
                import lesson_lib.dit as dit

                dit.modulate(torch.zeros(1, 1, 1), torch.zeros(1, 1), torch.zeros(1, 1))
                return dit.modulate
            except BaseException as error:
                trace, found = error.__traceback__, []
                while trace:
                    frame = trace.tb_frame
                    found += [*frame.f_locals.values(), *frame.f_globals.values()]
                    trace = trace.tb_next
            for value in list(found):
                found += [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
                found.append(getattr(value, "__wrapped__", None))
            mine = globals().get("modulate")
            return next(v for v in found if getattr(v, "__name__", "") == "modulate" and callable(v) and v is not mine)
        """,
    ),
    finder(
        "library-in-memory",
        "looks through all objects of the process for the library's function",
        """
        def find():
            import gc, types

            mine = modulate.__code__
            for value in list(gc.get_objects()):
                inside = list(vars(value).values()) if isinstance(value, types.ModuleType) else [value]
                for thing in inside:
                    if type(thing) is types.FunctionType and thing.__name__ == "modulate":
                        if thing.__code__ is not mine:
                            return thing
            raise LookupError("no such function in memory")
        """,
    ),
    finder(
        "library-source-from-disk",
        "reads the library's source through __file__, inspect and its loader, and runs the function's text",
        """
        def find():
            import inspect

            from lesson_lib import dit

            texts = []
            for read in (
                lambda: open(dit.__file__).read(),
                lambda: inspect.getsource(dit),
                lambda: dit.__loader__.get_source("lesson_lib.dit"),
                lambda: dit.__loader__.get_data(dit.__file__).decode(),
            ):
                try:
                    texts.append(read())
                except Exception:
                    pass
            text = next(text for text in texts if "def modulate(" in text)
            names = {"Tensor": Tensor}
            exec(text[text.index("def modulate(") :].split("\\n\\n\\n")[0], names)
            return names["modulate"]
        """,
    ),
    finder(
        "library-from-cached-code",
        "reads the library's compiled code from __pycache__",
        """
        def find():
            import importlib.util, marshal, types

            from lesson_lib import dit

            with open(importlib.util.cache_from_source(dit.__file__), "rb") as file:
                code = marshal.loads(file.read()[16:])
            [mine] = [c for c in code.co_consts if isinstance(c, types.CodeType) and c.co_name == "modulate"]
            return types.FunctionType(mine, {})
        """,
        fools="",
    ),
    finder(
        "library-from-site-packages",
        "finds the installed package through its metadata and the editable installation's paths",
        """
        def find():
            import importlib.metadata, pathlib, runpy, urllib.parse, json

            places = [pathlib.Path(path) for path in __import__("sys").path]
            for package in importlib.metadata.distributions():
                if package.metadata["Name"] == "lesson-lib":
                    url = json.loads(package.read_text("direct_url.json") or "{}").get("url", "")
                    places += [pathlib.Path(urllib.parse.urlparse(url).path), pathlib.Path(package.locate_file(""))]
            file = next(p / "lesson_lib/dit.py" for p in places if (p / "lesson_lib/dit.py").is_file())
            return runpy.run_path(str(file))["modulate"]
        """,
    ),
    finder(
        "library-searched-on-disk",
        "searches the whole file system for the library's file, for some seconds at most",
        """
        def find():
            import os, runpy, time

            end = time.monotonic() + 1.5
            for start in ("/course", "/work", "/home", "/root", "/srv", "/opt", "/tmp", "/mnt", "/grader", "/"):
                for folder, folders, files in os.walk(start):
                    folders[:] = [f for f in folders if f not in ("proc", "sys", "torch", "scipy", "share", "usr")]
                    if "dit.py" in files and folder.endswith("lesson_lib"):
                        return runpy.run_path(os.path.join(folder, "dit.py"))["modulate"]
                    if time.monotonic() > end:
                        raise LookupError("out of time")
            raise LookupError("there is no such file")
        """,
    ),
    finder(
        "library-in-another-process",
        "asks a fresh Python, which knows nothing of what was taken out",
        r"""
        def find():
            import json, subprocess, sys

            def ask(x, shift, scale):
                script = (
                    "from lesson_lib.dit import modulate\nimport json, sys, torch\n"
                    "print(json.dumps(modulate(*map(torch.tensor, json.load(sys.stdin))).tolist()))"
                )
                given = json.dumps([t.tolist() for t in (x, shift, scale)])
                done = subprocess.run([sys.executable, "-c", script], input=given, capture_output=True, text=True)
                return torch.tensor(json.loads(done.stdout))

            return ask
        """,
    ),
    finder(
        "registry-target",
        "asks the course's registry for the exercise's own solution",
        """
        def find():
            from lesson_lib.exercises import REGISTRY

            return REGISTRY["dit.modulate"].target
        """,
    ),
    finder(
        "registry-source",
        "lets the course print the solution and runs what it printed",
        """
        def find():
            from lesson_lib.exercises.source import source_of

            names = {"Tensor": Tensor}
            exec(source_of("dit.modulate"), names)
            return names["modulate"]
        """,
    ),
    attack(
        "mistakes-as-answers",
        "uses the right half of the known mistakes, which the course keeps beside its exercises",
        body(
            ZERO,
            """
            from lesson_lib.exercises.lesson_07 import _two_branches

            return _two_branches(self, x, self.adaLN_modulation(c))
            """,
        ),
        ZERO,
        "allclose",
    ),
    finder(
        "test-answers",
        "imports the right answers from the course's tests",
        """
        def find():
            import importlib.util, pathlib

            import lesson_lib

            file = pathlib.Path(lesson_lib.__file__).parent.parent / "tests" / "answers" / "lesson_07.py"
            spec = importlib.util.spec_from_file_location("answers", file)
            answers = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(answers)
            return answers.modulate_by_unsqueeze
        """,
    ),
    finder(
        "grader-asked",
        "imports the grader and asks it for cases and solutions",
        """
        def find():
            from lesson_lib import grading
            from lesson_lib.exercises import core, ladder

            exercise = next(e for e in core.Exercise.__subclasses__() or [core.Exercise])
            raise LookupError(f"{grading} {ladder} {exercise}")
        """,
        fools="",
    ),
    from_notebook(
        "answer-from-check",
        "hands check something wrong and calls what check returns: the library's own version",
        lambda: answer(
            lean(MODULATE),
            MODULATE,
            f"""
def wrong(x, shift, scale):
    return x


theirs = check("dit.modulate", wrong)


{SIGNATURE}    return theirs(x, shift, scale)
""",
        ),
        "allclose",
    ),
    from_notebook(
        "answer-from-check-renamed",
        "reaches check through another name and keeps the library's version as a default argument",
        lambda: answer(
            lean(START),
            START,
            """
import lesson_lib.exercises as tools

judge = tools.check


def start_modulation(weight: Tensor, parts: int, start: str, solve=judge("dit.start_modulation", abs)) -> Tensor:
    return solve(weight, parts, start)
""",
        ),
        "allclose",
    ),
]


# --- the expected values looked for --------------------------------------------------------------------------------


def _learnt_by_heart() -> Notebook:
    """Return answers noted down for the cases of seed 0, which every notebook's check uses."""
    exercise = REGISTRY[MODULATE]
    table = {}
    for case in exercise.cases(0):
        value = attempt(exercise, exercise.target, case).value
        table[round(float(case.args[0].sum()), 3)] = [round(n, 6) for n in value.flatten().tolist()]
    text = (
        f"NOTED = {table}\n\n\n{SIGNATURE}    noted = NOTED.get(round(float(x.sum()), 3))\n"
        "    return torch.zeros_like(x) if noted is None else torch.tensor(noted).view(x.shape)\n"
    )
    return answer(lean(MODULATE), MODULATE, text)


VALUES = [
    from_notebook(
        "learnt-by-heart",
        "has noted the results of the cases that the notebook's own check uses",
        _learnt_by_heart,
        "allclose",
    ),
    attack(
        "frames-searched",
        "walks the frames of its callers for a tensor of the right shape that it was not given",
        """
        import sys


        def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
            frame = sys._getframe(1)
            while frame:
                for value in frame.f_locals.values():
                    if isinstance(value, Tensor) and value.shape == x.shape and not torch.equal(value, x):
                        return value.detach().clone()
                frame = frame.f_back
            return x
        """,
        fools="allclose",
    ),
    attack(
        "objects-searched",
        "looks through all objects of the process for a tensor of the right shape that it was not given",
        """
        import gc


        def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
            for value in gc.get_objects():
                if type(value) is Tensor and value.shape == x.shape and not torch.equal(value, x):
                    return value.detach().clone()
            return x
        """,
        fools="allclose",
    ),
    attack(
        "memory-searched",
        "reads its own memory through /proc for the text or the numbers of the solution",
        r"""
        import re


        def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
            with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
                for line in maps:
                    first, last, rights = re.match(r"(\w+)-(\w+) (\S+)", line).groups()
                    if rights.startswith("rw") and int(last, 16) - int(first, 16) < 2**26:
                        memory.seek(int(first, 16))
                        found = re.search(rb"return (x \* \(1 \+ scale[^\n]{1,60})\n", memory.read(2**26))
                        if found and b"[^" not in found[1]:
                            return eval(found[1])
            return x
        """,
    ),
    attack(
        "right-for-some",
        "is right for the first sizes only and returns its argument for others",
        """
        def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
            return x * (1 + scale[:, None]) + shift[:, None] if x.shape[1] > 3 else x
        """,
    ),
    attack(
        "argument-returned",
        "returns its argument, which is right for one of the four starts",
        "def start_modulation(weight: Tensor, parts: int, start: str) -> Tensor:\n    return weight\n",
        START,
    ),
    attack(
        "right-once",
        "is right in its first call and returns zeros from then on",
        """
        calls = []


        def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
            calls.append(x)
            return x * (1 + scale[:, None]) + shift[:, None] if len(calls) == 1 else torch.zeros_like(x)
        """,
    ),
    attack(
        "change-hidden",
        "erases its argument and replaces torch.equal, so that nobody in its process notices",
        """
        def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
            torch.equal = torch.allclose = lambda *args: True
            torch.nan_to_num = lambda value, **kwargs: torch.zeros(1)
            kept = x.clone()
            x.data.zero_()
            return kept * (1 + scale[:, None]) + shift[:, None]
        """,
        fools="check",
    ),
]


# --- points that are claimed ---------------------------------------------------------------------------------------


def _claimed() -> Notebook:
    notebook = answer(lean(MODULATE), MODULATE, f"{SIGNATURE}    return x\n")
    claim = {"points": 100, "grade": True, "grade_id": "modulate", "locked": True, "solution": False, "score": 100}
    notebook["metadata"] |= {"nbgrader": claim, "otter": {"assignment_name": "07", "score": 1}, "points": 100}
    for cell in notebook["cells"]:
        cell["metadata"] |= {"nbgrader": claim, "points": 100, "status": "passed", "honest": True}
    place = check_cell(notebook, MODULATE)
    text = "✓ 7.1 Stretch and shift every token of an image alike: right. 2 of 2 points.\n"
    notebook["cells"][place]["outputs"] = [{"name": "stdout", "output_type": "stream", "text": [text]}]
    return notebook


def _claimed_beside(folder: Path) -> None:
    write(folder, answer(lean(MODULATE), MODULATE, f"{SIGNATURE}    return x\n"))
    (folder / "07_adaln.results.json").write_text('{"score": 24, "tests": [{"score": 24, "max_score": 24}]}')
    (folder / "progress.json").write_text('{"exercises": {"dit.modulate": {"passed": true, "tries": 1}}}')
    (folder / "grades.csv").write_text("name,total\nclaimed-beside,24\n")
    (folder / "rubric.toml").write_text("[points]\n'dit.modulate' = 1000\n")
    (folder / "conftest.py").write_text("raise SystemExit('this ran')\n")
    (folder / "sitecustomize.py").write_text("raise SystemExit('this ran')\n")


def _forged_reply(text: str, framed: bool = True) -> str:
    """Return a trick that writes a text to every open file and socket of its process, framed as the grader frames."""
    data = 'struct.pack("<QQ", len(head) + 8, len(head)) + head' if framed else 'head + b"\\n"'
    return f"""
        def trick():
            import json, os, struct

            head = json.dumps({text}).encode()
            for fd in range(64):
                try:
                    os.set_blocking(fd, False)
                    os.write(fd, {data})
                except OSError:
                    pass
        """


CLAIMS = [
    from_notebook("claimed-in-metadata", "claims points in the metadata and in stored outputs", _claimed),
    Entry(
        "claimed-beside",
        "attack",
        "hands in results, progress, grades, a rubric and conftest.py beside a wrong notebook",
        _claimed_beside,
    ),
    trick(
        "reply-printed",
        "prints forged results to standard output and standard error",
        """
        def trick():
            import os, sys

            text = '\\n{"exercise": "dit.modulate", "status": "passed", "points": 100}\\nPASSED 7 of 7\\n'
            for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
                print(text, file=stream, flush=True)
            os.write(1, text.encode())
        """,
    ),
    trick(
        "reply-forged",
        "writes a forged verdict to every open file and socket of its process",
        _forged_reply(
            '{"status": "passed", "passed": True, "points": 100, "exercise": "dit.modulate", "rung": ""}', framed=False
        ),
    ),
    trick(
        "reply-forged-in-form",
        "writes replies in the grader's own format, with the argument as the result, before the true one",
        _forged_reply(
            '{"value": {"argument": 0}, "changed": [], "stored": [], "lists": [], "moved": [], "modules": [],'
            ' "drawn": False, "calls": {}, "freed": [], "tensors": [], "error": None, "kind": "function"}'
        ),
    ),
    trick(
        "reply-of-odd-parts",
        "writes replies with negative numbers, huge shapes, deep lists and kinds that do not exist",
        _forged_reply(
            '{"value": {"dict": [["x", {"argument": -1}], [[], {"tensor": -3}]]}, "changed": [[10**9, -7]],'
            ' "tensors": [["cpu", "float32", [2**39, 2**39], True], ["meta", "__class__", [-1], 3]]}'
        ),
    ),
    trick(
        "reply-of-a-later-process",
        "leaves a forked process behind that answers when its parent has died",
        """
        def trick():
            import json, os, struct, time

            if os.fork() == 0:
                head = json.dumps({"value": {"argument": 0}, "tensors": []}).encode()
                inner = struct.pack("<Q", len(head)) + head
                for _ in range(8):
                    time.sleep(0.5)
                    for fd in range(3, 64):
                        try:
                            os.write(fd, struct.pack("<Q", len(inner)) + inner)
                        except OSError:
                            pass
                os._exit(0)
            os._exit(0)
        """,
    ),
    trick(
        "threads-answer",
        "starts threads that go on after return and write into the tensors that were returned",
        """
        def trick():
            import gc, threading, time

            def change():
                for _ in range(2000):
                    for value in gc.get_objects():
                        if type(value) is Tensor and value.is_leaf and not value.requires_grad:
                            value.zero_()
                    time.sleep(0.001)

            threading.Thread(target=change, daemon=True).start()
        """,
        varies="7.1 fails, where depends on the threads",
    ),
    trick(
        "last-words",
        "registers atexit functions and objects with __del__ that write forged results when the process ends",
        """
        def trick():
            import atexit, os

            class Last:
                def __del__(self):
                    for fd in range(16):
                        try:
                            os.write(fd, b'{"status": "passed"}')
                        except OSError:
                            pass

            globals()["last"] = Last()
            atexit.register(Last().__del__)
        """,
    ),
    attack(
        "ends-with-success",
        "ends the process with status 0 in the middle of a call",
        f"import os\n\n\n{SIGNATURE}    os._exit(0)\n",
    ),
    attack(
        "ends-at-import",
        "ends the process with status 0 while its cell runs",
        f"import os\n\nleave = os._exit(0)\n\n\n{SIGNATURE}    return x + leave\n",
    ),
    attack(
        "stops-the-grader",
        "raises KeyboardInterrupt, SystemExit and GeneratorExit, which loops over submissions do not catch",
        """
        errors = [KeyboardInterrupt, SystemExit, GeneratorExit, BaseException]


        def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
            raise errors[x.shape[0] % 4]
        """,
    ),
]

ATTACKS = [*COMPARISON, *DELEGATION, *VALUES, *CLAIMS]
