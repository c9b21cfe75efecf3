"""Fixtures and hooks that every test folder shares."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest
from skips import pytest_make_collect_report, pytest_runtest_makereport

__all__ = ["pytest_make_collect_report", "pytest_runtest_makereport"]

#: Longest time of a test that is marked slow, in seconds, and of one that is marked ray, which may have to
#: start a Ray and a machine on a busy host; of any other the one in pyproject.toml.
SLOW_SECONDS, RAY_SECONDS = 3600, 1200


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite", action="store_true", help="take down what scenarios print now")


@pytest.hookimpl(trylast=True)  # other folders have marked their tests
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(SLOW_SECONDS))
        elif item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.timeout(RAY_SECONDS))
    # files that boot machines on Ray take minutes each: were one of them last, all workers but one would idle
    on_ray = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in on_ray)
