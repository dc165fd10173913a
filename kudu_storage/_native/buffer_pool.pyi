def kept_bytes() -> int:
    """What is kept for later."""

def drop_all() -> None:
    """Give everything kept back to the C library."""
