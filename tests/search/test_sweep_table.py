"""What the end of a plain sweep makes of its runs, from files alone."""

import csv
import json
import zipfile
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from tiny_runs import log_lines

from bort.models.arch import Arch
from bort.objectives.parameters import count_int8_bytes, count_parameters
from bort.search import sweep_table


def run_folder(place: Path, hidden: int, **summary) -> None:
    """A finished run as `train.py` leaves it."""
    place.mkdir(parents=True)
    sizes = {"arch.depth": 1, "arch.heads": 1, "arch.hidden": hidden, "arch.intermediate": 16}
    (place / "settings.json").write_text(json.dumps(sizes | {"data.length": 16}))
    numbers = {"val/loss": 5.0, "val/mlm_accuracy": 0.2, "parameters": 10 * hidden, "seconds": 1.0}
    (place / "summary.json").write_text(json.dumps(numbers | summary))
    (place / ".hydra").mkdir()
    OmegaConf.save(OmegaConf.create([f"arch.hidden={hidden}"]), place / ".hydra/overrides.yaml")


TEACHER = {
    **{"teacher_parameters": 1000, "teacher_depth": 2, "teacher_heads": 2, "teacher_hidden": 64},
    **{"teacher_intermediate": 128, "val/teacher_entropy": 3.0},
}


def lines_of(folder: Path) -> list[str]:
    said = log_lines()
    sweep_table.write_sweep_table(folder)
    return said


def test_runs_with_one_teacher_are_sorted_by_w(tmp_path):
    for number, (hidden, kl) in enumerate([(8, 3.0), (16, 0.5), (32, 0.4)]):
        run_folder(tmp_path / str(number), hidden, **TEACHER, **{"val/kd_loss": kl})
    said = lines_of(tmp_path)
    assert OmegaConf.load(tmp_path / "optimum.yaml") == {
        **{"depth": 1, "heads": 1, "hidden": 16, "intermediate": 16}
    }
    # operations of a layer: 2 (4 H² + 2 H I) + 4 L H, 16 tokens
    i = (2 * (4 * 256 + 2 * 256) + 64 * 16) / (2 * (2 * (4 * 4096 + 2 * 8192) + 64 * 64))
    w = (1 - 160 / 1000) * (1 - i) * 3 / 3.5
    with (tmp_path / "summary.csv").open(newline="") as file:
        assert float(next(csv.DictReader(file))["w"]) == pytest.approx(w)
    assert said[0] == "sweep: 3 runs, the best first" and "arch.hidden=16" in said[1]
    assert said[-1].endswith(f"arch_file={tmp_path}/optimum.yaml")


def test_runs_without_a_teacher_are_sorted_by_loss(tmp_path):
    for number, loss in enumerate([5.0, 4.0, None]):
        run_folder(tmp_path / str(number), 8, **{"val/loss": loss})
    said = lines_of(tmp_path)
    assert said[0].startswith("sweep: 2 runs") and "val 4.000" in said[1]
    assert (tmp_path / "summary.csv").read_text().splitlines()[1].startswith("1,1,1,8,16,,4.0,")
    assert not (tmp_path / "optimum.yaml").exists()


@pytest.mark.parametrize(
    "other", [{"teacher_hidden": 32}, {"val/teacher_entropy": 3.1}, {"teacher_hidden": None}]
)
def test_two_teachers_make_no_optimum(tmp_path, other):
    run_folder(tmp_path / "0", 8, **TEACHER, **{"val/kd_loss": 1.0})
    run_folder(tmp_path / "1", 16, **(TEACHER | other), **{"val/kd_loss": 1.0})
    lines_of(tmp_path)
    assert (tmp_path / "summary.csv").exists() and not (tmp_path / "optimum.yaml").exists()


def test_nothing_is_larger_than_its_teacher(tmp_path):
    run_folder(tmp_path / "0", 128, **TEACHER, **{"val/kd_loss": 1.0})
    run_folder(tmp_path / "1", 8, **TEACHER, **{"val/kd_loss": 2.0})
    lines_of(tmp_path)
    assert OmegaConf.load(tmp_path / "optimum.yaml").hidden == 8


def test_nothing_to_gather(tmp_path):
    assert lines_of(tmp_path) == [] and list(tmp_path.iterdir()) == []


def test_jobs_are_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 2, 0):
        run_folder(tmp_path / str(number), 8)
    assert [line.split()[0] for line in lines_of(tmp_path)[1:4]] == ["0", "2", "10"]


def test_runs_of_tasks_are_sorted_by_their_first_metric(tmp_path):
    """And averaged over the best of each task; a diagnostic set has no score of its own."""
    scores = [
        ("glue/rte", {"val/accuracy": 0.6}),
        ("glue/mrpc", {"val/accuracy": 0.9, "val/f1": 0.7, "val/loss": 3.0}),
    ]
    scores += [("glue/rte", {"val/accuracy": 0.8}), ("glue/ax", {"test/matthews": 0.1})]
    first = {"glue/rte": "val/accuracy", "glue/mrpc": "val/f1", "glue/ax": "val/matthews"}
    for number, (task, found) in enumerate(scores):
        task_run(tmp_path / str(number), task, found | {"metric": first[task]})
    said = lines_of(tmp_path)
    assert [line.split()[:3] for line in said[1:4]] == [
        ["1", "glue/mrpc", "0.7000"],
        ["2", "glue/rte", "0.8000"],
        ["0", "glue/rte", "0.6000"],
    ]
    # (0.9 + 0.7) / 2 and 0.8
    assert "average of 2 tasks, of each its best run's mean metric: 0.8000" in said[4]
    head, best = (tmp_path / "summary.csv").read_text().splitlines()[:2]
    assert head == "job,task,score,mean,val/accuracy,val/f1,seconds,overrides"
    assert best == "1,glue/mrpc,0.7,0.8,0.9,0.7,1.0,"
    assert not list(tmp_path.glob("*.zip"))


def task_run(folder: Path, task: str, found: dict, answers: dict[str, str] | None = None) -> None:
    (folder / "predictions").mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(found | {"task": task, "seconds": 1.0}))
    for name, text in (answers or {}).items():
        (folder / "predictions" / name).write_text(text)


def test_the_best_answers_are_packed_for_the_server(tmp_path):
    """Of each task those of its best run; those of AX lie with MNLI's; what is missing is said."""
    rte, mnli = {"metric": "val/accuracy"}, {"MNLI-m.tsv": "m", "MNLI-mm.tsv": "mm", "AX.tsv": "ax"}
    task_run(tmp_path / "0", "glue/rte", rte | {"val/accuracy": 0.5}, {"RTE.tsv": "worse"})
    task_run(tmp_path / "1", "glue/rte", rte | {"val/accuracy": 0.7}, {"RTE.tsv": "better"})
    task_run(tmp_path / "2", "glue/mnli", rte | {"val/accuracy": 0.6}, mnli)
    task_run(
        tmp_path / "3", "superglue/cb", {"metric": "val/f1", "val/f1": 0.6}, {"CB.jsonl": "cb"}
    )
    said = [line for line in lines_of(tmp_path) if "upload" in line]
    expected = {"RTE.tsv": "better", **mnli}
    with zipfile.ZipFile(tmp_path / "GLUE.zip") as archive:
        assert {name: archive.read(name).decode() for name in archive.namelist()} == expected
    missing = "CoLA.tsv, SST-2.tsv, MRPC.tsv, STS-B.tsv, QQP.tsv, QNLI.tsv, WNLI.tsv"
    assert said[0].endswith(f"GLUE.zip, 4 of 11 files; the server also wants {missing}")
    with zipfile.ZipFile(tmp_path / "SuperGLUE.zip") as archive:
        assert archive.namelist() == ["CB.jsonl"]
    before = (tmp_path / "GLUE.zip").read_bytes()
    lines_of(tmp_path)
    assert (tmp_path / "GLUE.zip").read_bytes() == before


def test_a_sweep_ends_with_three_answers(tmp_path):
    """The budget is a quarter of T's operations; all three aims are those of a search."""
    for number, (hidden, kl) in enumerate([(8, 3.0), (16, 0.5), (32, 0.4)]):
        run_folder(tmp_path / str(number), hidden, **TEACHER, **{"val/kd_loss": kl})
    lines = lines_of(tmp_path)
    start = lines.index("  three answers from the same records")
    within, knee, by_w = lines[start + 1 : start + 4]
    operations = {h: 2 * (4 * h * h + 2 * h * 16) + 4 * 16 * h for h in (8, 16, 32)}
    teacher = 2 * (2 * (4 * 64 * 64 + 2 * 64 * 128) + 4 * 16 * 64)
    fitting = [h for h, count in operations.items() if count <= 0.25 * teacher]
    errors = {8: 6.0, 16: 3.5, 32: 3.4}
    best = min(fitting, key=errors.get)
    assert f"⟨1,1,{best},16⟩  e {errors[best]:.3f}" in within
    assert within.endswith("proven (within 25% of T's operations)")
    assert "knee of the Pareto front" in knee and "⟨1,1,16,16⟩" in knee
    assert "the paper's W" in by_w and "⟨1,1,16,16⟩" in by_w and by_w.endswith("proven")
    both = [OmegaConf.load(tmp_path / name) for name in ("optimum.yaml", "optimum_w.yaml")]
    assert both[0] == both[1] and both[0].hidden == 16
    assert " MB" not in within  # these weights are not those of a student with any vocabulary


def test_the_size_on_disk_follows_from_the_weights_of_a_run(tmp_path):
    arch = Arch(1, 1, 8, 16)
    run_folder(tmp_path / "0", 8, **TEACHER, **{"val/kd_loss": 1.0})
    summary = json.loads((tmp_path / "0" / "summary.json").read_text())
    summary |= {"parameters": count_parameters(arch, 300, 512), "teacher_parameters": 10**6}
    (tmp_path / "0" / "summary.json").write_text(json.dumps(summary))
    size = count_int8_bytes(arch, 300, 512) / 1e6
    assert f"  {size:.3g} MB  " in "\n".join(lines_of(tmp_path))
