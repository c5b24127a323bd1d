"""`python -m bort.fptas`, the former name of `python -m bort.search`."""

from bort import shell
from bort.search.table_optimum import TableConfig, main

if __name__ == "__main__":
    shell.run_command(TableConfig, main, "bort.fptas")
