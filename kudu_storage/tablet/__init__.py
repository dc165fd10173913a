"""Rows of one tablet: scans, snapshots, checksums."""
