"""The checks of an export: what was written against the model in memory, and what int8 may lose."""

import logging
from collections.abc import Callable
from pathlib import Path

from bort.embeddings.embedder import Embedder, load_shippable
from bort.errors import BortError
from bort.export.agreement import (
    SHAPES,
    Agreement,
    Answers,
    compare_answers,
    compare_directions,
    draw_samples,
    find_largest_difference,
)
from bort.export.forms import Form, run_onnx, run_torch, run_transformers
from bort.export.result import ExportResult
from bort.export.scores import TaskRows
from bort.models import onnx

logger = logging.getLogger(__name__)

Comparison = Callable[..., Agreement]  # of the answers of two forms

MOST_KEPT = 0.5  # share of the matrices in float32 from which on int8 is not worth its name
RUINED = 0.1  # rounding noise of a matrix's worst column; 0.01 is usual


def check_form(
    model, tokenizer, form: str, folder: Path, rows: TaskRows | None, agreement: float
) -> tuple[ExportResult, Form]:
    """Compare what was written with the model in memory; quantize it where the format is int8.

    rows: of the task that int8 has to answer as before, where there is one. Returns what was
    found, and the form that was written. Raises BortError when they differ too much.
    """
    reference = run_torch(model)
    if form == "hf":
        written, _ = load_shippable(str(folder))
        reopened = run_transformers(folder, written)
        largest = find_largest_difference(reference, reopened, model, tokenizer)
        logger.info(f"check: reopened, the largest difference of a logit is {largest:.1e}")
        return ExportResult(form, largest), run_torch(written)
    path = folder / "model.onnx"
    float32 = run_onnx(path)
    largest = find_largest_difference(reference, float32, model, tokenizer)
    logger.info(
        f"check: {len(SHAPES)} shapes with padding, the largest difference of a logit is "
        f"{largest:.1e}"
    )
    if form == "onnx":
        return ExportResult(form, largest), float32
    title, answers = _choose_answers(model, tokenizer, rows)
    compare = _choose_comparison(model)
    float32_names, int8, agreed = quantize_file(path, reference, answers, agreement, compare)
    logger.info(
        f"int8: {agreed} (asked {agreement:.1%}), the largest difference is {agreed.largest:.3g}"
    )
    return ExportResult(
        form,
        agreed.largest,
        agreement=agreed.equal,
        error=agreed.error,
        spread=agreed.spread,
        cosine=agreed.cosine,
        compared=agreed.compared,
        answers=title,
        float32=float32_names,
    ), int8


def _choose_answers(model, tokenizer, rows: TaskRows | None) -> tuple[str, Answers]:
    """Return what int8 has to leave as it is: the title of the inputs, and the answers to them."""
    if rows:
        return f"rows of {rows.task.name}", rows.select().answers
    title, samples = draw_samples(model, tokenizer)
    return title, lambda form: [sample.answers(form) for sample in samples]


def _choose_comparison(model) -> Comparison:
    """Return what compares the answers of two forms of a model."""
    if isinstance(model, Embedder):
        return compare_directions
    multi_label = getattr(model, "multi_label", False)
    return lambda before, after: compare_answers(before, after, multi_label)


def quantize_file(
    path: Path,
    reference: Form,
    answers: Answers,
    agreement: float,
    compare: Comparison = compare_answers,
) -> tuple[list[str], Form, Agreement]:
    """Replace the file by its int8 form; the matrices that int8 would ruin stay as they are.

    These are first those alone whose rounding noise is large; then, while the answers differ, twice
    as many. compare: of the answers of two forms. Returns their names, the form and how far it
    agrees. Raises BortError when more than half would have to stay.
    """
    expected = answers(reference)
    losses = onnx.list_matrices(path)
    order = sorted(losses, key=lambda node: -losses[node][1])
    count = sum(losses[node][1] > RUINED for node in order)
    float32 = path.with_name("float32.onnx")
    path.rename(float32)
    while True:
        keep = order[:count]
        onnx.quantize(float32, path, keep)
        int8 = run_onnx(path)
        agreed = compare(expected, answers(int8))
        if agreed.kept >= agreement:
            break
        count = max(1, 2 * count)
        if count > MOST_KEPT * len(order):
            raise BortError(
                f"int8: {agreed}, less than agreement={agreement:g} asks, even with "
                f"{len(keep)} of {len(order)} matrices in float32; use format=onnx"
            )
    float32.unlink()
    names = sorted(losses[node][0] for node in keep)
    if names:
        logger.info(f"int8: {len(names)} of {len(order)} matrices stay float32: {', '.join(names)}")
    return names, int8, agreed
