"""Memory policies (``mm/mempolicy.c``): what they are, which node a page gets, and the checks of their calls.

* ``nodemask.py``: sets of nodes, and how one is folded onto or mapped to another.
* ``policy.py``: a policy: how it is made, compared, and bound anew when the cpuset changes.
* ``interleave.py``: the node of a page under the two interleave policies.
* ``choice.py``: the node and the nodemask with which a zonelist is walked; cpusets.
* ``text.py``: a policy as numa_maps prints it and as tmpfs reads it; the files of the weights.
* ``calls.py``: set_mempolicy, get_mempolicy, mbind and set_mempolicy_home_node.
* ``moves.py``: migrate_pages and move_pages, and which pages mbind moves.

Everything is pure: what a call needs of a task, a machine or an address space is an argument. What differs
between kernels is in ``mm/rules/policies.py``.
"""
