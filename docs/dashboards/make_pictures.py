"""Loads a machine for a minute under a real Prometheus and saves docs/dashboards/*.png (make pictures)."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "metrics"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "rpc"))

from draw import Source, save
from loaded import loaded_machine
from real_prometheus import prometheus, settings

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60.0
#: Lines of the grid that are shown.
HEIGHT = {"numa-machine": 33, "numa-node": 35, "numa-service": 31, "numa-load": 35}


def main() -> None:
    """One picture for each dashboard."""
    pause = threading.Event()
    with tempfile.TemporaryDirectory(prefix="numa-pictures-") as name, loaded_machine() as loaded:
        config = settings(Path(name), loaded.machine.targets_url)
        with prometheus(config, Path(name) / "data") as api:
            pause.wait(10)  # it starts, and finds the nodes
            loaded.watched()
            start = time.time()
            pause.wait(SECONDS)
            source = Source(api.removesuffix("/api/v1"), start, time.time(), 1.0)
            for uid, height in HEIGHT.items():
                picture = Path(__file__).with_name(f"{uid}.png")
                save(ROOT / "deploy" / "grafana" / "dashboards" / f"{uid}.json", source, picture, height)
                print(f"saved {picture.name}: {picture.stat().st_size >> 10} KiB")
        loaded.to_rest()


if __name__ == "__main__":
    main()
