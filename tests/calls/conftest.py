"""Fixtures of the tests of answered calls."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from answered import is_allowed
from skips import NO_USER_NOTIFICATION


@pytest.fixture
def notified() -> None:
    """The host's kernel hands calls over."""
    if not is_allowed():
        pytest.skip(NO_USER_NOTIFICATION)
