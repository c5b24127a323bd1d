"""The judge S: the fine-tuned teacher that labels the rows which Agora generates."""

import json
from pathlib import Path

import numpy as np
import torch

from bort.agora.result import JudgeScores
from bort.config.train import TrainConfig
from bort.errors import BortError
from bort.files.run_files import MODEL
from bort.finetuning.judge import Judge
from bort.finetuning.module import to_answers
from bort.models.identity import find_local_model
from bort.pretraining.recipe import pretrain_teacher
from bort.runs.folder import RunFolder
from bort.tasks.metrics import compute_scores
from bort.tasks.task import Row
from bort.teachers.opening import is_own_family

SURE = 0.75  # share of E's rows on which S is as confident as `JudgeScores.confidence`


def examine_judge(
    judge: Judge, E: list[Row], dev: dict[str, list[Row]], guard: float, name: str
) -> JudgeScores:
    """Examine how good S is on E and on the validation sets.

    dev: the rows of the validation sets. name: where S is. Raises BortError when the balanced
    accuracy of S on E is not above `guard`: the theory asks for 2/3, and a constant S has an
    accuracy of 0.684 on MRPC. Regression is exempt.
    """
    outputs = judge(E)
    answers = to_answers(judge.task, torch.from_numpy(outputs))
    on_e = compute_scores(judge.task, E, answers)
    accuracy = confidence = None
    if judge.task.kind != "regression":
        labels = np.array([row.label for row in E])
        accuracy = compute_balanced_accuracy(labels, answers)
        confidence = float(np.quantile(outputs.max(-1), 1 - SURE))
        if accuracy <= guard:
            chance = 1 / len(np.unique(labels))
            raise BortError(
                f"S = {name} has a balanced accuracy of {accuracy:.3f} on E (chance is "
                f"{chance:.3f}), and Agora asks for more than {guard:.3f}; give a better "
                "agora.teacher=, or lower agora.guard"
            )
    scores = {}
    for split, rows in dev.items():
        answers = to_answers(judge.task, torch.from_numpy(judge(rows)))
        scores[split] = compute_scores(judge.task, rows, answers)
    return JudgeScores(on_e, scores, accuracy, confidence)


def find_teacher_source(run: TrainConfig) -> str:
    """Find the encoder that S is fine-tuned from: the teacher of the student's pre-training.

    Raises BortError for a model that does not say who taught it, and for an encoder of a family
    that is not fine-tuned here.
    """
    source = run.teacher.name or _find_teacher_of_student(run)
    folder = find_local_model(source)  # one of the hub is told when it is fetched
    if folder is not None and not is_own_family(folder):
        raise BortError(
            f"S cannot be fine-tuned from {source}: bort does not train its family; set "
            "agora.teacher= to a model that is fine-tuned on the task, of any family"
        )
    return source


def _find_teacher_of_student(run: TrainConfig) -> str:
    if run.model is None:
        return str(pretrain_teacher(run))
    folder = Path(run.model).expanduser()
    summary = RunFolder(folder).find_summary()
    if summary is None and folder.name == MODEL:
        summary = RunFolder(folder.parent).find_summary()
    if summary is None or "teacher" not in summary:
        raise BortError(
            f"model={run.model} does not say who taught it; set agora.teacher= to a model "
            "fine-tuned on the task, or teacher.name= to an encoder that is to be fine-tuned"
        )
    return summary["teacher"]


def has_seen_all_rows(folder: Path, task: str) -> bool:
    """Tell whether S was fine-tuned by bort on the whole training set."""
    run_folder = RunFolder(folder.parent if folder.name == MODEL else folder)
    try:
        settings = json.loads(run_folder.settings_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(settings, dict):
        return False
    return settings.get("job") == "finetune" and settings.get("task") == task


def compute_balanced_accuracy(labels: np.ndarray, answers: np.ndarray) -> float:
    """Compute the mean over the labels of the share of their rows (N,) that is right."""
    shares = [(answers[labels == label] == label).mean() for label in np.unique(labels)]
    return float(np.mean(shares))
