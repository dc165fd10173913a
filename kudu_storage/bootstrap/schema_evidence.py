"""Which schema to believe at a log's start, and how far. Pure.

A segment header carries the schema that was current when the segment was opened, and no checksum. Everything else that
names a schema is checksummed: the superblock, ALTER_SCHEMA operations, the client schema inside each write. So:

E1  A superblock of the same schema version is the schema.
E2  Else headers of that version vote; a header that differs from the winner is reported.
E3  What then rests on headers alone is believed only as far as ALTERs and writes agree: a column's name, type and key
    role are proved by each write that maps onto it (a mismatch stops replay), its id by the next ALTER that still has
    the column, its default by any ALTER or write. Facts that nothing used need no proof.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from kudu_storage.common.schema import ColumnSchema, Schema


@dataclass(frozen=True, slots=True)
class HeaderSchema:
    """What one segment's header says."""

    sequence: int
    version: int
    schema: Schema


@dataclass(slots=True)
class Choice:
    """The schema a replay starts with."""

    schema: Schema
    version: int
    proved: bool                                                # by the superblock (E1) or by a second header (E2)
    outvoted: list[int] = field(default_factory=list)           # sequence numbers of headers that differ


def choose_initial(headers: Sequence[HeaderSchema], superblock: tuple[int, Schema] | None,
                   first_alter_version: int | None = None) -> Choice | None:
    """The schema at the first header's time, or None when there is no header.

    Args:
        headers: those that could be read, in log order.
        superblock: version and schema of the tablet's metadata, if there is one.
        first_alter_version: version that the log's first ALTER makes, when known.
    """
    if not headers:
        return None
    version = headers[0].version
    same = [h for h in headers if h.version == version]
    if superblock is not None and superblock[0] == version:
        differing = [h.sequence for h in same if not same_columns(h.schema, superblock[1])]
        return Choice(superblock[1], version, True, differing)
    votes = Counter(_fingerprint(h.schema) for h in same)
    winner = max(votes, key=lambda print_: votes[print_])
    chosen = next(h.schema for h in same if _fingerprint(h.schema) == winner)
    return Choice(chosen, version, votes[winner] > 1 and votes[winner] * 2 > len(same),
                  [h.sequence for h in same if _fingerprint(h.schema) != winner])


def same_columns(one: Schema, other: Schema) -> bool:
    """Equal in everything that decides how rows are read (not encodings, comments and the like)."""
    return _fingerprint(one) == _fingerprint(other)


def _fingerprint(schema: Schema) -> tuple[object, ...]:
    return tuple(_facts(c) for c in schema)


def _facts(c: ColumnSchema) -> tuple[object, ...]:
    return (c.name, c.type.name, c.nullable, c.is_key, c.id, c.read_default, c.write_default, c.precision, c.scale,
            c.immutable, c.auto_incrementing)


def doubts(choice: Choice, alters: Sequence[Schema], client_schemas: Sequence[Schema],
           defaults_used: Sequence[str]) -> list[str]:
    """What the replay relied on and nothing confirms (E3), as phrases; empty when all is well.

    Args:
        choice: what choose_initial gave.
        alters: the schemas that ALTERs of this log made, in order.
        client_schemas: the schemas of the writes replayed under `choice.schema`.
        defaults_used: names of columns that some insert under `choice.schema` left unset.
    """
    if choice.proved:
        return []
    found = []
    if alters:
        found += _id_doubts(choice.schema, alters[0])
    for name in defaults_used:
        position = choice.schema.find(name)
        if position is None:
            continue
        column = choice.schema.columns[position]
        proofs = [c.write_default for s in alters[:1] for c in s if c.id == column.id]
        proofs += [c.read_default for s in client_schemas for c in s if c.name == name]
        if column.write_default not in proofs:
            found.append(f"default of column {name!r}")
    seen = {c.name for s in client_schemas for c in s}
    proofs_of = {(c.name, _client_facts(c)) for s in client_schemas for c in s}
    found += [f"attributes of column {c.name!r}" for c in choice.schema
              if c.name in seen and (c.name, _client_facts(c)) not in proofs_of]
    return found


def _client_facts(c: ColumnSchema) -> tuple[object, ...]:
    """What a client's schema says of a column besides name, type and key role."""
    return (c.nullable, c.immutable, c.auto_incrementing, c.precision, c.scale)


def _id_doubts(first: Schema, following: Schema) -> list[str]:
    """Columns whose id changed by an ALTER although it did not drop and add them: then the header's id is wrong.

    A column that was dropped and added again in one ALTER has an id above all earlier ones; any other id is a doubt.
    """
    highest = max((c.id or 0 for c in first), default=0)
    found = []
    for column in following:
        position = first.find(column.name)
        if position is None or first.columns[position].id == column.id:
            continue
        renamed = any(c.id == column.id for c in first)
        if not renamed and (column.id or 0) <= highest:
            found.append(f"id of column {column.name!r}")
    return found
