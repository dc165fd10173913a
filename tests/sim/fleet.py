"""Runs seeds on all processors: each process takes some of them, and the tallies add up.

The result does not depend on how many processes there are, nor on who took what: a seed is a run of its own.
"""
from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import NamedTuple

from sim.tally import Tally

CHUNK = 20


class Job(NamedTuple):
    """What is done with each seed."""

    stack: bool = False
    steps: int = 2000           # of the core's simulator
    seconds: float = 5.0        # of the whole stack's: virtual, with faults


def worker_count() -> int:
    return int(os.environ.get("KUDU_STORAGE_SIM_WORKERS", "0")) or len(os.sched_getaffinity(0))


def run_chunk(job: Job, first: int, end: int) -> Tally:
    """In one of the processes, or in this one."""
    if job.stack:
        logging.disable(logging.CRITICAL)       # replicas whose disks fail say so
    tally = Tally()
    for seed in range(first, end):
        if job.stack:
            tally.run_stack(seed, job.seconds)
        else:
            tally.run(seed, job.steps)
    return tally


def run_seeds(job: Job, first: int, end: int | None, workers: int | None = None) -> Iterator[Tally]:
    """A tally each time some seeds are done. `end` None: for ever."""
    starts = iter(range(first, end, CHUNK)) if end is not None else itertools.count(first, CHUNK)
    # Not forked: a log of this process would be of no use there, nor its threads.
    pool = ProcessPoolExecutor(workers or worker_count(), multiprocessing.get_context("spawn"), _be_patient)
    waiting: set[Future[Tally]] = set()
    try:
        while True:
            for start in itertools.islice(starts, 2 * (workers or worker_count()) - len(waiting)):
                stop = start + CHUNK if end is None else min(start + CHUNK, end)
                waiting.add(pool.submit(run_chunk, job, start, stop))
            if not waiting:
                return
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        # What is under way is let go: nobody asks for it any more.
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=not waiting, cancel_futures=True)
        if waiting:
            for process in processes:
                process.terminate()


def _be_patient() -> None:
    """The keyboard's interrupt is for the process that started us."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def total(job: Job, first: int, end: int) -> Tally:
    tally = Tally()
    for part in run_seeds(job, first, end):
        tally.add(part)
    return tally
