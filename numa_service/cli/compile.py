"""Compiling the kernels before they are needed, and saying so.

``python -m numa_service.cli.compile`` does nothing else: for images, tests and benchmarks.
"""

from __future__ import annotations

import sys

from rich.console import Console

from numa_service.cli.progress import steps
from numa_service.cluster.errors import ClusterError


def compile_first() -> None:
    """Compile the kernels if this host has not yet, with progress on stderr. ClusterError.

    A command that allocates would take as long by itself, on one CPU and without a word.
    """
    from numa_service.cluster.kernels import compile_here
    from numa_service.mm import jit

    if jit.is_compiled():
        return
    with steps(Console(stderr=True)) as progress:
        compile_here(progress)


if __name__ == "__main__":
    try:
        compile_first()
    except ClusterError as error:
        sys.exit(f"numa-service: {error}")
