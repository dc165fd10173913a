from collections.abc import Iterable

from kudu_storage._native.delta import DeltaCells, DeltaRun

def merge_redos(runs: list[DeltaRun], cells: DeltaCells, *, first_row: int = 0, end_row: int = ...,
                without: Iterable[int] = ()) -> None: ...
