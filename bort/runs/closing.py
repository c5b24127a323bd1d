"""The last lines of a run: the result, where everything is, and what to try next."""

import logging
import os
import re
from pathlib import Path

from bort.config.train import EMBED, TrainConfig
from bort.console import clock, counted, decimal, typed
from bort.files.untrusted import read_json
from bort.runs.baselines import read_baselines
from bort.runs.folder import RunFolder
from bort.runs.summary import RunSummary

logger = logging.getLogger(__name__)

NEXT = {
    "teacher_pretrain": "train.py experiment=kd_pretrain teacher.name={folder}",
    "mlm_pretrain": "train.py experiment=kd_pretrain{text}",
    "kd_pretrain": "train.py experiment=finetune model={folder}",
    "kd_vs_mlm": "train.py experiment=finetune model={kd}",
}


def print_result(
    run: TrainConfig, folder: str | os.PathLike, summary: RunSummary, choice: str
) -> None:
    """Print the result of a run, where everything is, and what to try next.

    choice: the name of the experiment.
    """
    folder = RunFolder(folder)
    if run.job == "pretrain":
        length = _describe_length(run, summary.length)
        line = f"{summary.describe_validation()} after {clock(summary.seconds)} of training"
        logger.info(f"{choice}: {line}{length}")
        if summary.loss is not None and (warning := summary.find_doubt()):
            logger.warning(warning)
        kind = _read_kind(folder.model) if folder.model.is_dir() else "MaskedLM"
        opener = f"AutoModelFor{kind}" if kind else "AutoModel"
        logger.info(f"  model     {folder.model}   ({opener}.from_pretrained opens it)")
        logger.info(f"  metrics   {folder.metrics}, {folder.summary_file.name}")
        if folder.samples.exists():
            logger.info(f"  samples   {folder.samples}")
    following = NEXT.get(choice, NEXT["kd_pretrain"])
    if run.model and choice == "mlm_pretrain":  # the text of a domain, before its task
        following = NEXT["kd_pretrain"]
    if run.fits_task:
        following = _print_scores(run, folder, summary, choice)
    if folder.report.exists():
        logger.info(f"  report    {folder.report}")
    if run.logger.name == "wandb" and (folder / "wandb").is_dir():
        logger.info(f"  wandb     wandb sync {folder}/wandb/offline-run-*   (when it was offline)")
    text = ""
    if run.data.source == "text":
        plain = re.fullmatch(r"[\w./:+-]+", run.data.path)  # others would need two kinds of quotes
        text = f" data=text data.path={run.data.path if plain else 'YOUR_TEXT'}"
    values = {"folder": folder, "text": text, "kd": summary.get("kd/folder")}
    if following:
        logger.info(f"  next      {typed(following.format(**values))}")


def _describe_length(run: TrainConfig, longest: int | None) -> str:
    """Say how long the sequences of a pre-training were, and what longer inputs it is fit for."""
    if longest is None or longest == run.data.length:
        return f" at up to {longest:,} tokens" if longest else ""
    source = "the model that it continues" if run.model else "its teacher"
    return f" at {run.data.length:,} tokens; it takes up to {longest:,}, as {source} does"


def _read_kind(model: Path) -> str:
    """Return what follows `For` in the class of a model folder; nothing for an encoder alone."""
    config = read_json(model / "config.json")
    return str((config.get("architectures") or [""])[0]).partition("For")[2]


def _print_scores(
    run: TrainConfig, folder: RunFolder, summary: RunSummary, choice: str
) -> str | None:
    """Print the scores of a fine-tuning, and where everything is; return what to do next."""
    values = {k: v for k, v in summary.scores.items() if v is None or isinstance(v, float)}
    scores = [f"{key} {decimal(value)}" for key, value in values.items()]
    counts = [f"{counted(n, 'row')} of {split}" for split, n in summary.row_counts.items()]
    if counts and scores:  # what a score is worth
        scores[-1] += f"; {', '.join(counts)}"
    is_last = run.learns_embeddings  # it ends with its budget, and keeps what it has then
    by = f" (the best epoch by {summary.metric})" if "metric" in summary and not is_last else ""
    logger.info(f"{choice}: {run.task}: {', '.join(scores) or 'no labels, so no scores'}{by}")
    if run.job == "kd_finetune" and not run.learns_embeddings:
        score = decimal(summary.get(f"teacher/{summary.metric}"))
        logger.info(f"  teacher   {summary.metric} {score} ({summary.teacher})")
    for baseline in read_baselines(summary):
        logger.info(f"  {baseline.name:<10}{baseline.describe()}")
    if warning := summary.find_doubt():
        logger.warning(warning)
    following = None
    if folder.model.is_dir():  # a diagnostic set has none of its own
        config = read_json(folder.model / "config.json")
        kind = _read_kind(folder.model)
        if run.task == EMBED:
            logger.info(f"  model     {folder.model}   (SentenceTransformer opens it)")
            return "-m bort.export model={folder} format=onnx-int8 out=embedder"
        opened = f"AutoModelFor{kind} opens it" if kind else "for bort: it takes marked words"
        if head := config.get("bort_head"):
            opened = f"for bort: head={head}; AutoModel opens the encoder"
        logger.info(f"  model     {folder.model}   ({opened})")
        if "SequenceClassification" in (kind, config.get("bort_kind")):
            pair = " pair='…'" if config.get("bort_texts") == 2 else ""
            following = f"-m bort.predict model={{folder}} text='…'{pair}"
    logger.info(f"  answers   {folder.predictions}/")
    return following
