"""The argument SOURCE of every command as a MachineSpec.

A source is the name of a preset, a machine file, a capture, or anything that ``machine/formats/`` imports.
"""

from __future__ import annotations

from pathlib import Path

from numa_service.machine.capture import load_capture
from numa_service.machine.formats.detect import is_foreign, machine_with_zones, read_source
from numa_service.machine.formats.machine_toml import to_spec
from numa_service.machine.machinefile import load_machine_file
from numa_service.machine.presets import known_presets, list_presets
from numa_service.machine.spec import MachineSpec, SpecError


def load(source: str) -> MachineSpec:
    """The machine that `source` names; SpecError if it names none, or if its description is wrong.

    The name of a preset always means the preset: a capture in the working directory that is called ``demo``
    is given as ``./demo``. Otherwise a directory is a capture, a tree of ``/sys``, or ACPI tables; a file is
    a machine file, or in one of the formats that can be imported; a string with a colon is a synthetic
    description of hwloc's. The notes of the spec list what the source says and a machine here cannot.
    """
    presets = {preset.name: preset for preset in list_presets()}
    if source in presets:
        return presets[source].load()
    path = Path(source)
    try:
        if ":" in source and not path.exists():
            return to_spec(read_source(source), source)
        zoned = machine_with_zones(path)
        if zoned is not None:
            return zoned
        if path.exists() and is_foreign(path):
            return to_spec(read_source(source), source)
        if path.is_dir():
            return load_capture(path)
        if path.is_file():
            return load_machine_file(path)
    except (OSError, ValueError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(f"{source!r}: {error}") from None
    raise SpecError(
        f"{source!r} is neither a machine file, nor a capture directory, nor a preset: {known_presets()}"
    )
