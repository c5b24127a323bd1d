"""`python -m bort.export`."""

from bort import shell

shell.starting("bort.export")  # what follows takes seconds

from bort.export.run import main

shell.run(main, "bort.export")
