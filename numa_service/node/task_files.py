"""The files of ``/proc/PID`` of the tasks of a node."""

from __future__ import annotations

from numa_service.machine.snapshot import OfTasks
from numa_service.mm.mempolicy.policy import Mempolicy
from numa_service.mm.mempolicy.text import mpol_to_str
from numa_service.mm.mmap.vma import Vma
from numa_service.node.node import Node
from numa_service.node.task_state import Task
from numa_service.procfs.pid_maps import maps
from numa_service.procfs.pid_oom import has_scores, oom_adj_of, oom_score
from numa_service.procfs.pid_smaps import numa_maps, smaps, smaps_rollup
from numa_service.procfs.pid_stat import TaskShown, stat, status
from numa_service.procfs.pid_status import statm, status_lines


def task_files(node: Node, pid: int = 0) -> dict[int, dict[str, str]]:
    """pid → name → text of each file; of one task, or with pid 0 of all tasks of the node."""
    wanted = node.tasks.values() if not pid else [node.tasks[pid]] if pid in node.tasks else []
    return {task.pid: _files(node, task) for task in wanted}


def _files(node: Node, task: Task) -> dict[str, str]:
    process = task.process
    mm = process.mm

    def policy(vma: Vma) -> str:
        own = vma.policy if isinstance(vma.policy, Mempolicy) else None
        return mpol_to_str(own or task.policy)

    lists = node.machine.zonelists
    shown = TaskShown(
        task.pid,
        task.ppid,
        task.comm,
        task.cpu,
        process.minflt,
        task.majflt,
        node.machine.spec.cpus,
        sorted(nid for nid, of in lists.items() if of.thisnode),
    )
    return _oom_files(node, task) | {
        "cmdline": "".join(f"{word}\0" for word in task.cmdline),
        "comm": f"{task.comm}\n",
        "maps": maps(mm),
        "numa_maps": numa_maps(process, policy),
        "smaps": smaps(process),
        "smaps_rollup": smaps_rollup(process),
        "stat": stat(shown, mm, sum(process.rss)),
        "statm": statm(mm, process.rss),
        "status": status(shown, status_lines(mm, process.tables, process.rss, process.hiwater_rss)),
    }


def _oom_files(node: Node, task: Task) -> dict[str, str]:
    """What the OOM killer thinks of a task, where its kernel's way to score is known."""
    machine, process, adj = node.machine, task.process, task.oom_score_adj
    if not has_scores(machine.profile):
        return {}
    total = sum(machine.managed.values()) + machine.spec.swap_pages
    score = oom_score(machine.profile, sum(process.rss), process.tables, adj, total)
    return {"oom_adj": f"{oom_adj_of(adj)}\n", "oom_score": f"{score}\n", "oom_score_adj": f"{adj}\n"}


def of_tasks(node: Node) -> OfTasks:
    """What the tasks of a node have on all nodes, as far as files of the machine count it."""
    tasks, thp = node.tasks, node.tasks.thp
    if thp is None:
        return OfTasks(tasks.page_tables())
    counts = {"full_scans": thp.scan.full_scans, "pages_collapsed": thp.scan.pages_collapsed}
    return OfTasks(tasks.page_tables(), tasks.anon_thps(), dict(thp.events), counts)
