"""What those who want to change something find: templates, owners, hooks."""

from __future__ import annotations

import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from doc_blocks import ROOT, page

TEMPLATES = sorted(path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")
FIELDS = {"markdown", "textarea", "input", "dropdown", "checkboxes"}


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_an_issue_form_is_one(template: Path) -> None:
    """By GitHub's rules: name, description and body; each field has a type, a name of its own and a label."""
    form = yaml.safe_load(template.read_text())
    assert {"name", "description", "body"} <= set(form) <= {"name", "description", "body", "labels", "title"}
    assert {field["type"] for field in form["body"]} <= FIELDS
    asked = [field for field in form["body"] if field["type"] != "markdown"]
    assert all(field["attributes"]["label"] for field in asked)
    assert len({field["id"] for field in asked}) == len(asked)
    assert any(field.get("validations", {}).get("required") for field in asked)


def test_every_file_has_an_owner_and_no_line_is_left_over() -> None:
    lines = [line.split() for line in page(".github/CODEOWNERS").splitlines() if line and line[0] != "#"]
    patterns = [pattern for pattern, *_ in lines]
    assert all(owner.startswith("@") for _, *owners in lines for owner in owners)
    assert patterns[0] == "*"
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for pattern in patterns[1:]:
        glob = pattern.removeprefix("/") + ("*" if pattern.endswith("/") else "")
        assert any(fnmatch(file, glob) for file in tracked), pattern
    packages = {
        f"/{file.rsplit('/', 1)[0]}/"
        for file in tracked
        if re.fullmatch(r"numa_service/\w+/__init__.py", file)
    }
    assert packages <= set(patterns)


def test_hooks_check_what_make_lint_checks() -> None:
    (repo,) = yaml.safe_load(page(".pre-commit-config.yaml"))["repos"]
    assert repo["repo"] == "local"  # nothing is fetched
    entries = [hook["entry"] for hook in repo["hooks"]]
    assert [entry for entry in entries if not (ROOT / entry.split()[0]).exists()] == []
    hooks = [entry.removeprefix(".venv/bin/").replace(" --force-exclude", "") for entry in entries]
    lint = page("Makefile").split("\nlint:", 1)[1].split("\n\n", 1)[0].splitlines()[1:]
    assert sorted(hooks) == sorted(line.strip().removeprefix("$(BIN)/").removesuffix(" .") for line in lint)
    for entry in entries:
        if "ruff" in entry:
            subprocess.run([*entry.split(), "numa_service/__init__.py"], cwd=ROOT, check=True, timeout=60)
