"""Pre-trainings in bf16: what stays float32, and that a resumed one has the same bits."""

import pytest
import torch
from safetensors.torch import load_file

from bort.errors import BortError
from bort.models.bert import MaskedLM
from bort.pretraining.comparison import ARMS
from bort.pretraining.kd_vs_mlm import compare
from bort.pretraining.module import DistillationModule
from bort.pretraining.recipe import pretrain
from bort.runs.folder import RunFolder
from bort.search.sweep import run_in_process

BF16 = "trainer.precision=bf16-mixed"


@pytest.fixture
def kinds(monkeypatch):
    """The types of the student's logits in training steps and in validations."""
    seen = {"train": set(), "val": set()}
    forward = MaskedLM.forward

    def note(model, *inputs, **options):
        logits = forward(model, *inputs, **options)
        if model.head.bias.requires_grad:  # a student's; a teacher is frozen
            seen["train" if model.training else "val"].add(logits.dtype)
        return logits

    monkeypatch.setattr(MaskedLM, "forward", note)
    return seen


def test_steps_are_bf16_and_validations_float32(settings_of, tmp_path, kinds):
    run = settings_of(BF16, "trainer.val_check_interval=2", experiment="kd_pretrain")
    whole = pretrain(run, tmp_path / "whole")
    assert kinds == {"train": {torch.bfloat16}, "val": {torch.float32}}
    assert whole["precision"] == "bf16-mixed"
    weights = load_file(tmp_path / "whole" / "model" / "model.safetensors").values()
    assert {weight.dtype for weight in weights} == {torch.float32}


def test_a_resumed_run_has_the_same_bits(settings_of, tmp_path, monkeypatch):
    run = settings_of(BF16, "checkpoint_every=2", experiment="kd_pretrain")
    pretrain(run, tmp_path / "whole")
    step = DistillationModule.training_step

    def stop(module, batch, index):
        if module.trainer.global_step == 3:
            raise BortError("stopped")
        return step(module, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(DistillationModule, "training_step", stop)
        with pytest.raises(BortError, match="stopped"):
            pretrain(run, tmp_path / "cut")
    pretrain(run, tmp_path / "cut")
    files = [tmp_path / name / "model" / "model.safetensors" for name in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_search_has_one_precision(search_of, tmp_path, kinds):
    run = search_of(
        BF16, "grid={depth: [1], hidden: [16], head_size: 16, intermediate: [16], ratio: null}",
        "search.finalists=1", "search.seeds=1",
    )  # fmt: skip
    folder = tmp_path / "search"
    run_in_process(run, folder)
    assert kinds == {"train": {torch.bfloat16}, "val": {torch.float32}}
    trials = [path.parent for path in folder.glob("D*/settings.json")]
    assert {RunFolder(path).precision for path in (folder, *trials)} == {"bf16-mixed"}
    assert trials


def test_a_comparison_has_one_precision(settings_of, tmp_path, kinds):
    """Its arms, its teacher and the timing of their steps are bf16; all validations are float32."""
    run = settings_of(BF16, "trainer.val_check_interval=2", experiment="kd_vs_mlm")
    folder = tmp_path / "run"
    summary = compare(run, folder)
    assert kinds == {"train": {torch.bfloat16}, "val": {torch.float32}}
    arms = [RunFolder(summary[f"{arm}/folder"]) for arm in ARMS]
    assert {place.precision for place in (RunFolder(folder), *arms)} == {"bf16-mixed"}
    assert {place.find_summary()["precision"] for place in arms} == {"bf16-mixed"}
    for place in arms:
        weights = load_file(place.model / "model.safetensors").values()
        assert {weight.dtype for weight in weights} == {torch.float32}
    assert compare(run, folder) == summary
