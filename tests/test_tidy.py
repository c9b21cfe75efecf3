"""House rules that a linter does not know."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TRACKED = [
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
]
SOURCES = [p for p in TRACKED if p.suffix == ".py" and "_gen" not in p.parts and p.exists()]

MAX_LINES = 700


def test_files_fit_a_head() -> None:
    assert [p.name for p in SOURCES if len(p.read_text().splitlines()) > MAX_LINES] == []


def test_no_drawers() -> None:
    assert [p.name for p in SOURCES if re.search(r"util|helper|manager|misc|common", p.stem)] == []


def test_layers_are_kept() -> None:
    result = subprocess.run([ROOT / ".venv/bin/lint-imports"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("folder", ["mm", "machine", "node", "workload"])
def test_the_model_has_no_clock_and_no_dice(folder: str) -> None:
    banned = re.compile(r"^\s*(import|from) (time|random|datetime|secrets|asyncio|threading)\b", re.M)
    files = (ROOT / "numa_service" / folder).rglob("*.py")
    assert [p.name for p in files if banned.search(p.read_text())] == []


def _imports(source: str, modules: set[str]) -> set[str]:
    """Modules of ours that a file imports: for types only, and within functions, too."""
    named: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            named |= inner & modules or {node.module}
    return named & modules


def test_no_file_is_in_an_import_circle() -> None:
    names = {}
    for path in SOURCES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts[2:] if parts[0] == "clients" else parts
        if parts[0] in ("numa_service", "lab", "numa_client", "numa_loadgen"):
            names[".".join(parts).removesuffix(".__init__")] = path
    imports = {name: _imports(p.read_text(), {*names} - {name}) for name, p in names.items()}
    # what imports nothing that is left is in no circle
    while done := {name for name, needed in imports.items() if not needed & imports.keys()}:
        imports = {name: needed for name, needed in imports.items() if name not in done}
    # nor is what nothing that is left imports
    while alone := imports.keys() - set().union(*imports.values()):
        imports = {name: needed for name, needed in imports.items() if name not in alone}
    assert sorted(imports) == []


#: Where kernels are tables: constants and strategies, and what their files say.
KERNEL_TABLES = {
    "numa_service/mm/profile.py",
    "numa_service/mm/slab/profile.py",
    "numa_service/procfs/names.py",
}
KERNEL_NAME = re.compile(r"linux[-_]?\d|(^|_)\d+_\d+$", re.I)


def _kernels_named(source: str) -> list[str]:
    """Texts and names of a module that name a kernel's version; docstrings and comments may."""
    tree = ast.parse(source)
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    told = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, owners) and _is_told(node)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            found.append(node.value)
        for attribute in ("id", "attr", "arg", "name"):
            value = getattr(node, attribute, None)
            if isinstance(value, str):
                found.append(value)
    return [text for text in found if KERNEL_NAME.search(text)]


def _is_told(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return ast.get_docstring(node, clean=False) is not None


def test_kernels_are_named_in_their_tables_only() -> None:
    sources = [p for p in SOURCES if p.is_relative_to(ROOT / "numa_service")]
    named = {str(p.relative_to(ROOT)) for p in sources if _kernels_named(p.read_text())}
    assert named == KERNEL_TABLES


def test_the_name_of_a_kernel_would_be_seen() -> None:
    """In comparisons, defaults, f-strings and help texts, as a constant's name; not in what explains."""
    seen = [
        'if profile == "linux-3.0": pass',
        'def f(profile="linux-6.1"): pass',
        'text = f"linux-6.12 {x}"',
        'Option(help="as in linux-6.18")',
        "from profile import LINUX_6_18",
        "ZONE_STAT_6_1 = 1",
        "print(self._as_6_12)",
    ]
    assert [source for source in seen if not _kernels_named(source)] == []
    assert _kernels_named('"""As linux-6.1."""\ndef f():\n    """Of linux-3.0."""\n# linux-6.12\n') == []


def test_every_package_says_what_it_is() -> None:
    empty = [p for p in (ROOT / "numa_service").glob("**/__init__.py") if '"""' not in p.read_text()]
    assert empty == []


@pytest.mark.parametrize(
    ("made", "place"),
    [
        ("insecure_channel", "clients/python/numa_client/_channel.py"),
        ("add_insecure_port", "numa_service/rpc/grpc_server.py"),
    ],
)
def test_channels_and_ports_are_made_in_one_place(made: str, place: str) -> None:
    """So that what is said over them is made secret, or not, in one place, too."""
    product = [p for p in SOURCES if p.relative_to(ROOT).parts[0] in ("numa_service", "clients")]
    assert [str(p.relative_to(ROOT)) for p in product if made in p.read_text()] == [place]
