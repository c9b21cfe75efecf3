"""Packs a directory of captures into the archives beside this file: ``python pack.py DIR``.

Boots and workloads are packed as they are. Traces go in their columnar form, not compressed by itself, as xz
finds more in it than zlib does (2 MB for 29 MB of gzipped text). One trace has its first lines as text, too.
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

from numa_service.trace.columnar import write_ntrace
from numa_service.trace.source import open_trace

HERE = Path(__file__).resolve().parent
FOLDERS = ("topologies", "workloads", "traces")
#: The trace whose first lines are kept as text, too, and how many of them.
TEXT_OF = "numa-2n-big/forkmix"
TEXT_LINES = 20_000


def contents(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """What goes into the archive of one folder."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.name == "t.trace.gz":
            yield path.with_name("t.ntrace"), columnar(path)
            if path.parent == folder / TEXT_OF:
                with gzip.open(path) as text:
                    yield path.with_name("start.trace"), b"".join(islice(text, TEXT_LINES))
        else:
            yield path, path.read_bytes()


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
    for name in FOLDERS:
        pack(Path(sys.argv[1]).resolve() / name)
