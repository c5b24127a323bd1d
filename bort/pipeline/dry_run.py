"""The dry run of a pipeline: its stages, which of them are finished, and the plan of the search.

The checks are those of the pipeline itself, `plan_stages`; the search adds its own.
"""

import logging
import shlex
from collections.abc import Mapping
from pathlib import Path

from bort import console
from bort.pipeline.plan import Stage
from bort.pipeline.run import StageRecord, digest_file, is_finished
from bort.search import dry_run

logger = logging.getLogger(__name__)


def show(stages: list[Stage], records: Mapping[str, StageRecord]) -> None:
    """Print the commands that are left to do, and what the search will cost if it is one of them.

    records: of the stages that were begun. Raises BortError for what the search would refuse.
    """
    for number, stage in enumerate(stages, start=1):
        state = "is finished" if is_done(stage, records.get(stage.key)) else "to do"
        command = f"{console.python()} {shlex.join(stage.command)}"
        logger.info(f"pipeline {number} of {len(stages)}: {stage.key}, {state}: {command}")
    search = stages[0]
    if not is_done(search, records.get(search.key)):
        logger.info("the plan of the search; the others depend on the optimum that it finds:")
        dry_run.show(search.run, search.folder)
        return
    logger.info("dry_run=true: nothing was started")


def is_done(stage: Stage, record: StageRecord | None) -> bool:
    """Say whether a stage is finished and all that it reads is still the same."""
    if record is None or not all(map(Path.is_file, stage.reads)):
        return False
    reads = {str(path): digest_file(path) for path in stage.reads}
    return is_finished(stage, record, reads)
