"""Exporting a model: its files are written, checked, and only then given their name."""

import logging
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from bort import console
from bort.config.data import DataConfig
from bort.console import decimal
from bort.errors import BortError
from bort.export import standalone
from bort.export.agreement import (
    SHAPES,
    Agreement,
    Answers,
    Inputs,
    Run,
    compare,
    largest_difference,
    onnx_run,
    samples,
    torch_run,
)
from bort.export.card import Export, card, example
from bort.export.settings import ExportConfig
from bort.files import ownership
from bort.files.locks import output
from bort.files.writing import replacing_folder, write_json
from bort.finetuning.answering import compute_outputs
from bort.finetuning.heads import match_outputs
from bort.finetuning.module import to_answers
from bort.models import onnx
from bort.models.bert import MaskedLM
from bort.models.huggingface import (
    load_model,
    load_tokenizer,
    read_config,
    read_task_keys,
    save_model,
)
from bort.runs.origin import run_facts
from bort.tasks import encoding, metrics
from bort.tasks.reading import load_task
from bort.tasks.task import Row, Task

logger = logging.getLogger(__name__)

MOST_KEPT = 0.5  # share of the matrices in float32 from which on int8 is not worth its name


def export(
    source: str,
    form: str,
    out: Path,
    agreement: float = 0.95,
    drop: float = 0.01,
    task: str | None = None,
    data: DataConfig | None = None,
) -> Export:
    """Write `source` in this format as the folder `out`, after all checks have passed.

    Raises BortError for a model that cannot be read, a folder that is taken, and a failed check;
    then there is no new `out`.
    """
    model, labels = load_model(source)
    tokenizer = load_tokenizer(source)
    facts = run_facts(source)
    _check_place(out, source)
    rows = TaskRows.load(model, labels, tokenizer, source, task, data) if task else None
    reference = torch_run(model)
    with output(out), replacing_folder(out) as fresh:
        _write(model, tokenizer, source, form, fresh)
        compared, answers = _answers(model, tokenizer, rows)
        found, run = _checked(model, tokenizer, form, fresh, reference, answers, agreement)
        if rows:
            found.scores = _scored(rows, reference, run, drop)
        if found.compared:
            found.answers = compared
        found.parameters = sum(weight.numel() for weight in model.parameters())
        arguments = example(fresh) if form != "hf" else ""
        text = card(model, source, facts, out, found, arguments)
        (fresh / "README.md").write_text(text, encoding="utf-8")
        names = [*(path.name for path in fresh.iterdir()), "export.json"]
        write_json(fresh / "export.json", ownership.export_record(names, vars(found)))
    return found


def _check_place(out: Path, source: str) -> None:
    """Raises BortError for a folder that bort did not write, and for one in or around the model."""
    home, target = Path(source).expanduser(), out.resolve()
    if home.exists() and target.is_relative_to(home.resolve()):
        raise BortError(f"out={out} is inside model={source}; give another folder")
    if home.exists() and home.resolve().is_relative_to(target):
        raise BortError(f"model={source} is inside out={out}; give another folder")
    ownership.settle(target.parent)
    if out.exists() and ownership.exported_names(out) is None:
        if not out.is_dir() or any(out.iterdir()):
            raise BortError(f"out={out} exists and is no export of bort; give another folder")


def _write(model, tokenizer, source: str, form: str, folder: Path) -> None:
    """The files of a format but for its card."""
    save_model(model, tokenizer, folder, read_task_keys(source))
    if form == "hf":
        return
    onnx.require_onnx()
    onnx.export_onnx(model, folder / "model.onnx")
    (folder / "model.safetensors").unlink()
    shutil.copy(standalone.__file__, folder / "predict.py")


# ------------------------------------------------------------------------------------ checks


def _checked(
    model,
    tokenizer,
    form: str,
    folder: Path,
    reference: Run,
    answers: Answers,
    agreement: float,
) -> tuple[Export, Run]:
    """Compare what was written with the model in memory; quantize, if that is asked for.

    reference: that model; answers: what int8 has to leave as it is.
    """
    if form == "hf":
        written, _ = load_model(folder)
        largest = largest_difference(reference, _reopened(folder, written), model, tokenizer)
        logger.info(f"check: reopened, the largest difference of a logit is {largest:.1e}")
        return Export(form, largest), torch_run(written)
    path = folder / "model.onnx"
    run = onnx_run(path)
    largest = largest_difference(reference, run, model, tokenizer)
    logger.info(
        f"check: {len(SHAPES)} shapes with padding, the largest difference of a logit is "
        f"{largest:.1e}"
    )
    if form == "onnx":
        return Export(form, largest), run
    float32, run, found = _quantized(path, answers(reference), answers, agreement)
    logger.info(
        f"int8: {found} (asked {agreement:.1%}), the largest difference is {found.largest:.3g}"
    )
    return Export(
        form,
        found.largest,
        agreement=found.equal,
        error=found.error,
        spread=found.spread,
        compared=found.compared,
        float32=float32,
    ), run


def _answers(model, tokenizer, rows: "TaskRows | None") -> tuple[str, Answers]:
    """What int8 has to leave as it is: what it answers to, in words, and the answers."""
    if rows:
        return f"rows of {rows.task.name}", rows.some().answers
    name, found = samples(model, tokenizer)
    return name, lambda run: [sample.answers(run) for sample in found]


def _quantized(
    path: Path, expected: list[np.ndarray], answers: Answers, agreement: float
) -> tuple[list[str], Run, Agreement]:
    """Replace the file by its int8 form; the matrices that int8 would ruin stay as they are.

    First those alone whose rounding noise is large; then, while the answers differ, twice as many.
    Returns the names of those, the session and how far it agrees. Raises BortError when more than
    half would have to stay.
    """
    losses = onnx.list_matrices(path)
    order = sorted(losses, key=lambda node: -losses[node][1])
    count = sum(losses[node][1] > RUINED for node in order)
    whole = path.with_name("float32.onnx")
    path.rename(whole)
    while True:
        keep = order[:count]
        onnx.quantize(whole, path, keep)
        run = onnx_run(path)
        found = compare(expected, answers(run))
        if found.kept >= agreement:
            break
        count = max(1, 2 * count)
        if count > MOST_KEPT * len(order):
            raise BortError(
                f"int8: {found}, less than agreement={agreement:g} asks, even with "
                f"{len(keep)} of {len(order)} matrices in float32; use format=onnx"
            )
    whole.unlink()
    names = sorted(losses[node][0] for node in keep)
    if names:
        logger.info(f"int8: {len(names)} of {len(order)} matrices stay float32: {', '.join(names)}")
    return names, run, found


RUINED = 0.1  # rounding noise of a matrix's worst column; 0.01 is usual


def _reopened(folder: Path, written) -> Run:
    """The folder through plain transformers; with spans, which they cannot take, through ours."""
    if getattr(written, "spans", 0):
        return torch_run(written)
    import transformers

    transformers.utils.logging.disable_progress_bar()
    kind = read_config(folder)["architectures"][0].partition("For")[2]
    theirs = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(folder).eval()

    @torch.no_grad()
    def run(inputs: Inputs) -> np.ndarray:
        given = {k: torch.from_numpy(v) for k, v in inputs.items()}
        if kind == "MultipleChoice":  # (B, choices, S)
            given = {k: v[:, None] for k, v in given.items()}
        return theirs(**given).logits.numpy()

    return run


# ------------------------------------------------------------------------------------ scores


@dataclass
class TaskRows:
    """The validation rows of a task, which any form of the model can answer."""

    task: Task
    rows: list[Row]
    inputs: encoding.EncodedRows
    pad: int
    types: bool  # whether the model has token types
    order: list[int] | None  # which output of the model is the first label of the task, …
    known: dict[Run, np.ndarray] = field(default_factory=dict)  # what was answered before

    @classmethod
    def load(cls, model, labels, tokenizer, source: str, name: str, data: DataConfig) -> "TaskRows":
        """Raises BortError for rows that cannot be read and a model that cannot answer them."""
        if isinstance(model, MaskedLM):
            raise BortError(f"task={name} is for a fine-tuned model; this one fills masks")
        task, rows = load_task(name, data)
        true = [row.label for row in rows.get("val", [])]
        if not true or None in true:
            use = f"; use task={task.parent}" if task.parent else ""
            raise BortError(f"task={name} has no rows with labels{use}")
        order = match_outputs(task, model, labels, f"model={source}")
        room = model.config.limit
        if data.length > room and data.length != DataConfig.length:
            raise BortError(f"data.length={data.length} is longer than the model's {room} tokens")
        if model.config.length is None or data.length != DataConfig.length:
            room = min(data.length, room)  # else as in the run whose scores are compared
        inputs = encoding.encode_rows(task, rows["val"], tokenizer, room)
        types = model.config.type_vocab > 0
        return cls(task, rows["val"], inputs, tokenizer.pad_token_id, types, order)

    def some(self, most: int = 1000) -> "TaskRows":
        """At most that many of them, from all over the set."""
        if len(self.rows) <= most:
            return self
        chosen = range(0, len(self.rows), -(-len(self.rows) // most))
        rows = [self.rows[k] for k in chosen]
        return replace(self, rows=rows, inputs=self.inputs.of(chosen), known={})

    def answers(self, run: Run) -> list[np.ndarray]:
        """One array (rows, classes): of a task with choices, their scores side by side."""

        def call(input_ids, attention_mask, token_types=None, spans=None) -> torch.Tensor:
            given = {"input_ids": input_ids, "attention_mask": attention_mask, "spans": spans}
            if self.types:
                absent = token_types is None
                given["token_type_ids"] = torch.zeros_like(input_ids) if absent else token_types
            arrays = {name: x.numpy() for name, x in given.items() if x is not None}
            return torch.from_numpy(run(arrays))

        if run not in self.known:
            found = compute_outputs(call, self.rows, self.inputs, self.pad, self.order)
            self.known[run] = found.numpy()
        return [self.known[run]]


def _scored(rows: TaskRows, reference: Run, run: Run, drop: float) -> dict[str, float]:
    """The task's metrics on its validation set, before and after; BortError for a drop."""
    task = rows.task
    found = {}
    for when, form in (("before", reference), ("after", run)):
        (outputs,) = rows.answers(form)
        answers = to_answers(task, torch.from_numpy(outputs))
        scores = metrics.compute_scores(task, rows.rows, answers)
        found |= {f"{when}/{metric}": value for metric, value in scores.items()}
    for metric in task.metrics:
        before, after = found[f"before/{metric}"], found[f"after/{metric}"]
        logger.info(
            f"score: {task.name} val/{metric} {decimal(before)} before, {decimal(after)} after"
        )
    first = task.metrics[0]
    before, after = found[f"before/{first}"], found[f"after/{first}"]
    if before is not None and (after is None or before - after > drop):
        raise BortError(
            f"{task.name}: val/{first} falls from {decimal(before)} to {decimal(after)}, by more "
            f"than drop={drop:g}; use format=onnx"
        )
    return found


# ------------------------------------------------------------------------------------ command


def _push(folder: Path, name: str) -> None:
    import huggingface_hub

    try:
        api = huggingface_hub.HfApi()
        api.create_repo(name, exist_ok=True)
        names = sorted(ownership.own_names(folder))  # not what the user keeps beside them
        api.upload_folder(repo_id=name, folder_path=folder, allow_patterns=names)
    except Exception as error:  # the hub's client has no common class for its refusals
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BortError(f"push={name}: the hub refuses: {reason}; {folder} is complete") from None


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
    size = sum((out / name).stat().st_size for name in ownership.own_names(out))
    logger.info(f"  folder    {out}, {size / 1e6:.1f} MB; README.md tells how to use it")
    if settings.push:
        _push(out, settings.push)
        logger.info(f"  hub       https://huggingface.co/{settings.push}")
    elif settings.format != "hf":
        logger.info(f"  next      {console.python()} {out}/predict.py {example(out)}")
