"""Compiles the model's kernels before a command needs them, with progress on stderr.

``python -m numa_service.cli.compile`` only does this; images, tests and benchmarks run it.
"""

from __future__ import annotations

import sys

from rich.console import Console

from numa_service.cli.progress import steps
from numa_service.cluster.errors import ClusterError


def compile_first() -> None:
    """Compile the kernels unless this host's cache has them. ClusterError if that fails.

    Without this a command that allocates would compile them itself, on one CPU and without any progress
    shown.
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
