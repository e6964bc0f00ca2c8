"""Recipes: what does not fit is refused before a file is opened, with a way out."""

from __future__ import annotations

import pytest

from ditzoo.errors import SpecError, UnknownNameError
from ditzoo.training.recipe import read_recipe
from ditzoo.training.tables import Optimizer


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            ["model.codec.channels=3", "model.backbone.in_channels=3"],
            "data 'fashion-mnist' has 1-channel pictures and codec 'pixels' takes 3",
        ),
        (["model.prompt.classes=7"], "data 'fashion-mnist' has 10 classes and prompt.classes is 7; set model.prompt.classes=10"),
        (["model.backbone.input_size=[14, 14]"], "gives latents of 28x28: the position table serves latents of 14x14 alone"),
        (["length.steps=0"], "length.steps: input should be greater than 0, found 0"),
        (["length.batch_size=7", "length.accumulate=2"], "batch_size=7 is not divisible by accumulate=2"),
        (["optimizer.warmup=30"], "optimizer.warmup=30 leaves nothing of length.steps=30"),
        (["optimiser.lr=1"], "unknown field 'optimiser'; did you mean 'optimizer'"),
        (["data.kind=cifar"], "no installed plugin offers dataset kind 'cifar'; installed: avatars, fashion-mnist, image-folder"),
        (["length.mixed_precision=fp8"], "length.mixed_precision"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(recipe, zoo, settings, told):
    with pytest.raises(SpecError) as caught:
        read_recipe(str(recipe), zoo, settings)
    assert told in str(caught.value)


def test_unknown_recipes_are_refused_with_near_ones(zoo):
    with pytest.raises(UnknownNameError, match="no recipe 'fashion-dti'.*did you mean 'fashion-dit'"):
        read_recipe("fashion-dti", zoo)


def test_named_models_take_settings(zoo):
    assert read_recipe("fashion-dit", zoo, ["model.backbone.depth=3"]).model.backbone.depth == 3
    assert read_recipe("fashion-dit", zoo).model.weights is None  # a run makes its own


def test_learning_rate_shapes():
    warm = Optimizer(lr=1.0, warmup=3, decay="cosine", final_lr=0.1)
    assert [warm.factor(step, 13) for step in (0, 1, 2)] == [0.25, 0.5, 0.75]
    assert warm.factor(3, 13) == 1
    assert warm.factor(8, 13) == pytest.approx(0.55)
    assert warm.factor(13, 13) == pytest.approx(0.1)
    assert Optimizer(decay="linear").factor(25, 100) == 0.75
    assert Optimizer().factor(99, 100) == 1
