"""Recording rules that give our metrics the names of node_exporter, for dashboards that know only those.

Only what the model counts has a rule: a metric that is always 0 would look like a measurement. The per-node
LRU and event counters that /proc/zoneinfo prints under a node's first zone
(node_zoneinfo_nr_active_anon_pages and the like) are left out, as node_memory_numa_* has them.
"""

from __future__ import annotations

from collections.abc import Iterator

from numa_service.mm.mmzone import PAGE_SIZE, ZONE_NAMES
from numa_service.mm.vmstat import NUMA_EVENT_NAMES, NUMASTAT_NAMES, vm_event_names

_NODE, _ZONE = "machine, node", "machine, node, zone"
_PAGES, _LRU = "numa_zone_pages", "numa_lru_pages"
#: Name after node_zoneinfo_ → selector of our metric.
_ZONEINFO = {
    "nr_free_pages": f'{_PAGES}{{state="free"}}',
    "spanned_pages": f'{_PAGES}{{state="spanned"}}',
    "present_pages": f'{_PAGES}{{state="present"}}',
    "managed_pages": f'{_PAGES}{{state="managed"}}',
    # /proc/zoneinfo prints watermarks with the boost included
    "min_pages": 'numa_zone_watermark_pages{level=~"min|boost"}',
    "low_pages": 'numa_zone_watermark_pages{level=~"low|boost"}',
    "high_pages": 'numa_zone_watermark_pages{level=~"high|boost"}',
}
#: Lines that /proc/meminfo and a node's meminfo have in common → selector of our metric.
_MEMINFO = {
    "MemTotal": f'{_PAGES}{{state="managed"}}',
    "MemFree": f'{_PAGES}{{state="free"}}',
    "Active": f'{_LRU}{{list=~"active_.*"}}',
    "Inactive": f'{_LRU}{{list=~"inactive_.*"}}',
    "Active_anon": f'{_LRU}{{list="active_anon"}}',
    "Inactive_anon": f'{_LRU}{{list="inactive_anon"}}',
    "Active_file": f'{_LRU}{{list="active_file"}}',
    "Inactive_file": f'{_LRU}{{list="inactive_file"}}',
    "AnonPages": 'numa_node_pages{state="anon"}',
    "Dirty": 'numa_node_pages{state="dirty"}',
}
_FILE = 'numa_node_pages{state="file"}'


_HEAD = """\
# Written by `make dashboards` from numa_service/metrics/node_exporter.py: for dashboards that know only
# node_exporter. A machine is an instance of the job "node".
groups:
  - name: node_exporter
    rules:
"""


def node_exporter_rules() -> str:
    """The text of the Prometheus rule file."""
    rules = (
        f"      - record: {name}\n        expr: '{_as_exporter(expr)}'\n        labels: {{job: node}}\n"
        for name, expr in _names()
    )
    return _HEAD + "".join(rules)


def _as_exporter(expr: str) -> str:
    """The expression with the machine's name as label `instance`, which node_exporter's hosts have."""
    return f'label_replace({expr}, "instance", "$1", "machine", "(.+)")'


def _names() -> Iterator[tuple[str, str]]:
    yield (
        "node_uname_info",
        'label_replace(group by (machine) (numa_node_info), "nodename", "$1", "machine", "(.+)")',
    )
    size = 'label_replace(numa_zone_free_blocks, "size", "$1", "order", "(.+)")'
    yield "node_buddyinfo_blocks", f"sum by ({_ZONE}, size) ({size})"
    for name, selector in _ZONEINFO.items():
        yield f"node_zoneinfo_{name}", f"sum by ({_ZONE}) ({selector})"
    for name, selector in (_MEMINFO | {"FilePages": _FILE}).items():
        yield f"node_memory_numa_{name}", f"sum by ({_NODE}) ({selector}) * {PAGE_SIZE}"
    used = f"sum by ({_NODE}) ({_MEMINFO['MemTotal']}) - sum by ({_NODE}) ({_MEMINFO['MemFree']})"
    yield "node_memory_numa_MemUsed", f"({used}) * {PAGE_SIZE}"
    for item in NUMASTAT_NAMES:
        yield f"node_memory_numa_{item}_total", f'sum by ({_NODE}) (numa_stat_total{{item="{item}"}})'
    for name, selector in (_MEMINFO | {"Cached": _FILE}).items():
        yield f"node_memory_{name}_bytes", f"sum by (machine) ({selector}) * {PAGE_SIZE}"
    total, used = (f'sum by (machine) (numa_swap_pages{{state="{state}"}})' for state in ("total", "used"))
    yield "node_memory_SwapTotal_bytes", f"{total} * {PAGE_SIZE}"
    yield "node_memory_SwapFree_bytes", f"({total} - {used}) * {PAGE_SIZE}"
    for name, item in zip(NUMA_EVENT_NAMES, NUMASTAT_NAMES, strict=True):
        yield f"node_vmstat_{name}", f'sum by (machine) (numa_stat_total{{item="{item}"}})'
    for event in _events():
        yield f"node_vmstat_{event}", f'sum by (machine) (numa_vm_events_total{{event="{event}"}})'


def _events() -> list[str]:
    """The vm events of every architecture, each once, in the order of the kernel's enum."""
    return [
        event
        for event in dict.fromkeys(name for zones in ZONE_NAMES.values() for name in vm_event_names(zones))
        if event
    ]
