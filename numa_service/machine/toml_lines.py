"""What a TOML text may be before it is parsed, and where its keys are.

tomllib takes time that is quadratic in the parts of a key, fails in its own way at a number of thousands of
digits, and gives values without lines, where an error should name a line.
"""

from __future__ import annotations

import json
import re
import tomllib
from bisect import bisect_right
from typing import Any

#: Keys and array indices from the top of the document.
KeyPath = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}\n#]+")
#: An array of numbers on one line: all its elements stand on the line of the array.
_ROW = re.compile(r"\[[0-9 \t,.+-]*\]")
#: A row of a matrix of many nodes, on a line of its own.
_LONG_ROW = re.compile(r"^([ \t]*)(\[[0-9 \t]+,[0-9 \t,]{64,}\])(,?[ \t]*)$", re.MULTILINE)
_KEY_PART = r"""(?:[A-Za-z0-9_+-]+|"(?:\\.|[^"\\\n])*"|'[^'\n]*')"""
_WORD = re.compile(
    r'"""(?:\\.|[^\\])*?"""'
    r"|'''.*?'''"
    r"|#[^\n]*"
    rf"|(?P<key>{_KEY_PART}(?:[ \t]*\.[ \t]*{_KEY_PART})+)"
    r"|(?P<word>[A-Za-z0-9_+-]+)"
    rf"|{_KEY_PART}",
    re.DOTALL,
)
_ARRAY_TABLE = re.compile(r"""^[ \t]*\[\[[ \t]*[A-Za-z_"']""", re.MULTILINE)

#: No key of a machine file or a workload program has more parts, no number or bare key more characters.
MAX_PARTS = 16
MAX_WORD = 256
#: Characters of a text, and of its matrices for each pair of nodes: distances, latencies, bandwidths, curves.
MAX_CHARACTERS = 512 << 10
_PER_PAIR = 48


class TomlLimitError(ValueError):
    """A text that is not to be parsed: the line, and why."""

    def __init__(self, line: int, reason: str) -> None:
        """`line` counts from 1."""
        super().__init__(reason)
        self.line = line
        self.reason = reason


def check_limits(text: str, most_tables: int) -> None:
    """TomlLimitError for what would take long to parse: too much text, keys of many parts, endless numbers.

    A text may be as long as the matrices that its array tables (``[[node]]``) need, if there are no more
    than `most_tables`.
    """
    tables = sum(1 for _ in _ARRAY_TABLE.finditer(text))
    most = MAX_CHARACTERS + (_PER_PAIR * tables**2 if tables <= most_tables else 0)
    if len(text) > most:
        raise TomlLimitError(1, f"{len(text)} characters, at most {most} for {tables} tables in [[ ]]")
    for match in _WORD.finditer(text):
        word, key = match["word"], match["key"]
        if word is not None and len(word) > MAX_WORD:
            raise TomlLimitError(_line_of(text, match.start()), f"a word of {len(word)} characters")
        if key is not None and key.count(".") >= MAX_PARTS:
            raise TomlLimitError(
                _line_of(text, match.start()), f"a key of more than {MAX_PARTS} parts: {key[:20]}…"
            )


def loads(text: str) -> dict[str, Any]:
    """What ``tomllib.loads`` returns or raises. Long rows are read as JSON, in a hundredth of the time."""
    rows: list[list[int]] = []
    mark = "row"
    while mark in text:
        mark += "_"

    def note(match: re.Match[str]) -> str:
        try:
            rows.append(json.loads(match[2]))
        except ValueError:  # tomllib may take it all the same, or say what is wrong
            return match[0]
        return f"{match[1]}{{{mark} = {len(rows) - 1}}}{match[3]}"

    if '"""' not in text and "'''" not in text:  # where a line that looks like a row may be text
        text = _LONG_ROW.sub(note, text)
    data = tomllib.loads(text)
    return _with_rows(data, mark, rows) if rows else data


def _with_rows(value: Any, mark: str, rows: list[list[int]]) -> Any:
    """The same with every row in its place."""
    if isinstance(value, dict):
        if mark in value:
            return rows[value[mark]]
        return {key: _with_rows(part, mark, rows) for key, part in value.items()}
    if isinstance(value, list):
        return [_with_rows(part, mark, rows) for part in value]
    return value


def _line_of(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def key_lines(text: str) -> dict[KeyPath, int]:
    """Line (from 1) on which every key, table, array table and array element of a TOML text stands.

    The text must be valid TOML, that is, one that tomllib has loaded.
    """
    scanner = _Scanner(text.replace("\r\n", "\n"))
    scanner.document()
    return scanner.lines


class _Scanner:
    """A reader of valid TOML that notes positions and skips values."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.pos = 0
        self.lines: dict[KeyPath, int] = {}
        self._newlines = [match.start() for match in re.finditer("\n", text)]
        #: Elements so far of each array table.
        self._tables: dict[KeyPath, int] = {}

    def document(self) -> None:
        table: KeyPath = ()
        while self._skip(_BLANK) < len(self.text):
            if self.text.startswith("[", self.pos):
                table = self._header()
            else:
                self._key_value(table)

    def _header(self) -> KeyPath:
        line = self._line()
        is_array = self.text.startswith("[[", self.pos)
        self.pos += 2 if is_array else 1
        parts = self._key()
        self.pos += 2 if is_array else 1
        path: KeyPath = ()
        for depth, part in enumerate(parts, start=1):
            path = (*path, part)
            self.lines.setdefault(path, line)
            if depth == len(parts) and is_array:
                self._tables[path] = self._tables.get(path, 0) + 1
            if path in self._tables:
                path = (*path, self._tables[path] - 1)
                self.lines.setdefault(path, line)
        return path

    def _key_value(self, table: KeyPath) -> None:
        line = self._line()
        path = table
        for part in self._key():
            path = (*path, part)
            self.lines.setdefault(path, line)
        self.pos += 1  # the equals sign
        self._skip(_SPACE)
        self._value(path)

    def _key(self) -> list[str]:
        parts: list[str] = []
        while True:
            self._skip(_SPACE)
            if self.text[self.pos] in "\"'":
                parts.append(str(tomllib.loads("key = " + self._match(_STRING))["key"]))
            else:
                parts.append(self._match(_BARE_KEY))
            self._skip(_SPACE)
            if not self.text.startswith(".", self.pos):
                return parts
            self.pos += 1

    def _value(self, path: KeyPath) -> None:
        self.lines.setdefault(path, self._line())
        start = self.text[self.pos]
        if start == "[":
            row = _ROW.match(self.text, self.pos)
            if row is not None:
                self.pos = row.end()
            else:
                self._array(path)
        elif start == "{":
            self._inline_table(path)
        else:
            self._match(_STRING if start in "\"'" else _SCALAR)

    def _array(self, path: KeyPath) -> None:
        self.pos += 1
        index = 0
        while self.text[self._skip(_BLANK)] != "]":
            self._value((*path, index))
            index += 1
            if self.text[self._skip(_BLANK)] == ",":
                self.pos += 1
        self.pos += 1

    def _inline_table(self, path: KeyPath) -> None:
        self.pos += 1
        while self.text[self._skip(_BLANK)] != "}":
            self._key_value(path)
            if self.text[self._skip(_BLANK)] == ",":
                self.pos += 1
        self.pos += 1

    def _line(self) -> int:
        return bisect_right(self._newlines, self.pos - 1) + 1

    def _skip(self, pattern: re.Pattern[str]) -> int:
        self._match(pattern)
        return self.pos

    def _match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.pos)
        assert match is not None, f"not TOML at offset {self.pos}"
        self.pos = match.end()
        return match[0]
