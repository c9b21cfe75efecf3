"""Resolve the dependencies of all three packages into requirements.lock (make lock)."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEADER = "# Exact versions and hashes of everything that make setup installs. Made by: make lock\n"


def requirements() -> list[str]:
    """What the packages ask for, and the build backend with what editable installs need."""
    wanted = {"hatchling>=1.27", "editables>=0.5"}
    for folder in (".", "clients/python", "clients/loadgen"):
        project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
        wanted.update(project["dependencies"], project.get("optional-dependencies", {}).get("dev", []))
    return sorted(r for r in wanted if not re.match(r"numa-(client|loadgen)\b", r))


def main() -> None:
    """Run uv; no registry address is written."""
    options = ["--universal", "--generate-hashes", "--no-header", "--no-annotate", "--python-version", "3.11"]
    locked = subprocess.run(
        [sys.executable, "-m", "uv", "pip", "compile", "-q", *options, "-"],
        input="\n".join(requirements()),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (ROOT / "requirements.lock").write_text(HEADER + locked)


if __name__ == "__main__":
    main()
