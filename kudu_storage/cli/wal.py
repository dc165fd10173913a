"""`kudu-storage wal ...`: look into write-ahead log segments. Parses options, calls kudu_storage.wal, prints.

Exit codes: 0 nothing wrong, 1 a problem was found, 2 usage. Everything but `repair` only reads.
"""
from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

import click

from kudu_storage.cli.flags import FlagGroup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kudu_storage.wal.report import SegmentReport
    from kudu_storage.wal.tail import NewBatches

_EXISTING = click.Path(exists=True)
_FOLDER = click.Path(exists=True, file_okay=False)
_FILE = click.Path(exists=True, dir_okay=False)
_REPORT = click.option("--report", type=click.Choice(["text", "json"]), default="text", show_default=True,
                       help="Form of the result on standard output.")


@click.group(cls=FlagGroup)
def wal() -> None:
    """Look into write-ahead log segments. A DIR is one tablet's segment folder."""


@wal.command()
@click.argument("path", type=_FILE)
@click.option("--print_entries", "--print-entries", default="decoded", show_default=True,
              help="true|decoded, false|no, pb or id, as in Kudu's tool.")
@click.option("--print_meta/--noprint_meta", "--print-meta/--no-print-meta", default=True, show_default=True,
              help="Print the segment's header and footer.")
@click.option("--truncate_data", "--truncate-data", type=click.IntRange(min=0), default=100, show_default=True,
              help="Cut fields to this many bytes (0: never).")
def dump(path: str, print_entries: str, print_meta: bool, truncate_data: int) -> None:
    """Print one segment FILE in the text layout of Kudu's own tool."""
    from kudu_storage.wal.dump import dump_segment

    dump_segment(path, sys.stdout, print_entries=print_entries, print_meta=print_meta,
                 truncate_data=truncate_data)


@wal.command()
@click.argument("path", type=_EXISTING)
@_REPORT
def verify(path: str, report: str) -> None:
    """Read a log folder or one segment to its end and name everything that is wrong."""
    from kudu_storage.wal.verify import verify as run

    result = run(path, None if report == "json" else lambda segment: click.echo(segment_line(segment)))
    if report == "json":
        click.echo(json.dumps(result.to_json()))
    else:
        for problem in result.problems:
            click.echo(str(problem))
        entries = sum(s.entries for s in result.segments)
        click.echo(f"{len(result.segments)} segments, {entries} entries, {len(result.problems)} problems")
    sys.exit(0 if result.ok else 1)


def segment_line(segment: SegmentReport) -> str:
    """One line about one segment."""
    name = "wal-?" if segment.sequence is None else f"wal-{segment.sequence:09d}"
    span = "" if segment.min_index is None else f", operations {segment.min_index} to {segment.max_index}"
    text = (f"{name}  {segment.status:<10} {segment.entries} entries ({segment.replicates} REPLICATE, "
            f"{segment.commits} COMMIT){span}, {segment.bytes} bytes, {segment.codec or 'codec unknown'}, "
            f"{'closed' if segment.footer else 'no footer'}, {segment.seconds:.3f} s")
    return f"{text}: {segment.detail}" if segment.detail else text


@wal.command()
@click.argument("path", type=_EXISTING)
@_REPORT
def stat(path: str, report: str) -> None:
    """Sizes, entries by kind, batch sizes, compression and rate of a log folder or one segment."""
    from kudu_storage.wal.stat import stat as run

    result = run(path)
    click.echo(json.dumps(result.to_json()) if report == "json" else "\n".join(result.lines()))
    sys.exit(1 if any(s.status in ("corrupt", "unreadable") for s in result.segments) else 0)


@wal.command()
@click.argument("path", type=_EXISTING)
@click.option("--op-type", "--op_type", help="Kudu's name of an operation type, such as WRITE or CHANGE_CONFIG_OP.")
@click.option("--index", "index_range", metavar="FIRST[-LAST]", help="One index, or a range with both ends.")
@click.option("--term", type=click.IntRange(min=0))
@click.option("--since", metavar="TIME", help="Hybrid time, or ISO time (UTC unless it names a zone); included.")
@click.option("--until", metavar="TIME", help="The same; not included.")
@click.option("--key", "key", metavar="VALUE", multiple=True,
              help="Only writes that touch this row; once for each key column, in order.")
@click.option("--limit", type=click.IntRange(min=1), help="Stop after so many.")
def grep(path: str, op_type: str | None, index_range: str | None, term: int | None, since: str | None,
         until: str | None, key: tuple[str, ...], limit: int | None) -> None:
    """Find operations in a log folder or one segment. Exit code 1 when there are none."""
    indexes = parse_index_range(index_range)
    from kudu_storage.wal.grep import grep as run

    found = False
    for match in run(path, op_type=op_type, index=indexes, term=term, since=since, until=until,
                     key=list(key) or None, limit=limit):
        found = True
        click.echo(f"wal-{match.segment:09d}  {match}")
    sys.exit(0 if found else 1)


def parse_index_range(text: str | None) -> tuple[int | None, int | None] | None:
    """"5" is 5 to 5, "5-9" both included, "5-" and "-9" are open at one end."""
    if text is None:
        return None
    first, dash, last = text.partition("-")
    if not text.strip("-") or not all(part.isdecimal() for part in (first, last) if part):
        raise click.BadParameter(f"{text!r} is no index and no range of indexes", param_hint="--index")
    if not dash:
        return int(first), int(first)
    return int(first) if first else None, int(last) if last else None


@wal.command()
@click.argument("path", type=_EXISTING)
@click.option("--format", "form", type=click.Choice(["jsonl", "csv", "arrow", "parquet"]), default="jsonl",
              show_default=True)
@click.option("--out", type=click.Path(dir_okay=False), help="Where to write; default: standard output.")
def export(path: str, form: str, out: str | None) -> None:
    """Write every row operation of a log folder or one segment as a table."""
    from kudu_storage.wal.export import export as run

    count = run(path, out if out is not None else sys.stdout.buffer, form)
    click.echo(f"{count} row operations", err=True)


@wal.command()
@click.argument("directory", metavar="DIR", type=_FOLDER)
@click.option("--from-start", is_flag=True, help="Begin with the first entry of the log, not with the next one.")
@click.option("--no-follow", is_flag=True, help="End when there is nothing new.")
@click.option("--interval", type=click.FloatRange(min=0.01), default=0.5, show_default=True,
              help="Seconds between looks.")
def tail(directory: str, from_start: bool, no_follow: bool, interval: float) -> None:
    """Print entries as they are written: segment, kind, operation, type. Ends with Ctrl-C."""
    from kudu_storage.wal.tail import LogTail

    def wait() -> bool:
        if no_follow:
            return False
        time.sleep(interval)
        return True

    try:
        with LogTail(directory, wait, from_start=from_start or no_follow) as log:
            for new in log:
                for line in tail_lines(new):
                    click.echo(line)
                sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(0)


def tail_lines(new: NewBatches) -> Iterator[str]:
    """One line an entry."""
    from kudu_storage._native.entry import parse_batch

    for position in range(len(new.chunk)):
        for entry in parse_batch(new.chunk[position]):
            time_text = f"@{entry['timestamp']}" if entry["type"] == "REPLICATE" else ""
            yield f"wal-{new.sequence:09d}  {entry['type']:<9} {entry['id']}{time_text} {entry['op_type']}"


@wal.command()
@click.argument("directory", metavar="DIR", type=_FOLDER)
@click.option("--out", type=click.Path(file_okay=False), required=True, help="A new or empty folder for the copy.")
@_REPORT
def repair(directory: str, out: str, report: str) -> None:
    """Copy the intact beginning of a log to a new folder. DIR itself is never written."""
    from kudu_storage.wal.repair import repair as run

    result = run(directory, out)
    if report == "json":
        click.echo(json.dumps(result.to_json()))
    else:
        for piece in result.pieces:
            reason = f": {piece.reason}" if piece.reason else ""
            click.echo(f"{piece.name}  {piece.action:<8}  {piece.entries} entries, {piece.bytes} bytes{reason}")
        click.echo("nothing was left out" if result.complete else "the copy is not the whole log: see above")
    sys.exit(0 if result.complete else 1)
