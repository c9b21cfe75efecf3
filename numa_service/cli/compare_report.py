"""The report of ``compare``: one HTML file with its plots as SVG, which needs nothing else and no network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape

from numa_service.sim.compare import Mean, Ranked, Run, shares

#: Fill of nodes, by nid in turn: told apart also without seeing colours (Okabe and Ito).
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999")
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #ddd }
th { text-align: left } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
td { white-space: nowrap }
svg { width: 100%; height: auto } svg text { font: 12px system-ui, sans-serif; fill: currentColor }
.note { color: #666 } .key { display: inline-block; width: .8rem; height: .8rem; margin: 0 .3rem 0 1rem }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #1b1b1b } th, td { border-color: #444 }
  .note { color: #999 } }
"""
_WIDTH, _LABEL, _BAR, _GAP = 900, 330, 20, 8
_PLOT = _WIDTH - _LABEL - 130


def html_report(what: str, ranked: list[Ranked]) -> str:
    """The report of what was run on variants, the best first."""
    runs = len(ranked[0].runs)
    how = f"{runs} seeds each; means with intervals of 95 %" if runs > 1 else "one run each"
    parts = [
        f"<h1>{escape(what)} on {len(ranked)} machines</h1>",
        f"<p class=note>Virtual time, {how}. Variants of the same rank cannot be told apart: the interval of "
        "their differences, seed by seed, has 0 in it.</p>",
        _table(ranked),
        "<h2>Runtime, virtual ms</h2>",
        _bars([(one.variant.name, one.mean(lambda run: run.runtime_ns / 1e6)) for one in ranked]),
        "<h2>Where pages were allocated and accessed</h2>",
        _placement(ranked),
        *_latencies(ranked),
    ]
    notes = [
        f"<li>{escape(one.variant.name)}: {escape(note)}" for one in ranked for note in one.variant.notes
    ]
    if notes:
        parts.append(f"<h2>Notes</h2><ul>{''.join(notes)}</ul>")
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{escape(what)}: comparison</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style>\n'
        f"{body}\n</html>\n"
    )


def _table(ranked: list[Ranked]) -> str:
    columns: list[tuple[str, Callable[[Ranked], str]]] = [
        ("virtual ms", lambda one: _text(one.mean(lambda run: run.runtime_ns / 1e6), 3)),
        ("behind the best, ms", lambda one: _text(Mean(one.behind.mean / 1e6, one.behind.error / 1e6), 3)),
        ("remote %", lambda one: _text(one.mean(lambda run: 100 * run.remote), 2)),
        ("spills", lambda one: _text(one.mean(lambda run: run.spills), 0)),
        ("reclaimed pages", lambda one: _text(one.mean(lambda run: run.reclaimed), 0)),
        ("failures", lambda one: _text(one.mean(lambda run: run.failures), 0)),
    ]
    head = "".join(f"<th class=n>{name}</th>" for name, _ in columns)
    rows = ""
    for one in ranked:
        cells = "".join(f"<td class=n>{text(one)}</td>" for _, text in columns)
        rows += f"<tr><td>{one.rank}</td><td>{escape(one.variant.name)}</td>{cells}</tr>\n"
    return f"<table><tr><th>rank</th><th>variant</th>{head}</tr>\n{rows}</table>"


def _latencies(ranked: list[Ranked]) -> Iterable[str]:
    """A plot for each kind of event that all variants had."""
    for kind in ranked[0].runs[0].latency:
        if not all(kind in run.latency for one in ranked for run in one.runs):
            continue

        def mean_ns(run: Run, kind: str = kind) -> float:
            return run.latency[kind].mean_ns

        def p99_ns(run: Run, kind: str = kind) -> float:
            return run.latency[kind].p99_ns

        yield f"<h2>Latency of {escape(kind)}, ns</h2>"
        yield _bars(
            [(one.variant.name, one.mean(mean_ns)) for one in ranked],
            [one.mean(p99_ns).mean for one in ranked],
        )


def _bars(rows: list[tuple[str, Mean]], marks: list[float] | None = None) -> str:
    """A bar and its interval for each row; `marks`: the 99th percentile as a line across."""
    most = max([mean.mean + mean.error for _, mean in rows] + (marks or [])) or 1.0
    shapes = []
    for number, (name, mean) in enumerate(rows):
        y = number * (_BAR + _GAP)
        length = _PLOT * mean.mean / most
        shapes.append(_name(name, y) + _rect(_LABEL, y, length, _COLOURS[0], f"{name}: {_text(mean, 3)}"))
        if mean.error:
            low, high = (_LABEL + _PLOT * (mean.mean + side * mean.error) / most for side in (-1, 1))
            middle = y + _BAR / 2
            shapes.append(_line(low, middle, high, middle) + _line(low, y + 5, low, y + _BAR - 5))
            shapes.append(_line(high, y + 5, high, y + _BAR - 5))
        said = _text(mean, 3)
        if marks:
            at = _LABEL + _PLOT * marks[number] / most
            shapes.append(_line(at, y, at, y + _BAR))
            said += f" (p99 {marks[number]:,.0f})"
        shapes.append(f'<text x="{_WIDTH - 4}" y="{y + 14}" text-anchor="end">{said}</text>')
    return _svg(len(rows), shapes)


def _placement(ranked: list[Ranked]) -> str:
    """A bar for each variant, divided among nodes."""
    shapes = []
    nids = sorted({nid for one in ranked for run in one.runs for nid in run.placement})
    for number, one in enumerate(ranked):
        y, x = number * (_BAR + _GAP), float(_LABEL)
        shapes.append(_name(one.variant.name, y))
        for nid, share in shares(run.placement for run in one.runs).items():
            length = (_WIDTH - _LABEL - 4) * share
            shapes.append(_rect(x, y, length, _colour(nid), f"node {nid}: {100 * share:.2f} %"))
            x += length
    key = "".join(f'<span class=key style="background:{_colour(nid)}"></span>node {nid}' for nid in nids)
    return f"{_svg(len(ranked), shapes)}<p>{key}</p>"


def _colour(nid: int) -> str:
    return _COLOURS[nid % len(_COLOURS)]


def _svg(rows: int, shapes: list[str]) -> str:
    height = rows * (_BAR + _GAP)
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img">\n' + "\n".join(shapes) + "\n</svg>"


def _name(name: str, y: float) -> str:
    """A row's name, cut where the plot begins; all of it shows under the mouse."""
    shown = name if len(name) <= 48 else f"{name[:47]}…"
    text = f"{escape(shown)}<title>{escape(name)}</title>"
    return f'<text x="{_LABEL - 8}" y="{y + 14:.0f}" text-anchor="end">{text}</text>'


def _rect(x: float, y: float, width: float, fill: str, title: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{fill}">'
        f"<title>{escape(title)}</title></rect>"
    )


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="currentColor" stroke-width="1.5"/>'


def _text(mean: Mean, digits: int) -> str:
    text = f"{mean.mean:,.{digits}f}"
    return f"{text} ± {mean.error:,.{digits}f}" if mean.error else text
