"""Slab caches of Debian's i386 kernel 6.1.176 (686-pae), those of its boot and of 9p.

Names, their order and sizes are those of captured boots (/proc/slabinfo), which has no line of a cache that
was merged with another: those are not known. Sizes there are rounded up to the alignment, and with the free
pointer of caches that have it behind the object. Flags and constructors are those of the x86_64 kernel of the
same version; a cache line has 32 bytes.
"""

from __future__ import annotations

from dataclasses import replace

from numa_service.mm.slab.boot_caches_6_1 import ALIGNED_TO_LINE
from numa_service.mm.slab.boot_caches_6_1 import BUILT_IN as WIDE_BUILT_IN
from numa_service.mm.slab.boot_caches_6_1 import MODULES as WIDE_MODULES
from numa_service.mm.slab.flags import SlabFlag
from numa_service.mm.slab.kmem_cache import I386, KmemCacheArgs

#: Bytes from one object to the next, in the order in which the caches are created.
_SIZES = {
    "vmap_area": 32,
    "mm_struct": 576,
    "task_group": 384,
    "radix_tree_node": 304,
    "maple_node": 256,
    "ftrace_event_field": 40,
    "trace_event_file": 56,
    "perf_event": 848,
    "Acpi-State": 48,
    "pid": 64,
    "anon_vma": 56,
    "anon_vma_chain": 32,
    "cred_jar": 128,
    "task_struct": 3008,
    "sighand_cache": 1312,
    "signal_cache": 736,
    "files_cache": 256,
    "vm_area_struct": 80,
    "nsproxy": 40,
    "uts_namespace": 416,
    "key_jar": 160,
    "lsm_file_cache": 16,
    "iint_cache": 80,
    "net_namespace": 3264,
    "names_cache": 4096,
    "dentry": 128,
    "inode_cache": 416,
    "filp": 160,
    "mnt_cache": 192,
    "kernfs_node_cache": 80,
    "kernfs_iattrs_cache": 64,
    "shmem_inode_cache": 488,
    "bdev_cache": 992,
    "sigqueue": 48,
    "seq_file": 72,
    "proc_inode_cache": 456,
    "pde_opener": 24,
    "proc_dir_entry": 128,
    "taskstats": 416,
    "buffer_head": 64,
    "fsnotify_mark_connector": 24,
    "file_lock_cache": 128,
    "skbuff_head_cache": 192,
    "sock_inode_cache": 608,
    "uid_cache": 96,
    "user_namespace": 416,
    "biovec-16": 192,
    "biovec-64": 768,
    "biovec-128": 1536,
    "biovec-max": 3072,
    "bio-144": 160,
    "request_queue": 552,
    "request_queue_srcu": 760,
    "ep_head": 8,
    "bio-188": 192,
    "dquot": 160,
    "hugetlbfs_inode_cache": 424,
    "TCP": 1792,
    "request_sock_TCP": 240,
    "tw_sock_TCP": 208,
    "UDP": 896,
    "RAW": 768,
    "xfrm_state": 544,
    "xfrm_dst_cache": 224,
    "request_sock_subflow_v4": 296,
    "MPTCP": 1472,
    "ip4-frags": 136,
    "UNIX": 768,
    "posix_timers_cache": 168,
    "userfaultfd_ctx_cache": 96,
    "kioctx": 448,
    "mqueue_inode_cache": 640,
    "bio-208": 224,
    "bio-96": 128,
    "TCPv6": 1888,
    "request_sock_TCPv6": 240,
    "tw_sock_TCPv6": 208,
    "UDPv6": 1024,
    "RAWv6": 896,
    "request_sock_subflow_v6": 296,
    "MPTCPv6": 1568,
    "fscrypt_info": 96,
    "fsverity_info": 240,
}
_MODULE_SIZES = {
    "fscache_cookie_jar": 120,
    "p9_req_t": 88,
    "v9fs_inode_cache": 480,
}

#: Caches of bios are named by their size.
_BIO = SlabFlag.HWCACHE_ALIGN | SlabFlag.TYPESAFE_BY_RCU

#: Made for bounce buffers, by machines with high memory.
OF_HIGHMEM = frozenset({"bio-96"})


def _args(name: str, size: int, known: tuple[KmemCacheArgs, ...]) -> KmemCacheArgs:
    """The arguments that lead to objects `size` bytes apart; the rest is as on x86_64."""
    args = next((args for args in known if args.name == name), KmemCacheArgs(name, size, flags=_BIO))
    behind = args.ctor != "" or SlabFlag.TYPESAFE_BY_RCU in args.flags
    align = I386.cache_line if args.align == ALIGNED_TO_LINE else args.align
    return replace(args, size=size - I386.word if behind else size, align=align)


#: In the order in which they are created.
BUILT_IN = tuple(_args(name, size, WIDE_BUILT_IN) for name, size in _SIZES.items())

MODULES = {"9p": tuple(_args(name, size, WIDE_MODULES["9p"]) for name, size in _MODULE_SIZES.items())}
