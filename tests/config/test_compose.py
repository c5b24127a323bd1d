"""From a composed configuration to typed settings: values, unknown keys, arch_file."""

from dataclasses import fields, is_dataclass

import pytest
from composed_settings import CONF, NEEDED, composed
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, ValidationError

from bort.config.arch import ArchConfig
from bort.config.compose import parse_settings
from bort.config.optim import width_lr
from bort.config.train import TrainConfig
from bort.config.unused import refuse_unused
from bort.errors import BortError
from bort.models.arch import Arch


def test_parse_gives_typed_values():
    run = composed("optim.lr=3", "compare.lrs=[1,2e-3]", "data.path=null", "logger.tags=[a]")
    assert run.optim.lr == 3.0 and isinstance(run.optim.lr, float)
    assert run.compare.lrs == [1.0, 2e-3] and run.logger.tags == ["a"] and run.data.path is None
    for field in fields(TrainConfig):
        value = getattr(run, field.name)
        expected = Arch if field.type is ArchConfig else field.type
        assert type(value) is expected if is_dataclass(expected) else True
    assert type(run.teacher.arch) is Arch
    assert type(run.trainer) is dict and run.callbacks == {}


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("optim.lrr=1", ConfigCompositionException, "Could not override 'optim.lrr'"),
        ("+optim.lrr=1", ConfigCompositionException, "Key 'lrr' not in 'OptimConfig'"),
        ("+data.foo=1", ConfigCompositionException, "Key 'foo' not in 'DataConfig'"),
        ("+foo=1", ConfigKeyError, "Key 'foo' not in 'PretrainRunConfig'"),
        ("optim.eps=fast", ConfigCompositionException, "could not be converted to Float"),
        ("optim.lr=fast", BortError, "could not be converted to Float; give a rate, or auto"),
        ("arch.depth=2.5", ConfigCompositionException, "could not be converted to Integer"),
    ],
)
def test_unknown_keys_and_wrong_types(override, error, message):
    with pytest.raises((error, ConfigKeyError)) as raised:
        composed(override)
    causes = [raised.value, raised.value.__cause__]
    assert any(message in str(cause) for cause in causes)


def test_the_command_line_is_left_as_it_was():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*NEEDED, f"arch_file={CONF}/arch/bort.yaml"])
    before = OmegaConf.to_yaml(cfg)
    parse_settings(cfg)
    assert OmegaConf.to_yaml(cfg) == before


@pytest.mark.parametrize(
    "content",
    [
        "depth: 3\nheads: 2\nhidden: 8\nintermediate: 5\n",
        "arch:\n  depth: 3\n  heads: 2\n  hidden: 8\n  intermediate: 5\nw: 0.7\n",
    ],
)
def test_architecture_of_a_search(tmp_path, content):
    (tmp_path / "optimum.yaml").write_text(content)
    assert composed(f"arch_file={tmp_path}/optimum.yaml").arch == Arch(3, 2, 8, 5)


@pytest.mark.parametrize("content", ["depth: 3\nheads: 2\nhidden: 8\n", "[1, 2]", "{", "", "7"])
def test_a_file_that_is_no_architecture(tmp_path, content):
    path = tmp_path / "optimum.yaml"
    path.write_text(content)
    with pytest.raises(BortError) as error:
        composed(f"arch_file={path}")
    assert str(error.value).startswith(
        f"arch_file={path} is not an architecture; it needs the four"
    )


def test_numbers_of_a_file_are_checked_like_others(tmp_path):
    path = tmp_path / "optimum.yaml"
    path.write_text("depth: 2.5\nheads: 2\nhidden: 8\nintermediate: 5\n")
    with pytest.raises(ValidationError, match=r"'2\.5' of type 'float' could not be converted"):
        composed(f"arch_file={path}")
    path.write_text("depth: 2\nheads: 3\nhidden: 8\nintermediate: 5\n")
    with pytest.raises(BortError, match="arch.heads=3 does not divide arch.hidden=8"):
        composed(f"arch_file={path}")


def test_a_missing_file_names_its_neighbour(tmp_path):
    (tmp_path / "optimum.yaml").write_text("")
    with pytest.raises(BortError) as error:
        composed(f"arch_file={tmp_path}/optimun.yaml")
    text = (
        f"arch_file={tmp_path}/optimun.yaml does not exist; did you mean '{tmp_path}/optimum.yaml'?"
    )
    assert str(error.value) == text
    with pytest.raises(BortError, match="does not exist$"):
        composed(f"arch_file={tmp_path}/no/folder.yaml")


def test_a_configuration_of_version_0_1_can_still_be_read():
    """It has a key that is no setting any more, without a value; with one it is a mistake."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", NEEDED)
    stored = OmegaConf.to_container(cfg, resolve=True)
    stored["agora"]["training"] = None
    assert parse_settings(OmegaConf.create(stored)) == parse_settings(cfg)
    stored["agora"]["training"] = "round_1"
    with pytest.raises(ConfigKeyError, match="training"):
        parse_settings(OmegaConf.create(stored))


def test_a_model_that_is_continued_brings_architecture_and_words(named_model):
    """So its width decides the rate, and its tokenizer is read."""
    run = composed(f"model={named_model}", "data=text", "data.path=x")
    assert run.arch == Arch(2, 2, 32, 64) and run.data.tokenizer == str(named_model)
    assert run.optim.lr == pytest.approx(width_lr(32))
    assert run.list_models() == {"model": str(named_model)}
    assert run.describe().startswith(f"{named_model}, ⟨2,2,32,64⟩, learns")
    with pytest.raises(BortError, match="data.tokenizer=bpe cannot be used: model=.* has a token"):
        composed(f"model={named_model}", "data.tokenizer=bpe")
    for word in ("arch=bort", "arch.depth=2", "init=paper", "data.vocab_size=300"):
        with pytest.raises(BortError, match="model=") as error:
            refuse_unused(run, [word])
        assert len(str(error.value)) <= 200


def test_a_model_of_another_family_is_not_continued(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "distilbert", "n_layers": 6}')
    with pytest.raises(BortError, match="model_type 'distilbert' without num_hidden_layers"):
        composed(f"model={tmp_path}")
    with pytest.raises(BortError, match="does not exist"):
        composed("model=./nowhere/else")
