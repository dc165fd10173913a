"""A deterministic simulator of a whole group: the shipped core on a fake clock, network and disk."""
