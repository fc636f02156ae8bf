"""Files: checkpoints, writers, progress, pictures."""
