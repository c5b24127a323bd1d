"""Models that the tests of the benchmark measure."""

from pathlib import Path

import pytest
import torch
from tiny_runs import add_head

from bort.benchmark.settings import BenchmarkConfig
from bort.config.search import register
from bort.finetuning.heads import describe_outputs
from bort.models.arch import Arch
from bort.models.bert import ModelConfig
from bort.models.huggingface import save_model
from bort.models.initialization import build_model
from bort.tasks import registry
from bort.text.tokenizer import train_tokenizer

register(BenchmarkConfig)


SMALL = Arch(2, 2, 32, 64)


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> Path:
    """A masked LM and a fine-tuned folder of each kind, with 64 positions."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer([f"the {k} cat, and so on" for k in range(80)], 300)
    config = ModelConfig(**vars(SMALL), vocab_size=320, positions=64)
    generator = torch.Generator().manual_seed(0)
    for kind, name in KINDS.items():
        body = build_model(config, "paper", 0)
        head = "towers" if kind == "two texts" else "linear"
        model = add_head(body, name, head=head) if name else body
        with torch.no_grad():
            for weight in model.parameters():
                weight.normal_(0.0, 0.3, generator=generator)
        save_model(
            model,
            tokenizer,
            root / kind,
            describe_outputs(registry.find_task(name)) if name else None,
        )
    return root


KINDS = {
    "masked LM": None,
    "classifier": "glue/rte",
    "choices": "superglue/copa",
    "spans": "superglue/wic",
    "two texts": "glue/rte",
}
