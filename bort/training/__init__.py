"""What every training shares: steps, optimizer, checkpoints, loggers, progress."""
