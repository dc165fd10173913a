from __future__ import annotations

import pytest

from kudu_storage.cli.flags import to_gnu_spelling


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
