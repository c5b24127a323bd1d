"""The plan of an Agora counts its rows, and refuses what the run would refuse."""

import pytest
from tiny_runs import plan_of

from bort.errors import BortError


def test_agora_is_planned_with_the_models_own_length(settings_of, named_model, tmp_path):
    table = tmp_path / "rows.csv"
    table.write_text("text,label\n" + "".join(f"the cube of {k},{k % 2}\n" for k in range(40)))
    given = ["task=custom", f"data.train={table}", "data.source=docstrings", "data.path=null"]
    given += [f"model={named_model}", "trainer.max_steps=-1", "trainer.max_epochs=2"]
    given += [f"agora.teacher={named_model}"]
    plan = plan_of(settings_of(*given, experiment="agora"))
    assert plan["rows"].startswith("train ") and "of the training rows" in plan["E"]
    assert plan["S"] == "⟨2,2,32,64⟩, 117 kB of memory beside the student"
    with pytest.raises(BortError, match="33"):
        plan_of(settings_of(*given, "data.length=33", experiment="agora"))
