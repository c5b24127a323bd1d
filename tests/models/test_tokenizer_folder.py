"""What a tokenizer's folder passes on: what decides ids, and nothing that a stranger put there."""

import json

import pytest
from teacher_folders import make_tokenizer
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from bort.errors import BortError
from bort.models.huggingface import load_tokenizer, save_model
from bort.models.tokenizer_folder import open_tokenizer, save_tokenizer
from bort.text.tokenizer import hash_tokenizer, train_tokenizer

ALLOWED = {
    *("tokenizer_class", "model_max_length", "model_input_names", "clean_up_tokenization_spaces"),
    *("padding_side", "truncation_side", "additional_special_tokens"),
    *(f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")),
}
FOREIGN = {
    "auto_map": {"AutoTokenizer": ["evil--code.Tok", None]},
    "processor_class": "EvilProcessor",
    "chat_template": "{{ evil }}",
    "name_or_path": "/home/somebody/models/secret",
    "special_tokens_map_file": "/home/somebody/map.json",
    "tokenizer_file": "/home/somebody/tokenizer.json",
    "extra": {"evil": ["/home/somebody"]},
}


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    """A tokenizer whose settings name code, a template and paths of a stranger's machine."""
    folder = tmp_path_factory.mktemp("strange")
    save_tokenizer(train_tokenizer([f"line {k} of some text" for k in range(50)], 290), folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | FOREIGN))
    (folder / "chat_template.jinja").write_text("{{ evil }}")
    (folder / "tokenization_evil.py").write_text("raise SystemExit")
    return folder


def test_only_known_settings_are_passed_on(strange, tmp_path):
    save_tokenizer(open_tokenizer(strange), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()).keys() <= ALLOWED
    text = "".join(path.read_text() for path in tmp_path.iterdir())
    assert "evil" not in text and "somebody" not in text and str(strange) not in text


def test_a_corpus_and_a_model_pass_on_no_more(strange, tmp_path, settings_of):
    from bort.models.bert import ModelConfig
    from bort.models.initialization import build_model
    from bort.pretraining import corpus

    tokenizer = load_tokenizer(strange)
    built = corpus.build_corpus(settings_of().data, tmp_path / "cache", tokenizer)
    sizes = {"depth": 1, "heads": 1, "hidden": 8, "intermediate": 8, "vocab_size": 290}
    save_model(build_model(ModelConfig(**sizes)), tokenizer, tmp_path / "model")
    for folder in (built.folder, tmp_path / "model"):
        assert json.loads((folder / "tokenizer_config.json").read_text()).keys() <= ALLOWED
        names = {path.name for path in folder.iterdir()}
        assert not any("evil" in name or "chat" in name for name in names)


def test_a_written_tokenizer_is_the_same(strange, tmp_path):
    tokenizer = open_tokenizer(strange)
    tokenizer("a text", truncation=True, max_length=4, padding="max_length")  # leaves no trace
    save_tokenizer(tokenizer, tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert hash_tokenizer(again) == hash_tokenizer(tokenizer)
    assert again("line <mask> of", "text").data == tokenizer("line <mask> of", "text").data
    assert again.all_special_tokens == tokenizer.all_special_tokens
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    assert content["truncation"] is None and content["padding"] is None


@pytest.mark.parametrize(
    "name", ["XLMRobertaTokenizer", "CamembertTokenizer", "AlbertTokenizer", "DebertaV2Tokenizer"]
)
def test_a_unigram_tokenizer_is_the_one_of_its_file(name, tmp_path):
    """transformers builds one of these classes anew, and it then gives other ids."""
    make_tokenizer("unigram").save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": name}))
    backend, tokenizer = (
        Tokenizer.from_file(str(tmp_path / "tokenizer.json")),
        open_tokenizer(tmp_path),
    )
    (tmp_path / "again").mkdir()
    save_tokenizer(tokenizer, tmp_path / "again")
    for text in ("Line 7: The CUBE of 3 is  27", "a <mask> line", " ﬁrst", "a\tb"):
        assert tokenizer(text)["input_ids"] == backend.encode(text).ids
        assert AutoTokenizer.from_pretrained(tmp_path / "again")(text).data == tokenizer(text).data
    assert (tokenizer.cls_token, tokenizer.sep_token, tokenizer.pad_token) == (
        "<s>",
        "</s>",
        "<pad>",
    )
    assert tokenizer.mask_token == "<mask>" and tokenizer.get_vocab() == backend.get_vocab()


def test_first_and_last_tokens_may_have_other_names(tmp_path):
    """Some tokenizers (EuroBERT) call them the begin and the end of a text only."""
    tokenizer = make_tokenizer("unigram")
    ids = tokenizer.cls_token_id, tokenizer.sep_token_id
    tokenizer.bos_token, tokenizer.eos_token = tokenizer.cls_token, tokenizer.sep_token
    tokenizer.cls_token = tokenizer.sep_token = None
    tokenizer.save_pretrained(tmp_path)
    opened = open_tokenizer(tmp_path)
    assert (opened.cls_token_id, opened.sep_token_id) == ids


def test_a_sentencepiece_model_alone_is_one_line(tmp_path):
    (tmp_path / "spm.model").touch()
    with pytest.raises(BortError, match="has its tokenizer only in spm.model; open it in"):
        open_tokenizer(tmp_path)


def test_older_readers_open_a_written_tokenizer(strange, tmp_path):
    """tokenizers before 0.20 reads a merge as one string, not as a pair."""
    save_tokenizer(open_tokenizer(strange), tmp_path)
    merges = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["merges"]
    assert merges and all(isinstance(merge, str) and merge.count(" ") == 1 for merge in merges)


def test_tokens_with_spaces_keep_the_newer_form(strange, tmp_path):
    tokenizer = open_tokenizer(strange)
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    from tokenizers import Tokenizer

    vocab = content["model"]["vocab"] | {"a b": 290, "a bc": 291}
    content["model"] |= {"vocab": vocab, "merges": [["a b", "c"]]}
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    save_tokenizer(tokenizer, tmp_path)
    written = json.loads((tmp_path / "tokenizer.json").read_text())
    assert written["model"]["merges"] == [["a b", "c"]]


def test_more_special_tokens_than_the_named_ones_stay_special(tmp_path):
    tokenizer = train_tokenizer(["some text of words"] * 20, 280)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<ent>"]})
    save_tokenizer(tokenizer, tmp_path)
    again = open_tokenizer(tmp_path)
    assert set(again.all_special_ids) == set(tokenizer.all_special_ids)
