"""`python -m bort.search candidates.csv`: the optimum of a table of candidates."""

import sys

from bort import shell
from bort.search.fptas import main

shell.run(lambda: main(sys.argv[1:]), "bort.search")
