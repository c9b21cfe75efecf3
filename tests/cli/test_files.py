"""numa-service cat, ls, mirror and exec on a machine that the command boots."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import typer
from skips import NO_LIMITS_TO_SET, NO_MOUNT_NAMESPACE, NO_PYTHON_FOR_OTHERS, NO_USER_NAMESPACE, needs
from typer.testing import CliRunner

from numa_service.cli import files as command
from numa_service.cli import namespace
from numa_service.cli.mirror import File, Mirror
from numa_service.machine.boot import start_kernel
from numa_service.machine.presets import load_preset
from numa_service.procfs import SHOW, tree

COMMAND = [sys.executable, "-c", "from numa_service.cli.main import main; main()"]
#: Files that are read by offset.
PAGE_ARRAYS = ("proc/kpageflags", "proc/kpagecount", "proc/kpagecgroup")

app = typer.Typer(pretty_exceptions_enable=False)
command.register(app)
run = CliRunner().invoke


def demo_file(path: str) -> str:
    return tree.read(start_kernel(load_preset("demo")).snapshot(), path)


# cat and ls


def test_cat_prints_the_file_and_nothing_else() -> None:
    result = run(app, ["cat", "/proc/zoneinfo", "demo"])
    assert (result.exit_code, result.stdout) == (0, demo_file("/proc/zoneinfo"))
    assert result.stdout == SHOW["zoneinfo"](start_kernel(load_preset("demo")).snapshot())
    as_json = json.loads(run(app, ["cat", "proc/swaps", "demo", "--json"]).stdout)
    assert as_json == {"path": "proc/swaps", "text": demo_file("/proc/swaps")}


def test_a_fill_shows_in_every_file() -> None:
    node = run(app, ["cat", "/sys/devices/system/node/node0/meminfo", "demo", "--fill", "0=5000:anon"]).stdout
    assert "Node 0 AnonPages:         20000 kB\n" in node
    whole = run(app, ["cat", "/proc/meminfo", "demo", "--fill", "0=5000:anon"]).stdout
    assert "AnonPages:         20000 kB\n" in whole


def test_ls_shows_kinds_and_targets() -> None:
    listed = run(app, ["ls", "/sys/devices/system/node/node2/access0/initiators", "demo"])
    assert listed.stdout.splitlines() == [
        "lrwxrwxrwx node0 -> ../../../node0",
        *(f"-r--r--r-- {k}_{what}" for k in ("read", "write") for what in ("bandwidth", "latency")),
    ]
    rows = json.loads(run(app, ["ls", "/proc/sys", "demo", "--json"]).stdout)
    assert rows == [{"name": name, "mode": "dr-xr-xr-x", "target": ""} for name in ("kernel", "vm")]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["cat", "/proc/kcore", "demo"], 1, "/proc/kcore: No such file or directory"),
        (["cat", "/proc", "demo"], 1, "/proc: Is a directory"),
        (["ls", "/proc/zoneinfo", "demo"], 1, "/proc/zoneinfo: Not a directory"),
        (["cat", "/proc/zoneinfo"], 2, "either SOURCE or --name"),
        (["cat", "/proc/zoneinfo", "demo", "--name", "demo"], 2, "either SOURCE or --name"),
        (["cat", "/proc/zoneinfo", "--name", "demo", "--fill", "0=1"], 2, "only with SOURCE"),
        (["mirror", "x", "demo", "--every", "1"], 2, "use --name"),
        (["mirror", "/proc/none/x", "demo"], 1, "No such file or directory"),
        (["exec", "demo"], 2, "no command to run"),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], code: int, text: str) -> None:
    result = run(app, arguments)
    assert result.exit_code == code
    assert text in " ".join(result.stderr.replace("│", "").split())


# mirror


def written(root: Path) -> dict[str, str]:
    found = {}
    for folder, folders, names in os.walk(root):
        for path in (Path(folder) / name for name in (*folders, *names)):
            key = str(path.relative_to(root))
            if key.startswith(".") or (path.is_dir() and not path.is_symlink()):
                continue
            found[key] = f"-> {path.readlink()}" if path.is_symlink() else path.read_text()
    return found


def test_a_mirror_has_every_file_and_goes_from_machine_to_machine(tmp_path: Path) -> None:
    for preset in ("four-ring", "demo"):
        assert run(app, ["mirror", str(tmp_path / "m"), preset]).exit_code == 0
        snapshot = start_kernel(load_preset(preset)).snapshot()
        found = written(tmp_path / "m")
        clocks = [found.pop(path) for path in ("proc/stat", "proc/uptime")]
        assert "btime 0" not in clocks[0]
        # tests/tools has what is in these
        [size] = {len(found.pop(path)) for path in PAGE_ARRAYS}
        assert size // 8 % (1 << 15) == 0
        assert found == {
            path: f"-> {entry.target}" if entry.target else text
            for path, entry, text in tree.walk(snapshot)
            if path not in ("proc/stat", "proc/uptime", *PAGE_ARRAYS)
        }
    # of the four nodes that were there, no directory is left
    assert not (tmp_path / "m/sys/devices/system/node/node3").exists()


def test_who_reads_a_mirror_reads_one_version(tmp_path: Path) -> None:
    mirror, place = Mirror(tmp_path), "proc/zoneinfo"
    mirror.write([File(place, 0o444, "", "old\n" * 9999), File("sys/same", 0o444, "", "same\n")])
    same = (tmp_path / "sys/same").stat().st_ino
    with (tmp_path / place).open() as reading:
        first = reading.read(4)
        mirror.write([File(place, 0o444, "", "new\n"), File("sys/same", 0o444, "", "same\n")])
        assert set((first + reading.read()).split()) == {"old"}
    assert (tmp_path / place).read_text() == "new\n"
    assert (tmp_path / "sys/same").stat().st_ino == same
    assert stat.S_IMODE((tmp_path / place).stat().st_mode) == 0o444


def test_a_mirror_leaves_other_directories_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years")
    result = run(app, ["mirror", str(tmp_path), "demo"])
    assert result.exit_code == 1
    assert "has files and is no mirror of a machine" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


# exec


@pytest.fixture(scope="module")
def allowed() -> None:
    """Whether this host permits mount namespaces."""
    if lent([], ["true"]).returncode:
        pytest.skip(NO_MOUNT_NAMESPACE)


def lent(
    files: list[File], words: list[str], *before: str, python: str = sys.executable
) -> subprocess.CompletedProcess[str]:
    """Run cli/namespace.py as `exec` does, by an interpreter without the service; `before` precedes it."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as handed:
        Path(folder).chmod(0o755)
        program = Path(shutil.copy(namespace.__file__, folder))
        program.chmod(0o644)
        json.dump(files, handed)
        handed.flush()
        os.lseek(handed.fileno(), 0, os.SEEK_SET)
        return subprocess.run(
            [*before, python, str(program), str(handed.fileno()), "-", *words],
            pass_fds=[handed.fileno()],
            capture_output=True,
            text=True,
            timeout=60,
            cwd="/",
        )


def whole(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, "exec", *arguments], capture_output=True, text=True, timeout=120)


def temporary_files() -> set[str]:
    return {name for name in os.listdir(tempfile.gettempdir()) if "numa-service" in name}


def test_exec_lends_the_machine_to_a_command(allowed: None, tmp_path: Path) -> None:
    mounts, there = Path("/proc/self/mounts").read_text(), temporary_files()
    script = (
        "cat /proc/meminfo /sys/devices/system/node/online;"
        "cat /sys/devices/system/node/node0/cpu0/topology/core_id /proc/self/comm;"
        "ls /sys/devices/system/memory | tail -1; exit 7"
    )
    done = whole("demo", "--", "sh", "-c", script)
    assert (done.returncode, done.stderr) == (7, f"{command.NOT_SEEN}\n")
    blocks = sorted(
        os.path.basename(entry.name)
        for entry in tree.listdir(start_kernel(load_preset("demo")).snapshot(), "/sys/devices/system/memory")
    )
    last = blocks[-1] if Path("/sys/devices/system/memory").is_dir() else None
    printed = done.stdout.splitlines()
    assert done.stdout.startswith(f"{demo_file('/proc/meminfo')}0-2\n0\ncat\n")  # /proc itself is the host's
    assert last is None or printed[-1] == last
    assert Path("/proc/self/mounts").read_text() == mounts
    assert temporary_files() == there


def test_the_lent_files_cannot_be_written_and_nobody_waits(allowed: None) -> None:
    done = lent(
        [
            File("proc/sys/vm/swappiness", 0o644, "", "61\n"),
            File("proc/meminfo", 0o444, "", "MemTotal: 1 kB\n"),
        ],
        [
            "sh",
            "-c",
            "cat /proc/sys/vm/swappiness; ls /proc/sys/vm | wc -l; cat /proc/pressure/memory;"
            "for file in /sys/kernel/mm/*/* /proc/irq/*/*; do test ! -w $file || echo $file; done;"
            "echo 3 > /proc/sys/vm/swappiness",
        ],
    )
    some_full = [f"{who} avg10=0.00 avg60=0.00 avg300=0.00 total=0" for who in ("some", "full")]
    pressure = some_full if Path("/proc/pressure/memory").exists() else []
    assert done.stdout.splitlines() == ["61", "1", *pressure]
    assert done.returncode != 0
    [refused] = done.stderr.splitlines()
    assert refused.endswith("Read-only file system")


@needs("slabtop", "vmstat")
def test_real_tools_read_slab_caches(allowed: None) -> None:
    tools = "slabtop -o -s n | grep -w dentry; vmstat -m | grep -w dentry"
    script = f"{tools}; ls /sys/kernel/slab | grep -c ^dma-kmalloc"
    done = whole("two-socket", "--", "sh", "-c", script)
    slabtop, vmstat, *directory = done.stdout.splitlines()
    assert slabtop.split() == ["0", "0", "0%", "0.19K", "0", "21", "0K", "dentry"]
    assert vmstat.split() == ["dentry", "0", "0", "192", "21"]
    assert directory == (["13"] if Path("/sys/kernel/slab").is_dir() else ["0"])


def test_exec_is_not_what_lies_in_the_directory(allowed: None, tmp_path: Path) -> None:
    for name in ("json.py", "numa_service.py"):
        (tmp_path / name).write_text("raise SystemExit('not this one')")
    words = [str(Path(sys.executable).with_name("numa-service")), "exec", "demo", "--", "pwd"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}\n")


def test_time_goes_on_beside_a_command_and_ends_with_it(allowed: None) -> None:
    script = (
        "readlink /proc/self/ns/mnt; first=$(cat /proc/stat);"
        'while now=$(cat /proc/stat); [ "$now" = "$first" ]; do sleep 0.02; done;'
        'echo "$first"; echo; echo "$now"'
    )
    done = whole("four-ring", "--", "sh", "-c", script)
    mounts, rest = done.stdout.split("\n", 1)
    first, last = map(cpu_rows, rest.split("\n\n"))
    assert first.keys() == last.keys() == {f"cpu{n}" for n in load_preset("four-ring").cpus}
    assert all(0 < sum(first[cpu]) <= sum(last[cpu]) for cpu in first)
    boot = re.search(r"^btime \d+$", Path("/proc/stat").read_text(), re.M)
    assert boot  # the host's, as are the processes of /proc
    assert boot[0] in rest.splitlines()
    while mounts in mount_namespaces():
        time.sleep(0.05)


def cpu_rows(text: str) -> dict[str, list[int]]:
    rows = [line.split() for line in text.splitlines() if re.match(r"cpu\d", line)]
    return {name: [int(ticks) for ticks in times] for name, *times in rows}


def mount_namespaces() -> set[str]:
    found = set()
    for process in Path("/proc").glob("[0-9]*/ns/mnt"):
        with contextlib.suppress(OSError):
            found.add(str(process.readlink()))
    return found


def test_status_has_the_machines_cpus_and_nodes(allowed: None) -> None:
    """/proc/self/status has the command's own memory and threads."""
    shown = whole("two-socket", "--", "grep", "_allowed_list", "/proc/self/status").stdout
    assert shown == "Cpus_allowed_list:\t0-7\nMems_allowed_list:\t0-1\n"
    program = (
        "import threading\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "while 'Threads:\\t2' not in (text := open('/proc/self/status').read()): pass\n"
        "print(text, end='')\n"
    )
    text = whole("two-socket", "--", sys.executable, "-c", program).stdout
    here = Path("/proc/self/status").read_text()
    assert [line.split(":")[0] for line in text.splitlines()] == [
        line.split(":")[0] for line in here.splitlines()
    ]
    assert "\nCpus_allowed:\tff\n" in text
    assert re.search(r"^Mems_allowed:\t[0,]*3$", text, re.M)


def test_threads_are_as_many_as_the_machine_has_cpus_unless_told(
    allowed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert whole("two-socket", "--", "nproc").stdout == "8\n"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert whole("two-socket", "--", "nproc").stdout == "3\n"


HOST_STAT = """\
cpu  31 0 0 700 0 0 0 0 0 0
cpu0 10 0 1 300 0 0 0 0 0 0
cpu1 20 0 1 400 0 0 0 0 0 0
intr 5 0 5
btime 1700000000
"""


def test_cpus_of_the_machine_have_the_time_of_the_hosts() -> None:
    idle = [0] * 10
    # fewer on the host: the rest is idle, for as long
    four = namespace._stat(HOST_STAT, {0: idle, 1: [0, 0, 50, 9, 0, 0, 0, 0, 0, 0], 2: idle, 5: idle})
    assert four.splitlines() == [
        "cpu  30 0 52 1492 0 0 0 0 0 0",
        "cpu0 10 0 1 300 0 0 0 0 0 0",
        "cpu1 20 0 51 350 0 0 0 0 0 0",  # the machine's own work is not idle
        "cpu2 0 0 0 421 0 0 0 0 0 0",
        "cpu5 0 0 0 421 0 0 0 0 0 0",
        "intr 5 0 5",
        "btime 1700000000",
    ]
    # more on the host: the mean
    assert namespace._stat(HOST_STAT, {0: idle}).splitlines()[:2] == [
        "cpu  15 0 1 350 0 0 0 0 0 0",
        "cpu0 15 0 1 350 0 0 0 0 0 0",
    ]


def test_interrupts_have_a_column_for_every_cpu() -> None:
    host = (
        "           CPU0       CPU1       \n"
        " 24:          1         20  IO-APIC   5-edge      ttyS0\n"
        "ERR:          7\n"
    )
    assert namespace._counts(host, [0, 1, 2]).splitlines() == [
        "           CPU0       CPU1       CPU2       ",
        " 24:          1         20          0 IO-APIC   5-edge      ttyS0",
        "ERR:          7",
    ]
    assert namespace._counts(host, [4]).splitlines()[:2] == [
        "           CPU4       ",
        " 24:         21 IO-APIC   5-edge      ttyS0",
    ]


def test_what_becomes_of_a_command_is_told(allowed: None) -> None:
    assert lent([], ["sh", "-c", "kill -TERM $$"]).returncode == -signal.SIGTERM
    for words, code in ((["no-such-command"], 127), (["/etc/passwd"], 126)):
        done = lent([], words)
        assert (done.returncode, done.stdout) == (code, "")
        assert done.stderr.startswith(f"numa-service: {words[0]}: ")
    # Ctrl-C: the command is the process that gets it
    process = subprocess.Popen(
        [*COMMAND, "exec", "demo", "--", "sh", "-c", "echo $$; exec sleep 60"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert int(process.stdout.readline()) == process.pid
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == -signal.SIGINT
    process.stdout.close()


@needs("setpriv")
def test_exec_without_root(allowed: None) -> None:
    """In a user namespace, as the same user, without capabilities once the command runs."""
    before: tuple[str, ...] = ()
    if os.getuid() == 0:
        if not Path("/usr/bin/python3").exists():
            pytest.skip(NO_PYTHON_FOR_OTHERS)
        before = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        if subprocess.run([*before, "unshare", "-U", "true"], capture_output=True).returncode:
            pytest.skip(NO_USER_NAMESPACE)
    uid = 65534 if before else os.getuid()
    done = lent(
        [File("proc/meminfo", 0o444, "", "MemTotal: 1 kB\n")],
        ["sh", "-c", "id -u; cat /proc/meminfo; grep CapEff /proc/self/status; umount /proc/meminfo"],
        *before,
        python="/usr/bin/python3" if before else sys.executable,
    )
    assert done.stdout.split("\n")[:2] == [str(uid), "MemTotal: 1 kB"]
    assert "CapEff:\t0000000000000000" in done.stdout
    assert done.returncode != 0


def test_where_namespaces_are_forbidden_the_remedy_is_named(allowed: None) -> None:
    forbid = 'echo 0 > /proc/sys/user/max_mnt_namespaces && exec "$@"'
    nested = ("unshare", "-Ur", "sh", "-c", forbid, "sh")
    if subprocess.run([*nested, "true"], capture_output=True).returncode:
        pytest.skip(NO_LIMITS_TO_SET)
    done = lent([], ["touch", "/tmp/never"], *nested)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("numa-service: no mount namespace: ")
    for remedy in ("root", "user.max_user_namespaces", "numa-service mirror DIR"):
        assert remedy in done.stderr
    assert not Path("/tmp/never").exists()
