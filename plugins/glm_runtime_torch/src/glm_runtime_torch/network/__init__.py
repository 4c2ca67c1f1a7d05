"""What the networks of all families share: attention, positions, caches, the walk through the blocks."""
