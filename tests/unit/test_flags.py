from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from kudu_storage.cli.flags import FlagCommand, to_gnu_spelling


@pytest.mark.parametrize(("given", "meant"), [
    (["-print_entries=pb"], ["--print_entries=pb"]),
    (["-json", "file"], ["--json", "file"]),
    (["--json", "--at=3"], ["--json", "--at=3"]),
    (["-fs_wal_dir=/a-b/c=d"], ["--fs_wal_dir=/a-b/c=d"]),
    (["-truncate_data=0\n"], ["--truncate_data=0\n"]),
], ids=["value", "switch", "two dashes", "value with signs", "newline"])
def test_kudus_spelling_means_the_same_as_two_dashes(given: list[str], meant: list[str]) -> None:
    assert to_gnu_spelling(given) == meant


@pytest.mark.parametrize("argument", ["-h", "-", "-1", "-12345", "file-name", "", "-9=x", "--"])
def test_short_options_numbers_and_names_stay(argument: str) -> None:
    assert to_gnu_spelling([argument]) == [argument]


def test_nothing_behind_two_dashes_is_changed() -> None:
    assert to_gnu_spelling(["-json", "--", "-json", "-x=1"]) == ["--json", "--", "-json", "-x=1"]


def test_the_argument_list_itself_is_left_alone() -> None:
    given = ["-json"]
    to_gnu_spelling(given)
    assert given == ["-json"]


@click.command(cls=FlagCommand)
@click.argument("files", nargs=-1)
@click.option("--json", is_flag=True)
@click.option("--meta/--nometa", default=True)
@click.option("--note")
def _shown(files: tuple[str, ...], json: bool, meta: bool, note: str | None) -> None:
    click.echo(f"{files} {json} {meta} {note}")


@pytest.mark.parametrize(("given", "meant"), [
    ("-json=true f", "('f',) True True None"), ("--json=1 f", "('f',) True True None"),
    ("--json f", "('f',) True True None"), ("-json=false f", "('f',) False True None"),
    ("-nojson f", "('f',) False True None"), ("-meta f", "('f',) False True None"),
    ("-meta=false f", "('f',) False False None"), ("--nometa f", "('f',) False False None"),
    ("-meta=T f", "('f',) False True None"), ("-note=x=y f", "('f',) False True x=y"),
    ("-- --json=true", "('--json=true',) False True None"),
])
def test_switches_take_values_as_kudus_do(given: str, meant: str) -> None:
    result = CliRunner().invoke(_shown, to_gnu_spelling(given.split()))
    assert (result.exit_code, result.output) == (0, meant + "\n")


@pytest.mark.parametrize("given", ["--json=perhaps", "--nonote", "--nothing", "--meta="])
def test_what_is_no_truth_and_no_switch_is_a_usage_error(given: str) -> None:
    assert CliRunner().invoke(_shown, [given]).exit_code == 2
