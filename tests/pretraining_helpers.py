"""What several test files of one package share."""

import csv
from pathlib import Path


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))
