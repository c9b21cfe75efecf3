"""A node's ops as lines of text: what golden transcripts and bug reports are made of.

One line an op, in the order in which ops were applied; a reader sees the zonelist being walked.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any

from numa_service.mm.mmzone import ZONE_NAMES
from numa_service.mm.page_alloc import ALLOC_WMARK_LOW, ALLOC_WMARK_MASK
from numa_service.node import ops
from numa_service.node.ops import Op


class Transcript:
    """Collects the ops of any number of nodes; give :meth:`observe` to each as its observer."""

    def __init__(self, arch: str) -> None:
        self._zones = ZONE_NAMES[arch]
        self.lines: list[str] = []

    def observe(self, nid: int, op: Op[Any], result: Any) -> None:
        """Note one applied op; of those that only account for time, none."""
        if isinstance(op, ops.Spend | ops.Rest):
            return
        self.lines.append(f"node{nid} {_line(op, result, self._zones)}")

    def comment(self, text: str) -> None:
        """Note what happens outside the nodes."""
        self.lines.append(f"# {text}")

    @property
    def text(self) -> str:
        """All lines."""
        return "".join(f"{line}\n" for line in self.lines)


@singledispatch
def _line(op: Op[Any], result: Any, zones: tuple[str, ...]) -> str:
    fields = " ".join(f"{name}={getattr(op, name)}" for name in op.__dataclass_fields__)  # type: ignore[attr-defined]
    return f"{type(op).__name__} {fields} -> {result}"


def _who(owner: ops.Owner) -> str:
    return f"owner={owner.nid}:{owner.id}"


@_line.register
def _(op: ops.Alloc, result: ops.AllocResult, zones: tuple[str, ...]) -> str:
    mark = "low" if op.alloc_flags & ALLOC_WMARK_MASK == ALLOC_WMARK_LOW else "min"
    names = ",".join(zones[zone] for zone in op.zones)
    left = " ".join(f"{zones[state.zone]}={state.free}" for state in result.zones)
    return (
        f"alloc {_who(op.owner)} order={op.order} zones={names} above={mark} "
        f"want={op.count} got={len(result.pfns) // 8} free: {left}"
    )


@_line.register
def _(op: ops.Touch, result: ops.TouchResult, zones: tuple[str, ...]) -> str:
    pages = len(op.pfns) // 8
    return f"touch {_who(op.owner)} pages={pages} gone={sum(result.gone)} swapped_in={result.swapped_in}"


@_line.register
def _(op: ops.FillRegion, result: None, zones: tuple[str, ...]) -> str:
    return f"fill region={op.region} from=node{op.nid} pages={len(op.pfns) // 8}"


@_line.register(ops.Free)
@_line.register(ops.Release)
@_line.register(ops.FreeOwner)
def _(op: ops.Free | ops.Release | ops.FreeOwner, result: int, zones: tuple[str, ...]) -> str:
    return f"{type(op).__name__.lower()} {_who(op.owner)} -> {result} pages"


@_line.register
def _(op: ops.CountForeign, result: None, zones: tuple[str, ...]) -> str:
    return f"numa_foreign zone={zones[op.zone]} count={op.count}"


@_line.register
def _(op: ops.WakeKswapd, result: bool, zones: tuple[str, ...]) -> str:
    outcome = "woken" if result else "not needed"
    return f"wakeup_kswapd order={op.order} classzone={zones[op.highest_zoneidx]} {outcome}"


@_line.register
def _(op: ops.Reclaim, result: ops.ReclaimResult, zones: tuple[str, ...]) -> str:
    return f"direct_reclaim priority={op.priority} scanned={result.scanned} reclaimed={result.reclaimed}"


@_line.register
def _(op: ops.KswapdBegin, result: ops.KswapdWork, zones: tuple[str, ...]) -> str:
    return f"kswapd begins order={result.order} aim={result.nr_to_reclaim}"


@_line.register
def _(op: ops.Balance, result: ops.BalanceResult, zones: tuple[str, ...]) -> str:
    if result.balanced and not op.boosted:
        return "kswapd balanced"
    name = "kswapd boosted" if op.boosted else "kswapd"
    return f"{name} priority={op.priority} scanned={result.scanned} reclaimed={result.reclaimed}"


@_line.register
def _(op: ops.KswapdSleep, result: bool, zones: tuple[str, ...]) -> str:
    return f"kswapd sleeps reclaimed={op.reclaimed}{' and is wanted again' if result else ''}"
