"""``/proc/PID/oom_score_adj`` and ``oom_adj``: which kernels have the first, and the scale of the second.

What a task scores is in ``mm/oom_kill.py``.
"""

from __future__ import annotations

from typing import Final

from numa_service.mm.oom_kill import OOM_SCORE_ADJ_MAX
from numa_service.mm.profile import Profile

#: OOM_DISABLE and OOM_ADJUST_MAX of oom_adj.
_DISABLE, _ADJUST_MAX = -17, 15
#: The first release with oom_score_adj ("oom: badness heuristic rewrite").
_SINCE: Final = (2, 6, 36)


def has_scores(profile: Profile) -> bool:
    """Whether the kernel has oom_score_adj; the scores of those before are not modelled."""
    return profile.series >= _SINCE


def adj_of_oom_adj(value: int) -> int | None:
    """oom_adj_write: what a value on the old scale is on the new one; None for one that is refused."""
    if not _DISABLE <= value <= _ADJUST_MAX:
        return None
    if value == _ADJUST_MAX:
        return OOM_SCORE_ADJ_MAX
    scaled = abs(value) * OOM_SCORE_ADJ_MAX // -_DISABLE  # division as C has it, towards zero
    return scaled if value >= 0 else -scaled
