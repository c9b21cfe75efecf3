"""Machines in the formats of other tools: one file per format, each way.

Whatever is read becomes a :class:`~numa_service.machine.formats.draft.Draft`: nodes, CPUs, memory, distances,
latencies, and notes on what a machine here cannot say. A draft is written as a machine file, and that is what
is booted: one validator for all. What is written starts from the draft of a spec.
"""
