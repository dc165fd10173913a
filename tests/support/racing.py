"""Functions that run at once, for tests of what threads share."""
from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import Final

DEADLINE_S: Final = 300.0


def together(*work: Callable[[], None]) -> None:
    """Run all at once; the first error of any is raised."""
    errors: list[str] = []
    start = threading.Barrier(len(work))

    def guarded(function: Callable[[], None]) -> None:
        try:
            start.wait()
            function()
        except BaseException:
            errors.append(traceback.format_exc())

    threads = [threading.Thread(target=guarded, args=(function,), daemon=True) for function in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive(), "a thread never ended"
    assert not errors, "\n".join(errors)
