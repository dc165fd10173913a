# Segment files for log_core; nothing is visible from Python.
