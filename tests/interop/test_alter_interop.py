"""Schema changes of ours, as the real server sees them: in the log, in the superblock, in files of several layouts."""
from __future__ import annotations

import random
from pathlib import Path

import altering_model
import oracle
import pytest
from altering_model import AlteringModel
from taking_turns import running

from kudu_storage import Tablet
from kudu_storage.bootstrap import replay

pytestmark = pytest.mark.interop
OPTIONS = {"durability": "os", "maintenance": "manual", "rowset_size": 2000}


def live(tablet: Tablet, model: AlteringModel, rng: random.Random) -> None:
    """Rows of several schemas in the log, in memory, in base data and in deltas."""
    for _ in range(8):
        altering_model.write_some(tablet, model, rng)
        if rng.random() < 0.5:
            altering_model.alter(tablet, model, rng)
        altering_model.write_some(tablet, model, rng)
        if rng.random() < 0.4:
            tablet.flush()
        if rng.random() < 0.2:
            tablet.compact()


@pytest.mark.parametrize("seed", range(4))
def test_a_real_server_serves_the_rows_of_an_altered_tablet(seed: int, kudu: oracle.KuduBinaries,
                                                            tmp_path: Path) -> None:
    root, rng, model = tmp_path / "ours" / "fs", random.Random(seed), AlteringModel()
    with Tablet.create(root, model.schema(), **OPTIONS) as tablet:
        live(tablet, model, rng)
        checksum = tablet.checksum()
    with oracle.cluster_on_replica(kudu, root, tmp_path / "c") as cluster:
        assert list(cluster.checksums().values()) == [checksum]


def test_what_a_real_server_left_of_an_altered_tablet_is_altered_on(kudu: oracle.KuduBinaries, tmp_path: Path) -> None:
    root, rng, model = tmp_path / "fs", random.Random(11), AlteringModel()
    with Tablet.create(root, model.schema(), **OPTIONS) as tablet:
        live(tablet, model, rng)
        tablet_id, version = tablet.tablet_id, tablet._store.view.schema_version
    with running(kudu, tmp_path) as server:
        log = server.bootstrap(tablet_id)
        assert log.complete, log.failure
    model.snapshots.clear()
    with Tablet.open(root, **OPTIONS) as tablet:
        assert tablet._store.view.schema_version == version
        altering_model.check_all(tablet, model)
        live(tablet, model, rng)
        altering_model.check_all(tablet, model)
        checksum = tablet.checksum()
    result = replay(root, data_dirs=[root])
    assert not result.report.problems
    assert (result.report.rows, result.report.checksum) == (len(model.rows), checksum)
