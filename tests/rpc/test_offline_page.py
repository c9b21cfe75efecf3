"""soft_offline_page and hard_offline_page of a machine, over gRPC."""

from __future__ import annotations

import pytest
from loopback import Loopback
from numa_client import AsyncMachine, FailedPrecondition, InvalidRequest

SOFT, HARD = (f"/sys/devices/system/memory/{how}_offline_page" for how in ("soft", "hard"))


async def corrupted_kb(client: AsyncMachine) -> int:
    lines = (await client.read_file("/proc/meminfo")).splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("HardwareCorrupted:"))


async def test_pages_go_off_line_by_their_address(demo: Loopback, client: AsyncMachine) -> None:
    zone = max(demo.node(1).pgdat.extents, key=lambda extent: extent.managed)
    address = (zone.start_pfn + zone.spanned // 2) << 12
    assert await client.write_file(SOFT, f"{address:#x}\n") == ""
    assert await corrupted_kb(client) == 4
    assert await client.write_file(SOFT, str(address)) == ""  # it is bad already
    line = await client.write_file(HARD, str(address + 4096))
    pfn = (address >> 12) + 1
    assert line == f"Memory failure: {pfn:#x}: recovery action for free buddy page: Recovered"
    assert await corrupted_kb(client) == 8
    with pytest.raises(FailedPrecondition, match="EHWPOISON"):
        await client.write_file(HARD, str(address))
    assert demo.node(1).pgdat.memory_failure.pages == [pfn - 1, pfn]
    demo.check()


async def test_what_is_no_page_is_refused(demo: Loopback, client: AsyncMachine) -> None:
    for path in (SOFT, HARD):
        with pytest.raises(FailedPrecondition, match="ENXIO"):
            await client.write_file(path, "0x7ffffffff000")
        for text in ("x", "-1", "99999999999999999999", "12z", ""):
            with pytest.raises(InvalidRequest, match="EINVAL"):
                await client.write_file(path, text)
        with pytest.raises(FailedPrecondition, match="EACCES"):
            await client.read_file(path)
    assert await corrupted_kb(client) == 0
    demo.check()


async def test_a_page_that_is_held_stays(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(node=0) as session:
        (pfn,) = map(int, (await session.alloc()).pages[0])
        with pytest.raises(FailedPrecondition, match="EIO"):
            await client.write_file(SOFT, str(pfn << 12))
        assert await corrupted_kb(client) == 0
        with pytest.raises(FailedPrecondition, match=r"EBUSY.*Ignored"):
            await client.write_file(HARD, str(pfn << 12))
        assert await corrupted_kb(client) == 4
