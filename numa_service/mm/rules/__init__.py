"""The rules of kernels as tables: each with the release in which it changed, its source and its witness.

* ``axis.py``: what a rule is.
* ``zones.py``: watermarks, reserves, pagesets and zonelists.
* ``pages.py``: allocation and reclaim.
* ``policies.py``: memory policies.
* ``boot.py``: the boot log, files and tracepoints.
* ``sysctls.py``: which sysctls there are, their defaults and their limits.
* ``unmodelled.py``: rules that are told, and not modelled.
* ``distributions.py``: kernels of distributions, with the rules that they took over.

The profiles that they make are in ``mm/profile.py``. No rule is written here that has not been read in the
source of a release with it and of one without it, or that no captured boot shows; where the release between
the two is not certain, `read` tells both.
"""
