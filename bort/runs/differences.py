"""What to say where a run folder holds a run with other settings."""

from collections.abc import Mapping
from typing import Any

from bort.errors import BortError

# How long a run is; the learning rate of each step follows from it.
BUDGETS = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time")
MOST = 3  # differences that a line names


def check_equal(folder: object, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise BortError where the flat settings of a run and those of its folder differ.

    folder: as lines about mistakes name it. Of another budget alone the line says why the run is
    not simply longer, and how its weights can be trained further.
    """
    differing = sorted(key for key in {**then, **now} if then.get(key) != now.get(key))
    if not differing:
        return
    changes = ", ".join(f"{key}={then.get(key)}, now {now.get(key)}" for key in differing[:MOST])
    if set(differing) <= set(BUDGETS):
        is_continued = now.get("job") == "pretrain"
        further = f"; model={folder} there trains its weights further" if is_continued else ""
        raise BortError(
            f"{folder} holds a run whose rates follow from its length ({changes}): a longer one is "
            f"another run; use another name={further}"
        )
    more = f" and {len(differing) - MOST} more" if len(differing) > MOST else ""
    raise BortError(
        f"{folder} holds a run with other settings ({changes}{more}); use the same settings, "
        "another name=, or resume=false to start it again"
    )
