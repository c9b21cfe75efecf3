"""Every test here runs on every machine, and needs a mount namespace."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from emulated import PRESETS, Emulated, emulated, namespaces_are_allowed
from skips import NO_MOUNT_NAMESPACE


@pytest.fixture(params=PRESETS)
def machine(request: pytest.FixtureRequest) -> Emulated:
    if not namespaces_are_allowed():
        pytest.skip(NO_MOUNT_NAMESPACE)
    return emulated(request.param)
