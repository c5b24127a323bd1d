"""The plan of a pre-training says what it will do, and refuses what the run would refuse."""

from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from tiny_runs import NOWHERE, counting, log_lines, plan_of

from bort.config.compose import parse_settings
from bort.errors import BortError
from bort.pretraining import dry_run as plan
from bort.pretraining.flops import count_optimizer_share, measure_amount
from bort.pretraining.recipe import prepare, pretrain, train
from bort.training import precision
from bort.training.products import ProductSpeed

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_distillation_costs_what_torch_counts(settings_of, named_model, tmp_path, accumulate):
    """Student, Muon, the teacher's passes and every validation of a whole run, within 1%."""
    run = settings_of(
        *(f"teacher.name={named_model}", "trainer.max_steps=24", "trainer.val_check_interval=10"),
        *(f"trainer.accumulate_grad_batches={accumulate}", "data.length=32"),
        experiment="kd_pretrain",
    )
    corpus, teacher = prepare(run)
    with counting() as counter:
        train(run, tmp_path / "run", corpus, teacher)
    parts = dict(plan.list_pretraining_parts(run, plan.look_ahead(run)))
    assert parts.keys() == {"student", "teacher's passes"}
    assert sum(parts.values()) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_a_kept_teacher_is_counted_as_kept(settings_of):
    run = settings_of("teacher.max_steps=7", "data.vocab_size=290", experiment="kd_pretrain")
    assert "teacher's training, once" in plan_of(run)["FLOPs"]
    prepare(run)
    line = plan_of(run)["FLOPs"]
    assert "teacher, kept from before 0.0e+00" in line and " with validations (student " in line


def test_the_vocabulary_is_that_of_the_tokenizer(settings_of, named_model):
    for given in (f"data.tokenizer={named_model}", f"teacher.name={named_model}"):
        assert plan_of(settings_of(given))["parameters"].endswith("(vocabulary 300)")
    assert plan_of(settings_of())["parameters"].endswith("(vocabulary 280)")


def test_the_plan_of_a_comparison_has_all_arms(settings_of, named_model):
    run = settings_of(
        f"teacher.name={named_model}", "compare.lrs=[1e-3,2e-3]", experiment="kd_vs_mlm"
    )
    parts = [name for name, _ in plan.list_pretraining_parts(run, plan.look_ahead(run))]
    assert len(parts) == 8 and parts[:2] == ["KD, lr 0.001", "KD, lr 0.002"]
    assert parts[6:] == ["MLM, fresh start, lr 0.001", "MLM, fresh start, lr 0.002"]
    afresh = replace(run, init="default")
    assert [name for name, _ in plan.list_pretraining_parts(afresh, plan.look_ahead(afresh))] == (
        parts[:6]
    )
    assert plan_of(run)["rate"] == "0.001, 0.002 at its peak"


@pytest.mark.parametrize(
    ("batch", "accumulate", "share", "hint"),
    [(8, 1, 81, True), (8, 4, 52, True), (64, 1, 35, True), (128, 1, 21, False)],
)
def test_muons_share_of_a_step(settings_of, batch, accumulate, share, hint):
    """Bort: 648 GFLOP of Muon beside 18.8 of each 128 tokens, whatever the number of steps."""
    settings = (
        "arch.depth=4", "arch.heads=8", "arch.hidden=1024", "arch.intermediate=768",
        "data.length=128", f"data.batch_size={batch}",
        f"trainer.accumulate_grad_batches={accumulate}",
    )  # fmt: skip
    run = settings_of(*settings)
    computed = count_optimizer_share(run, 280, measure_amount(run, None))
    assert round(100 * computed) == share
    lines = log_lines()
    plan.show_optimizer_share(computed)
    (line,) = lines
    assert f"Muon        {share}% of the FLOPs of a step" in line
    assert ("; optim=adamw or a larger data.batch_size lowers it" in line) == hint


def test_adamw_has_no_share_of_a_step(settings_of):
    assert "of the FLOPs of a step" in plan_of(settings_of())["Muon"]
    assert "Muon" not in plan_of(settings_of("optim.name=adamw"))


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
        (
            ["teacher.name={named_model}", "data.length=33"],
            "longer than the 32 tokens of the teacher",
        ),
        (["teacher.name={named_model}", "data.tokenizer=bpe"], "has a vocabulary of 300"),
        (["trainer.devices=x"], "trainer: "),
        (["trainer.max_stps=3"], "trainer.max_stps is not a setting"),
    ],
)
def test_what_a_run_refuses_its_plan_refuses(
    settings_of, named_model, tmp_path, monkeypatch, given, line
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("a,b\n")
    run = settings_of(experiment="kd_pretrain")
    for word in given:
        part, _, key = word.partition("=")[0].rpartition(".")
        value = word.partition("=")[2].format(named_model=named_model)
        value = int(value) if value.isdigit() else value
        own = getattr(run, part)
        changed = {**own, key: value} if isinstance(own, dict) else replace(own, **{key: value})
        run = replace(run, **{part: changed})
    for start in (plan_of, lambda run: pretrain(run, NOWHERE)):
        with pytest.raises(BortError) as error:
            start(run)
        assert line in str(error.value) and "\n" not in str(error.value)


def test_a_folder_with_another_run_is_refused(settings_of, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BortError, match="holds files but no run"):
        plan.show(settings_of(), tmp_path)


def test_the_hours_are_those_of_the_precision(settings_of, monkeypatch):
    """bf16 counts by what this machine has timed, and as float32 before that."""
    untrained = "teacher.lr=0.0123"  # so that the cache holds this teacher in no precision
    run = settings_of("trainer.precision=bf16-mixed", untrained, experiment="kd_pretrain")
    monkeypatch.setattr(plan, "measure_gflops", lambda _: 1e-8)
    monkeypatch.setattr(precision, "read_speeds", dict)

    def read_hours(run) -> tuple[float, str]:
        time, _, rest = plan_of(run)["time"].removeprefix("about ").partition(" hours on ")
        return float(time.replace(",", "")), rest.partition("GPU, ")[2]

    untimed, words = read_hours(run)
    assert words == "in float32, as bf16 is not timed yet" and untimed > 1
    speeds = dict.fromkeys(precision.count_work(run), ProductSpeed(100.0, 250.0))
    monkeypatch.setattr(precision, "read_speeds", lambda: speeds)
    timed, words = read_hours(run)
    assert words == "in bf16, 2.5 × as fast as float32"
    assert timed == pytest.approx(untimed / 2.5, rel=1e-2)
    hours, words = read_hours(settings_of(untrained, experiment="kd_pretrain"))
    assert (hours, words) == (untimed, "in float32")
