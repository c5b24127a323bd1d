"""Was the teacher worth it? KD against plain MLM from the same start (arXiv 2010.10499, §4.3).

Three arms, each with its best learning rate of the same list: KD; MLM for as many steps; MLM for as
much wall clock, in which KD's time includes the teacher's passes.
"""

import csv
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bort.cli import clock
from bort.config import Distill, Train
from bort.corpus import Corpus
from bort.errors import BortError, Diverged
from bort.files import replacing, write_json
from bort.model import MaskedLM
from bort.pretrain import prepare, teacher_digest, teacher_folder, train
from bort.runs import check_corpus, check_folder, doubt, finished, locked, open_folder
from bort.training import check_trainer

ARMS = {
    "kd": "KD",
    "mlm": "MLM, equal steps",
    "mlm_equal_time": "MLM, equal time",
}


def compare(run: Train, folder: Path, say: Callable = print, record: dict | None = None) -> dict:
    """Train the three arms into sub-folders of `folder`; print and write the comparison.

    Returns the flat summary. Arms that are finished are not trained again.
    """
    check_trainer(run)
    check_folder(folder, run)
    if run.distill.w_kd == 0:
        raise BortError(
            "experiment=kd_vs_mlm needs distill.w_kd above 0: it is the arm with a teacher"
        )
    if (run.trainer or {}).get("max_steps", -1) < 1:
        raise BortError(
            "experiment=kd_vs_mlm needs trainer.max_steps: both arms get that many steps"
        )
    corpus, teacher = prepare(run, say)
    if not len(corpus.val):
        raise BortError("experiment=kd_vs_mlm needs validation text; raise data.val_fraction")
    with locked(folder, False, say):
        open_folder(folder, run, record)
        check_corpus(folder, corpus.info, teacher_digest(run, corpus))
        return _train_arms(run, folder, corpus, teacher, say)


def _train_arms(
    run: Train, folder: Path, corpus: Corpus, teacher: MaskedLM | None, say: Callable
) -> dict:
    results: dict[str, dict] = {}
    for arm in ARMS:
        tries, rates = {}, {}
        for lr in run.compare.lrs:
            place = folder / arm / f"lr_{lr:g}"
            rates[place] = lr
            job = arm_settings(run, arm, lr, results)
            label = f"{ARMS[arm]}, lr {lr:g}"
            if run.resume and (place / "failed.json").exists():
                continue
            if finished(place) is None:
                say(f"{label} → {place}")
            try:
                tries[place] = train(job, place, corpus, teacher, say, label=label)
            except Diverged as error:  # a result: the arm has its other rates
                say(f"{label} drops out: {error}")
                write_json(place / "failed.json", {"reason": str(error)})
        if not tries:
            raise BortError(f"{ARMS[arm]}: every rate of compare.lrs diverged; add lower ones")
        best = max(tries, key=lambda p: tries[p]["val/mlm_accuracy"])
        results[arm] = {**tries[best], "folder": str(best), "lr": rates[best]}
    own = run.teacher.name is None
    cost = finished(teacher_folder(run, corpus))["seconds"] if own else None
    summary = _summary(results, cost)
    write_json(folder / "summary.json", summary)
    picture(results, folder / "curves.html")
    show(results, cost, folder)
    return summary


def arm_settings(run: Train, arm: str, lr: float, results: dict) -> Train:
    """The settings of one arm: they differ in loss weights, learning rate and budget only.

    results: the summaries of the arms before it; `mlm_equal_time` needs those of the other two.
    """
    trainer = dict(run.trainer)
    distill = run.distill
    if arm != "kd":
        distill = Distill(w_kd=0.0, w_mlm=1.0)
    if arm == "mlm_equal_time":
        kd, mlm = results["kd"], results["mlm"]
        # As many steps as the plain arm would have made in KD's time: by its own measured speed,
        # so that the arm is a step budget too, with a schedule that ends where it ends.
        steps = round(trainer["max_steps"] * kd["seconds"] / mlm["seconds"])
        trainer["val_check_interval"] = round(trainer["val_check_interval"] * steps / kd["steps"])
        trainer["max_steps"] = max(1, steps)
    return run.training(distill=distill, trainer=trainer, optim=replace(run.optim, lr=lr))


def _summary(results: dict[str, dict], teacher_seconds: float | None) -> dict:
    keys = ("val/loss", "val/mlm_accuracy", "steps", "tokens", "seconds", "lr", "folder")
    flat = {f"{arm}/{key}": results[arm][key] for arm in results for key in keys}
    kd = results["kd"]
    return {
        **flat,
        **{key: kd[key] for key in kd if key not in ("folder", "lr")},
        "teacher_seconds": teacher_seconds,
    }


def verdicts(accuracy: dict[str, float]) -> Iterator[str]:
    """What the accuracies of the arms say, in words."""
    for arm, budget in (("mlm", "the same steps"), ("mlm_equal_time", "the same wall clock")):
        ratio = accuracy["kd"] / max(accuracy[arm], 1e-9)
        word = "better than" if ratio > 1 else "not better than"
        yield f"KD is {word} plain MLM for {budget}: {ratio:.2f} × its accuracy"


def show(results: dict[str, dict], teacher_seconds: float | None, folder: Path) -> None:
    """The table, and what it says in words."""
    console = Console(highlight=False)
    kd = results["kd"]
    table = Table(
        "", "steps", "time", "val loss", "MLM accuracy", "lr", title="was the teacher worth it?"
    )
    for arm, row in results.items():
        table.add_row(
            ARMS[arm],
            f"{row['steps']:,}",
            clock(row["seconds"]),
            f"{row['val/loss']:.3f}",
            f"{row['val/mlm_accuracy']:.1%}",
            f"{row['lr']:g}",
        )
    unigram = (f"{kd['unigram_ce']:.3f}", f"{kd['unigram_accuracy']:.1%}", "")
    table.add_row("unigram frequencies", "", "", *unigram)
    console.print(table)
    for line in verdicts({arm: row["val/mlm_accuracy"] for arm, row in results.items()}):
        console.print(line)
    if warning := doubt(min(results.values(), key=lambda row: row["val/loss"])):
        console.print(f"warning: the best of them is {warning}", soft_wrap=True)
    if teacher_seconds is not None:
        console.print(
            f"The teacher's own training took {clock(teacher_seconds)}: "
            "paid once, for every student on this text",
        )
    for label, file in (("table ", "summary.json"), ("curves", "curves.html")):
        console.print(f"  {label}    {folder}/{file}", soft_wrap=True)
    console.print(f"  model     {kd['folder']}/model", soft_wrap=True)


def picture(results: dict[str, dict], path: Path) -> None:
    """Validation accuracy of the arms over steps and over time, one self-contained page."""
    from plotly.subplots import make_subplots

    figure = make_subplots(1, 2, subplot_titles=("over steps", "over training time (s)"))
    colors = {"kd": "#1f6feb", "mlm": "#d29922", "mlm_equal_time": "#8b949e"}
    for arm, row in results.items():
        points = _curve(Path(row["folder"]) / "metrics.csv")
        steps = [step for step, _ in points]
        accuracy = [100 * value for _, value in points]
        seconds = [step * row["seconds"] / row["steps"] for step in steps]
        for column, x in ((1, steps), (2, seconds)):
            figure.add_scatter(
                x=x,
                y=accuracy,
                name=ARMS[arm],
                legendgroup=arm,
                showlegend=column == 1,
                line={"color": colors[arm]},
                row=1,
                col=column,
            )
    unigram = 100 * results["kd"]["unigram_accuracy"]
    figure.add_hline(y=unigram, line_dash="dot", annotation_text="unigram frequencies")
    figure.update_yaxes(title_text="validation MLM accuracy (%)", col=1)
    figure.update_yaxes(rangemode="tozero")
    figure.update_layout(title="KD against plain MLM, from the same start", template="plotly_white")
    with replacing(path) as file:
        file.write(figure.to_html(include_plotlyjs=True, full_html=True).encode())


def _curve(path: Path) -> list[tuple[int, float]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["val/mlm_accuracy"]]
    return [(int(row["step"]), float(row["val/mlm_accuracy"])) for row in rows]
