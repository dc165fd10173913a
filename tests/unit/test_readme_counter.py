"""The replicated counter of the README runs as it stands there."""
from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from replica_process import free_addresses

ROOT = Path(__file__).resolve().parents[2]


def test_the_counter_of_the_readme_goes_on_without_its_leader(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    program = next(code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "RaftReplica" in code)
    for address, free in zip(re.findall(r"127\.0\.0\.1:\d+", program), free_addresses("abc").values(), strict=True):
        program = program.replace(address, free)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60,
                          env=dict(os.environ), check=False)
    assert done.stdout == "5 12\n42\n", done.stderr
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["a", "b", "c"]
