"""Writing a quantised copy of a checkpoint, block by block."""
