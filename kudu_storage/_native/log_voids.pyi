class Voids:
    """What was cut off a log, or replaced in it, since it was opened. Any thread."""

    @property
    def count(self) -> int:
        """How many cuts and replacements there were."""
    @property
    def replaced_from(self) -> int:
        """The lowest operation that was replaced, 2**63 - 1: none was."""
    def add(self, stayed: int) -> None:
        """Operations above `stayed` are cut off."""
    def since(self, count: int) -> tuple[int, int]:
        """(how many there were, the lowest index that stayed in those after the first `count`, 2**63 - 1: none)."""
    def forget_replaced(self) -> None:
        """The files were looked at afresh."""
