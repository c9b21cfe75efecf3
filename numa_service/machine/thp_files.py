"""Files below ``/sys/kernel/mm/transparent_hugepage`` that can be written: what each takes, and its default.

Their values are kept like sysctls, under ``transparent_hugepage.`` and the path with dots.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from numa_service.machine.notation import one_line, shown
from numa_service.machine.spec import SpecError
from numa_service.mm.mmap.rules import PAGE_SHIFT, PMD_SIZE
from numa_service.mm.mmap.thp_rules import ENABLED, SHMEM_ENABLED, ThpRules, thp_rules_of
from numa_service.mm.profile import profile_named

THP_PREFIX: Final = "transparent_hugepage."
#: The key of the file ``enabled``.
ENABLED_KEY: Final = f"{THP_PREFIX}enabled"
#: Pages of a huge page.
HPAGE_PMD_NR: Final = PMD_SIZE >> PAGE_SHIFT

_UINT_MAX: Final = (1 << 32) - 1
_SIZE_ENABLED: Final = ("always", "inherit", "madvise", "never")
_SIZE_SHMEM: Final = ("always", "inherit", "within_size", "advise", "never")
#: Orders of multi-size huge pages: of anonymous memory from 16 kB on, of shmem from 8 kB on.
_ANON_ORDERS, _SHMEM_ORDERS = range(2, 10), range(1, 10)


@dataclass(frozen=True, slots=True)
class ThpFile:
    """One file that can be written."""

    default: str
    #: What a write is kept as; SpecError for what the kernel refuses.
    parse: Callable[[str, str], str]
    #: The words of which one is chosen, in the order in which they are shown; of a number none.
    words: tuple[str, ...] = ()

    def text(self, value: str) -> str:
        """What the file says."""
        chosen = (f"[{word}]" if word == value else word for word in self.words)
        return (" ".join(chosen) if self.words else value) + "\n"


def _word(words: tuple[str, ...], key: str, text: str) -> str:
    if text not in words:
        raise SpecError(f"{key}: {shown(text)} is not {', '.join(words)}")
    return text


def _number(least: int, most: int, key: str, text: str) -> str:
    """kstrtouint() with base 10."""
    if not re.fullmatch(r"\+?[0-9]{1,20}", text, re.ASCII) or not least <= int(text) <= most:
        raise SpecError(f"{key}: {shown(text)} is not a number from {least} to {most}")
    return str(int(text))


def _flag(key: str, text: str) -> str:
    """single_hugepage_flag_store: kstrtoul() with any base, and no more than 1."""
    match = re.fullmatch(r"\+?(?:0[xX]0*([01])|0*([01]))", text, re.ASCII)
    if not match or len(text) > 20:
        raise SpecError(f"{key}: {shown(text)} is neither 0 nor 1")
    return match[1] or match[2]


def _choice(words: tuple[str, ...], default: str) -> ThpFile:
    return ThpFile(default, partial(_word, words), words)


def _counted(default: int, most: int, least: int = 0) -> ThpFile:
    return ThpFile(str(default), partial(_number, least, most))


def files_of(profile: str) -> dict[str, ThpFile]:
    """Every file of a kernel that can be written, by its path, as its boot leaves it with huge pages on."""
    rules = thp_rules_of(profile_named(profile))
    if not rules.present:
        return {}
    flag, most = ThpFile("1", _flag), HPAGE_PMD_NR - 1
    files = {"enabled": _choice(ENABLED, "always"), "defrag": _choice(rules.defrag, rules.defrag_default)}
    if rules.huge_zero_page:
        files["use_zero_page"] = flag
    if rules.shmem:
        files["shmem_enabled"] = _choice(SHMEM_ENABLED, "never")
    if rules.underused:
        files["shrink_underused"] = flag
    files |= {
        "khugepaged/defrag": flag,
        "khugepaged/pages_to_scan": _counted(8 * HPAGE_PMD_NR, _UINT_MAX, least=1),
        "khugepaged/scan_sleep_millisecs": _counted(10_000, _UINT_MAX),
        "khugepaged/alloc_sleep_millisecs": _counted(60_000, _UINT_MAX),
        "khugepaged/max_ptes_none": _counted(most, most),
    }
    if rules.max_ptes_swap:
        files["khugepaged/max_ptes_swap"] = _counted(HPAGE_PMD_NR // 8, most)
    if rules.max_ptes_shared:
        files["khugepaged/max_ptes_shared"] = _counted(HPAGE_PMD_NR // 2, most)
    return files | dict(_of_sizes(rules))


def _of_sizes(rules: ThpRules) -> Iterator[tuple[str, ThpFile]]:
    """The files of multi-size huge pages; those of the size of a PMD entry follow the machine's."""
    for order in _ANON_ORDERS if rules.sizes else ():
        default = "inherit" if 1 << order == HPAGE_PMD_NR else "never"
        yield f"{_folder(order)}/enabled", _choice(_SIZE_ENABLED, default)
    for order in _SHMEM_ORDERS if rules.size_files else ():
        default = "inherit" if 1 << order == HPAGE_PMD_NR else "never"
        yield f"{_folder(order)}/shmem_enabled", _choice(_SIZE_SHMEM, default)


def _folder(order: int) -> str:
    return f"hugepages-{4 << order}kB"


def size_counts(profile: str) -> Iterator[str]:
    """The paths of the counts of multi-size huge pages; of 8 kB there are none of anonymous memory."""
    rules = thp_rules_of(profile_named(profile))
    for order in _SHMEM_ORDERS if rules.size_files else ():
        names = ["shmem_alloc", "shmem_fallback", "shmem_fallback_charge", "split", "split_failed"]
        names += ["swpout", "swpout_fallback"]
        if order in _ANON_ORDERS:
            names += ["anon_fault_alloc", "anon_fault_fallback", "anon_fault_fallback_charge"]
            names += ["nr_anon", "nr_anon_partially_mapped", "split_deferred"]
        for name in sorted(names):
            yield f"{_folder(order)}/stats/{name}"


def key_of(path: str) -> str:
    """The key under which the value of a file is kept."""
    return THP_PREFIX + path.replace("/", ".")


def parse_thp(key: str, value: str, profile: str) -> str:
    """The value after a write, by the key of the file. SpecError for an unknown file, or what it refuses."""
    found = _by_key(profile).get(key)
    if found is None:
        raise SpecError(f"{one_line(key, 80)}: {profile} has no such file")
    return found.parse(key, value.strip())


def default_of(key: str, profile: str) -> str | None:
    """What boot leaves in a file with huge pages on, by its key; None: there is no such file."""
    found = _by_key(profile).get(key)
    return found.default if found is not None else None


def _by_key(profile: str) -> dict[str, ThpFile]:
    return {key_of(path): file for path, file in files_of(profile).items()}


def boot_values(profile: str, mode: str, *, small: bool) -> dict[str, str]:
    """Values by key that differ from the defaults (hugepage_init).

    `mode`: what the command line has chosen. `small`: a machine with so little memory that all flags are off.
    """
    off = {"enabled": "never", "defrag": "never", "use_zero_page": "0", "khugepaged/defrag": "0"}
    chosen = off if small else {"enabled": mode} if mode != "always" else {}
    return {key_of(path): value for path, value in chosen.items() if path in files_of(profile)}
