"""Tiny random teachers of every family, in folders as transformers saves them."""

from pathlib import Path

import torch
import transformers
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import CONFIG_MAPPING, PreTrainedTokenizerFast

from bort.text.tokenizer import train_tokenizer

TEXT = [f"Line {k}: the cube of {k} is {k**3}" for k in range(60)]
LENGTH = 40  # positions of every teacher
# What the sizes are called where transformers does not give them their usual names.
RENAMED = {
    "distilbert": {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
    }
}
# What else a tiny model of a family needs, and which tokenizer its models usually have.
OPTIONS = {
    "electra": {"embedding_size": 8},
    "albert": {"embedding_size": 8},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "deberta": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "roformer": {"embedding_size": 8},
    "rembert": {"input_embedding_size": 8, "output_embedding_size": 12},
}
TOKENIZERS = {
    "roberta": "bpe",
    "modernbert": "bpe",
    "data2vec-text": "bpe",
    "deberta": "bpe",
    "xlm-roberta": "unigram",
    "camembert": "unigram",
    "albert": "unigram",
    "deberta-v2": "unigram",
    "rembert": "unigram",
}


def make_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer of TEXT: `bpe` (`<s>`), `wordpiece` ([CLS], lower-cased) or `unigram` (`<s>`)."""
    if kind == "bpe":
        return train_tokenizer(TEXT, 280)
    if kind == "wordpiece":
        backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        trainer = trainers.WordPieceTrainer(
            vocab_size=120, special_tokens=specials, show_progress=False
        )
        pad, unk, cls, sep, mask = specials
    else:
        backend = Tokenizer(models.Unigram())
        backend.normalizer = normalizers.NFKC()
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
        specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        trainer = trainers.UnigramTrainer(
            vocab_size=120, special_tokens=specials, unk_token="<unk>", show_progress=False
        )
        cls, pad, sep, unk, mask = specials
    backend.train_from_iterator(TEXT, trainer)
    ids = [(token, backend.token_to_id(token)) for token in (cls, sep)]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}", pair=f"{cls} $A {sep} $B {sep}", special_tokens=ids
    )
    names = dict(pad_token=pad, unk_token=unk, cls_token=cls, sep_token=sep, mask_token=mask)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def make_config(kind: str, tokenizer: PreTrainedTokenizerFast, **changes):
    """The configuration of a tiny model of the family `kind` for a tokenizer."""
    sizes = dict(
        vocab_size=len(tokenizer) + 3,  # as published ones often have
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=LENGTH,
        pad_token_id=tokenizer.pad_token_id,
    )
    renamed = RENAMED.get(kind, {})
    named = {renamed.get(key, key): value for key, value in sizes.items()}
    options = OPTIONS.get(kind, {})
    ids = {f"{k}_token_id": getattr(tokenizer, f"{k}_token_id") for k in ("bos", "eos")}
    return CONFIG_MAPPING[kind](**named | options | ids | changes)


def randomise(model, std: float = 0.2):
    """Give every weight a random number: fresh biases are 0, and a lost one would not show."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, std, generator=generator)
    return model.eval()


def make_folder(folder: Path, kind: str, model_class=None, **changes):
    """Save a tiny random model of a family with a tokenizer; return the model of transformers.

    model_class: by default the family's masked LM.
    """
    tokenizer = make_tokenizer(TOKENIZERS.get(kind, "wordpiece"))
    config = make_config(kind, tokenizer, **changes)
    model_class = model_class or transformers.AutoModelForMaskedLM
    model = randomise(model_class.from_config(config))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model
