"""Free blocks as the kernel printed them."""

from __future__ import annotations

from pathlib import Path

import pytest
from groundtruth import GROUNDTRUTH

from lab.pagetypeinfo import parse_pagetypeinfo, read_occupancy
from numa_service.machine.captured_buddyinfo import parse_buddyinfo
from numa_service.machine.spec import SpecError
from numa_service.mm.mmzone import MIGRATE_MOVABLE, MIGRATE_UNMOVABLE
from numa_service.trace.events import TraceError

BUDDYINFO = (
    "Node 0, zone   Normal 100007      3      1      2      1      2      2      3      2      1    186 \n"
)
PAGETYPEINFO = """\
Page block order: 9
Pages per block:  512

Free pages count per migrate type at order       0      1      2      3      4      5      6      7      8      9     10 
Node    0, zone   Normal, type    Unmovable      5      3      0      1      1      0      1      1      0      0      0 
Node    0, zone   Normal, type      Movable >100000     0      1      1      0      2      1      2      2      1    186 

Number of blocks type     Unmovable      Movable  Reclaimable   HighAtomic      Isolate 
Node 0, zone   Normal          103          405            4            0            0 
"""  # noqa: E501, W291 - the kernel's own columns

CAPTURES = sorted(GROUNDTRUTH.glob("traces/*/*/before")) + sorted(GROUNDTRUTH.glob("topologies/*"))
CAPTURES = [path for path in CAPTURES if (path / "pagetypeinfo.txt").is_file()]


def write(directory: Path, buddyinfo: str = BUDDYINFO, pagetypeinfo: str = PAGETYPEINFO) -> Path:
    (directory / "buddyinfo.txt").write_text(buddyinfo)
    (directory / "pagetypeinfo.txt").write_text(pagetypeinfo)
    return directory


def test_a_zone_is_read(tmp_path: Path) -> None:
    (zone,) = read_occupancy(write(tmp_path))
    assert (zone.nid, zone.zone) == (0, "Normal")
    assert zone.nr_free[MIGRATE_UNMOVABLE] == (5, 3, 0, 1, 1, 0, 1, 1, 0, 0, 0)
    assert zone.nr_free[MIGRATE_MOVABLE][5:] == (2, 1, 2, 2, 1, 186)
    assert zone.pageblocks == (103, 405, 4, 0, 0, 0)


def test_a_capped_count_is_completed_from_buddyinfo(tmp_path: Path) -> None:
    (capped,) = parse_pagetypeinfo(PAGETYPEINFO)
    assert capped.capped == ((MIGRATE_MOVABLE, 0),)
    assert capped.nr_free[MIGRATE_MOVABLE][0] == 100_000
    (zone,) = read_occupancy(write(tmp_path))
    assert zone.capped == ()
    assert zone.nr_free[MIGRATE_MOVABLE][0] == 100_002


def test_two_capped_counts_of_one_order_stay_lower_bounds(tmp_path: Path) -> None:
    both = PAGETYPEINFO.replace("     5      3      0", ">100000     3      0")
    (zone,) = read_occupancy(write(tmp_path, pagetypeinfo=both))
    assert zone.capped == ((MIGRATE_UNMOVABLE, 0), (MIGRATE_MOVABLE, 0))
    assert zone.nr_free[MIGRATE_MOVABLE][0] == zone.nr_free[MIGRATE_UNMOVABLE][0] == 100_000


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: "-".join(path.parts[-3:]))
def test_captures_agree_with_their_own_buddyinfo(capture: Path) -> None:
    buddyinfo = parse_buddyinfo((capture / "buddyinfo.txt").read_text())
    zones = read_occupancy(capture)
    assert [(z.nid, z.zone) for z in zones] == list(buddyinfo)
    for zone in zones:
        pages = sum(n << order for order, n in enumerate(buddyinfo[zone.nid, zone.zone]))
        # Two files, read one after the other while the kernel runs.
        assert abs(zone.free_pages - pages) <= 512, (zone.nid, zone.zone)


@pytest.mark.parametrize(
    ("buddyinfo", "pagetypeinfo", "reason"),
    [
        ("", PAGETYPEINFO, "buddyinfo: empty"),
        ("hello\n", PAGETYPEINFO, "buddyinfo line 1: not 'Node N, zone NAME counts': 'hello'"),
        (BUDDYINFO * 2, PAGETYPEINFO, "buddyinfo line 2: node 0 zone Normal is there twice"),
        (BUDDYINFO[:-5], PAGETYPEINFO, "buddyinfo line 1: 10 orders, not 11"),
        (BUDDYINFO.replace("Normal", "Movable"), PAGETYPEINFO, "pagetypeinfo has zones .* buddyinfo"),
        (BUDDYINFO, "", "pagetypeinfo: no free counts in it"),
        (BUDDYINFO, PAGETYPEINFO.replace("Unmovable", "Sticky"), "line 5: unknown migratetype 'Sticky'"),
        (BUDDYINFO, PAGETYPEINFO.replace("  Movable >", "Unmovable >"), "line 6: .* is there twice"),
        (BUDDYINFO, PAGETYPEINFO.split("\n\nNumber")[0], "no number of blocks for node 0 zone Normal"),
        (BUDDYINFO, PAGETYPEINFO.replace("            4", ""), "line 9: 4 pageblock counts for 5 types"),
        (BUDDYINFO, PAGETYPEINFO + "Node zero\n", "line 10: not understood: 'Node zero'"),
    ],
)
def test_what_is_not_understood_is_named(
    tmp_path: Path, buddyinfo: str, pagetypeinfo: str, reason: str
) -> None:
    with pytest.raises((TraceError, SpecError), match=reason) as raised:
        read_occupancy(write(tmp_path, buddyinfo, pagetypeinfo))
    assert "\n" not in str(raised.value)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"pagetypeinfo\.txt: No such file or directory"):
        read_occupancy(tmp_path)


def test_files_of_a_capture_lie_in_it(tmp_path: Path) -> None:
    capture = tmp_path / "before"
    capture.mkdir()
    write(capture)
    (capture / "buddyinfo.txt").unlink()
    (capture / "buddyinfo.txt").symlink_to("/etc/passwd")
    with pytest.raises(TraceError, match=r"buddyinfo.txt: a link that leaves") as caught:
        read_occupancy(capture)
    assert "root" not in str(caught.value).replace(str(tmp_path), "")
    (capture / "buddyinfo.txt").unlink()
    (capture / "buddyinfo.txt").write_text(f"Node 0, zone Normal {'9' * 5000}{' 0' * 10}\n")
    with pytest.raises(SpecError, match="buddyinfo line 1: not"):
        read_occupancy(capture)
