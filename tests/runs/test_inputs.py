"""The digest of the user's files changes with every change of a file, and with nothing else."""

import os
import re

from bort.runs.inputs import digest_data_files


def test_a_text_has_a_digest_that_its_size_and_time_change(settings_of, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("some text\n")
    run = settings_of(f"data.path={path}")
    first = digest_data_files(run)
    assert re.fullmatch("[0-9a-f]{16}", first) and digest_data_files(run) == first
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    os.utime(path, ns=(times[0], times[1] + 1_000_000_000))
    assert digest_data_files(run) != first
    os.utime(path, ns=times)
    assert digest_data_files(run) == first
    path.write_text("some texts\n")
    os.utime(path, ns=times)
    assert digest_data_files(run) != first
    path.unlink()
    assert digest_data_files(run) is None


def test_of_a_folder_every_file_counts(settings_of, tmp_path):
    folder = tmp_path / "texts"
    (folder / "below").mkdir(parents=True)
    (folder / "a.txt").write_text("a\n")
    run = settings_of(f"data.path={folder}")
    first = digest_data_files(run)
    (folder / "below" / "b.txt").write_text("b\n")
    assert digest_data_files(run) not in (first, None)


def test_a_custom_task_has_three_files(settings_of, tmp_path):
    paths = {name: tmp_path / f"{name}.csv" for name in ("train", "val", "test")}
    words = [f"data.{name}={path}" for name, path in paths.items()]
    for path in paths.values():
        path.write_text("text,label\n")
    words = ["data=docstrings", "task=custom", "model=org/base", *words]
    run = settings_of(*words, experiment="finetune")
    digests = [digest_data_files(run)]
    for path in paths.values():
        path.write_text("text,label\nx,y\n")
        digests.append(digest_data_files(run))
    assert None not in digests and len(set(digests)) == 4
    assert digest_data_files(settings_of("data=docstrings")) is None
