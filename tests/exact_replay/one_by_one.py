"""Exact replay without its fast path."""

from __future__ import annotations

from replay.traced import OneByOne

from lab.replay import ExactReplay


class ExactOneByOne(OneByOne, ExactReplay):
    """Every event through the generators."""
