"""Proposals' timeouts on a clock that does not wait."""
from __future__ import annotations

import asyncio

from virtual_time import run

from consensus.replica.rounds import Call
from consensus.replica.timeouts import TICKS_PER_S, Timeouts
from kudu_storage.errors import Timeout


def call() -> Call:
    return Call(asyncio.get_running_loop().create_future(), 1, False)


def test_each_expires_in_its_time_and_not_before() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        timeouts = Timeouts(loop)
        expired: dict[float, float] = {}
        calls, began = [], loop.time()
        for seconds in (5.0, 0.5, 2.0, 0.5):
            calls.append(made := call())
            timeouts.add(made, seconds)
            made.future.add_done_callback(lambda _, s=seconds: expired.update({s: loop.time() - began}))
        await asyncio.wait([c.future for c in calls])
        await asyncio.sleep(0)
        assert sorted(expired) == [0.5, 2.0, 5.0]
        assert all(s <= passed <= s + 2 / TICKS_PER_S for s, passed in expired.items())
        for made in calls:
            error = made.future.exception()
            assert isinstance(error, Timeout) and error.maybe_applied
    run(main())


def test_what_has_its_outcome_is_forgotten_and_no_timer_stays_for_it() -> None:
    async def main() -> None:
        timeouts = Timeouts(asyncio.get_running_loop())
        told, failed, waits = call(), call(), call()
        for made in (told, failed):
            timeouts.add(made, 1.0)
        timeouts.add(waits, 3.0)
        told.take(["result"])
        failed.fail(Timeout("otherwise", maybe_applied=True))
        assert told.expiring == set() and failed.expiring == set()
        await asyncio.wait([waits.future])
        assert told.future.result() == "result" and "otherwise" in str(failed.future.exception())
        assert "no answer in time" in str(waits.future.exception())
        assert timeouts._timer is None and not timeouts._waiting
    run(main())


def test_nobody_is_told_after_the_end_but_who_comes_then() -> None:
    async def main() -> None:
        timeouts = Timeouts(asyncio.get_running_loop())
        made = call()
        timeouts.add(made, 0.1)
        timeouts.close()
        later = call()
        timeouts.add(later, 0.1)        # the same tick; whoever closed it goes on
        await asyncio.wait([later.future])
        assert isinstance(later.future.exception(), Timeout) and not made.future.done()
    run(main())
