"""What a tokenizer's folder passes on: what decides ids, and nothing that a stranger put there."""

import dataclasses
import json
import shutil

import pytest
from models_helpers import OWN, edit_json, one_line
from teacher_folders import make_tokenizer
from tokenizers import Tokenizer
from transformers import (
    AutoTokenizer,
)

from bort.errors import BortError
from bort.models import huggingface
from bort.models.bert import ModelConfig
from bort.models.huggingface import load_tokenizer, save_model
from bort.models.initialization import build_model
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


# Folders of Hugging Face


@pytest.mark.parametrize("source", ["bert-tiny", "roberta-tiny", "own"])
def test_tokenizers_come_back_the_same(shared, tmp_path, tokenizer, source):  # case T2
    strings = json.loads((shared / "cases/T2-tokenizer-reload/strings.json").read_text())
    assert len(strings) == 24
    if source != "own":
        tokenizer = huggingface.load_tokenizer(shared / "cases/models" / source)
    pad_id = tokenizer.pad_token_id
    model = build_model(
        dataclasses.replace(OWN, pad_id=pad_id, type_vocab=2 * (source == "bert-tiny"))
    )
    huggingface.save_model(model, tokenizer, tmp_path / "one")
    huggingface.save_model(model, huggingface.load_tokenizer(tmp_path / "one"), tmp_path / "two")
    for folder in ("one", "two"):
        again = AutoTokenizer.from_pretrained(tmp_path / folder)
        assert again.model_max_length == 18
        assert len(again("plain words " * 30, truncation=True).input_ids) == 18
        assert again.mask_token_id == tokenizer.mask_token_id
        for text in strings:
            ids = tokenizer(text).input_ids
            assert again(text).input_ids == ids
            assert huggingface.load_tokenizer(tmp_path / folder)(text).input_ids == ids
            if source == "own":
                body = again(text, add_special_tokens=False).input_ids
                assert again.decode(body, clean_up_tokenization_spaces=False) == text
        pair = again("the cat", "a dog")
        assert pair.input_ids == tokenizer("the cat", "a dog").input_ids
        separators = [i for i in pair.input_ids if i == again.sep_token_id]
        assert len(separators) == (2 if source == "bert-tiny" else 3)
        assert ("token_type_ids" in pair) is (source == "bert-tiny")
        settings = json.loads((tmp_path / folder / "tokenizer_config.json").read_text())
        assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert not settings.keys() & {"backend", "is_local", "name_or_path"}  # of this machine


@pytest.mark.parametrize(
    "name, size, pieces",
    [
        ("bert-base-cased", 28996, ["Hello", "the", "World"]),
        ("bert-base-uncased", 30522, ["hello", "the", "world"]),
        ("roberta-base", 50265, ["Hello", "Ġthe", "ĠWorld"]),
    ],
)
@pytest.mark.parametrize("with_config", [False, True])
def test_bare_vocabularies(shared, tmp_path, tokenizer, name, size, pieces, with_config):
    folder = tmp_path / name
    shutil.copytree(shared / "data/vocab" / name, folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    if with_config:
        kind = name.split("-")[0]
        settings = {"model_type": kind, "vocab_size": size, "max_position_embeddings": 100}
        (folder / "config.json").write_text(json.dumps(settings))
    found = huggingface.load_tokenizer(folder)
    assert len(found) == size
    assert found.tokenize("Hello the World") == pieces
    if with_config:
        assert found.model_max_length == (98 if name == "roberta-base" else 100)


def test_a_stated_case_is_obeyed(shared, tmp_path):
    shutil.copyfile(shared / "data/vocab/bert-base-cased/vocab.txt", tmp_path / "vocab.txt")
    stated = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(stated))
    assert huggingface.load_tokenizer(tmp_path).tokenize("Hello") == ["hello"]


def test_a_tokenizer_larger_than_the_model(hub_folder):
    edit_json(hub_folder / "config.json", vocab_size=100)
    with pytest.raises(BortError, match=r"has \d+ tokens, its model only 100") as error:
        huggingface.load_tokenizer(hub_folder)
    one_line(error)


@pytest.mark.parametrize("kind", ["mask", "pad", "sep", "cls"])
def test_a_tokenizer_without_a_needed_token(hub_folder, kind):
    path = hub_folder / "tokenizer_config.json"
    other = {"sep": "eos", "cls": "bos"}.get(kind, kind)
    dropped = (f"{kind}_token", f"{other}_token")
    settings = {k: v for k, v in json.loads(path.read_text()).items() if k not in dropped}
    path.write_text(json.dumps(settings))
    with pytest.raises(BortError, match=f"has no {kind} token, which is needed") as error:
        huggingface.load_tokenizer(hub_folder)
    one_line(error)


def test_tokenizers_that_are_not_there(hub_folder):
    whole = (hub_folder / "tokenizer.json").read_text()
    (hub_folder / "tokenizer.json").write_text("{}")
    with pytest.raises(
        BortError, match=r"cannot read the tokenizer in .*; fetch it again"
    ) as error:
        huggingface.load_tokenizer(hub_folder)
    one_line(error)
    (hub_folder / "tokenizer.json").write_text(whole[: len(whole) // 2])
    with pytest.raises(BortError, match=r"/tokenizer.json is damaged or cut off; fetch it again$"):
        huggingface.load_tokenizer(hub_folder)
    (hub_folder / "tokenizer.json").unlink()
    with pytest.raises(BortError, match="holds no tokenizer; looked for tokenizer.json"):
        huggingface.load_tokenizer(hub_folder)
