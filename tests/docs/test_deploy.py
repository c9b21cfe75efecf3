"""What of deploy/ can be checked without a container engine."""

from __future__ import annotations

import re
import shlex
import subprocess

import yaml
from doc_blocks import ROOT
from skips import needs

DOCKERFILE = (ROOT / "deploy/docker/Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "deploy/docker/compose.yaml").read_text())
PROMETHEUS = ROOT / "deploy/prometheus/prometheus.yml"


def instructions(name: str) -> list[str]:
    """Arguments of every instruction of that name, in order."""
    return re.findall(rf"^(?:{name}) +(.*)$", DOCKERFILE, flags=re.M)


def pip_install(line: str) -> list[str]:
    """Arguments of pip install; editable or not does not matter."""
    return [word for word in shlex.split(line.split(" pip install ", 1)[1]) if word != "-e"]


def test_every_file_that_is_copied_exists() -> None:
    for line in instructions("COPY"):
        words = [word for word in line.split() if not word.startswith("--")]
        if "--from=build" not in line:
            assert [word for word in words[:-1] if not (ROOT / word).exists()] == []


def test_pip_does_what_make_setup_does() -> None:
    makefile = (ROOT / "Makefile").read_text()
    clients = re.search(r"^CLIENTS := (.*)$", makefile, flags=re.M)
    assert clients
    editable = " ".join(f"-e {client}" for client in clients[1].split())
    setup = makefile.split("$(VENV)/.ready:", 1)[1].split("\n\n", 1)[0]
    make = [
        pip_install(line.replace("$(CLIENTS:%=-e %)", editable))
        for line in setup.splitlines()
        if " pip install " in line
    ]
    image = [
        [word.removeprefix("./") for word in pip_install(line)]
        for line in instructions("RUN")
        if " pip install " in line
    ]
    assert image == make
    assert "--require-hashes" in image[0]


def test_the_image_runs_as_a_user_and_says_how_it_is() -> None:
    assert instructions("FROM") == ["python:3.11-slim AS build", "python:3.11-slim"]
    assert instructions("USER") == ["numa"]
    (health,) = instructions("HEALTHCHECK")
    assert health.endswith('CMD ["numa-service", "status", "machine"]')
    assert instructions("ENTRYPOINT") == ['["run-machine"]']


def test_the_script_is_legal_and_may_be_executed() -> None:
    script = ROOT / "deploy/docker/run-machine"
    assert script.stat().st_mode & 0o111 == 0o111
    done = subprocess.run(["sh", "-n", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_compose_fits_the_image() -> None:
    machine, prometheus = COMPOSE["services"]["machine"], COMPOSE["services"]["prometheus"]
    context = ROOT / "deploy/docker" / machine["build"]["context"]
    assert (context / machine["build"]["dockerfile"]).samefile(ROOT / "deploy/docker/Dockerfile")
    (volume,) = instructions("VOLUME")
    assert machine["volumes"] == [f"run:{volume}"]
    assert prometheus["volumes"] == [f"run:{volume}:ro"]
    assert f"--config.file={volume}/prometheus.yml" in prometheus["command"]
    assert machine["network_mode"] == prometheus["network_mode"] == "host"


@needs("promtool")
def test_promtool_accepts_the_configuration() -> None:
    done = subprocess.run(
        ["promtool", "check", "config", PROMETHEUS], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "http_sd_configs" in PROMETHEUS.read_text()
