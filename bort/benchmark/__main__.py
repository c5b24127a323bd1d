"""`python -m bort.benchmark`."""

from bort import shell
from bort.benchmark.run import main

shell.run(main, "bort.benchmark")
