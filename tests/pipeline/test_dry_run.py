"""The dry run of a pipeline shows its stages, refuses what they refuse, and starts nothing."""

import shlex
import sys
from pathlib import Path

import pytest

from bort.config.command_line import parse_command
from bort.errors import BortError
from bort.pipeline.dry_run import is_done
from bort.pipeline.plan import Stage, plan_stages
from bort.pipeline.run import StageRecord, digest_file, main
from bort.pipeline.settings import PipelineConfig

OWN = ("data.path=texts.txt", "data.train=stars.csv")
SMALL = "search=data.length=16 data.vocab_size=280 data.val_fraction=0.2 grid=tiny trainer=cpu"


def start(*words: str) -> None:
    main(parse_command(PipelineConfig, list(words)))


def list_files(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if "cache" not in path.parts)


def test_the_stages_are_shown_and_nothing_is_started(place, capsys):
    before = list_files(place)
    start(*OWN, SMALL, "dry_run=true")
    shown = capsys.readouterr().out.splitlines()
    stages = plan_stages(parse_command(PipelineConfig, [*OWN, SMALL]))
    assert [stage.key for stage in stages if stage.run] == ["search", "pretrain", "finetune"]
    for number, (line, stage) in enumerate(zip(shown, stages, strict=False), start=1):
        assert line.startswith(f"pipeline {number} of 5: {stage.key}, to do: ")
        assert line.endswith(shlex.quote(stage.command[-1]))
    assert any(line.startswith("  candidates  ") for line in shown)
    assert any(line.startswith("  time        at most ") for line in shown)
    assert shown[-1] == "dry_run=true: nothing was started" and list_files(place) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search=teacher.name=./nowhere"], "nowhere"),
        (["teacher=./nowhere"], "nowhere"),
        (["data.kind=number", "finetune=optim.class_weights=balanced"], "balanced is for classes"),
        (["pretrain=trainer=gpu"], "GPU|gpu|CUDA"),
        (["search=search.max_params=10"], "search.max_params"),
    ],
)
def test_it_refuses_what_a_stage_would_refuse(place, words, message):
    """All but the last by the same list of checks that a pipeline walks before its first stage."""
    before = list_files(place)
    runs = [[*OWN, *words, "dry_run=true"]]
    if "max_params" not in words[0]:
        runs.append([*OWN, *words])
    for arguments in runs:
        with pytest.raises(BortError, match=message):
            start(*arguments)
    assert list_files(place) == before


def test_a_folder_of_somebody_else_is_refused(place):
    folder = place / "runs" / "pipeline" / "texts-stars"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(BortError, match="holds files but no pipeline of bort"):
        start(*OWN, SMALL, "dry_run=true")


def test_a_stage_is_done_that_read_the_same_and_left_its_result(place):
    stage = Stage("two", [sys.executable], Path("two"), Path("two"), (Path("texts.txt"),))
    reads = {"texts.txt": digest_file(Path("texts.txt"))}
    record = StageRecord(stage.command, reads, finished=True)
    assert not is_done(stage, record) and not is_done(stage, None)
    Path("two").write_text("result")
    assert is_done(stage, record)
    Path("texts.txt").write_text("another")
    assert not is_done(stage, record)
    Path("texts.txt").unlink()
    assert not is_done(stage, record)
