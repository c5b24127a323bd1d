"""Find the optimal BERT: `python search.py`; `--help` lists what can be set."""

from bort import shell
from bort.cli.search import main

if __name__ == "__main__":
    shell.run(main, "search.py")
