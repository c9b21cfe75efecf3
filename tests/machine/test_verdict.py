"""The verdict on a Mem-Info report: the walk with its arithmetic, and when the numbers explain nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from skips import NO_MEM_INFO

from numa_service.machine import verdict as v
from numa_service.machine.formats.mem_info import Report, parse_mem_info

REPORTS = Path(__file__).parents[1] / "testdata" / "mem_info"
CORPUS = Path(os.environ.get("NUMA_MEM_INFO", "/nonexistent"))

#: What the index of the public reports says, in numbers: the cause, and by (node, zone) "min": pages under
#: the min mark alone; "short": under mark and reserve with the request's own pages; "high": under the high
#: mark with reserve; "above": above the min mark alone. All without what the request may not use.
FACTS: dict[str, tuple[str, dict[tuple[int, str], dict[str, int]]]] = {
    "01": (v.CAUSE_UNKNOWN, {(0, "Normal"): {"above": 6}, (0, "DMA32"): {"above": 733637}}),
    "02": (v.CAUSE_MARKS, {(0, "DMA32"): {"min": 19}, (0, "DMA"): {"short": 0}}),
    "04": (
        v.CAUSE_MARKS,
        {
            (3, "Normal"): {"min": 23},
            (3, "DMA32"): {"above": 493, "short": 12},
            (0, "DMA32"): {"above": 213477},
        },
    ),
    "05": (v.CAUSE_MARKS, {(0, "Normal"): {"min": 2740}}),
    "07": (v.CAUSE_MARKS, {(0, "DMA32"): {"min": 19}, (0, "DMA"): {"above": 598}}),
    "08": (
        v.CAUSE_LAST_TRY,
        {
            (0, "Normal"): {"min": 23},
            (0, "DMA32"): {"short": 81},
            (0, "DMA"): {"short": 11877},
            (1, "Normal"): {"above": 998, "high": 4682},
        },
    ),
    "10": (v.CAUSE_UNKNOWN, {(0, "DMA32"): {"above": 690101}, (0, "Normal"): {"above": 823380}}),
    "11": (
        v.CAUSE_UNKNOWN,
        {(1, "Normal"): {"above": 57266}, (2, "Normal"): {"above": 48350}, (3, "Normal"): {"above": 38571}},
    ),
    "13": (v.CAUSE_MARKS, {(0, "Normal"): {"min": 10339}, (0, "DMA32"): {"short": 351}}),
    "14": (v.CAUSE_MARKS, {(0, "DMA32"): {"min": 8}, (0, "DMA"): {"short": 3}}),
    "16": (v.CAUSE_LAST_TRY, {(3, "Normal"): {"above": 433, "high": 3897}}),
    "17": (v.CAUSE_MARKS, {(0, "DMA32"): {"short": 84}, (0, "Normal"): {"short": 471 + 13}}),
    "19": (v.CAUSE_MANUAL, {(0, "Normal"): {"above": 1010}}),
    "20": (v.CAUSE_NO_ZONE, {(0, "DMA32"): {"above": 63898}, (0, "Normal"): {"above": 1471331}}),
    "22": (
        v.CAUSE_MARKS,
        {
            (0, "Normal"): {"min": 67},
            (1, "Normal"): {"min": 125},
            (2, "Normal"): {"min": 342},
            (3, "Normal"): {"min": 253},
            (0, "DMA32"): {"short": 124},
        },
    ),
    "23": (v.CAUSE_NO_ZONE, {(4, "Movable"): {"above": 32503067}}),
    "25": (v.CAUSE_FRAGMENTED, {(0, "DMA"): {"above": 15394}}),
    "26": (v.CAUSE_MARKS, {(0, "Normal"): {"min": 48}, (0, "DMA"): {"short": 9}}),
    "28": (v.CAUSE_MANUAL, {(0, "DMA32"): {"above": 412957}}),
    "29": (v.CAUSE_ADDRESSES, {}),
    "31": (
        v.CAUSE_MARKS,
        {(0, "HighMem"): {"min": 13}, (0, "Normal"): {"short": 18}, (0, "DMA"): {"short": 4}},
    ),
    "32": (v.CAUSE_FRAGMENTED, {(0, "DMA32"): {"short": 6}}),
    "34": (v.CAUSE_MARKS, {(0, "Normal"): {"min": 12}, (0, "DMA32"): {"short": 82}}),
    "35": (v.CAUSE_MARKS, {(0, "DMA"): {"min": 1227}}),
    "37": (v.CAUSE_FRAGMENTED, {}),
    "38": (v.CAUSE_FRAGMENTED, {}),
    "40": (v.CAUSE_FRAGMENTED, {(0, "DMA"): {"short": 12250 + 15}}),
    "41": (v.CAUSE_MARKS, {(0, "DMA32"): {"min": 723}}),
    "43": (v.CAUSE_MARKS, {(0, "DMA"): {"min": 2788}}),
    "44": (v.CAUSE_LAST_TRY, {(0, "Normal"): {"min": 317}, (0, "DMA32"): {"short": -526 + 1}}),
    "46": (v.CAUSE_MARKS, {(0, "Normal"): {"min": 229 + 8}, (0, "DMA32"): {"short": 46}}),
}


def judged(name: str, *changes: tuple[str, str]) -> v.Verdict:
    text = (REPORTS / f"{name}.txt").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return v.judge(parse_mem_info(text, name))


def check_of(verdict: v.Verdict, nid: int, zone: str) -> v.ZoneCheck:
    (found,) = [check for check in verdict.checks if (check.zone.nid, check.zone.name) == (nid, zone)]
    return found


def test_a_policy_leaves_one_full_node() -> None:
    verdict = judged("bound")
    assert (verdict.explained, verdict.cause, verdict.allowed) == (True, v.CAUSE_MARKS, (1,))
    assert check_of(verdict, 0, "Normal").outcome == v.NODE_FORBIDDEN
    full = check_of(verdict, 1, "Normal")
    # 6000 free, min 6656 with a boost of 1024
    assert (full.outcome, full.short, full.boost) == (v.BELOW_MIN, 656, 1024)
    assert verdict.text[0].endswith("node 0 Normal, which is not allowed, had 1.5 GiB free.")


def test_of_several_zones_the_one_that_is_used_first_is_told() -> None:
    verdict = judged("bound", ("nodemask=1", "nodemask=0-1"), ("free:1600000kB", "free:22528kB"))
    assert verdict.text[0] == (
        "Node 0 Normal is just at min, and must be above; so is the other zone that it may use."
    )


def test_without_the_policy_the_other_node_could_have_served() -> None:
    verdict = judged("bound", ("nodemask=1", "nodemask=(null)"))
    assert (verdict.explained, verdict.cause) == (False, v.CAUSE_UNKNOWN)
    assert verdict.text[0] == "The numbers do not explain it: node 0 Normal is above its mark."


def test_the_last_try_before_a_kill_compares_with_high() -> None:
    changes = ("free:24000kB", "free:30000kB")
    verdict = judged("bound", changes)
    assert (verdict.explained, verdict.cause) == (True, v.CAUSE_LAST_TRY)
    assert check_of(verdict, 1, "Normal").short_of_high == 37888 // 4 - 7500
    assert (
        "node 1 Normal, the only zone that the request may use, is above min but 1972 pages"
        in verdict.text[0]
    )
    # a failed allocation has no such try
    failure = judged("bound", changes, ("loader invoked oom-killer:", "loader: page allocation failure:"))
    assert (failure.explained, failure.cause) == (False, v.CAUSE_UNKNOWN)


def test_pieces_that_are_too_small() -> None:
    verdict = judged("pieces")
    assert (verdict.explained, verdict.cause) == (True, v.CAUSE_FRAGMENTED)
    check = check_of(verdict, 0, "Normal")
    # the one large block is of the high-atomic reserve
    assert (check.outcome, check.blocks, check.blocks_kept) == (v.NO_BLOCK, 0, 1)
    assert verdict.text[0].endswith(
        "needs 64 kB in a row, and the largest free block is one of 16 kB, in node 0 Normal."
    )
    assert judged("pieces", ("1*2048kB (H)", "1*2048kB (U)")).cause == v.CAUSE_UNKNOWN


def test_pages_that_the_request_may_not_use() -> None:
    cma = ("order:4", "order:0"), ("free_cma:0kB", "free_cma:110000kB")
    verdict = judged("pieces", *cma)
    check = check_of(verdict, 0, "Normal")
    assert (check.cma, check.highatomic, check.outcome) == (27500, 512, v.BELOW_MIN)
    assert (
        "; 107.4 MiB more are free there in CMA areas, which the request may not use; 2.0 MiB"
        in verdict.text[0]
    )
    movable = judged("pieces", *cma, ("GFP_NOIO|__GFP_COMP", "GFP_HIGHUSER_MOVABLE"))
    assert check_of(movable, 0, "Normal").outcome == v.PASSES


def test_an_urgent_request_goes_below_min() -> None:
    check = check_of(judged("enough", ("free:80000kB", "free:1900kB")), 0, "Normal")
    # 1250 pages, half of it for __GFP_HIGH, and a quarter less for one that cannot wait
    assert (check.mark, check.lowered, check.short) == (1250, 469, 469 - 475)


def test_kernels_2_6_37_to_3_2_count_the_block_twice() -> None:
    for version, cost in (("2.6.32-400", 0), ("2.6.38-10", 2), ("3.2.0-24", 2), ("3.3.0", 0), ("6.1.0", 0)):
        assert check_of(judged("enough", ("2.6.32-400", version)), 0, "Normal").cost == cost


@pytest.mark.parametrize(("low", "rose"), [("low:32256kB", 0), ("low:34304kB", 512), ("low:33304kB", 0)])
def test_a_boost_that_is_not_printed_is_whole_pageblocks(low: str, rose: int) -> None:
    """Of 5.0 to 5.15: low - min is larger than high - low by what it grew by while they were printed."""
    changes = ("6.1.90-1", "5.4.0-1"), ("boost:4096kB ", ""), ("low:32256kB", low)
    verdict = judged("bound", *changes, ("high:37888kB", f"high:{int(low[4:-2]) + 5632}kB"))
    check = check_of(verdict, 1, "Normal")
    assert (check.boost, check.boost_rose) == (0, rose)


def test_old_kernels_do_not_count_smaller_blocks() -> None:
    changes = (("order:0", "order:5"), ("1250*64kB", "1249*64kB"), ("0*128kB", "1*128kB"))
    old = judged("enough", *changes)
    assert check_of(old, 0, "Normal").outcome == v.NO_BLOCK
    newer = judged("enough", *changes, ("2.6.32-400", "4.4.0"))
    assert check_of(newer, 0, "Normal").outcome == v.PASSES


def test_a_kill_by_hand_and_a_memory_cgroup() -> None:
    by_hand = judged("bound", ("order=0", "order=-1"))
    assert (by_hand.explained, by_hand.cause) == (True, v.CAUSE_MANUAL)
    limited = judged("bound", ("CONSTRAINT_MEMORY_POLICY", "CONSTRAINT_MEMCG"))
    assert (limited.explained, limited.cause) == (True, v.CAUSE_MEMCG)


def test_no_zone_that_the_flags_allow() -> None:
    verdict = judged("bound", ("Node 1 Normal", "Node 1 Movable"), ("GFP_HIGHUSER_MOVABLE", "GFP_KERNEL"))
    assert (verdict.explained, verdict.cause) == (True, v.CAUSE_NO_ZONE)
    assert "node 1 Movable is above Normal" in verdict.text[0]


def test_a_node_that_is_not_in_the_text_is_named() -> None:
    verdict = judged("bound", ("nodemask=1", "nodemask=1-2"), ("mems_allowed=0-1", "mems_allowed=0-2"))
    assert "zones of node 2 are not in the text: what they had free is not known" in verdict.assumed


@pytest.mark.parametrize("identity", FACTS)
def test_it_agrees_with_the_index_of_public_reports(identity: str) -> None:
    if not (CORPUS / "index.tsv").is_file():
        pytest.skip(NO_MEM_INFO)
    (path,) = CORPUS.glob(f"{identity}-*.txt")
    read: Report = parse_mem_info(path.read_text(), path.name)
    verdict = v.judge(read)
    cause, zones = FACTS[identity]
    assert verdict.cause == cause
    assert verdict.explained == (cause not in (v.CAUSE_UNKNOWN, v.CAUSE_ADDRESSES))
    for (nid, name), facts in zones.items():
        check = check_of(verdict, nid, name)
        mark = check.mark + check.boost_rose
        got = {
            "min": mark - check.usable,
            "above": check.usable - mark,
            "short": check.short,
            "high": check.short_of_high,
        }
        assert {fact: got[fact] for fact in facts} == facts, (nid, name)
