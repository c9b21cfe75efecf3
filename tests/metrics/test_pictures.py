"""The pictures of the dashboards: drawn from their JSON, with a Prometheus that answers anything."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs" / "dashboards"))

from draw import WIDTH, Source, draw, text_of

from numa_service.metrics.dashboards import DASHBOARDS, Dashboard, as_json

LABELS = {"machine": ["demo"], "node": ["0", "1", "2"], "zone": ["DMA", "Normal"]}
START, END = 1_700_000_000.0, 1_700_000_060.0


class Answers(BaseHTTPRequestHandler):
    """Stands in for Prometheus: it answers any query with two series, and knows three nodes and two zones."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        *_, what = url.path.split("/")
        if what == "values":
            data: object = LABELS[url.path.split("/")[-2]]
        else:
            assert "$" not in asked["query"]
            point = {"values": [[START + 10 * i, str(i)] for i in range(7)], "value": [END, "6"]}
            names = ("node", "target_node", "zone", "state", "order", "le", "grpc_method")
            data = {"result": [{"metric": dict.fromkeys(names, label), **point} for label in "01"]}
        body = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def source() -> Iterator[Source]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever).start()
    yield Source(f"http://127.0.0.1:{server.server_port}", START, END, 5.0)
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_every_panel_is_drawn(source: Source, dashboard: Dashboard) -> None:
    figure = draw(json.loads(as_json(dashboard)), source)
    wanted = 0
    for row in dashboard.rows:
        for panel in row.panels:
            many = panel.repeat in {v.name for v in dashboard.variables if v.many}
            wanted += len(LABELS[panel.repeat]) if many else 1
    assert len(figure.axes) == wanted
    assert round(figure.get_figwidth() * figure.dpi) == WIDTH
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert "No data" not in texts
    assert any(axes.get_lines() for axes in figure.axes)
    shown = {text.get_text() for text in figure.texts}
    assert not any("$" in title for title in shown)
    assert {f"▾ {row.title}" for row in dashboard.rows} <= shown


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.125, "percentunit", "12.5 %"),
        (2.5e-7, "s", "250 ns"),
        (0.0025, "s", "2.5 ms"),
        (1234, "short", "1.23 K"),
        (5e9, "Bps", "5 GB/s"),
        (12, "count:pages/s", "12 pages/s"),
    ],
)
def test_numbers_have_their_unit(value: float, unit: str, text: str) -> None:
    assert text_of(value, unit) == text


def test_the_pictures_are_small_and_all_there() -> None:
    folder = Path(__file__).resolve().parents[2] / "docs" / "dashboards"
    assert {path.stem for path in folder.glob("*.png")} == {dashboard.uid for dashboard in DASHBOARDS}
    assert all(path.stat().st_size < 200_000 for path in folder.glob("*.png"))
