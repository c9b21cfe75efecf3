"""Generates numa_client/_gen from proto/numa/v1: the only copy of the stubs, which the service uses, too.

Run ``python clients/python/generate.py`` after every change of a .proto file; a test checks that it was run.
"""

from __future__ import annotations

import re
import sys
import sysconfig
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

HERE = Path(__file__).resolve().parent
PROTO_ROOT = HERE.parents[1] / "proto"
PACKAGE = "numa_client._gen"
OUTPUT = HERE / "numa_client" / "_gen"


def run_protoc(proto_root: Path, out: Path) -> None:
    """Generate messages of every .proto file, and stubs of those with a service. SystemExit on errors."""
    protos = sorted(str(path.relative_to(proto_root)) for path in proto_root.glob("numa/v1/*.proto"))
    services = [name for name in protos if name.endswith("_service.proto")]
    include = str(resources.files("grpc_tools") / "_proto")
    typed_stubs = Path(sysconfig.get_path("scripts")) / "protoc-gen-mypy_grpc"
    for arguments in (
        [f"--python_out={out}", f"--pyi_out={out}", *protos],
        [
            f"--plugin=protoc-gen-mypy_grpc={typed_stubs}",
            f"--grpc_python_out={out}",
            f"--mypy_grpc_out=quiet:{out}",
            *services,
        ],
    ):
        status = protoc.main(["protoc", f"-I{proto_root}", f"-I{include}", *arguments])
        if status:
            raise SystemExit(status)


def generate(proto_root: Path = PROTO_ROOT, output: Path = OUTPUT) -> list[Path]:
    """Write the package `output`, and delete files in it that no .proto gives any more; returns its files."""
    with tempfile.TemporaryDirectory() as scratch:
        run_protoc(proto_root, Path(scratch))
        made = {
            path.relative_to(scratch): re.sub(
                r"^from numa\.v1 import",
                f"from {PACKAGE}.numa.v1 import",
                path.read_text(),
                flags=re.MULTILINE,
            )
            for path in sorted(Path(scratch).rglob("*.py*"))
        }
    for folder in (Path(), Path("numa"), Path("numa/v1")):
        made[folder / "__init__.py"] = ""
    for stale in sorted(output.rglob("*.py*")) if output.exists() else []:
        if stale.relative_to(output) not in made and "__pycache__" not in stale.parts:
            stale.unlink()
    for relative, text in made.items():
        (output / relative).parent.mkdir(parents=True, exist_ok=True)
        (output / relative).write_text(text)
    return [output / relative for relative in sorted(made)]


if __name__ == "__main__":
    for written in generate():
        print(written.relative_to(HERE), file=sys.stderr)
