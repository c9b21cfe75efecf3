"""The vmstat tick: what each CPU does about its counters and pagesets every vm.stat_interval seconds.

These are ``need_update`` and ``refresh_cpu_vm_stats`` of ``mm/vmstat.c``, and ``decay_pcp_high`` of
``mm/page_alloc.c`` (since 6.7). CPUs are named by their position among all CPUs of the machine.
"""

from __future__ import annotations

from numa_service.mm.pcp import PCP_BATCH_SCALE_MAX, free_pcppages_bulk
from numa_service.mm.pgdata import PCP_ACTIVE, PCP_EXPIRE, PCP_HIGH_NOW, TUNE_PAGESET, PgData
from numa_service.mm.variants import PAGESET_AUTO_TUNED
from numa_service.mm.vmstat import NR_FREE_PAGES

#: Ticks without a change after which a pageset of another node's CPU is drained (refresh_cpu_vm_stats).
PAGESET_EXPIRE_TICKS = 3


def need_update(pg: PgData) -> bool:
    """Whether a tick of any CPU would find something to do on this node (need_update)."""
    tuning = pg.pcp_tuning
    wanted = tuning[:, :, PCP_ACTIVE].any() or pg.free_delta.any()
    wanted = wanted or ((tuning[:, :, PCP_EXPIRE] > 0) & (pg.pcp_count > 0)).any()
    if pg.tune[TUNE_PAGESET] == PAGESET_AUTO_TUNED:
        high = tuning[:, :, PCP_HIGH_NOW]
        wanted = wanted or (high > pg.pcp_high).any() or (pg.pcp_count > high).any()
    return bool(wanted)


def refresh_cpu_vm_stats(pg: PgData, cpu: int, zone: int) -> None:
    """One tick of one CPU for one zone (refresh_cpu_vm_stats).

    It adds the CPU's part of NR_FREE_PAGES to the zone's counter and lets an auto-tuned `high` decay. If the
    CPU is another node's and has left the zone alone for PAGESET_EXPIRE_TICKS, one batch is drained.
    """
    pcp = pg.pcp_tuning[cpu, zone]
    pg.vm_stat[zone, NR_FREE_PAGES] += pg.free_delta[cpu, zone]
    pg.free_delta[cpu, zone] = 0
    if pcp[PCP_ACTIVE]:
        pcp[PCP_ACTIVE] = 0
        pcp[PCP_EXPIRE] = PAGESET_EXPIRE_TICKS
    if pg.tune[TUNE_PAGESET] == PAGESET_AUTO_TUNED:
        decay_pcp_high(pg, cpu, zone)
    if not pcp[PCP_EXPIRE] or not pg.pcp_count[cpu, zone]:
        return
    if pg.cpu_local[cpu]:
        pcp[PCP_EXPIRE] = 0
        return
    pcp[PCP_EXPIRE] -= 1
    if not pcp[PCP_EXPIRE]:
        free_pcppages_bulk(pg, zone, cpu, int(pg.pcp_batch[zone]), 0)


def decay_pcp_high(pg: PgData, cpu: int, zone: int) -> None:
    """Lower `high` of an auto-tuned pageset by an eighth, and free the pages above it (decay_pcp_high)."""
    floor, high = int(pg.pcp_high[zone]), int(pg.pcp_tuning[cpu, zone, PCP_HIGH_NOW])
    count = int(pg.pcp_count[cpu, zone])
    if high > floor:
        most = int(pg.pcp_batch[zone]) << PCP_BATCH_SCALE_MAX
        high = max(count - most, high - (high >> 3), floor)
        pg.pcp_tuning[cpu, zone, PCP_HIGH_NOW] = high
    if count > high:
        free_pcppages_bulk(pg, zone, cpu, count - high, 0)
