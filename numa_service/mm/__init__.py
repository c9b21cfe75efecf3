"""The memory model: one module for each concept of the kernel's ``mm/``, with the kernel's names.

It is deterministic: the next state depends on the state and the operation alone. Nothing in this package does
I/O, logs, reads a clock or draws random numbers.
"""
