"""What the creator of a cache passes to kmem_cache_create, and the alignment that follows from it."""

from __future__ import annotations

from dataclasses import dataclass

from numa_service.mm.slab.flags import NO_FLAGS, SlabFlag
from numa_service.mm.structs import PAGE_OFFSET

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
#: sizeof(void *) of x86_64.
WORD = 8
#: cache_line_size() of x86_64.
CACHE_LINE = 64
#: ARCH_SLAB_MINALIGN, the alignment of a long long, of x86_64 and i386 alike.
MIN_ALIGN = 8


@dataclass(frozen=True, slots=True)
class SlabArch:
    """What sizes and addresses of objects follow from on an architecture. Sizes are bytes."""

    #: sizeof(void *).
    word: int
    #: cache_line_size().
    cache_line: int
    #: Where the kernel's linear map of low memory begins, in which all objects are.
    page_offset: int


X86_64 = SlabArch(WORD, CACHE_LINE, PAGE_OFFSET["x86_64"])
#: The CPU of the captured boots, which has lines of 32 bytes (HWalign in the boot log).
I386 = SlabArch(4, 32, PAGE_OFFSET["i386"])
#: By the name of an architecture.
SLAB_ARCH = {"x86_64": X86_64, "i386": I386}


@dataclass(frozen=True, slots=True)
class KmemCacheArgs:
    """The arguments of kmem_cache_create_usercopy. Sizes are bytes."""

    name: str
    #: Size of an object.
    size: int
    #: Alignment that the creator asks for; 0 leaves it to the allocator.
    align: int = 0
    flags: SlabFlag = NO_FLAGS
    #: Their constructor, as %pS prints a function of the kernel; "": they have none.
    ctor: str = ""
    #: How much of an object may be copied to and from user space.
    usersize: int = 0
    #: The creator says where in the object the free pointer may be (use_freeptr_offset, since 6.12).
    freeptr: bool = False


def align_up(value: int, to: int) -> int:
    """The next multiple of a power of two (ALIGN)."""
    return (value + to - 1) & -to


def get_order(size: int) -> int:
    """The smallest order of pages that holds so many bytes; 0 for no bytes at all."""
    return (max(size, 1) - 1 >> PAGE_SHIFT).bit_length()


def calculate_alignment(flags: SlabFlag, align: int, size: int, arch: SlabArch = X86_64) -> int:
    """The alignment of a cache in bytes (calculate_alignment).

    SLAB_HWCACHE_ALIGN asks for a cache line, and for objects of half a line or less for half of one, and so
    on.
    """
    if SlabFlag.HWCACHE_ALIGN in flags:
        line = arch.cache_line
        while size <= line // 2:
            line //= 2
        align = max(align, line)
    return align_up(max(align, MIN_ALIGN), arch.word)
