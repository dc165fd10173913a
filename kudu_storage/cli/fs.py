"""`kudu-storage fs ...`: a server's file system as a whole. Parses options, prints; the work is in kudu_storage.fs.

`format` and `check --repair` write; all else opens read-only, also beside a running server. Exit codes: 0 good,
1 a fatal problem was found, 2 usage.
"""
from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from kudu_storage.cli.flags import FlagCommand, FlagGroup
from kudu_storage.cli.roots import find_roots, with_roots
from kudu_storage.cli.table import FORMATS

_CHUNK_BYTES = 1 << 20


@click.group("fs", cls=FlagGroup)
def fs() -> None:
    """A server's directories: lay them out, check them, list and print what is in them."""


@fs.command("format")
@with_roots
@click.option("--uuid", help="The server's uuid. Default: a new one.")
@click.option("--block_manager", "--block-manager", type=click.Choice(["log", "file"]), default="log",
              show_default=True, help="How blocks are kept.")
def format_(directory: str | None, fs_wal_dir: str, fs_data_dirs: str, fs_metadata_dir: str, uuid: str | None,
            block_manager: str) -> None:
    """Lay out a new file system in empty folders; those that are missing are made."""
    from kudu_storage.fs.file_system import format_file_system

    roots = find_roots(directory, fs_wal_dir, fs_data_dirs, fs_metadata_dir)
    format_file_system(roots, uuid=uuid, block_manager=block_manager)


@fs.command()
@with_roots
@click.option("--repair", is_flag=True, help="Remove left-over blocks and what crashes left. Stop the server first.")
@click.option("--block_manager", "--block-manager", default="", metavar="KIND",
              help="Accepted for the real tool's sake: the directories say it themselves.")
def check(directory: str | None, fs_wal_dir: str, fs_data_dirs: str, fs_metadata_dir: str, repair: bool,
          block_manager: str) -> None:
    """Look for missing, left-over and malformed blocks, and for what crashes left."""
    from kudu_storage.cli.output import ByteExactOutput
    from kudu_storage.fs.file_system import check_file_system

    roots = find_roots(directory, fs_wal_dir, fs_data_dirs, fs_metadata_dir)
    report = check_file_system(roots, repair=repair)
    ByteExactOutput().write(report.text())
    report.raise_if_fatal()


@fs.command("list")
@with_roots
@click.option("--columns", default="tablet-id, rowset-id, block-id, block-kind", show_default=True,
              help="Fields: table, table-id, tablet-id, partition, rowset-id, block-id, block-kind, column, column-id.")
@click.option("--table_name", "--table-name", default="", help="Only the table with this name.")
@click.option("--table_id", "--table-id", default="", help="Only this table.")
@click.option("--tablet_id", "--tablet-id", default="", help="Only this tablet.")
@click.option("--rowset_id", "--rowset-id", type=int, default=-1, help="Only this rowset.")
@click.option("--column_id", "--column-id", type=int, default=-1, help="Only blocks of this column.")
@click.option("--block_id", "--block-id", type=int, default=0, help="Only this block.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="pretty", show_default=True,
              help="Form of the table.")
@click.option("--block_manager", "--block-manager", default="", metavar="KIND",
              help="Accepted for the real tool's sake: the directories say it themselves.")
def list_(directory: str | None, fs_wal_dir: str, fs_data_dirs: str, fs_metadata_dir: str, columns: str,
          table_name: str, table_id: str, tablet_id: str, rowset_id: int, column_id: int, block_id: int, form: str,
          block_manager: str) -> None:
    """List tablets, rowsets and blocks."""
    from kudu_storage.cli.block_lists import ListFilter, list_rows, parse_fields
    from kudu_storage.cli.output import ByteExactOutput
    from kudu_storage.cli.table import table_text

    fields = parse_fields(columns)
    roots = find_roots(directory, fs_wal_dir, fs_data_dirs, fs_metadata_dir)
    rows = list_rows(roots, fields, ListFilter(table_name, table_id, tablet_id, rowset_id, column_id, block_id))
    ByteExactOutput().write(table_text(fields, rows, form))


# -- dump --------------------------------------------------------------------------------------------------------------
@fs.group("dump")
def dump() -> None:
    """Print parts of a file system."""


@dump.command("uuid")
@with_roots
def dump_uuid(directory: str | None, fs_wal_dir: str, fs_data_dirs: str, fs_metadata_dir: str) -> None:
    """Print the server's uuid."""
    from kudu_storage.fs.file_system import server_instance

    click.echo(server_instance(find_roots(directory, fs_wal_dir, fs_data_dirs, fs_metadata_dir)).uuid)


@dump.command("tree")
@with_roots
def dump_tree(directory: str | None, fs_wal_dir: str, fs_data_dirs: str, fs_metadata_dir: str) -> None:
    """Print the folders and files below all roots, sorted."""
    from kudu_storage.cli.output import ByteExactOutput
    from kudu_storage.fs.file_system import all_roots

    out = ByteExactOutput()
    for root in all_roots(find_roots(directory, fs_wal_dir, fs_data_dirs, fs_metadata_dir)):
        out.write(f"File-System Root: {root}\n")
        _print_tree(out, "|-", root)


def _print_tree(out: Any, prefix: str, folder: Path) -> None:
    for name in sorted(os.listdir(folder)):
        if (folder / name).is_dir():
            out.write(f"{prefix}{name}/\n")
            _print_tree(out, prefix + "---", folder / name)
        else:
            out.write(f"{prefix}{name}\n")


@dump.command("cfile", cls=FlagCommand)
@click.argument("block_id", type=click.IntRange(min=0, max=2**64 - 1))
@with_roots
@click.option("--print_meta/--noprint_meta", "--print-meta/--no-print-meta", default=True, show_default=True,
              help="Print header and footer.")
@click.option("--print_rows/--noprint_rows", "--print-rows/--no-print-rows", default=True, show_default=True,
              help="Print each value.")
@click.option("--block_manager", "--block-manager", default="", metavar="KIND",
              help="Accepted for the real tool's sake: the directories say it themselves.")
def dump_cfile(block_id: int, directory: str | None, fs_wal_dir: str, fs_data_dirs: str, fs_metadata_dir: str,
               print_meta: bool, print_rows: bool, block_manager: str) -> None:
    """Print a column file: header, footer and values."""
    from kudu_storage.cfile.block_source import BlockSource, open_column_file
    from kudu_storage.cfile.dump import header_and_footer, value_texts
    from kudu_storage.cli.output import ByteExactOutput
    from kudu_storage.fs.blocks import open_block_manager
    from kudu_storage.protos.text import debug_string

    roots = find_roots(directory, fs_wal_dir, fs_data_dirs, fs_metadata_dir)
    out = ByteExactOutput()
    with open_block_manager(roots.data_roots, read_only=True) as manager, manager.open_block(block_id) as block:
        reader = open_column_file(BlockSource(block.fd, block.offset, block.length, block.path, block))
        if print_meta:
            header, footer = header_and_footer(block.read, block.length)
            out.write(f"Header:\n{debug_string(header)}\nFooter:\n{debug_string(footer)}\n")
        for text in value_texts(reader) if print_rows else ():
            out.write(text + "\n")


@dump.command("block")
@click.argument("block_id", type=click.IntRange(min=0, max=2**64 - 1))
@with_roots
@click.option("--block_manager", "--block-manager", default="", metavar="KIND",
              help="Accepted for the real tool's sake: the directories say it themselves.")
def dump_block(block_id: int, directory: str | None, fs_wal_dir: str, fs_data_dirs: str, fs_metadata_dir: str,
               block_manager: str) -> None:
    """Print a block's bytes as they are."""
    from kudu_storage.fs.blocks import open_block_manager

    roots = find_roots(directory, fs_wal_dir, fs_data_dirs, fs_metadata_dir)
    with open_block_manager(roots.data_roots, read_only=True) as manager, manager.open_block(block_id) as block:
        sys.stdout.flush()
        for offset in range(0, block.length, _CHUNK_BYTES):
            sys.stdout.buffer.write(block.read(offset, min(_CHUNK_BYTES, block.length - offset)))
        sys.stdout.buffer.flush()
