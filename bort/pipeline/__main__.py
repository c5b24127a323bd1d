"""`python -m bort.pipeline`."""

from bort import shell
from bort.pipeline.run import main

shell.run(main, "bort.pipeline")
