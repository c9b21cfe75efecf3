"""Machines that come with the package: the machine files in the folder ``numa_service/machine/presets``.

Those in its folder ``zoo`` are shapes of real machines that broke software: their first lines say what and
where.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import takewhile

from numa_service.machine.machinefile import parse_machine
from numa_service.machine.spec import MachineSpec, SpecError

_FOLDER = files("numa_service.machine") / "presets"


#: Folder of the shapes that broke software, and the first part of their names.
ZOO = "zoo"


@dataclass(frozen=True, slots=True)
class Preset:
    """A machine file that is part of the package."""

    #: That of the file; with ``zoo/`` before it if it is one of the zoo.
    name: str
    #: The first line of the file, which is a comment.
    description: str
    text: str
    #: Of a shape of the zoo: the software that it broke and how, and the address of the report.
    broke: str = ""
    source: str = ""

    def load(self) -> MachineSpec:
        """The machine that the file describes; its `source` is the preset's name."""
        return parse_machine(self.text, source=self.name, default_name=self.name.replace("/", "-"))


def list_presets() -> list[Preset]:
    """Every preset, in name order, those of the zoo last."""
    return [*_presets_in(_FOLDER, ""), *_presets_in(_FOLDER / ZOO, f"{ZOO}/")]


def _presets_in(folder: Traversable, prefix: str) -> list[Preset]:
    presets: list[Preset] = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name.removesuffix(".toml")):
        name, dot, suffix = entry.name.rpartition(".")
        if dot and suffix == "toml":
            text = entry.read_text(encoding="utf-8")
            said = _head(text)
            presets.append(Preset(f"{prefix}{name}", said[""], text, said["Broke"], said["Source"]))
    return presets


def _head(text: str) -> dict[str, str]:
    """First line of the comment at the top of a file, and its paragraphs ``Broke:`` and ``Source:``."""
    first, *lines = [line.removeprefix("#").strip() for line in takewhile(_is_comment, text.splitlines())]
    said = {"": first, "Broke": "", "Source": ""}
    key = None
    for line in lines:
        word, colon, rest = line.partition(": ")
        if colon and word in said:
            key, said[word] = word, rest
        elif key is not None and line:
            said[key] += f" {line}"
        else:
            key = None
    return said


def _is_comment(line: str) -> bool:
    return line.startswith("#")


def known_presets() -> str:
    """What an error says of the presets that there are."""
    return (
        f"{', '.join(preset.name for preset in list_presets() if not preset.broke)}, {ZOO}/… (presets --zoo)"
    )


def load_preset(name: str) -> MachineSpec:
    """The preset of that name; SpecError lists the presets if there is none."""
    presets = {preset.name: preset for preset in list_presets()}
    if name not in presets:
        raise SpecError(f"no preset {name!r}: {known_presets()}")
    return presets[name].load()
