"""Which format something is in, and reading it."""

from __future__ import annotations

import io
import re
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from numa_service.machine.capture import load_capture
from numa_service.machine.formats.acpi import find_tables, is_acpi_table, read_acpi
from numa_service.machine.formats.draft import Draft, draft_of
from numa_service.machine.formats.files import MAX_BYTES, decode, read_bytes
from numa_service.machine.formats.hwloc_xml import is_hwloc_xml, read_hwloc_xml
from numa_service.machine.formats.numactl import is_numactl, read_numactl
from numa_service.machine.formats.qemu import is_qemu, read_qemu
from numa_service.machine.formats.synthetic import is_synthetic, read_synthetic
from numa_service.machine.formats.sysfs import find_tree, read_sysfs
from numa_service.machine.machinefile import parse_machine
from numa_service.machine.spec import SpecError

#: What can be read, by name. Directories, binary files and texts.
IMPORTS = ("toml", "capture", "sysfs", "hwloc-xml", "synthetic", "numactl", "qemu", "acpi")
_DIRECTORIES = ("capture", "sysfs", "acpi")
_ZONEINFO = ("zoneinfo.txt", "proc/zoneinfo")
#: A first line as ``name = "x"`` or ``[[node]]``; not an option, nor a node in brackets and levels.
_TOML_LINE = re.compile(r"""(?!-)[\w."'-]+\s*=|\[\[?[\w.\s"'-]+\]\]?\s*(?:#.*)?$""")
_TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_MAX_TAR_FILES = 200_000
_STDIN_NAME = "stdin"

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
        start = file.read(65536)
    return _form_of(start) not in ("toml", None)


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
        return read_acpi(tables, path.resolve().name)
    raise SpecError(
        f"{path}: neither a capture (no {' or '.join(_ZONEINFO)}), nor a tree of /sys "
        "(no sys/devices/system), nor ACPI tables (no SRAT)"
    )


def _file(path: Path, form: str | None) -> Draft:
    if path.name.endswith(_TAR_ENDINGS):
        return _archive(path, form)
    return _content(read_bytes(path), str(path), path.stem, form)


def _form_of(content: bytes) -> str | None:
    """Format of a file by what it starts with; None if it is not text."""
    if is_acpi_table(content):
        return "acpi"
    if is_hwloc_xml(content):
        return "hwloc-xml"
    text = content.decode("utf-8", "replace")
    if "\0" in text:
        return None
    if is_numactl(text):
        return "numactl"
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if lines and not _TOML_LINE.match(lines[0]):
        if is_qemu(text):
            return "qemu"
        if is_synthetic(" ".join(lines)):
            return "synthetic"
    return "toml"


def _content(content: bytes, source: str, name: str, form: str | None) -> Draft:
    if not content.strip():
        raise SpecError(f"{source}: it is empty")
    form = form or _form_of(content)
    if form is None:
        raise SpecError(f"{source}: binary, and not an ACPI table ({IMPORTS[-1]})")
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
            with tarfile.open(fileobj=io.BytesIO(read_bytes(path))) as archive:
                _unpack(archive, Path(folder), str(path))
        except (tarfile.TarError, EOFError, ValueError, OSError) as error:
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


def _unpack(archive: tarfile.TarFile, folder: Path, source: str) -> None:
    """Regular files and directories below ``proc`` and ``sys``. Links become empty directories."""
    left = MAX_BYTES
    for count, member in enumerate(archive):
        if count > _MAX_TAR_FILES:
            raise SpecError(f"{source}: more than {_MAX_TAR_FILES} files")
        parts = [part for part in PurePosixPath(member.name).parts if part not in ("/", ".")]
        if ".." in parts or not (member.isfile() or member.isdir() or member.issym()):
            continue
        wanted = [i for i, part in enumerate(parts) if part in ("proc", "sys")]
        if parts and not wanted and member.isfile() and "/" not in member.name.strip("./"):
            wanted = [0]
        if not wanted or wanted[0] > 2 or parts[wanted[0] :][:2] == ["sys", "bus"]:
            continue
        target = folder.joinpath(*parts)
        if member.isfile():
            left -= member.size
            if left < 0:
                raise SpecError(f"{source}: more than {MAX_BYTES >> 20} MiB")
            content = archive.extractfile(member)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.read() if content else b"")
        elif member.isdir() or parts[-1].startswith(("node", "cpu", "memory")):
            # links to CPUs, nodes and memory blocks are directories: their names are what is read
            target.mkdir(parents=True, exist_ok=True)
