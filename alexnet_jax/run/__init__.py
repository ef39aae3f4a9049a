"""The life of a run: its config, workdir, checkpoints, logs, signals and processes."""
