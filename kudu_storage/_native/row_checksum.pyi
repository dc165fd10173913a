from kudu_storage._native.column_block import ColumnBlock

def checksum(block: ColumnBlock) -> int:
    """The sum of the rows' checksums modulo 2**64.

    Sums of blocks add up (modulo 2**64) to the number that `kudu cluster ksck --checksum_scan` shows for a replica.
    """
