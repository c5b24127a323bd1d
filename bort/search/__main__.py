"""`python -m bort.search candidates.csv`: the optimum of a table of candidates."""

from bort import shell
from bort.search.table_optimum import TableConfig, main

shell.run_command(TableConfig, main, "bort.search")
