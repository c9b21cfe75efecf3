"""Writing a machine in another format."""

from __future__ import annotations

from numa_service.machine.formats.draft import Draft, draft_of
from numa_service.machine.formats.hwloc_xml_write import to_hwloc_xml
from numa_service.machine.formats.machine_toml import to_spec, to_toml
from numa_service.machine.formats.picture import to_dot, to_svg
from numa_service.machine.formats.qemu_write import to_qemu
from numa_service.machine.formats.synthetic import to_synthetic
from numa_service.machine.spec import MachineSpec

#: What can be written, by name.
EXPORTS = ("toml", "hwloc-xml", "synthetic", "qemu", "dot", "svg")


def export(spec: MachineSpec, form: str, origin: str = "") -> tuple[str, list[str]]:
    """(text, what it cannot say) of a machine in a format of EXPORTS; SpecError if it cannot be said so."""
    return write(draft_of(spec), form, origin, spec)


def write(
    draft: Draft, form: str, origin: str = "", spec: MachineSpec | None = None
) -> tuple[str, list[str]]:
    """The same of a checked draft; `spec` is its machine, if that is there already."""
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
        case "dot":
            text = to_dot(draft)
        case _:
            text = to_svg(draft)
    return text, [*draft.notes, *left]
