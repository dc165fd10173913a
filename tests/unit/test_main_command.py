"""The command as a process: what it imports, what it prints, which code it exits with."""
from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import click
import pytest
from containers import CMETA, REPLAY, one_file

from kudu_storage import __version__
from kudu_storage._native import crc32c, lz4
from kudu_storage.cli.main import COMMANDS

HEAVY = ("google", "pyarrow", "pandas", "polars", "numpy", "asyncio", "ssl", "lz4", "cramjam", "crcmod",
         "kudu_storage._native", "kudu_storage.protos", "kudu_storage.fs", "kudu_storage.wal", "kudu_storage.bootstrap")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kudu_storage", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def modules_after(code: str) -> set[str]:
    """What is in sys.modules when a new process has run `code`."""
    ending = "\nimport sys\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code + ending], capture_output=True, text=True, check=True)
    return set(done.stderr.split("\n"))


def heavy(modules: set[str]) -> set[str]:
    return {m for m in modules if any(m == name or m.startswith(name + ".") for name in HEAVY)}


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert heavy(modules_after("import kudu_storage, consensus")) == set()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["-h"]])
def test_help_imports_nothing_heavy_and_no_command(arguments: list[str]) -> None:
    loaded = modules_after(f"""
from kudu_storage.cli.main import main
try: main({arguments!r})
except SystemExit as end: assert end.code == 0""")
    assert "kudu_storage.cli.main" in loaded
    assert heavy(loaded) == set()
    assert not loaded & {module for module, _, _ in COMMANDS.values()}


@pytest.mark.parametrize("command", ["info", "local_replica", "pbc", "wal"])
def test_help_of_one_command_imports_that_one_alone(command: str) -> None:
    loaded = modules_after(f"""
from kudu_storage.cli.main import main
try: main([{command!r}, '--help'])
except SystemExit as end: assert end.code == 0""")
    assert loaded & {module for module, _, _ in COMMANDS.values()} == {COMMANDS[command][0]}
    assert heavy(loaded) == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_in_the_table_is_there(name: str) -> None:
    module, attribute, text = COMMANDS[name]
    found = getattr(importlib.import_module(module), attribute)
    assert isinstance(found, click.Command) and found.name == name
    assert text in run("--help").stdout


def test_exit_codes_are_0_when_well_1_for_a_problem_2_for_usage(tmp_path: Path) -> None:
    good = one_file(CMETA, "s01")
    bad = next((REPLAY / "damaged" / "cmeta_data_bit_flip" / CMETA).iterdir())
    assert run("pbc", "dump", str(good)).returncode == 0
    failed = run("pbc", "dump", "-oneline", str(bad))
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith(f"BadChecksum: {bad} offset ") and "; try: " in failed.stderr
    for usage in (["pbc", "dump", str(tmp_path / "nowhere")], ["nonsense"], ["pbc", "dump", "--nonsense", str(good)],
                  ["local_replica", "list"], ["local_replica", "list", str(tmp_path)]):
        done = run(*usage)
        assert done.returncode == 2 and done.stderr, usage
        assert "Traceback" not in done.stderr


def test_kudus_flag_spelling_is_accepted() -> None:
    path = str(one_file(CMETA, "s01"))
    assert run("pbc", "dump", "-json_pretty", path).stdout == run("pbc", "dump", path, "--json-pretty").stdout != ""


def test_output_does_not_depend_on_the_locale() -> None:
    path = str(one_file("tablet-meta", "s01"))
    outputs = {subprocess.run([sys.executable, "-m", "kudu_storage", "pbc", "dump", "-json", path], check=True,
                              capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding}).stdout
               for encoding in ("utf-8", "ascii", "latin-1")}
    assert len(outputs) == 1


# -- info --------------------------------------------------------------------------------------------------------------
def test_info_as_json_names_version_build_engines_and_packages() -> None:
    found = json.loads(run("info", "--format", "json").stdout)
    assert found["version"] == __version__
    assert found["crc32c_engine"] == crc32c.engine() and found["crc32c_engine"] in crc32c.engines()
    assert found["lz4_engine"] == lz4.engine()
    assert found["build"]["compiler"].split()[0] in ("gcc", "clang", "unknown")
    assert found["build"]["cython"].count(".") == 2 and isinstance(found["build"]["debug"], bool)
    assert found["python"].endswith(".".join(map(str, sys.version_info[:3])))
    assert found["packages"]["protobuf"] == metadata.version("protobuf")
    assert set(found["optional_packages"]) >= {"pyarrow", "pandas", "polars", "rich"}


def test_info_as_text_has_a_line_for_each_fact() -> None:
    lines = run("info").stdout.splitlines()
    assert lines[0].split() == ["version:", __version__]
    assert [line.split(":")[0] for line in lines] == [name.replace("_", " ") for name in json.loads(
        run("info", "-format=json").stdout)]


def test_info_does_not_import_the_optional_packages() -> None:
    loaded = modules_after("from click.testing import CliRunner\nfrom kudu_storage.cli.info import info\n"
                           "assert CliRunner().invoke(info).exit_code == 0")
    assert not loaded & {"pyarrow", "pandas", "polars", "numpy", "rich"}
