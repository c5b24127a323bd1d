"""Exporting a model: its files are written, checked, and only then given their name."""

import logging
from dataclasses import replace
from pathlib import Path

from bort import console
from bort.config.data import DataConfig
from bort.embeddings.embedder import (
    Embedder,
    load_embedder_tokenizer,
    load_shippable,
    save_embedder,
)
from bort.errors import BortError
from bort.export.assembling import assemble_predictor, list_requirements
from bort.export.card import format_card, format_example
from bort.export.checks import check_form
from bort.export.forms import run_torch
from bort.export.result import ExportResult
from bort.export.scores import TaskRows, compare_scores
from bort.export.settings import AGREEMENT, DROP, ExportConfig
from bort.files import ownership
from bort.files.locks import lock_output
from bort.files.writing import replace_folder, write_json
from bort.finetuning.columns import read_columns
from bort.models import onnx
from bort.models.huggingface import load_tokenizer, read_task_keys, save_model
from bort.runs.origin import read_facts

logger = logging.getLogger(__name__)


def run_export(settings: ExportConfig) -> None:
    """Export what the settings name, upload it if they say so, and print what comes next."""
    out = settings.folder
    export(
        settings.model,
        settings.format,
        out,
        settings.least_agreement,
        settings.largest_drop,
        settings.task,
        settings.rows,
    )
    size = sum((out / name).stat().st_size for name in ownership.list_own_names(out))
    logger.info(f"  folder    {out}, {size / 1e6:.1f} MB; README.md tells how to use it")
    if settings.push:
        push(out, settings.push)
        logger.info(f"  hub       https://huggingface.co/{settings.push}")
    elif settings.format != "hf":
        logger.info(f"  next      {console.python()} {out}/predict.py {format_example(out)}")


def export(
    source: str,
    form: str,
    out: Path,
    agreement: float = AGREEMENT,
    drop: float = DROP,
    task: str | None = None,
    data: DataConfig | None = None,
) -> ExportResult:
    """Write `source` in the format `form` as the folder `out`, after all checks have passed.

    agreement: the least share of equal top answers of int8; drop: the most that the first metric
    of the task may lose; data: where the task's rows are. Raises BortError for a model that cannot
    be read, a folder that is taken, and a failed check; then there is no new `out`.
    """
    model, labels = load_shippable(source)
    is_embedder = isinstance(model, Embedder)
    tokenizer = load_embedder_tokenizer(model) if is_embedder else load_tokenizer(source)
    if is_embedder:
        _check_embedder(model, form, task)
    facts = read_facts(source) | read_task_keys(source)
    _check_folder(out, source)
    rows = TaskRows.load(model, labels, tokenizer, source, task, data) if task else None
    reference = run_torch(model)
    with lock_output(out), replace_folder(out) as folder:
        _write_files(model, tokenizer, source, form, folder)
        result, exported = check_form(model, tokenizer, form, folder, rows, agreement)
        scores = compare_scores(rows, reference, exported, drop) if rows else None
        count = sum(weight.numel() for weight in model.parameters())
        columns = read_columns(source)
        result = replace(
            result,
            scores=scores,
            parameters=count,
            task=columns.task,
            columns=list(columns.columns),
            labels=list(columns.labels),
        )
        example = format_example(folder) if form != "hf" else ""
        text = format_card(model, source, facts, out, result, example)
        (folder / "README.md").write_text(text, encoding="utf-8")
        paths = [path for path in folder.rglob("*") if path.is_file()]
        names = [*(path.relative_to(folder).as_posix() for path in paths), ownership.EXPORT]
        write_json(folder / ownership.EXPORT, ownership.make_export_record(names, result.to_json()))
    return result


def _check_embedder(model: Embedder, form: str, task: str | None) -> None:
    """Raise BortError for what a model that embeds texts cannot be exported as."""
    if task is not None:
        raise BortError(f"task={task} is for a model with answers; this one embeds texts")
    if form != "hf" and (model.pooling.lowers or model.pooling.prompt):
        what = "a prompt in front of" if model.pooling.prompt else "the lower case of"
        raise BortError(f"format={form}: predict.py has no place for {what} a text; use format=hf")


def _check_folder(out: Path, source: str) -> None:
    """Raise BortError for a folder that bort did not write, and for one in or around the model."""
    home, target = Path(source).expanduser(), out.resolve()
    if home.exists() and target.is_relative_to(home.resolve()):
        raise BortError(f"out={out} is inside model={source}; give another folder")
    if home.exists() and home.resolve().is_relative_to(target):
        raise BortError(f"model={source} is inside out={out}; give another folder")
    ownership.settle(target.parent)
    if out.exists() and ownership.read_exported_names(out) is None:
        if not out.is_dir() or any(out.iterdir()):
            raise BortError(f"out={out} exists and is no export of bort; give another folder")


def _write_files(model, tokenizer, source: str, form: str, folder: Path) -> None:
    """Write the files of a format except its card; int8 is made of float32 by the checks."""
    if isinstance(model, Embedder):
        save_embedder(model, tokenizer, folder)
    else:
        save_model(model, tokenizer, folder, read_task_keys(source))
    if form == "hf":
        return
    for name in ownership.list_sentence_names(folder):  # they speak of weights in PyTorch
        (folder / name).unlink()
        if (folder / name).parent != folder:
            (folder / name).parent.rmdir()
    onnx.require_onnx()
    onnx.export_onnx(model, folder / "model.onnx")
    (folder / "model.safetensors").unlink()
    (folder / "predict.py").write_text(assemble_predictor(), encoding="utf-8")
    (folder / "requirements.txt").write_text(list_requirements(), encoding="utf-8")


def push(folder: Path, name: str) -> None:
    """Upload an export to the hub as owner/name; raises BortError where the hub refuses it."""
    import huggingface_hub

    try:
        api = huggingface_hub.HfApi()
        api.create_repo(name, exist_ok=True)
        names = sorted(ownership.list_own_names(folder))  # not what the user keeps beside them
        api.upload_folder(repo_id=name, folder_path=folder, allow_patterns=names)
    except Exception as error:  # the hub's client has no common class for its refusals
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BortError(f"push={name}: the hub refuses: {reason}; {folder} is complete") from None
