"""The tokenizer in a folder: opened without trust in what it says, written with what is needed.

Letters: V vocabulary.
"""

import json
import math
from pathlib import Path
from typing import Any

from bort.errors import BortError, quote, shorten
from bort.files.untrusted import parse_json, read_json
from bort.files.writing import replace_file, write_json

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json")
MOST_IDS = 2**24  # the largest vocabularies have 2**20 words
NAMED = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


# ------------------------------------------------------------------------------------ opening


def open_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of transformers in a local folder; nothing in the folder is executed.

    Raises BortError if there is none, if it cannot be read, if it lacks one of the tokens that
    start, end, mask and pad a sequence, or if it cannot encode every text.
    """
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        # transformers would answer with a tokenizer of five tokens.
        if pieces := sorted(folder.glob("*.model")):  # of SentencePiece, as DeBERTa-v3 has it
            raise BortError(
                f"{folder} has its tokenizer only in {pieces[0].name}; open it in transformers and "
                "save it there by save_pretrained"
            )
        raise BortError(f"{folder} holds no tokenizer; looked for {', '.join(TOKENIZER_FILES)}")
    try:
        tokenizer = _opened(folder)
        count = max(tokenizer.get_vocab().values()) + 1
    except BortError:
        raise
    except Exception as error:  # whatever a foreign file makes the library raise is its fault
        raise _unreadable(folder, error) from None
    if not tokenizer.is_fast:
        raise BortError(f"the tokenizer in {folder} is a slow one; save it as tokenizer.json")
    if count > MOST_IDS:
        raise BortError(f"the tokenizer in {folder} has the id {count - 1:,}; fetch it again")
    special = {"cls": "bos", "sep": "eos", "mask": "mask", "pad": "pad"}
    for kind, other in special.items():
        if getattr(tokenizer, f"{kind}_token_id") is None:
            if (token := getattr(tokenizer, f"{other}_token")) is None:
                raise BortError(f"the tokenizer in {folder} has no {kind} token, which is needed")
            setattr(tokenizer, f"{kind}_token", token)  # it starts or ends a sequence all the same
    _check_encoding(tokenizer, folder, count)
    return tokenizer


def _unreadable(folder: Path, error: Exception) -> BortError:
    """Explain why the tokenizer in a folder cannot be read; a file that was cut is named."""
    if (path := folder / "tokenizer.json").is_file():
        try:
            parse_json(path.read_text(encoding="utf-8"))
        except ValueError:  # what the parser says of the place would help nobody
            return BortError(f"{path} is damaged or cut off; fetch it again")
    return BortError(f"cannot read the tokenizer in {folder} ({shorten(error)}); fetch it again")


def _opened(folder: Path) -> Any:
    from transformers import AutoTokenizer, BertTokenizer, RobertaTokenizer

    stated = folder / "tokenizer_config.json"
    stated = read_json(stated) if stated.is_file() else {}
    _check_stated(stated, folder / "tokenizer_config.json")
    plain = not (folder / "tokenizer.json").is_file()
    options = {}
    if plain and (folder / "vocab.txt").is_file() and "do_lower_case" not in stated:
        # transformers lower-cases by default, whatever the vocabulary holds.
        words = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
        options["do_lower_case"] = not any(w != w.lower() for w in words if not w.startswith("["))
    if plain and "tokenizer_class" not in stated:  # AutoTokenizer would need a config.json
        kind = BertTokenizer if (folder / "vocab.txt").is_file() else RobertaTokenizer
        return kind.from_pretrained(folder, **options)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **options)
    return tokenizer if plain else _restore_unigram(tokenizer, folder / "tokenizer.json")


def _restore_unigram(tokenizer: Any, path: Path) -> Any:
    """Return the tokenizer that the file describes, if it is a Unigram tokenizer.

    transformers builds one of a named class anew from its words: it then splits and normalizes
    texts in the way of that class, whatever the file says.
    """
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_file(str(path))
    if not isinstance(backend.model, models.Unigram):
        return tokenizer
    names = {f"{kind}_token": getattr(tokenizer, f"{kind}_token") for kind in NAMED}
    words = backend.get_vocab()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        model_input_names=tokenizer.model_input_names,
        clean_up_tokenization_spaces=tokenizer.clean_up_tokenization_spaces,
        **{name: token for name, token in names.items() if token in words},
    )


def _check_stated(stated: dict[str, Any], path: Path) -> None:
    """Raise BortError for settings of another type, which transformers takes until they are used"""
    longest = stated.get("model_max_length")
    numeric = isinstance(longest, int | float) and not isinstance(longest, bool)
    if longest is not None and not (numeric and longest >= 1):  # NaN is not
        raise BortError(f"{path} has model_max_length={quote(longest)}, which is no length")
    for side in ("padding_side", "truncation_side"):
        if stated.get(side) not in (None, "left", "right"):
            raise BortError(f"{path} has {side}={quote(stated[side])}; use left or right")
    names = stated.get("model_input_names")
    if names is not None and not (
        isinstance(names, list) and all(isinstance(name, str) for name in names)
    ):
        raise BortError(f"{path} has model_input_names={quote(names)}, which is no list of names")


def _check_encoding(tokenizer: Any, folder: Path, count: int) -> None:
    """Raise BortError unless words that no vocabulary holds and pairs of texts get known ids."""
    backend = tokenizer.backend_tokenizer
    unknown = getattr(backend.model, "unk_token", None)
    if unknown is not None and backend.token_to_id(unknown) is None:
        raise BortError(
            f"the tokenizer in {folder} names {shorten(unknown, 20)} for unknown words, but has no "
            "such word in its vocabulary"
        )
    try:
        ids = backend.encode("a \U0001fae0\u0378 \ue000", "b\u4dc0").ids
    except Exception as error:
        raise _unreadable(folder, error) from None
    if ids and max(ids) >= count:
        raise BortError(
            f"the tokenizer in {folder} adds the id {max(ids)}, but its vocabulary ends at "
            f"{count - 1}; fetch it again"
        )


# ------------------------------------------------------------------------------------ writing


def save_tokenizer(
    tokenizer: Any, folder: Path, length: int | None = None, token_types: bool | None = None
) -> None:
    """Write tokenizer.json and tokenizer_config.json, which decide all ids, and nothing else.

    length: the longest input of the model that it belongs to, by default the tokenizer's own.
    token_types: whether that model has several. Neither code that is named in a foreign folder,
    nor a chat template, nor a path of this machine is passed on.
    """
    content = parse_json(tokenizer.backend_tokenizer.to_str())
    content["truncation"] = content["padding"] = None  # what the last call here asked for
    if merges := content["model"].get("merges"):
        content["model"]["merges"] = _joined(merges)
    with replace_file(folder / "tokenizer.json") as file:
        file.write(json.dumps(content, ensure_ascii=False, indent=2).encode())
    write_json(folder / "tokenizer_config.json", _settings(tokenizer, length, token_types))


def _joined(merges: list) -> list:
    """Merges as "a b", which versions of tokenizers before 0.20 need and later ones read, too."""
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    if any(len(pair) != 2 or " " in "".join(pair) for pair in pairs):
        return merges  # a token with a space in it: only the newer form can say that
    return [" ".join(pair) for pair in pairs]


def _settings(tokenizer: Any, length: int | None, token_types: bool | None) -> dict[str, Any]:
    names = list(tokenizer.model_input_names)
    if token_types is False and "token_type_ids" in names:
        names.remove("token_type_ids")
    if token_types and "token_type_ids" not in names:
        names.insert(1, "token_type_ids")
    longest = length or tokenizer.model_max_length
    settings: dict[str, Any] = {
        # A named class would rebuild tokenizer.json its own way; this one takes it as it is, and
        # transformers 4 knows it, unlike the TokenizersBackend that transformers 5 writes.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": int(longest) if math.isfinite(longest) else int(1e30),
        "model_input_names": names,
        "clean_up_tokenization_spaces": bool(tokenizer.clean_up_tokenization_spaces),
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
    }
    for kind in NAMED:
        if (token := getattr(tokenizer, f"{kind}_token")) is not None:
            settings[f"{kind}_token"] = str(token)
    named = {settings.get(f"{kind}_token") for kind in NAMED}
    if extra := [str(token) for token in tokenizer.all_special_tokens if str(token) not in named]:
        settings["additional_special_tokens"] = extra
    return settings
