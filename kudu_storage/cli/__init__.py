"""The kudu-storage command: parses, calls a room, prints. No rule about logs or rows lives here."""
