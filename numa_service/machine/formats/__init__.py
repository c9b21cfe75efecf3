"""Machines in the formats of other tools: one file per format, each way.

An importer makes a :class:`~numa_service.machine.formats.draft.Draft`: nodes, CPUs, memory, distances,
latencies, and notes on what a machine here cannot express. The draft is written as a machine file, and the
machine file is what boots, so that one validator serves all formats. An exporter writes the draft of a spec.
"""
