"""Another model under the same name is one line; digests are of content."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny_runs import log_lines

from bort.agora import recipe as agora_run
from bort.errors import BortError
from bort.finetuning import recipe as finetune
from bort.models.arch import Arch
from bort.models.bert import ModelConfig
from bort.models.huggingface import save_model
from bort.models.identity import digest_folder, find_local_model
from bort.models.initialization import build_model
from bort.pretraining import kd_vs_mlm as compare
from bort.pretraining.recipe import prepare, pretrain
from bort.pretraining.teacher import locate_teacher
from bort.runs.folder import RunFolder
from bort.search import sweep as search
from bort.text.tokenizer import train_tokenizer

CHANGED = r"was started with another \w+ under this name \(weights or tokenizer \w{16}, now \w{16}"


@pytest.fixture
def model(tmp_path) -> Path:
    """A masked language model as small as can be, of 280 words."""
    words = [f"Line {k}: the cube of {k} is {k**3}" for k in range(60)]
    sizes = ModelConfig(**vars(Arch(2, 2, 32, 64)), vocab_size=280)
    folder = tmp_path / "named"
    save_model(build_model(sizes), train_tokenizer(words, 280), folder)
    return folder


def train_again(folder: Path) -> None:
    """As if the model had been trained again: its word embedding is scaled, as large as before."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    (words,) = (key for key in weights if key.endswith("word_embeddings.weight"))
    weights[words] = weights[words] * 0.5
    save_file(weights, path, metadata={"format": "pt"})


def test_a_digest_names_weights_tokenizer_and_shape(model, tmp_path):
    first = digest_folder(model)
    copy = shutil.copytree(model, tmp_path / "copy")
    assert digest_folder(copy) == first  # whatever the time of its files
    (copy / "README.md").write_text("A card.")
    assert digest_folder(copy) == first
    for name in ("tokenizer.json", "config.json"):
        text = (copy / name).read_text()
        (copy / name).write_text(text + " ")
        assert digest_folder(copy) != first
        (copy / name).write_text(text)
    train_again(copy)
    assert digest_folder(copy) != first
    assert find_local_model(str(copy)) == copy and find_local_model(str(tmp_path)) is None


def test_a_run_is_not_continued_with_another_teacher(model, settings_of, tmp_path):
    run = settings_of(f"teacher.name={model}", "trainer.max_steps=2", experiment="kd_pretrain")
    folder = tmp_path / "run"
    summary = pretrain(run, folder)
    assert summary["teacher_digest"] == digest_folder(model)
    train_again(model)
    with pytest.raises(BortError, match=CHANGED):  # finished: nothing is said that is not so
        RunFolder(folder).find_result(run)
    (folder / "summary.json").unlink()
    with pytest.raises(BortError, match=CHANGED):
        pretrain(run, folder)
    assert pretrain(replace(run, resume=False), folder)["steps"] == 2
    shutil.rmtree(model)  # a teacher that is gone is not another one
    assert RunFolder(folder).find_result(run)["steps"] == 2


def test_a_search_is_not_continued_with_another_teacher(model, search_of, tmp_path):
    """Neither its records nor the kept states of T are mixed."""
    run = search_of(f"teacher.name={model}", "grid.depth=[1]", "grid.hidden=[16]")
    folder = tmp_path / "search"
    with search.open_sweep(run, folder) as sweep:
        assert sweep.plan.teacher.digest == digest_folder(model)
        job = sweep.ask()[0]
        sweep.collect([job], died="its process died")
        assert sweep.records[0].origin.teacher == digest_folder(model)
    (folder / "search.json").unlink()  # as if it had been killed in the pass of T
    train_again(model)
    with pytest.raises(BortError, match=CHANGED), search.open_sweep(run, folder):
        pass


def test_a_run_whose_own_teacher_is_gone_says_so_before_it_is_trained_again(
    settings_of, tmp_path, monkeypatch
):
    """It resumes when the teacher comes out the same; other text is refused before all that."""
    run = settings_of("trainer.max_steps=2", "seed=9", experiment="kd_pretrain")
    folder, lines = tmp_path / "run", log_lines()
    first = pretrain(run, folder)
    (folder / "summary.json").unlink()
    monkeypatch.setenv("BORT_CACHE", str(tmp_path / "empty"))
    again = pretrain(run, folder)
    assert again["teacher_digest"] == first["teacher_digest"]
    told = next(k for k, line in enumerate(lines) if "no longer in the cache" in line)
    assert "teacher: training" in lines[told + 1]
    (folder / "summary.json").unlink()
    notes = json.loads((folder / "corpus.json").read_text())
    (folder / "corpus.json").write_text(json.dumps(notes | {"digest": "0" * 16}))
    monkeypatch.setattr(
        "bort.pretraining.recipe.train_teacher", lambda *_: pytest.fail("T is trained")
    )
    with pytest.raises(BortError, match="was started on other text"):
        pretrain(run, folder)


def test_an_own_teacher_that_was_trained_again_is_another(settings_of, tmp_path):
    run = settings_of("trainer.max_steps=2", "seed=9", experiment="kd_pretrain")
    folder = tmp_path / "run"
    pretrain(run, folder)
    (folder / "summary.json").unlink()
    corpus, _ = prepare(run)
    place = locate_teacher(run, corpus)
    kept = shutil.copytree(place, tmp_path / "kept")
    train_again(place / "model")
    try:
        with pytest.raises(BortError, match=CHANGED):
            pretrain(run, folder)
    finally:
        shutil.rmtree(place)
        kept.rename(place)


def test_a_comparison_does_not_mix_teachers(model, settings_of, tmp_path, monkeypatch):
    run = settings_of(f"teacher.name={model}", experiment="kd_vs_mlm")

    def begun(job, place, *inputs, **options):
        place.mkdir(parents=True, exist_ok=True)
        pytest.fail("an arm was trained")

    monkeypatch.setattr(compare, "train", begun)
    for _ in range(2):
        with pytest.raises(pytest.fail.Exception):
            compare.compare(run, tmp_path / "run")
    train_again(model)
    with pytest.raises(BortError, match=CHANGED):
        compare.compare(run, tmp_path / "run")


def test_a_fine_tuning_is_not_continued_from_another_model(model, settings_of, tmp_path):
    table = tmp_path / "rows.csv"
    table.write_text("text,label\n" + "".join(f"the cube of {k},{k % 2}\n" for k in range(40)))
    given = ["task=custom", f"data.train={table}", "data.source=docstrings", "data.path=null"]
    given += [f"model={model}", "trainer.max_epochs=1", "trainer.max_steps=2"]
    run = settings_of(*given, experiment="finetune")
    folder = tmp_path / "run"
    assert finetune.finetune(run, folder)["steps"] == 2
    train_again(model)
    with pytest.raises(BortError, match=CHANGED):
        RunFolder(folder).find_result(run)
    (folder / "summary.json").unlink()
    with pytest.raises(BortError, match=CHANGED):
        finetune.finetune(run, folder)


def test_agora_tells_all_its_models_apart(model, settings_of, tmp_path):
    source = shutil.copytree(model, tmp_path / "source")
    judge = shutil.copytree(model, tmp_path / "judge")
    given = ["task=docstrings", f"model={source}", f"agora.teacher={judge}"]
    run = settings_of(*given, "data=docstrings", experiment="agora")
    digests = agora_run.digest_models(run, str(source), None)
    assert digests.keys() == {"model", "agora.teacher"}
    RunFolder(tmp_path).check_inputs({"digest": "x"}, digests)
    train_again(judge)
    with pytest.raises(BortError, match="another agora.teacher under this name"):
        RunFolder(tmp_path).check_inputs(
            {"digest": "x"}, agora_run.digest_models(run, source, None)
        )
