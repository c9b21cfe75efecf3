"""SOURCE of every command: a preset's name, a machine file, a capture, or what ``formats/`` reads."""

from __future__ import annotations

from pathlib import Path

from numa_service.machine.capture import load_capture
from numa_service.machine.formats.detect import is_foreign, read_source
from numa_service.machine.formats.machine_toml import to_spec
from numa_service.machine.machinefile import load_machine_file
from numa_service.machine.presets import list_presets
from numa_service.machine.spec import MachineSpec, SpecError


def load(source: str) -> MachineSpec:
    """The machine that `source` means; SpecError if it means none, or describes one wrongly.

    The name of a preset is that preset, whatever lies in the working directory: write ``./demo`` for a
    capture called so. Else a directory is a capture, or a tree of ``/sys``, or ACPI tables; a file is a
    machine file, or in one of the formats that can be imported; a string with a colon is a synthetic
    description.
    What the source says and the machine cannot is in the spec's notes.
    """
    presets = {preset.name: preset for preset in list_presets()}
    if source in presets:
        return presets[source].load()
    path = Path(source)
    try:
        if ":" in source and not path.exists():
            return to_spec(read_source(source), source)
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
        f"{source!r} is neither a machine file, nor a capture directory, nor a preset: {', '.join(presets)}"
    )
