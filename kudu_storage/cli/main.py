"""The `kudu-storage` command. Sub-commands are imported when named, so that `--help` stays fast.

Exit codes: 0 ok, 1 problem found, 2 usage, 3 unreachable. Kudu's flag spelling (`-name=value`) is accepted.
"""
from __future__ import annotations

import importlib
import sys

import click

from kudu_storage import __version__
from kudu_storage.cli.flags import to_gnu_spelling

# name -> (module, attribute, one-line help shown without importing the module)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "fs": ("kudu_storage.cli.fs", "fs", "Lay out, check and look into a server's directories."),
    "info": ("kudu_storage.cli.info", "info", "Print version, build, CPU features and engines in use."),
    "local_replica": ("kudu_storage.cli.local_replica", "local_replica", "Look into replicas of a stopped server."),
    "pbc": ("kudu_storage.cli.pbc", "pbc", "Look into protobuf container files."),
    "replay": ("kudu_storage.cli.replay", "replay", "Rebuild a tablet's rows from its log segments."),
    "wal": ("kudu_storage.cli.wal", "wal", "Look into write-ahead log segments."),
}


class LazyGroup(click.Group):
    """A group that knows its sub-commands' help texts and imports their modules only to run them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][2]) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="kudu-storage")
def root() -> None:
    """Work with Apache Kudu's tablet files without a server. Files are opened read-only."""


def main(argv: list[str] | None = None) -> None:
    """Entry point: never returns, exits with the codes above."""
    from kudu_storage.errors import KuduStorageError

    arguments = to_gnu_spelling(sys.argv[1:] if argv is None else argv)
    try:
        root.main(args=arguments, prog_name="kudu-storage")
    except KuduStorageError as error:
        click.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(2 if error.fault == "caller" else 1)
    except (OSError, MemoryError) as error:     # of a file that is written: a full disk, a folder that is not there
        click.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
