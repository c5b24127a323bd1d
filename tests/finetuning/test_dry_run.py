"""What a fine-tuning will cost is counted on the rows themselves."""

from pathlib import Path

import pytest
from tiny_runs import log_lines, plan_of

from bort.errors import BortError
from bort.finetuning import dry_run as plan


@pytest.mark.parametrize("task", ["glue/rte", "glue/stsb", "superglue/copa"])
def test_the_plan_counts_what_there_is(shared, run_of, task):
    lines = log_lines()
    suite = task.split("/")[0]
    epochs = ["trainer.max_steps=-1", "trainer.max_epochs=3"]
    plan.show(run_of(task, shared / "data" / suite, *epochs), Path("nowhere"))
    found = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[:-1]}
    counts = {
        "glue/rte": ("train 2,490, val 277, test 3,000", 3 * 623),
        "glue/stsb": ("train 5,749, val 1,500, test 1,379", 3 * 1438),
        "superglue/copa": ("train 400, val 100, test 500", 300),
    }
    rows, steps = counts[task]
    assert found["rows"] == rows and found["steps"].startswith(f"{steps:,} of 4 rows")
    assert lines[-1] == "dry_run=true: nothing was started" and not Path("nowhere").exists()


def test_a_task_is_planned_with_the_models_own_length(settings_of, named_model, tmp_path):
    table = tmp_path / "rows.csv"
    table.write_text("text,label\n" + "".join(f"the cube of {k},{k % 2}\n" for k in range(40)))
    given = ["task=custom", f"data.train={table}", "data.source=docstrings", "data.path=null"]
    given += [f"model={named_model}", "trainer.max_steps=-1", "trainer.max_epochs=2"]
    assert plan_of(settings_of(*given, experiment="finetune"))["rows"].startswith("train ")
    with pytest.raises(BortError, match="33"):
        plan_of(settings_of(*given, "data.length=33", experiment="finetune"))
