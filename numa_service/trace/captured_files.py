"""Reading the files of a capture that was made beside a trace."""

from __future__ import annotations

from pathlib import Path

from numa_service.machine.input_files import read_text, split_lines
from numa_service.machine.spec import SpecError
from numa_service.trace.events import TraceError


def read_captured(directory: Path, name: str) -> str:
    """The text of a file of a capture; TraceError if it cannot be read, or lies outside the directory."""
    path = directory / name
    try:
        text = read_text(path, root=directory)
        split_lines(text, str(path))
    except SpecError as error:
        raise TraceError(str(error)) from None
    return text
