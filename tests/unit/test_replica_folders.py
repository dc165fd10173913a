"""Folders of replicas, made while others make the same."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from consensus.replica.metadata import make_folder
from kudu_storage._native.disk import Disk
from kudu_storage.errors import DiskError


class Overtaken(Disk):
    """Somebody else makes each folder just before, or (`as_file`) a file of that name."""

    as_file = False

    def make_dir(self, path: str) -> None:
        if self.as_file:
            Path(path).touch()
        else:
            os.mkdir(path)
        super().make_dir(path)


def test_a_folder_that_another_replica_made_meanwhile_will_do(tmp_path: Path) -> None:
    make_folder(str(tmp_path / "data" / "a" / "wals"), Overtaken())
    assert (tmp_path / "data" / "a" / "wals").is_dir()


def test_a_file_of_that_name_will_not(tmp_path: Path) -> None:
    disk = Overtaken()
    disk.as_file = True
    with pytest.raises(DiskError, match="File exists"):
        make_folder(str(tmp_path / "data"), disk)
