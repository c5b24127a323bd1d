"""Where a model is and its files: run folders, Hugging Face folders, hub names.

Nothing here imports code from a folder or unpickles more than plain tensors.
"""

import os
import pickle
import zipfile
from itertools import islice
from pathlib import Path

import huggingface_hub
import safetensors.torch
import torch
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from torch import Tensor

from bort.console import counted
from bort.errors import BortError, quote, shorten, suggest_name
from bort.files.run_files import CHECKPOINTS, HYDRA, MODEL
from bort.files.untrusted import read_json
from bort.models.identity import digest_folder
from bort.network import is_hub_reachable

DEEPEST, MOST_FOLDERS = 3, 1_000  # of folders that are searched for runs
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def find_model(name: str | os.PathLike) -> Path | str:
    """What `name` stands for: the model folder of a run, a Hugging Face folder, or a hub name.

    Raises BortError if it is a file, an unfinished run, a folder without a model, a local path that
    does not exist (never looked up on the hub), or a hub name that is not cached while there is no
    hub.
    """
    return find_any(str(name), ("config.json",))


def find_any(name: str, marks: tuple[str, ...]) -> Path | str:
    """`find` for a folder that holds one of the files `marks`."""
    path = _user_path(name)
    if os.path.isdir(path):  # False, where Path.is_dir raises: too long, not allowed
        for folder in (path, path / MODEL):
            if any(os.path.isfile(folder / mark) for mark in marks):
                return folder
        if several := _runs_below(path):  # a comparison, a sweep, a search
            advice = "give one of them" if len(several) > 1 else "give its folder"
            raise BortError(
                f"{name} holds {counted(len(several), 'model')}; {advice}, as in {several[0]}"
            )
        if (path / CHECKPOINTS).is_dir() or (path / HYDRA).is_dir():
            raise BortError(
                f"{name} is an unfinished run without a model yet; the train.py command that "
                f"started it, with the same name={path.resolve().name}, continues it"
            )
        if not any(path.iterdir()):
            raise BortError(f"{name} is an empty folder; give one that holds {marks[0]}")
        raise BortError(f"{name} is not a model folder: it holds no {' or '.join(marks)}")
    if os.path.exists(path):
        raise BortError(f"{name} is a file; give the folder of a model, which holds {marks[0]}")
    if _looks_local(name):
        hint = _nearest_folder(path) or "; give a run folder, a model folder or a hub name"
        raise BortError(f"{name} does not exist{hint}")
    try:
        huggingface_hub.utils.validate_repo_id(name)
    except HFValidationError:
        raise BortError(
            f"'{shorten(name, 60)}' is neither a folder nor a possible hub name"
        ) from None
    if not isinstance(huggingface_hub.try_to_load_from_cache(name, "config.json"), str):
        _require_hub(name)
    return name


def _user_path(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # there is no such user
        return Path(name)


def _runs_below(path: Path) -> list[Path]:
    """The folders with a model/ in the first DEEPEST levels below a folder, in their order.

    At most MOST_FOLDERS are looked at, level by level, and no link is followed: the folder may be
    anything, the root of a disk too.
    """
    runs, level, looked = [], [path], 0
    for depth in range(DEEPEST + 1):
        below = []
        for folder in level:
            if depth and os.path.isfile(folder / MODEL / "config.json"):
                runs.append(folder)
            if depth < DEEPEST:
                below += _folders(folder)
            looked += 1
            if looked == MOST_FOLDERS:
                return sorted(runs)
        level = below
    return sorted(runs)


def _folders(path: Path) -> list[Path]:
    """The first MOST_FOLDERS folders in one, links left out; none where it may not be read."""
    try:
        with os.scandir(path) as entries:
            some = islice(entries, MOST_FOLDERS)
            return sorted(path / e.name for e in some if e.is_dir(follow_symlinks=False))
    except OSError:
        return []


def _looks_local(name: str) -> bool:
    first = name.split("/")[0]
    return (
        name.startswith((".", "/", "~", "runs/"))
        or name.count("/") > 1
        or ("/" in name and Path(first).is_dir())
    )


def _nearest_folder(path: Path) -> str:
    """A hint for the first part of the path that does not exist."""
    while not path.parent.exists():
        path = path.parent
    if not path.parent.is_dir():
        return f"; {path.parent} is a file"
    return suggest_name(path.name, [folder.name for folder in _folders(path.parent)])


def _require_hub(name: str) -> None:
    """Raise BortError when a model that is not in the local cache cannot be fetched."""
    shown, hint = shorten(name, 60), _nearest_folder(Path(name))
    absent = f"'{shown}' is neither a folder nor in the local Hugging Face cache"
    if huggingface_hub.is_offline_mode():
        raise BortError(f"{absent}, and HF_HUB_OFFLINE is set; give a folder, or unset it{hint}")
    if not is_hub_reachable():
        raise BortError(
            f"{absent}, and the hub does not answer; give a folder, or try again with a "
            f"network{hint}"
        )


def fetch_folder(model: Path | str, patterns: list[str], needed: tuple[str, ...]) -> Path:
    """The local folder, for a hub name that of its snapshot, with one of the files `needed`."""
    if isinstance(model, Path):
        return model
    try:
        folder = Path(huggingface_hub.snapshot_download(model, local_files_only=True))
        if any((folder / file).is_file() for file in needed):
            return folder
    except LocalEntryNotFoundError:
        pass
    _require_hub(model)
    try:
        return Path(huggingface_hub.snapshot_download(model, allow_patterns=patterns))
    except (OSError, ValueError) as e:  # the hub's own (no such model, gated) are OSErrors
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise BortError(f"cannot fetch '{model}' from the hub: {reason}") from None


def fetch_model(name: str | os.PathLike) -> Path:
    """The local folder of a model that is named, fetched from the hub where it is not here yet.

    Safetensors are preferred; a plain tensor file is fetched only where there are none.
    """
    model = find_model(name)
    folder = fetch_folder(model, ["*.json", "model*.safetensors"], WEIGHT_FILES)
    if not any((folder / file).is_file() for file in WEIGHT_FILES):
        folder = fetch_folder(model, ["pytorch_model.bin"], WEIGHT_FILES)
    return folder


def digest_model(name: str | os.PathLike) -> str:
    """Names the content of a model that was loaded before, by run folder, folder or hub name."""
    return digest_folder(fetch_folder(find_model(name), [], WEIGHT_FILES))


FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, by the names in its files: floating-point numbers, or positions.

    Safetensors are mapped, not read: nothing takes memory before it is used.
    """
    weights = _read_files(folder)
    for name, tensor in weights.items():
        if name.endswith(("position_ids", "token_type_ids")):
            continue  # counted numbers that older versions of transformers saved
        if tensor.dtype not in FLOATS or tensor.layout != torch.strided or tensor.is_meta:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise BortError(
                f"{folder}: {shorten(name)} holds {kind} numbers; "
                "weights must be float32, float16, bfloat16 or float64"
            )
    return weights


def _read_files(folder: Path) -> dict[str, Tensor]:
    whole, index, plain = (folder / file for file in WEIGHT_FILES)
    if whole.is_file():
        return _read_safetensors(whole)
    if index.is_file():
        weights = {}
        for file in _shards(index):
            if not (folder / file).is_file():
                raise BortError(f"{folder / file} is missing, which {index.name} names")
            weights |= _read_safetensors(folder / file)
        return weights
    if plain.is_file():
        return _read_plain(plain)
    if (folder / "model.onnx").is_file():
        raise BortError(
            f"{folder} is an ONNX export, which {folder}/predict.py runs; give the folder of the "
            "model that it was made from"
        )
    raise BortError(f"{folder} holds no weights; looked for {', '.join(WEIGHT_FILES)}")


def _shards(index: Path) -> list[str]:
    """The names of the files that hold the parts; an index must not lead out of its folder."""
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not all(isinstance(x, str) for x in table.values()):
        raise BortError(f"{index} has no weight_map from weights to files; fetch it again")
    names = sorted({Path(file).name for file in table.values()})
    if wrong := [name for name in names if not name.endswith(".safetensors") or "\0" in name]:
        raise BortError(f"{index} names {quote(wrong[0])}, which is no .safetensors file")
    return names


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:  # whatever a foreign file makes the library raise is its fault
        raise BortError(
            f"{path} is damaged or cut off ({shorten(error)}); fetch it again"
        ) from None


def _read_plain(path: Path) -> dict[str, Tensor]:
    try:
        _check_stored(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise BortError(
            f"{path} holds more than plain tensors, and nothing in it was run; "
            "weights must be safetensors, or a plain tensor file"
        ) from None
    except BortError:
        raise
    except Exception as error:  # as above
        raise BortError(
            f"{path} is damaged or cut off ({type(error).__name__}); fetch it again"
        ) from None
    plain = isinstance(weights, dict) and all(isinstance(x, str) for x in weights)
    if not plain or not all(isinstance(x, Tensor) for x in weights.values()):
        raise BortError(f"{path} is not a plain dictionary of tensors; convert it to safetensors")
    return weights


def _check_stored(path: Path) -> None:
    """Raise BortError for a compressed file: torch writes none, and a small one can be huge."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            if any(part.compress_type != zipfile.ZIP_STORED for part in file.infolist()):
                raise BortError(f"{path} is compressed, which torch never does; fetch it again")
