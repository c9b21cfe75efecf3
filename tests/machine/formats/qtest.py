"""QEMU without a guest: it checks its arguments, builds its ACPI tables, and hands them out over fw_cfg."""

from __future__ import annotations

import shlex
import struct
import subprocess
from collections.abc import Callable

QEMU = "qemu-system-x86_64"
_SELECTOR, _DMA_HIGH, _DMA_LOW = 0x510, 0x514, 0x518
_FILE_DIRECTORY = 0x19
_READ, _SELECT = 2, 8
_CONTROL, _BUFFER = 0x1000, 0x100000


def acpi_tables(arguments: str) -> dict[str, bytes]:
    """SRAT, SLIT, HMAT and APIC that QEMU makes for these arguments, by signature.

    Their checksums, which the firmware would set, are set here. CalledProcessError says why QEMU refuses.
    """
    command = [QEMU, "-accel", "tcg", "-qtest", "stdio", "-display", "none", "-nodefaults", "-S"]
    with subprocess.Popen(
        [*command, *shlex.split(arguments.replace("\\\n", " "))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        stdin, stdout = process.stdin, process.stdout

        def ask(line: str) -> str:
            stdin.write(line + "\n")
            stdin.flush()
            answer = stdout.readline()
            if not answer.startswith("OK"):
                raise subprocess.CalledProcessError(1, QEMU, answer, process.stderr.read())  # type: ignore[union-attr]
            return answer[3:].strip()

        try:
            blob = _file(ask, "etc/acpi/tables")
        except BrokenPipeError:
            raise subprocess.CalledProcessError(1, QEMU, "", process.stderr.read()) from None
        finally:
            process.kill()
    return _split(blob)


def _read(ask: Callable[[str], str], key: int, size: int) -> bytes:
    control = struct.pack(">IIQ", key << 16 | _SELECT | _READ, size, _BUFFER)
    ask(f"write {_CONTROL:#x} {len(control):#x} 0x{control.hex()}")
    ask(f"outl {_DMA_HIGH:#x} 0x0")
    ask(f"outl {_DMA_LOW:#x} {int.from_bytes(struct.pack('>I', _CONTROL), 'little'):#x}")
    return bytes.fromhex(ask(f"read {_BUFFER:#x} {size:#x}").removeprefix("0x"))


def _file(ask: Callable[[str], str], name: str) -> bytes:
    (count,) = struct.unpack(">I", _read(ask, _FILE_DIRECTORY, 4))
    entries = _read(ask, _FILE_DIRECTORY, 4 + 64 * count)[4:]
    for i in range(count):
        size, key, _, found = struct.unpack_from(">IHH56s", entries, 64 * i)
        if found.rstrip(b"\0").decode() == name:
            return _read(ask, key, size)
    raise AssertionError(f"no {name}")


def _split(blob: bytes) -> dict[str, bytes]:
    """The tables of a blob, which has padding between them, by signature."""
    tables: dict[str, bytes] = {}
    for signature in (b"SRAT", b"SLIT", b"HMAT", b"APIC"):
        at = blob.find(signature)
        if at < 0:
            continue
        (length,) = struct.unpack_from("<I", blob, at + 4)
        table = bytearray(blob[at : at + length])
        table[9] = 0
        table[9] = -sum(table) & 0xFF
        tables[signature.decode()] = bytes(table)
    return tables
