"""NUMA balancing: hint faults tell where memory is used, and pages and tasks move towards each other.

As in ``kernel/sched/fair.c``, ``mm/memory.c`` and ``mm/mprotect.c``. It is pure, and works on the processes
of ``mm/mmap``; where tasks run, how long they have run and how loaded nodes are is what the caller says.

* ``rules.py``: what differs between kernels, as data; ``parameters.py``: the sysctls.
* ``counters.py``: what ``/proc/vmstat`` counts.
* ``cpupid.py``: who used a page last.
* ``task.py``: what a machine, a task and an address space remember; ``fork.py``: how tasks begin and end.
* ``scan.py``: which entries get a hint (``task_numa_work``); ``change_prot.py``: giving it to them.
* ``scan_period.py``: how often.
* ``policy.py``: what policies say to it; ``misplaced.py``: whether a page should move to whoever used it.
* ``group.py``: tasks that share pages.
* ``fault.py``: a hint fault.
* ``placement.py``: the preferred node of a task; ``topology.py``: what its neighbours count.
* ``migrate.py``: which CPU a task should move to.
"""
