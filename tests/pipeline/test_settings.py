"""The command line of a pipeline: keys that belong to each other."""

import pytest

from bort.config.command_line import parse_command
from bort.errors import BortError
from bort.pipeline.settings import PipelineConfig


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["data.val=v.csv"], "data.val=v.csv goes with data.train=…, which is not given"),
        (["data.text=t"], "data.text=t goes with data.train=…, which is not given"),
        (["data.sample_by=file"], "data.sample_by=file goes with data.path=…, which is not given"),
        (["data.root=g"], "data.root=g goes with task=…, which is not given"),
        (["task=glue/rte", "data.train=a.csv"], "task=glue/rte reads data.root=FOLDER"),
        (["resume=false"], "resume=false goes with one stage, as in search='resume=false'"),
    ],
)
def test_mistakes_are_one_line(words, line):
    with pytest.raises(BortError) as error:
        parse_command(PipelineConfig, words)
    assert str(error.value).startswith(line) and len(str(error.value)) <= 200


def test_a_text_of_ones_own_may_have_a_column():
    settings = parse_command(PipelineConfig, ["data.path=a.jsonl", "data.text=body", "name=x"])
    assert (settings.data.text, settings.name, settings.task) == ("body", "x", None)
