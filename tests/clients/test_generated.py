"""The stubs in the repository are those of proto/, and the blocking client is that of the asyncio one."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ROOT / "clients" / "python" / "numa_client" / "_gen"
MAKE_SYNC = runpy.run_path(str(ROOT / "clients" / "python" / "make_sync.py"))


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
    assert fresh == contents(GENERATED), "run: make stubs"


def test_the_blocking_client_is_the_asyncio_one() -> None:
    made = MAKE_SYNC["blocking"]([path.read_text() for path in MAKE_SYNC["MADE"]])
    assert made == [path.read_text() for path in MAKE_SYNC["MADE"].values()], "run: make sync"


def test_what_no_rule_makes_blocking_is_not_let_through() -> None:
    texts = [path.read_text() for path in MAKE_SYNC["MADE"]]
    with pytest.raises(SystemExit, match="no rule makes this blocking: import asyncio"):
        MAKE_SYNC["blocking"]([f"{text}\n\nnow = asyncio.get_running_loop().time()\n" for text in texts])
    with pytest.raises(SystemExit, match="any more"):
        MAKE_SYNC["blocking"]([text.replace("asyncio.sleep", "anyio.sleep") for text in texts])
