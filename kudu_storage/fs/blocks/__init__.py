"""Block stores: where the bytes of column files and delta files lie. Opens files below the data roots, never sockets.

`open_block_manager` opens what is there, whichever kind it is. Formats: docs/formats/blocks.md.
"""
from kudu_storage.fs.blocks.manager import BlockManager, BlockTransaction, ReadableBlock, WritableBlock
from kudu_storage.fs.blocks.opening import BlockOptions, open_block_manager

__all__ = ["BlockManager", "BlockOptions", "BlockTransaction", "ReadableBlock", "WritableBlock", "open_block_manager"]
