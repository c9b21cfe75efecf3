"""Objects of slab caches in text of traces, and what is refused."""
# lines of traces are as kernels print them
# ruff: noqa: E501

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from numa_service.mm.gfp import GFP_KERNEL, Gfp
from numa_service.trace.events import TraceError
from numa_service.trace.slab_events import SlabEvent, read_slab_events

TEXT = """# tracer: nop
              gp-159     [003] .....    36.575761: kmalloc: call_site=single_open+0x2a/0xa0 ptr=ffff8880201a2560 bytes_req=30 bytes_alloc=32 gfp_flags=GFP_KERNEL|__GFP_ZERO node=1 accounted=true
              gp-159     [003] .....    36.575762: kmem_cache_alloc: call_site=a+0x1/0x2 ptr=00000000e5cc00aa bytes_req=256 bytes_alloc=256 gfp_flags=GFP_KERNEL node=-1 accounted=true
          <idle>-0       [001] ..s1.    36.575763: kmem_cache_free: call_site=__fput+0x100/0x250 ptr=00000000e5cc00aa name=filp
              gp-159     [003] .....    36.575765: kfree: call_site=b+0x1/0x2 ptr=ffff8880201a2560
              gp-159     [003] .....    36.575766: kfree: call_site=b+0x1/0x2 ptr=0000000000000000
              gp-159     [003] .....    36.575767: mm_page_alloc: page=1 pfn=0x1 order=0 migratetype=0 gfp_flags=GFP_KERNEL
            perf  5537 [001]  1185.349462: kmem:kmem_cache_alloc: call_site=x ptr=0xffff888020206000 bytes_req=96 bytes_alloc=96 gfp_flags=GFP_KERNEL node=-1
"""


def test_events_are_read(tmp_path: Path) -> None:
    packed, plain = tmp_path / "t.gz", tmp_path / "t"
    packed.write_bytes(gzip.compress(TEXT.encode()))
    plain.write_text(TEXT)
    zeroed = int(GFP_KERNEL | Gfp.ZERO)
    assert (
        read_slab_events(packed)
        == read_slab_events(plain)
        == [
            SlabEvent(True, 36_575_761_000, 3, 0xFFFF8880201A2560, "", 30, zeroed, 1),
            SlabEvent(True, 36_575_762_000, 3, 0xE5CC00AA, "filp", 256, int(GFP_KERNEL)),
            SlabEvent(False, 36_575_763_000, 1, 0xE5CC00AA, "filp"),
            SlabEvent(False, 36_575_765_000, 3, 0xFFFF8880201A2560),
            # what is never freed has no name in a trace of 6.1
            SlabEvent(True, 1_185_349_462_000, 1, 0xFFFF888020206000, "unnamed-96", 96, int(GFP_KERNEL)),
        ]
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no event of kmalloc"),
        (
            "x-1 [000] ..... 1.000001: kmalloc: call_site=a bytes_req=1 gfp_flags=GFP_KERNEL\n",
            "line 1: no field ptr",
        ),
        ("x-1 [000] ..... 1.000001: kfree: call_site=a ptr=xyz\n", "line 1: invalid literal"),
        (
            "x-1 [000] ..... 1.000001: kmalloc: ptr=ff bytes_req=99999999 gfp_flags=GFP_KERNEL\n",
            "line 1: bytes_req=99999999 is not in",
        ),
        (f"{'x' * 5000}\n", "line 1 has more than 4096 bytes"),
    ],
)
def test_a_bad_trace_is_refused_in_one_line(tmp_path: Path, text: str, why: str) -> None:
    trace = tmp_path / "bad.trace"
    trace.write_text(text)
    with pytest.raises(TraceError, match=why) as refused:
        read_slab_events(trace)
    assert "\n" not in str(refused.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="No such file"):
        read_slab_events(tmp_path / "none")
    cut = tmp_path / "cut.gz"
    cut.write_bytes(gzip.compress(TEXT.encode())[:-30])
    with pytest.raises(TraceError, match="damaged gzip file"):
        read_slab_events(cut)
