"""The files of ``/proc/PID`` of the tasks of a node."""

from __future__ import annotations

from numa_service.machine.snapshot import OfTasks
from numa_service.mm.mempolicy.nodemask import nids_of
from numa_service.mm.mempolicy.policy import Mempolicy
from numa_service.mm.mempolicy.text import mpol_to_str
from numa_service.mm.mmap.frames import ANON, FILE, SHMEM
from numa_service.mm.mmap.vma import Vma
from numa_service.mm.oom_kill import OomTask, oom_score, oom_score_adj_to_oom_adj
from numa_service.node.node import Node
from numa_service.node.task_state import Task
from numa_service.procfs.pid_maps import maps
from numa_service.procfs.pid_oom import has_scores
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
    machine, adj = node.machine, task.oom_score_adj
    if not has_scores(machine.profile):
        return {}
    total = sum(machine.managed.values()) + machine.spec.swap_pages
    return {
        "oom_adj": f"{oom_score_adj_to_oom_adj(adj)}\n",
        "oom_score": f"{oom_score(oom_task(task), total, machine.profile)}\n",
        "oom_score_adj": f"{adj}\n",
    }


def oom_task(task: Task) -> OomTask:
    """A task as the OOM killer sees it. What of it is in swap counts as resident (decision 0014)."""
    process, policy = task.process, task.policy
    rss = [pages + len(task.stock.get(kind, ())) for kind, pages in enumerate(process.rss)]
    return OomTask(
        task.pid,
        task.comm,
        process.mm.counters.total_vm,
        rss[ANON],
        rss[FILE],
        rss[SHMEM],
        process.tables.counts(),
        oom_score_adj=task.oom_score_adj,
        ppid=task.ppid,
        cpu=task.cpu,
        policy=policy.mode.name if policy else "",
        policy_nodes=nids_of(policy.nodes) if policy else (),
    )


def of_tasks(node: Node) -> OfTasks:
    """What the tasks of a node have on all nodes, as far as files of the machine count it."""
    tasks, thp = node.tasks, node.tasks.thp
    if thp is None:
        return OfTasks(tasks.page_tables())
    counts = {"full_scans": thp.scan.full_scans, "pages_collapsed": thp.scan.pages_collapsed}
    return OfTasks(tasks.page_tables(), tasks.anon_thps(), dict(thp.events), counts)
