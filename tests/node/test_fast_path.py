"""The fast path in one op has the same effect as a walk, and its caches are emptied when outdated."""

from __future__ import annotations

import random
from typing import Any

import pytest
from node.by_hand import ByHand

from numa_service.machine.source import load
from numa_service.mm.gfp import GFP_HIGHUSER_MOVABLE, GFP_KERNEL, Gfp
from numa_service.node import ops, prepare
from numa_service.node.errors import InvalidRequest
from numa_service.node.free_pages import free_pages
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.node import Node
from numa_service.node.page_alloc import Allocation, alloc_pages
from numa_service.node.prepare import MAX_KINDS, MAX_REQUESTS, AllocRequest, PreparedRequests
from numa_service.node.unserved import AllocFailed

SPEC = load("demo")
POLICIES = (
    Policy(),
    Policy(PolicyMode.BIND, (0,)),
    Policy(PolicyMode.PREFERRED, (1,)),
    Policy(PolicyMode.INTERLEAVE, (0, 1)),
    Policy(PolicyMode.PREFERRED_MANY, (0, 2)),
)
FLAGS = (GFP_KERNEL, GFP_HIGHUSER_MOVABLE, GFP_KERNEL | Gfp.ZERO, Gfp.KSWAPD_RECLAIM | Gfp.HIGH)


def run(seed: int, requests: int = 150) -> tuple[list[object], dict[int, Node]]:
    """Make requests on two CPUs of node 0 until memory is short; return their results, and the nodes."""
    shell = ByHand(SPEC)
    node = shell.nodes[0]
    session = node.apply(ops.OpenSession("client", 10**15, 0))
    rng = random.Random(seed)  # what is asked for, not a secret
    told: list[object] = []
    held: list[tuple[int, Allocation]] = []
    for _ in range(requests):
        cpu = rng.choice(node.pgdat.cpus)
        if held and rng.random() < 0.3:
            order, got = held.pop(rng.randrange(len(held)))
            told.append(shell.call(0, free_pages(node, session, order, got.pages, cpu)))
            continue
        order = rng.choice((0, 0, 0, 1, 3, 9))
        count = rng.randrange(1, 4000 >> order) if order < 9 else rng.randrange(1, 40)
        policy, gfp = rng.choice(POLICIES), int(rng.choice(FLAGS))
        partial, explain = rng.random() < 0.5, rng.random() < 0.3
        request = AllocRequest(session, gfp, order, count, cpu, policy, partial, explain)
        try:
            got = shell.call(0, alloc_pages(node, request))
        except AllocFailed as failed:
            told.append((str(failed), failed.explanation))
        else:
            told.append(got)
            held.append((order, got))
    assert [problem for each in shell.nodes.values() for problem in each.check()] == []
    return told, shell.nodes


def state(node: Node) -> tuple[object, ...]:
    return node.digest(), node.load.state, node.alloc_failures


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_walk_in_one_op(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    told, nodes = run(seed)
    original = PreparedRequests._prepare
    monkeypatch.setattr(PreparedRequests, "_prepare", lambda *args: original(*args)._replace(here=()))
    walked, walking = run(seed)
    assert told == walked
    assert {nid: state(node) for nid, node in nodes.items()} == {
        nid: state(node) for nid, node in walking.items()
    }
    kinds: dict[type[Any], int] = {}
    for op in nodes[0].log:
        kinds[type(op)] = kinds.get(type(op), 0) + 1
    assert sum(op.spends for op in nodes[0].log if isinstance(op, ops.Alloc)) > 20
    assert kinds[ops.Spend] < sum(isinstance(op, ops.Spend) for op in walking[0].log)


@pytest.mark.parametrize("seed", range(2))
def test_its_log_leads_to_the_same_state(seed: int) -> None:
    _, nodes = run(seed)
    for nid, node in nodes.items():
        again = Node.replay(SPEC, nid, list(node.log))
        assert (again.digest(), again.load.state) == (node.digest(), node.load.state)


def test_what_is_prepared_is_kept_until_memory_comes_or_goes() -> None:
    node = Node.boot(SPEC, 0)
    first = node.prepared(GFP_KERNEL, Policy())
    assert first.here
    assert node.prepared(GFP_KERNEL, Policy()) is first
    request = AllocRequest(1, GFP_KERNEL, 0, 7, 0, Policy())
    alloc = node.prepared.alloc(request, node.owner(1))
    assert alloc.op
    assert node.prepared.alloc(request._replace(), node.owner(1)) is alloc
    assert node.prepared.alloc(request._replace(session=2), node.owner(2)).op != alloc.op
    node.machine.managed = dict(node.machine.managed)  # as memory_notify() leaves it
    assert node.prepared.alloc(request, node.owner(1)) is not alloc
    assert node.prepared(GFP_KERNEL, Policy()) is not first


@pytest.mark.parametrize("wrong", [{"count": 0}, {"order": 99}, {"cpu": 99}])
def test_what_was_refused_is_refused_again(wrong: dict[str, int]) -> None:
    node = Node.boot(SPEC, 0)
    request = AllocRequest(1, GFP_KERNEL, 0, 7, 0, Policy())._replace(**wrong)
    for _ in range(2):
        with pytest.raises(InvalidRequest, match=next(iter(wrong))):
            node.prepared.alloc(request, node.owner(1))


def test_what_is_prepared_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node.boot(SPEC, 0)
    made: list[int] = []
    original = PreparedRequests._prepare
    monkeypatch.setattr(PreparedRequests, "_prepare", lambda *args: made.append(args[1]) or original(*args))
    kinds = [GFP_KERNEL | 1 << bit | 1 << other for bit in range(16, 40) for other in range(40, 60)]
    for gfp in kinds:
        node.prepared(gfp, Policy())
        assert len(node.prepared._known) <= MAX_KINDS
    for count in range(1, MAX_REQUESTS + 10):
        node.prepared.alloc(AllocRequest(1, GFP_KERNEL, 0, count, 0, Policy()), node.owner(1))
        assert len(node.prepared._requests) <= MAX_REQUESTS
    assert len(made) == len({*kinds, GFP_KERNEL})
    assert len(set(kinds)) > prepare.MAX_KINDS
