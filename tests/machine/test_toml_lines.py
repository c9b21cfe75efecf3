"""Lines of keys, in documents in which every value is its own line number; and long rows of numbers."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numa_service.machine.toml_lines import KeyPath, TomlText, key_lines

DOCUMENT = '''# comment = 1
name = "line 2"
"quoted.key" = 3
a.b.c = 4
text = """
distances = [ not a key
"quotes\\"""" # 7 ends here
raw = \'\'\'
[node]\'\'\'
list = [  # 10
    11,
    [12, 12, # ], not the end
     13],
    "14 ]",
]
inline = { x = 16, y = [16, { z = 16 }], 'w' = "}" }
[table]  # 17
x = 18
[table.sub]
x = 20
[[node]]
id = 22

[[node]]
id = 25
[node.deep]
id = 27
[[node.part]]
id = 29
[[node.part]]
id = 31
[[node]]
'''


def _values(path: KeyPath, value: object) -> list[tuple[KeyPath, object]]:
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in _values((*path, key), item)]
    if isinstance(value, list):
        return [leaf for i, item in enumerate(value) for leaf in _values((*path, i), item)]
    return [(path, value)]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_number_in_the_document_is_its_line(newline: str) -> None:
    text = DOCUMENT.replace("\n", newline)
    lines = key_lines(text)
    leaves = _values((), tomllib.loads(text))
    numbers = {path: value for path, value in leaves if isinstance(value, int)}
    assert len(numbers) == 16
    assert {path: lines[path] for path in numbers} == numbers


def test_strings_tables_and_arrays_have_lines_too() -> None:
    lines = key_lines(DOCUMENT)
    assert lines["name",] == 2
    assert lines["text",] == 5
    assert lines["raw",] == 8
    assert lines["list",] == 10
    assert lines["list", 1] == 12
    assert lines["list", 2] == 14
    assert lines["table",] == 17
    assert lines["table", "sub"] == 19
    assert [lines["node", i] for i in range(3)] == [21, 24, 32]
    assert lines["node", 1, "part", 1] == 30


_KEYS = st.text("abc", min_size=1, max_size=3)
_VALUES = st.recursive(
    st.sampled_from(["1", "true", '"a]b#}"', "'x,'", "1979-05-27 07:32:00", '"""\n[a]\n"""']),
    lambda inner: st.lists(inner, max_size=3).map(lambda items: "[\n" + ",\n# ]\n".join(items) + "]"),
    max_leaves=6,
)


@given(st.lists(st.tuples(_KEYS, _VALUES), unique_by=lambda item: item[0]))
def test_every_key_of_any_document_is_found_on_its_line(items: list[tuple[str, str]]) -> None:
    text = "\n".join(f"{key} = {value}" for key, value in items)
    lines = key_lines(text)
    for path, _ in _values((), tomllib.loads(text)):
        assert path in lines
    for key, _ in items:
        assert text.split("\n")[lines[key,] - 1].startswith(f"{key} = ")


ROWS = st.lists(st.lists(st.integers(0, 10**6), min_size=1, max_size=60), min_size=1, max_size=4)


@given(ROWS, st.sampled_from(["", " ", "\t"]), st.sampled_from(["", ","]), st.booleans())
def test_long_rows_are_what_tomllib_reads(rows: list[list[int]], space: str, end: str, quoted: bool) -> None:
    """Also beside keys that look like the mark of a row, on a line with other values, and within strings."""
    lines = [f"{space}[{f',{space}'.join(map(str, row))}{end}]" for row in rows]
    text = "row = 1\nrow_ = {row = 0}\nm = [\n" + ",\n".join(lines) + f",\n]\nn = [{lines[0]}]\n"
    if quoted:
        text += 't = """\n' + "\n".join(lines) + '\n"""\n'
    assert TomlText(text, 8).loads() == tomllib.loads(text)


@pytest.mark.parametrize(
    "row", ["[01" + ", 1" * 40 + "]", "[1,, " + "1, " * 40 + "]", "[" + ", 1" * 40 + "]"]
)
def test_a_long_row_that_is_wrong_is_named_by_its_line(row: str) -> None:
    with pytest.raises(tomllib.TOMLDecodeError, match="line 2"):
        TomlText(f"m = [\n{row},\n]\n", 8).loads()
