"""Writes a machine in any of the formats that can be exported."""

from __future__ import annotations

from numa_service.machine.formats.draft import CPUS_OF_FAKES, Draft, draft_of, is_of_cmdline
from numa_service.machine.formats.hwloc_synthetic import to_synthetic
from numa_service.machine.formats.hwloc_xml_write import to_hwloc_xml
from numa_service.machine.formats.machine_toml import to_spec, to_toml
from numa_service.machine.formats.picture import to_dot, to_svg
from numa_service.machine.formats.qemu_write import to_qemu
from numa_service.machine.spec import MachineSpec

#: Names of the formats that can be written.
EXPORTS = ("toml", "hwloc-xml", "synthetic", "qemu", "dot", "svg")


def export(spec: MachineSpec, form: str, origin: str = "") -> tuple[str, list[str]]:
    """(text, notes on what it cannot express) of a machine in one of EXPORTS; `origin` heads a TOML file.

    SpecError if the format cannot express the machine at all.
    """
    return write(draft_of(spec), form, origin, spec)


def write(
    draft: Draft, form: str, origin: str = "", spec: MachineSpec | None = None
) -> tuple[str, list[str]]:
    """As :func:`export`, from a checked draft; `spec` is the draft's machine, if it has been made already."""
    text, left = "", list[str]()
    match form:
        case "toml":
            text = to_toml(draft, origin)
        case "hwloc-xml":
            document, left = to_hwloc_xml(draft, spec or to_spec(draft, draft.name))
            text = document.decode("utf-8")
        case "synthetic":
            line, left = to_synthetic(draft)
            text = line + "\n"
        case "qemu":
            text, left = to_qemu(draft)
            if draft.fake:
                told = [note for note in draft.notes if note != CPUS_OF_FAKES and not is_of_cmdline(note)]
                return text, [*told, *left]
        case "dot":
            text = to_dot(draft)
        case _:
            text = to_svg(draft)
    return text, [*draft.notes, *left]
