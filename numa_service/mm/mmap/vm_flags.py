"""The flags of a VMA (``include/linux/mm.h``), and their spelling in ``/proc/PID/smaps``."""

from __future__ import annotations

from typing import Final

VM_READ: Final = 1 << 0
VM_WRITE: Final = 1 << 1
VM_EXEC: Final = 1 << 2
VM_SHARED: Final = 1 << 3
VM_MAYREAD: Final = 1 << 4
VM_MAYWRITE: Final = 1 << 5
VM_MAYEXEC: Final = 1 << 6
VM_MAYSHARE: Final = 1 << 7
VM_GROWSDOWN: Final = 1 << 8
VM_PFNMAP: Final = 1 << 10
VM_LOCKED: Final = 1 << 13
VM_IO: Final = 1 << 14
VM_SEQ_READ: Final = 1 << 15
VM_RAND_READ: Final = 1 << 16
VM_DONTCOPY: Final = 1 << 17
VM_DONTEXPAND: Final = 1 << 18
VM_LOCKONFAULT: Final = 1 << 19
VM_ACCOUNT: Final = 1 << 20
VM_NORESERVE: Final = 1 << 21
VM_HUGETLB: Final = 1 << 22
VM_SYNC: Final = 1 << 23
VM_WIPEONFORK: Final = 1 << 25
VM_DONTDUMP: Final = 1 << 26
VM_SOFTDIRTY: Final = 1 << 27
VM_MIXEDMAP: Final = 1 << 28
VM_HUGEPAGE: Final = 1 << 29
VM_NOHUGEPAGE: Final = 1 << 30
VM_MERGEABLE: Final = 1 << 31
VM_DROPPABLE: Final = 1 << 40

VM_ACCESS_FLAGS: Final = VM_READ | VM_WRITE | VM_EXEC
VM_MAY_ACCESS: Final = VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC
#: VMAs of devices and of the kernel's own: neither merged nor locked.
VM_SPECIAL: Final = VM_IO | VM_DONTEXPAND | VM_PFNMAP | VM_MIXEDMAP
VM_LOCKED_MASK: Final = VM_LOCKED | VM_LOCKONFAULT

#: show_smap_vma_flags: a mnemonic for each flag, in the order of their bits.
MNEMONICS: Final[tuple[tuple[int, str], ...]] = (
    (VM_READ, "rd"),
    (VM_WRITE, "wr"),
    (VM_EXEC, "ex"),
    (VM_SHARED, "sh"),
    (VM_MAYREAD, "mr"),
    (VM_MAYWRITE, "mw"),
    (VM_MAYEXEC, "me"),
    (VM_MAYSHARE, "ms"),
    (VM_GROWSDOWN, "gd"),
    (VM_PFNMAP, "pf"),
    (VM_LOCKED, "lo"),
    (VM_IO, "io"),
    (VM_SEQ_READ, "sr"),
    (VM_RAND_READ, "rr"),
    (VM_DONTCOPY, "dc"),
    (VM_DONTEXPAND, "de"),
    (VM_LOCKONFAULT, "lf"),
    (VM_ACCOUNT, "ac"),
    (VM_NORESERVE, "nr"),
    (VM_HUGETLB, "ht"),
    (VM_SYNC, "sf"),
    (VM_WIPEONFORK, "wf"),
    (VM_DONTDUMP, "dd"),
    (VM_SOFTDIRTY, "sd"),
    (VM_MIXEDMAP, "mm"),
    (VM_HUGEPAGE, "hg"),
    (VM_NOHUGEPAGE, "nh"),
    (VM_MERGEABLE, "mg"),
    (VM_DROPPABLE, "dp"),
)


def flags_text(flags: int, *, unnamed: int = 0) -> str:
    """The VmFlags line of smaps without its label: "rd wr mr mw me ac sd ".

    `unnamed`: flags that the kernel has and does not name; it prints "??" for them.
    """
    return "".join(f"{'??' if bit & unnamed else name} " for bit, name in MNEMONICS if flags & bit)


def flags_of(text: str) -> int:
    """The flags that a VmFlags line names. KeyError for a mnemonic that no flag here has."""
    bits = {name: bit for bit, name in MNEMONICS}
    return sum(bits[name] for name in text.split())


def is_stack_mapping(flags: int) -> bool:
    """Whether a VMA counts as stack (VmStk)."""
    return bool(flags & VM_GROWSDOWN)


def is_exec_mapping(flags: int) -> bool:
    """Whether a VMA counts as program text (VmExe and VmLib)."""
    return flags & (VM_EXEC | VM_WRITE | VM_GROWSDOWN) == VM_EXEC


def is_data_mapping(flags: int) -> bool:
    """Whether a VMA counts as private data (VmData)."""
    return flags & (VM_WRITE | VM_SHARED | VM_GROWSDOWN) == VM_WRITE


def accountable_mapping(flags: int) -> bool:
    """Whether memory is promised for a mapping: private, writable, and without MAP_NORESERVE."""
    return flags & (VM_NORESERVE | VM_SHARED | VM_WRITE) == VM_WRITE
