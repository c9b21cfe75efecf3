"""The memory model: pure, deterministic, fast. One file per kernel concept, with the kernel's names.

State in, op in, state out: no I/O, clock, logging or randomness anywhere below this folder.
"""
