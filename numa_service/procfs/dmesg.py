"""The boot log, as dmesg(1) prints it (``print_time`` in kernel/printk)."""

from __future__ import annotations

from numa_service.mm.snapshot import MachineSnapshot


def dmesg(snapshot: MachineSnapshot) -> str:
    """The lines ``[    0.198181] text`` of the boot log; times are virtual."""
    return "".join(f"{_stamp(seconds)}{text}\n" for seconds, text in snapshot.dmesg)


def kmsg(snapshot: MachineSnapshot) -> str:
    """``/proc/kmsg``: ``<4>[   22.233905] text`` for each line, all of them at every read.

    A kernel gives each line to one reader once, and waits for more; here a log has as many readers as like.
    """
    return "".join(f"<{level}>{_stamp(seconds)}{text}\n" for seconds, level, text in snapshot.kmsg)


def _stamp(seconds: float) -> str:
    whole, micros = divmod(round(seconds * 1_000_000), 1_000_000)
    return f"[{whole:>5}.{micros:06}] "
