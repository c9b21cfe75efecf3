"""Which format something is in, and reading it."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from pathlib import Path

from numa_service.machine.capture import read_capture
from numa_service.machine.files import decode, read_bytes
from numa_service.machine.formats.acpi import find_tables, is_acpi_table, read_acpi
from numa_service.machine.formats.draft import Draft, draft_of
from numa_service.machine.formats.hwloc_xml import is_hwloc_xml, read_hwloc_xml
from numa_service.machine.formats.numactl import is_numactl, read_numactl
from numa_service.machine.formats.qemu import is_qemu, read_qemu
from numa_service.machine.formats.synthetic import is_synthetic, read_synthetic
from numa_service.machine.formats.sysfs import find_tree, read_sysfs
from numa_service.machine.formats.tar import ENDINGS, read_tar
from numa_service.machine.formats.unknown import looks_like
from numa_service.machine.machinefile import parse_machine
from numa_service.machine.spec import SpecError
from numa_service.machine.tree import Directory, Tree

#: What can be read, by name. Directories, binary files and texts.
IMPORTS = ("toml", "capture", "sysfs", "hwloc-xml", "synthetic", "numactl", "qemu", "acpi")
_DIRECTORIES = ("capture", "sysfs", "acpi")
_ZONEINFO = ("zoneinfo.txt", "proc/zoneinfo")
#: A first line as ``name = "x"`` or ``[[node]]``; not an option, nor a node in brackets and levels.
_TOML_LINE = re.compile(r"""(?!-)[\w."'-]+\s*=|\[\[?[\w.\s"'-]+\]\]?\s*(?:#.*)?$""")
#: Of a text, what is looked at to find out what it is.
_START = 64 << 10
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
            draft = _tree(Directory(path), form) if path.is_dir() else _file(path, form)
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
        return not _is_capture(Directory(path))
    if not path.is_file():
        return False  # a pipe or a device would not end
    if path.name.endswith(ENDINGS):
        return True
    with path.open("rb") as file:
        return _form_of(file.read(_START + 1), path.name) != "toml"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False  # a string too long for a name, or with a NUL


def _is_capture(tree: Tree) -> bool:
    return any(tree.exists(name) for name in _ZONEINFO)


def _tree(tree: Tree, form: str | None) -> Draft:
    if form is not None and form not in _DIRECTORIES:
        raise SpecError(f"{tree.place}: a directory is {', '.join(_DIRECTORIES)}, not {form}")
    inside = find_tree(tree)
    captured = tree if _is_capture(tree) else inside if inside is not None and _is_capture(inside) else None
    if form == "capture" or (form is None and captured is not None):
        return draft_of(read_capture(captured or tree))
    if form == "sysfs" or (form is None and inside is not None):
        return read_sysfs(inside or tree)
    tables = find_tables(tree)
    if form == "acpi" or tables:
        return read_acpi(tables, tree.name, tree.place)
    raise SpecError(
        f"{tree.place}: neither a capture (no {' or '.join(_ZONEINFO)}), nor a tree of /sys "
        "(no sys/devices/system), nor ACPI tables (no SRAT)"
    )


def _file(path: Path, form: str | None) -> Draft:
    if path.name.endswith(ENDINGS):
        archive = read_tar(path)
        draft = _tree(archive, form)
        draft.name = archive.name
        return draft
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
    tables = {source: content}
    path = Path(source)
    if path.is_file() and path.name[:4].upper() == "SRAT":
        tables = find_tables(Directory(path.parent), path.name) | tables
    return read_acpi(tables, name, source)


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
