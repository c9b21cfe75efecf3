"""The client that ``demo`` kills: it takes pages with a short lease, prints how many, and holds them."""

from __future__ import annotations

import sys
import time

from numa_client import Machine, NumaError


def main(address: str) -> None:
    """Take 64 MiB on node 1, or what there is, and hold them until killed."""
    with Machine.connect(address) as machine, machine.session(node=1, lease_seconds=1, name="demo-lost") as s:
        held = []
        for _ in range(16):
            try:
                held.append(s.alloc(count=1024))
            except NumaError:
                break
        print(sum(allocation.nr_pages for allocation in held), flush=True)
        time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1])
