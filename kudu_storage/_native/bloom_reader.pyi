from kudu_storage._native.cfile_reader import CFileReader

class BloomReader:
    """A bloom file: `probe` says no only when the key is certainly not there."""

    reader: CFileReader
    def __init__(self, reader: CFileReader) -> None: ...
    def probe(self, key: bytes) -> bool: ...
