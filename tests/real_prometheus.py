"""Debian's Prometheus, started for a test, and questions to it."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from skips import needs

DEPLOY = Path(__file__).resolve().parents[1] / "deploy" / "prometheus"

requires_prometheus = needs("prometheus")


@contextmanager
def prometheus(config: Path, data: Path) -> Iterator[str]:
    """A Prometheus with that configuration; the URL of its API."""
    address = f"127.0.0.1:{free_port()}"
    server = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={data}",
            f"--web.listen-address={address}",
            "--log.level=error",
        ]
    )
    try:
        yield f"http://{address}/api/v1"
    finally:
        server.terminate()
        server.wait(30)


def settings(folder: Path, targets_url: str) -> Path:
    """The configuration of deploy/prometheus, for those targets and with everything done every second."""
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (job,) = config["scrape_configs"]
    job["http_sd_configs"][0] |= {"url": targets_url, "refresh_interval": "1s"}
    written = folder / "prometheus.yml"
    written.write_text(yaml.safe_dump(config))
    (folder / "rules").symlink_to(DEPLOY / "rules")
    return written


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def ask(api: str, query: str) -> list[dict[str, Any]]:
    """The series that a PromQL query gives now; AssertionError if it is refused, [] while nobody answers."""
    return _get(api, "query", {"query": query})


def ask_range(api: str, query: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
    """The series that it gives over a time; seconds."""
    return _get(api, "query_range", {"query": query, "start": start, "end": end, "step": step})


def _get(api: str, what: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    url = f"{api}/{what}?{urllib.parse.urlencode(parameters)}"
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            answer = json.load(reply)
    except urllib.error.HTTPError as error:
        if error.code == 503:  # it is still starting
            return []
        raise AssertionError(f"{parameters}: {error.read().decode()}") from None
    except urllib.error.URLError:
        return []
    series: list[dict[str, Any]] = answer["data"]["result"]
    return series
