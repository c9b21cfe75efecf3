"""Where the captures of real kernels are, for the tests that compare with them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

GROUNDTRUTH = Path(
    os.environ.get("NUMA_GROUNDTRUTH", Path(__file__).resolve().parents[2] / "shared" / "groundtruth")
)

requires_groundtruth = pytest.mark.skipif(
    not (GROUNDTRUTH / "topologies").is_dir(),
    reason=f"no captures at {GROUNDTRUTH}: set NUMA_GROUNDTRUTH",
)


def topologies() -> list[Path]:
    """Every captured boot, in name order; empty when there are no captures here."""
    root = GROUNDTRUTH / "topologies"
    return sorted(p for p in root.iterdir() if (p / "zoneinfo.txt").exists()) if root.is_dir() else []
