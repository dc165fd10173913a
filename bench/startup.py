"""Start-up of the command against an empty click program: interleaved runs, medians, their ratio.

    python bench/startup.py [RUNS]

Each run is a new process from fork to exit, with compiled byte code in place. The figure to hold is a ratio under 2 for
`kudu-storage --help`. `import click` is most of both.
"""
from __future__ import annotations

import statistics
import subprocess
import sys
import time

EMPTY = "import click\n\n@click.command()\ndef main():\n    '''Nothing.'''\n\nmain(prog_name='empty')"
PROGRAMS = {
    "python -c pass": ["-c", "pass"],
    "empty click program --help": ["-c", EMPTY, "--help"],
    "kudu-storage --help": ["-c", "from kudu_storage.cli.main import main; main()", "--help"],
    "kudu-storage wal --help": ["-c", "from kudu_storage.cli.main import main; main()", "wal", "--help"],
    "import kudu_storage": ["-c", "import kudu_storage"],
}


def run_ms(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    return (time.perf_counter() - started) * 1000


def main(runs: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for arguments in PROGRAMS.values():
        run_ms(arguments)       # byte code and file cache
    for _ in range(runs):
        for name, arguments in PROGRAMS.items():
            times[name].append(run_ms(arguments))
    for name, found in times.items():
        first, median, third = statistics.quantiles(found, n=4)
        print(f"{name:28} median {median:7.1f} ms, quartiles {first:.1f} to {third:.1f}")
    ratios = [ours / empty for ours, empty in zip(times["kudu-storage --help"], times["empty click program --help"],
                                                  strict=True)]
    print(f"kudu-storage --help / empty click program: {statistics.median(ratios):.2f} (median of {runs} pairs)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 31)
