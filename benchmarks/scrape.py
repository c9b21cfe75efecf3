"""The cost of a scrape: of a node of 64, whose metrics are largest, and for clients of a scraped node."""

from __future__ import annotations

import asyncio
import contextlib
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import grpc.aio
from serve import Served, rate
from servers import serving
from table import Row

#: CPUs that are needed at once: for a client and a server.
CPUS = 2
#: The Accept header of Prometheus 2 and 3, which prefer OpenMetrics.
ACCEPT = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
SCRAPES = 50
#: Seconds between scrapes: five times as often as deploy/prometheus/prometheus.yml.
INTERVAL = 1.0
_ROUNDS = 8
#: Pairs of calls in a round, which takes two seconds, so that every round with scrapes has some.
_PAIRS = 2000


def scrape(url: str) -> tuple[float, int]:
    """Scrape once; returns the seconds it took, and the bytes of the answer."""
    request = urllib.request.Request(url, headers={"Accept": ACCEPT})
    start = time.perf_counter()
    with urllib.request.urlopen(request, timeout=10) as reply:
        size = len(reply.read())
    return time.perf_counter() - start, size


def _largest() -> Row:
    with serving("of-64") as (_, url):
        took = [scrape(url)[0] for _ in range(SCRAPES)]
    return Row(
        "scrape_64_nodes",
        statistics.median(took) * 1e3,
        "ms",
        goal=50,
        goal_of_ratio=False,
        at_least=False,
    )


#: Scrapes for ever, or only sleeps. It runs in a process of its own, so that the client has its interpreter
#: alone.
_SCRAPER = """
import sys, time, urllib.request
while True:
    request = urllib.request.Request(sys.argv[1], headers={"Accept": sys.argv[2]})
    if sys.argv[4] == "True":
        urllib.request.urlopen(request, timeout=10).read()
    time.sleep(float(sys.argv[3]))
"""


@contextlib.contextmanager
def _scraper(url: str, scrapes: bool) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", _SCRAPER, url, ACCEPT, str(INTERVAL), str(scrapes)])
    time.sleep(INTERVAL)  # until it has started
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def _cpu_seconds(url: str) -> float:
    with urllib.request.urlopen(url, timeout=10) as reply:
        found = re.search(rb"^process_cpu_seconds_total (.*)$", reply.read(), re.M)
    assert found
    return float(found[1])


async def _loaded(node: str, url: str) -> Row:
    """Calls per CPU second of the node, which other load of the host does not change."""
    async with grpc.aio.insecure_channel(node) as channel:
        served = Served(channel)
        await served.open()

        async def calls_a_second() -> float:
            before = _cpu_seconds(url)
            await rate(lambda: served.pair(32), _PAIRS, 16)
            return 2 * _PAIRS / (_cpu_seconds(url) - before)

        await calls_a_second()
        alone: list[float] = []
        scraped: list[float] = []
        for _ in range(_ROUNDS):
            # the same process and pause in both cases, as a node is slow for a while after a pause
            for found, scrapes in ((alone, False), (scraped, True)):
                with _scraper(url, scrapes):
                    found.append(await calls_a_second())
    return Row(
        "grpc_32_pages_while_scraped",
        statistics.median(scraped),
        "calls/CPU s",
        "without scrapes",
        statistics.median(alone),
        0.98,
    )


def rows() -> list[Row]:
    """Every row of this part."""
    with serving("node") as (node, url):
        return [_largest(), asyncio.run(_loaded(node, url))]


if __name__ == "__main__":
    from table import show

    show(rows())
