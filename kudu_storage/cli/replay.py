"""`kudu-storage replay`: rebuild rows from log segments. Parses options and prints; the work is in bootstrap/."""
from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from kudu_storage.bootstrap.log_replay import Replay, replay_files
from kudu_storage.cli.flags import FlagCommand
from kudu_storage.cli.hybrid_time import HybridTime
from kudu_storage.cli.progress import ProgressLine
from kudu_storage.errors import InvalidArgument, KuduStorageError, NotFound
from kudu_storage.fs.layout import TabletFiles, find_tablets
from kudu_storage.fs.superblock import read_superblock

if TYPE_CHECKING:
    from kudu_storage._native.column_block import ColumnBlock
    from kudu_storage.common.schema import Schema
    from kudu_storage.fs.blocks import BlockManager
    from kudu_storage.tablet.output import Format

FORMATS = ("jsonl", "csv", "arrow", "parquet")
_SUFFIXES = {f".{name}": name for name in FORMATS} | {".json": "jsonl", ".feather": "arrow"}


@click.command(cls=FlagCommand)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("tablet", required=False)
@click.option("--at", type=HybridTime(), metavar="TIMESTAMP", help="Show only operations with a lower hybrid time.")
@click.option("--fs_data_dirs", "--fs-data-dirs", default="", metavar="DIRS",
              help="Roots of data blocks, comma-separated: read the flushed rows too.")
@click.option("--fs_metadata_dir", "--fs-metadata-dir", default="", metavar="DIR",
              help="Root of consensus-meta and tablet-meta, if it is not DIR.")
@click.option("--include-pending", "--include_pending", is_flag=True,
              help="Apply operations without a COMMIT too, as a server would once they commit.")
@click.option("--format", "row_format", type=click.Choice(FORMATS), help="Write rows in this format.")
@click.option("--out", type=click.Path(path_type=Path), help="Write rows to this file instead of standard output.")
@click.option("--report", type=click.Choice(["json", "text"]), help="Form of the report. Default: text.")
@click.option("--rebuild", "rebuild_out", type=click.Path(path_type=Path), metavar="OUT",
              help="Write whole replicas again, into this folder, that a server starts.")
@click.option("--uuid", metavar="UUID", help="With --rebuild: of the replicas' server, where no instance file tells.")
@click.option("--quiet", is_flag=True, help="No progress.")
def replay(directory: Path, tablet: str | None, at: int | None, fs_data_dirs: str, fs_metadata_dir: str,
           include_pending: bool, row_format: str | None, out: Path | None, report: str | None,
           rebuild_out: Path | None, uuid: str | None, quiet: bool) -> None:
    """Rebuild the rows of one or all tablets under DIR.

    DIR is a server's WAL root, a folder holding wals/, consensus-meta/ and tablet-meta/, or one tablet's segments. Rows
    are those that the log segments alone prove; with --fs_data_dirs, those of the whole replica: flushed rows, their
    deltas and the log. Everything is opened read-only. Exit code 1 when a problem was found.

    With --rebuild, each replica whose history is complete is written anew below OUT: rowsets, superblock, consensus
    metadata and a log that begins where the old one ends. One that is not complete is refused, and what is missing is
    said.
    """
    if uuid is not None and rebuild_out is None:
        raise click.UsageError("--uuid goes with --rebuild")
    if rebuild_out is not None and (at is not None or include_pending):
        raise click.UsageError("--rebuild writes all of a replica: neither --at nor --include-pending goes with it")
    if row_format is None and out is not None:
        row_format = _SUFFIXES.get(out.suffix.lower(), "jsonl")
    require_place(out)
    to_stdout = row_format is not None and out is None
    if to_stdout and report == "json":
        raise click.UsageError("rows and the report would both go to standard output: give --out FILE for the rows")
    tablets = _tablets(directory, tablet, fs_data_dirs, fs_metadata_dir)
    if row_format is not None:
        _one_table(tablets)
    blocks = _blocks(fs_data_dirs)
    results = []
    for files in tablets:
        line = ProgressLine(files.tablet_id, quiet=quiet)
        try:
            result = replay_files(files, at=at, include_pending=include_pending, progress=line, blocks=blocks)
        finally:
            line.close()
        _print_report(result, report or "text", err=to_stdout)
        if row_format is None:
            result.tablet = None        # let its memory go before the next tablet
        if rebuild_out is not None:
            _rebuild(result, files, rebuild_out, blocks, uuid, err=to_stdout or report == "json")
        results.append(result)
    if row_format is not None:
        _write(results, cast("Format", row_format), out)
    sys.exit(1 if any(r.report.problems for r in results) else 0)


def _blocks(fs_data_dirs: str) -> BlockManager | None:
    if not fs_data_dirs:
        return None
    from kudu_storage.fs.blocks import open_block_manager

    return open_block_manager([root for root in fs_data_dirs.split(",") if root], read_only=True)


def _metadata_dir(directory: Path, fs_data_dirs: str, fs_metadata_dir: str) -> Path | None:
    """Where the server had it, which may have been the first data root."""
    if fs_data_dirs or fs_metadata_dir:
        from kudu_storage.fs.roots import server_roots

        root = server_roots(directory, fs_data_dirs, fs_metadata_dir).metadata_root
        return None if root == Path(os.path.abspath(directory)) else root
    return None


def _tablets(directory: Path, tablet: str | None, fs_data_dirs: str, fs_metadata_dir: str) -> list[TabletFiles]:
    found = find_tablets(directory, metadata_dir=_metadata_dir(directory, fs_data_dirs, fs_metadata_dir))
    if tablet is not None:
        chosen = [f for f in found if f.tablet_id == tablet]
        if not chosen:
            raise NotFound(f"no tablet {tablet} there", path=str(directory),
                           advice="one of " + ", ".join(f.tablet_id for f in found[:20]) if found else None)
        return chosen
    if not found:
        raise NotFound("no tablet's files there", path=str(directory),
                       advice="the folder that holds wals/, or one tablet's folder of wal-* files")
    return found


def _one_table(tablets: list[TabletFiles]) -> None:
    """Rows of several tables do not go into one file."""
    tables: dict[str, str] = {}
    for files in tablets:
        if files.superblock_path is None:
            continue
        try:
            superblock = read_superblock(files.superblock_path)
        except KuduStorageError:
            continue
        tables[superblock.table_id] = superblock.table_name
    if len(tables) > 1:
        raise InvalidArgument(f"these are tablets of {len(tables)} tables: {', '.join(sorted(tables.values()))}",
                              advice="name one TABLET, so that the rows of one table go into one file")


def _print_report(result: Replay, form: str, *, err: bool) -> None:
    text = json.dumps(result.report.to_json()) if form == "json" else result.report.to_text()
    click.echo(text, err=err)


def _rebuild(result: Replay, files: TabletFiles, out: Path, blocks: BlockManager | None, uuid: str | None, *,
             err: bool) -> None:
    """Problems that are in the report refuse it; what only writing finds is raised."""
    from kudu_storage.bootstrap.rebuild import rebuild_checked

    found = [problem for problem in result.report.problems if problem.kind != "torn_tail"]
    if found:
        click.echo(f"  not rebuilt: {found[0]}", err=err)
        return
    done = rebuild_checked(files, out, (result.report.rows, result.report.checksum), blocks=blocks, uuid=uuid)
    after = f" and {done.pending} pending operations" if done.pending else ""
    click.echo(f"  rebuilt in {done.path} (server {done.server_uuid}): {done.rowsets} rowsets, {done.bytes} bytes; its "
               f"log begins with operation {done.first}{after}; rows and checksum are the same", err=err)


def _write(results: list[Replay], row_format: Format, out: Path | None) -> None:
    from kudu_storage.tablet.replayed import merged_scan

    tablets = [r.tablet for r in results if r.tablet is not None]
    if not tablets:
        return
    schema, blocks = merged_scan(tablets)
    write_blocks(blocks, schema, row_format, out)


def require_place(out: Path | None) -> None:
    """Told now, not after the replay."""
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise click.BadParameter(f"{out} is a folder, or in none that exists", param_hint="--out")


def write_blocks(blocks: Iterator[ColumnBlock], schema: Schema, row_format: Format, out: Path | None) -> None:
    """Rows to a file, a pipe, or (None) standard output."""
    from kudu_storage.tablet.output import write_rows

    if out is None:
        write_rows(blocks, schema, row_format, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return
    if out.exists() and not out.is_file():      # a pipe or a device
        with open(out, "wb") as stream:
            write_rows(blocks, schema, row_format, stream)
        return
    # A file under its name is whole: what a crash or a full disk leaves is a temporary one.
    temporary = out.with_name(out.name + ".tmp")
    try:
        with open(temporary, "wb") as stream:
            write_rows(blocks, schema, row_format, stream)
        temporary.replace(out)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
