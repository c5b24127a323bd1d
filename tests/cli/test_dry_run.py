"""The plan of a run says what the run will do, and refuses what the run would refuse."""

from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from tiny_runs import counting, log_lines

from bort.agora import dry_run as agora_plan
from bort.config.compose import parse_settings
from bort.config.search import SearchRunConfig
from bort.errors import BortError
from bort.finetuning import dry_run as task_plan
from bort.models.arch import Arch
from bort.models.bert import ModelConfig, build_model
from bort.models.huggingface import save_model
from bort.pretraining import dry_run as plan
from bort.pretraining import recipe as pretrain
from bort.search import dry_run as search_plan
from bort.search import sweep as search
from bort.search import trial
from bort.text.tokenizer import train_tokenizer

CONF = Path(__file__).resolve().parents[2] / "conf"
NOWHERE = Path("nowhere")


def plan_of(run) -> dict[str, str]:
    """The lines of a plan by their first word."""
    lines = log_lines()
    plans = {"search": search_plan.show, "finetune": task_plan.show, "agora": agora_plan.show}
    plans.get(run.job, plan.show)(run, NOWHERE)
    assert lines[-1] == "dry_run=true: nothing was started" and not NOWHERE.exists()
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[:-1]}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A masked language model of 300 words and 32 positions."""
    words = [f"Line {k}: the cube of {k} is {k**3}" for k in range(60)]
    sizes = ModelConfig(**vars(Arch(2, 2, 32, 64)), vocab_size=300, positions=32)
    folder = tmp_path_factory.mktemp("model") / "named"
    save_model(build_model(sizes), train_tokenizer(words, 300), folder)
    return folder


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_distillation_costs_what_torch_counts(settings_of, model, tmp_path, accumulate):
    """Student, Muon, the teacher's passes and every validation of a whole run, within 1%."""
    run = settings_of(
        *(f"teacher.name={model}", "trainer.max_steps=24", "trainer.val_check_interval=10"),
        *(f"trainer.accumulate_grad_batches={accumulate}", "data.length=32"),
        experiment="kd_pretrain",
    )
    corpus, teacher = pretrain.prepare(run)
    with counting() as counter:
        pretrain.train(run, tmp_path / "run", corpus, teacher)
    parts = dict(plan.list_pretraining_parts(run, plan.look_ahead(run)))
    assert parts.keys() == {"student", "teacher's passes"}
    assert sum(parts.values()) == pytest.approx(counter.get_total_flops(), rel=0.01)


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


def test_a_kept_teacher_is_counted_as_kept(settings_of):
    run = settings_of("teacher.max_steps=7", "data.vocab_size=290", experiment="kd_pretrain")
    assert "teacher's training, once" in plan_of(run)["FLOPs"]
    pretrain.prepare(run)
    assert "teacher, kept from before 0.0e+00" in plan_of(run)["FLOPs"]


def test_the_vocabulary_is_that_of_the_tokenizer(settings_of, model):
    for given in (f"data.tokenizer={model}", f"teacher.name={model}"):
        assert plan_of(settings_of(given))["parameters"].endswith("(vocabulary 300)")
    assert plan_of(settings_of())["parameters"].endswith("(vocabulary 280)")


def test_the_plan_of_a_comparison_has_all_arms(settings_of, model):
    run = settings_of(f"teacher.name={model}", "compare.lrs=[1e-3,2e-3]", experiment="kd_vs_mlm")
    parts = [name for name, _ in plan.list_pretraining_parts(run, plan.look_ahead(run))]
    assert len(parts) == 6 and parts[:2] == ["KD, lr 0.001", "KD, lr 0.002"]
    assert plan_of(run)["rate"] == "0.001, 0.002 at its peak"


def test_the_paper_is_planned_without_its_data():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        given = ["experiment=paper", "dry_run=true", "name=x", "output_dir=y", "trainer=cpu"]
        run = parse_settings(compose("train", given))
        lines = log_lines()
        plan.show(run, NOWHERE)
        missing = [line for line in lines if line.startswith("  missing")]
        assert "roberta-large" in missing[0] and "data.path" in missing[1]
        assert "76,208,217 (vocabulary 50,265)" in lines[0]
        with pytest.raises(BortError, match="data=text needs data.path="):
            parse_settings(compose("train", ["experiment=paper", "name=x", "output_dir=y"]))


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["data.path=rows.csv"], "not a kind of file that is read here"),
        (["data.path=gone.txt"], "no such file or folder"),
        (["teacher.name={model}", "data.length=33"], "longer than the 32 tokens of the teacher"),
        (["teacher.name={model}", "data.tokenizer=bpe"], "has a vocabulary of 300"),
        (["trainer.devices=x"], "trainer: "),
        (["trainer.max_stps=3"], "trainer.max_stps is not a setting"),
    ],
)
def test_what_a_run_refuses_its_plan_refuses(
    settings_of, model, tmp_path, monkeypatch, given, line
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("a,b\n")
    run = settings_of(experiment="kd_pretrain")
    for word in given:
        part, _, key = word.partition("=")[0].rpartition(".")
        value = word.partition("=")[2].format(model=model)
        value = int(value) if value.isdigit() else value
        own = getattr(run, part)
        changed = {**own, key: value} if isinstance(own, dict) else replace(own, **{key: value})
        run = replace(run, **{part: changed})
    for start in (plan_of, lambda run: pretrain.pretrain(run, NOWHERE)):
        with pytest.raises(BortError) as error:
            start(run)
        assert line in str(error.value) and "\n" not in str(error.value)


def test_a_folder_with_another_run_is_refused(settings_of, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BortError, match="holds files but no run"):
        plan.show(settings_of(), tmp_path)


def test_a_task_is_planned_with_the_models_own_length(settings_of, model, tmp_path):
    table = tmp_path / "rows.csv"
    table.write_text("text,label\n" + "".join(f"the cube of {k},{k % 2}\n" for k in range(40)))
    given = ["task=custom", f"data.train={table}", "data.source=docstrings", "data.path=null"]
    given += [f"model={model}", "trainer.max_steps=-1", "trainer.max_epochs=2"]
    for job in ("finetune", "agora"):
        more = [f"agora.teacher={model}"] if job == "agora" else []
        assert plan_of(settings_of(*given, *more, experiment=job))["rows"].startswith("train ")
        with pytest.raises(BortError, match="33"):
            plan_of(settings_of(*given, *more, "data.length=33", experiment=job))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("tab_missing.csv", "lacks 19 of the points: ⟨2,4,128,512⟩, ⟨"),
        ("tab_nan.csv", "line 2: latency_ms=nan must be above 0"),
        ("tab_dup.csv", "ms further up; leave one of them out"),
    ],
)
def test_a_wrong_latency_table_is_refused_before_the_teacher(
    shared, search_of, tmp_path, monkeypatch, name, line
):
    path = shared / "cases" / "N" / "N22-latency-table" / name
    monkeypatch.setattr(trial, "prepare", lambda *_: pytest.fail("the teacher was trained"))
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
    monkeypatch.setattr(trial, "prepare", lambda *_: pytest.fail("the teacher was trained"))
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
