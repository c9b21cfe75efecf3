"""The rules in which kernels differ, for ``diff-profiles``, and the releases in which an answer changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numa_service.mm.profile import RULES, Profile, profile_named, profile_rules
from numa_service.mm.rules.axis import Axis, Change, Series, value_text

_NAME_START = "linux-"


@dataclass(frozen=True, slots=True)
class RuleDifference:
    """One rule that is not the same in all of the kernels that are compared."""

    group: str
    axis: Axis
    #: What it is in each of them, in words.
    values: tuple[str, ...]
    #: What it became after the oldest of them, up to the newest; oldest first.
    changes: tuple[Change, ...]

    @property
    def releases(self) -> str:
        """The releases in which it changed: "5.16, 5.19"."""
        return ", ".join(change.release for change in self.changes)

    def plain(self, names: Sequence[str]) -> dict[str, Any]:
        """As JSON; `names` are those of the profiles."""
        return {
            "group": self.group,
            "rule": self.axis.name,
            "what": self.axis.what,
            "modelled": self.axis.modelled,
            "note": self.axis.note,
            "values": dict(zip(names, self.values, strict=True)),
            "changes": [
                {
                    "since": change.release,
                    "stable": [".".join(map(str, release)) for release in change.stable],
                    "value": value_text(self.axis, change.value),
                    "source": change.source,
                    "witness": change.witness,
                    "read_without_and_with": list(change.read or ()),
                }
                for change in self.changes
            ],
        }


def rule_differences(names: Sequence[str]) -> list[RuleDifference]:
    """The rules in which the profiles of these names differ, modelled or not, in the order of the table."""
    profiles = [profile_named(name) for name in names]
    in_force = [profile_rules(profile) for profile in profiles]
    result = []
    for group, axes in RULES.items():
        for axis in axes:
            changes = [rules[group, axis.name] for rules in in_force]
            values = tuple(value_text(axis, change.value) for change in changes)
            if len(set(values)) > 1:
                places = [axis.changes.index(change) for change in changes]
                between = axis.changes[min(places) + 1 : max(places) + 1]
                result.append(RuleDifference(group, axis, values, between))
    return result


def changed_in(
    names: Sequence[str], facts: Callable[[str], Mapping[tuple[str, str], str]]
) -> dict[tuple[str, str], list[str]]:
    """The releases in which each fact changed, from the oldest of these profiles to the newest.

    `facts(name)` are the facts under a profile. They are asked for under every release between the two in
    which a rule changed, so that a difference is told for the release from which it comes.
    """
    profiles = sorted((profile_named(name) for name in names), key=lambda profile: profile.series)
    oldest, newest = profiles[0], profiles[-1]
    found: dict[tuple[str, str], list[str]] = {}
    before = facts(oldest.name)
    for name in [*_steps(oldest, newest), newest.name]:
        after = facts(name)
        for key in dict.fromkeys((*before, *after)):
            if before.get(key) != after.get(key):
                found.setdefault(key, []).append(name.removeprefix(_NAME_START))
        before = after
    return found


def _steps(oldest: Profile, newest: Profile) -> list[str]:
    """Profiles of the releases after `oldest` and before `newest` in which a modelled rule changed."""
    series: set[Series] = {
        change.since
        for axes in RULES.values()
        for axis in axes
        if axis.modelled
        for change in axis.changes
        if oldest.series < change.since < newest.series
    }
    return [f"{_NAME_START}{'.'.join(map(str, since))}" for since in sorted(series)]
