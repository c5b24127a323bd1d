"""Small models with answers that differ, which the tests of the export write."""

import shutil
from pathlib import Path

import torch

from bort.finetuning import recipe as finetune
from bort.models.arch import Arch
from bort.models.bert import ModelConfig
from bort.models.huggingface import save_model
from bort.models.initialization import build_model
from bort.tasks import registry
from bort.text.tokenizer import train_tokenizer

# Folders with heads that transformers have no class for: the task and the head of each.
POOLED = {
    "glue-sst2-mean": ("glue/sst2", "mean"),
    "superglue-copa-mean": ("superglue/copa", "mean"),
    "glue-rte-towers": ("glue/rte", "towers"),
    "glue-stsb-towers": ("glue/stsb", "towers"),
}


def body(seed: int = 0, **sizes):
    """Weights as of a trained model: large enough that answers differ."""
    given = {"depth": 2, "heads": 2, "hidden": 32, "intermediate": 64} | sizes
    positions = given.pop("positions", 64)
    config = ModelConfig(**vars(Arch(**given)), vocab_size=320, positions=positions)
    model = build_model(config, "paper", seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
    return model


def trained(task: str, shared: Path, settings_of, root: Path, epochs: int) -> Path:
    """`run`, an encoder that knows 200 rows of a GLUE task by heart, so that its answers differ."""
    name = Path(registry.find_task(task).folders[0])
    real = shared / "data" / "glue" / name
    (root / name).mkdir()
    shutil.copy(real / "dev.tsv", root / name)
    lines = (real / "train.tsv").read_text().splitlines(keepends=True)[:201]
    (root / name / "train.tsv").write_text("".join(lines))
    tokenizer = train_tokenizer(lines, 1000)
    sizes = ModelConfig(**vars(Arch(2, 4, 64, 128)), vocab_size=1000, positions=96)
    save_model(build_model(sizes, "default", 0), tokenizer, root / "encoder")
    given = [f"task={task}", f"model={root / 'encoder'}", f"data.root={root}", "data.length=96"]
    given += ["dropout=0", "optim.lr=3e-3", "trainer.max_steps=-1", f"trainer.max_epochs={epochs}"]
    once = f"trainer.check_val_every_n_epoch={epochs}"  # the best may be one of equal answers
    finetune.finetune(settings_of(*given, once, experiment="finetune"), root / "run")
    return root
