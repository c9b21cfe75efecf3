"""A sample of ``make fuzz-imports``: mutated files are read, or refused in one line."""

from __future__ import annotations

import pytest
from fuzz.imports import Fuzzer

from numa_service.machine.formats.detect import IMPORTS

FILES_EACH = 25


@pytest.fixture(scope="module")
def fuzzer() -> Fuzzer:
    return Fuzzer(seed=2)


def test_every_format_is_fuzzed(fuzzer: Fuzzer) -> None:
    assert {*fuzzer.forms} == {*IMPORTS, "tar"}


@pytest.mark.parametrize("form", [*IMPORTS, "tar"])
def test_mutated_files(form: str, fuzzer: Fuzzer) -> None:
    wrong = [(number, told) for number in range(FILES_EACH) if (told := fuzzer.read(form, number))]
    # what the time of a busy host makes of a CPU second is not judged here
    assert [one for one in wrong if "CPU seconds" not in one[1]] == []
    assert fuzzer.outcomes[f"{form} read"] + fuzzer.outcomes[f"{form} refused"] == FILES_EACH - len(wrong)


def test_good_files_are_read(fuzzer: Fuzzer) -> None:
    """What is mutated is a file of that format; else nothing but its detection would be tried."""
    several = range(60)
    for form in fuzzer.forms:
        for number in several:
            fuzzer.read(form, number)
    assert [form for form in fuzzer.forms if not fuzzer.outcomes[f"{form} read"]] == []
