"""The checked-in stubs are what proto/ gives today."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ROOT / "clients" / "python" / "numa_client" / "_gen"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*.py*"))
        if "__pycache__" not in path.parts
    }


def test_regenerating_gives_the_same_bytes(tmp_path: Path) -> None:
    generate = runpy.run_path(str(ROOT / "clients" / "python" / "generate.py"))["generate"]
    (tmp_path / "gone_service_pb2.py").write_text("a .proto file that was deleted left this")
    generate(output=tmp_path)
    fresh = contents(tmp_path)
    assert "numa/v1/memory_service_pb2_grpc.pyi" in fresh
    assert fresh == contents(GENERATED), "run: python clients/python/generate.py"
