"""What the messages of replicas cost one server, by the operations in them: CPU time, no sockets.

    python bench/transport.py [--rounds N] [--payload-bytes N]

A leader's update is encoded from a batch of the log (`first peer`), then for the next peer with the same operations;
a follower decodes it into an entry batch for its log; the answer is encoded and decoded. The median of the rounds is
shown with the smallest and largest, in microseconds.
"""
from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from consensus.raft.messages import Run, UpdateRequest, UpdateResponse
from consensus.transport import wire
from consensus.transport.names import Names
from kudu_storage._native.consensus_ops import ops_field
from kudu_storage.common.opid import OpId
from kudu_storage.protos import message_class

TABLET = "0123456789abcdef0123456789abcdef"
TERM, FIRST = 3, 1_000_001
NAMES = Names(["a", "b"])


def log_batch(count: int, payload_bytes: int) -> bytes:
    batch: Any = message_class("kudu.log.LogEntryBatchPB")()
    for index in range(FIRST, FIRST + count):
        replicate = batch.entry.add(type=1).replicate
        replicate.id.term, replicate.id.index = TERM, index
        replicate.timestamp, replicate.op_type = 7 << 60, 1
        replicate.noop_request.payload_for_tests = bytes(payload_bytes)
    data: bytes = batch.SerializeToString()
    return data


def cost_us(work: Callable[[], object], rounds: int) -> str:
    count, times = 1, []
    while True:     # long enough that the clock does not matter
        before = time.process_time()
        for _ in range(count):
            work()
        if time.process_time() - before > 0.02:
            break
        count *= 2
    for _ in range(rounds):
        before = time.process_time()
        for _ in range(count):
            work()
        times.append((time.process_time() - before) / count * 1e6)
    return f"{statistics.median(times):8.2f} ({min(times):.2f} to {max(times):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--payload-bytes", type=int, default=1024)
    options = parser.parse_args()
    encoder = wire.UpdateEncoder(TABLET, "a", "b", NAMES)
    for count in (0, 1, 64, 1000):
        last = FIRST + count - 1
        body = log_batch(count, options.payload_bytes)
        runs = (Run(TERM, FIRST, last),) if count else ()
        request = UpdateRequest("a", TERM, OpId(TERM, FIRST - 1), FIRST - 1, runs, FIRST - 9, 7 << 59, 7 << 60, last, 9)
        head = encoder.encode(request)
        data = head + (ops_field([body], FIRST, last) if count else b"")

        def first_peer(request: UpdateRequest = request, body: bytes = body, last: int = last) -> None:
            encoder.encode(request)
            if request.runs:
                ops_field([body], FIRST, last)

        steps: dict[str, Callable[[], object]] = {
            "encode, first peer": first_peer,
            "encode, next peer": lambda request=request: encoder.encode(request),  # type: ignore[misc]
            "decode": lambda data=data: wire.decode_update(data, NAMES),    # type: ignore[misc]
        }
        for name, work in steps.items():
            print(f"{count:5} operations, {name:18} us {cost_us(work, options.rounds)}")
    response = UpdateResponse("b", TERM, OpId(TERM, FIRST), OpId(TERM, FIRST), FIRST, None, 9, 7 << 60)
    answer = wire.encode_update_response(response, NAMES)
    print(f"answer, encode                       us "
          f"{cost_us(lambda: wire.encode_update_response(response, NAMES), options.rounds)}")
    print(f"answer, decode                       us "
          f"{cost_us(lambda: wire.decode_update_response(answer, 'b', 9), options.rounds)}")


if __name__ == "__main__":
    main()
