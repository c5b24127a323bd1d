"""Settings of each job of train.py, and its line about what it will do."""

import pytest
from composed_settings import composed

from bort.config.agora import AgoraConfig
from bort.config.arch import ArchConfig
from bort.config.data import DataConfig
from bort.config.distill import CompareConfig
from bort.config.optim import OptimConfig
from bort.config.train import RUN_CONFIGS, TrainConfig
from bort.config.trainer import LoggerConfig
from bort.config.unused import refuse_unused
from bort.errors import BortError
from bort.models.arch import Arch


def complete(**changes) -> TrainConfig:
    settings = {"arch": Arch(1, 1, 4, 4), "name": "x", "output_dir": "runs/x"} | changes
    return RUN_CONFIGS.get(settings.setdefault("job", "pretrain"), TrainConfig)(**settings)


MESSAGES = [
    (lambda: complete(head="cls"), "head=cls is unknown; use linear, bort, mean, towers"),
    (lambda: complete(patience=0), "patience=0 must be at least 1"),
    (
        lambda: complete(job="agora", task="docstrings", patience=2),
        "patience is for experiment=finetune: Agora's arms get equal steps",
    ),
    (
        lambda: complete(job="agora", task="docstrings", agora=AgoraConfig(generator="pool")),
        "agora.generator=pool needs data.unlabelled=FILE, whose rows it takes",
    ),
    (
        lambda: complete(job="agora", task="docstrings", trainer={"devices": 2}),
        "experiment=agora trains on one device; use trainer.devices=1",
    ),
    (
        lambda: complete(job="finetune", task="glue/rte"),
        "task=glue/rte needs model=FOLDER, as in task=glue/rte model=runs/kd_pretrain/first "
        "data.root=glue_data",
    ),
    (
        lambda: complete(job="finetune", task="custom"),
        "task=custom needs model=FOLDER and data.train=FILE (csv, tsv, jsonl or parquet), "
        "data.text=COLUMN, data.label=COLUMN",
    ),
    (
        lambda: complete(job="finetune", task="custom", model="x"),
        "task=custom needs data.train=FILE (csv, tsv, jsonl or parquet), data.text=COLUMN and "
        "data.label=COLUMN",
    ),
    (
        lambda: complete(
            job="finetune", task="custom", model="x", data=DataConfig(train="a.csv", text="label")
        ),
        "data.label=label is the text, too; name the label's column",
    ),
    (
        lambda: complete(data=DataConfig(text=["a", "b"])),
        "data.text names two columns, which task=custom takes; name one here",
    ),
    (
        lambda: complete(data=DataConfig(vocab_size=260)),
        "data.vocab_size=260 must be at least 261",
    ),
    (
        lambda: complete(arch=Arch(2, 1, 4, 4), init_layers=[0]),
        "init_layers=[0] names 1 layer, the student has 2",
    ),
    (
        lambda: complete(data=DataConfig(source="text")),
        "data=text needs data.path=FILE, FOLDER or the name of a hub data set",
    ),
    (
        lambda: complete(output_dir="runs/a=b"),
        "output_dir='runs/a=b' must consist of letters, digits and _ - . / : +",
    ),
    (lambda: CompareConfig(lrs=[]), "compare.lrs=[] needs at least one rate, all above 0"),
    (
        lambda: CompareConfig(lrs=[0.1, 0]),
        "compare.lrs=[0.1, 0] needs at least one rate, all above 0",
    ),
    (
        lambda: LoggerConfig(name="wandbb"),
        "logger.name=wandbb is unknown; use csv, wandb, tensorboard, none; did you mean 'wandb'?",
    ),
    (
        lambda: LoggerConfig(mode="ofline"),
        "logger.mode=ofline is unknown; use auto, online, offline; did you mean 'offline'?",
    ),
    (
        lambda: complete(job="pretrian"),
        "job=pretrian is unknown; use pretrain, compare, finetune, kd_finetune, agora; did you "
        "mean 'pretrain'?",
    ),
    (
        lambda: complete(init="techer"),
        "init=techer is unknown; use default, paper, teacher; did you mean 'teacher'?",
    ),
    *(
        (
            lambda name=name: complete(name=name),
            f"name={name!r} cannot name a run folder; use letters, digits and _ - . : +",
        )
        for name in ("", ".", "..", "a b", "a/b", "lr=1", "a,b", "[x]", "naïve", "'")  # case C1
    ),
    (lambda: complete(dropout=1.0), "dropout=1 must be at least 0 and below 1"),
    (lambda: complete(checkpoint_every=0), "checkpoint_every=0 must be at least 1"),
    (lambda: complete(seed=-1), "seed=-1 must be at least 0 and below 4.29497e+09"),
    (lambda: complete(seed=2**32), "seed=4.29497e+09 must be at least 0 and below 4.29497e+09"),
    (
        lambda: complete(trainer={"max_steps": "many"}),
        "trainer.max_steps=many must be a whole number, at least -1",
    ),
    (
        lambda: complete(trainer={"accumulate_grad_batches": 1.5}),
        "trainer.accumulate_grad_batches=1.5 must be a whole number, at least 1",
    ),
    (
        lambda: complete(trainer={"max_steps": 1, "precision": "bf16-mixd"}),
        "trainer.precision=bf16-mixd is unknown; use auto, 32-true, bf16-mixed, 16-mixed, "
        "bf16-true, 16-true, 64-true; did you mean 'bf16-mixed'?",
    ),
]


@pytest.mark.parametrize(("wrong", "message"), MESSAGES, ids=[m for _, m in MESSAGES])
def test_messages(wrong, message):
    with pytest.raises(BortError) as error:
        wrong()
    assert str(error.value) == message


def test_limits_are_allowed():
    ArchConfig(1, 1, 1, 1)
    DataConfig(length=4, batch_size=1, vocab_size=261, val_fraction=0, mask_rate=1e-9)
    OptimConfig(weight_decay=0, warmup=0, beta1=0, beta2=0)
    complete(name="2026-11-25_06:30:00+b.1", dropout=0, seed=2**32 - 1)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["experiment=mlm_pretrain", "arch=bort", "trainer.max_steps=9"],
            "⟨4,8,1024,768⟩ learns by plain MLM on embedded docstrings, 9 steps of 8 × 128 tokens, "
            "lr 0.000993",
        ),
        (
            ["teacher.name=x/y", "data=text", "data.path=my.txt", "data.length=16"],
            "⟨2,2,64,256⟩ learns from teacher x/y on my.txt, 1,200 steps of 8 × 16 tokens, "
            "lr 0.00636",
        ),
        (
            ["experiment=kd_vs_mlm", "trainer.accumulate_grad_batches=4"],
            "⟨2,2,64,256⟩ with and without teacher ⟨2,4,128,512⟩ (trained first unless cached) on "
            "embedded docstrings, 600 steps of 32 × 128 tokens, lr 0.00636",
        ),
        (
            ["experiment=mlm_pretrain", "trainer.max_time='00:01:00:00'"],
            "⟨2,2,64,256⟩ learns by plain MLM on embedded docstrings, 00:01:00:00 (DD:HH:MM:SS) of "
            "8 × 128 tokens a step, lr 0.00636",
        ),
    ],
)
def test_describe(overrides, line):
    assert composed(*overrides).describe() == line


def test_a_vocabulary_that_is_trimmed_may_be_smaller_than_one_of_bytes():
    """A tokenizer of another kind needs no 256 bytes; its own check knows what it needs."""
    assert (
        composed("teacher.name=x", "data.tokenizer=auto", "data.vocab_size=50").data.vocab_size
        == 50
    )
    assert composed("data.tokenizer=x", "data.vocab_size=50").data.vocab_size == 50
    with pytest.raises(BortError, match="data.vocab_size=50 must be at least 261"):
        composed("teacher.name=x", "data.tokenizer=bpe", "data.vocab_size=50")


def test_layers_beside_a_model_are_left_to_the_line_that_refuses_them(named_model):
    words = [f"model={named_model}", "data.tokenizer=auto", "init_layers=[0,1,2,3,4]"]
    run = composed("experiment=mlm_pretrain", *words)
    with pytest.raises(BortError, match=r"init_layers=\[0,1,2,3,4\] is not read: all weights are"):
        refuse_unused(run, ["init_layers=[0,1,2,3,4]"])
