"""Colab's packages and the weekly self-check: what is read, compared, refused, reported; and what GitHub runs."""

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lesson_lib import ROOT
from lesson_lib.delivery import DeliveryError, colab, health
from lesson_lib.delivery.__main__ import main as command

DATE = datetime.date(2026, 11, 22)
FREEZE = """\
# Do not modify this file directly
absl-py==1.4.0
en-core-web-sm @ https://example.org/en_core_web_sm-3.6.0-py3-none-any.whl#sha256=83276fc7
Example_Colab @ file:///tools/dist/example-colab-1.0.0.tar.gz
-e git+https://example.org/some/Thing.git@0f3c#egg=Some_Thing
-e /a/folder
--extra-index-url https://example.org/simple
ruamel.yaml[jinja2]==0.18.6  # with an extra
PyYAML==6.0.2 ; python_version >= "3.8"
pywin32==308; sys_platform == "win32"
scipy==1.16.0 \\
    --hash=sha256:0000
torch @ https://example.org/whl/cu128/torch-2.11.0%2Bcu128-cp313-cp313-linux_x86_64.whl#sha256=a81b
nvidia-cublas==12.8.4.1+cu128
trunk @ git+https://example.org/trunk@main
absl_py==1.4.0
"""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["plain", "BOM"])
def test_a_freeze_is_read(tmp_path, start, end):
    path = tmp_path / "pip-freeze.txt"
    path.write_bytes(start + FREEZE.replace("\n", end).encode())
    assert colab.read_pins(path) == {
        "absl-py": "1.4.0",
        "en-core-web-sm": "3.6.0",
        "example-colab": "1.0.0",
        "some-thing": "",
        "ruamel-yaml": "0.18.6",
        "pyyaml": "6.0.2",
        "scipy": "1.16.0",
        "torch": "2.11.0+cu128",
        "nvidia-cublas": "12.8.4.1+cu128",
        "trunk": "",
    }


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", 'pins no package. Expected is what "pip freeze" writes'),
        (b"# nothing\n\n", "pins no package"),
        (b"numpy\ntorch>=2\n", "pins no package"),
        (b"404: Not Found", "line 1 is '404: Not Found'"),
        (b"\n<!DOCTYPE html>\n<html></html>", "line 2 is '<!DOCTYPE html>'"),
        (b'{"numpy": "2.1.3"}', "line 1 is"),
        ("numpy==2.1.3\n".encode("utf-16"), "cannot be read as text"),
        (b"numpy==2.1.3\nNumPy==2.2.0\n", "has numpy twice, as 2.1.3 and as 2.2.0"),
    ],
)
def test_what_is_no_freeze_is_refused(tmp_path, content, complaint):
    path = tmp_path / "pip-freeze.txt"
    path.write_bytes(content)
    with pytest.raises(DeliveryError, match=re.escape(complaint)):
        colab.read_pins(path)


def test_a_freeze_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DeliveryError, match="cannot be read"):
        colab.read_pins(tmp_path / "pip-freeze.txt")


def test_what_an_index_can_give():
    assert colab.installable({"a": "2.11.0+cu128", "b": "2026.06"}) == {"a": "2.11.0", "b": "2026.6"}
    with pytest.raises(DeliveryError, match=r"trunk has the version ''"):
        colab.installable({"trunk": ""})


# --- an environment ----------------------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path, monkeypatch):
    """An index of one package, tiny 1.0, and nothing else."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    about = "tiny-1.0.dist-info"
    with zipfile.ZipFile(folder / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny.py", "__version__ = '1.0'\n")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\nRequires-Dist: absent\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def _pins(tmp_path, text):
    path = tmp_path / "pins.txt"
    path.write_text(text)
    return path


def test_an_environment_has_the_pins_and_is_made_again_only_when_they_change(tmp_path, index):
    folder = tmp_path / "environment"
    pins = _pins(tmp_path, "Tiny==1.0\n")
    python = colab.environment(folder, pins)
    assert python.is_absolute()
    [(name, version, seconds)] = colab.verify(python, ["tiny"])
    assert (name, version) == ("tiny", "1.0")
    assert 0 <= seconds < 5
    assert (folder / ".ready").exists()
    assert subprocess.run([python, "-c", "import pip"], capture_output=True).returncode, "pip is not among the pins"

    (index / "tiny-1.0-py3-none-any.whl").unlink()
    assert colab.environment(folder, pins) == python  # kept: to make it again would fail now
    with pytest.raises(DeliveryError, match=r"installation failed:\n(.*\n)*.*tiny==1\.1"):
        colab.environment(folder, _pins(tmp_path, "tiny==1.1\n"))
    assert not (folder / ".ready").exists()


@pytest.mark.parametrize("content", ["pyvenv.cfg", ".ready", "thesis.txt"])
def test_a_folder_of_something_else_is_left_alone(tmp_path, content):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / content).write_text("mine")
    with pytest.raises(DeliveryError, match="not empty and was not made by this command"):
        colab.environment(folder, _pins(tmp_path, "tiny==1.0\n"))
    assert [path.name for path in folder.iterdir()] == [content]


@pytest.mark.parametrize(
    ("index_of_torch", "version"),
    [(None, colab.read_pins(colab.CONSTRAINTS)["torch"]), ("https://example.org/cpu", "2.11.0")],
)
def test_torch_is_ci_s_unless_an_index_has_colab_s(tmp_path, monkeypatch, index_of_torch, version):
    installed = []
    monkeypatch.setattr(colab, "_run", lambda command, complaint: None)
    monkeypatch.setattr(colab.subprocess, "run", lambda *arguments, **options: None)
    monkeypatch.setattr(colab, "_install", lambda python, packages, options: installed.append((packages, options)))
    pins = _pins(tmp_path, "torch==2.11.0+cu128\nnumpy==2.1.3\n")
    colab.environment(tmp_path / "environment", pins, torch_index=index_of_torch)
    first = [([f"torch=={version}"], ["--no-deps", "--index-url", index_of_torch])] if index_of_torch else []
    assert installed == [(["numpy==2.1.3"], ["--no-deps"]), *first, ([f"torch=={version}"], [])]


def test_a_package_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
    (tmp_path / "no_such_package.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # of this shell, not of the environment
    with pytest.raises(DeliveryError, match=r"no_such_package cannot be imported in .*\n(.*\n)*.*ModuleNotFoundError"):
        colab.verify(Path(sys.executable), ["packaging", "no_such_package"])


# --- comparing ---------------------------------------------------------------------------------------------------

PINS = """\
# Colab's published freeze of 2026-08-19 has them (Python 3.13.15):
alpha==1.2.3
Beta_Ray==2.0
gamma==3.1
torch==2.11.0

# What these need besides.
delta==0.5
# a comment stays
epsilon==4.0.0
"""
PROJECT = """\
[project]
requires-python = ">=3.11,<3.14"
dependencies = ["alpha>=1.0", "beta-ray[all]>=2,<3", "torch>=2.9"]
"""


@pytest.fixture
def compare(tmp_path):
    """Return a function that compares a freeze with PINS and PROJECT; changes are given as name=version or None."""
    paths = {"pins": PINS, "project": PROJECT, "constraints": "alpha==1.3.0\nbeta-ray==2.0\ntorch==2.13.0\n"}
    for name, text in paths.items():
        (tmp_path / name).write_text(text)

    def run(*, python=None, project=PROJECT, **changes):
        (tmp_path / "project").write_text(project)
        freeze = {"alpha": "1.2.3", "beta-ray": "2.0", "gamma": "3.1", "torch": "2.11.0+cu128", "other": "9"}
        freeze |= {"delta": "0.5", "epsilon": "4.0.0"}
        freeze |= {name.replace("_", "-"): version for name, version in changes.items()}
        freeze = {name: version for name, version in freeze.items() if version is not None}
        return health.compare(freeze, python=python, **{name: tmp_path / name for name in paths})

    return run


def test_colab_txt_is_complete_and_fits_the_course():
    found = health.compare(colab.read_pins(colab.PINS), python="3.13.15")
    assert not found.moved + found.added + found.vanished + found.unknown + found.problems
    assert all(version for version in colab.read_pins(colab.PINS).values())


def test_the_same_packages_move_nothing(compare):
    found = compare()
    assert not found.moved + found.added + found.vanished + found.unknown + found.problems
    assert found.pins["torch"] == "2.11.0"
    assert "other" not in found.pins
    assert found.text().startswith("No pin moved.")


@pytest.mark.parametrize(
    ("old", "new", "step"),
    [
        ("1.2.3", "2.0", "major"),
        ("1.2.3", "1.3", "minor"),
        ("1.2.3", "1.2.4", "patch"),
        ("1.2", "1.2.0.post1", "patch"),
        ("1.2.3", "1.2.4rc1", "patch"),
        ("2.0", "1.9", "major, back"),
        ("1.2.3", "1.2.2", "patch, back"),
    ],
)
def test_steps_are_told_apart(old, new, step):
    assert health.Move("alpha", old, new).step == step


def test_what_moved_is_put_in_and_the_rest_stays(compare):
    found = compare(alpha="1.2.4", beta_ray="2.1+local", delta="1.0", epsilon=None)
    moves = [(move.package, move.old, move.new) for move in found.moved]
    assert moves == [("alpha", "1.2.3", "1.2.4"), ("beta-ray", "2.0", "2.1"), ("delta", "0.5", "1.0")]
    assert found.pins == {
        "alpha": "1.2.4",
        "beta-ray": "2.1",
        "gamma": "3.1",
        "torch": "2.11.0",
        "delta": "1.0",
        "epsilon": "4.0.0",  # the freeze is silent
    }
    assert not found.vanished
    text = found.text()
    assert text.startswith("3 pins moved: 1 major, 1 minor, 1 patch.")
    assert "| beta-ray | 2.0       | 2.1    | minor |" in text
    assert "| alpha    | >=1.0          | 1.3.0   | 1.2.4     |" in text


def test_what_vanished_leaves_the_drill_s_environment(compare):
    found = compare(gamma=None)
    assert found.vanished == ["gamma"]
    assert "gamma" not in found.pins
    assert not found.problems  # no requirement of the course: the drill will tell
    assert "gamma has vanished from Colab" in found.text()


def test_a_version_that_is_not_told_changes_nothing(compare):
    found = compare(alpha="")
    assert found.unknown == ["alpha"]
    assert found.pins["alpha"] == "1.2.3"
    assert "alpha has no version in the freeze" in found.text()


def test_a_requirement_that_colab_txt_does_not_have_is_added(compare):
    found = compare(project=PROJECT.replace('"torch>=2.9"', '"torch>=2.9", "zeta>=1"'), zeta="1.5")
    assert found.added == ["zeta"]
    assert found.pins["zeta"] == "1.5"
    assert "zeta is new in colab.txt" in found.text()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"alpha": "0.9"}, "Colab has alpha 0.9, but pyproject.toml asks alpha>=1.0."),
        ({"beta_ray": "3.0.1"}, "Colab has beta-ray 3.0.1, but pyproject.toml asks beta-ray<3,>=2."),
        ({"alpha": None}, "Colab has no alpha, which the course imports; its set-up cell installs nothing."),
        ({"python": "3.14.0"}, "Colab runs Python 3.14.0, but pyproject.toml asks >=3.11,<3.14."),
    ],
)
def test_what_cannot_work_is_a_problem(compare, changes, problem):
    assert compare(**changes).problems == [problem]


def test_a_pre_release_in_range_is_none(compare):
    assert not compare(alpha="1.5rc1").problems


def test_an_update_touches_only_what_moved(compare):
    found = compare(
        project=PROJECT.replace('"alpha>=1.0"', '"zeta>=1"'), zeta="1.5", alpha="1.4", gamma=None, delta="0.6"
    )
    assert health.updated(PINS, found, DATE, "3.13.16").splitlines() == [
        "# Colab's published freeze of 2026-11-22 has them (Python 3.13.16):",
        "alpha==1.4",
        "Beta_Ray==2.0",
        "torch==2.11.0",
        "zeta==1.5",
        "",
        "# What these need besides.",
        "delta==0.6",
        "# a comment stays",
        "epsilon==4.0.0",
    ]
    assert health.updated(PINS, compare(), datetime.date(2026, 8, 19)) == PINS


def test_an_update_of_colab_txt_itself_finds_its_date():
    text = colab.PINS.read_text()
    found = health.updated(text, health.compare(colab.read_pins(colab.PINS)), datetime.date(2027, 1, 2), "3.13.99")
    changed = [line for line, old in zip(found.splitlines(), text.splitlines(), strict=True) if line != old]
    assert len(changed) == 1
    assert "freeze of 2027-01-02 has them (Python 3.13.99)" in changed[0]


# --- the whole ---------------------------------------------------------------------------------------------------


class FakeDrill:
    """A drill that ran nothing."""

    def __init__(self, green=True):
        self.green = green

    def lines(self):
        return ["not as on Colab (there): alpha 1.2.4 (1.2.3)", "00_start_here  12.0  19  ok"]


@pytest.fixture
def drilled(tmp_path, monkeypatch):
    """What was asked of a fake environment and a fake drill; drilled["green"] and drilled["fails"] steer them."""
    asked = {"green": True, "fails": ""}

    def environment(folder, pins, *, torch_index):
        asked.update(folder=folder, pins=colab.read_pins(pins), index=torch_index)
        if asked["fails"]:
            raise DeliveryError(asked["fails"])
        return folder / "bin" / "python"

    def drill(lessons, *, python):
        asked.update(lessons=lessons, python=python)
        return FakeDrill(asked["green"])

    monkeypatch.setattr(health, "environment", environment)
    monkeypatch.setattr(health, "verify", lambda python: [("torch", "2.13.0+cpu", 1.0)])
    monkeypatch.setattr(health.drill, "drill", drill)
    monkeypatch.setattr(health, "OUT", tmp_path / "health")
    monkeypatch.setenv("TORCH_INDEX", "https://example.org/cpu")
    return asked


def test_a_green_check(compare, drilled, tmp_path):
    found = compare(alpha="1.2.4")
    report = health.check(found, ["00"], out=tmp_path, python="3.13.15")
    assert not report.problems
    assert drilled["pins"] == found.pins
    assert drilled["index"] == "https://example.org/cpu"
    assert drilled["folder"] == tmp_path / "environment"
    assert drilled["python"] == tmp_path / "environment" / "bin" / "python"
    assert drilled["lessons"] == ["00"]
    text = report.text(DATE)
    assert text.startswith("# The course and Colab's packages on 2026-11-22\n\n**Green: the drill passed")
    assert "1 pin moved: 1 patch." in text
    assert "(Colab: 3.13.15). 6 packages, ready after 0 s. torch is 2.13.0+cpu, where Colab has 2.11.0;" in text
    assert "00_start_here  12.0  19  ok" in text
    assert "not as on Colab" not in text  # said of yesterday's Colab


def test_a_red_drill(compare, drilled, tmp_path):
    drilled["green"] = False
    report = health.check(compare(), [], out=tmp_path)
    assert drilled["lessons"] is None  # all
    assert report.verdict == "Red: 1 problem."
    assert "torch is" in report.text(DATE)
    assert "- The drill is not green" in report.text(DATE)


def test_pins_that_cannot_be_installed_are_a_finding(compare, drilled, tmp_path):
    drilled["fails"] = "The installation failed:\nERROR: No matching distribution found for alpha==1.2.4"
    report = health.check(compare(alpha="1.2.4"), [], out=tmp_path, python="3.13.15")
    assert "lessons" not in drilled
    text = report.text(DATE)
    assert "(Colab: 3.13.15).\n" in text
    assert "**Red: 1 problem.**\n\n- The installation failed:\n\n````text\nERROR: No matching" in text
    assert "| alpha   | 1.2.3     | 1.2.4  | patch |" in text


def test_colab_s_own_torch_needs_no_note(compare, drilled, tmp_path, monkeypatch):
    monkeypatch.setattr(health, "verify", lambda python: [("torch", "2.11.0+cpu", 1.0)])
    assert "torch is" not in health.check(compare(), [], out=tmp_path).text(DATE)


def test_a_version_out_of_range_is_said_before_anything_is_installed(compare, drilled, tmp_path):
    report = health.check(compare(alpha="0.9"), [], out=tmp_path)
    assert report.problems == ["Colab has alpha 0.9, but pyproject.toml asks alpha>=1.0."]
    assert "pins" not in drilled


@pytest.fixture
def freeze(tmp_path, monkeypatch, drilled):
    """Return a function that writes colab.txt as a freeze with some versions changed; a copy of colab.txt is PINS."""
    copy = tmp_path / "colab.txt"
    copy.write_text(colab.PINS.read_text())
    monkeypatch.setattr(health, "PINS", copy)

    def write(**changes):
        path = tmp_path / "pip-freeze.txt"
        pins = colab.read_pins(colab.PINS) | changes
        path.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
        return str(path)

    return write


def test_the_command_reports_green(freeze, drilled, tmp_path, capsys):
    assert command(["health", freeze(einops="0.8.3"), "00", "04"]) == 0
    assert drilled["lessons"] == ["00", "04"]
    assert drilled["pins"]["einops"] == "0.8.3"
    printed = capsys.readouterr().out
    assert "1 pin moved: 1 patch." in printed
    assert "Green: the drill passed with these packages." in printed
    assert "00_start_here  12.0  19  ok" in (tmp_path / "health" / "report.md").read_text()
    assert (tmp_path / "colab.txt").read_text() == colab.PINS.read_text()


def test_unchanged_pins_are_drilled_too(freeze, drilled, capsys):
    assert command(["health", freeze()]) == 0
    assert drilled["lessons"] is None
    assert "No pin moved." in capsys.readouterr().out


def test_the_command_is_red_where_a_requirement_is_not_met(freeze, drilled, tmp_path, capsys):
    assert command(["health", freeze(numpy="1.26.4"), "--update"]) == 1
    assert "pins" not in drilled
    assert "Colab has numpy 1.26.4, but pyproject.toml asks numpy>=2.0." in capsys.readouterr().out
    assert "**Red: 1 problem.**" in (tmp_path / "health" / "report.md").read_text()
    assert (tmp_path / "colab.txt").read_text() == colab.PINS.read_text()


def test_the_command_is_red_where_the_drill_is(freeze, drilled):
    drilled["green"] = False
    assert command(["health", freeze()]) == 1


def test_colab_s_python_is_read_beside_the_freeze(freeze, tmp_path, capsys):
    (tmp_path / "os-info.txt").write_text("# comment\nUbuntu 24.04 LTS\nPython 3.14.2\nR version 4.5.1\n")
    assert command(["health", freeze()]) == 1
    assert "Colab runs Python 3.14.2" in capsys.readouterr().out
    (tmp_path / "os-info.txt").write_text("nothing of use\n")
    assert command(["health", freeze()]) == 0


def test_an_update_after_a_comparison(freeze, drilled, tmp_path):
    assert command(["health", freeze(tqdm="4.71.0"), "--no-drill", "--update", "--date", "2026-11-20"]) == 0
    assert "pins" not in drilled
    lines = (tmp_path / "colab.txt").read_text().splitlines()
    assert "tqdm==4.71.0" in lines
    assert "freeze of 2026-11-20" in lines[0]
    assert len(lines) == len(colab.PINS.read_text().splitlines())
    assert "**Not drilled, compared only.**" in (tmp_path / "health" / "report.md").read_text()


def test_a_page_instead_of_a_freeze_is_refused(tmp_path, capsys):
    path = tmp_path / "pip-freeze.txt"
    path.write_text("<html>rate limit</html>")
    assert command(["health", str(path)]) == 1
    assert "Expected is what" in capsys.readouterr().err


def test_the_environment_command_says_what_it_installed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(colab, "environment", lambda folder, pins, *, torch_index: folder / "bin" / "python")
    monkeypatch.setattr(colab, "verify", lambda python: [("torch", "2.13.0", 1.25)])
    options = argparse.Namespace(folder=tmp_path / "there", pins=_pins(tmp_path, "torch==2.11.0\n"))
    assert colab.main(options) == 0
    assert re.search(r"1 packages into .*there(.|\n)*torch +2\.13\.0 +1\.2 s", capsys.readouterr().out)


# --- what GitHub runs --------------------------------------------------------------------------------------------

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_workflows_fit_their_schema_and_a_broken_one_does_not(tmp_path):
    pytest.importorskip("check_jsonschema")
    assert {path.stem for path in WORKFLOWS} == {"test", "health", "site"}
    broken = tmp_path / "broken.yml"
    broken.write_text(WORKFLOWS[0].read_text().replace("runs-on:", "runs-at:"))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    done = subprocess.run([*command, "--output-format", "json", *WORKFLOWS, broken], capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert {error["filename"] for error in found["errors"]} == {str(broken)}, found["errors"]
    assert "runs-at" in done.stdout
    assert not found["parse_errors"]


def _faults(text):
    """Say what is wrong with a workflow: commands and Pythons that do not exist, rights, times, and whose actions."""
    yaml = pytest.importorskip("yaml")
    from packaging.specifiers import SpecifierSet

    flow = yaml.safe_load(text)
    project = (ROOT / "pyproject.toml").read_text()
    supported = SpecifierSet(re.search(r'^requires-python = "(.*)"', project, re.MULTILINE)[1])
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    found = []
    if flow.get("permissions") != {"contents": "read"}:
        found.append("its jobs may do more than read unless they say otherwise")
    if "concurrency" not in flow:
        found.append("no concurrency group")
    for name, job in flow["jobs"].items():
        if "timeout-minutes" not in job:
            found.append(f"{name} has no time limit")
        pythons = job.get("strategy", {}).get("matrix", {}).get("python", [])
        for step in job["steps"]:
            if "uses" in step and not re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]):
                found.append(f"{step['uses']} is no official action with its major version")
            pythons = [*pythons, step.get("with", {}).get("python-version", "${{")]
            lines = step.get("run", "").splitlines()
            for word in [word for line in lines for word in re.findall(r"(?:^|&& |; )make ([a-z]+)", line.strip())]:
                if word not in targets:
                    found.append(f"make {word} does not exist")
            for script in re.findall(r"^\S*/\S+", step.get("run", ""), re.MULTILINE):
                if not os.access(ROOT / script, os.X_OK):
                    found.append(f"{script} does not exist")
        for version in pythons:
            if not isinstance(version, str):
                found.append(f"Python {version} is a number; write it in quotes")
            elif not version.startswith("${{") and not supported.contains(f"{version}.0"):
                found.append(f"Python {version} is not supported")
    secrets = re.findall(r"secrets\.(?!GITHUB_TOKEN)\w+", text)
    return found + [f"{name} is needed" for name in secrets]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_ask_for_little_and_name_what_exists(path):
    assert _faults(path.read_text()) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "fault"),
    [
        ("test", "run: .ci/run", "run: .ci/walk", ".ci/walk does not exist"),
        ("test", '"3.11"', "3.11", "Python 3.11 is a number"),
        ("test", '"3.13"', '"3.14"', "Python 3.14 is not supported"),
        ("test", "timeout-minutes: 90", "name: test", "test has no time limit"),
        ("test", "contents: read", "contents: write", "may do more than read"),
        ("test", "actions/checkout@v6", "actions/checkout@main", "actions/checkout@main is no official action"),
        ("health", "concurrency:", "defaults:", "no concurrency group"),
        ("health", "make health", "make healthy", "make healthy does not exist"),
        ("health", "github.token", "secrets.TOKEN", "secrets.TOKEN is needed"),
        ("site", "run: make site", "run: cd . && make sites", "make sites does not exist"),
        ("site", '"3.13"', '"3.10"', "Python 3.10 is not supported"),
    ],
)
def test_a_fault_in_a_workflow_is_seen(name, old, new, fault):
    text = (ROOT / ".github" / "workflows" / f"{name}.yml").read_text()
    assert old in text
    assert any(fault in found for found in _faults(text.replace(old, new)))


def test_only_the_jobs_that_publish_or_report_may_write():
    yaml = pytest.importorskip("yaml")
    rights = {
        (path.stem, name, right)
        for path in WORKFLOWS
        for name, job in yaml.safe_load(path.read_text())["jobs"].items()
        for right, level in job.get("permissions", {}).items()
        if level != "read"
    }
    assert rights == {("health", "health", "issues"), ("site", "publish", "pages"), ("site", "publish", "id-token")}
