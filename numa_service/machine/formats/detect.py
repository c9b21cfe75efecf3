"""Which format something is in, and reading it."""

from __future__ import annotations

import bz2
import codecs
import io
import lzma
import re
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from numa_service.machine.capture import load_capture
from numa_service.machine.files import decode, read_bytes
from numa_service.machine.formats.acpi import find_tables, is_acpi_table, read_acpi
from numa_service.machine.formats.draft import Draft, draft_of
from numa_service.machine.formats.hwloc_xml import is_hwloc_xml, read_hwloc_xml
from numa_service.machine.formats.numactl import is_numactl, read_numactl
from numa_service.machine.formats.qemu import is_qemu, read_qemu
from numa_service.machine.formats.synthetic import is_synthetic, read_synthetic
from numa_service.machine.formats.sysfs import find_tree, read_sysfs
from numa_service.machine.formats.unknown import looks_like
from numa_service.machine.machinefile import parse_machine
from numa_service.machine.spec import SpecError

#: What can be read, by name. Directories, binary files and texts.
IMPORTS = ("toml", "capture", "sysfs", "hwloc-xml", "synthetic", "numactl", "qemu", "acpi")
_DIRECTORIES = ("capture", "sysfs", "acpi")
_ZONEINFO = ("zoneinfo.txt", "proc/zoneinfo")
#: A first line as ``name = "x"`` or ``[[node]]``; not an option, nor a node in brackets and levels.
_TOML_LINE = re.compile(r"""(?!-)[\w."'-]+\s*=|\[\[?[\w.\s"'-]+\]\]?\s*(?:#.*)?$""")
_TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
#: hwloc-gather-topology of 256 CPUs has 16,000 files, 1 MB packed.
_MAX_TAR_FILES = 30_000
#: Those of them that are unpacked: 8192 CPUs on 64 nodes have 17,000.
_MAX_TREE_FILES = 18_000
_MAX_TAR_BYTES = 32 << 20
_MAX_PACKED_BYTES = 4 << 20
#: Of a text, what is looked at to find out what it is.
_START = 64 << 10
_STDIN_NAME = "stdin"
_XZ_MEMORY = 72 << 20
#: What unpacks a file that begins so.
_PACKERS: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(wbits=31),
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY),
}

_TEXTS: dict[str, Callable[[str, str, str], Draft]] = {
    "numactl": read_numactl,
    "qemu": read_qemu,
    "synthetic": read_synthetic,
    "toml": lambda text, source, name: draft_of(parse_machine(text, source, name)),
}


def read_source(source: str, form: str | None = None, stdin: bytes | None = None) -> Draft:
    """The machine that a path, ``-`` (`stdin`) or a string means, checked. `form` is one of IMPORTS, or None.

    A string that is no path is a synthetic description or a QEMU command line. SpecError names what is wrong,
    and where.
    """
    path = Path(source)
    try:
        if source == "-":
            draft = _content(stdin or b"", "standard input", _STDIN_NAME, form)
        elif _exists(path):
            draft = _directory(path, form) if path.is_dir() else _file(path, form)
        else:
            draft = _string(source, form)
    except RecursionError:
        raise SpecError(f"{source[:60]}: nested too deeply") from None
    except OSError as error:
        raise SpecError(f"{source[:60]}: {error.strerror or error}") from None
    try:
        draft.check()
    except SpecError as error:
        raise SpecError(f"{source[:200]}: {error}") from None
    return draft


def is_foreign(path: Path) -> bool:
    """Whether a path that exists is neither a machine file nor a capture: then `read_source` knows it."""
    if path.is_dir():
        return not _is_capture(path)
    if not path.is_file():
        return False  # a pipe or a device would not end
    if path.name.endswith(_TAR_ENDINGS):
        return True
    with path.open("rb") as file:
        return _form_of(file.read(_START + 1), path.name) != "toml"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False  # a string too long for a name, or with a NUL


def _is_capture(path: Path) -> bool:
    return any((path / name).exists() for name in _ZONEINFO)


def _directory(path: Path, form: str | None) -> Draft:
    if form is not None and form not in _DIRECTORIES:
        raise SpecError(f"{path}: a directory is {', '.join(_DIRECTORIES)}, not {form}")
    tree = find_tree(path)
    captured = path if _is_capture(path) else tree if tree is not None and _is_capture(tree) else None
    if form == "capture" or (form is None and captured is not None):
        return draft_of(load_capture(captured or path))
    if form == "sysfs" or (form is None and tree is not None):
        return read_sysfs(tree or path)
    tables = find_tables(path)
    if form == "acpi" or tables:
        return read_acpi(tables, path.resolve().name, path)
    raise SpecError(
        f"{path}: neither a capture (no {' or '.join(_ZONEINFO)}), nor a tree of /sys "
        "(no sys/devices/system), nor ACPI tables (no SRAT)"
    )


def _file(path: Path, form: str | None) -> Draft:
    if path.name.endswith(_TAR_ENDINGS):
        return _archive(path, form)
    return _content(read_bytes(path), str(path), path.stem, form)


def _form_of(content: bytes, name: str) -> str | None:
    """Format of a file by what it starts with, and by its name if that says TOML; None if it is in none."""
    if is_acpi_table(content):
        return "acpi"
    if is_hwloc_xml(content):
        return "hwloc-xml"
    text = content[:_START].removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")
    if "\0" in text:
        return None
    if is_numactl(text):
        return "numactl"
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines or _TOML_LINE.match(lines[0]):
        return "toml"
    if is_qemu(text):
        return "qemu"
    if len(content) <= _START and is_synthetic(" ".join(lines)):
        return "synthetic"
    return "toml" if name.endswith(".toml") else None


def _content(content: bytes, source: str, name: str, form: str | None) -> Draft:
    if not content.strip():
        raise SpecError(f"{source}: it is empty")
    form = form or _form_of(content, source)
    if form is None:
        raise SpecError(
            f"{source}: in none of the formats known here ({', '.join(IMPORTS)}): "
            f"it looks like {looks_like(content[:_START])}"
        )
    if form == "hwloc-xml":
        return read_hwloc_xml(content, source, name)
    if form == "acpi":
        return _one_table(content, source, name)
    if form in _DIRECTORIES:
        raise SpecError(f"{source}: {form} is a directory, this is a file")
    text = decode(content, source)
    if form == "synthetic":
        text = " ".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return _TEXTS[form](text, source, name)


def _one_table(content: bytes, source: str, name: str) -> Draft:
    """An SRAT alone; of a file its neighbours are read too: SLIT and HMAT lie beside it."""
    path = Path(source)
    if path.is_file():
        return read_acpi(find_tables(path.parent) if path.name[:4].upper() == "SRAT" else [path], name)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "SRAT"
        table.write_bytes(content)
        return read_acpi([table], name)


def _string(text: str, form: str | None) -> Draft:
    if form is None:
        form = (
            "qemu" if is_qemu(text) else "synthetic" if is_synthetic(text) and " " in text.strip() else None
        )
        form = form or ("synthetic" if is_synthetic(text) and ":" in text else None)
    if form not in ("qemu", "synthetic", "numactl", "toml"):
        raise SpecError(
            f"{text[:60]!r}: no such file or directory, and neither a synthetic description as "
            "'pack:2 core:4 pu:2' nor QEMU arguments"
        )
    return _TEXTS[form](text, repr(text[:40]), form)


def _archive(path: Path, form: str | None) -> Draft:
    """A tar of a gathered tree: what matters is unpacked to a temporary directory, and read there."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with tarfile.open(fileobj=io.BytesIO(_inflated(path)), mode="r:") as archive:
                _unpack(archive, Path(folder), str(path))
        except (tarfile.TarError, EOFError, ValueError, OSError, zlib.error, lzma.LZMAError) as error:
            if isinstance(error, SpecError):
                raise
            raise SpecError(f"{path}: not a tar archive that can be read: {error}") from None
        stem = path.name.split(".tar")[0].removesuffix(".tgz")
        try:
            draft = _directory(Path(folder), form)
        except SpecError as error:
            raise SpecError(str(error).replace(folder, str(path))) from None
    draft.name = stem
    return draft


def _inflated(path: Path) -> bytes:
    """The archive's own bytes; SpecError before there are too many of them."""
    packed = read_bytes(path, _MAX_TAR_BYTES)
    inflate = next((make() for magic, make in _PACKERS.items() if packed.startswith(magic)), None)
    if inflate is None:
        return packed
    if len(packed) > _MAX_PACKED_BYTES:
        raise SpecError(f"{path}: more than {_MAX_PACKED_BYTES >> 20} MiB, packed: not what it is taken for")
    content: bytes = inflate.decompress(packed, _MAX_TAR_BYTES + 1)
    if len(content) > _MAX_TAR_BYTES:
        raise SpecError(f"{path}: more than {_MAX_TAR_BYTES >> 20} MiB, unpacked: not what it is taken for")
    if not inflate.eof:
        raise EOFError("it is cut off")
    return content


def _unpack(archive: tarfile.TarFile, folder: Path, source: str) -> None:
    """Regular files and directories below ``proc`` and ``sys``. Links become empty directories."""
    wanted: dict[tuple[str, ...], tarfile.TarInfo | None] = {}
    for count, member in enumerate(archive):
        if count > _MAX_TAR_FILES or len(wanted) > _MAX_TREE_FILES:
            raise SpecError(
                f"{source}: more than {_MAX_TAR_FILES} files, or {_MAX_TREE_FILES} of /proc, nodes and CPUs"
            )
        parts = [part for part in PurePosixPath(member.name).parts if part not in ("/", ".")]
        if ".." in parts or not (member.isfile() or member.isdir() or member.issym()):
            continue
        tops = [i for i, part in enumerate(parts) if part in ("proc", "sys")]
        if parts and not tops and member.isfile() and "/" not in member.name.strip("./"):
            tops = [0]
        if not tops or tops[0] > 2 or _is_ballast(parts[tops[0] :]):
            continue
        if "topology" in parts[-2:]:
            # that a CPU has one is all that is read
            wanted[tuple(parts[: parts.index("topology") + 1])] = None
        elif member.isfile():
            wanted[tuple(parts)] = member
        elif member.isdir() or parts[-1].startswith(("node", "cpu", "memory")):
            # links to CPUs, nodes and memory blocks are directories: their names are what is read
            wanted[tuple(parts)] = None
    for place, file in wanted.items():
        target = folder.joinpath(*place)
        content = archive.extractfile(file) if file else None
        (target.parent if content else target).mkdir(parents=True, exist_ok=True)
        if content:
            target.write_bytes(content.read())


def _is_ballast(parts: list[str]) -> bool:
    """Most of an archive: what describes devices and caches, which no machine here has."""
    return parts[:2] in (["sys", "bus"], ["proc", "device-tree"]) or "cache" in parts[4:6]
