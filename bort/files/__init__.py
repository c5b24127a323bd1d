"""Files: how bort reads, writes, replaces and removes them, so that each is whole or absent."""
