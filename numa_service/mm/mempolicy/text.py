"""A policy as text: numa_maps, the tmpfs option ``mpol=``, and the files of the weights."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping

from numa_service.mm.mempolicy.interleave import MAX_WEIGHT
from numa_service.mm.mempolicy.nodemask import first_node, nodelist, nodelist_parse, nodes_weight
from numa_service.mm.mempolicy.policy import (
    MPOL_F_NUMA_BALANCING,
    MPOL_F_RELATIVE_NODES,
    MPOL_F_STATIC_NODES,
    CallError,
    Mempolicy,
    Mode,
    mpol_new,
)
from numa_service.mm.profile import Profile

#: policy_modes[].
POLICY_MODES: Mapping[Mode, str] = {
    Mode.DEFAULT: "default",
    Mode.PREFERRED: "prefer",
    Mode.BIND: "bind",
    Mode.INTERLEAVE: "interleave",
    Mode.LOCAL: "local",
    Mode.PREFERRED_MANY: "prefer (many)",
    Mode.WEIGHTED_INTERLEAVE: "weighted interleave",
}


def mpol_to_str(policy: Mempolicy | None) -> str:
    """A policy as /proc/PID/numa_maps prints it (mpol_to_str): "bind=static:0-1"."""
    if policy is None:
        return POLICY_MODES[Mode.DEFAULT]
    named = (
        (MPOL_F_STATIC_NODES, "static"),
        (MPOL_F_RELATIVE_NODES, "relative"),
        (MPOL_F_NUMA_BALANCING, "balancing"),
    )
    flags = "|".join(name for flag, name in named if policy.flags & flag)
    text = POLICY_MODES[policy.mode] + (f"={flags}" if flags else "")
    return f"{text}:{nodelist(policy.nodes)}" if policy.nodes else text


def mpol_parse_str(profile: Profile, text: str, n_memory: int) -> Mempolicy | None:
    """The policy of a tmpfs mount option ``mpol=`` (mpol_parse_str); CallError(EINVAL).

    The nodes are those asked for: they are bound to a cpuset when a file is made.
    """
    colon, equals = text.find(":"), text.find("=")
    name = re.split("[:=]", text, maxsplit=1)[0]
    # each is cut off where the other begins
    flag_text = None if equals < 0 else text[equals + 1 : colon if colon > equals else None]
    nodes_text = None if colon < 0 else text[colon + 1 : equals if equals > colon else None]
    modes = {POLICY_MODES[mode]: mode for mode in Mode if mode.name in profile.mempolicies}
    mode = modes.get(name)
    nodes = 0 if nodes_text is None else nodelist_parse(nodes_text)
    if mode is None or nodes is None or nodes & ~n_memory:
        raise CallError(errno.EINVAL)
    if mode is Mode.DEFAULT:
        if nodes_text is not None:
            raise CallError(errno.EINVAL)
        return None
    if mode is Mode.PREFERRED:
        if nodes_text is None:
            mode = Mode.LOCAL
        elif not nodes_text.isdigit() or nodes_weight(nodes) != 1:
            raise CallError(errno.EINVAL)
    elif mode is Mode.LOCAL:
        if nodes_text is not None:
            raise CallError(errno.EINVAL)
    elif nodes_text is None and mode in (Mode.INTERLEAVE, Mode.WEIGHTED_INTERLEAVE):
        nodes = n_memory
    flags = 0
    if flag_text is not None:
        known = {"static": MPOL_F_STATIC_NODES, "relative": MPOL_F_RELATIVE_NODES}
        if flag_text not in known:
            raise CallError(errno.EINVAL)
        flags = known[flag_text]
    made = mpol_new(mode, flags, nodes)
    assert made is not None  # only DEFAULT has none
    shown = 1 << first_node(nodes) if made.mode is Mode.PREFERRED else nodes
    return made._replace(nodes=shown, user_nodemask=nodes)


def parse_weight(text: str) -> int:
    """What a write to ``weighted_interleave/nodeN`` of sysfs sets (node_store); CallError(EINVAL).

    0, or an empty line, takes the weight back: the node has the default one again.
    """
    line = text.removesuffix("\n")
    if not line:
        return 0
    found = re.fullmatch(r"\+?(?:0[xX]([0-9a-fA-F]{1,16})|(0[0-7]{0,16})|([1-9][0-9]{0,16}))", line, re.ASCII)
    if found is None:
        raise CallError(errno.EINVAL)
    weight = int(found[1], 16) if found[1] else int(found[2], 8) if found[2] else int(found[3])
    if weight > MAX_WEIGHT:
        raise CallError(errno.EINVAL)
    return weight
