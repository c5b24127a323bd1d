"""Measure what a student gains by starting from its teacher (init=teacher), by width and head.

    python benchmarks/inheritance.py          # three quarters of an hour on one core
    python benchmarks/inheritance.py smoke    # tiny models; only prints

Teachers of half, equal and twice the student's width are trained on the embedded text. Students
⟨2,2,64,256⟩ learn from each of them for 600 steps, from a fresh start and from the teacher's
embeddings: its probabilities of masked words, or, from the same teacher without its head, its final
states. They are scored on masked words of held-out text, where they learnt such, and after a
fine-tuning on the embedded task.

Every training is a run folder under runs/benchmarks/inheritance, so that a second call resumes
where the first was stopped. The table is results/inheritance.md.
"""

import sys
from pathlib import Path

from arms import FRESH, HIDDEN, SEEDS, TAKEN, format_mean
from parts import RUNS, Bench, open_bench, read_arguments, write_table
from safetensors.torch import load_file, save_file

from bort.console import show_log
from bort.errors import BortError
from bort.files.untrusted import read_json
from bort.files.writing import replace_folder, write_json
from bort.finetuning.recipe import finetune
from bort.machine import describe_machine
from bort.pretraining.recipe import pretrain
from bort.runs.folder import RunFolder
from bort.runs.summary import RunSummary

WIDTHS = {"half": 32, "equal": 64, "twice": 128}
HEAD_SIZE, STEPS = 32, 600
STARTS = {"fresh": FRESH, "the teacher's embeddings": TAKEN}
KD = ["distill.w_kd=1"]


def describe_arch(depth: int, hidden: int) -> str:
    heads = hidden // HEAD_SIZE
    sizes = f"depth: {depth}, heads: {heads}, hidden: {hidden}, intermediate: {4 * hidden}"
    return f"{{{sizes}}}"


def train_teacher(bench: Bench, hidden: int) -> Path:
    """Train a teacher on the embedded text, on the first call; return the folder of its model."""
    folder = RunFolder(bench.runs / "teachers" / str(hidden))
    arch = f"arch={describe_arch(2, hidden)}"
    pretrain(bench.compose_pretraining("experiment=teacher_pretrain", arch), folder.path)
    return folder.model


def remove_head(model: Path) -> Path:
    """Save the encoder of a masked LM alone, on the first call; return its folder."""
    bare = model.with_name("encoder")
    if not bare.exists():
        with replace_folder(bare) as folder:
            for path in model.iterdir():
                (folder / path.name).write_bytes(path.read_bytes())
            weights = load_file(model / "model.safetensors")
            encoder = {name: weight for name, weight in weights.items() if "cls." not in name}
            save_file(encoder, folder / "model.safetensors", {"format": "pt"})
            config = read_json(model / "config.json")
            write_json(folder / "config.json", config | {"architectures": ["BertModel"]})
    return bare


def train_student(bench: Bench, teacher: Path, folder: Path, start: str, seed: int) -> RunSummary:
    """Train a student of a teacher, on the first call; return its summary."""
    steps = bench.choose(STEPS, 2)
    words = ["experiment=kd_pretrain", f"arch={describe_arch(2, 64)}", f"teacher.name={teacher}"]
    words += [STARTS[start], *(HIDDEN if teacher.name == "encoder" else KD), f"seed={seed}"]
    words += [f"trainer.max_steps={steps}", f"trainer.val_check_interval={steps}"]
    return pretrain(bench.compose_pretraining(*words), folder)


def score_student(bench: Bench, student: Path, seed: int) -> float:
    """Fine-tune a student on the embedded task, on the first call; return its accuracy."""
    words = ["experiment=finetune", f"model={student}", f"seed={seed}"]
    words += ["trainer.max_epochs=-1", "trainer.max_steps=2"] if bench.smoke else []
    summary = finetune(bench.compose_task(*words), student / "finetuned")
    return summary["val/accuracy"]


def compare_starts(bench: Bench) -> list[str]:
    lines = [
        f"Students ⟨2,2,64,256⟩, {STEPS} steps on the embedded text; means over seeds {SEEDS} ± "
        "standard deviation.",
        "",
        "| teacher's width | it gives | start | masked words | embedded task, accuracy |",
        "|---|---|---|---|---|",
    ]
    for title, hidden in bench.shorten(WIDTHS.items(), 1):
        whole = train_teacher(bench, hidden)
        for teacher in (whole, remove_head(whole)):
            gives = "final states" if teacher.name == "encoder" else "probabilities"
            for start in bench.shorten(STARTS, 1):
                words, task = [], []
                for seed in bench.shorten(SEEDS):
                    name = f"{hidden}_{teacher.name}_{STARTS[start].split('=')[1]}_{seed}"
                    folder = bench.runs / "students" / name
                    summary = train_student(bench, teacher, folder, start, seed)
                    if summary.loss is not None:
                        words.append(summary["val/mlm_accuracy"])
                    task.append(score_student(bench, folder, seed))
                accuracy = format_mean(words) if words else "–"
                lines.append(f"| {title} | {gives} | {start} | {accuracy} | {format_mean(task)} |")
                print(lines[-1], flush=True)
    return lines


def main() -> None:
    show_log()
    try:
        smoke = read_arguments(sys.argv[1:], [])[2]
        with open_bench(RUNS / "inheritance", smoke) as bench:
            lines = compare_starts(bench)
            write_table("inheritance", [describe_machine(), "", *lines], bench)
    except BortError as error:
        raise SystemExit(f"benchmarks/inheritance.py: {error}") from None


if __name__ == "__main__":
    main()
