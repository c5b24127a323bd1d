"""How the states of a text's tokens become one vector, and which folders say so.

The layout is that of the package sentence-transformers: modules.json lists an encoder, a pooling of
its states, and nothing else that changes an embedding but its length.

Letters: B texts of a batch, S tokens, H hidden size, E numbers of an embedding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bort.errors import BortError, quote, shorten
from bort.files.ownership import MODULES, POOLING, SENTENCE_LENGTH, SENTENCE_SETTINGS
from bort.files.untrusted import parse_json, read_json
from bort.models.bert import average_states
from bort.models.hf_config import EMBEDDING, HEAD, KIND
from bort.models.hub import fetch_folder, find_any

LIBRARY = "sentence_transformers.models"  # of the classes that modules.json names
SIZE = "word_embedding_dimension"  # a key of the pooling's file that is no mode


def take_first(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the states (B, H) of the first tokens."""
    return states[:, 0]


def take_largest(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the largest of each number over the tokens of a text: (B, H)."""
    return states.masked_fill(attention_mask[..., None] == 0, -1e9).amax(1)


# By the key in the pooling's file; an embedding joins those that are asked for, in this order.
MODES: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "pooling_mode_cls_token": ("cls", take_first),
    "pooling_mode_max_tokens": ("max", take_largest),
    "pooling_mode_mean_tokens": ("mean", average_states),
}
DEFAULT_MODE = "pooling_mode_mean_tokens"  # of a file that does not say


@dataclass(frozen=True)
class Pooling:
    """What becomes of a text and of the states of its tokens.

    folder: of the encoder. modes: keys of MODES, in their order. is_unit: whether an embedding is
    scaled to a length of 1. length: tokens of a text at most, None where only the encoder limits
    them. lowers: whether texts are read in lower case. prompt: stands in front of every text.
    """

    folder: Path
    modes: tuple[str, ...] = (DEFAULT_MODE,)
    is_unit: bool = False
    length: int | None = None
    lowers: bool = False
    prompt: str = ""

    def prepare(self, text: str) -> str:
        """Return a text as the tokenizer reads it."""
        text = f"{self.prompt}{text}"
        return text.lower() if self.lowers else text

    def pool(self, states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Compute the embeddings (B, E) of texts from the states (B, S, H) of their tokens."""
        if attention_mask is None:
            attention_mask = torch.ones(states.shape[:2], device=states.device)
        parts = [MODES[mode][1](states, attention_mask) for mode in self.modes]
        vectors = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return F.normalize(vectors, dim=-1) if self.is_unit else vectors

    def list_facts(self) -> list:
        """List what changes an embedding, beside the encoder."""
        return [list(self.modes), self.is_unit, self.length, self.lowers, self.prompt]

    def describe(self) -> str:
        """Say in words how an embedding is made: `mean states of up to 128 tokens`."""
        names = " and ".join(MODES[mode][0] for mode in self.modes)
        limit = "" if self.length is None else f" of up to {self.length:,} tokens"
        return f"{names} states{limit}"


# ------------------------------------------------------------------------------------ reading


def find_pooling(name: str) -> Pooling | None:
    """Read how a folder's embeddings are made; None where the folder does not say.

    name: a run folder, a folder of sentence-transformers or of a fine-tuning with a pooled head, or
    a hub name. Raises BortError for what is damaged or unknown.
    """
    model = find_any(str(name), (MODULES, "config.json"))
    folder = fetch_folder(model, ["*.json", "model*.safetensors"], (MODULES, "config.json"))
    if (folder / MODULES).is_file():
        return read_pooling(folder)
    settings = read_json(folder / "config.json")
    return Pooling(folder) if settings.get(HEAD) or settings.get(KIND) == EMBEDDING else None


def require_pooling(name: str, key: str) -> Pooling:
    """Read how a folder's embeddings are made; raise BortError where the folder does not say.

    key: the setting that names the folder, for the message.
    """
    pooling = find_pooling(name)
    if pooling is None:
        raise BortError(
            f"{key}={shorten(str(name), 60)} has no {MODULES}, so it does not say how its states "
            "become an embedding; give a folder of sentence-transformers"
        )
    return pooling


def is_sentence_folder(folder: Path) -> bool:
    """Whether a local folder says how its embeddings are made; parts of one may be missing."""
    if not (folder / MODULES).is_file():
        return False
    modules = _read_modules(folder / MODULES)
    paths = [folder / module["path"] for module in modules if module["kind"] == "Pooling"]
    return bool(paths) and all((path / "config.json").is_file() for path in paths)


def read_pooling(folder: Path) -> Pooling:
    """Read the layout in a local folder.

    Raises BortError for a module or a way of pooling that is unknown here.
    """
    path = folder / MODULES
    modules = _read_modules(path)
    kinds = [module["kind"] for module in modules]
    for kind in kinds:
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise BortError(
                f"{path} has a module {shorten(kind, 30)}; only Transformer, Pooling and Normalize "
                "can be read"
            )
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise BortError(f"{path} must list a Transformer, a Pooling and, at most, a Normalize")
    encoder, pooling = (_locate(folder, module["path"], path) for module in modules[:2])
    is_prompt_read, modes = _read_modes(pooling / "config.json")
    prompt = _read_prompt(folder / SENTENCE_SETTINGS)
    if prompt and not is_prompt_read:
        raise BortError(f"{pooling / 'config.json'} leaves the prompt out, which is not supported")
    length, lowers = _read_length(encoder / SENTENCE_LENGTH)
    return Pooling(encoder, modes, len(kinds) == 3, length, lowers, prompt)


def _read_modules(path: Path) -> list[dict[str, str]]:
    """Read the kind and the path of each module."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BortError(f"{path} cannot be read ({shorten(str(error))}); fetch it again") from None
    modules = []
    for entry in content if isinstance(content, list) else [None]:
        entry = entry if isinstance(entry, dict) else {}
        kind, name = entry.get("type"), entry.get("path")
        if not isinstance(kind, str) or not isinstance(name, str):
            raise BortError(f"{path} is no list of modules with type and path; fetch it again")
        modules.append({"kind": kind.rpartition(".")[2], "path": name})
    return modules


def _locate(folder: Path, name: str, path: Path) -> Path:
    """Return the folder of a module, which must not lie outside of the model's."""
    target = folder / name
    if not target.resolve().is_relative_to(folder.resolve()):
        raise BortError(f"{path} names {quote(name)}, which lies outside of its folder")
    return target


def _read_modes(path: Path) -> tuple[bool, tuple[str, ...]]:
    """Read whether a pooling reads the prompt, and its modes; raise BortError for unknown ones."""
    settings = read_json(path)
    name = settings.get("pooling_mode")
    if isinstance(name, str):  # the short form of one of them
        chosen = [next((key for key, (mode, _) in MODES.items() if mode == name), name)]
    else:
        stated = {key: flag for key, flag in settings.items() if key.startswith("pooling_mode_")}
        chosen = [key for key, flag in ({DEFAULT_MODE: True} | stated).items() if flag]
    if unknown := [key for key in chosen if key not in MODES]:
        raise BortError(f"{path} asks for {shorten(unknown[0], 50)}; known are {_list_names()}")
    if not chosen:
        raise BortError(f"{path} asks for no pooling; known are {_list_names()}")
    is_prompt_read = settings.get("include_prompt", True) is not False
    return is_prompt_read, tuple(key for key in MODES if key in chosen)


def _list_names() -> str:
    return ", ".join(name for name, _ in MODES.values())


def _read_prompt(path: Path) -> str:
    """Read what stands in front of every text unless its user says otherwise."""
    if not path.is_file():
        return ""
    settings = read_json(path)
    name, prompts = settings.get("default_prompt_name"), settings.get("prompts")
    prompt = prompts.get(name) if isinstance(prompts, dict) and isinstance(name, str) else ""
    return prompt if isinstance(prompt, str) else ""


def _read_length(path: Path) -> tuple[int | None, bool]:
    """Read the most tokens of a text, and whether texts are read in lower case."""
    if not path.is_file():
        return None, False
    settings = read_json(path)
    length = settings.get("max_seq_length")
    is_length = type(length) is int and length > 0
    return length if is_length else None, settings.get("do_lower_case") is True


# ------------------------------------------------------------------------------------ writing


def list_sentence_files(pooling: Pooling, hidden: int, length: int) -> dict[str, Any]:
    """List what makes an encoder's folder one of sentence-transformers: contents by path.

    hidden: the width of the encoder's states. length: tokens of a text at most.
    """
    kinds = {"Transformer": "", "Pooling": POOLING.rpartition("/")[0]}
    if pooling.is_unit:
        kinds["Normalize"] = "2_Normalize"  # a folder that may be missing: it has no settings
    modules = [
        {"idx": number, "name": str(number), "path": name, "type": f"{LIBRARY}.{kind}"}
        for number, (kind, name) in enumerate(kinds.items())
    ]
    prompts = {"prompts": {}, "default_prompt_name": None}
    if pooling.prompt:
        prompts = {"prompts": {"text": pooling.prompt}, "default_prompt_name": "text"}
    return {
        MODULES: modules,
        POOLING: {SIZE: hidden} | {mode: mode in pooling.modes for mode in MODES},
        SENTENCE_LENGTH: {"max_seq_length": length, "do_lower_case": pooling.lowers},
        SENTENCE_SETTINGS: {**prompts, "similarity_fn_name": "cosine"},
    }
