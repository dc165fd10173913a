"""Replicas with flushed stores, logs collected behind them and schemas changed over them, beside the repository."""
from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import truth
from fixtures import fixtures_root

from kudu_storage.bootstrap.log_replay import replay


def cases() -> list[Any]:
    root = fixtures_root()
    manifest = root / "kudu-fixtures" / "manifest.json" if root is not None else None
    if manifest is None or not manifest.exists():
        return [pytest.param({}, manifest, marks=pytest.mark.skip(reason="no stored replicas"))]
    return [pytest.param(case, manifest.parent, id=case["case"])
            for case in json.loads(manifest.read_text(encoding="utf-8"))["cases"] if case.get("data_dirs_kept")]


@pytest.mark.parametrize(("case", "folder"), cases())
def test_rows_and_checksums_are_those_of_the_server(case: dict[str, Any], folder: Path) -> None:
    found: dict[str, list[str]] = defaultdict(list)
    floats: dict[str, set[str]] = {}
    for facts in case["replicas"]:
        root = folder / case["case"] / facts["server"]
        result = replay(root, facts["tablet"], data_dirs=[root])
        assert result.report.problems == [] and result.tablet is not None
        assert result.report.checksum == facts["ksck_checksum"]
        floats[facts["table"]] = truth.float_columns(result.tablet)
        found[facts["table"]] += truth.comparable(truth.json_rows(result.tablet), floats[facts["table"]])
    for table in case["tables"]:
        told = truth.truth_rows(folder / table["rows_file"])
        assert sorted(found[table["name"]]) == sorted(truth.comparable(told, floats[table["name"]]))
