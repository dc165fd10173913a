"""Child processes of tests import the same kudu_storage as the tests, not whatever the current folder holds."""
from __future__ import annotations

import os
from pathlib import Path

import hypothesis

import kudu_storage

os.environ["PYTHONPATH"] = str(Path(kudu_storage.__file__).parents[1])
os.environ["PYTHONSAFEPATH"] = "1"

# How long an example takes says more of the machine than of the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
