"""Before the trainings: latencies, measured once, and T's passes."""

import shutil
from dataclasses import replace

import pytest
from tiny_runs import sweep

from bort.config.search import LatencyConfig
from bort.errors import BortError
from bort.models.arch import Arch
from bort.objectives import latency
from bort.pretraining.recipe import prepare
from bort.search import sweep as search
from bort.trials import planning


def test_a_search_goes_on_after_its_teacher_states_were_damaged(done, tmp_path):
    run, folder, _, _, _ = done
    copy = shutil.copytree(folder, tmp_path / "run")
    harmed = [copy / "teacher" / "val.f16", copy / "teacher" / f"train-s{run.seed}.f16"]
    content = [path.read_bytes() for path in harmed]
    for path in harmed:
        path.write_bytes(bytes(path.stat().st_size))
    search.Sweep(run, copy)
    assert [path.read_bytes() for path in harmed] == content


@pytest.mark.parametrize("source", ["measured", "fitted", "onnx_int8"])
def test_latencies_are_milliseconds_and_recorded_once(search_of, tmp_path, source, monkeypatch):
    grid = ["grid.intermediate=[16]", "grid.hidden=[16]"]
    run = search_of(f"latency={source}", "latency.rounds=5", "latency.threads=1", *grid)
    corpus, teacher = prepare(run)
    shape = Arch(2, 2, 128, 512)
    found = planning.measure_latency(run, shape, 280, tmp_path)
    assert found.unit == "ms" and len(found.points) == 3
    for value, low, high in found.points.values():
        assert 0 < low <= value <= high < 1000
    assert found.points[shape][0] > 2 * found.points[Arch(1, 1, 16, 16)][0]
    monkeypatch.setattr(planning, "measure_latencies", lambda *_: pytest.fail("measured again"))
    assert planning.measure_latency(run, shape, 280, tmp_path) == found
    assert [path.name for path in tmp_path.iterdir()] == ["latency.json"]


def test_fitted_as_it_will_be_deployed(search_of, tmp_path, monkeypatch):
    run = search_of("latency=fitted", "latency.engine=onnx_int8", "latency.rounds=1")
    exported = []
    call = latency.onnx.make_encoder_call
    monkeypatch.setattr(
        latency.onnx, "make_encoder_call", lambda *a: exported.append(a[-1]) or call(*a)
    )
    run = replace(run, latency=replace(run.latency, shapes=6))
    found = planning.measure_latency(run, Arch(2, 2, 32, 64), 280, tmp_path)
    assert exported and all(exported) and len(exported) < len(found.points) == 9
    assert found.note.startswith("fitted: onnx_int8, batch 1 × 128 tokens")


def test_no_room_for_the_onnx_files(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1e6})()
    monkeypatch.setattr(latency.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(BortError, match="latency=fitted latency.engine=onnx_int8 needs a few"):
        latency.measure_latencies(
            *(
                LatencyConfig(source="onnx"),
                [Arch(1, 1, 256, 256)],
                None,
                8192,
                tmp_path,
            )
        )


def test_latency_table(search_of, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("depth,heads,hidden,intermediate,latency_ms\n1,1,16,16,2.5\n")
    run = search_of("latency=table", f"latency.path={path}")
    with pytest.raises(BortError, match=r"lacks 8 of the points: ⟨2,2,32,64⟩, ⟨1,1,16,32⟩, .*…"):
        planning.measure_latency(run, Arch(2, 2, 32, 64), 280, tmp_path)
    lines = ["depth,heads,hidden,intermediate,latency_ms", "2,2,32,64,9"]
    lines += [f"{a.depth},{a.heads},{a.hidden},{a.intermediate},5" for a in run.grid.points()[0]]
    path.write_text("\n".join(lines))
    run = replace(run, search=replace(run.search, max_latency_ms=4.0))
    with pytest.raises(BortError, match="no candidate is left of 8; the nearest miss is"):
        sweep(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()
