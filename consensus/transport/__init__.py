"""Replicas over the wire, as Kudu does it. See krpc.py."""
