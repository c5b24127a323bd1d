"""Files that are whole or absent, and what may be read, replaced and removed."""
