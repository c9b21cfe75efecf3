"""Draws Grafana's dashboard JSON without Grafana: panels where gridPos says, answers from a Prometheus.

``python docs/dashboards/draw.py http://127.0.0.1:9090 deploy/grafana/dashboards/numa-node.json node.png``
draws one for the last five minutes. It knows the panel types that our dashboards use, and nothing else.
"""

from __future__ import annotations

import json
import math
import re
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

from matplotlib import colormaps, dates
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

WIDTH, ROW_PIXELS, GAP = 1280, 36, 6
DPI = 100
#: Names under a panel; more would not fit.
LEGENDS = 8
COLORS = 96
BACK, PANEL, INK, GRID = "#111217", "#181b1f", "#ccccdc", "#2c3235"
NAMED = {"green": "#73bf69", "red": "#f2495c", "orange": "#ff9830", "yellow": "#fade2a", "blue": "#5794f2",
         "dark-blue": "#1f60c4", "purple": "#b877d9", "text": "#44474f"}  # fmt: skip
PALETTE = ("#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#37872d", "#fade2a",
           "#447ebc", "#c15c17", "#890f02")  # fmt: skip

Series = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A Prometheus, and the time to look at, in Unix seconds."""

    url: str
    start: float
    end: float
    scrape: float

    def get(self, what: str, **parameters: object) -> Any:
        """The data of an API call; HTTPError when it is refused."""
        url = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as reply:
            return json.load(reply)["data"]

    def values(self, variable: dict[str, Any], chosen: dict[str, list[str]]) -> list[str]:
        """What a variable of the kind ``label_values(metric, label)`` may be."""
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"])
        assert found, variable["definition"]
        match = substitute(found[1], chosen, self)
        return sorted(
            self.get(f"label/{found[2]}/values", **{"match[]": match, "start": self.start, "end": self.end})
        )

    def answers(self, target: dict[str, Any], chosen: dict[str, list[str]]) -> list[Series]:
        """The series of a panel's target, each with its legend."""
        expr = substitute(target["expr"], chosen, self)
        if target["instant"]:
            found = self.get("query", query=expr, time=self.end)["result"]
        else:
            step = max(self.scrape, (self.end - self.start) / 300)
            found = self.get("query_range", query=expr, start=self.start, end=self.end, step=step)["result"]
        return [series | {"legend": legend(target["legendFormat"], series["metric"])} for series in found]


def substitute(text: str, chosen: dict[str, list[str]], source: Source) -> str:
    """With Grafana's variables as Grafana would put them in."""
    own = {
        "__rate_interval": f"{4 * source.scrape:g}s",
        "__interval": f"{source.scrape:g}s",
        "__range": f"{round(source.end - source.start)}s",
    }
    return re.sub(r"\$(\w+)", lambda found: own.get(found[1]) or "|".join(chosen[found[1]]), text)


def legend(template: str, labels: dict[str, str]) -> str:
    """``{{label}}`` filled in."""
    if template == "__auto":
        return ", ".join(value for name, value in sorted(labels.items()) if name != "__name__")
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), template).strip()


def text_of(value: float, unit: str) -> str:
    """A number as Grafana writes it: scaled, with its unit."""
    if math.isnan(value):
        return "–"
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "s":
        for scale, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")):
            if abs(value) >= scale or name == "ns":
                return f"{value / scale:.3g} {name}"
    suffix = {"bytes": "B", "Bps": "B/s", "reqps": "req/s", "ops": "ops/s", "short": ""}.get(
        unit, unit.removeprefix("count:")
    )
    for scale, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= scale:
            return f"{value / scale:.3g} {name}{suffix}".strip()
    return f"{value:.3g} {suffix}".strip()


# panels


def _times(series: Series) -> tuple[list[Any], list[float]]:
    points = [(float(at), float(value)) for at, value in series["values"]]
    return [dates.num2date(at / 86400) for at, _ in points], [value for _, value in points]


def draw_timeseries(axes: Axes, panel: dict[str, Any], found: list[Series]) -> None:
    """Lines, or areas on top of each other; marks are dashed."""
    defaults = panel["fieldConfig"]["defaults"]
    marks = {
        o["matcher"]["options"]: NAMED[o["properties"][0]["value"]["fixedColor"]]
        for o in panel["fieldConfig"]["overrides"]
    }
    if defaults["custom"]["stacking"]["mode"] == "normal":
        every = sorted({at for series in found for at, _ in series["values"]})
        rows = [[float(dict(map(tuple, s["values"])).get(at, 0)) for at in every] for s in found]
        if rows:
            when = [dates.num2date(float(at) / 86400) for at in every]
            axes.stackplot(when, rows, colors=PALETTE, alpha=0.7, labels=[s["legend"] for s in found])
    else:
        for i, series in enumerate(found):
            when, values = _times(series)
            mark = marks.get(series["legend"])
            color = mark or PALETTE[i % len(PALETTE)]
            axes.plot(when, values, color=color, lw=1, ls="--" if mark else "-", label=series["legend"])
            if not mark and len(found) <= 6:
                axes.fill_between(when, values, color=color, alpha=0.1, lw=0)
    if "min" in defaults and found:
        axes.set_ylim(bottom=defaults["min"])
    axes.yaxis.set_major_formatter(lambda value, _: text_of(value, defaults["unit"]))
    _time_axis(axes)
    if found:
        named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        shown = dict(list(named.items())[:LEGENDS])
        axes.legend(shown.values(), shown.keys(), loc="upper center", bbox_to_anchor=(0.5, -0.12),
                    ncols=min(4, len(shown)), fontsize=6, frameon=False, labelcolor=INK, handlelength=1,
                    columnspacing=1)  # fmt: skip


def _time_axis(axes: Axes) -> None:
    axes.xaxis.set_major_locator(dates.AutoDateLocator(maxticks=5))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M:%S"))
    axes.grid(color=GRID, lw=0.5)


def draw_heatmap(axes: Axes, panel: dict[str, Any], found: list[Series]) -> None:
    """A row for each series, in the order of its number; histogram buckets are cumulative."""
    rows = sorted((s for s in found if s["legend"]), key=lambda s: float(s["legend"]))
    when = sorted({at for series in rows for at, _ in series["values"]})
    cells = [[float(dict(map(tuple, s["values"])).get(at, "nan")) for at in when] for s in rows]
    if "le" in panel["targets"][0]["expr"]:
        cells = [
            [a - b for a, b in zip(row, below, strict=True)]
            for row, below in zip(cells, [[0.0] * len(when), *cells], strict=False)
        ]
    span = (dates.date2num(_times(rows[0])[0][0]), dates.date2num(_times(rows[0])[0][-1]))
    shown = [[max(0.0, value) ** 0.4 for value in row] for row in cells]
    extent = (*span, -0.5, len(rows) - 0.5)
    axes.imshow(shown, aspect="auto", origin="lower", cmap="viridis", extent=extent, interpolation="nearest")
    unit = panel["fieldConfig"]["defaults"]["unit"]
    every = max(1, len(rows) // 9)
    axes.set_yticks(
        range(0, len(rows), every),
        ["∞" if "Inf" in s["legend"] else text_of(float(s["legend"]), unit) for s in rows[::every]],
    )
    axes.xaxis_date()
    _time_axis(axes)
    axes.grid(False)


def draw_states(axes: Axes, panel: dict[str, Any], found: list[Series]) -> None:
    """A bar for each series, coloured by its state."""
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    states = {float(value): state for value, state in mapping["options"].items()}
    for row, series in enumerate(found):
        when, values = _times(series)
        width = (dates.date2num(when[-1]) - dates.date2num(when[0])) / max(1, len(when) - 1)
        for at, value in zip(when, values, strict=True):
            state = states.get(value, {"color": "text"})
            axes.barh(row, width or 1e-5, left=dates.date2num(at), color=NAMED[state["color"]], height=0.8)
    axes.set_yticks(range(len(found)), [series["legend"] for series in found])
    axes.xaxis_date()
    _time_axis(axes)
    handles = [axes.barh([0], [0], color=NAMED[state["color"]]) for state in states.values()]
    axes.legend(handles, [state["text"] for state in states.values()], loc="upper center", fontsize=6,
                bbox_to_anchor=(0.5, -0.12), ncols=4, frameon=False, labelcolor=INK)  # fmt: skip


def draw_stat(axes: Axes, panel: dict[str, Any], found: list[Series]) -> None:
    """A number each on the colour of its threshold."""
    defaults = panel["fieldConfig"]["defaults"]
    axes.axis("off")
    for i, series in enumerate(found):
        value = float(series["value"][1])
        steps = defaults["thresholds"]["steps"]
        color = [step["color"] for step in steps if step["value"] is None or value >= step["value"]][-1]
        axes.add_patch(_box(axes, i / len(found), 1 / len(found), NAMED[color]))
        name = f"{series['legend']}\n" if len(found) > 1 else ""
        middle = (i + 0.5) / len(found), 0.42
        axes.text(*middle, name + text_of(value, defaults["unit"]), transform=axes.transAxes, ha="center",
                  va="center", color="#111217", fontsize=15 if not name else 9, weight="bold")  # fmt: skip


def _box(axes: Axes, left: float, width: float, color: str) -> Any:
    return matplotlib.patches.Rectangle((left, 0), width * 0.98, 0.85, transform=axes.transAxes, color=color)


def draw_table(axes: Axes, panel: dict[str, Any], found: list[Series]) -> None:
    """The matrix that groupingToMatrix makes, each cell coloured by its value."""
    (matrix,) = panel["transformations"]
    row, column = matrix["options"]["rowField"], matrix["options"]["columnField"]
    values = {(s["metric"][row], s["metric"][column]): float(s["value"][1]) for s in found}
    rows, columns = sorted({r for r, _ in values}), sorted({c for _, c in values})
    axes.axis("off")
    if not values:
        return
    highest, unit = max(values.values()) or 1, panel["fieldConfig"]["defaults"]["unit"]
    cells = [[text_of(values[r, c], unit) if (r, c) in values else "" for c in columns] for r in rows]
    heat = [
        [colormaps["RdYlBu_r"](values[r, c] / highest * 0.9) if (r, c) in values else PANEL for c in columns]
        for r in rows
    ]
    table = axes.table(cells, heat, rowLabels=rows, colLabels=columns, loc="center", cellLoc="center",
                       bbox=[0.16, 0.05, 0.82, 0.8])  # fmt: skip
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    for (r, c), cell in table.get_celld().items():
        cell.set_edgecolor(GRID)
        if r == 0 or c == -1:
            cell.set_facecolor(PANEL)
            cell.get_text().set_color(INK)


DRAW = {
    "timeseries": draw_timeseries,
    "heatmap": draw_heatmap,
    "state-timeline": draw_states,
    "stat": draw_stat,
    "table": draw_table,
}


# dashboards


def placed(
    dashboard: dict[str, Any], chosen: dict[str, list[str]]
) -> Iterator[tuple[dict[str, Any], dict[str, list[str]]]]:
    """Every panel where it goes, those that repeat once for each value; what follows moves down."""
    moved = 0
    for panel in dashboard["panels"]:
        grid = panel["gridPos"] | {"y": panel["gridPos"]["y"] + moved}
        if "repeat" not in panel:
            yield panel | {"gridPos": grid}, chosen
            continue
        for i, value in enumerate(chosen[panel["repeat"]]):
            line, place = divmod(i, panel["maxPerRow"])
            here = {"x": place * grid["w"], "y": grid["y"] + line * grid["h"]}
            title = panel["title"].replace(f"${panel['repeat']}", value)
            yield panel | {"gridPos": grid | here, "title": title}, chosen | {panel["repeat"]: [value]}
        lines = -(-len(chosen[panel["repeat"]]) // panel["maxPerRow"])
        moved += (lines - 1) * grid["h"]


def draw(dashboard: dict[str, Any], source: Source, height: int | None = None) -> Figure:
    """The whole dashboard, or its first so many lines of the grid."""
    chosen: dict[str, list[str]] = {}
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            values = source.values(variable, chosen)
            chosen[variable["name"]] = values if variable.get("multi") else values[:1]
    panels = [(p, c) for p, c in placed(dashboard, chosen) if not height or _bottom(p) <= height]
    pixels = max(_bottom(panel) for panel, _ in panels) * ROW_PIXELS
    figure = Figure(figsize=(WIDTH / DPI, pixels / DPI), dpi=DPI, facecolor=BACK)
    events = _annotations(dashboard, source, chosen)
    for panel, values in panels:
        _draw_panel(figure, panel, source, values, pixels, events)
    return figure


def _bottom(panel: dict[str, Any]) -> int:
    bottom: int = panel["gridPos"]["y"] + panel["gridPos"]["h"]
    return bottom


def _annotations(
    dashboard: dict[str, Any], source: Source, chosen: dict[str, list[str]]
) -> list[tuple[Any, str]]:
    """When, and in which colour: where an annotation's query begins to have a value."""
    found = []
    for annotation in dashboard["annotations"]["list"]:
        target = {"expr": annotation["expr"], "legendFormat": "", "instant": False}
        for series in source.answers(target, chosen):
            before = -math.inf
            for at, _ in series["values"]:
                if at - before > 2 * source.scrape + (source.end - source.start) / 300:
                    found.append((dates.num2date(float(at) / 86400), NAMED[annotation["iconColor"]]))
                before = at
    return found


def _draw_panel(
    figure: Figure,
    panel: dict[str, Any],
    source: Source,
    chosen: dict[str, list[str]],
    pixels: int,
    events: list[tuple[Any, str]],
) -> None:
    grid = panel["gridPos"]
    column = WIDTH / 24
    x, y = grid["x"] * column + GAP, grid["y"] * ROW_PIXELS + GAP
    width, height = grid["w"] * column - GAP, grid["h"] * ROW_PIXELS - GAP
    top = 1 - y / pixels
    if panel["type"] == "row":
        figure.text(x / WIDTH, top - height / pixels / 2, f"▾ {panel['title']}", color=INK, fontsize=10,
                    weight="bold", va="center")  # fmt: skip
        return
    box = matplotlib.patches.Rectangle(
        (x / WIDTH, top - height / pixels), width / WIDTH, height / pixels,
        transform=figure.transFigure, facecolor=PANEL, edgecolor=GRID, lw=0.8, zorder=-1,
    )  # fmt: skip
    figure.add_artist(box)
    figure.text((x + 8) / WIDTH, top - 12 / pixels, panel["title"], color=INK, fontsize=8, va="center")
    wide = panel["type"] in ("stat", "table")
    left, right, above, below = (
        (6, 6, 26, 6) if wide else (124 if panel["type"] == "state-timeline" else 66, 12, 28, 54)
    )
    axes = figure.add_axes((
        (x + left) / WIDTH, top - (height - below) / pixels,
        (width - left - right) / WIDTH, (height - above - below) / pixels,
    ), facecolor=PANEL)  # fmt: skip
    axes.tick_params(colors=INK, labelsize=6, length=2)
    for spine in axes.spines.values():
        spine.set_color(GRID)
    found = [series for target in panel["targets"] for series in source.answers(target, chosen)]
    if found:
        DRAW[panel["type"]](axes, panel, found)
    else:
        axes.axis("off")
        axes.text(0.5, 0.5, "No data", transform=axes.transAxes, color=INK, ha="center")
    if found and not wide:
        axes.set_xlim(dates.num2date(source.start / 86400), dates.num2date(source.end / 86400))
        for at, color in events:
            axes.axvline(at, color=color, lw=0.8, ls=":")


def save(dashboard: Path, source: Source, picture: Path, height: int | None = None) -> None:
    """Draw a dashboard's file into a PNG."""
    figure = draw(json.loads(dashboard.read_text(encoding="utf-8")), source, height)
    figure.savefig(picture, facecolor=BACK)
    with Image.open(picture) as image:
        image.convert("RGB").quantize(COLORS).save(picture, optimize=True)


def main() -> None:
    """The last five minutes."""
    if len(sys.argv) != 4:
        sys.exit("usage: draw.py PROMETHEUS DASHBOARD.json PICTURE.png")
    now = time.time()
    save(Path(sys.argv[2]), Source(sys.argv[1].rstrip("/"), now - 300, now, 5.0), Path(sys.argv[3]))


if __name__ == "__main__":
    main()
