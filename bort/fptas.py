"""`python -m bort.fptas`, the former name of `python -m bort.search`."""

import sys

from bort import shell
from bort.search.fptas import main

if __name__ == "__main__":
    shell.run(lambda: main(sys.argv[1:]), "bort.fptas")
