"""Kudu's flag spelling on top of click: `-print_entries=pb` and `--print_entries pb` mean the same, and so do `-json`
and `--json=true`, `-nojson` and `--json=false`."""
from __future__ import annotations

import re

import click

_GFLAG = re.compile(r"-([A-Za-z][A-Za-z0-9_]+)(=.*)?\Z", re.DOTALL)


def to_gnu_spelling(arguments: list[str]) -> list[str]:
    """Turn `-name` and `-name=value` into `--name` and `--name=value`; `-h` and everything after `--` stay."""
    result: list[str] = []
    for position, argument in enumerate(arguments):
        if argument == "--":
            return result + arguments[position:]
        result.append("-" + argument if _GFLAG.match(argument) else argument)
    return result


_TRUTH = {"true": True, "t": True, "1": True, "yes": True, "y": True,
          "false": False, "f": False, "0": False, "no": False, "n": False}


class FlagCommand(click.Command):
    """A command whose switches may also be given a value, or turned off by a name that starts with "no"."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._plain(ctx, args))

    def _plain(self, ctx: click.Context, args: list[str]) -> list[str]:
        switches = {name: option for option in self.params if isinstance(option, click.Option) and option.is_flag
                    for name in option.opts}
        known = {name for option in self.params for name in (*option.opts, *option.secondary_opts)}
        result: list[str] = []
        for position, argument in enumerate(args):
            if argument == "--":
                return result + args[position:]
            name, given, value = argument.partition("=")
            if name not in known and not given:
                name, given, value = name.replace("--no", "--", 1), "no", "false"
            if not given or name not in switches:
                result.append(argument)
            elif value.lower() not in _TRUTH:
                raise click.BadParameter(f"{value!r} is neither true nor false", ctx, switches[name])
            elif _TRUTH[value.lower()]:
                result.append(name)
            else:       # off is how a switch stands without being named
                result += switches[name].secondary_opts[:1]
        return result


class FlagGroup(click.Group):
    """A group of such commands."""

    command_class = FlagCommand
    group_class = type
