"""Workload programs: declared phases of allocations, lifetimes and accesses that run next to a node.

A program is data (``clients/python/numa_client/_program.py``). ``workload/plan.py`` checks it and resolves it
for a node; ``workload/run.py`` runs it, a generator as in ``node/page_alloc.py`` that works batch by batch
through ordinary ops. There is no clock and no transport here, and randomness comes from the program's seed.
"""
