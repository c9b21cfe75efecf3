"""The address space of a process, as in ``mm/mmap.c``, ``mm/vma.c`` and ``mm/memory.c``.

It is pure: where pages come from is a protocol. The tasks of nodes are made of it (``node/task_state.py``).

* ``rules.py``: what differs between kernels, as data; where an architecture has a process's addresses.
* ``vm_flags.py``: the flags of a VMA, and how ``/proc/PID/smaps`` spells them.
* ``anon_vma.py``: which VMAs may share anonymous pages since a fork.
* ``vma.py``: a VMA, and the file that it maps.
* ``vma_tree.py``: the VMAs of an address space by address.
* ``vma_merge.py``: which neighbours become one, and how a VMA is cut.
* ``limits.py``: resource limits, capabilities, and the memory that all processes may promise together.
* ``mm_struct.py``: the address space, its counters, and what every call does to VMAs.
* ``unmapped_area.py``: where a mapping comes to lie.
* ``mmap.py``, ``munmap.py``, ``mprotect.py``, ``mremap.py``, ``madvise.py``, ``mlock.py``, ``brk.py``: calls.
* ``remap_file_pages.py``, ``msync.py``, ``mincore.py``: calls about what is mapped already.
* ``hugetlb.py``, ``hugetlb_fault.py``: mappings of huge pages of pools, and their pages.
* ``ranges.py``, ``attributes.py``: parts of an address space that get other flags, a policy or a name.
* ``stack.py``, ``fork.py``: what grows by itself, and what a child gets.
* ``effects.py``: what a call leaves to be done to page tables and pages.
* ``pgtables.py``: pages of page tables, counted level by level; ``entries.py``: what is in those of PTEs.
* ``frames.py``: pages that are mapped, and those of files in memory; ``readahead.py``: which those become.
* ``process.py``: VMAs, page tables and resident set together.
* ``fault.py``: faults, a range at a time; ``carry_out.py``: what calls do to pages, fork, and the end.
* ``rmap.py``: who maps a page.
* ``thp_rules.py``, ``thp.py``: transparent huge pages: what differs between kernels; settings and counters.
* ``thp_dump.py``: those as plain data.
* ``huge_memory.py``: faults of huge pages, and their splits; ``khugepaged.py``: small pages become huge ones.

A call that Linux refuses raises :class:`~numa_service.mm.mmap.errnos.Errno` with Linux's number.
"""
