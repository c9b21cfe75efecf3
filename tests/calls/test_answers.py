"""Programs that ask where their memory is, on a machine that does not exist."""

from __future__ import annotations

import errno
import signal
from itertools import pairwise

import pytest
from answered import machine, run, run_command

from numa_service.mm.vmstat import NR_FREE_PAGES
from numa_service.node import ops

pytestmark = pytest.mark.usefixtures("notified")


def free_pages(preset: str = "two-socket") -> list[int]:
    nodes = machine(preset).simulation.nodes.values()
    for node in nodes:
        node.apply(ops.DrainPagesets())
    return [int(node.pgdat.pg.vm_stat[:, NR_FREE_PAGES].sum()) for node in nodes]


def test_pages_are_where_policies_say() -> None:
    ran = run(
        """
        local, bound, spread = room(64), room(64, touched=False), room(64, touched=False)
        assert call(MBIND, bound, 64 << 12, BIND, mask(1), 64, 0) == 0
        assert call(MBIND, spread, 64 << 12, INTERLEAVE, mask(0, 1), 64, 0) == 0
        ctypes.memset(bound, 1, 64 << 12)
        ctypes.memset(spread, 1, 64 << 12)
        of = [where(at, at + 4096, at + 8192) for at in (local, bound)]
        tell(local=node_of(local), bound=node_of(bound), of=of)
        tell(spread=[where(spread + (page << 12))[0] for page in range(64)])
        """
    )
    assert (ran.status, ran.err) == (0, "")
    first, second = ran.told
    assert first == {"local": 0, "bound": 1, "of": [[0, 0, 0], [1, 1, 1]]}
    spread = second["spread"]
    assert [spread.count(nid) for nid in (0, 1)] == [32, 32]
    assert all(a != b for a, b in pairwise(spread))


def test_a_program_takes_memory_of_the_machine_and_leaves_none() -> None:
    before = free_pages()
    ran = run(
        """
        assert call(SET, BIND, mask(1), 64) == 0
        at = room(20000)
        def free():
            text = open("/sys/devices/system/node/node1/meminfo").read().splitlines()
            return int(text[1].split()[3])
        with_it = free()
        maps = [line.split() for line in open("/proc/self/numa_maps")]
        line = next(words for words in maps if words[0] == f"{at:08x}")
        libc.munmap(ctypes.c_void_p(at), 20000 << 12)
        tell(taken=free() - with_it, policy=line[1], nodes=[word for word in line if word.startswith("N")])
        """
    )
    assert (ran.status, ran.err) == (0, "")
    (told,) = ran.told
    # in kB; some of the freed pages are in the CPU's pageset, which MemFree does not count
    assert 60_000 < told.pop("taken") <= 80_000
    assert told == {"policy": "bind:1", "nodes": ["N1=20000"]}
    assert free_pages() == before
    for node in machine().simulation.nodes.values():
        assert node.check() == []
        assert not node.sessions


def test_pages_move() -> None:
    ran = run(
        """
        at = room(16)
        there = where(at, at + 4096)
        moved = where(at, at + 4096, to=[1, 0])
        assert call(MBIND, at, 16 << 12, BIND, mask(1), 64, 2) == 0
        bound = where(*(at + (page << 12) for page in range(16)))
        left = call(MIGRATE, 0, 64, mask(1), mask(0))
        tell(there=there, moved=moved, bound=bound, left=left, then=where(at, at + 4096))
        """
    )
    assert (ran.status, ran.err) == (0, "")
    assert ran.told == [{"there": [0, 0], "moved": [1, 0], "bound": [1] * 16, "left": 0, "then": [0, 0]}]


def test_the_errno_of_linux() -> None:
    ran = run(
        """
        at = room(4)
        tell(
            no_such_node=call(SET, BIND, mask(5), 64),
            no_nodes=call(SET, BIND, mask(), 64),
            no_such_mode=call(SET, 17, mask(0), 64),
            bad_mask=call(SET, BIND, ctypes.c_void_p(8), 64),
            bad_mode_pointer=call(GET, ctypes.c_void_p(8), None, 0, 0, 0),
            unaligned=call(MBIND, at + 1, 4096, BIND, mask(0), 64, 0),
            hole=call(MBIND, 1 << 46, 4096, BIND, mask(0), 64, 0),
            bad_flags=call(MBIND, at, 4096, BIND, mask(0), 64, 64),
            no_process=call(MOVE, 2**30, 0, None, None, None, 0),
            not_mapped=where(1 << 46),
            no_node=where(at, to=[7]),
            no_cpu=call(SETAFFINITY, 0, 8, mask(40)),
            small=call(GETAFFINITY, 0, 4, mask(0)),
        )
        """
    )
    assert (ran.status, ran.err) == (0, "")
    (told,) = ran.told
    not_mapped, no_node = told.pop("not_mapped"), told.pop("no_node")
    assert {name: errno.errorcode[-value] for name, value in told.items()} == {
        "no_such_node": "EINVAL",
        "no_nodes": "EINVAL",
        "no_such_mode": "EINVAL",
        "bad_mask": "EFAULT",
        "bad_mode_pointer": "EFAULT",
        "unaligned": "EINVAL",
        "hole": "EFAULT",
        "bad_flags": "EINVAL",
        "no_process": "ESRCH",
        "no_cpu": "EINVAL",
        "small": "EINVAL",
    }
    assert not_mapped == [-errno.EFAULT]
    assert no_node == -errno.ENODEV


def test_what_is_made_inherits_and_what_changes_later_does_not_reach_it() -> None:
    ran = run(
        """
        def child(name):
            sys.stdout.flush()
            ends = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.read(ends[0], 1)  # until the parent has another policy
                tell(**{name: policy(), "cpus": sorted(os.sched_getaffinity(0))})
                os._exit(0)
            return pid, ends[1]

        assert call(SET, BIND, mask(1), 64) == 0
        os.sched_setaffinity(0, {5, 6})
        first, go_first = child("first")
        assert call(SET, INTERLEAVE, mask(0, 1), 64) == 0
        os.sched_setaffinity(0, {0})
        second, go_second = child("second")
        assert call(SET, DEFAULT, None, 0) == 0
        for pid, go in ((first, go_first), (second, go_second)):
            os.write(go, b"x")
            os.waitpid(pid, 0)
        tell(own=policy())
        """
    )
    assert (ran.status, ran.err) == (0, "")
    assert ran.told == [
        {"first": [2, 0b10], "cpus": [5, 6]},
        {"second": [3, 0b11], "cpus": [0]},
        {"own": [0, 0]},
    ]


def test_threads_have_policies_of_their_own() -> None:
    ran = run(
        """
        found = {}
        def work(name, nid):
            before = policy()
            call(SET, PREFERRED, mask(nid), 64)
            found[name] = [before, policy()]
        call(SET, BIND, mask(0), 64)
        for name, nid in (("a", 1), ("b", 0)):
            thread = threading.Thread(target=work, args=(name, nid))
            thread.start()
            thread.join()
        tell(main=policy(), **found)
        """
    )
    assert (ran.status, ran.err) == (0, "")
    assert ran.told == [{"main": [2, 1], "a": [[2, 1], [1, 2]], "b": [[2, 1], [1, 1]]}]


def test_another_program_has_the_policy_of_the_task_and_no_policies_of_addresses() -> None:
    again = """
        at = int(sys.argv[1])
        found = libc.mmap
        found.restype = ctypes.c_void_p
        found.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        assert found(at, 4096, 3, 0x32, -1, 0) == at
        mode = ctypes.c_int()
        assert call(GET, ctypes.byref(mode), None, 0, at, 2) == 0
        tell(task=policy(), address=mode.value)
    """
    ran = run(
        f"""
        import textwrap
        call(SET, BIND, mask(1), 64)
        at = room(4)
        call(MBIND, at, 4096, INTERLEAVE, mask(0, 1), 64, 0)
        mode = ctypes.c_int()
        assert call(GET, ctypes.byref(mode), None, 0, at, 2) == 0
        tell(address=mode.value)
        prelude = open("/proc/self/cmdline").read().split(chr(0))[2].split("import textwrap")[0]
        os.execv(sys.executable, [sys.executable, "-c", prelude + textwrap.dedent({again!r}), str(at)])
        """
    )
    assert (ran.status, ran.err) == (0, "")
    assert ran.told == [{"address": 3}, {"task": [2, 2], "address": 0}]


def test_what_is_unmapped_has_no_policy_any_more() -> None:
    ran = run(
        """
        at = room(8)
        call(MBIND, at, 8 << 12, BIND, mask(1), 64, 0)
        libc.munmap(ctypes.c_void_p(at), 4096)
        assert libc.mmap(at, 4096, 3, 0x32, -1, 0) == at
        ctypes.memset(at, 1, 4096)
        other = room(1)
        modes = []
        for address in (at, at + 4096):
            mode = ctypes.c_int()
            assert call(GET, ctypes.byref(mode), None, 0, address, 2) == 0
            modes.append(mode.value)
        tell(modes=modes, where=where(at))
        """
    )
    assert (ran.status, ran.err) == (0, "")
    assert ran.told == [{"modes": [0, 2], "where": [0]}]


def test_cpus_and_memory_are_the_machines() -> None:
    ran = run(
        """
        os.sched_setaffinity(0, {6})
        cpu, node = ctypes.c_uint(), ctypes.c_uint()
        call(GETCPU, ctypes.byref(cpu), ctypes.byref(node), None)
        fields = dict(line.split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
        stat = open("/proc/self/stat").read().rpartition(")")[2].split()
        words = (ctypes.c_ulong * 14)()
        call(SYSINFO, words)
        total = next(line for line in open("/proc/meminfo") if line.startswith("MemTotal"))
        tell(
            cpu=[cpu.value, node.value, int(stat[36])],
            allowed=[fields["Cpus_allowed_list"].strip(), fields["Mems_allowed_list"].strip()],
            mask=int(fields["Cpus_allowed"].replace(",", ""), 16),
            same=words[4] == int(total.split()[1]) << 10,
        )
        """
    )
    assert (ran.status, ran.err) == (0, "")
    assert ran.told == [{"cpu": [6, 1, 6], "allowed": ["6", "0-1"], "mask": 64, "same": True}]


@pytest.mark.parametrize(
    ("program", "status"),
    [("sys.exit(7)", 7), ("os.kill(os.getpid(), 9)", -9), ("os.kill(os.getpid(), 15)", -15)],
)
def test_it_ends_as_the_program_does(program: str, status: int) -> None:
    assert run(program).status == status


def test_a_program_of_many_processes_that_are_killed_leaves_nothing() -> None:
    before = free_pages()
    ran = run(
        """
        import signal
        pids = []
        for _ in range(12):
            pid = os.fork()
            if pid == 0:
                call(SET, BIND, mask(1), 64)
                at = room(50)
                where(at)
                while True:
                    signal.pause()
            pids.append(pid)
        while sum("N1=" in open(f"/proc/{pid}/numa_maps").read() for pid in pids) < 12:
            pass
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        tell(gone=where(0, pid=pids[0]))
        """
    )
    assert (ran.status, ran.err) == (0, "")
    assert ran.told == [{"gone": -errno.ESRCH}]
    assert free_pages() == before


def test_signals_in_the_middle_of_calls_change_no_answer() -> None:
    ran = run(
        """
        import signal
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.siginterrupt(signal.SIGALRM, False)  # calls that no supervisor has begun with begin anew
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        wrong = sum(call(SET, BIND, mask(n % 2), 64) != 0 or policy() != [2, 1 << n % 2] for n in range(200))
        signal.setitimer(signal.ITIMER_REAL, 0)
        tell(wrong=wrong)
        """
    )
    assert (ran.status, ran.err) == (0, "")
    assert ran.told == [{"wrong": 0}]


def test_who_outlives_the_program_is_answered_until_it_ends() -> None:
    ran = run(
        """
        import time
        call(SET, BIND, mask(1), 64)
        if os.fork() == 0:
            parent = os.getpid()
            if os.fork() == 0:
                while os.getppid() == parent:
                    time.sleep(0.01)
                time.sleep(0.3)
                tell(orphan=policy())
            os._exit(0)
        os.wait()
        """
    )
    assert ran.status == 0
    assert ran.told == [{"orphan": [2, 2]}]


def test_a_program_that_cannot_be_started() -> None:
    ran = run_command(["/nowhere/at/all"])
    assert ran.status == 1
    assert "FileNotFoundError" in ran.err


def test_a_signal_for_the_supervisor_is_the_programs() -> None:
    # its calls are answered by now, so that the supervisor passes signals on
    ran = run("import signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)")
    assert ran.status == -signal.SIGTERM


def test_shared_memory_is_where_whoever_touched_it_first_wanted_it_for_all_who_map_it() -> None:
    before = free_pages()
    ran = run(
        """
        memory = mmap.mmap(-1, 32 << 12)
        at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        if os.fork() == 0:
            call(SET, BIND, mask(1), 64)
            memory[0 : 16 << 12] = b"x" * (16 << 12)
            tell(child=where(at))
            # of all who map it, also who was made before
            assert call(MBIND, at + (16 << 12), 16 << 12, BIND, mask(1), 64, 0) == 0
            os._exit(0)
        os.wait()
        memory[16 << 12] = 1
        seen = memory[0]
        alone = where(at, to=[0])
        tell(seen=where(at, at + (16 << 12)), alone=alone)
        """
    )
    assert (ran.status, ran.err) == (0, "")
    assert ran.told == [{"child": [1]}, {"seen": [0, 1], "alone": [0]}]
    assert free_pages() == before


def test_pages_and_policies_move_with_their_addresses() -> None:
    ran = run(
        """
        at = room(8, touched=False)
        assert call(MBIND, at, 8 << 12, BIND, mask(1), 64, 0) == 0
        ctypes.memset(at, 1, 8 << 12)
        assert where(at) == [1]
        libc.mremap.restype = ctypes.c_void_p
        libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
        # another mapping lies behind it, so that it cannot grow where it is
        to = libc.mremap(at, 8 << 12, 16 << 12, 1)
        ctypes.memset(to + (8 << 12), 1, 8 << 12)
        mode = ctypes.c_int()
        assert call(GET, ctypes.byref(mode), None, 0, to + (12 << 12), 2) == 0
        tell(moved=to != at, mode=mode.value, where=where(to, to + (15 << 12)))
        """
    )
    assert (ran.status, ran.err) == (0, "")
    assert ran.told == [{"moved": True, "mode": 2, "where": [1, 1]}]


def test_what_needs_a_privilege_and_memory_that_may_not_be_used() -> None:
    ran = run(
        """
        at = room(2)
        libc.mprotect(ctypes.c_void_p(at), 4096, 0)
        read_only = room(1)
        libc.mprotect(ctypes.c_void_p(read_only), 4096, 1)
        tell(
            closed=call(SET, BIND, ctypes.c_void_p(at), 64),
            read_only=call(GET, ctypes.c_void_p(read_only), None, 0, 0, 0),
        )
        parent = os.getpid()
        sys.stdout.flush()
        if os.fork() == 0:
            os.setuid(65534)
            move_all = call(MOVE, 0, 0, None, None, None, 4)
            tell(migrate=call(MIGRATE, parent, 64, mask(0), mask(1)), move_all=move_all)
            os._exit(0)
        os.wait()
        """
    )
    if ran.told and "migrate" not in ran.told[-1]:
        assert "PermissionError" in ran.err  # in a user namespace there are no other users
        return
    closed, other = ran.told
    assert closed == {"closed": -errno.EFAULT, "read_only": -errno.EFAULT}
    assert other == {"migrate": -errno.EPERM, "move_all": -errno.EPERM}


def test_a_file_is_where_the_policy_of_its_first_reader_wants_it() -> None:
    ran = run(
        """
        import tempfile
        with tempfile.TemporaryFile() as file:
            file.truncate(8 << 12)
            call(SET, INTERLEAVE, mask(0, 1), 64)
            memory = mmap.mmap(file.fileno(), 8 << 12)
            for page in range(8):
                memory[page << 12] = 1
            at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            tell(where=sorted(where(*(at + (page << 12) for page in range(8)))))
        """
    )
    assert (ran.status, ran.err) == (0, "")
    assert ran.told == [{"where": [0, 0, 0, 0, 1, 1, 1, 1]}]


def test_who_may_not_be_supervised_is_told_why() -> None:
    ran = run(
        """
        import struct
        from numa_service.calls import seccomp

        def why():
            try:
                seccomp.install()
            except seccomp.Unsupported as error:
                return str(error)

        twice = why()
        # as the profile of a container does: seccomp() fails with EPERM
        code = b"".join(
            struct.pack("HBBI", *one)
            for one in [(0x20, 0, 0, 0), (0x15, 0, 1, 317), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7FFF0000)]
        )
        text = ctypes.create_string_buffer(code, len(code))
        filter_ = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 4, ctypes.addressof(text)))
        assert libc.prctl(38, 1, 0, 0, 0) == 0
        assert libc.prctl(22, 2, filter_) == 0
        tell(twice=twice, forbidden=why())
        """
    )
    assert (ran.status, ran.err) == (0, "")
    (told,) = ran.told
    assert told["twice"] == "another supervisor answers this process's calls already"
    assert "in a container, allow it in the seccomp profile" in told["forbidden"]
