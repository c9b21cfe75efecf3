"""Every kernel is compiled before an actor starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
from numa_service.mm import jit
from numa_service.node.warm import warm_kernels
assert not jit.is_compiled()
assert warm_kernels()
assert jit.is_compiled()
assert not warm_kernels()
"""


@pytest.mark.slow
def test_an_empty_cache_is_filled_with_every_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    # it raises when a kernel was left out
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=280)
