"""`kudu-storage pbc ...`: look into protobuf containers. Parses options, calls kudu_storage.fs.pb_dump, prints."""
from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

from kudu_storage.cli.flags import FlagGroup

if TYPE_CHECKING:
    from kudu_storage.fs.pb_dump import DumpFormat


@click.group(cls=FlagGroup)
def pbc() -> None:
    """Look into protobuf container files: consensus and tablet metadata, instance files, block records."""


@pbc.command()
@click.argument("path", metavar="FILE", type=click.Path(exists=True, dir_okay=False))
@click.option("--oneline", is_flag=True, help="Each message on one line.")
@click.option("--json", is_flag=True, help="Each message as JSON on one line.")
@click.option("--json_pretty", "--json-pretty", is_flag=True, help="Each message as JSON over several lines.")
@click.option("--debug", is_flag=True, help="With the file's header and each message's place.")
def dump(path: str, oneline: bool, json: bool, json_pretty: bool, debug: bool) -> None:
    """Print the messages of a container FILE in the text layout of Kudu's own tool."""
    from kudu_storage.cli.output import ByteExactOutput
    from kudu_storage.fs.pb_dump import dump_container

    wanted = [name for name, given in (("oneline", oneline), ("json", json), ("json_pretty", json_pretty),
                                       ("debug", debug)) if given]
    if len(wanted) > 1:
        raise click.UsageError("only one of --debug, --oneline, --json and --json_pretty at a time")
    dump_container(path, ByteExactOutput(), dump_format=cast("DumpFormat", wanted[0] if wanted else "default"))
