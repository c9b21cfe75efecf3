"""Prefixes that a copied text has on its lines: quotes of a mail, time stamps of logs and of CI."""

from __future__ import annotations

import re

_STAMP = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?"
_PREFIX = re.compile(
    rf"^(?:(?:>+ ?|<\d{{1,3}}>|\[? *{_STAMP}\]?|\[ *\d{{1,9}}\.\d{{1,9}}\](?:\[ *[TC]\d{{1,9}}\])?"
    r"|\[[A-Z][a-z]{2} [A-Z][a-z]{2} +\d{1,2} [\d:]{8} \d{4}\]"
    r"|[A-Z][a-z]{2} +\d{1,2} \d\d:\d\d:\d\d(?: [\w.-]{1,64} [\w./-]{1,64}(?:\[\d{1,9}\])?:)?"
    r"|\| ) ?){1,8}",
    re.ASCII | re.MULTILINE,
)


def without_prefixes(text: str) -> str:
    """The text without such prefixes, if at least half of its lines that are not empty have one; else itself.

    Blanks behind a prefix, beyond the one that parts it from the text, are the text's.
    """
    lines = sum(1 for line in text.split("\n") if line.strip())
    stripped, count = _PREFIX.subn("", text)
    return stripped if 2 * count >= lines else text
