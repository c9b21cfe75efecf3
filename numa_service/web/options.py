"""What a console may be told: apart from the console, which those who only tell it need not import."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConsoleOptions:
    """How a machine's console is served."""

    host: str = "127.0.0.1"
    #: 0: any that is free.
    port: int = 0
    #: Whether browsers may allocate, free and write sysctls.
    writable: bool = False
