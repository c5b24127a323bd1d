"""Pre-train a BERT: `python train.py experiment=kd_pretrain`; `--help` lists what can be set."""

from bort import shell
from bort.cli.train import main

if __name__ == "__main__":
    shell.run(main, "train.py")
