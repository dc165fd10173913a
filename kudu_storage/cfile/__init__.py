"""Column files: one column of a rowset, its indexes, bloom filters and deltas, each in a block of a block store.

The hot code is native (kudu_storage._native.cfile_*); here is what joins it to block stores and to people. Knows a file
as a window of a descriptor: who keeps blocks, and where, is kudu_storage.fs. Layout: docs/formats/cfile.md.
"""
