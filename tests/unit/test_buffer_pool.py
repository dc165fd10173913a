"""Buffers of blocks that are kept for later blocks: bounded, never two blocks' at once, harmless across a fork."""
from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest
from blocks import one_column

from kudu_storage._native import buffer_pool

MIB = 1 << 20
ROWS = 20_000       # of 8 bytes: above what is too small to be kept


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    buffer_pool.drop_all()
    yield
    buffer_pool.drop_all()


def numbers(start: int) -> object:
    return one_column("INT64", *range(start, start + ROWS), nullable=False)


@pytest.fixture
def keeps() -> None:
    numbers(0)
    if not buffer_pool.kept_bytes():
        pytest.skip("this build watches the end of each buffer's life and keeps none")


@pytest.mark.usefixtures("keeps")
def test_a_released_blocks_buffers_serve_the_next_one() -> None:
    buffer_pool.drop_all()
    numbers(0)
    kept = buffer_pool.kept_bytes()
    assert 8 * ROWS <= kept < 9 * ROWS + MIB
    block = numbers(1)
    assert buffer_pool.kept_bytes() < 8 * ROWS
    del block
    assert buffer_pool.kept_bytes() == kept


def test_no_two_blocks_share_a_buffer() -> None:
    for _ in range(3):
        blocks = [one_column("INT64", *range(at, at + ROWS), nullable=False) for at in range(5)]
        for at, block in enumerate(blocks):
            assert [value for value, in block.to_tuples()] == list(range(at, at + ROWS))


def test_a_buffer_taken_again_has_no_old_cells() -> None:
    one_column("INT64", *[-1] * ROWS)
    assert set(one_column("INT64", *[None] * ROWS).cells(row)[0] for row in range(0, ROWS, 997)) == {None}
    block = one_column("INT64", 5, *[None] * (ROWS - 1))
    assert block.to_tuples()[:2] == [(5,), (None,)]


def test_what_is_kept_is_bounded() -> None:
    blocks = [one_column("BINARY", bytes(MIB), bytes(MIB), nullable=False) for _ in range(50)]
    assert len(blocks) == 50
    del blocks
    assert buffer_pool.kept_bytes() <= 64 * MIB


def test_threads_may_take_and_give_at_once() -> None:
    wrong: list[int] = []

    def work(start: int) -> None:
        for at in range(start, start + 8):
            if one_column("INT64", *range(at, at + ROWS), nullable=False).to_tuples()[-1] != (at + ROWS - 1,):
                wrong.append(at)
    threads = [threading.Thread(target=work, args=(start,)) for start in range(0, 400, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_child_after_a_fork_may_use_it() -> None:
    numbers(0)
    child = os.fork()
    if child == 0:
        numbers(7)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.usefixtures("keeps")
def test_sizes_that_nobody_asks_for_any_more_make_room() -> None:
    buffer_pool.drop_all()
    blocks = [one_column("BINARY", bytes(3 * MIB), nullable=False) for _ in range(30)]
    del blocks
    for _ in range(3):
        blocks = [numbers(at) for at in range(0, 160)]      # 25 MiB in buffers of another size
        del blocks
    before = buffer_pool.kept_bytes()
    held = [numbers(at) for at in range(0, 100)]
    assert before - buffer_pool.kept_bytes() >= len(held) * 8 * ROWS
