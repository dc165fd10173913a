"""`kudu-storage local_replica ...`: look into the replicas of a stopped server. Parses options, prints.

Directories are named by the real tool's flags, or by one DIR after the other arguments. Everything is opened
read-only. Exit codes: 0 nothing wrong, 1 a problem was found, 2 usage.
"""
from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from kudu_storage.cli.flags import FlagCommand, FlagGroup
from kudu_storage.cli.hybrid_time import HybridTime
from kudu_storage.cli.roots import find_roots, with_roots
from kudu_storage.cli.table import FORMATS

if TYPE_CHECKING:
    from kudu_storage.fs.blocks import BlockManager
    from kudu_storage.fs.layout import TabletFiles
    from kudu_storage.fs.superblock import Superblock
    from kudu_storage.tablet.output import Format

_MISSING = "copy the file from another replica, or name its folder with --fs_metadata_dir"


@click.group("local_replica", cls=FlagGroup)
def local_replica() -> None:
    """Look into replicas of a stopped server, through its directories."""


@local_replica.command("list")
@with_roots
@click.option("--list_detail", "--list-detail", is_flag=True, help="With each tablet's metadata.")
def list_replicas(directory: str | None, fs_wal_dir: str, fs_data_dirs: str, fs_metadata_dir: str,
                  list_detail: bool) -> None:
    """Print the ids of the tablet replicas, sorted."""
    roots = find_roots(directory, fs_wal_dir, fs_data_dirs, fs_metadata_dir)
    failed = False
    for files in roots.tablets():
        click.echo(f"Tablet: {files.tablet_id}" if list_detail else files.tablet_id)
        if files.superblock_path is None:
            click.echo(f"{files.tablet_id}: there is no tablet-meta file; the real tool does not list it", err=True)
        elif list_detail:
            failed |= not _try_meta(files)
    sys.exit(1 if failed else 0)


def _try_meta(files: TabletFiles) -> bool:
    """Print one tablet's metadata; what is wrong with it must not hide the others."""
    from kudu_storage.errors import KuduStorageError

    try:
        _print_meta(files, "  ")
    except KuduStorageError as error:
        click.echo(f"{type(error).__name__}: {error}", err=True)
        return False
    return True


def _print_meta(files: TabletFiles, indent: str) -> None:
    from kudu_storage.cli.output import ByteExactOutput
    from kudu_storage.common.cell_text import schema_text
    from kudu_storage.protos.text import debug_string

    found = _superblock_of(files)
    ByteExactOutput().write(
        f"{indent}Partition: {found.partition_schema.describe(found.partition)}\n"
        f"{indent}Table name: {found.table_name} Table id: {found.table_id}\n"
        f"{indent}Schema (version={found.schema_version}): {schema_text(found.schema)}\n"
        f"Superblock:\n{debug_string(found.message)}\n")


@local_replica.command("info")
@click.argument("tablet")
@with_roots
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True,
              help="Form of the output.")
def info(tablet: str, directory: str | None, fs_wal_dir: str, fs_data_dirs: str, fs_metadata_dir: str,
         form: str) -> None:
    """Print a TABLET's rowset layout, who keeps its log since when, and what maintenance would do."""
    import contextlib
    import json
    import time

    from kudu_storage.bootstrap.replica_info import replica_info
    from kudu_storage.cli.output import ByteExactOutput
    from kudu_storage.cli.replica_info import info_json, info_lines
    from kudu_storage.errors import NotFound
    from kudu_storage.fs.blocks import open_block_manager

    roots = find_roots(directory, fs_wal_dir, fs_data_dirs, fs_metadata_dir)
    files = roots.tablet(tablet)
    with contextlib.ExitStack() as stack:
        blocks: BlockManager | None = None
        with contextlib.suppress(NotFound):         # a log alone tells something too
            blocks = open_block_manager(roots.data_roots, read_only=True)
            stack.callback(blocks.close)
        found = replica_info(files, blocks, now=time.time())
    out = ByteExactOutput()
    if form == "json":
        out.write(json.dumps(info_json(found)) + "\n")
    else:
        out.write("".join(f"{line}\n" for line in info_lines(found)))
    sys.exit(1 if found.problems else 0)


@local_replica.group()
def dump() -> None:
    """Print what a replica's files hold, in the text layout of Kudu's own tool."""


@dump.command()
@click.argument("tablet")
@with_roots
def meta(tablet: str, directory: str | None, fs_wal_dir: str, fs_data_dirs: str, fs_metadata_dir: str) -> None:
    """Print partition, schema and superblock of a TABLET."""
    _print_meta(find_roots(directory, fs_wal_dir, fs_data_dirs, fs_metadata_dir).tablet(tablet), "")


@dump.command()
@click.argument("tablet")
@with_roots
@click.option("--print_entries", "--print-entries", default="decoded", show_default=True,
              help="true|decoded, false|no, pb or id, as in Kudu's tool.")
@click.option("--print_meta/--noprint_meta", "--print-meta/--no-print-meta", default=True, show_default=True,
              help="Print each segment's header and footer.")
@click.option("--truncate_data", "--truncate-data", type=click.IntRange(min=0), default=100, show_default=True,
              help="Cut fields to this many bytes (0: never).")
def wals(tablet: str, directory: str | None, fs_wal_dir: str, fs_data_dirs: str, fs_metadata_dir: str,
         print_entries: str, print_meta: bool, truncate_data: int) -> None:
    """Print all segments of a TABLET, one after the other."""
    from kudu_storage.wal.log_dump import dump_log

    files = find_roots(directory, fs_wal_dir, fs_data_dirs, fs_metadata_dir).tablet(tablet)
    folder = files.wal_dir
    if files.recovery_dir is not None:
        other = "it is printed instead" if not folder.is_dir() else "to print it too, use `wal dump` on its segments"
        click.echo(f"{files.recovery_dir}: the old log of an unfinished restart is here; {other}", err=True)
        folder = folder if folder.is_dir() else files.recovery_dir
    problems = dump_log(folder, sys.stdout, print_entries=print_entries, print_meta=print_meta,
                        truncate_data=truncate_data)
    for problem in problems:
        click.echo(str(problem), err=True)
    sys.exit(1 if problems else 0)


@dump.command("block_ids")
@click.argument("tablet")
@with_roots
def block_ids(tablet: str, directory: str | None, fs_wal_dir: str, fs_data_dirs: str, fs_metadata_dir: str) -> None:
    """Print the ids of all data and delta blocks of a TABLET."""
    from kudu_storage.cli.block_lists import block_ids_text
    from kudu_storage.cli.output import ByteExactOutput

    files = find_roots(directory, fs_wal_dir, fs_data_dirs, fs_metadata_dir).tablet(tablet)
    ByteExactOutput().write(block_ids_text(_superblock_of(files)))


@dump.command("rowset", cls=FlagCommand)
@click.argument("tablet")
@with_roots
@click.option("--dump_metadata/--nodump_metadata", "--dump-metadata/--no-dump-metadata", default=True,
              show_default=True, help="Print each rowset's metadata first.")
@click.option("--dump_all_columns/--nodump_all_columns", "--dump-all-columns/--no-dump-all-columns", default=True,
              show_default=True, help="Print all columns and deltas of each row, else only its key.")
@click.option("--dump_primary_key_bounds_only", "--dump-primary-key-bounds-only", is_flag=True,
              help="With --dump_all_columns=false: only the first and the last key.")
@click.option("--use_readable_format", "--use-readable-format", is_flag=True,
              help="With --dump_all_columns=false: keys as text, not as encoded bytes.")
@click.option("--nrows", type=int, default=-1, show_default=True, help="Rows to print; negative: all.")
@click.option("--rowset_index", "--rowset-index", type=int, default=-1, help="Only the rowset with this id.")
def rowset(tablet: str, directory: str | None, fs_wal_dir: str, fs_data_dirs: str, fs_metadata_dir: str,
           dump_metadata: bool, dump_all_columns: bool, dump_primary_key_bounds_only: bool, use_readable_format: bool,
           nrows: int, rowset_index: int) -> None:
    """Print the flushed rowsets of a TABLET: base cells of each row with its UNDO and REDO deltas."""
    from itertools import islice

    from kudu_storage.cli.output import ByteExactOutput
    from kudu_storage.errors import InvalidArgument
    from kudu_storage.fs.blocks import open_block_manager
    from kudu_storage.protos.text import debug_string
    from kudu_storage.tablet.disk_rowset import DiskRowSet
    from kudu_storage.tablet.rowset_dump import key_lines, row_lines

    roots = find_roots(directory, fs_wal_dir, fs_data_dirs, fs_metadata_dir)
    superblock = _superblock_of(roots.tablet(tablet))
    out = ByteExactOutput()
    if not superblock.message.rowsets:
        out.write(f"No rowsets found on disk for tablet {tablet}\n")
        return
    chosen = [r for r in superblock.message.rowsets if rowset_index in (-1, r.id)]
    if not chosen:
        raise InvalidArgument(f"no rowset {rowset_index} in tablet {tablet}",
                              advice="one of " + ", ".join(str(r.id) for r in superblock.rowsets))
    left = sys.maxsize if nrows < 0 else nrows
    with open_block_manager(roots.data_roots, read_only=True) as blocks:
        for message in chosen:
            if rowset_index == -1:
                out.write(f"\nDumping rowset {message.id}\n{'-' * 70}\n")
            if dump_metadata:
                out.write(f"  RowSet metadata: {debug_string(message)}\n\n")
            if left <= 0:
                continue
            opened = DiskRowSet.open(message, blocks, superblock.schema)
            lines = row_lines(opened, superblock.schema) if dump_all_columns else \
                key_lines(opened, superblock.schema, readable=use_readable_format,
                          bounds_only=dump_primary_key_bounds_only)
            # The real tool prints both bounds or none.
            for line in islice(lines, 2 if dump_primary_key_bounds_only and not dump_all_columns else left):
                out.write(line + "\n")
                left -= 1


@local_replica.command("export", cls=FlagCommand)
@click.argument("tablet")
@with_roots
@click.option("--format", "form", type=click.Choice(["parquet", "arrow", "csv", "jsonl"]),
              help="Default: what the name given with --out says, else csv.")
@click.option("--out", type=click.Path(path_type=Path), help="Write to this file instead of standard output.")
@click.option("--at", type=HybridTime(), metavar="TIMESTAMP", help="Only operations with a lower hybrid time.")
@click.option("--columns", default="", metavar="NAMES", help="Comma-separated; default: all.")
def export(tablet: str, directory: str | None, fs_wal_dir: str, fs_data_dirs: str, fs_metadata_dir: str,
           form: str | None, out: Path | None, at: int | None, columns: str) -> None:
    """Write the rows of a TABLET, flushed ones and those of its log, by primary key.

    Nothing is written when a problem was found, unless the rows up to it are whole; see `kudu-storage replay`.
    """
    from kudu_storage.bootstrap.log_replay import replay_files
    from kudu_storage.cli.replay import require_place, write_blocks
    from kudu_storage.fs.blocks import open_block_manager

    require_place(out)
    roots = find_roots(directory, fs_wal_dir, fs_data_dirs, fs_metadata_dir)
    chosen = form or ({".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow", ".jsonl": "jsonl"}.get(
        out.suffix.lower(), "csv") if out is not None else "csv")
    with open_block_manager(roots.data_roots, read_only=True) as blocks:
        result = replay_files(roots.tablet(tablet), at=at, blocks=blocks)
        for problem in result.report.problems:
            click.echo(f"problem: {problem}", err=True)
        if result.tablet is not None:
            names = [name for name in columns.split(",") if name] or None
            schema = result.tablet.schema if names is None else result.tablet.schema.project(names)
            write_blocks(result.tablet.scan(names), schema, cast("Format", chosen), out)
            click.echo(f"{result.report.rows} rows, checksum {result.report.checksum}", err=True)
    sys.exit(1 if result.report.problems else 0)


def _superblock_of(files: TabletFiles) -> Superblock:
    from kudu_storage.errors import NotFound
    from kudu_storage.fs.superblock import read_superblock

    if files.superblock_path is None:
        raise NotFound(f"no tablet-meta file of tablet {files.tablet_id}", path=str(files.wal_dir), advice=_MISSING)
    return read_superblock(files.superblock_path)


@click.command("data_size")
@click.argument("tablet_id_pattern")
@with_roots
@click.option("--format", "form", type=click.Choice(FORMATS), default="pretty", show_default=True,
              help="Form of the table.")
def data_size(tablet_id_pattern: str, directory: str | None, fs_wal_dir: str, fs_data_dirs: str, fs_metadata_dir: str,
              form: str) -> None:
    """Sum up the blocks of the replicas that match a pattern (* and ?)."""
    from kudu_storage.cli.block_lists import SIZE_HEADERS, size_rows
    from kudu_storage.cli.output import ByteExactOutput
    from kudu_storage.cli.table import table_text
    from kudu_storage.fs.blocks import open_block_manager

    roots = find_roots(directory, fs_wal_dir, fs_data_dirs, fs_metadata_dir)
    with open_block_manager(roots.data_roots, read_only=True) as manager:
        rows = size_rows(roots, tablet_id_pattern, manager.live_blocks())
    ByteExactOutput().write(table_text(SIZE_HEADERS, rows, form))


# The real tool has it in the first place; beside the other summaries people look for it in the second.
local_replica.add_command(data_size)
dump.add_command(data_size)


@local_replica.group()
def cmeta() -> None:
    """Look into a replica's consensus metadata."""


@cmeta.command("print_replica_uuids")
@click.argument("tablets", metavar="TABLET[,TABLET...]")
@with_roots
def print_replica_uuids(tablets: str, directory: str | None, fs_wal_dir: str, fs_data_dirs: str,
                        fs_metadata_dir: str) -> None:
    """Print the uuids of all peers in the committed configuration of each TABLET."""
    from kudu_storage.errors import NotFound
    from kudu_storage.fs.consensus_metadata import read_consensus_metadata

    wanted = [tablet for tablet in tablets.split(",") if tablet]
    if not wanted:
        raise click.UsageError("no tablet was named")
    roots = find_roots(directory, fs_wal_dir, fs_data_dirs, fs_metadata_dir)
    for tablet in wanted:
        files = roots.tablet(tablet)
        if files.cmeta_path is None:
            raise NotFound(f"no consensus-meta file of tablet {tablet}", path=str(files.wal_dir), advice=_MISSING)
        peers = read_consensus_metadata(files.cmeta_path).peers
        click.echo(f"tablet: {tablet}, peers: {' '.join(peer.uuid for peer in peers)}")
