"""Draws docs/scaling.svg from docs/scaling.json; the same data gives the same picture."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DATA = Path(__file__).parents[1] / "docs" / "scaling.json"
PICTURE = DATA.with_suffix(".svg")

_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    # keep text as text, and make ids depend only on what is drawn
    "svg.fonttype": "none",
    "svg.hashsalt": "scaling",
}
#: A curve that grows by less than this factor is drawn on a linear axis from zero.
_DECADE = 10
_FIRST, _SECOND, _LINEAR = "#1f6fb2", "#c8591b", "#888888"


def _curve(
    axes: Axes, rows: Sequence[dict[str, float]], x: str, y: str, label: str, color: str = _FIRST
) -> None:
    values = [row[y] for row in rows]
    axes.plot([row[x] for row in rows], values, "o-", ms=3.5, lw=1.4, color=color)
    axes.set_xscale("log", base=2)
    if max(values) > _DECADE * min(values):
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.15 * max(values))
    axes.minorticks_off()
    axes.set_ylabel(label, color=color)


def _proportional(axes: Axes, rows: Sequence[dict[str, float]], x: str, y: str) -> None:
    """Draw a dotted line for growth in proportion, through the last point."""
    last = rows[-1]
    xs = [row[x] for row in rows]
    axes.plot(xs, [last[y] * value / last[x] for value in xs], ":", lw=1, color=_LINEAR)


def _pages(axes: Axes, rows: Sequence[dict[str, float]]) -> None:
    axes.set_title("pages per call (one client, gRPC)")
    axes.set_xlabel("pages of an AllocPages and its FreePages")
    _curve(axes, rows, "pages", "us_per_pair", "µs for both calls")
    _proportional(axes, rows, "pages", "us_per_pair")
    _curve(axes.twinx(), rows, "pages", "pages_per_s", "pages a second", _SECOND)


def _nodes(axes: Axes, rows: Sequence[dict[str, float]]) -> None:
    axes.set_title("nodes of a simulated machine (64 MiB each)")
    axes.set_xlabel("nodes")
    _curve(axes, rows, "nodes", "boot_s", "seconds to boot")
    _proportional(axes, rows, "nodes", "boot_s")
    _curve(axes.twinx(), rows, "nodes", "pages_per_s", "pages a second", _SECOND)


def _memory(axes: Axes, rows: Sequence[dict[str, float]]) -> None:
    axes.set_title("memory of a node")
    axes.set_xlabel("GiB")
    _curve(axes, rows, "gib", "boot_s", "seconds to boot")
    _proportional(axes, rows, "gib", "boot_s")
    _curve(axes.twinx(), rows, "gib", "rss_mib", "MiB resident", _SECOND)


def _flight(axes: Axes, rows: Sequence[dict[str, float]]) -> None:
    axes.set_title("requests in flight (1 page each, gRPC)")
    axes.set_xlabel("requests in flight")
    _curve(axes, rows, "in_flight", "us_per_pair", "µs for both calls, median")
    _proportional(axes, rows, "in_flight", "us_per_pair")
    _curve(axes.twinx(), rows, "in_flight", "calls_per_s", "calls a second", _SECOND)


_PANELS: dict[str, Callable[[Axes, Sequence[dict[str, float]]], None]] = {
    "pages_per_call": _pages,
    "nodes": _nodes,
    "memory": _memory,
    "requests_in_flight": _flight,
}


def draw(data: dict[str, Any]) -> str:
    """The picture as SVG."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.6, 6.4), layout="constrained")
        for axes, (name, panel) in zip(figure.subplots(2, 2).flat, _PANELS.items(), strict=True):
            panel(axes, data[name])
        host = data["machine"]
        figure.suptitle(
            f"{host['cpus']} CPUs ({host['cpu']}), Python {host['python']}; dotted: in proportion", fontsize=8
        )
        svg = io.StringIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return re.sub(r"[ \t]+$", "", svg.getvalue(), flags=re.M)
