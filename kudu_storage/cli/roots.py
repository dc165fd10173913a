"""Where a server's directories are: the real tool's flags, or one DIR."""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from kudu_storage.fs.roots import ServerRoots

_Command = TypeVar("_Command", bound=Callable[..., Any])


def with_roots(command: _Command) -> _Command:
    """Add the options and the argument that say where the server's directories are."""
    for decorate in (
        click.argument("directory", metavar="[DIR]", required=False, type=click.Path(exists=True, file_okay=False)),
        click.option("--fs_metadata_dir", "--fs-metadata-dir", default="", metavar="DIR",
                     help="Root of consensus-meta and tablet-meta, if it is not the WAL root."),
        click.option("--fs_data_dirs", "--fs-data-dirs", default="", metavar="DIRS",
                     help="Roots of data blocks, comma-separated. Default: the WAL root."),
        click.option("--fs_wal_dir", "--fs-wal-dir", default="", metavar="DIR", help="Root of the write-ahead logs."),
    ):
        command = decorate(command)
    return command


def find_roots(directory: str | None, fs_wal_dir: str, fs_data_dirs: str, fs_metadata_dir: str) -> ServerRoots:
    """The roots that the options and the argument mean; a broken instance file is warned of."""
    from kudu_storage.fs.roots import server_roots, single_root

    if directory is not None and fs_wal_dir:
        raise click.UsageError("give either DIR or --fs_wal_dir")
    if directory is None and not fs_wal_dir:
        raise click.UsageError("name the server's directories: --fs_wal_dir=DIR, or DIR as the last argument")
    if directory is not None and not fs_data_dirs and not fs_metadata_dir:
        roots = single_root(directory)
    else:
        roots = server_roots(directory or fs_wal_dir, fs_data_dirs, fs_metadata_dir)
    for error in roots.check_instances():
        click.echo(f"warning: {error}", err=True)
    return roots
