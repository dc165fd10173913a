"""The house rules that a machine can check: arrows between rooms, banned calls, what the repository may hold."""
from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Each room and the rooms that it may import, itself aside. errors is open to all.
ROOMS = {
    "errors": set(),
    "common": set(),
    "protos": set(),
    "_native": {"common", "protos"},
    "fs": {"common", "protos", "_native"},
    "wal": {"common", "protos", "_native", "fs"},
    "cfile": {"common", "protos", "_native", "fs"},
    "tablet": {"common", "protos", "_native", "fs", "cfile"},
    "bootstrap": {"common", "protos", "_native", "fs", "wal", "cfile", "tablet"},
    "rpc": {"common", "protos", "_native"},
    "client": {"common", "protos", "_native", "rpc"},
    "cli": {"common", "protos", "_native", "fs", "wal", "cfile", "tablet", "bootstrap", "rpc", "client", ""},
}
DISK_ROOMS = {"fs", "wal", "cfile", "tablet", "bootstrap"}
SOURCES = sorted(p for p in [*ROOT.glob("kudu_storage/**/*"), *ROOT.glob("consensus/**/*")]
                 if p.suffix in {".py", ".pyx", ".pxd"} and "build" not in p.parts)
OURS = r"((?:kudu_storage|consensus)[\w.]*)"
IMPORT = re.compile(rf"^\s*(?:from\s+{OURS}\s+c?import|c?import\s+{OURS})", re.MULTILINE)

FUNCTION = r"^[ ]*cdef (?!extern|class)[\w *\[\].]*?\w+\(([^()]|\([^()]*\))*\)([^\n]*)"
RETURNS_OBJECT = r"\s*cdef (inline )?(object|list|bytes|str|dict|tuple|_?[A-Z]\w*[a-z]\w*) \w+\("


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    if parts[0] == "consensus":
        return "consensus"
    return parts[1] if len(parts) > 2 else Path(parts[1]).stem if parts[1] == "errors.py" else ""


def imported_rooms(text: str) -> Iterator[str]:
    for match in IMPORT.finditer(text):
        parts = (match[1] or match[2]).split(".")
        if parts[0] == "consensus":
            yield "consensus"
        else:
            yield parts[1] if len(parts) > 1 else ""


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_arrows_between_rooms_point_left(path: Path) -> None:
    room = room_of(path)
    for other in imported_rooms(path.read_text()):
        assert other != "consensus" or room == "consensus", f"{path} imports consensus"
        if room in ROOMS and other not in {room, "errors"}:
            assert other in ROOMS[room], f"{room} must not import {other or 'the package itself'}"


RAFT = sorted((ROOT / "consensus/raft").glob("**/*.py"))
PURE = {"__future__", "bisect", "collections", "dataclasses", "enum", "typing"}


@pytest.mark.parametrize("path", RAFT, ids=lambda p: p.name)
def test_the_raft_core_imports_nothing_that_could_act(path: Path) -> None:
    """No clock, luck, file, socket or thread: values, and of the packages below it only OpId."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None
            names = [node.module]
        for name in names:
            ours = name.startswith("consensus.raft") or name == "kudu_storage.common.opid"
            assert ours or name.split(".")[0] in PURE, f"{path.name} imports {name}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"open", "print", "input", "eval", "exec", "hash", "id", "__import__"}, path.name


CONSENSUS_ROOMS = {"raft": set(), "transport": {"raft"}, "replica": {"raft", "transport"},
                   "server": {"raft", "transport", "replica"}}


@pytest.mark.parametrize("path", [p for p in ROOT.glob("consensus/*/*.py") if p.parent.name in CONSENSUS_ROOMS],
                         ids=lambda p: str(p.relative_to(ROOT)))
def test_arrows_within_consensus_point_left(path: Path) -> None:
    room = path.parent.name
    for name in re.findall(r"^\s*(?:from|import)\s+consensus\.(\w+)", path.read_text(), re.MULTILINE):
        assert name == room or name in CONSENSUS_ROOMS[room], f"{room} must not import {name}"


@pytest.mark.parametrize("path", [p for p in SOURCES if room_of(p) in DISK_ROOMS | {"common", "_native"}],
                         ids=lambda p: str(p.relative_to(ROOT)))
def test_disk_rooms_open_no_sockets(path: Path) -> None:
    # A log's tokens can be awaited; that is all of asyncio that a disk room knows.
    banned = "socket|ssl|http|urllib" if path.name in {"log.py", "log_waiters.py"} else "socket|asyncio|ssl|http|urllib"
    assert not re.search(rf"^\s*(import|from)\s+({banned})\b", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", [p for p in SOURCES if room_of(p) in {"common", "protos"} and p.suffix == ".py"],
                         ids=lambda p: str(p.relative_to(ROOT)))
def test_values_open_no_files(path: Path) -> None:
    calls = [n.func.id for n in ast.walk(ast.parse(path.read_text()))
             if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    assert "open" not in calls


def test_crcmod_is_imported_by_the_slow_twin_alone() -> None:
    users = [p.name for p in SOURCES if re.search(r"^\s*(import|from)\s+crcmod", p.read_text(), re.MULTILINE)]
    assert users == ["format.py"]


def test_the_slow_twin_is_not_imported_at_run_time() -> None:
    assert not [p for p in SOURCES if re.search(r"kudu_storage\.wal(\.format| import format)\b", p.read_text())]


@pytest.mark.parametrize("path", [p for p in SOURCES if p.suffix == ".pyx"], ids=lambda p: p.name)
def test_each_native_module_has_a_stub(path: Path) -> None:
    assert path.with_suffix(".pyi").exists()


@pytest.mark.parametrize("path", [p for p in SOURCES if p.suffix in {".pyx", ".pxd"}], ids=lambda p: p.name)
def test_each_native_function_says_how_it_fails(path: Path) -> None:
    code = re.sub(r"#.*", "", path.read_text())
    for match in re.finditer(FUNCTION, code, re.MULTILINE):
        assert re.match(RETURNS_OBJECT, match[0]) or "except" in match[2], match[0].strip()


@pytest.mark.parametrize("path", [p for p in SOURCES if p.suffix == ".py"], ids=lambda p: str(p.relative_to(ROOT)))
def test_each_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


def test_nothing_generated_is_tracked() -> None:
    assert not [p for p in tracked_files() if p.suffix in {".c", ".so", ".binpb", ".pyc"} and "bench" not in p.parts]


def test_golden_files_stay_small() -> None:
    golden = [p for p in tracked_files() if "golden" in p.parts]
    assert sum(p.stat().st_size for p in golden) < 10 << 20
