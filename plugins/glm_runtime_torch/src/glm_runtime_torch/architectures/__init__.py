"""One module per model family: its configuration and its network, nothing else."""
