"""The options of a console, apart from its server, which commands that only pass them on need not import."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConsoleOptions:
    """How a machine's console is served."""

    host: str = "127.0.0.1"
    #: 0 stands for any free port.
    port: int = 0
    #: Whether browsers may allocate, free and write sysctls.
    writable: bool = False
