"""Why tests of public suites miss: by the names of the tests."""

from __future__ import annotations

from typing import Final

NOT_EXPLAINED: Final = "not explained"

_READ_ONLY = "/proc and /sys are read-only to the program, and the test writes there"

_CAUSES: Final = {
    "realloc_test": (
        "SIGSEGV on any kernel with more than 64 possible nodes: the test has eight bytes for a mask of all"
    ),
    "tshared": (
        "the memory is private, though the test takes it for shared: the children write copies, the parent "
        "reads the page of zeros, on any kernel"
    ),
    "migrate_pages03": f"{_READ_ONLY} (ksm)",
    "move_pages04": (
        "the machine's kernel, 6.1, tells EFAULT of a page that is not there; the test wants ENOENT, as "
        "later ones tell"
    ),
    "move_pages12": f"{_READ_ONLY} (drop_caches)",
    "numa01.sh": (
        "the test divides by the nodes that have CPUs, and interleaves over all that have memory: on any "
        "machine with a node of memory alone"
    ),
    "memory": (
        "free of procps 4 counts as used what is not available, psutil 5.9.8 what is neither free nor cached"
    ),
    "CPU times": "a CPU of the machine has no frequency, and one of the tests asks for it",
}


def cause(test: str) -> str:
    """Why a test misses."""
    return _CAUSES.get(test, NOT_EXPLAINED)
