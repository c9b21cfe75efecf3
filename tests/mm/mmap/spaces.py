"""Address spaces of tests: a program with a heap and a stack, and short words for mapping."""

from __future__ import annotations

from collections.abc import Callable

from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.limits import Committed, Limits
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.mmap import MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, mmap
from numa_service.mm.mmap.rules import PAGE_SHIFT, PAGE_SIZE, X86_64, UserLayout, rules_of
from numa_service.mm.mmap.vma import File, Vma
from numa_service.mm.profile import LINUX_6_1, Profile

PAGE = PAGE_SIZE
TEXT = 0x400000
HEAP = 0x600000
#: Where tests map what they want side by side.
HERE = 0x1000_0000_0000
_DATA = vf.VM_READ | vf.VM_WRITE | vf.VM_MAY_ACCESS | vf.VM_ACCOUNT


def space(
    profile: Profile = LINUX_6_1,
    limits: Limits | None = None,
    layout: UserLayout = X86_64,
    committed: Committed | None = None,
) -> MmStruct:
    """A process: a page of text, a heap of four pages behind a page of .bss, a stack of three."""
    mm = MmStruct(layout, rules_of(profile), committed or Committed(1 << 20), limits)
    text = vf.VM_READ | vf.VM_EXEC | vf.VM_MAY_ACCESS
    stack = layout.stack_top - 3 * PAGE
    program = File("/bin/program", 8, 1, 11, writable=False)
    for start, pages, flags, file in (
        (TEXT, 1, text, program),
        (HEAP - PAGE, 1, _DATA, None),
        (HEAP, 4, _DATA, None),
        (stack, 3, _DATA | vf.VM_GROWSDOWN, None),
    ):
        vma = Vma(start, start + pages * PAGE, flags, start >> PAGE_SHIFT, file)
        mm.tree.insert(vma)
        mm.stat_account(flags, pages)
        if flags & vf.VM_ACCOUNT:
            mm.charge(pages)
    mm.start_brk, mm.brk = HEAP, HEAP + 4 * PAGE
    mm.start_stack = layout.stack_top - 64
    return mm


def place(mm: MmStruct, first: int, pages: int, prot: int = 3, flags: int = 0) -> int:
    """Private anonymous memory at page `first` from HERE on."""
    address, _ = mmap(
        mm, HERE + first * PAGE, pages * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | flags
    )
    return address


def runs(mm: MmStruct) -> list[tuple[int, int]]:
    """Start and end, in pages from HERE on, of what was placed."""
    return [
        ((vma.start - HERE) // PAGE, (vma.end - HERE) // PAGE)
        for vma in mm.tree.intersecting(HERE, HERE + (1 << 30))
    ]


def outcome(call: Callable[[], object]) -> str:
    """The name of the error that a call ends with, or nothing."""
    try:
        call()
    except Errno as error:
        return error.name
    return ""
