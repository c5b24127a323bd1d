"""A model as a folder for production, checked before it gets its name.

    python -m bort.export model=FOLDER format=hf out=FOLDER         # Hugging Face, and a model card
    python -m bort.export model=FOLDER format=onnx out=FOLDER       # float32, for onnxruntime
    python -m bort.export model=FOLDER format=onnx-int8 out=FOLDER  # quantized
    … task=glue/rte data.root=glue_data                             # the score before and after

agreement=0.95 is the least share of equal top answers of int8, drop=0.01 the most that the task's
first metric may lose; push=user/name uploads to the hub afterwards. When a check fails, it exits
with 1 and leaves nothing.
"""

from bort import cli

if __name__ == "__main__":
    cli.starting("bort.export")  # what follows takes seconds

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from bort import casting, documents, finetune, hf, onnx, onnx_predict, ownership, scoring
from bort.card import Export, card, example
from bort.config import Data
from bort.errors import BortError
from bort.export_settings import parse_export
from bort.files import replacing_folder, write_json
from bort.locks import output
from bort.model import Classifier, MaskedLM
from bort.rows import Row, Task
from bort.tokenizer import special_ids
from bort.wording import decimal

TOLERANCE = 1e-4  # of a logit, or of the largest one where that is above 1
MOST_KEPT = 0.5  # share of the matrices in float32 from which on int8 is not worth its name
Inputs = dict[str, np.ndarray]
Run = Callable[[Inputs], np.ndarray]  # inputs to logits
Answers = Callable[[Run], list[np.ndarray]]  # logits for a fixed set of inputs


def export(
    source: str,
    form: str,
    out: Path,
    agreement: float = 0.95,
    drop: float = 0.01,
    task: str | None = None,
    data: Data | None = None,
    say: Callable = print,
) -> Export:
    """Write `source` in this format as the folder `out`, after all checks have passed.

    Raises BortError for a model that cannot be read, a folder that is taken, and a failed check;
    then there is no new `out`.
    """
    model, labels = hf.load(source)
    tokenizer = hf.load_tokenizer(source)
    _check_place(out, source)
    rows = TaskRows.load(model, labels, tokenizer, source, task, data) if task else None
    reference = torch_run(model)
    with output(out), replacing_folder(out) as fresh:
        _write(model, tokenizer, source, form, fresh)
        answers = rows.some().answers if rows else _on_texts(model, tokenizer)
        found, run = _checked(model, tokenizer, form, fresh, reference, answers, agreement, say)
        if rows:
            found.scores = _scored(rows, reference, run, drop, say)
        (fresh / "README.md").write_text(card(model, source, out, found), encoding="utf-8")
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
    hf.save(model, tokenizer, folder, hf.task_keys(source))
    if form == "hf":
        return
    onnx.require_onnx()
    onnx.to_onnx(model, folder / "model.onnx")
    (folder / "model.safetensors").unlink()
    shutil.copy(onnx_predict.__file__, folder / "predict.py")


# ------------------------------------------------------------------------------------ checks


def _checked(
    model,
    tokenizer,
    form: str,
    folder: Path,
    reference: Run,
    answers: Answers,
    agreement: float,
    say: Callable,
) -> tuple[Export, Run]:
    """Compare what was written with the model in memory; quantize, if that is asked for.

    reference: that model; answers: what int8 has to leave as it is.
    """
    if form == "hf":
        written, _ = hf.load(folder)
        found = Export(form, _largest(reference, _reopened(folder, written), model, tokenizer))
        say(f"check: reopened, the largest difference of a logit is {found.largest_difference:.1e}")
        return found, torch_run(written)
    path = folder / "model.onnx"
    run = onnx_run(path)
    found = Export(form, _largest(reference, run, model, tokenizer))
    say(
        f"check: {len(SHAPES)} shapes with padding, the largest difference of a logit is "
        f"{found.largest_difference:.1e}"
    )
    if form == "onnx":
        return found, run
    expected = answers(reference)
    found.float32, run, given = _quantized(path, expected, answers, agreement, say)
    found.agreement = agree(expected, given)
    found.compared = sum(a.size // a.shape[-1] for a in expected)
    differences = [float(np.abs(a - b).max()) for a, b in zip(expected, given, strict=True)]
    found.largest_difference = max(differences)
    say(
        f"int8: {found.agreement:.1%} of {found.compared:,} top answers are equal (asked "
        f"{agreement:.1%}), the largest difference of a logit is {found.largest_difference:.3f}"
    )
    return found, run


SHAPES = ((1, 2), (2, 7), (8, 33), (1, 0), (3, 64), (2, -1))  # 0: the limit, -1: half of it


def _largest(reference: Run, run: Run, model, tokenizer) -> float:
    """The largest difference over SHAPES; raises BortError when it is above TOLERANCE."""
    worst = 0.0
    for number, (batch, length) in enumerate(SHAPES):
        limit = model.config.positions
        length = min(limit, {0: limit, -1: max(2, limit // 2)}.get(length, length))
        inputs = random_inputs(model, tokenizer, batch, length, seed=number)
        expected, found = (_real(model, inputs, call(inputs)) for call in (reference, run))
        scale = max(1.0, float(np.abs(expected).max()))
        difference = float(np.abs(expected - found).max()) / scale
        if not difference <= TOLERANCE:
            raise BortError(
                f"check: at {batch} × {length} tokens the export's logits differ by "
                f"{difference:.1e}, more than {TOLERANCE:g}; nothing was written"
            )
        worst = max(worst, difference)
    return worst


def random_inputs(model, tokenizer, batch: int, length: int, seed: int = 0) -> Inputs:
    """Ids (B, S) of ordinary words, in rows of unequal length padded at their end; two spans."""
    random = np.random.default_rng(seed)
    words = np.flatnonzero(~special_ids(tokenizer))
    ids = random.choice(words, (batch, length))
    lengths = random.integers(2, length + 1, batch)
    lengths[0] = length
    mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
    inputs = {"input_ids": np.where(mask, ids, model.config.pad_id), "attention_mask": mask}
    if model.config.type_vocab:
        second = np.arange(length) >= lengths[:, None] // 2
        types = second & (model.config.type_vocab > 1)
        inputs["token_type_ids"] = (types * mask).astype(np.int64)
    if getattr(model, "spans", 0):
        starts = np.stack([np.zeros(batch, dtype=np.int64), lengths - 1], axis=1)
        inputs["spans"] = np.stack([starts, starts + 1], axis=2)
    return inputs


def _on_texts(model, tokenizer) -> Answers:
    """Answers where there is no task: at every token, or one for a text."""
    samples = list(_samples(model, tokenizer))
    return lambda run: [_real(model, x, run(x)) for x in samples]


def _samples(model, tokenizer, count: int = 64, length: int = 64) -> Iterator[Inputs]:
    """Inputs for int8's answers: docstrings of Python's own library, where they are known words."""
    texts = documents.docstrings(os.__file__)[:count]
    room = min(length, model.config.positions)
    rows = [tokenizer(text, truncation=True, max_length=room)["input_ids"] for text in texts]
    flat = [k for row in rows for k in row]
    known = len(flat) and np.mean([k == tokenizer.unk_token_id for k in flat]) < 0.1
    if not known or getattr(model, "spans", 0):
        for seed in range(8):
            yield random_inputs(model, tokenizer, count // 8, room, seed)
        return
    for row in rows:
        ids = np.array([row])
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        if model.config.type_vocab:
            inputs["token_type_ids"] = np.zeros_like(ids)
        yield inputs


def _quantized(
    path: Path, expected: list[np.ndarray], answers: Answers, agreement: float, say: Callable
) -> tuple[list[str], Run, list[np.ndarray]]:
    """Replace the file by its int8 form; the matrices that int8 would ruin stay as they are.

    First those alone whose rounding noise is large; then, while the answers differ, twice as many.
    Returns the names of those, the session and its answers. Raises BortError when more than half
    would have to stay.
    """
    losses = onnx.matrices(path)
    order = sorted(losses, key=lambda node: -losses[node][1])
    count = sum(losses[node][1] > RUINED for node in order)
    whole = path.with_name("float32.onnx")
    path.rename(whole)
    while True:
        keep = order[:count]
        onnx.quantize(whole, path, keep)
        run = onnx_run(path)
        given = answers(run)
        if (equal := agree(expected, given)) >= agreement:
            break
        count = max(1, 2 * count)
        if count > MOST_KEPT * len(order):
            raise BortError(
                f"int8 keeps {equal:.1%} of the top answers, less than agreement={agreement:g}, "
                f"even with {len(keep)} of {len(order)} matrices in float32; use format=onnx"
            )
    whole.unlink()
    names = sorted(losses[node][0] for node in keep)
    if names:
        say(f"int8: {len(names)} of {len(order)} matrices stay float32: {', '.join(names)}")
    return names, run, given


RUINED = 0.1  # rounding noise of a matrix's worst column; 0.01 is usual


def agree(expected: list[np.ndarray], found: list[np.ndarray]) -> float:
    """Share of equal top answers: words at each token, classes, or numbers that are close."""
    if expected[0].shape[-1] > 1:
        equal = [a.argmax(-1) == b.argmax(-1) for a, b in zip(expected, found, strict=True)]
        return float(np.concatenate(equal).mean())
    numbers, others = np.concatenate(expected), np.concatenate(found)
    close = 0.05 * max(float(np.ptp(numbers)), 1e-3)  # a twentieth of the answers' spread
    return float((np.abs(numbers - others) <= close).mean())


def _real(model, inputs: Inputs, logits: np.ndarray) -> np.ndarray:
    """Of a masked LM the logits (tokens, V) where there is no padding; of others all."""
    masked = isinstance(model, MaskedLM)
    return logits[inputs["attention_mask"].astype(bool)] if masked else logits


def torch_run(model: MaskedLM | Classifier) -> Run:
    """The model in PyTorch, float32."""
    model.eval()

    @torch.no_grad()
    def run(inputs: Inputs) -> np.ndarray:
        given = {k: torch.from_numpy(v) for k, v in inputs.items()}
        if "token_type_ids" in given:
            given["token_types"] = given.pop("token_type_ids")
        return model(**given).numpy()

    return run


def onnx_run(path: Path) -> Run:
    session = onnx.onnx_session(path, threads=0)
    return lambda inputs: session.run(None, inputs)[0]


def _reopened(folder: Path, written) -> Run:
    """The folder through plain transformers; with spans, which they cannot take, through ours."""
    if getattr(written, "spans", 0):
        return torch_run(written)
    import transformers

    transformers.utils.logging.disable_progress_bar()
    kind = hf.settings(folder)["architectures"][0].partition("For")[2]
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
    inputs: casting.Cast
    pad: int
    types: bool  # whether the model has token types
    order: list[int] | None  # which output of the model is the first label of the task, …
    known: dict[Run, np.ndarray] = field(default_factory=dict)  # what was answered before

    @classmethod
    def load(cls, model, labels, tokenizer, source: str, name: str, data: Data) -> "TaskRows":
        """Raises BortError for rows that cannot be read and a model that cannot answer them."""
        if isinstance(model, MaskedLM):
            raise BortError(f"task={name} is for a fine-tuned model; this one fills masks")
        task, rows = finetune.load_task(name, data)
        if "val" not in rows:
            raise BortError(f"task={name} has no rows with labels; use task={task.parent}")
        order = finetune.output_order(task, model, labels, f"model={source}")
        room = min(data.length, model.config.positions)
        inputs = casting.cast(task, rows["val"], tokenizer, room)
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
            found = finetune.row_outputs(call, self.rows, self.inputs, self.pad, self.order)
            self.known[run] = found.numpy()
        return [self.known[run]]


def _scored(
    rows: TaskRows, reference: Run, run: Run, drop: float, say: Callable
) -> dict[str, float]:
    """The task's metrics on its validation set, before and after; BortError for a drop."""
    task = rows.task
    found = {}
    for when, form in (("before", reference), ("after", run)):
        (outputs,) = rows.answers(form)
        answers = finetune.answers(task, torch.from_numpy(outputs))
        scores = scoring.score(task, rows.rows, answers)
        found |= {f"{when}/{metric}": value for metric, value in scores.items()}
    for metric in task.metrics:
        before, after = found[f"before/{metric}"], found[f"after/{metric}"]
        say(f"score: {task.name} val/{metric} {decimal(before)} before, {decimal(after)} after")
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


def main() -> None:
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(__doc__)
        return
    settings = parse_export(sys.argv[1:])
    out = settings.out
    export(
        settings.model,
        settings.format,
        out,
        settings.agreement,
        settings.drop,
        settings.task,
        settings.data,
        cli.say,
    )
    size = sum((out / name).stat().st_size for name in ownership.own_names(out))
    cli.say(f"  folder    {out}, {size / 1e6:.1f} MB; README.md tells how to use it")
    if settings.push:
        _push(out, settings.push)
        cli.say(f"  hub       https://huggingface.co/{settings.push}")
    elif settings.format != "hf":
        cli.say(f"  next      {cli.python()} {out}/predict.py {example(out)}")


if __name__ == "__main__":
    cli.run(main, "bort.export")
