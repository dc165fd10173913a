"""One replica of a group: what drives the Raft core over ports to network, clock, log and state machine."""
