"""Slab caches of a small 6.1.192 kernel, built with SLAB or SLOB and without cgroups: of its boot, and of 9p.

Names, their order and sizes are those of captured boots (``slab_nomerge``: /proc/slabinfo). It prints sizes
that are rounded up to the alignment: what an object really takes is known, or bounded, where a trace or the
number of objects shows it, else the rounded size stands for it. Alignment, flags and constructors are those
of Debian's kernel of the same version. The kmalloc caches are not here: they follow from rules (kmalloc.py).
"""

from __future__ import annotations

from numa_service.mm.slab.flags import SlabFlag
from numa_service.mm.slab.kmem_cache import KmemCacheArgs

Cache = KmemCacheArgs

HWCACHE = SlabFlag.HWCACHE_ALIGN
RCU = SlabFlag.TYPESAFE_BY_RCU
RECLAIM = SlabFlag.RECLAIM_ACCOUNT

#: In the order in which they are created.
BUILT_IN: tuple[KmemCacheArgs, ...] = (
    Cache("vmap_area", 64),
    Cache("mm_struct", 888, flags=HWCACHE, usersize=384),
    Cache("radix_tree_node", 576, flags=RECLAIM, ctor="radix_tree_node_ctor"),
    Cache("maple_node", 256, align=256),
    Cache("pool_workqueue", 256, align=256),
    Cache("ftrace_event_field", 56),
    Cache("trace_event_file", 96),
    Cache("perf_event", 1008),
    Cache("numa_policy", 32),
    Cache("shared_policy_node", 48),
    Cache("Acpi-Namespace", 48),
    Cache("Acpi-State", 80),
    Cache("Acpi-Parse", 56),
    Cache("Acpi-ParseExt", 80),
    Cache("Acpi-Operand", 72),
    Cache("pid", 112, flags=HWCACHE),
    Cache("anon_vma", 96, flags=RCU, ctor="anon_vma_ctor"),
    Cache("anon_vma_chain", 64),
    Cache("cred_jar", 136, flags=HWCACHE),
    Cache("task_struct", 2880, align=64, usersize=512),
    Cache("sighand_cache", 2080, flags=HWCACHE | RCU, ctor="sighand_ctor"),
    Cache("signal_cache", 960, flags=HWCACHE),
    Cache("files_cache", 704, flags=HWCACHE),
    Cache("fs_cache", 56, flags=HWCACHE),
    Cache("vm_area_struct", 136),
    Cache("nsproxy", 72),
    Cache("names_cache", 4096, flags=HWCACHE, usersize=4096),
    Cache("dentry", 192, flags=RECLAIM, usersize=32),
    Cache("inode_cache", 568, flags=RECLAIM, ctor="init_once"),
    Cache("filp", 224, flags=HWCACHE),
    Cache("mnt_cache", 320, flags=HWCACHE),
    Cache("kernfs_node_cache", 128),
    Cache("kernfs_iattrs_cache", 88),
    Cache("shmem_inode_cache", 712, ctor="shmem_init_inode"),
    Cache("sigqueue", 80),
    Cache("seq_file", 120),
    Cache("proc_inode_cache", 640, flags=RECLAIM, ctor="init_once"),
    Cache("pde_opener", 40),
    Cache("proc_dir_entry", 192, usersize=16),
    Cache("file_lock_ctx", 56),
    Cache("file_lock_cache", 216),
    Cache("skbuff_head_cache", 208, flags=HWCACHE, usersize=48),
    Cache("skbuff_fclone_cache", 448, flags=HWCACHE),
    Cache("sock_inode_cache", 704, flags=HWCACHE | RECLAIM, ctor="init_once"),
    Cache("uid_cache", 176, flags=HWCACHE),
    Cache("eventpoll_epi", 128, flags=HWCACHE),
    Cache("eventpoll_pwq", 64),
    Cache("ep_head", 16),
    Cache("TCP", 2176, flags=HWCACHE | RCU),
    Cache("request_sock_TCP", 256, flags=RCU),
    Cache("tw_sock_TCP", 216, flags=RCU),
    Cache("UDP", 1024, flags=HWCACHE),
    Cache("RAW", 896, flags=HWCACHE, usersize=4),
    Cache("PING", 896, flags=HWCACHE),
    Cache("ip_dst_cache", 176, flags=HWCACHE),
    Cache("ip_fib_alias", 56),
    Cache("ip_fib_trie", 48),
    Cache("inet_peer_cache", 176, flags=HWCACHE),
    Cache("tcp_bind_bucket", 56, flags=HWCACHE),
    Cache("tcp_bind2_bucket", 56, flags=HWCACHE),
    Cache("UDP-Lite", 1024, flags=HWCACHE),
    Cache("ip4-frags", 200),
    Cache("UNIX", 960, flags=HWCACHE),
    Cache("UNIX-STREAM", 960, flags=HWCACHE),
    Cache("posix_timers_cache", 256),
    Cache("fasync_cache", 48),
)

#: By module: 9p for the guest's file system.
MODULES: dict[str, tuple[KmemCacheArgs, ...]] = {
    "9p": (
        Cache("v9fs_inode_cache", 648, flags=RECLAIM, ctor="v9fs_inode_init_once"),
        Cache("p9_req_t", 136, flags=RCU),
    ),
}
