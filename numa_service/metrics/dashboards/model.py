"""The parts of a dashboard, and their conversion to Grafana's JSON (schemaVersion 41)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

SCHEMA_VERSION = 41
#: Width of Grafana's grid.
COLUMNS = 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


class Kind(StrEnum):
    """The panel types used, with Grafana's names."""

    TIMESERIES = "timeseries"
    STAT = "stat"
    HEATMAP = "heatmap"
    TABLE = "table"
    STATES = "state-timeline"


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL query of a panel."""

    expr: str
    legend: str = ""
    #: Why the query may have no result on a healthy machine under load; empty if it always has one.
    quiet: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. The panels of a row are placed from left to right."""

    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: Kind = Kind.TIMESERIES
    width: int = 8
    height: int = 8
    description: str = ""
    #: For a table with a row for each value of the first label and a column for each of the second.
    matrix: tuple[str, str] | None = None
    #: (number, text, colour): how a number is shown.
    states: tuple[tuple[int, str, str], ...] = ()
    #: Colours of a stat: (lower bound of the values, colour); the first one has no bound.
    thresholds: tuple[tuple[float | None, str], ...] = ((None, "green"),)
    stack: bool = False
    #: (regular expression of legends, colour): lines drawn dashed and without a fill, such as watermarks.
    marks: tuple[tuple[str, str], ...] = ()
    #: Name of a variable, for each value of which the panel is repeated.
    repeat: str = ""
    minimum: float | None = 0
    maximum: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A heading, and the panels below it."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """A drop-down list at the top: the values that `label` has in `metric`; `many` allows several."""

    name: str
    metric: str
    label: str
    many: bool = False


@dataclass(frozen=True, slots=True)
class Annotation:
    """Marks in every panel the moments at which the query has a value."""

    name: str
    query: Query
    color: str
    title: str


_M = 'machine="$machine"'
MACHINE_VARIABLE = Variable("machine", "numa_node_info", "machine")
NODES_VARIABLE = Variable("node", f"numa_node_info{{{_M}}}", "node", many=True)

ANNOTATIONS = (
    Annotation(
        "Restarts",
        Query(
            f"increase(numa_machine_node_restarts_total{{{_M}}}[$__rate_interval]) > 0",
            quiet="no node of a healthy machine is restarted",
        ),
        "purple",
        "node {{node}} was restarted",
    ),
    Annotation(
        "Out of memory",
        Query(
            f"sum by (node) (increase(numa_alloc_failed_blocks_total{{{_M}}}[$__rate_interval])) > 0",
            quiet="a healthy machine has what is asked for",
        ),
        "red",
        "requests of node {{node}} found no memory",
    ),
    Annotation(
        "Faults",
        Query(
            f"sum by (target_node) (numa_peer_owed_answers{{{_M}}}) > 0",
            quiet="every node answers the others",
        ),
        "orange",
        "node {{target_node}} owes answers",
    ),
    Annotation(
        "Load phases",
        Query(
            f"sum by (program, phase) (numa_programs{{{_M}}})"
            f" unless sum by (program, phase) (numa_programs{{{_M}}} offset $__rate_interval)",
            quiet="no workload program has begun a phase",
        ),
        "blue",
        "{{program}}: {{phase}}",
    ),
)


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A page of panels."""

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = (MACHINE_VARIABLE, NODES_VARIABLE)
    annotations: tuple[Annotation, ...] = field(default=ANNOTATIONS)

    @property
    def file(self) -> str:
        """Name of the dashboard's JSON file."""
        return f"{self.uid}.json"

    def queries(self) -> Iterator[tuple[str, Query]]:
        """Every query, with the title of the panel or annotation that has it."""
        for row in self.rows:
            for panel in row.panels:
                for query in panel.queries:
                    yield panel.title, query
        for annotation in self.annotations:
            yield annotation.name, annotation.query


def as_json(dashboard: Dashboard) -> str:
    """The dashboard as the JSON text that Grafana provisions."""
    written = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["numa-service"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,  # a shared crosshair
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "links": [
            {
                "title": "numa-service",
                "type": "dashboards",
                "tags": ["numa-service"],
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "templating": {"list": [_datasource(), *map(_variable, dashboard.variables)]},
        "annotations": {"list": [_annotation(each) for each in dashboard.annotations]},
        "panels": _panels(dashboard.rows),
    }
    return json.dumps(written, indent=1, ensure_ascii=False) + "\n"


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _variable(variable: Variable) -> dict[str, Any]:
    query = f"label_values({variable.metric}, {variable.label})"
    many: dict[str, Any] = {"multi": True, "includeAll": True, "current": {"text": "All", "value": "$__all"}}
    return {
        "name": variable.name,
        "label": variable.name.capitalize(),
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": f"variable-{variable.name}"},
        "refresh": 2,  # read again whenever the time range changes, as nodes come and go
        "sort": 3,  # numerically
        **(many if variable.many else {}),
    }


def _annotation(annotation: Annotation) -> dict[str, Any]:
    return {
        "name": annotation.name,
        "datasource": DATASOURCE,
        "enable": True,
        "expr": annotation.query.expr,
        "iconColor": annotation.color,
        "titleFormat": annotation.title,
    }


def _panels(rows: tuple[Row, ...]) -> list[dict[str, Any]]:
    """Place the panels on the grid, row below row; a panel that does not fit starts a new line."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
                "panels": [],
            }
        )
        x, y, lowest = 0, y + 1, 0
        for panel in row.panels:
            if x + panel.width > COLUMNS or panel.repeat:
                x, y, lowest = 0, y + lowest, 0
            grid = {"x": x, "y": y, "w": panel.width, "h": panel.height}
            panels.append({"id": len(panels) + 1, **_panel(panel), "gridPos": grid})
            # a panel that repeats takes a whole line: its copies need the room beside it
            x, lowest = COLUMNS if panel.repeat else x + panel.width, max(lowest, panel.height)
        y += lowest
    return panels


def _panel(panel: Panel) -> dict[str, Any]:
    written: dict[str, Any] = {
        "type": panel.kind.value,
        "title": panel.title,
        "datasource": DATASOURCE,
        "targets": [_target(panel, i, query) for i, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": [_mark(*mark) for mark in panel.marks]},
        "options": _options(panel),
    }
    quiet = "; ".join(dict.fromkeys(query.quiet for query in panel.queries if query.quiet))
    description = ". ".join(filter(None, (panel.description, f"May be empty: {quiet}" if quiet else "")))
    if description:
        written["description"] = description
    if panel.repeat:
        written |= {"repeat": panel.repeat, "repeatDirection": "h", "maxPerRow": COLUMNS // panel.width}
    if panel.matrix:
        row, column = panel.matrix
        fields = {"rowField": row, "columnField": column, "valueField": "Value"}
        written["transformations"] = [{"id": "groupingToMatrix", "options": fields}]
    return written


def _target(panel: Panel, index: int, query: Query) -> dict[str, Any]:
    now = panel.kind in (Kind.TABLE, Kind.STAT)
    return {
        "refId": chr(ord("A") + index),
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "instant": now,
        "range": not now,
        "format": "table" if panel.kind is Kind.TABLE else "time_series",
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    steps = [{"value": value, "color": color} for value, color in panel.thresholds]
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "thresholds": {"mode": "absolute", "steps": steps},
        "color": {"mode": "thresholds" if panel.kind is Kind.STAT else "palette-classic"},
    }
    if panel.minimum is not None:
        defaults["min"] = panel.minimum
    if panel.maximum is not None:
        defaults["max"] = panel.maximum
    if panel.states:
        texts = {str(value): {"text": text, "color": color} for value, text, color in panel.states}
        defaults["mappings"] = [{"type": "value", "options": texts}]
    match panel.kind:
        case Kind.TIMESERIES:
            defaults["custom"] = {
                "fillOpacity": 60 if panel.stack else 10,
                "showPoints": "never",
                "stacking": {"mode": "normal" if panel.stack else "none"},
            }
        case Kind.TABLE:
            defaults["color"] = {"mode": "continuous-BlYlRd"}
            defaults["custom"] = {"align": "center", "cellOptions": {"type": "color-background"}}
    return defaults


def _mark(legend: str, color: str) -> dict[str, Any]:
    return {
        "matcher": {"id": "byRegexp", "options": legend},
        "properties": [
            {"id": "color", "value": {"mode": "fixed", "fixedColor": color}},
            {"id": "custom.fillOpacity", "value": 0},
            {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [6, 4]}},
        ],
    }


def _options(panel: Panel) -> dict[str, Any]:
    match panel.kind:
        case Kind.TIMESERIES:
            legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
            return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
        case Kind.STAT:
            values = {"calcs": ["lastNotNull"], "fields": "", "values": False}
            return {"reduceOptions": values, "colorMode": "background", "graphMode": "none"}
        case Kind.HEATMAP:
            color = {"mode": "scheme", "scheme": "Viridis", "scale": "exponential", "exponent": 0.4}
            return {"calculate": False, "color": color, "rowsFrame": {"layout": "auto"}, "cellGap": 1}
        case Kind.STATES:
            return {"mergeValues": True, "showValue": "auto", "rowHeight": 0.8}
    return {"showHeader": True}
