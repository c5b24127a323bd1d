"""Models that the tests of the export write."""

import pytest
import torch
from export_models import POOLED, body
from tiny_runs import add_head
from transformers import AutoModel

from bort.export import run as export
from bort.finetuning.heads import arrange_texts, describe_outputs
from bort.models.arch import Arch
from bort.models.bert import ModelConfig
from bort.models.huggingface import load_tokenizer, save_model
from bort.models.initialization import build_model
from bort.tasks import registry
from bort.text.tokenizer import train_tokenizer

WORDS = [f"the {word} of line {k}, and so on." for k, word in enumerate(["cat", "dog"] * 40)]


TASKS = ("glue/sst2", "glue/rte", "glue/stsb", "superglue/copa", "superglue/wic")


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer(WORDS, 320)


@pytest.fixture(scope="session")
def folders(tmp_path_factory, tokenizer):
    """A masked LM and one fine-tuned folder of each kind."""
    root = tmp_path_factory.mktemp("models")
    save_model(body(), tokenizer, root / "mlm")
    bare = AutoModel.from_pretrained(root / "mlm", add_pooling_layer=False)
    bare.save_pretrained(root / "encoder")
    load_tokenizer(root / "mlm").save_pretrained(root / "encoder")
    heads = {name.replace("/", "-"): (name, "linear") for name in TASKS} | POOLED
    for name, (task, head) in heads.items():
        model = add_head(body(1), task, head=head)
        with torch.no_grad():
            model.out.weight.normal_(0.0, 1.0, generator=torch.Generator().manual_seed(2))
        facts = describe_outputs(arrange_texts(registry.find_task(task), head))
        save_model(model, tokenizer, root / name, facts)
    return root


NAMES = ("mlm", *(name.replace("/", "-") for name in TASKS), *POOLED)


@pytest.fixture(scope="session")
def exported(folders, tmp_path_factory):
    """Each of them as ONNX."""
    root = tmp_path_factory.mktemp("onnx")
    for name in NAMES:
        export.export(str(folders / name), "onnx", root / name)
    return root


@pytest.fixture(scope="session")
def shipped(tmp_path_factory):
    """A masked LM, a classifier of one text and one of pairs, each as it is and as ONNX."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer([f"the river of line {k}, and so on." for k in range(60)], 320)
    sizes = ModelConfig(**vars(Arch(1, 2, 16, 32)), vocab_size=2048, positions=512)
    for name, task, head in (
        ("mlm", None, "linear"),
        ("one", "glue/sst2", "linear"),
        ("pairs", "glue/rte", "linear"),
        ("towers", "superglue/boolq", "towers"),
    ):
        model = build_model(sizes, "paper", 0)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.0, 0.3, generator=generator)
        labels = None
        if task:
            model = add_head(model, task, 512, head)
            labels = describe_outputs(arrange_texts(registry.find_task(task), head))
            model.out.weight.data.mul_(50)
        save_model(model, tokenizer, root / name, labels)
        export.export(str(root / name), "onnx", root / f"{name}.onnx")
    return root
