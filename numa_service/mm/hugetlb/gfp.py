"""With which gfp flags a pool takes its pages."""

from __future__ import annotations

from numa_service.mm.gfp import GFP_HIGHUSER_MOVABLE, Gfp
from numa_service.mm.profile import Profile


def pool_gfp(profile: Profile) -> int:
    """Return the flags of a page for the pool of one node (htlb_alloc_mask, alloc_buddy_hugetlb_folio)."""
    mask = GFP_HIGHUSER_MOVABLE
    if not profile.hugetlb_movable:
        mask &= ~Gfp.MOVABLE
    return int(mask | Gfp.COMP | Gfp.NOWARN | Gfp.RETRY_MAYFAIL | Gfp.THISNODE)
