"""Programs whose memory a machine has that others use, too."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from numa_client import Machine

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "rpc"))

from answered import run
from loopback import Loopback

from numa_service.calls.served import ServedMachine

pytestmark = pytest.mark.usefixtures("notified")


class Up:
    """A machine on the loopback interface, in a thread: who answers calls needs the main one, for signals."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.machine = Loopback("demo")
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self._do(self.machine.start())

    def _do(self, what: object) -> None:
        asyncio.run_coroutine_threadsafe(what, self.loop).result(30)  # type: ignore[arg-type]  # start() and stop()

    def stop(self) -> None:
        """It answers no more."""
        self._do(self.machine.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@pytest.fixture
def up() -> Iterator[Up]:
    machine = Up()
    yield machine
    if machine.loop.is_running():
        machine.stop()


def test_a_program_lives_on_a_machine_that_is_up_and_leaves_nothing(up: Up) -> None:
    with Machine.connect(up.machine.address) as client:
        free = {nid: client.node(nid).free_pages for nid in (0, 1)}
        ran = run(
            """
            bound, spread = room(4000, touched=False), room(8, touched=False)
            assert call(MBIND, bound, 4000 << 12, BIND, mask(1), 64, 0) == 0
            assert call(MBIND, spread, 8 << 12, INTERLEAVE, mask(0, 1), 64, 0) == 0
            ctypes.memset(bound, 1, 4000 << 12)
            ctypes.memset(spread, 1, 8 << 12)
            there = where(bound, *(spread + (page << 12) for page in range(8)))
            free = int(open("/sys/devices/system/node/node1/meminfo").read().splitlines()[1].split()[3])
            libc.munmap(ctypes.c_void_p(bound), 4000 << 12)
            again = int(open("/sys/devices/system/node/node1/meminfo").read().splitlines()[1].split()[3])
            tell(bound=there[0], spread=sorted(there[1:]), given_back=again - free)
            os.kill(os.getpid(), 9)
            """,
            on=ServedMachine(client),
        )
        assert (ran.status, ran.err) == (-9, "")
        (told,) = ran.told
        # in kB; what is in pagesets is free, but not counted so
        assert 4000 < told.pop("given_back") <= 16_000
        assert told == {"bound": 1, "spread": [0, 0, 0, 0, 1, 1, 1, 1]}
        assert all(not server.node.sessions for server in up.machine.servers.values())
        assert client.check() == {}
        assert all(abs(client.node(nid).free_pages - free[nid]) < 2000 for nid in free)


def test_a_machine_that_goes_away_is_said_once_and_nobody_waits(
    up: Up, capsys: pytest.CaptureFixture[str]
) -> None:
    with Machine.connect(up.machine.address, timeout=1) as client:
        served = ServedMachine(client)
        up.stop()
        ran = run(
            """
            at = room(4)
            assert call(SET, BIND, mask(1), 64) == 0
            other = room(4)
            tell(here=where(at), there=where(other), policy=policy())
            """,
            on=served,
        )
    assert (ran.status, ran.err) == (0, "")
    assert ran.told == [{"here": [0], "there": [1], "policy": [2, 2]}]
    assert capsys.readouterr().err.count("does not answer any more") == 1
