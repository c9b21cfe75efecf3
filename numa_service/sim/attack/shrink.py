"""Shortens a failing run: leaves out actions while it still fails (delta debugging, Zeller 1999)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from numa_service.sim.attack.plan import Plan


def shrink(plan: Plan, fails: Callable[[Plan], bool]) -> tuple[int, ...]:
    """Return the indexes of actions that suffice for a plan to fail; `fails` runs a plan."""
    kept = tuple(range(len(plan.actions)))
    parts = 2
    while len(kept) > 1:
        size = -(-len(kept) // parts)
        without = [kept[:at] + kept[at + size :] for at in range(0, len(kept), size)]
        smaller = next((some for some in without if fails(only(plan, some))), None)
        if smaller is not None:
            kept, parts = smaller, max(2, parts - 1)
        elif size == 1:
            break
        else:
            parts = min(len(kept), 2 * parts)
    return kept


def only(plan: Plan, places: tuple[int, ...]) -> Plan:
    """Return a plan with only the actions at some indexes."""
    return replace(plan, actions=tuple(plan.actions[place] for place in places))
