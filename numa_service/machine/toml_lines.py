"""Where the keys of a TOML text are: tomllib gives values without lines, and an error should name a line."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

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
