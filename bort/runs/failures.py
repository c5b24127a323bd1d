"""Notes about the jobs of a sweep that did not end well, for whatever process ends the sweep."""

from pathlib import Path

PREFIX = ".failed-"  # of a note's name, in the folder of the sweep; the job's name follows


def note_failure(job: Path) -> None:
    """Leave a note for the end of a sweep that the job in this folder did not end well.

    A job may run in another process, or on another machine, than what ends the sweep.
    """
    try:
        job.parent.mkdir(parents=True, exist_ok=True)
        (job.parent / f"{PREFIX}{job.name}").touch()
    except OSError:
        return  # then its line on the screen is all that is known of it


def take_failures(sweep: Path) -> set[str]:
    """Return the names of a sweep's jobs that did not end well; their notes are removed."""
    notes = list(sweep.glob(f"{PREFIX}*"))
    for note in notes:
        note.unlink(missing_ok=True)
    return {note.name.removeprefix(PREFIX) for note in notes}
