"""The plan of a distillation counts the rows of the pool, and refuses what the run would."""

import pytest
from tiny_runs import log_lines

from bort.errors import BortError
from bort.task_distillation.dry_run import show


def test_what_it_says(run_of, teacher, encoder, tmp_path):
    lines = log_lines()
    show(run_of(), tmp_path / "run")
    assert f"  teacher     {teacher}" in lines
    assert "  rows        train 100, val 20" in lines
    assert "  steps       78 of 8 rows, 13 an epoch" in lines
    assert not any("control" in line for line in lines)
    lines.clear()
    show(run_of("distill.control=true"), tmp_path / "run")
    assert "  control     as many steps more, on the true labels alone" in lines
    lines.clear()
    show(run_of(f"teacher.name={encoder}"), tmp_path / "run")
    assert f"  teacher     {encoder} is fine-tuned first, for 3 epochs" in lines
    assert not (tmp_path / "run").exists()


def test_what_it_refuses(run_of, tmp_path):
    with pytest.raises(BortError, match="absent.csv is not there"):
        show(run_of("data.unlabelled=absent.csv"), tmp_path / "run")
