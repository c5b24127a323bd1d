"""Trimmed tokenizers of every kind: what stays is cut as before, and transformers opens them."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors, trainers
from tokenizers import pre_tokenizers as splits
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from bort.errors import BortError
from bort.models.tokenizer_folder import open_tokenizer, save_tokenizer
from bort.text.tokenizer import train_tokenizer
from bort.text.trimming import check_trimmed_size, map_tokens, trim_tokenizer

SYLLABLES = "ba ken lo ri tas um né xo fi dul ßa ge ort pli".split()
BERT = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
XLM = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}


def make_texts(seed: int, count: int) -> list[str]:
    """Sentences of made-up words of one to four syllables, a few of which are frequent."""
    rng = np.random.default_rng(seed)
    words = np.random.default_rng(7).integers(len(SYLLABLES), size=(400, 4))
    sizes = np.random.default_rng(8).integers(1, 5, size=400)
    texts = []
    for _ in range(count):
        numbers = np.minimum(rng.zipf(1.3, size=12) - 1, 399)
        chosen = ("".join(SYLLABLES[k] for k in words[n, : sizes[n]]) for n in numbers)
        texts.append(" ".join(chosen).capitalize() + ".")
    return texts


TEXTS = make_texts(0, 400)


def wrap(backend: Tokenizer, names: dict[str, str], **settings: Any) -> PreTrainedTokenizerFast:
    named = {f"{kind}_token": name for kind, name in names.items()}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **named, **settings)


def make_wordpiece() -> PreTrainedTokenizerFast:
    """BERT's, with the specials after some words, lower-casing and token types."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer, backend.decoder = splits.BertPreTokenizer(), decoders.WordPiece()
    specials = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=600, special_tokens=specials, show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    ids = [("[CLS]", 3), ("[SEP]", 4)]
    backend.post_processor = processors.TemplateProcessing(
        "[CLS]:0 $A:0 [SEP]:0", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", ids
    )
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return wrap(backend, BERT, model_max_length=77, model_input_names=names)


def make_unigram() -> PreTrainedTokenizerFast:
    """XLM-R's, whose mask is an added token behind the pieces."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    backend.pre_tokenizer, backend.decoder = splits.Metaspace(), decoders.Metaspace()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=500, special_tokens=specials, unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    backend.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = XLM | {"bos": "<s>", "eos": "</s>"}
    return wrap(backend, names, extra_special_tokens=["<pad>"], padding_side="left")


def make_characters() -> PreTrainedTokenizerFast:
    """A BPE of characters with continuations and ends of words."""
    backend = Tokenizer(
        models.BPE(unk_token="[UNK]", continuing_subword_prefix="##", end_of_word_suffix="</w>")
    )
    backend.normalizer, backend.pre_tokenizer = normalizers.Lowercase(), splits.Whitespace()
    backend.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=list(BERT.values()),
        continuing_subword_prefix="##",
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    backend.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return wrap(backend, BERT)


def make_bytes() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, 700)


KINDS = {
    "bytes": (make_bytes, 400),
    "characters": (make_characters, 200),
    "wordpiece": (make_wordpiece, 200),
    "unigram": (make_unigram, 150),
}


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, tuple]:
    """Of each kind the full tokenizer and the trimmed one."""
    pairs = {}
    for kind, (make, size) in KINDS.items():
        full = make()
        pairs[kind] = full, trim_tokenizer(full, TEXTS, size)
    return pairs


def cut(tokenizer: Any, text: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("kind", KINDS)
def test_text_of_tokens_that_stay_is_cut_as_before(kind, tokenizers):
    full, trimmed = tokenizers[kind]
    staying = trimmed.get_vocab().keys()
    words = {word for text in make_texts(1, 300) for word in text.split()}
    # Twice, because a word with a space before it may have other tokens.
    words = sorted(word for word in words if staying >= set(cut(full, f"{word} {word}")))
    assert 20 < len(words)
    rng = np.random.default_rng(0)
    for _ in range(100):
        text = " ".join(rng.choice(words, 8))
        assert staying >= set(cut(full, text))
        assert cut(trimmed, text) == cut(full, text)
        encodings = (t(text, return_offsets_mapping=True) for t in (full, trimmed))
        before, after = (encoding["offset_mapping"] for encoding in encodings)
        assert before == after


@pytest.mark.parametrize("kind", KINDS)
def test_other_text_is_only_cut_finer(kind, tokenizers):
    full, trimmed = tokenizers[kind]
    lengths = Counter()
    for text in make_texts(2, 100):
        before, after = cut(full, text), cut(trimmed, text)
        lengths += Counter(before=len(before), after=len(after))
        assert full.unk_token not in before + after
        texts = (t.decode(t.encode(text)).replace("##", "") for t in (full, trimmed))
        assert len(set(texts)) == 1  # the decoder of character BPE leaves the ## within words
    assert lengths["before"] < lengths["after"] < 2.5 * lengths["before"]


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_opens_it_and_specials_keep_their_roles(kind, tokenizers, tmp_path):
    full, trimmed = tokenizers[kind]
    save_tokenizer(trimmed, tmp_path)
    size = KINDS[kind][1]
    for opened in (trimmed, AutoTokenizer.from_pretrained(tmp_path), open_tokenizer(tmp_path)):
        assert sorted(opened.get_vocab().values()) == list(range(size)) and len(opened) == size
        assert opened.special_tokens_map == full.special_tokens_map
        assert set(opened.all_special_tokens) == set(full.all_special_tokens)
        for name in ("model_max_length", "padding_side", "truncation_side", "model_input_names"):
            assert getattr(opened, name) == getattr(full, name), name
        texts = (f"Ba ken {full.mask_token}", "lo ri")
        before, after = full(*texts), opened(*texts)
        tokens = opened.convert_ids_to_tokens(after["input_ids"])
        special = set(full.all_special_tokens)
        assert [token for token in tokens if token in special] == [
            token for token in full.convert_ids_to_tokens(before["input_ids"]) if token in special
        ]
        assert opened.decode(after["input_ids"]) == full.decode(before["input_ids"])
        assert before.keys() == after.keys()
    padded = trimmed([*texts], padding=True)["input_ids"]
    assert trimmed.pad_token_id in padded[1] and trimmed.pad_token_id not in padded[0]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_lead_back_to_the_same_words(kind, tokenizers):
    full, trimmed = tokenizers[kind]
    ids = map_tokens(trimmed, full)
    assert ids.dtype == np.int64 and (np.diff(ids) > 0).all()
    assert trimmed.convert_ids_to_tokens(range(len(ids))) == full.convert_ids_to_tokens(ids)
    assert map_tokens(full, full).tolist() == list(range(len(full)))
    assert map_tokens(full, trimmed) is None
    strangers = (pair[0] for name, pair in tokenizers.items() if name != kind)
    assert [map_tokens(trimmed, stranger) for stranger in strangers] == [None] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_the_least_size_is_told_and_works(kind, tokenizers):
    full, _ = tokenizers[kind]
    with pytest.raises(BortError, match="data.vocab_size=30 is too small: ") as error:
        trim_tokenizer(full, TEXTS, 30)
    assert len(str(error.value)) <= 200
    least = int(str(error.value).partition(" alone are ")[2].partition(";")[0].replace(",", ""))
    smallest = trim_tokenizer(full, TEXTS, least)
    assert len(smallest) == least
    for text in TEXTS[:50]:
        assert full.unk_token not in cut(smallest, text)
    with pytest.raises(BortError, match=f"={least - 1} is too small"):
        trim_tokenizer(full, TEXTS, least - 1)


def test_sizes_that_need_no_text_to_be_refused(tokenizers):
    for kind, least in {"bytes": 261, "wordpiece": 6, "unigram": 5, "characters": 5}.items():
        full = tokenizers[kind][0]
        check_trimmed_size(full, least)
        check_trimmed_size(full, len(full))
        with pytest.raises(BortError, match=f"too small: .* alone are {least};"):
            check_trimmed_size(full, least - 1)
        with pytest.raises(BortError, match=f"is above the {len(full)} tokens of the tokenizer"):
            check_trimmed_size(full, len(full) + 1)


def test_characters_that_the_text_lacks_go_first_to_words_and_last_to_unknown():
    full = make_wordpiece()
    plain = ["balo kenri " * 20]
    tight, roomy = (trim_tokenizer(full, plain, size) for size in (20, 300))
    assert cut(tight, "balo") == cut(full, "balo") and cut(tight, "fi") == ["[UNK]"]
    assert "[UNK]" not in cut(roomy, "fi dul ort xo")
    assert cut(full, "☃ balo") == ["[UNK]", *cut(full, "balo")] == cut(tight, "☃ balo")


def test_no_byte_is_unknown(tokenizers):
    trimmed = tokenizers["bytes"][1]
    text = "☃ naïve\n\tΩ 漢字 🫠 \x00"
    assert trimmed.decode(trimmed.encode(text, add_special_tokens=False)) == text


def test_the_words_of_the_text_stay(tokenizers):
    """A small text of few words is cut as before, however rare its words are elsewhere."""
    for full, _ in tokenizers.values():
        words = [word for text in TEXTS for word in text.split()]
        rare = [word for word, count in Counter(words).items() if count == 1][:10]
        trimmed = trim_tokenizer(full, rare, 400)
        assert [cut(trimmed, word) for word in rare] == [cut(full, word) for word in rare]


def test_whole_words_of_ignore_merges_stay_whole():
    """Llama 3's: a word of the vocabulary is one token, even where no merges lead to it."""
    backend = Tokenizer(
        models.BPE(
            vocab={"a": 0, "b": 1, "c": 2, "ab": 3, "cab": 4, "<s>": 5},
            merges=[("a", "b")],
            ignore_merges=True,
        )
    )
    backend.pre_tokenizer = splits.Whitespace()
    full = wrap(backend, {kind: "<s>" for kind in ("cls", "sep", "mask", "pad", "unk")})
    trimmed = trim_tokenizer(full, ["cab cab a b c"], 5)
    assert cut(full, "cab ab") == ["cab", "ab"] and cut(trimmed, "cab ab") == ["cab", "a", "b"]


@pytest.mark.parametrize(("name", "size"), [("bert-base-uncased", 6000), ("roberta-base", 9000)])
def test_published_vocabularies(name, size, shared, tmp_path):
    folder = Path(shared) / "data" / "vocab" / name
    if not folder.is_dir():
        pytest.skip(f"no vocabulary at {folder}")
    full = open_tokenizer(folder)
    read = (shared / "data" / "wikitext-2" / "valid.txt").read_text("utf-8")[:300_000]
    held = (shared / "data" / "wikitext-2" / "test.txt").read_text("utf-8")[:60_000]
    letters = set(read.lower())  # others are unknown to a vocabulary of words then
    held = "".join(letter for letter in held if letter.lower() in letters)
    trimmed = trim_tokenizer(full, read.splitlines(), size)
    save_tokenizer(trimmed, tmp_path)
    opened = AutoTokenizer.from_pretrained(tmp_path)
    staying = opened.get_vocab().keys()
    words = [f" {word}" for word in dict.fromkeys(held.split())]
    same = [word for word in words if staying >= set(cut(full, word))]
    assert len(same) > 0.5 * len(words)
    assert cut(opened, "".join(same)) == cut(full, "".join(same))
    before, after = cut(full, held), cut(opened, held)
    assert len(before) < len(after) < 1.25 * len(before)
    assert opened.decode(opened.encode(held)) == full.decode(full.encode(held))
