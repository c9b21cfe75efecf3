"""``make judges``: asks every collection that is here, and writes the facts and the table of the page."""

from __future__ import annotations

import csv
import hashlib
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from judges.causes import cause
from judges.questions import JUDGES, ROOT, Row

FACTS = ROOT / "tests/testdata/public/judges.tsv"
PAGE = ROOT / "docs/judges.md"
_COLUMNS = ("judge", "file", "what", "theirs", "ours", "cause")
#: Longest answer that is kept as it is; of a longer one its digest is.
_LONG = 100
BEGIN, END = "<!-- made by make judges -->\n", "<!-- end -->\n"

Fact = dict[str, str]


def fact(row: Row) -> Fact:
    """A row as it is kept: ours only where it differs."""
    differs = not row.agrees
    values = (_short(row.theirs), _short(row.ours) if differs else "=", cause(row) if differs else "")
    return dict(zip(_COLUMNS, (row.judge, row.file, row.what, *values), strict=True))


def _short(answer: str) -> str:
    return answer if len(answer) <= _LONG else f"sha1 {hashlib.sha1(answer.encode()).hexdigest()[:12]}"


def kept() -> list[Fact]:
    """The facts of the repository."""
    with FACTS.open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def table(facts: Iterable[Fact]) -> str:
    """Of N, M agree, and the rest by cause; a row for each question of a judge."""
    text = "| judge | asked | agree | of | the rest, by cause |\n|---|---|---|---|---|\n"
    facts = list(facts)
    for judge, what in dict.fromkeys((one["judge"], _kind(one)) for one in facts):
        own = [one for one in facts if (one["judge"], _kind(one)) == (judge, what)]
        causes = Counter(one["cause"] for one in own if one["cause"])
        rest = "; ".join(f"{number}: {said}" for said, number in causes.items())
        text += f"| {judge} | {what} | {sum(one['ours'] == '=' for one in own)} | {len(own)} | {rest} |\n"
    return text


def _kind(one: Fact) -> str:
    return one["what"].partition(" of ")[0] if one["judge"] == "PCP roots" else one["what"]


def main() -> int:
    """Write facts and table. Exit status 1 if an answer differs and no cause is known."""
    facts = [fact(row) for ask in JUDGES.values() for row in ask()]
    if not facts:
        print("no collection is here", file=sys.stderr)
        return 1
    lines = ["\t".join(_COLUMNS), *("\t".join(one.values()) for one in facts)]
    FACTS.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    PAGE.write_text(before + BEGIN + table(facts) + END + rest.partition(END)[2], encoding="utf-8")
    unknown = [one for one in facts if one["ours"] != "=" and not one["cause"]]
    for one in unknown:
        print("DIFFERENT", *one.values())
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
