"""Names of weights against those that Hugging Face's own classes have."""

import pytest
import torch
from models_helpers import BERT, ROBERTA, TINY
from transformers import BertConfig, BertForMaskedLM, RobertaConfig, RobertaForMaskedLM

from bort.models.bert import Classifier
from bort.models.initialization import build_empty
from bort.models.weight_names import complete_names, map_weight_names, name_class, name_family

SIZES = dict(num_hidden_layers=2, num_attention_heads=2, hidden_size=8, intermediate_size=12)
CLASSES = {"bert": (BertConfig, BertForMaskedLM), "roberta": (RobertaConfig, RobertaForMaskedLM)}
TIED = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
TIED |= {"lm_head.decoder.weight", "lm_head.decoder.bias"}


@pytest.mark.parametrize(("family", "config"), [("bert", BERT), ("roberta", ROBERTA)])
def test_each_weight_has_the_name_that_hugging_face_gives_it(family, config):
    assert name_family(config) == family
    settings, model = CLASSES[family]
    names = map_weight_names(build_empty(config))
    theirs = model(settings(vocab_size=40, **SIZES)).state_dict().keys() - TIED
    assert sorted(names.values()) == sorted(theirs)
    encoder = map_weight_names(Classifier(config, 3))
    assert encoder == {ours: name for ours, name in names.items() if ours.startswith("encoder.")}


def test_names_of_an_encoder_alone_and_of_2018_are_completed():
    tensor = torch.zeros(1)
    old = ["embeddings.LayerNorm.gamma", "encoder.layer.0.output.LayerNorm.beta", "cls.x.weight"]
    new = ["bert.embeddings.LayerNorm.weight", "bert.encoder.layer.0.output.LayerNorm.bias"]
    assert list(complete_names(dict.fromkeys(old, tensor), "bert")) == [*new, "cls.x.weight"]


def test_a_classifier_has_the_class_of_its_kind():
    kinds = [Classifier(TINY, 3), Classifier(TINY, 1, choices=True), Classifier(TINY, 2, spans=2)]
    names = [name_class(model) for model in kinds]
    assert names == ["ForSequenceClassification", "ForMultipleChoice", "Model"]
