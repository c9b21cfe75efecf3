"""Memory policies over real servers: what a kernel refuses, and pages that move because somebody asks."""

from __future__ import annotations

from errno import EFAULT, ENODEV

import pytest
from loopback import Loopback
from numa_client import AsyncMachine, FailedPrecondition, InvalidRequest, Policy, PolicyFlag, PolicyMode


async def test_modes_that_the_kernel_has_not_are_refused_with_its_errno(client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session:
        for policy, message in (
            (Policy.weighted_interleave(0, 1), "EINVAL: linux-6.1 has no weighted_interleave"),
            (Policy(PolicyMode.INTERLEAVE, (0,), home_node=1), "EOPNOTSUPP: interleave has no home node"),
            (Policy.bind(0, home_node=9), "EINVAL: there is no node 9"),
            (Policy(PolicyMode.LOCAL, (), None, PolicyFlag.STATIC), "EINVAL: local with these flags"),
            (Policy(PolicyMode.LOCAL, (1,)), "the local policy takes no nodes"),
        ):
            with pytest.raises(InvalidRequest, match=message):
                await session.alloc(count=1, policy=policy)


async def test_home_nodes_and_relative_nodes(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session:
        near = await session.alloc(count=5, policy=Policy.bind(0, 1, home_node=1))
        assert near.pages_by_node == {1: 5}
        local = await session.alloc(count=5, policy=Policy.local())
        assert local.pages_by_node == {0: 5}
        second = Policy(PolicyMode.BIND, (1,), flag=PolicyFlag.RELATIVE)
        assert (await session.alloc(count=5, policy=second)).pages_by_node == {1: 5}
        told = (await session.explain(count=5, policy=Policy.bind(0, 1, home_node=1))).explanation
        assert told.policy == Policy.bind(0, 1, home_node=1)
        assert "  policy: bind:0-1, home node 1\n" in str(told)
    demo.check()


async def test_pages_of_regions_move(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session:
        region = await session.map_region("anon", 20, Policy.bind(0))
        await region.touch(0, 10, write=True)
        with pytest.raises(FailedPrecondition, match="EIO: 10 pages are on other nodes than bind:1"):
            await region.mbind(Policy.bind(1), strict=True)
        moved = await region.mbind(Policy.interleave(1, 2), 0, 8, move=True)
        assert (moved.moved_pages, moved.failed_pages) == (8, 0)
        where = await region.move_pages(range(10))
        assert (where.status, where.errno) == ((1, 2, 1, 2, 1, 2, 1, 2, 0, 0), 0)
        status = await region.move_pages([0, 1, 15, 99, 2], [0, 0, 0, 0, 7])
        assert (status.status, status.errno) == ((0, 0, -EFAULT, -EFAULT), ENODEV)
        assert (await session.migrate_pages([0], [2])).moved_pages == 4
        assert (await region.move_pages(range(10))).status == (2, 2, 1, 2, 1, 2, 1, 2, 2, 2)
        with pytest.raises(InvalidRequest, match="EPERM"):
            await session.migrate_pages([0], [5])
        with pytest.raises(InvalidRequest, match="EINVAL"):
            await session.migrate_pages([0], [])
        with pytest.raises(InvalidRequest, match="EFAULT"):
            await region.mbind(None, 15, 6)
        assert await region.unmap() == 10
    demo.check()
