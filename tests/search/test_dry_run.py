"""The plan of a search says what it will do, and refuses what the search would refuse."""

from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from tiny_runs import plan_of

from bort.config.compose import parse_settings
from bort.config.search import SearchRunConfig
from bort.errors import BortError
from bort.search import sweep as search
from bort.trials import inputs

CONF = Path(__file__).resolve().parents[2] / "conf"


def test_a_search_costs_what_its_records_will_say(search_of, tmp_path):
    run = search_of("search.n=20", "grid.depth=[1]")
    with search.open_sweep(run, tmp_path / "run") as sweep:
        work = sum(sweep.plan.flops.values())
        passes = sweep.plan.teacher_flops * 2 + sweep.plan.teacher_val_flops
    shown = plan_of(run)["FLOPs"]  # "at most 1.0e+09 (trainings 9.9e+08, finalists …"
    numbers = [
        float(word) for word in shown.replace(",", " ").replace(")", " ").split() if "e+" in word
    ]
    assert numbers[1] == pytest.approx(work, rel=0.06)  # two digits are shown
    assert numbers[3] == pytest.approx(passes, rel=0.06)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("tab_missing.csv", "lacks 20 of the points: ⟨3,8,256,1024⟩, ⟨"),
        ("tab_nan.csv", "line 2: latency_ms=nan must be above 0"),
        ("tab_dup.csv", "ms further up; leave one of them out"),
    ],
)
def test_a_wrong_latency_table_is_refused_before_the_teacher(
    shared, search_of, tmp_path, monkeypatch, name, line
):
    path = shared / "cases" / "N" / "N22-latency-table" / name
    monkeypatch.setattr(inputs, "prepare", lambda *_: pytest.fail("the teacher was trained"))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        given = ["latency=table", f"latency.path={path}", "name=x", "output_dir=y", "trainer=cpu"]
        run = parse_settings(compose("search", given), SearchRunConfig)

    def whole(run):
        with search.open_sweep(run, tmp_path / "run"):
            pass

    for start in (plan_of, whole):
        with pytest.raises(BortError) as error:
            start(run)
        assert line in str(error.value) and not (tmp_path / "run").exists()


def test_a_latency_table_without_the_teacher_is_refused(search_of, tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "prepare", lambda *_: pytest.fail("the teacher was trained"))
    path = tmp_path / "table.csv"
    run = search_of("latency=table", f"latency.path={Path(__file__)}")
    lines = ["depth,heads,hidden,intermediate,latency_ms"]
    lines += [f"{a.depth},{a.heads},{a.hidden},{a.intermediate},5" for a in run.grid.points()[0]]
    path.write_text("\n".join(lines))
    run = replace(run, latency=replace(run.latency, path=str(path)))
    with pytest.raises(BortError, match="lacks 1 of the points: ⟨2,2,32,64⟩"):
        plan_of(run)
    path.write_text("\n".join([*lines, "2,2,32,64,9"]))
    assert "8 of 8" in plan_of(run)["candidates"]
