"""The quiet teacher, steps that are made of several batches, and any Lightning trainer."""

import functools
import math
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from bort.config.distill import DistillConfig
from bort.config.optim import OptimConfig
from bort.errors import BortError
from bort.models.arch import Arch
from bort.models.bert import MaskedLM, ModelConfig
from bort.models.huggingface import load_masked_lm, save_model
from bort.models.initialization import build_model
from bort.pretraining.losses import mlm_loss
from bort.pretraining.module import DistillationModule
from bort.pretraining.recipe import prepare, train
from bort.training.checkpoint import AtomicCheckpointIO

STUDENT = torch.tensor([[0.0, 0, 0], [1, 2, 3]])  # case L3: two positions, three words
TEACHER = torch.tensor([[2.0, 0, 0], [1, 2, 3]])
WORDS = torch.tensor([0, 2])


def test_total_in_a_training_step():
    """The weights of the settings meet the two terms in `training_step` itself."""
    module = stub(DistillConfig(w_kd=0.5, w_mlm=0.1, temperature=2.0), STUDENT, TEACHER)
    batch = {"input_ids": torch.zeros(1, 4), "positions": torch.arange(2), "labels": WORDS}
    assert module.training_step(batch, 0).item() == pytest.approx(0.198595, abs=1e-6)


def test_kd_needs_a_teacher():
    with pytest.raises(BortError, match="there is no teacher; set teacher.name"):
        DistillationModule(tiny(), None, OptimConfig(lr=4e-3), DistillConfig(w_kd=1.0))


# ------------------------------------------------------------------------------------ helpers


class Fixed(torch.nn.Module):
    """Gives rows of a parameter as its logits, whatever the input is."""

    gives = frozenset({"logits"})  # as a teacher

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits = torch.nn.Parameter(logits.clone())

    def forward(self, input_ids, attention_mask=None, *, positions):
        return self.logits[positions]

    def compute_logits(self, input_ids, positions, attention_mask=None):
        return self(input_ids, attention_mask, positions=positions).detach()


def stub(
    distill: DistillConfig, student: torch.Tensor, teacher: torch.Tensor
) -> DistillationModule:
    module = DistillationModule(Fixed(student), Fixed(teacher), OptimConfig("adamw", 4e-3), distill)
    module.trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    return module


def tiny(seed: int = 0, dropout: float = 0.0, hidden: int = 16) -> MaskedLM:
    config = ModelConfig(
        **vars(Arch(2, 2, hidden, 32)),
        vocab_size=40,
        positions=16,
        dropout=dropout,
        attention_dropout=dropout,
    )
    return build_model(config, "paper", seed)


def example(rows: int, masked: list[int], seed: int = 0) -> dict[str, torch.Tensor]:
    """A batch of `rows` sequences of 10 words with so many masked places in each."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 40, (rows, 10), generator=generator)
    positions = torch.cat([10 * k + 1 + torch.arange(count) for k, count in enumerate(masked)])
    labels = torch.randint(5, 40, (len(positions),), generator=generator)
    return {"input_ids": ids, "positions": positions, "labels": labels}


def split(batch: dict, parts: int) -> list[dict[str, torch.Tensor]]:
    rows = len(batch["input_ids"]) // parts
    found = []
    for k in range(parts):
        inside = batch["positions"].div(10 * rows, rounding_mode="floor") == k
        found.append(
            {
                "input_ids": batch["input_ids"][k * rows : (k + 1) * rows],
                "positions": batch["positions"][inside] - 10 * rows * k,
                "labels": batch["labels"][inside],
            }
        )
    return found


def fit(module: DistillationModule, batches: list[dict], **trainer) -> list[dict[str, float]]:
    """Train on these batches in order; the logged rows."""
    logged = []
    module.log_row = lambda row, step: logged.append({**row, "step": step})
    settings = {"max_epochs": 1, "accelerator": "cpu", "log_every_n_steps": 1, "logger": False}
    settings |= {"enable_checkpointing": False, "enable_progress_bar": False}
    settings |= {"enable_model_summary": False, "gradient_clip_val": 1.0, "limit_val_batches": 0}
    loader = DataLoader(batches, batch_size=None)
    pl.Trainer(**(settings | trainer)).fit(module, loader, loader)
    return logged


# ------------------------------------------------------------------------------------ accumulation


def four_and_nothing() -> list[dict[str, torch.Tensor]]:
    """Case L1 for logits 0 of e⁴ words: one masked token with loss 4, then three with loss 0."""
    ids = torch.zeros(1, 10, dtype=torch.long)
    labels = torch.zeros(3, dtype=torch.long)
    return [
        {"input_ids": ids, "positions": torch.tensor([0]), "labels": labels[:1]},
        {"input_ids": ids, "positions": torch.tensor([1, 2, 3]), "labels": labels},
    ]


def hand_logits() -> torch.Tensor:
    """Cross-entropy of word 0 is 4 in row 0 and 0 in rows 1 to 3."""
    other = math.log(math.exp(4) - 1)
    return torch.tensor([[0.0, other]] + 3 * [[100.0, 0.0]])


@pytest.mark.parametrize(("accumulate", "losses"), [(1, [4.0, 0.0]), (2, [1.0]), (5, [1.0])])
def test_loss_of_a_step_by_hand(accumulate, losses):
    """(4 + 0 + 0 + 0) / 4 = 1, where the mean of means is 2; in a last, short group too."""
    module = DistillationModule(
        Fixed(hand_logits()),
        None,
        OptimConfig("adamw", 4e-3, warmup=0.0),
        DistillConfig(w_kd=0, w_mlm=1),
    )
    rows = fit(module, four_and_nothing(), accumulate_grad_batches=accumulate)
    assert [row["train/loss"] for row in rows] == pytest.approx(losses, abs=1e-6)
    assert [row["step"] for row in rows] == list(range(1, len(losses) + 1))


@pytest.mark.parametrize("accumulate", [2, 5])
def test_gradient_of_a_step_by_hand(accumulate):
    """A step of SGD with rate 1 is the gradient of the mean over tokens: (p − onehot) / 4."""
    start, model = hand_logits(), Fixed(hand_logits())
    module = DistillationModule(model, None, OptimConfig(lr=4e-3), DistillConfig(w_kd=0, w_mlm=1))
    module.configure_optimizers = lambda: torch.optim.SGD(model.parameters(), lr=1.0)
    fit(module, four_and_nothing(), accumulate_grad_batches=accumulate, gradient_clip_val=None)
    expected = (start.softmax(-1) - torch.tensor([1.0, 0.0])) / 4
    torch.testing.assert_close(start - model.logits.detach(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("w_kd", [0.0, 0.7])
def test_four_small_batches_are_one_large(name, w_kd):
    """Case L1: equal weights after 3 steps, though the small batches have 2, 9, 1 and 4 targets."""
    large = [example(8, [1, 1, 4, 5, 0, 1, 2, 2], seed) for seed in range(3)]
    small = [part for batch in large for part in split(batch, 4)]
    assert [len(part["labels"]) for part in small[:4]] == [2, 9, 1, 4]
    weights, losses = [], []
    for batches, accumulate in ((large, 1), (small, 4)):
        module = DistillationModule(
            model := tiny(),
            tiny(seed=1, hidden=32) if w_kd else None,
            OptimConfig(name=name, lr=1e-3),
            DistillConfig(w_kd=w_kd, w_mlm=0.3, temperature=2.0),
        )
        rows = fit(module, batches, accumulate_grad_batches=accumulate)
        losses.append([row["train/loss"] for row in rows])
        weights.append(model.state_dict())
        assert len(rows) == 3
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    for key, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][key], atol=1e-6, rtol=0)
        assert not torch.equal(value, tiny().state_dict()[key])


def test_a_short_last_group_is_divided_by_what_it_holds():
    """5 batches by 3: the second step is that of its two batches alone."""
    batches = [example(2, [k + 1, 1], seed=k) for k in range(5)]
    joined = {
        "input_ids": torch.cat([b["input_ids"] for b in batches[3:]]),
        "positions": torch.cat([batches[3]["positions"], batches[4]["positions"] + 20]),
        "labels": torch.cat([b["labels"] for b in batches[3:]]),
    }
    moves = []
    for feed, accumulate in ((batches[3:], 3), ([joined], 1)):
        model = tiny()
        module = DistillationModule(
            model, None, OptimConfig(lr=4e-3), DistillConfig(w_kd=0, w_mlm=1)
        )
        module.configure_optimizers = lambda m=model: torch.optim.SGD(m.parameters(), lr=1.0)
        fit(module, feed, accumulate_grad_batches=accumulate, gradient_clip_val=None)
        moves.append(model.state_dict())
    for key in moves[0]:
        torch.testing.assert_close(moves[0][key], moves[1][key], atol=1e-6, rtol=0)
    rows = fit(
        DistillationModule(tiny(), None, OptimConfig(lr=1e-9), DistillConfig(w_kd=0, w_mlm=1)),
        batches,
        accumulate_grad_batches=3,
    )
    assert [row["step"] for row in rows] == [1, 2]
    expected = mlm_loss(
        tiny()(joined["input_ids"], positions=joined["positions"]), joined["labels"]
    )
    assert rows[1]["train/loss"] == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_without_a_target_moves_nothing(accumulate):
    """Case M1: a loss of 0, no gradient, no NaN."""
    model = tiny()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    module = DistillationModule(
        model, tiny(1), OptimConfig(lr=4e-3, weight_decay=0.0), DistillConfig(w_kd=1, w_mlm=1)
    )
    rows = fit(module, 2 * [example(1, [0])], accumulate_grad_batches=accumulate)
    assert rows and all(row["train/loss"] == 0 == row["train/grad_norm"] for row in rows)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_gradient_norm_is_logged_before_it_is_clipped():
    batch = example(4, [2, 2, 2, 2])
    model = tiny()
    mlm_loss(model(batch["input_ids"], positions=batch["positions"]), batch["labels"]).backward()
    norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in model.parameters()]))
    limit = norm.item() / 3
    start, model = tiny().state_dict(), tiny()
    module = DistillationModule(model, None, OptimConfig(lr=4e-3), DistillConfig(w_kd=0, w_mlm=1))
    module.configure_optimizers = lambda: torch.optim.SGD(model.parameters(), lr=1.0)
    rows = fit(module, [batch], gradient_clip_val=limit)
    assert rows[0]["train/grad_norm"] == pytest.approx(norm.item(), rel=1e-5)
    moved = torch.cat([(start[k] - v).flatten() for k, v in model.state_dict().items()])
    assert torch.linalg.vector_norm(moved).item() == pytest.approx(limit, rel=1e-4)


@pytest.mark.parametrize("algorithm", ["norm", "value"])
@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_mixed_precision_keeps_the_fused_optimizer(name, algorithm):
    """Gradients are clipped under it, too, which Lightning alone refuses; Muon follows in bf16."""
    optim = OptimConfig(name, 1e-3)
    module = DistillationModule(tiny(), None, optim, DistillConfig(w_kd=0, w_mlm=1))
    largest = []
    module.on_before_zero_grad = lambda optimizer: largest.extend(
        float(p.grad.abs().max()) for p in module.model.parameters() if p.grad is not None
    )
    clipped = {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": algorithm}
    fit(module, 3 * [example(4, [2, 2, 2, 2])], precision="bf16-mixed", **clipped)
    assert 0 < max(largest) <= 1.0001e-3
    optimizer = module.trainer.optimizers[0]
    inner = optimizer.adamw if name == "muon" else optimizer
    assert isinstance(inner, torch.optim.AdamW) and inner.defaults["fused"]
    assert name != "muon" or optimizer.precision is torch.bfloat16


def test_divergence_is_one_line():
    module = DistillationModule(
        Fixed(torch.tensor([[math.nan, 0.0]])),
        None,
        OptimConfig("adamw", 4e-3),
        DistillConfig(w_kd=0, w_mlm=1),
    )
    batch = {"input_ids": torch.zeros(1, 4).long(), "positions": torch.tensor([0])}
    with pytest.raises(BortError, match=r"the loss became nan at step 1; lower optim.lr \(now"):
        fit(module, [batch | {"labels": torch.tensor([1])}])


# ------------------------------------------------------------------------------------ teacher (L2)


def test_teacher_passes_are_bit_identical():
    """Its config says dropout 0.1, the student's passes between are in training mode."""
    module = DistillationModule(tiny(), tiny(1, dropout=0.1), OptimConfig(lr=4e-3), DistillConfig())
    module.train()
    batch = example(4, [2, 3, 1, 2])
    first = module.ask_teacher(batch)
    module(batch["input_ids"], batch["positions"]).sum().backward()
    assert torch.equal(first, module.ask_teacher(batch))
    assert not first.requires_grad
    noisy = tiny(1, dropout=0.1).train()
    one, two = (noisy(batch["input_ids"], positions=batch["positions"]) for _ in range(2))
    assert not torch.equal(one, two)  # or the test would prove nothing


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_teacher_as_its_own_student(temperature):
    module = DistillationModule(
        tiny(1), tiny(1, dropout=0.1), OptimConfig(lr=4e-3), DistillConfig(temperature=temperature)
    )
    module.trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    module.train()
    loss = module.training_step(example(4, [2, 3, 1, 2]), 0)
    loss.backward()
    assert loss.item() == 0
    gradients = [p.grad.abs().max().item() for p in module.model.parameters() if p.grad is not None]
    assert len(gradients) > 10 and max(gradients) < 1e-7


def test_teacher_is_no_part_of_the_module():
    module = DistillationModule(tiny(), tiny(1, hidden=32), OptimConfig(lr=4e-3), DistillConfig())
    assert {name.split(".")[0] for name in module.state_dict()} == {"model"}
    assert sum(p.numel() for p in module.parameters()) == sum(
        p.numel() for p in tiny().parameters()
    )
    optimizer = stubbed_optimizers(module)
    ours = {id(p) for p in module.model.parameters()}
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == ours
    assert not any(p.requires_grad for p in module.teacher.masked_lm.parameters())


def stubbed_optimizers(module: DistillationModule) -> torch.optim.Optimizer:
    module.trainer = pl.Trainer(
        logger=False, enable_checkpointing=False, accelerator="cpu", max_steps=10
    )
    return module.configure_optimizers()["optimizer"]


def test_teacher_after_a_run(settings_of, tmp_path):
    """Case L2 on a run: its bytes as before, not in checkpoints or model/, not counted."""
    run = settings_of("trainer.max_steps=4", "dropout=0.1", experiment="kd_pretrain")
    corpus, teacher = prepare(run)
    model = teacher.masked_lm
    model.config.dropout = model.config.attention_dropout = 0.1
    save_model(model, corpus.tokenizer, tmp_path / "before")
    summary = train(run, tmp_path / "run", corpus, teacher)
    save_model(model, corpus.tokenizer, tmp_path / "after")
    before, after = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("before", "after")
    )
    assert before == after
    student = load_masked_lm(tmp_path / "run" / "model")
    assert student.config.hidden == 16 != teacher.arch.hidden
    assert summary["parameters"] == sum(p.numel() for p in student.parameters())
    (path,) = (tmp_path / "run" / "checkpoints").iterdir()
    shapes = {tuple(t.shape) for t in tensors(AtomicCheckpointIO().load_checkpoint(path))}
    assert (280, 16) in shapes and (280, 32) not in shapes
    assert 0 < summary["val/kd_loss"] < summary["val/loss"]


def tensors(value) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    inner = value.values() if isinstance(value, dict) else value
    return (
        [t for item in inner for t in tensors(item)]
        if isinstance(inner, list | tuple | type({}.values()))
        else []
    )


# ------------------------------------------------------------------------------------ the budget


def test_progress_by_steps_and_by_the_clock():
    module = DistillationModule(tiny(), None, OptimConfig(lr=4e-3), DistillConfig(w_kd=0, w_mlm=1))
    elapsed = {"time_elapsed": lambda: 15.0, "time_remaining": lambda: 45.0}
    clock = type("Clock", (pl.callbacks.Timer,), {k: staticmethod(v) for k, v in elapsed.items()})
    for total, callbacks, expected in (
        (9, [], [0.1, 0.5, 1.0]),  # never 0 in the first step and at the end
        (math.inf, [clock()], [0.25, 0.25, 0.25]),
        (9, [clock()], [0.25, 0.5, 1.0]),  # whichever is nearest its end
    ):
        module._trainer = SimpleNamespace(estimated_stepping_batches=total, callbacks=callbacks)
        assert [module.progress(k) for k in (0, 4, 9)] == pytest.approx(expected)


def test_the_clock_begins_after_the_first_step(monkeypatch):
    """Models are compiled in it, which may take as long as the rate is meant to rise."""
    module = DistillationModule(tiny(), None, OptimConfig(lr=4e-3), DistillConfig(w_kd=0, w_mlm=1))
    now = 0.0
    clock = pl.callbacks.Timer(timedelta(seconds=60))
    monkeypatch.setattr(clock, "time_elapsed", lambda: now)
    monkeypatch.setattr(clock, "time_remaining", lambda: 60 - now)
    monkeypatch.setattr(pl.LightningModule, "optimizer_step", lambda *_: None)
    module._trainer = SimpleNamespace(
        **dict(estimated_stepping_batches=math.inf, callbacks=[clock], global_step=0),
        **dict(log_every_n_steps=10, max_steps=-1),
    )
    assert module.progress(0) == 0
    now = 30.0
    module._sums = {"loss": torch.tensor(1.0)}
    module.optimizer_step(0, 0, None)
    assert module.progress(1) == 0
    module._trainer.global_step, module._sums = 1, {"loss": torch.tensor(1.0)}
    module.optimizer_step(0, 1, None)
    now = 45.0
    assert module.progress(2) == pytest.approx(15 / 30)


def test_a_model_is_compiled_once(monkeypatch):
    """The number of masked places may differ, and a validation needs no graph of its own."""
    graphs = []

    def count(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=count))
    model = tiny()
    module = DistillationModule(
        model, None, OptimConfig(lr=4e-3), DistillConfig(w_kd=0, w_mlm=1), compile=True
    )
    module.train()
    for places in (5, 7, 6):
        batch = {
            "input_ids": torch.arange(32).view(2, 16) % 10 + 5,
            "positions": torch.arange(places),
        }
        expected = model(batch["input_ids"], positions=batch["positions"])
        assert torch.equal(module(**batch), expected)
    with torch.no_grad():
        module.eval().validation_step({**batch, "labels": torch.arange(places)}, 0)
    assert len(graphs) == 1


def test_checkpoint_restores_tokens_and_generator():
    module = DistillationModule(tiny(), None, OptimConfig(lr=4e-3), DistillConfig(w_kd=0, w_mlm=1))
    module.tokens = 77
    checkpoint = {}
    torch.manual_seed(5)
    module.on_save_checkpoint(checkpoint)
    expected = torch.rand(3)
    other = DistillationModule(tiny(), None, OptimConfig(lr=4e-3), DistillConfig(w_kd=0, w_mlm=1))
    other.on_load_checkpoint(checkpoint)
    torch.rand(9)
    other.on_train_start()
    assert other.tokens == 77 and torch.equal(torch.rand(3), expected)


def test_what_is_kept_outside_is_no_part_of_a_module():
    module = DistillationModule(tiny(), tiny(1), OptimConfig(lr=4e-3), DistillConfig())
    inside = {id(part) for part in module.modules()}
    assert id(module.teacher) not in inside and id(module.model) in inside
    assert all(name.startswith("model.") for name, _ in module.named_parameters())
    assert all(key.startswith("model.") for key in module.state_dict())
