def double_text(value: float) -> str:
    """The text of a 64-bit number; for tests."""

def float_text(value: float) -> str:
    """The text of a number that a 32-bit float holds exactly; for tests."""
