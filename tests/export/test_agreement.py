"""How far two forms of a model agree, by hand and by their spread."""

import copy

import numpy as np
import pytest
import torch
from export_models import body
from tiny_runs import add_head

from bort.errors import BortError
from bort.export import agreement
from bort.export.agreement import compare_answers, compare_directions
from bort.export.forms import draw_inputs, run_torch
from bort.models.huggingface import load_model


def test_int8_of_a_masked_model_is_compared_where_words_are_masked(folders, tokenizer):
    """15% of the tokens, most of them hidden: a token that can be read has only to be copied."""
    model, _ = load_model(folders / "mlm")
    name, found = agreement.draw_samples(model, tokenizer)
    assert name == "masked words of docstrings"
    count = sum(len(sample.positions) for sample in found)
    tokens = sum(int(sample.inputs["attention_mask"].sum()) - 2 for sample in found)
    assert count / tokens == pytest.approx(0.15, abs=0.02)
    ids = [sample.inputs["input_ids"].ravel()[sample.positions] for sample in found]
    hidden = np.concatenate(ids) == tokenizer.mask_token_id
    assert hidden.mean() == pytest.approx(0.8, abs=0.05)
    assert found[0].answers(run_torch(model)).shape == (len(found[0].positions), 320)


def test_agreement_by_hand():
    """Two of three classes; of numbers the root mean square difference beside their spread."""
    classes = np.array([[1.0, 2], [3, 1], [0, 5]]), np.array([[1.0, 3], [0, 1], [0, 9]])
    numbers = np.array([[0.0], [1.0], [2.0]]), np.array([[0.1], [1.2], [1.8]])
    error = np.sqrt((0.1**2 + 0.2**2 + 0.2**2) / 3) / np.sqrt(2 / 3)
    for expected, found in (classes, numbers):
        # one row at a time, as texts of different lengths are: the spread is still that of all
        rows = [list(values[:, None]) for values in (expected, found)]
        for result in (
            compare_answers([expected], [found]),
            compare_answers(*rows),
        ):
            assert result.compared == 3
            if expected is classes[0]:
                assert result.kept == result.equal == pytest.approx(2 / 3)
                assert result.largest == 4.0 and result.error is None
                assert str(result) == "66.7% of 3 top answers are equal"
            else:
                assert result.equal is None and result.error == pytest.approx(error)
                assert result.kept == pytest.approx(1 - error)
                assert result.spread == pytest.approx(np.sqrt(2 / 3))
                assert str(result) == "3 answers are 21.2% of their spread 0.816 off"
    alike = [np.full((3, 1), 3.0)]
    assert compare_answers(alike, alike).kept == 1
    assert compare_answers(alike, [alike[0] + 1e-4]).kept < 0  # nothing is left of no spread


@pytest.mark.parametrize(("mean", "allowed"), [(0, 1e-3), (1e3, 2e-3), (1e4, 1e-2), (1e6, 0.5)])
def test_numbers_far_from_zero_are_compared_by_their_spread(tokenizer, mean, allowed):
    """Answers of 1000 ± 1 that are 0.05 off are wrong; those of float64 agree but for rounding."""
    model = add_head(body(1), "glue/stsb")
    inputs = [draw_inputs(model, tokenizer, 8, 33, seed) for seed in range(4)]
    with torch.no_grad():
        spread = np.std([run_torch(model)(x) for x in inputs])
        model.out.weight /= float(spread)
        model.out.bias.fill_(mean)
    exact = run_torch(copy.deepcopy(model).double())
    run = run_torch(model)
    assert agreement.find_largest_difference(run, exact, model, tokenizer) < allowed / 2
    with pytest.raises(BortError, match=r"the export's logits differ by .*nothing was written"):
        agreement.find_largest_difference(run, lambda x: run(x) + allowed, model, tokenizer)


def test_answers_that_are_all_equal_agree_but_for_rounding(tokenizer):
    """Numbers without a spread: a model whose output layer is 0, and one of small outputs."""
    model = add_head(body(1), "glue/stsb")
    for weight, bias in ((0.0, 3.0), (1e-6, 0.0)):
        with torch.no_grad():
            model.out.weight.fill_(weight)
            model.out.bias.fill_(bias)
        exact = run_torch(copy.deepcopy(model).double())
        agreement.find_largest_difference(run_torch(model), exact, model, tokenizer)


def test_agreement_of_embeddings_is_their_mean_cosine():
    """Whatever their lengths: of (1, 0) and (3, 4), and of (2, 0) and (1, 0)."""
    before, after = np.array([[1.0, 0], [2, 0]]), np.array([[3.0, 4], [1, 0]])
    result = compare_directions([before[:1], before[1:]], [after[:1], after[1:]])
    assert result.cosine == result.kept == pytest.approx((0.6 + 1) / 2)
    assert (result.compared, result.largest) == (2, 4) and "cosine 0.8000" in str(result)


def test_agreement_of_several_labels_by_hand():
    """Answers are equal where all labels of a row are: in one of two rows here."""
    before, after = np.array([[1.0, -1, 2], [0, -3, 4]]), np.array([[2.0, -2, 0], [-0.1, -3, 4]])
    result = compare_answers([before], [after], multi_label=True)
    assert (result.compared, result.equal, result.kept) == (2, 0.5, 0.5)
    assert compare_answers([before], [after]).equal == 0.5  # of the first row, by its largest
    assert compare_answers([before], [before + 0.5], multi_label=True).equal == 1
