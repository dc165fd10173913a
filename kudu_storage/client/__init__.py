"""kudu-python's names: `import kudu_storage.client as kudu`. Opens no files and, so far, no sockets.

Schemas and types are those of kudu_storage.common; the client of a cluster is not here yet.
"""
from __future__ import annotations

from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.common.schema_alterer import ColumnChange, SchemaAlterer
from kudu_storage.common.schema_builder import (
    COMPRESSION_DEFAULT,
    COMPRESSION_LZ4,
    COMPRESSION_NONE,
    COMPRESSION_SNAPPY,
    COMPRESSION_ZLIB,
    ENCODING_AUTO,
    ENCODING_BIT_SHUFFLE,
    ENCODING_DICT,
    ENCODING_PLAIN,
    ENCODING_PREFIX,
    ENCODING_RLE,
    ColumnSpec,
    KuduType,
    SchemaBuilder,
    binary,
    bool_,
    date,
    decimal,
    double,
    float_,
    int8,
    int16,
    int32,
    int64,
    schema_builder,
    string,
    unixtime_micros,
    varchar,
)
from kudu_storage.errors import RowErrors as KuduBadStatus

# The names of the types that are Python's own as well.
bool = bool_
float = float_
double_ = double
string_ = string
FLUSH_AUTO_SYNC, FLUSH_AUTO_BACKGROUND, FLUSH_MANUAL = "sync", "background", "manual"
READ_LATEST, READ_AT_SNAPSHOT, READ_YOUR_WRITES = "latest", "snapshot", "read_your_writes"

__all__ = [
    "COMPRESSION_DEFAULT", "COMPRESSION_LZ4", "COMPRESSION_NONE", "COMPRESSION_SNAPPY", "COMPRESSION_ZLIB",
    "ENCODING_AUTO", "ENCODING_BIT_SHUFFLE", "ENCODING_DICT", "ENCODING_PLAIN", "ENCODING_PREFIX", "ENCODING_RLE",
    "FLUSH_AUTO_BACKGROUND", "FLUSH_AUTO_SYNC", "FLUSH_MANUAL", "READ_AT_SNAPSHOT", "READ_LATEST", "READ_YOUR_WRITES",
    "ColumnChange", "ColumnSchema", "ColumnSpec", "KuduBadStatus", "KuduType", "Schema", "SchemaAlterer",
    "SchemaBuilder", "binary", "bool", "bool_", "date",
    "decimal", "double", "double_", "float", "float_", "int8", "int16", "int32", "int64", "schema_builder", "string",
    "string_", "unixtime_micros", "varchar",
]
