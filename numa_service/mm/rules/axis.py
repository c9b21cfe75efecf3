"""One rule in which kernels differ: what it was, since which release, and who says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: A series of releases: (6, 12), or with three numbers (2, 6, 32).
Series = tuple[int, ...]

#: Since before all kernels that are known here.
ALWAYS: Series = (0, 0)

#: What Change.witness says where no capture and no public report shows the rule at work.
SOURCE_ONLY = "source only"

#: The boots of kernels 6.1.192 and 6.12.117 that the tests compare with.
CAPTURES = "captured boots"


@dataclass(frozen=True, slots=True)
class Change:
    """What a rule became, and in which release."""

    since: Series
    #: The value of the Profile's field, or a text for a rule that is not modelled.
    value: Any
    #: The kernel's function, and the subject and id of the commit where known.
    source: str = ""
    #: A capture, a public report (by the name of its thread), or SOURCE_ONLY.
    witness: str = SOURCE_ONLY
    #: The last release read whose source has the rule before, and the first with this one, both read as text.
    read: tuple[str, str] | None = None
    #: Stable releases that took it, as (6, 12, 117): it holds from that patch on in that series.
    stable: tuple[Series, ...] = ()

    @property
    def release(self) -> str:
        """The release in which it came, as text: "4.6"; that of the oldest kernels is empty."""
        return "" if self.since == ALWAYS else ".".join(map(str, self.since))

    def holds(self, series: Series, patch: int | None) -> bool:
        """Whether it holds in a release: in patch `patch` of a series, or if None, in the newest."""
        taken = (full[-1] for full in self.stable if full[:-1] == series)
        return series >= self.since or any(patch is None or patch >= first for first in taken)


@dataclass(frozen=True, slots=True)
class Axis:
    """One rule: a field of Profile, a sysctl, or one that is only told because nothing here models it."""

    #: The Profile's field, the sysctl's name, or a few words.
    name: str
    #: What the values say, with their unit.
    what: str
    #: What it became, oldest first; the first holds ALWAYS.
    changes: tuple[Change, ...]
    #: False: machines here do not follow it, whatever their profile says.
    modelled: bool = True
    #: Said of the rule where the nearest one is used in place of the true one.
    note: str = ""
    #: What the values mean, if they are the numbers of variants of a rule, 0 being the first.
    words: tuple[str, ...] = ()

    def at(self, series: Series, patch: int | None) -> Change:
        """The change in force in a release; `patch` as of :meth:`Change.holds`."""
        return [change for change in self.changes if change.holds(series, patch)][-1]


def value_text(axis: Axis, value: Any) -> str:
    """A value of a rule in words."""
    if axis.words:
        return axis.words[value]
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, tuple):
        return " ".join(item for item in value if item)
    return str(value)


def always(value: Any, source: str = "", witness: str = SOURCE_ONLY) -> Change:
    """What a rule was in the oldest kernels."""
    return Change(ALWAYS, value, source, witness)
