"""The plan of a distillation of embeddings."""

from tiny_runs import log_lines

from bort.embeddings.dry_run import show


def test_a_plan(run_of, tmp_path):
    """It counts what the run will read, and leaves nothing."""
    lines = log_lines()
    show(run_of(), tmp_path / "run")
    plan = "\n".join(lines)
    assert "texts       95, and 4 held out" in plan and "steps       96 of 8 texts" in plan
    assert "⟨1,2,16,32⟩" in plan and "teacher     " in plan
    assert not (tmp_path / "run").exists()
