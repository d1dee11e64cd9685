"""The configs: `config.yaml` and one folder per group. Each file's first comment line is its line in `--help`."""
