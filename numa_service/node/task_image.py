"""What a task has when its program begins: a small static program, as captured of a kernel that loaded one.

Offsets and lengths in pages are those of the program of the captures in ``tests/testdata/groundtruth`` (its
own path and command line are the caller's); the kernel's two VMAs and the stack are where it put them.
"""

from __future__ import annotations

from typing import Final

from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.mmap import PROT_READ
from numa_service.mm.mmap.rules import PAGE_SHIFT, PAGE_SIZE
from numa_service.mm.mmap.vma import File, Vma

_READ: Final = vf.VM_READ | vf.VM_MAY_ACCESS
_DATA: Final = _READ | vf.VM_WRITE | vf.VM_ACCOUNT
_VVAR: Final = vf.VM_READ | vf.VM_MAYREAD | vf.VM_PFNMAP | vf.VM_IO | vf.VM_DONTEXPAND | vf.VM_DONTDUMP
_VDSO: Final = _READ | vf.VM_EXEC | vf.VM_DONTEXPAND

#: Page of the first address of the program.
_BASE: Final = 0x400
#: Segments of the program's file: first page and end in it, and flags.
_SEGMENTS: Final = (
    (0x00, 0x01, _READ),
    (0x01, 0x7D, _READ | vf.VM_EXEC),
    (0x7D, 0xA5, _READ),
    (0xA5, 0xAC, _DATA),
)
#: Pages behind the file's: variables without a value (.bss), then the heap.
_BSS_END: Final = 0xDA
_HEAP_END: Final = 0xFC
#: Pages of the stack, and of the kernel's own VMAs below it on a 64-bit machine, without randomization.
_STACK_PAGES: Final = 33
_VVAR_PAGES, _VDSO_PAGES = 4, 2

#: What the program touches while it begins: first page and pages, and whether it writes.
BEGINS: Final = (
    (0x00, 0x7D, False),
    (0x7D, 1, False),
    (0x90, 1, False),
    (0xA7, 5, True),
    (0xD3, 2, True),
    (0xD8, 4, True),
)
#: Pages that it lets nobody write to any more after that: first page and pages.
RELRO: Final = (0xA5, 4)
#: Pages of the stack, from its end, that it has written to.
STACK_BEGINS: Final = 2


def load_image(mm: MmStruct, program: File) -> None:
    """Map a program (load_elf_binary). ENOMEM if memory cannot be promised."""
    promised = sum(end - first for first, end, flags in _SEGMENTS if flags & vf.VM_ACCOUNT)
    mm.charge(promised + _HEAP_END - _SEGMENTS[-1][1] + _STACK_PAGES)
    base = _BASE << PAGE_SHIFT
    for first, end, flags in _SEGMENTS:
        _map(
            mm,
            Vma(
                base + (first << PAGE_SHIFT),
                base + (end << PAGE_SHIFT),
                flags | vf.VM_SOFTDIRTY,
                first,
                program,
            ),
        )
    bss = _SEGMENTS[-1][1]
    for first, end in ((bss, _BSS_END), (_BSS_END, _HEAP_END)):
        start = base + (first << PAGE_SHIFT)
        _map(mm, Vma(start, base + (end << PAGE_SHIFT), _DATA | vf.VM_SOFTDIRTY, start >> PAGE_SHIFT))
    top = mm.layout.stack_top
    low = top - (_STACK_PAGES << PAGE_SHIFT)
    _map(mm, Vma(low, top, _DATA | vf.VM_GROWSDOWN, low >> PAGE_SHIFT))
    if mm.layout.pointer == 8:
        vvar = 0x7FFFF7FF9000
        vdso = vvar + (_VVAR_PAGES << PAGE_SHIFT)
        for name, start, pages, flags in (
            ("[vvar]", vvar, _VVAR_PAGES, _VVAR),
            ("[vdso]", vdso, _VDSO_PAGES, _VDSO),
        ):
            _map(mm, Vma(start, start + (pages << PAGE_SHIFT), flags | vf.VM_SOFTDIRTY, 0, special=name))
    mm.start_code, mm.end_code = base + PAGE_SIZE, base + (0x7D << PAGE_SHIFT)
    mm.start_data, mm.end_data = base + (0xA5 << PAGE_SHIFT), base + (0xAC << PAGE_SHIFT)
    mm.start_brk, mm.brk = base + (_BSS_END << PAGE_SHIFT), base + (_HEAP_END << PAGE_SHIFT)
    mm.start_stack = top - PAGE_SIZE
    mm.counters.hiwater_vm = mm.counters.total_vm


def _map(mm: MmStruct, vma: Vma) -> None:
    mm.tree.insert(vma)
    mm.stat_account(vma.flags, vma.pages)


def relro() -> tuple[int, int, int]:
    """The mprotect of what is only read after the program has begun: start, length in bytes, protection."""
    first, pages = RELRO
    return _BASE + first << PAGE_SHIFT, pages << PAGE_SHIFT, PROT_READ


def begins(mm: MmStruct) -> tuple[tuple[int, int, bool], ...]:
    """Return the ranges that a program touches while it starts: first byte, end, and whether it writes."""
    base = _BASE << PAGE_SHIFT
    own = [
        (base + (first << PAGE_SHIFT), base + (first + pages << PAGE_SHIFT), write)
        for first, pages, write in BEGINS
    ]
    top = mm.layout.stack_top
    return (*own, (top - (STACK_BEGINS << PAGE_SHIFT), top, True))
