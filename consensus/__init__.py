"""Replication and servers above kudu_storage: the Raft core, replicas, tablet servers and masters.

This package holds no public names yet; it is installed so that its name and place are fixed.
"""
