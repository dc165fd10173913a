"""Log and tablet files in, running state out. Replay decisions are pure functions."""
