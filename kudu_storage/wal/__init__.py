"""The write-ahead log: format, segments, reader, verification. Opens files, never sockets."""
