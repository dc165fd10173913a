"""Plain values shared by all rooms: OpId, hybrid time, schema, partition, row encoding, limits. Opens nothing."""
