"""``make fuzz-imports``: mutated files over all importers: each is read, or refused in one line, and soon.

A seed fixes every file: `--only FORM:NUMBER` makes and reads a single one again.
"""

from __future__ import annotations

import argparse
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz.seeds import packed, texts, trees

from numa_service.machine.source import load
from numa_service.machine.spec import SpecError

#: Most CPU seconds and KiB that one file may take, and seconds after which it hangs.
CPU_SECONDS, MOST_KIB, HANGS = 1.0, 200 << 10, 20
_NUMBERS = (
    b"0",
    b"1",
    b"-1",
    b"255",
    b"4294967295",
    b"18446744073709551616",
    b"9" * 40,
    b"0x7fffffffffffffff",
    b"1e9",
)
_WORDS = (
    b"\0",
    b"\xff\xfe",
    b"\xc3\x28",
    b"'",
    b'"',
    b"<",
    b"]]>",
    b"&lt;",
    b"[",
    b"{",
    b"\r\n",
    b"\t",
    b"%s",
    b",",
)

Mutation = Callable[[random.Random, bytes], bytes]


def mutated(choose: random.Random, content: bytes) -> bytes:
    """The content after one to four mutations, at most four times as long and 64 KiB."""
    for _ in range(choose.randint(1, 4)):
        content = choose.choice(_MUTATIONS)(choose, content)
    return content


def _flip(choose: random.Random, content: bytes) -> bytes:
    at = choose.randrange(len(content) + 1)
    return content[:at] + bytes([choose.randrange(256)]) + content[at + 1 :]


def _cut(choose: random.Random, content: bytes) -> bytes:
    return content[: choose.randrange(len(content) + 1)]


def _insert(choose: random.Random, content: bytes) -> bytes:
    at = choose.randrange(len(content) + 1)
    return content[:at] + choose.choice(_WORDS) * choose.choice((1, 1, 1, 200)) + content[at:]


def _number(choose: random.Random, content: bytes) -> bytes:
    places = [at for at in range(len(content)) if content[at : at + 1].isdigit()]
    if not places:
        return content
    start = end = choose.choice(places)
    while content[end : end + 1].isdigit():
        end += 1
    return content[:start] + choose.choice(_NUMBERS) + content[end:]


def _lines(choose: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    first, second = choose.randrange(len(lines)), choose.randrange(len(lines))
    match choose.randrange(4):
        case 0:
            del lines[first]
        case 1:
            lines.insert(second, lines[first])
        case 2:
            lines[first], lines[second] = lines[second], lines[first]
        case _:
            lines[first:first] = [lines[first]] * choose.choice((3, 500 if len(lines[first]) < 100 else 3))
    return b"\n".join(lines)


def _swap(choose: random.Random, content: bytes) -> bytes:
    a, b, c = sorted(choose.randrange(len(content) + 1) for _ in range(3))
    return content[:a] + content[b:c] + content[a:b] + content[c:]


#: Formats with a grammar of their own, by which a reader refuses most mutated files.
_STRICT = ("toml", "hwloc-xml", "libvirt", "kubelet")
_MUTATIONS: tuple[Mutation, ...] = (
    _flip,
    _flip,
    _cut,
    _insert,
    _number,
    _number,
    _number,
    _lines,
    _lines,
    _swap,
)


class Fuzzer:
    """Makes and reads the files of every format."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.texts, self.trees = texts(), trees()
        self.forms = [*self.texts, *self.trees, "tar"]
        self._folder = tempfile.TemporaryDirectory()
        self.outcomes: Counter[str] = Counter()
        self.slowest = 0.0

    def content(self, form: str, number: int) -> bytes:
        """A mutated file."""
        choose = random.Random(f"{self.seed} {form} {number}")
        if form in self.texts:
            good = choose.choice(self.texts[form])
            # what has to be well-formed is read at all only if little but its numbers changes
            strict = form in _STRICT and choose.random() < 0.5
            made = _number(choose, good) if strict else mutated(choose, good)
            if form == "acpi" and len(made) > 9 and choose.random() < 0.7:
                # a right checksum and length, so that what is behind them is read
                table = bytearray(made)
                table[4:8] = len(table).to_bytes(4, "little")
                table[9] = 0
                table[9] = -sum(table) & 0xFF
                made = bytes(table)
            return made
        files = dict(self.trees["capture" if form == "tar" else form])
        if form == "tar":
            return mutated(choose, packed({name: files[name] for name in sorted(files)[:6]}))
        for name in choose.sample(sorted(files), choose.randint(1, 3)):
            files[name] = mutated(choose, files[name])
            if choose.random() < 0.2:
                del files[name]
        return packed(files)

    def read(self, form: str, number: int) -> str:
        """What is wrong with how the file was read or refused; empty if nothing is."""
        content = self.content(form, number)
        path = Path(self._folder.name, f"box.{'tar' if form in self.trees or form == 'tar' else 'txt'}")
        path.write_bytes(content)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        signal.signal(signal.SIGALRM, _hang)
        signal.alarm(HANGS)
        began = time.process_time()
        try:
            load(str(path))
            outcome = "read"
        except SpecError as error:
            outcome = "refused"
            if "\n" in str(error) or not str(error).strip():
                return f"an error of {str(error).count(chr(10)) + 1} lines: {str(error)[:200]!r}"
        except Exception as error:
            return f"{type(error).__name__}: {error}"[:300]
        finally:
            signal.alarm(0)
        took = time.process_time() - began
        self.slowest = max(self.slowest, took)
        self.outcomes[f"{form} {outcome}"] += 1
        if took > CPU_SECONDS:
            return f"{took:.1f} CPU seconds"
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        return f"{grown >> 10} MiB" if grown > MOST_KIB else ""


def _hang(*_: object) -> None:
    raise TimeoutError(f"no answer within {HANGS} s")


def main() -> int:
    """Exit status 1 if a file was not read or refused as it should be."""
    parser = argparse.ArgumentParser(prog="make fuzz-imports", description=__doc__)
    parser.add_argument("--files", type=int, default=100_000, help="of all formats together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", metavar="FORM:NUMBER", help="read a single one, and print it")
    arguments = parser.parse_args()
    fuzzer = Fuzzer(arguments.seed)
    if arguments.only:
        form, _, number = arguments.only.partition(":")
        sys.stdout.buffer.write(fuzzer.content(form, int(number)))
        print(f"\n{fuzzer.read(form, int(number)) or 'as it should be'}", file=sys.stderr)
        return 0
    wrong = 0
    for form in fuzzer.forms:
        for number in range(-(-arguments.files // len(fuzzer.forms))):
            if told := fuzzer.read(form, number):
                wrong += 1
                print(f"{form}:{number}: {told}", flush=True)
        read, refused = (fuzzer.outcomes[f"{form} {what}"] for what in ("read", "refused"))
        print(
            f"{form}: {read} read, {refused} refused; slowest so far {fuzzer.slowest:.2f} CPU s", flush=True
        )
    print(f"{sum(fuzzer.outcomes.values())} files, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
