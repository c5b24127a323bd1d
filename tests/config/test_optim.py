"""Settings of the optimizer, and the rate of a width."""

import pytest
from composed_settings import composed

from bort.config.optim import OptimConfig
from bort.errors import BortError

MESSAGES = [
    (
        lambda: OptimConfig(name="adam"),
        "optim.name=adam is unknown; use muon, adamw; did you mean 'adamw'?",
    ),
    (
        lambda: OptimConfig(class_weights="inverse"),
        "optim.class_weights=inverse is unknown; use balanced",
    ),
    (lambda: OptimConfig(lr=0), "optim.lr=0 must be above 0"),
    (
        lambda: OptimConfig(lr="fast"),
        "optim.lr=fast: Value 'fast' of type 'str' could not be converted to Float; give a rate, "
        "or auto",
    ),
    (
        lambda: OptimConfig(lr=True),
        "optim.lr=True: Value 'True' of type 'bool' could not be converted to Float; give a rate, "
        "or auto",
    ),
    (lambda: OptimConfig(lr=float("nan")), "optim.lr=nan must be above 0"),
    (lambda: OptimConfig(muon_ratio=-1), "optim.muon_ratio=-1 must be above 0"),
    (lambda: OptimConfig(eps=0), "optim.eps=0 must be above 0"),
    (lambda: OptimConfig(weight_decay=-1), "optim.weight_decay=-1 must be at least 0"),
    (lambda: OptimConfig(warmup=1.0), "optim.warmup=1 must be at least 0 and below 1"),
    (
        lambda: OptimConfig(schedule="cosine"),
        "optim.schedule=cosine is unknown; use linear, wsd; did you mean 'linear'?",
    ),
    (lambda: OptimConfig(decay=0), "optim.decay=0 must be above 0 and at most 1"),
    (lambda: OptimConfig(decay=1.5), "optim.decay=1.5 must be above 0 and at most 1"),
    (
        lambda: OptimConfig(warmup=0.5, schedule="wsd", decay=0.6),
        "optim.warmup=0.5 and optim.decay=0.6 are shares of one budget; their sum must be at most "
        "1",
    ),
    (lambda: OptimConfig(beta1=1.0), "optim.beta1=1 must be at least 0 and below 1"),
    (lambda: OptimConfig(beta2=-0.5), "optim.beta2=-0.5 must be at least 0 and below 1"),
]


@pytest.mark.parametrize(("wrong", "message"), MESSAGES, ids=[m for _, m in MESSAGES])
def test_messages(wrong, message):
    with pytest.raises(BortError) as error:
        wrong()
    assert str(error.value) == message


def test_one_rule_for_rates():
    """What no rate is given for is trained at 4e-3 · (H / 128)^-0.67, whatever the command."""

    def rule(hidden: int):
        return pytest.approx(4e-3 * (hidden / 128) ** -0.67, rel=1e-12)

    for experiment in ("kd_pretrain", "mlm_pretrain"):
        for arch, hidden in (("tiny", 64), ("bort", 1024), ("bert_base", 768)):
            run = composed(f"experiment={experiment}", f"arch={arch}")
            assert run.optim.lr == rule(hidden) and run.arch.hidden == hidden
    assert composed("arch=bort").optim.lr == pytest.approx(1e-3, rel=0.01)
    assert composed("experiment=teacher_pretrain").optim.lr == rule(128) == 4e-3
    assert composed("teacher.arch.hidden=256").teacher.lr == rule(256)
    assert composed("experiment=kd_vs_mlm", "arch.hidden=32").compare.lrs == [rule(32)]
    # what is given is taken as it is
    assert composed("arch=bort", "optim.lr=2e-3").optim.lr == 2e-3
    assert composed("experiment=kd_vs_mlm", "optim.lr=2e-3").compare.lrs == [2e-3]
    assert composed("teacher.lr=1e-3").teacher.lr == 1e-3
    assert composed("experiment=finetune").optim.lr is None  # which has a rule of its own


def test_rates_are_numbers_or_auto():
    """Also where a YAML file has a whole number, or one in quotation marks."""
    assert type(OptimConfig(lr=1).lr) is float and OptimConfig(lr="1e-3").lr == 1e-3
    task = ("task=glue/rte", "model=x", "optim.lr=auto")
    assert composed("experiment=finetune", *task).optim.lr == "auto"
    taught = composed("experiment=kd_finetune", *task, "teacher.name=x")
    assert taught.optim.lr == "auto"
    line = "optim.lr=auto is for tasks with labels, in experiment=finetune and kd_finetune; Agora"
    for job in ("experiment=agora", "experiment=mlm_pretrain", "experiment=kd_vs_mlm"):
        with pytest.raises(BortError, match=line):
            composed(job, "optim.lr=auto")
