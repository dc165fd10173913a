from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from segments import golden, shortened

from kudu_storage.cli.wal import parse_index_range, wal
from kudu_storage.errors import BadChecksum, InvalidArgument
from kudu_storage.wal import format as spec
from kudu_storage.wal.repair import repair
from kudu_storage.wal.stat import stat
from kudu_storage.wal.tail import LogTail
from kudu_storage.wal.verify import verify

FIRST, SECOND = "wal-000000001", "wal-000000002"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of two segments: 88 entries closed, 10 unclosed."""
    folder = tmp_path / "log"
    folder.mkdir()
    shutil.copyfile(golden("lz4-closed"), folder / FIRST)
    shutil.copyfile(golden("lz4-unclosed"), folder / SECOND)
    return folder


def change(path: Path, edit: Callable[[bytearray], Any]) -> None:
    data = bytearray(path.read_bytes())
    edit(data)
    path.write_bytes(data)


def flip(path: Path, offset: int) -> None:
    def edit(data: bytearray) -> None:
        data[offset] ^= 1
    change(path, edit)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(wal, list(arguments))


def kinds(folder: Path) -> list[tuple[str, int | None]]:
    return [(p.kind, p.segment) for p in verify(folder).problems]


# -- verify ------------------------------------------------------------------------------------------------------------
def test_verify_of_a_whole_log_finds_no_problem(log: Path) -> None:
    report = verify(log)
    assert report.ok
    assert [(s.sequence, s.entries, s.replicates, s.commits, s.min_index, s.max_index, s.footer, s.status, s.codec)
            for s in report.segments] == [(1, 88, 44, 44, 1, 44, True, "ok", "LZ4"),
                                          (2, 10, 5, 5, 45, 49, False, "ok", "LZ4")]


def test_torn_or_zero_tail_of_the_last_segment_is_no_problem(log: Path) -> None:
    change(log / SECOND, lambda data: data.extend(bytes(5000)))
    report = verify(log)
    assert report.ok and report.segments[1].status == "zero_tail"
    change(log / SECOND, lambda data: data.__delitem__(slice(len(data) - 5003, None)))
    report = verify(log)
    assert report.ok and (report.segments[1].status, report.segments[1].entries) == ("torn_tail", 9)


def test_torn_tail_of_an_earlier_segment_and_what_is_missing_then_are_problems(log: Path) -> None:
    change(log / FIRST, lambda data: data.__delitem__(slice(20_000, None)))
    assert kinds(log) == [("torn_tail", 1), ("missing_operations", 2)]


def test_damage_in_a_closed_segment_names_segment_offset_and_advice(log: Path) -> None:
    flip(log / FIRST, 20_000)
    problem = verify(log).problems[0]
    assert (problem.kind, problem.segment) == ("bad_checksum", 1)
    assert problem.offset is not None and 19_000 < problem.offset <= 20_000
    assert "are intact" in problem.detail and "repair" in (problem.advice or "")


def test_footer_that_disagrees_with_the_entries_is_a_problem(log: Path) -> None:
    data = (log / FIRST).read_bytes()
    segment = spec.parse_segment(data)
    assert segment.footer is not None
    segment.footer.num_entries += 1
    (log / FIRST).write_bytes(data[:segment.entries_end] + spec.build_footer(segment.footer))
    assert kinds(log) == [("contradiction", 1)]
    segment.footer.num_entries -= 1
    segment.footer.max_replicate_index += 1
    (log / FIRST).write_bytes(data[:segment.entries_end] + spec.build_footer(segment.footer))
    assert kinds(log) == [("contradiction", 1)]


def test_missing_footer_of_an_earlier_segment_is_a_problem(log: Path) -> None:
    (log / FIRST).write_bytes(shortened("lz4-closed", 1 << 20, closed=False))
    assert kinds(log) == [("truncated", 1)]


def test_unreadable_segment_is_reported_once_and_not_called_missing(log: Path) -> None:
    shutil.copyfile(log / SECOND, log / "wal-000000003")
    (log / SECOND).write_bytes(b"")
    report = verify(log)
    assert [s.status for s in report.segments] == ["ok", "unreadable", "ok"]
    assert "missing_segment" not in [p.kind for p in report.problems]
    assert ("truncated", 2) in [(p.kind, p.segment) for p in report.problems]


def test_blank_segment_is_ignored_with_a_note(log: Path) -> None:
    (log / "wal-000000003").write_bytes(bytes(65536))
    report = verify(log)
    assert report.ok and report.segments[2].status == "blank" and report.segments[2].detail


def test_batch_that_passes_its_checksum_and_cannot_be_parsed_is_reported(log: Path) -> None:
    data = (log / SECOND).read_bytes()
    bad = spec.build_entry(b"\x0a\x02\x08\x01", spec.Codec.LZ4)
    (log / SECOND).write_bytes(data + bad)
    assert verify(log).segments[1].status == "torn_tail"            # nothing follows: as the real reader sees it
    (log / SECOND).write_bytes(data + bad + bad)
    report = verify(log)
    assert [(p.kind, p.offset) for p in report.problems] == [("bad_format", len(data))]
    assert (report.segments[1].status, report.segments[1].entries) == ("corrupt", 10)


def test_header_of_another_tablet_is_a_problem(log: Path) -> None:
    shutil.copyfile(golden("tiny-unclosed"), log / "wal-000000001")
    assert "contradiction" in [kind for kind, _ in kinds(log)]


def test_verify_command_prints_the_json_of_the_contract_and_exits_by_it(log: Path) -> None:
    result = run("verify", "--report", "json", str(log))
    report = json.loads(result.stdout)
    assert result.exit_code == 0 and set(report) == {"segments", "problems"}
    assert set(report["segments"][0]) >= {"sequence", "entries", "replicates", "commits", "bytes", "codec", "footer",
                                          "min_index", "max_index", "status", "detail", "seconds"}
    flip(log / FIRST, 20_000)
    result = run("verify", "--report", "json", str(log))
    assert result.exit_code == 1
    assert set(json.loads(result.stdout)["problems"][0]) == {"kind", "segment", "offset", "detail", "advice"}


def test_verify_command_prints_a_line_a_segment_and_a_line_a_problem(log: Path) -> None:
    flip(log / FIRST, 20_000)
    result = run("verify", str(log))
    assert result.exit_code == 1
    assert "wal-000000001  corrupt" in result.stdout and "wal-000000002  ok" in result.stdout
    assert "bad_checksum: wal-000000001 offset" in result.stdout


def test_verify_takes_a_single_file(log: Path) -> None:
    result = run("verify", str(log / SECOND))
    assert result.exit_code == 0 and "10 entries" in result.stdout


def test_missing_path_is_a_usage_error(tmp_path: Path) -> None:
    for command in (["verify"], ["stat"], ["repair", "--out", str(tmp_path / "out")], ["tail"]):
        assert run(*command, str(tmp_path / "nowhere")).exit_code == 2


# -- stat --------------------------------------------------------------------------------------------------------------
def test_stat_sums_over_all_segments(log: Path) -> None:
    result = stat(log)
    assert (result.entries, result.replicates, result.commits) == (98, 49, 49)
    assert result.file_bytes == sum(os.path.getsize(log / name) for name in (FIRST, SECOND))
    assert result.compression_ratio is not None and result.compression_ratio > 1
    assert sum(result.ops_by_type.values()) == 49 and sum(result.batch_sizes.values()) == result.batches
    assert result.ops_per_second is not None and result.ops_per_second > 0


def test_stat_command_prints_the_same_as_json_and_as_text(log: Path) -> None:
    data = json.loads(run("stat", "--report", "json", str(log)).stdout)
    assert data["entries"] == 98 and len(data["segments"]) == 2
    assert "98: 49 REPLICATE, 49 COMMIT" in run("stat", str(log)).stdout


# -- repair ------------------------------------------------------------------------------------------------------------
def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_repair_of_a_whole_log_is_a_copy(log: Path, tmp_path: Path) -> None:
    report = repair(log, tmp_path / "out")
    assert report.complete and contents(tmp_path / "out") == contents(log)


def test_repair_does_not_write_below_its_input(log: Path) -> None:
    before = sorted(log.iterdir())
    with pytest.raises(InvalidArgument, match="the input folder"):
        repair(log, log / "out")
    assert sorted(log.iterdir()) == before


def test_repair_cuts_the_damaged_segment_drops_what_follows_and_spares_its_input(log: Path, tmp_path: Path) -> None:
    flip(log / FIRST, 20_000)
    before = contents(log)
    report = repair(log, tmp_path / "out")
    assert [(p.name, p.action) for p in report.pieces] == [(FIRST, "cut"), (SECOND, "left out")]
    kept = contents(tmp_path / "out")
    assert list(kept) == [FIRST] and before[FIRST].startswith(kept[FIRST]) and len(kept[FIRST]) < 20_000
    assert contents(log) == before
    after = verify(tmp_path / "out")
    assert after.ok and after.segments[0].entries == report.pieces[0].entries > 0


def test_repair_keeps_going_after_a_segment_whose_footer_alone_is_damaged(log: Path, tmp_path: Path) -> None:
    for number, offset in enumerate((-1, -4, -12)):           # length, length, magic
        shutil.copyfile(golden("lz4-closed"), log / FIRST)
        change(log / FIRST, lambda data, at=offset: data.__setitem__(at, data[at] ^ 0x40))     # type: ignore[misc]
        out = tmp_path / f"out{number}"
        report = repair(log, out)
        assert [(p.action, p.entries) for p in report.pieces] == [("cut", 88), ("copied", 10)]
        assert [s.entries for s in verify(out).segments] == [88, 10]


def test_repair_stops_before_a_gap(log: Path, tmp_path: Path) -> None:
    (log / FIRST).write_bytes(shortened("lz4-closed", 8000, closed=True))
    report = repair(log, tmp_path / "out")
    assert [p.action for p in report.pieces] == ["copied", "left out"]
    assert "missing before it" in report.pieces[1].reason


def test_repair_cuts_a_torn_tail(log: Path, tmp_path: Path) -> None:
    change(log / SECOND, lambda data: data.extend(b"\x01" * 30))
    repair(log, tmp_path / "out")
    assert (tmp_path / "out" / SECOND).read_bytes() == golden("lz4-unclosed").read_bytes()


def test_repair_refuses_a_folder_that_is_not_empty_or_is_its_input(log: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for out in (tmp_path / "full", log):
        with pytest.raises(InvalidArgument):
            repair(log, out)


def test_repair_command_says_what_was_left_out_and_exits_1(log: Path, tmp_path: Path) -> None:
    flip(log / FIRST, 20_000)
    result = run("repair", str(log), "--out", str(tmp_path / "out"))
    assert result.exit_code == 1 and "wal-000000002  left out" in result.stdout
    assert run("repair", str(log), "--out", str(tmp_path / "second"), "--report", "json").exit_code == 1


# -- tail --------------------------------------------------------------------------------------------------------------
class Script:
    """wait() of a tail: performs the next step of the writer each time, then ends."""

    def __init__(self, *steps: Callable[[], Any]) -> None:
        self.steps: Iterator[Callable[[], Any]] = iter(steps)

    def __call__(self) -> bool:
        step = next(self.steps, None)
        if step is None:
            return False
        step()
        return True


def follow(folder: Path, wait: Script, *, from_start: bool = False) -> list[tuple[int, bytes]]:
    with LogTail(folder, wait, from_start=from_start) as tail:
        return [(new.sequence, new.chunk[i]) for new in tail for i in range(len(new.chunk))]


def batches_of(name: str) -> list[tuple[int, bytes]]:
    data = golden(name).read_bytes()
    segment = spec.parse_segment(data)
    return [(int(segment.header.sequence_number), b.data) for b in spec.read_batches(data, segment)[0]]


def test_tail_from_the_start_gives_everything_in_order(log: Path) -> None:
    assert follow(log, Script(), from_start=True) == batches_of("lz4-closed") + batches_of("lz4-unclosed")


def test_tail_gives_only_what_is_written_after_it_began(log: Path) -> None:
    whole = golden("lz4-unclosed").read_bytes()
    (log / SECOND).write_bytes(whole[:3000].ljust(65536, b"\0"))

    def grow(size: int) -> Callable[[], Any]:
        return lambda: (log / SECOND).write_bytes(whole[:size].ljust(65536, b"\0"))

    there, _ = spec.read_batches(whole[:3000], spec.parse_segment(whole[:3000]))
    got = follow(log, Script(grow(3100), grow(4500), grow(4501), grow(len(whole))))
    assert got == batches_of("lz4-unclosed")[len(there):]


def test_tail_goes_on_to_the_next_segment_when_one_is_closed(log: Path) -> None:
    whole, second = golden("lz4-closed").read_bytes(), golden("lz4-unclosed").read_bytes()
    (log / SECOND).unlink()
    (log / FIRST).write_bytes(shortened("lz4-closed", 9000, closed=False).ljust(65536, b"\0"))
    there = len(spec.read_batches(data := shortened("lz4-closed", 9000, closed=False), spec.parse_segment(data))[0])
    got = follow(log, Script(
        lambda: (log / FIRST).write_bytes(whole), lambda: (log / SECOND).write_bytes(bytes(65536)),
        lambda: (log / SECOND).write_bytes(second[:2000].ljust(65536, b"\0")),
        lambda: (log / SECOND).write_bytes(second)))
    assert got == batches_of("lz4-closed")[there:] + batches_of("lz4-unclosed")


def test_tail_waits_for_a_log_to_begin(log: Path) -> None:
    whole = (log / FIRST).read_bytes()
    (log / FIRST).unlink()
    (log / SECOND).unlink()
    got = follow(log, Script(lambda: None, lambda: (log / FIRST).write_bytes(whole)), from_start=True)
    assert got == batches_of("lz4-closed")


def test_tail_believes_damage_only_after_looking_again(log: Path) -> None:
    good = (log / FIRST).read_bytes()
    flip(log / FIRST, 20_000)
    got = follow(log, Script(lambda: (log / FIRST).write_bytes(good)), from_start=True)
    assert got == batches_of("lz4-closed") + batches_of("lz4-unclosed")
    flip(log / FIRST, 20_000)
    with pytest.raises(BadChecksum):
        follow(log, Script(*[lambda: None] * 10), from_start=True)


def test_tail_command_prints_a_line_an_entry(log: Path) -> None:
    result = run("tail", "--no-follow", str(log))
    lines = result.stdout.splitlines()
    assert result.exit_code == 0 and len(lines) == 98
    assert lines[0].startswith("wal-000000001  REPLICATE 1.1@") and lines[-1].startswith("wal-000000002  COMMIT")


# -- options of grep ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("text", "expected"), [(None, None), ("5", (5, 5)), ("5-9", (5, 9)), ("5-", (5, None)),
                                                ("-9", (None, 9))])
def test_index_ranges(text: str | None, expected: tuple[int | None, int | None] | None) -> None:
    assert parse_index_range(text) == expected


@pytest.mark.parametrize("text", ["", "-", "x", "1-x", "1-2-3"])
def test_what_is_no_index_range_is_a_usage_error(text: str, log: Path) -> None:
    assert run("grep", "--index", text, str(log)).exit_code == 2


# -- dump, grep, export: only that the options arrive; what they print is tested beside them ---------------------------
def test_dump_grep_and_export_reach_their_functions(log: Path, tmp_path: Path) -> None:
    lines = run("dump", "--print_entries", "id", "--print_meta=false", str(log / SECOND)).stdout.splitlines()
    assert len(lines) == 10 and lines[-1].startswith("COMMIT")
    result = run("grep", "--index", "45-46", str(log))
    assert result.exit_code == 0 and [line[:13] for line in result.stdout.splitlines()] == [SECOND, SECOND]
    assert run("grep", "--index", "1000", str(log)).exit_code == 1
    assert run("export", str(log), "--format", "csv", "--out", str(tmp_path / "rows.csv")).exit_code == 0
    assert (tmp_path / "rows.csv").read_text().count("\n") > 40
