"""The trained tokenizer's layout, and long texts to ids in pieces."""

from transformers import AutoTokenizer

from bort import tokenizer as module
from bort.tokenizer import train_tokenizer


def test_trained_tokenizer_has_robertas_layout():
    texts = [f"Line {k} says {k * k} words about {k % 7}." for k in range(200)]
    tokenizer = train_tokenizer(texts, 320)
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    assert tokenizer.convert_ids_to_tokens(range(5)) == specials
    assert sorted(tokenizer.get_vocab().values()) == list(range(320))
    assert set(tokenizer.all_special_ids) == set(range(5))
    a, b = (tokenizer.encode(w, add_special_tokens=False) for w in ("Line", "words"))
    assert tokenizer("Line", "words")["input_ids"] == [0, *a, 2, 2, *b, 2]
    assert tokenizer("Line <mask>")["input_ids"] == [0, *a, 4, 2]
    offsets = tokenizer("Line words", return_offsets_mapping=True)["offset_mapping"]
    assert (5, 10) in offsets and (4, 10) not in offsets  # a word's span is without its space
    same = train_tokenizer(iter(texts), 320).backend_tokenizer.to_str()
    assert same == tokenizer.backend_tokenizer.to_str()
    assert train_tokenizer(texts[:90], 320).backend_tokenizer.to_str() != same


def test_long_documents_are_cut_without_a_trace(shared, monkeypatch):
    text = (
        (shared / "data" / "wikitext-2" / "valid.txt").read_text()[:60_000].replace("the ", "the  ")
    )
    tokenizers = [
        AutoTokenizer.from_pretrained(shared / "cases" / "models" / n)
        for n in ("roberta-tiny", "bert-tiny")
    ]
    tokenizers.append(train_tokenizer([text], 500))
    whole = [module.encode(module.text_encoder(t), [text, "", "end"]) for t in tokenizers]
    monkeypatch.setattr(module, "PIECE", 50)
    monkeypatch.setattr(module, "CHUNK", 1000)
    assert len(list(module.pieces(text))) > 500 and "".join(module.pieces(text)) == text
    assert "".join(module.pieces("x" * 1001)) == "x" * 1001
    for tokenizer, expected in zip(tokenizers, whole, strict=True):
        cut = module.encode(module.text_encoder(tokenizer), [text, "", "end"])
        assert [ids.tolist() for ids in cut] == [ids.tolist() for ids in expected]
