"""Packs a directory of captures into the archives beside this file: ``python pack.py DIR [FOLDER...]``.

Boots and workloads are packed as they are. Traces go in their columnar form, not compressed by itself, as xz
finds more in it than zlib does (2 MB for 29 MB of gzipped text). One trace has its first lines as text, too.
Of slab caches, what describes them is packed; of their traces, the sizes and places of objects, counted, and
of some caches of SLUB each allocation and free; in an archive of their own, the events of SLAB and SLOB in
columns with the lines of slabinfo that each command changed. Of vmalloc, of processes and of NUMA balancing
the files that are used are packed, without memory tiering.
The same input and the same liblzma give the same bytes.
"""

from __future__ import annotations

import gzip
import io
import lzma
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fidelity.allocations import count_allocations
from fidelity.kmem_events import pack_events
from fidelity.oom import packed_reports, packed_scores
from fidelity.slab_steps import pack_steps
from fidelity.slub_work import PACKED, packed_work, work_captures

from numa_service.trace.columnar import write_ntrace
from numa_service.trace.reader import open_trace

HERE = Path(__file__).resolve().parent
FOLDERS = (
    "topologies",
    "workloads",
    "traces",
    "slab",
    "vmalloc",
    "processes",
    "balancing",
    "slab-traces",
    "oom",
)
#: What is packed of a capture of slab caches, besides its traces.
SLAB_FILES = {"scenario.json", "guest.sh", "slab.txt", "slab-attributes.txt", "slabinfo.txt", "tunables.txt"}
#: The allocators whose objects are compared by size and place.
SLAB_TRACES = ("slab", "slob")
#: The trace whose first lines are kept as text, too, and how many of them.
TEXT_OF = "numa-2n-big/forkmix"
TEXT_LINES = 20_000
#: Of captures of vmalloc: what is compared, and what says how it was made.
VMALLOC_FILES = {"vmallocinfo.txt", "meminfo.txt", "module-files.txt", "scenario.json", "guest.sh"}
#: Of captures of scripts, besides their steps.
SCRIPTED = ("processes", "balancing")
PROCESS_FILES = {"s.gps", "scenario.json", "guest.sh", "zoneinfo.txt", "numa_balancing-params.txt"}


def contents(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """What goes into the archive of one folder."""
    if folder.name == "slab":
        yield from slab_contents(folder)
        return
    if folder.name == "slab-traces":
        yield from slab_traces(folder.with_name("slab"))
        return
    if folder.name == "oom":
        yield from oom_contents(folder)
        return
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if folder.name == "vmalloc" and path.name not in VMALLOC_FILES:
            continue
        if folder.name in SCRIPTED and path.parent.name != "steps" and path.name not in PROCESS_FILES:
            continue
        if path.is_relative_to(folder) and "tiering" in path.parts:
            continue
        if path.name == "t.trace.gz":
            yield path.with_name("t.ntrace"), columnar(path)
            if path.parent == folder / TEXT_OF:
                with gzip.open(path) as text:
                    yield path.with_name("start.trace"), b"".join(islice(text, TEXT_LINES))
        else:
            yield path, path.read_bytes()


def slab_contents(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """What goes into the archive of captures of slab caches."""
    for capture in sorted(path for path in folder.glob("*/*") if path.is_dir()):
        for path in sorted(path for path in capture.iterdir() if path.name in SLAB_FILES):
            yield path, path.read_bytes()
        if capture.parent.name.endswith(SLAB_TRACES) and (traces := sorted(capture.glob("*.trace.gz"))):
            rows = [row.line() for trace in traces for row in count_allocations(trace)]
            yield capture / "allocations.txt", "".join(f"{row}\n" for row in rows).encode()
    for capture in work_captures(folder.parent):
        yield capture / PACKED, packed_work(capture).encode()


def slab_traces(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """What goes into the archive of traces of slab caches: the folder is that of the captures."""
    for trace in sorted(folder.glob("*/*/*.trace.gz")):
        if trace.parent.parent.name.endswith(SLAB_TRACES):
            workload = trace.with_name(trace.name.removesuffix(".trace.gz"))
            yield workload.with_suffix(".kmem"), pack_events(trace)
            if steps := pack_steps(workload):
                yield workload.with_suffix(".steps"), steps


def oom_contents(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Reports of OOM kills, also those of memory groups, and the scores of tasks between them."""
    for log in sorted(
        [*folder.glob("*/*/dmesg-end.txt"), *folder.with_name("memcg").glob("*/*/dmesg-end.txt")]
    ):
        capture = folder / log.parent.relative_to(folder.parent).as_posix().replace("oom/", "", 1)
        if reports := packed_reports(log.read_text(errors="replace")):
            yield capture / "reports.txt", reports.encode()
            yield capture / "scenario.json", log.with_name("scenario.json").read_bytes()
        if scores := packed_scores(log.parent):
            yield capture / "scores.txt", scores.encode()


def columnar(text: Path) -> bytes:
    """A trace in the columnar form."""
    with tempfile.TemporaryDirectory() as scratch, open_trace(text) as trace:
        output = Path(scratch) / "t.ntrace"
        write_ntrace(output, trace.header, trace, trace.counts, trace.kswapd, compress=False)
        return output.read_bytes()


def pack(folder: Path) -> None:
    """One folder of captures into one archive: without owners, times and modes, files of a name together."""
    files = sorted(contents(folder), key=lambda item: (item[0].name, item[0]))
    archive = HERE / f"{folder.name}.tar.xz"
    preset = 9 | lzma.PRESET_EXTREME
    with tarfile.open(archive, "w:xz", format=tarfile.PAX_FORMAT, preset=preset) as out:
        for path, content in files:
            member = tarfile.TarInfo(str(path.relative_to(folder.parent)))
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))
    print(f"{archive.name}: {len(files)} files, {archive.stat().st_size} bytes")


if __name__ == "__main__":
    for name in sys.argv[2:] or FOLDERS:
        pack(Path(sys.argv[1]).resolve() / name)
