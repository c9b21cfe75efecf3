"""Variants of a machine: a source with what is different about it, in one word of a command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from numa_client import InvalidRequest, Policy

from numa_service.machine.notation import one_line
from numa_service.machine.spec import MachineSpec, SpecError
from numa_service.machine.sysctl import parse_sysctl, without_effect
from numa_service.mm.profile import profile_named

_KEYS = "profile, policy, slab, or a sysctl such as vm.watermark_scale_factor"


@dataclass(frozen=True, slots=True)
class Variant:
    """A machine, and the policy of what runs on it."""

    #: As it was asked for.
    name: str
    spec: MachineSpec
    #: Of everything that has none of its own, as of a program that numactl starts.
    policy: Policy | None = None
    #: What is different and has no effect here.
    notes: tuple[str, ...] = ()


def parse_variant(text: str, load: Callable[[str], MachineSpec]) -> Variant:
    """A variant: ``two-socket,profile=linux-6.12,vm.watermark_scale_factor=100,policy=interleave:0,1``.

    The source comes first, and `load` reads it. A part without ``=`` belongs to the one before it, as nodes
    of a policy do. SpecError names the part that is wrong.
    """
    source, *changes = _parts(text)
    spec = load(source)
    policy = None
    sysctls: dict[str, str] = {}
    for change in changes:
        key, _, value = change.partition("=")
        key, value = key.strip(), value.strip()
        if key == "profile":
            spec = spec.with_profile(_named(text, value))
        elif key == "slab":
            spec = replace(spec, slab=value)
        elif key == "policy":
            policy = _policy(text, value)
        elif "." in key:
            sysctls[key] = value
        else:
            raise _wrong(text, f"{key!r} is no key: {_KEYS}")
    # under the kernel that it has in the end, wherever the profile stands
    known = {key: parse_sysctl(key, value, spec.profile) for key, value in sysctls.items()}
    notes = tuple(filter(None, (without_effect(key, value, spec.profile) for key, value in known.items())))
    return Variant(text, replace(spec, sysctls=spec.sysctls | known), policy, notes)


def _parts(text: str) -> list[str]:
    """The source, and the changes."""
    parts = [""]
    for number, part in enumerate(text.split(",")):
        if number and "=" in part:
            parts.append(part)
        elif number:
            parts[-1] += f",{part}"
        else:
            parts = [part]
    return parts


def _named(text: str, profile: str) -> str:
    try:
        return profile_named(profile).name
    except ValueError as error:
        raise _wrong(text, str(error)) from None


def _policy(text: str, value: str) -> Policy:
    try:
        return Policy.parse(value)
    except InvalidRequest as error:
        raise _wrong(text, str(error)) from None


def _wrong(text: str, why: str) -> SpecError:
    return SpecError(f"variant {one_line(text, 80)}: {why}")
