"""The commands of a pipeline's stages, and one line for a mistake in any of them."""

from pathlib import Path

import pytest

from bort import shell
from bort.config.command_line import parse_command
from bort.pipeline.plan import Stage, plan_stages
from bort.pipeline.settings import PipelineConfig

LARGEST = "teacher.arch={depth: 3, heads: 8, hidden: 256, intermediate: 1024}"  # of search.py


def plan(*words: str) -> list[Stage]:
    return plan_stages(parse_command(PipelineConfig, words))


def commands(*words: str) -> list[list[str]]:
    return [stage.command[1:] for stage in plan(*words)]


def test_defaults(place):
    search, pretrain, finetune, export, benchmark = commands()
    assert search == ["name=pipeline"]
    optimum = "arch_file=runs/search/pipeline/optimum.yaml"
    assert pretrain == ["experiment=kd_pretrain", optimum, "name=pipeline", LARGEST]
    model = "model=runs/kd_pretrain/pipeline"
    assert finetune == ["experiment=finetune", model, "name=pipeline"]
    assert export == [
        *("bort.export", "model=runs/finetune/pipeline", "format=onnx-int8"),
        *("out=runs/export/pipeline", "task=docstrings"),
    ]
    assert benchmark == [
        *("bort.benchmark", "models=[runs/finetune/pipeline,runs/export/pipeline]"),
        *("archs=[bert_base,small_teacher]", "engines=[measured]", "batches=[1,8]"),
        *("lengths=[128]", "out=runs/benchmark/pipeline.csv"),
    ]


def test_two_files_of_the_user(place):
    search, pretrain, finetune, export, _ = commands("data.path=texts.txt", "data.train=stars.csv")
    text = ["data=text", "data.path=texts.txt"]
    assert search == [*text, "name=texts-stars"]
    assert pretrain[2:] == [*text, "name=texts-stars", LARGEST]
    assert finetune[2:] == ["task=custom", "data.train=stars.csv", "name=texts-stars"]
    assert export[4:] == ["task=custom", "data.train=stars.csv"]


def test_columns_go_to_the_task_and_names_are_quoted(place):
    (place / "rows.jsonl").write_text('{"body": "a text"}\n')
    own = ["data.train=my stars, new.csv", "data.text=film review", "name=own"]
    search, _, finetune, export, _ = commands("data.path=rows.jsonl", *own)
    assert search == ["data=text", "data.path=rows.jsonl", "name=own"]
    quoted = ["data.train='my stars, new.csv'", "data.text='film review'"]  # for Hydra
    assert finetune[2:] == ["task=custom", *quoted, "name=own"]
    assert export[4:] == ["task=custom", *own[:2]]
    search, _, finetune, _, _ = commands("data.path=rows.jsonl", "data.text=body")
    assert "data.text=body" in search and "data.text=body" not in finetune


def test_several_columns_of_labels_go_to_the_task_and_to_its_export(place):
    (place / "stars.csv").write_text("text,a,b\nx,1,0\ny,0,1\nz,1,1\n")
    _, _, finetune, export, _ = commands("data.train=stars.csv", "data.label=[a,b]")
    assert finetune[2:4] == ["task=custom", "data.train=stars.csv"]
    assert "data.label=[a,b]" in finetune and "data.label=[a,b]" in export


def test_a_teacher_of_the_task(place):
    """The fine-tuning is a distillation then, and what follows reads its folder."""
    (place / "more.txt").write_text("a film without stars")
    (place / "large one").mkdir()
    (place / "large one" / "config.json").write_text("{}")
    words = ["data.train=stars.csv", "teacher=large one", "data.unlabelled=more.txt"]
    _, _, finetune, export, benchmark = commands(
        *words, "data.unlabelled_rows=500", "data.split_sentences=true", "name=own"
    )
    assert finetune == [
        *("experiment=kd_finetune", "model=runs/kd_pretrain/own", "task=custom"),
        *("data.train=stars.csv", "data.unlabelled=more.txt", "data.unlabelled_rows=500"),
        *("data.split_sentences=true", "teacher.name='large one'", "name=own"),
    ]
    assert export[1] == "model=runs/kd_finetune/own"
    assert benchmark[1] == "models=[runs/kd_finetune/own,runs/export/own]"
    _, _, stage, export_stage, _ = plan(*words, "name=own")
    assert stage.folder == Path("runs/kd_finetune/own")
    assert export_stage.reads == (Path("runs/kd_finetune/own/model/model.safetensors"),)


def test_more_for_one_stage(place):
    search, pretrain, finetune, export, benchmark = commands(
        "search=grid.depth=[1,2] search.n=6",
        "pretrain=trainer.max_steps=7",
        "finetune=data.length=64 trainer.max_epochs=5",
        "export=drop=0.02",
        "benchmark=archs=[bort] batches=[2]",
    )
    assert search == ["grid.depth=[1,2]", "search.n=6", "name=pipeline"]
    assert pretrain[2:] == ["trainer.max_steps=7", "name=pipeline", LARGEST]
    assert finetune[2:4] == ["data.length=64", "trainer.max_epochs=5"]
    assert export[-2:] == ["data.length=64", "drop=0.02"]
    assert "archs=[bort]" in benchmark and "batches=[1,8]" not in benchmark
    assert "lengths=[64]" in benchmark


def test_a_teacher_of_its_own_for_the_pre_training(place):
    """It is asked for by any of its settings; otherwise it is that of the search."""
    pretrain = commands("search=teacher.arch.depth=2", "pretrain=teacher.max_steps=9")[1]
    assert pretrain[2:] == ["teacher.max_steps=9", "name=pipeline"]
    pretrain = commands("search=teacher.arch.depth=1")[1]
    assert pretrain[-1] == LARGEST.replace("3", "1", 1)


MISTAKES = {
    "data.pth=texts.txt": "data.pth=texts.txt is not a setting; did you mean 'data.path'?",
    "data.path=text.txt": "text.txt",
    "data.train=star.csv": "data.train=star.csv is not there; did you mean 'stars.csv'?",
    "data.train=stars.csv data.label=stars": "stars.csv, line 1: no column 'stars'",
    "data.label=label": "data.label=label goes with data.train=…, which is not given",
    "data.unlabelled=x": "data.unlabelled=x goes with teacher=…, which is not given",
    "teacher=x data.unlabelled_rows=5": "data.unlabelled_rows=5 goes with data.unlabelled=…",
    "data.train=stars.csv teacher=x data.unlabelled=absent.txt": "absent.txt is not there",
    "data.root=x": "data.root=x goes with task=…, which is not given",
    "task=glue/rte data.train=stars.csv": "leave one of them out",
    "task=glue/rtee": "did you mean 'glue/rte'?",
    "task=glue/ax": "diagnostic set",
    "name=a/b": "cannot name a run folder",
    "search=search.nn=6": "did you mean 'search.n'?",
    "search=name=x": "search='name=x': the pipeline sets name itself; leave it out",
    "finetune=fast": "finetune='fast': fast is not key=value",
    "finetune=a='": "fix its quotes",
    "benchmark=archs=[bert_bass]": "did you mean 'bert_base'?",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes(place, words, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = sorted(place.rglob("*"))
    with pytest.raises(Exception) as error:
        plan(*words.split(" "))
    line = shell.mistake(error.value)
    assert line and "\n" not in line and MISTAKES[words] in line
    assert sorted(place.rglob("*")) == before


def stage(key: str, code: str, *reads: str) -> Stage:
    """Writes the file named like it, after appending its name to `log`."""
    code = f"open('log', 'a').write('{key} '); {code}"
    return Stage(key, ["-c", code], Path(key), Path(key), tuple(map(Path, reads)))
