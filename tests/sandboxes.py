"""What the tests of the grader share: a sandbox, or the reason why there is none."""

import os
import shutil

import pytest

needs_bwrap = pytest.mark.skipif(
    shutil.which("bwrap") is None and os.environ.get("CI") != "true",
    reason="bubblewrap is not installed here; the grader's sandbox is not tested",
)
