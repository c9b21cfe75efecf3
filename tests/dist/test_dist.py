"""What a release consists of: archives that hold everything, and a machine that boots from nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from numa_service import __version__
from numa_service.mm import jit

ROOT = Path(__file__).resolve().parents[2]
#: Folder, package in it, distribution.
PACKAGES = (
    (".", "numa_service", "numa_service"),
    ("clients/python", "numa_client", "numa_client"),
    ("clients/loadgen", "numa_loadgen", "numa_loadgen"),
)
each_package = pytest.mark.parametrize(("folder", "package", "name"), PACKAGES)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make dist` fills it."""
    out = tmp_path_factory.mktemp("dist")
    for folder, _, _ in PACKAGES:
        _hatchling(ROOT / folder, out)
    return out


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Commands of an environment with the wheels, and what they need as make setup has installed it."""
    venv = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=120)
    wheels = sorted(dist.glob("*.whl"))
    python = venv / "bin" / "python"
    install = ["install", "-q", "--no-deps", "--no-index", "--disable-pip-version-check", *wheels]
    subprocess.run([sys.executable, "-m", "pip", "--python", python, *install], check=True, timeout=120)
    ours = Path(sysconfig.get_path("purelib", vars={"base": str(venv)}))
    # a path that a .pth names is searched, but the .pth files there are not: none of this checkout is found
    (ours / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv / "bin"


def _hatchling(folder: Path, out: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", out],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, cwd="/", env=_clean(), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _clean() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}


def _tracked(package: Path) -> Iterator[str]:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "."]
    for line in subprocess.run(
        listed, cwd=package, capture_output=True, text=True, check=True
    ).stdout.splitlines():
        if (package / line).exists():
            yield f"{package.name}/{line}"


def test_make_dist_builds_these_packages() -> None:
    makefile = (ROOT / "Makefile").read_text()
    clients = re.search(r"^CLIENTS := (.*)$", makefile, flags=re.M)
    assert clients
    assert {*clients[1].split(), "."} == {folder for folder, _, _ in PACKAGES}
    assert "for package in $(CLIENTS) .;" in makefile
    assert "-m hatchling build -d $(CURDIR)/dist" in makefile


@each_package
def test_a_wheel_holds_every_file_of_the_package(dist: Path, folder: str, package: str, name: str) -> None:
    with zipfile.ZipFile(dist / f"{name}-{__version__}-py3-none-any.whl") as wheel:
        files = {file for file in wheel.namelist() if ".dist-info/" not in file}
        license = wheel.read(f"{name}-{__version__}.dist-info/licenses/LICENSE").decode()
    assert files == set(_tracked(ROOT / folder / package))
    assert license == (ROOT / "LICENSE").read_text()


@each_package
def test_a_source_archive_is_enough_for_the_wheel_and_small(
    dist: Path, folder: str, package: str, name: str, tmp_path: Path
) -> None:
    archive = dist / f"{name}-{__version__}.tar.gz"
    assert archive.stat().st_size < 1 << 20
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    source = tmp_path / f"{name}-{__version__}"
    assert {path.name for path in source.iterdir() if path.is_dir()} == {package}
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=source,
        capture_output=True,
        check=True,
        timeout=120,
    )
    built = f"{name}-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(tmp_path / built) as ours, zipfile.ZipFile(dist / built) as theirs:
        assert ours.namelist() == theirs.namelist()


def test_all_packages_have_one_version() -> None:
    projects = [tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"] for folder, _, _ in PACKAGES]
    assert [project.get("version", __version__) for project in projects] == [__version__] * len(PACKAGES)
    major, minor, _ = map(int, __version__.split("."))
    for project in projects:
        ours = [wanted for wanted in project["dependencies"] if wanted.startswith("numa-")]
        assert {re.sub(r"^[a-z-]+", "", wanted) for wanted in ours} <= {f">={major}.{minor},<{major}.{minor + 1}"}


def test_the_changelog_has_the_version_on_top() -> None:
    heads = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)
    released = [head for head in heads if head != "Unreleased"]
    assert heads[0] in ("Unreleased", released[0])
    assert re.fullmatch(re.escape(__version__) + r" - \d{4}-\d\d-\d\d", released[0])


def test_a_machine_boots_from_the_wheels_alone(installed: Path, tmp_path: Path) -> None:
    where = "import numa_service, numa_client, numa_loadgen\nfrom numa_service.mm import jit\n"
    where += "print(numa_service.__file__, numa_client.__file__, numa_loadgen.__file__, jit.CACHE_DIR)"
    *files, cache = _run(installed / "python", "-P", "-c", where).split()
    assert {Path(file).is_relative_to(installed.parent) for file in files} == {True}
    assert cache == str(jit.CACHE_DIR)  # nothing has to be compiled again

    assert _run(installed / "numa-service", "--version") == f"{__version__}\n"
    assert "two-socket" in _run(installed / "numa-service", "presets")
    zoneinfo = _run(installed / "numa-service", "boot", "two-socket", "--show", "zoneinfo")
    assert "Node 1, zone   Normal" in zoneinfo
    assert "node 1" in _run(installed / "numa-service", "explain", "two-socket", "--policy", "bind:1")
    assert "fork-storm" in _run(installed / "numa-loadgen", "program", "list")
    _run(installed / "python", "-m", "numa_service.metrics.dashboards", tmp_path)
    assert len(list(tmp_path.rglob("*.json"))) == 4


@pytest.mark.ray
@pytest.mark.slow
def test_a_machine_comes_up_from_the_wheels_alone(installed: Path) -> None:
    """Every process of it, the console's page included."""
    summary = _run(installed / "numa-service", "demo", "--seconds", "5", "--json")
    assert '"violations": []' in summary
