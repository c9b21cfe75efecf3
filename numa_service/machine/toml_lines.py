"""Limits on a TOML text before it is parsed, and the lines on which its keys stand.

tomllib takes time that is quadratic in the parts of a key, fails with an error of its own at a number of
thousands of digits, and returns values without the lines that an error message should name.
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
#: A long row of a matrix on a line of its own (group ``row``); strings and comments are matched first, so
#: that a row inside them is not taken for one.
_LONG_ROW = re.compile(
    r'"""(?:\\.|[^\\])*?"""'
    r"|'''.*?'''"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|^(?P<before>[ \t]*)\[(?P<row>[0-9 \t]+,[0-9 \t,]{64,})\](?P<after>,?[ \t]*)$",
    re.DOTALL | re.MULTILINE,
)
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

#: Most parts of a dotted key, and most characters of a number or bare key: more than any key of a machine
#: file or a workload program has.
MAX_PARTS = 16
MAX_WORD = 256
#: Most characters of a text, beside its long rows; how many more each array table (``[[node]]``) allows; and
#: how many each pair of tables allows for rows of distances, latencies, bandwidths and curves.
MAX_CHARACTERS = 512 << 10
_PER_TABLE, _PER_PAIR = 128, 48
#: Distinct numbers up to which equal ones share an object; a text with more is taken to repeat none.
_NUMBERS_KEPT = 4096


class TomlLimitError(ValueError):
    """A text that is beyond the limits and is not parsed; it has the line and the reason."""

    def __init__(self, line: int, reason: str) -> None:
        """`line` counts from 1."""
        super().__init__(reason)
        self.line = line
        self.reason = reason


class _Numbers(dict[str, int]):
    """Whole numbers by their text: the million elements of a matrix then share a few objects."""

    def __missing__(self, text: str) -> int:
        number = int(text)
        if str(number) != text.strip(" \t"):
            raise ValueError(f"{text!r} is not as TOML writes a number")
        self[text] = number
        return number


class TomlText:
    """A TOML text that parses within a second, because its long rows of numbers are not left to tomllib.

    :attr:`text` is the same text, line by line, with a mark in place of each long row.
    """

    def __init__(self, text: str, most_tables: int) -> None:
        """TomlLimitError for a text that is too long, or has a key or number beyond the limits.

        A text may have the matrices that its array tables (``[[node]]``) need, if there are at most
        `most_tables` of them and each row of a matrix stands on a line of its own.
        """
        self._rows: list[list[int]] = []
        self._numbers = _Numbers()
        self._mark = "row"
        while self._mark in text:
            self._mark += "_"
        found = sum(1 for _ in _ARRAY_TABLE.finditer(text))
        tables = found if found <= most_tables else 0
        most = MAX_CHARACTERS + _PER_PAIR * tables**2
        if len(text) > most:
            raise TomlLimitError(1, f"{len(text)} characters, at most {most} for {found} tables in [[ ]]")
        self.text = _LONG_ROW.sub(self._take, text)
        most = MAX_CHARACTERS + _PER_TABLE * tables
        if len(self.text) > most:
            raise TomlLimitError(
                1,
                f"{len(self.text)} characters that are no row of whole numbers on a line of its own, "
                f"at most {most} for {found} tables in [[ ]]",
            )
        _check_words(self.text)

    def loads(self) -> dict[str, Any]:
        """The document, as ``tomllib.loads`` returns it; tomllib.TOMLDecodeError as of that."""
        data = tomllib.loads(self.text)
        return _with_rows(data, self._mark, self._rows) if self._rows else data

    def _take(self, match: re.Match[str]) -> str:
        row = match["row"]
        if row is None:
            return match[0]
        row = row.rstrip(" \t").removesuffix(",")
        try:
            if len(self._numbers) < _NUMBERS_KEPT:
                self._rows.append(list(map(self._numbers.__getitem__, row.split(","))))
            else:
                self._rows.append(json.loads(f"[{row}]"))
        except ValueError:  # tomllib will say what is wrong
            return match[0]
        return f"{match['before']}{{{self._mark} = {len(self._rows) - 1}}}{match['after']}"


def _check_words(text: str) -> None:
    for match in _WORD.finditer(text):
        word, key = match["word"], match["key"]
        if word is not None and len(word) > MAX_WORD:
            raise TomlLimitError(_line_of(text, match.start()), f"a word of {len(word)} characters")
        if key is not None and key.count(".") >= MAX_PARTS:
            raise TomlLimitError(
                _line_of(text, match.start()), f"a key of more than {MAX_PARTS} parts: {key[:20]}…"
            )


def _with_rows(value: Any, mark: str, rows: list[list[int]]) -> Any:
    """A loaded value with every mark replaced by its row."""
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
    """The line, counted from 1, of every key, table, array table and array element of a TOML text.

    The text must be valid TOML: one that tomllib has loaded.
    """
    scanner = _Scanner(text.replace("\r\n", "\n"))
    scanner.document()
    return scanner.lines


class _Scanner:
    """A scanner of valid TOML that notes the lines of keys and skips values."""

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
