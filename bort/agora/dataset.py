"""The division of a task's training rows into D and E (arXiv 2010.07990).

The student learns from D, and is scored on E.
"""

from collections.abc import Iterator

from bort.console import counted, to_printable
from bort.errors import BortError
from bort.finetuning.held_out import choose_held_out, count_strata
from bort.tasks.task import Row, Task

ALIKE = 0.05  # the most by which the shares of a label in D and in E should differ


def split_rows(task: Task, rows: list[Row], fraction: float) -> tuple[list[Row], list[Row]]:
    """Split rows into D and E, each in the order of the file.

    Of each label, about `fraction` of the rows is in E. Rows are chosen by the hash of their
    texts, so that no seed changes it. Rows with equal texts (whatever their spaces and case), of
    one passage or of one group stay together. Raises BortError when E or D would lack one of the
    labels.
    """
    held = set(choose_held_out(task, rows, fraction))
    parts = [row for k, row in enumerate(rows) if k not in held], [rows[k] for k in sorted(held)]
    labels = len(count_strata(task, rows))
    for name, part in zip(("D", "E"), parts, strict=True):
        _check_part(task, name, part, labels)
    return parts


def _check_part(task: Task, name: str, part: list[Row], labels: int) -> None:
    """Raise BortError for a part that lacks one of so many labels, or whose numbers are all one."""
    if task.kind == "regression" and len({row.label for row in part}) < 2:
        raise BortError(
            f"{name} would hold {counted(len(part), 'row')} of one number or none, which no "
            "score tells apart; give more training rows, or another agora.eval_fraction"
        )
    present = count_strata(task, part)
    if len(present) < max(labels, 1 if task.kind == "regression" else 2):
        names = ", ".join(task.labels[label] for label in present if label is not None)
        of_labels = f" of the labels {to_printable(names)} only" if names else ""
        raise BortError(
            f"{name} would hold {counted(len(part), 'row')}{of_labels}; give more training rows, "
            "or another agora.eval_fraction"
        )


def describe_differences(task: Task, D: list[Row], E: list[Row]) -> Iterator[str]:
    """Describe where D and E break what the theory assumes: balanced labels, in equal shares."""
    if task.kind == "regression":
        return
    share_of_d, share_of_e = _compute_shares(task, D), _compute_shares(task, E)
    for label in sorted(share_of_d):
        if abs(share_of_d[label] - share_of_e[label]) > ALIKE:
            name = to_printable(task.labels[label])
            yield f"'{name}' is {share_of_d[label]:.0%} of D and {share_of_e[label]:.0%} of E"
    rarest = min(share_of_d, key=share_of_d.get)
    if share_of_d[rarest] < 0.5 / len(share_of_d):
        yield (
            f"D is not balanced ('{to_printable(task.labels[rarest])}' is "
            f"{share_of_d[rarest]:.0%}); the rows that are generated will be"
        )


def _compute_shares(task: Task, rows: list[Row]) -> dict:
    return {label: count / len(rows) for label, count in count_strata(task, rows).items()}
