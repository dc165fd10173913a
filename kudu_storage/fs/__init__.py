"""Directories, file names, protobuf containers and metadata files of a Kudu server. Opens files, never sockets."""
