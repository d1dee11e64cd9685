"""What a run leaves and how it survives: directory, states, checkpoints, cache, signals, files written whole."""
