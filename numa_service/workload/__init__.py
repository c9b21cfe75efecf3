"""Workload programs: declared phases of allocations, lifetimes and accesses that run next to a node.

A program is data (:mod:`program`). It is checked and resolved for a node (:mod:`plan`), and run by a
generator in the style of ``node/page_alloc.py`` (:mod:`run`), batch by batch, through ordinary ops. No clock,
no transport; randomness only from the program's seed.
"""
