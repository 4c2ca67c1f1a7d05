"""Reading published checkpoints: every file form, memory-mapped, checked before memory is spent."""
