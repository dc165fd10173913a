"""A table of people for a tablet of ours and a real server that take turns on one folder."""
from __future__ import annotations

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import oracle

import kudu_storage.client as kudu_client
from kudu_storage import Tablet
from kudu_storage.errors import RowErrors


def people() -> kudu_client.Schema:
    builder = kudu_client.schema_builder()
    builder.add_column("k", kudu_client.int32, nullable=False)
    builder.add_column("v", kudu_client.string)
    builder.add_column("n", kudu_client.int64, nullable=False, default=5)
    builder.add_column("once", kudu_client.int8, immutable=True)
    return builder.set_primary_keys(["k"]).build()


def write_some(tablet: Tablet, model: dict[int, tuple[str | None, int, int | None]], seed: int) -> None:
    """Random operations in several flushes, refused ones among them; noted in the model by the rules of each verb."""
    rng = random.Random(seed)
    session = tablet.new_session()
    for _ in range(12):
        for _ in range(rng.randrange(1, 40)):
            key, text = rng.randrange(-60, 60), rng.choice([None, "", "x", "é" * 9])
            number = rng.randrange(-2**40, 2**40)
            verb = rng.choice(["insert", "upsert", "update", "delete", "insert_ignore", "update_ignore",
                               "delete_ignore"])
            there = key in model
            if verb.startswith("delete"):
                session.apply(getattr(session, f"new_{verb}")({"k": key}))
                model.pop(key, None)
                continue
            once = {"once": 1} if verb == "insert" else {}
            session.apply(getattr(session, f"new_{verb}")({"k": key, "v": text, "n": number, **once}))
            if verb == "upsert" or (verb.startswith("insert") and not there) or (verb.startswith("update") and there):
                model[key] = (text, number, model[key][2] if there else once.get("once"))
        try:
            session.flush()
        except RowErrors as errors:
            assert errors.count > 0


def ours(tablet: Tablet) -> dict[int, tuple[str | None, int, int | None]]:
    return {k: (v, n, once) for k, v, n, once in tablet.scanner().open().read_all_tuples()}


def theirs(lines: list[str]) -> dict[int, tuple[str | None, int, int | None]]:
    """What `kudu remote_replica dump` prints."""
    found = {}
    for line in lines:
        matched = re.fullmatch(r'\(int32 k=(-?\d+), string v=(NULL|"(.*)"), int64 n=(-?\d+), '
                               r'int8 once=(NULL|-?\d+)\)', line)
        assert matched is not None, line
        text = None if matched[2] == "NULL" else matched[3].encode().decode("unicode_escape").encode("latin-1").decode()
        found[int(matched[1])] = (text, int(matched[4]), None if matched[5] == "NULL" else int(matched[5]))
    return found


@contextmanager
def running(kudu: oracle.KuduBinaries, folder: Path) -> Iterator[oracle.ReplicaServer]:
    """A tablet server on folder/fs itself, without a master."""
    server = oracle.Server(kudu, "kudu-tserver", folder, ["--tserver_master_addrs=127.0.0.1:1",
                                                          "--enable_maintenance_manager=false"])
    try:
        server.start()
        yield oracle.ReplicaServer(kudu, server)
    finally:
        server.stop()
