"""What can go wrong between the command line and Ray."""

from __future__ import annotations


class ClusterError(Exception):
    """A machine could not be placed, found or taken down; one line: what, why, and what to do about it."""
