"""What the shipped avatar-mmdit promises: it draws what it is told, combinations that it has never seen too, and refuses other words."""

from __future__ import annotations

import pytest
import torch

import ditzoo
from ditzoo.errors import UnknownNameError

COUNT, STEPS = 160, 12  # half of the captions are of combinations of hair, shirt and background that no training picture has


@pytest.fixture(scope="module")
def model():
    return ditzoo.load("avatar-mmdit")


@pytest.fixture(scope="module")
def read(zoo):
    """Reads the nine attributes of latents, which are pictures here: (N, 9)."""
    network = zoo.part("features", "avatar-cnn").build()
    return lambda drawn: network.see(drawn.images).attributes


@pytest.fixture(scope="module")
def data(zoo):
    return zoo.part("dataset", {"kind": "avatars", "split": "test"}).build()


def test_it_draws_what_captions_of_the_test_set_say(data, model, read):
    drawn = model.sample(prompt=data.captions[:COUNT], num_inference_steps=STEPS, seed=5, output_type="latent")
    right = (read(drawn) == data.attributes[:COUNT]).double()
    by_attribute = dict(zip(data.values, right.mean(0).tolist(), strict=True))
    assert float(right.mean()) > 0.93
    assert min(by_attribute[name] for name in ("hair", "shirt", "background")) > 0.95
    unseen = data.unseen[:COUNT]
    assert 0 < int(unseen.sum()) < COUNT
    assert float(right[unseen].mean()) > float(right[~unseen].mean()) - 0.03


def test_a_colour_belongs_to_the_word_behind_it(data, model, read):
    """The same words in another order are another picture: colours of hair and shirt change places."""
    values = data.values
    hair, shirt = (list(values).index(name) for name in ("hair", "shirt"))
    for first, second in (("red", "green"), ("green", "red")):
        words = f"light skin, short {first} hair, {second} shirt, happy, grey background"
        found = read(model.sample(prompt=words, num_images_per_prompt=16, num_inference_steps=STEPS, seed=1, output_type="latent"))
        assert (found[:, hair] == values["hair"].index(first)).double().mean() > 0.9
        assert (found[:, shirt] == values["shirt"].index(second)).double().mean() > 0.9


def test_other_words_are_refused_by_name(model):
    with pytest.raises(UnknownNameError, match="words that this model was not trained with: moustache"):
        model.sample(prompt="red hair, moustache")
    assert torch.isfinite(model.sample(prompt="", num_inference_steps=2, output_type="latent").images).all()
