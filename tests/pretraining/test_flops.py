"""Counted work against torch's own FLOP counter on whole steps, validations and searches."""

from dataclasses import replace

import pytest
import torch
from tiny_runs import counting

from bort.config.optim import OptimConfig
from bort.models.arch import Arch
from bort.models.bert import ModelConfig
from bort.models.initialization import build_model
from bort.pretraining.flops import Text, count_optimizer_flops, count_training_flops
from bort.pretraining.recipe import prepare
from bort.search import sweep as search
from bort.training import optim
from bort.trials import training


@pytest.mark.parametrize(
    "arch", [Arch(2, 2, 16, 40), Arch(1, 4, 32, 24), Arch(3, 1, 8, 8)], ids=str
)
@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_an_optimizer_step(arch, name):
    model = build_model(ModelConfig(**vars(arch), vocab_size=50), "paper")
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer = optim.build_optimizer(model, OptimConfig(name=name, lr=1e-3))
    with counting() as counter:
        optimizer.step()
    assert count_optimizer_flops(arch, name) == counter.get_total_flops()


def test_muon_of_bort_costs_more_than_its_step():
    """648 GFLOP beside 148 of 8 × 128 tokens forward and backward, without the vocabulary."""
    bort = Arch(4, 8, 1024, 768)
    assert round(count_optimizer_flops(bort, "muon") / 1e9) == 648
    text = Text(1024, 128, 0)
    assert round(count_training_flops(bort, 0, text, 0, "muon") / 1e9) == 148


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_search_counts_what_it_does(search_of, tmp_path, accumulate):
    """T's passes; of a candidate training, validations, T's decoder and the recorded error."""
    more = f"trainer.accumulate_grad_batches={accumulate}"
    # the start from T's embeddings is no step
    run = search_of("grid.depth=[1]", "grid.hidden=[16]", "search.n=10", more, "init=default")
    folder = tmp_path / "run"
    prepare(run)  # T's own training is not the search's
    with counting() as counter, search.open_sweep(run, folder) as sweep:
        plan = sweep.plan
    assert plan.teacher_flops + plan.teacher_val_flops == counter.get_total_flops()
    (job,) = sweep.ask()[:1]
    (point,) = (p for p in plan.points if p.xi == job.xi)
    settings = replace(run, arch=job.xi)
    with counting() as counter:
        training.evaluate(settings, folder, folder / job.folder)
    assert point.flops == pytest.approx(counter.get_total_flops(), rel=1e-9)
