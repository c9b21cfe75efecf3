"""Machines that are shipped: machine files in the folder ``presets``."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

from numa_service.machine.machinefile import parse_machine
from numa_service.machine.spec import MachineSpec, SpecError

_FOLDER = files("numa_service.machine") / "presets"


@dataclass(frozen=True, slots=True)
class Preset:
    """A machine file that is part of the package."""

    name: str
    #: One line: the first comment of the file.
    description: str
    text: str

    def load(self) -> MachineSpec:
        """The machine; its source is the preset's name."""
        return parse_machine(self.text, source=self.name, default_name=self.name)


def list_presets() -> list[Preset]:
    """Every preset, in name order."""
    presets: list[Preset] = []
    for entry in sorted(_FOLDER.iterdir(), key=lambda entry: entry.name):
        name, dot, suffix = entry.name.rpartition(".")
        if dot and suffix == "toml":
            text = entry.read_text(encoding="utf-8")
            presets.append(Preset(name, text.partition("\n")[0].removeprefix("#").strip(), text))
    return presets


def load_preset(name: str) -> MachineSpec:
    """The preset of that name; SpecError lists the presets if there is none."""
    presets = {preset.name: preset for preset in list_presets()}
    if name not in presets:
        raise SpecError(f"no preset {name!r}: {', '.join(presets)}")
    return presets[name].load()
