"""Does what `train.py` does up to the end of a student's first step; benchmarks/start.py calls it.

    python benchmarks/watched.py TIME experiment=kd_pretrain …

TIME is when the process was started, in seconds since 1970. The last line that is printed is JSON:
when each stage ended.
"""

import time

ends = {"Python itself": time.time()}  # before anything is imported

import contextlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402

sys.path.insert(0, os.getcwd())
started = float(sys.argv.pop(1))

from bort import shell  # noqa: E402
from bort.cli import jobs, train  # noqa: E402


def run_job(cfg, hydra, folder, loading, run=jobs.run_job):
    """Do what `bort.cli.jobs.run_job` does, and note when settings and imports are ready."""

    @contextlib.contextmanager
    def watch_imports():
        ends["settings, by Hydra"] = time.time()
        with loading():
            yield
        ends["imports"] = time.time()
        watch_training()

    return run(cfg, hydra, folder, watch_imports)


def watch_training() -> None:
    """Note when the later stages end; the first step of a student ends the process."""
    from bort.pretraining import recipe
    from bort.training.module import StepModule

    def prepare(*inputs, run=recipe.prepare):
        opened = run(*inputs)
        ends["corpus and teacher"] = time.time()
        return opened

    def start(module, run=StepModule.on_train_start):
        if module.teacher is not None:
            ends["model and trainer"] = time.time()
        run(module)

    def step(module, *inputs, run=StepModule.optimizer_step):
        run(module, *inputs)
        if module.teacher is not None:  # the teacher of the student may be trained before
            ends["first step"] = time.time()
            print(json.dumps({"start": started, **ends}), flush=True)
            os._exit(0)

    recipe.prepare, StepModule.on_train_start, StepModule.optimizer_step = prepare, start, step


jobs.run_job = run_job
shell.run(train.main, "train.py")
