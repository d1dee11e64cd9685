"""The shell's side: the Hydra entry, its help, and errors turned into exit codes."""
