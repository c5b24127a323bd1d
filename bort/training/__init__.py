"""The parts that every training shares: steps, optimizer, checkpoints, loggers, progress."""
