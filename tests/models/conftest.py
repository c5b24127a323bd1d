"""Fixtures."""

from pathlib import Path

import huggingface_hub
import pytest
from models_helpers import SIZES, randomise
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    PreTrainedTokenizerFast,
)

from bort.models import hub


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer like the default one of pre-training."""
    special = ["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True, special=True)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=290, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(["words and more words of plain text"] * 3, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token=special[-1],
    )


@pytest.fixture
def hub_folder(tmp_path, tokenizer) -> Path:
    """A BERT folder as Hugging Face writes it."""
    model = randomise(BertForMaskedLM(BertConfig(**SIZES, pad_token_id=1)))
    model.save_pretrained(tmp_path / "hub")
    tokenizer.save_pretrained(tmp_path / "hub")
    return tmp_path / "hub"


@pytest.fixture
def no_hub(monkeypatch):
    """Fails the test if anything asks the hub."""

    def asked(*args, **kwargs):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(hub, "is_hub_reachable", asked)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", asked)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", asked)
