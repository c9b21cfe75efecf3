"""Detects the format of a path, a text or standard input, and reads it with the importer of that format."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from numa_service.machine.capture import read_capture
from numa_service.machine.captured_tree import Directory, Tree
from numa_service.machine.formats.acpi import find_tables, is_acpi_table, read_acpi
from numa_service.machine.formats.boot_log import is_boot_log, read_boot_log
from numa_service.machine.formats.cloud_hypervisor import is_cloud_hypervisor, read_cloud_hypervisor
from numa_service.machine.formats.draft import Draft, draft_of, machine_name
from numa_service.machine.formats.hwloc_synthetic import is_synthetic, read_synthetic
from numa_service.machine.formats.hwloc_xml import read_hwloc_xml
from numa_service.machine.formats.kubelet import is_kubelet, read_kubelet
from numa_service.machine.formats.libvirt import ROOTS, read_libvirt
from numa_service.machine.formats.lscpu import is_lscpu, read_lscpu
from numa_service.machine.formats.lstopo_text import is_lstopo_text, read_lstopo_text
from numa_service.machine.formats.mem_info import is_mem_info
from numa_service.machine.formats.mem_info_machine import read_mem_info
from numa_service.machine.formats.numactl import is_numactl, read_numactl
from numa_service.machine.formats.numastat import is_numastat, read_numastat
from numa_service.machine.formats.prefixes import without_prefixes
from numa_service.machine.formats.proc_texts import (
    is_buddyinfo,
    is_zoneinfo,
    read_buddyinfo,
    read_zoneinfo,
    zoneinfo_machine,
)
from numa_service.machine.formats.qemu import is_qemu, read_qemu
from numa_service.machine.formats.sysfs import find_tree, read_sysfs
from numa_service.machine.formats.tar import ENDINGS, read_tar
from numa_service.machine.formats.unknown import looks_like
from numa_service.machine.formats.virtme import is_virtme, read_virtme
from numa_service.machine.formats.xml import is_xml, root_tag
from numa_service.machine.input_files import decode, read_bytes
from numa_service.machine.machinefile import parse_machine
from numa_service.machine.spec import MachineSpec, SpecError

#: Names of the formats that can be read.
IMPORTS = (
    "toml",
    "capture",
    "sysfs",
    "hwloc-xml",
    "synthetic",
    "numactl",
    "qemu",
    "mem-info",
    "acpi",
    "boot-log",
    "libvirt",
    "lscpu",
    "lstopo",
    "numastat",
    "zoneinfo",
    "buddyinfo",
    "kubelet",
    "cloud-hypervisor",
    "virtme-ng",
)
_DIRECTORIES = ("capture", "sysfs", "acpi")
_ZONEINFO = ("zoneinfo.txt", "proc/zoneinfo")
#: A first line of TOML: ``name = "x"`` or ``[[node]]``. Options (``-m``) and the first level of a synthetic
#: description (``[numa] core:4``) do not match.
_TOML_LINE = re.compile(r"""(?!-)[\w."'-]+\s*=|\[\[?[\w.\s"'-]+\]\]?\s*(?:#.*)?$""")
#: Bytes at the beginning of a file that its format is detected by.
_START = 64 << 10
_STDIN_NAME = "stdin"

#: Formats that a line of the text shows, and what looks for it, in this order.
_LOOKS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("mem-info", is_mem_info),
    ("zoneinfo", is_zoneinfo),
    ("boot-log", is_boot_log),
    ("buddyinfo", is_buddyinfo),
    ("numastat", is_numastat),
    ("lscpu", is_lscpu),
    ("lstopo", is_lstopo_text),
    ("kubelet", is_kubelet),
    ("cloud-hypervisor", is_cloud_hypervisor),
)

_TEXTS: dict[str, Callable[[str, str, str], Draft]] = {
    "boot-log": read_boot_log,
    "buddyinfo": read_buddyinfo,
    "cloud-hypervisor": read_cloud_hypervisor,
    "kubelet": read_kubelet,
    "lscpu": read_lscpu,
    "lstopo": read_lstopo_text,
    "numactl": read_numactl,
    "numastat": read_numastat,
    "qemu": read_qemu,
    "synthetic": read_synthetic,
    "virtme-ng": read_virtme,
    "zoneinfo": read_zoneinfo,
    "toml": lambda text, source, name: draft_of(parse_machine(text, source, name)),
    "mem-info": lambda text, source, name: draft_of(read_mem_info(text, source, name)),
}


def read_source(source: str, form: str | None = None, stdin: bytes | None = None) -> Draft:
    """The checked draft of a path, of ``-`` (then `stdin`), or of a string.

    `form` is one of IMPORTS; None: it is detected. A string that is no path is a synthetic description or a
    QEMU command line. SpecError names what is wrong, and where.
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


def machine_with_zones(path: Path) -> MachineSpec | None:
    """The machine of a path that tells zones one by one; None if it does not.

    That is a capture, also in an archive or one directory below, a zoneinfo and a Mem-Info report. A draft
    has neither the sizes of zones nor what they got after boot.
    """
    if path.is_dir():
        return _captured(Directory(path), None)
    if not path.is_file():
        return None
    if path.name.endswith(ENDINGS):
        archive = read_tar(path)
        return _captured(archive, archive.name)
    form = form_of_file(path)
    if form == "mem-info":
        return read_mem_info(decode(read_bytes(path), str(path)), str(path), path.stem)
    if form == "zoneinfo":
        return zoneinfo_machine(decode(read_bytes(path), str(path)), str(path), path.stem)
    return None


def _captured(tree: Tree, name: str | None) -> MachineSpec | None:
    if not _is_capture(tree):
        inside = find_tree(tree)
        if inside is None or not _is_capture(inside):
            return None
        tree = inside
    spec = read_capture(tree)
    return spec if name is None else replace(spec, name=machine_name(name))


def is_foreign(path: Path) -> bool:
    """Whether an existing path is neither a machine file nor a capture, and is read by `read_source`."""
    if path.is_dir():
        return not _is_capture(Directory(path))
    if not path.is_file():
        return False  # not opened: reading a pipe or a device might never end
    return path.name.endswith(ENDINGS) or form_of_file(path) != "toml"


def form_of_file(path: Path) -> str | None:
    """The format of a file by how it begins; None if it is unknown, or an archive."""
    if path.name.endswith(ENDINGS):
        return None
    with path.open("rb") as file:
        return _form_of(file.read(_START + 1), path.name)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False  # the string is too long for a path, or has a NUL


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
    """Format of a file by how it begins, or by its name if that ends with .toml; None if it is unknown."""
    if is_acpi_table(content):
        return "acpi"
    if is_xml(content):
        return "libvirt" if root_tag(content[:_START]) in ROOTS else "hwloc-xml"
    text = content[:_START].removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")
    if "\0" in text:
        return None
    if is_numactl(text):
        return "numactl"
    for form, is_form in _LOOKS:
        if is_form(text):
            return form
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines or _TOML_LINE.match(lines[0]):
        return "toml"
    if is_virtme(text):
        return "virtme-ng"
    if is_qemu(text):
        return "qemu"
    if len(content) <= _START and is_synthetic(" ".join(lines)):
        return "synthetic"
    return "toml" if name.endswith(".toml") else None


def _content(content: bytes, source: str, name: str, form: str | None) -> Draft:
    if not content.strip():
        raise SpecError(f"{source}: it is empty")
    form = form or _form_of(content, source)
    if form is None and b"\0" not in content[:_START]:
        # a mail or a log that quotes one of the texts
        bare = without_prefixes(content.decode("utf-8", "replace")).encode()
        form = _form_of(bare, source)
        content = bare if form is not None else content
    if form is None:
        raise SpecError(
            f"{source}: in none of the formats known here ({', '.join(IMPORTS)}): "
            f"it looks like {looks_like(content[:_START])}"
        )
    if form == "hwloc-xml":
        return read_hwloc_xml(content, source, name)
    if form == "libvirt":
        return read_libvirt(content, source, name)
    if form == "acpi":
        return _one_table(content, source, name)
    if form in _DIRECTORIES:
        raise SpecError(f"{source}: {form} is a directory, this is a file")
    text = decode(content, source)
    if form in dict(_LOOKS):
        draft = _TEXTS[form](text, source, name)
        draft.note(f"it was read as {form}")
        return draft
    if form == "synthetic":
        text = " ".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return _TEXTS[form](text, source, name)


def _one_table(content: bytes, source: str, name: str) -> Draft:
    """The draft of an SRAT; if it is a file, the other tables in its directory are read too."""
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
    if form not in _TEXTS:
        raise SpecError(
            f"{text[:60]!r}: no such file or directory, and neither a synthetic description as "
            "'pack:2 core:4 pu:2' nor QEMU arguments"
        )
    return _TEXTS[form](text, repr(text[:40]), form)
