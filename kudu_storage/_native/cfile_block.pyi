# Decoding for other native modules; nothing is visible from Python.
