"""System calls of unmodified programs, answered by an emulated machine instead of the host's kernel.

A program runs as it is; a seccomp filter that it inherits hands some of its calls to a supervisor, which
answers them (``seccomp_unotify(2)``). All other calls are the host's, at full speed.

* ``seccomp.py``: the filter, and the calls as they arrive. It uses the standard library only, since it is
  loaded in the process that becomes the program.
* ``program_memory.py``: what calls point to in the program's memory.
* ``processes.py``: which thread calls, and what it inherited from the one that made it.
* ``placement.py``: which pages of a process are there, and on which nodes of the machine.
* ``machine.py``: the machine that has the pages: ``simulated.py`` is one that is booted in this process,
  ``served.py`` one that is up.
* ``counting.py``: finds the pages that are there, and takes memory of the machine for them.
* ``shared.py``: pages of files and of shared memory, which are on one node for all who map them.
* ``areas.py``: policies of addresses; ``remap.py``: addresses that change.
* ``moving.py``: pages that calls move; ``credentials.py``: who may do that.
* ``answers.py``: what each call is answered; the rules are those of ``mm/mempolicy``.
* ``own_files.py``: files of /proc and /sys that are written anew for each reader.
* ``supervisor.py``: receives calls and sends answers until the program has ended.
"""
