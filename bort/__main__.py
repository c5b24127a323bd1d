"""`bort COMMAND …`, also as `python -m bort COMMAND …`."""

import runpy
import sys
from collections.abc import Callable

from bort import __version__, shell
from bort.config.compose import find_local_settings
from bort.errors import suggest_name

# What each command does; train and search are Hydra's programs, the others modules of their own.
COMMANDS = {
    "train": "pre-train, distil or fine-tune: bort train experiment=kd_pretrain",
    "search": "find the optimal architecture of a grid",
    "predict": "answers of a model to texts",
    "export": "a model as a folder for production: Hugging Face, ONNX, int8",
    "benchmark": "latency, size and memory of models, side by side",
    "report": "runs side by side, as one page",
    "pipeline": "all stages, from text to a small model in production",
    "doctor": "what a bug report needs to say about this machine",
    "dashboard": "the panels of a project in wandb",
}


def main() -> None:
    """Run the command that the first word names, with the words behind it."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print("usage: bort COMMAND …; bort COMMAND --help says what it takes\n")
        for name, purpose in COMMANDS.items():
            print(f"  {name:<10}  {purpose}")
        return
    name = words[0]
    if name == "--version":
        print(f"bort {__version__}")
        return
    if name not in COMMANDS:
        hint = suggest_name(name, COMMANDS) or f"; use {', '.join(COMMANDS)}"
        shell.stop(1, f"bort: {name} is not a command{hint}")
    del sys.argv[1]
    if name in ("train", "search"):
        add_local_settings()
        shell.run(load_program(name), f"bort {name}")
    else:
        runpy.run_module(f"bort.{name}", run_name="__main__")


def add_local_settings() -> None:
    """Have Hydra read conf/local of this folder, as in a checkout, unless told otherwise."""
    is_given = any(word.split("=")[0] in ("--config-dir", "-cd") for word in sys.argv)
    if not is_given and (folder := find_local_settings()):
        sys.argv += ["--config-dir", str(folder)]


def load_program(name: str) -> Callable[[], None]:
    """The Hydra program of a command; another one's schemas are not registered."""
    if name == "train":
        from bort.cli.train import main
    else:
        from bort.cli.search import main
    return main


if __name__ == "__main__":
    main()
