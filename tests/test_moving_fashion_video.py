"""What the shipped moving-fashion-video promises: clips of several sizes that show what was asked for, and that go on from given frames."""

from __future__ import annotations

import warnings

import pytest
import torch

import ditzoo
from ditzoo.errors import SamplingError, SamplingWarning, UnknownNameError

COUNT, STEPS = 16, 10
ARTICLES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
MOTIONS = ("left", "right", "up", "down", "clockwise", "anticlockwise", "bouncing")
CLEAR = (1, 5, 7, 8, 9)  # articles that are not taken for others
WANTED = torch.tensor([(CLEAR[i % 5], (0, 1, 2, 3, 6)[i // 2 % 5], i % 2) for i in range(COUNT)])
ASKED = [f"{ARTICLES[a]}, {MOTIONS[m]}, {('slow', 'fast')[s]}" for a, m, s in WANTED.tolist()]


@pytest.fixture(scope="module")
def model():
    return ditzoo.load("moving-fashion-video")


@pytest.fixture(scope="module")
def network(zoo):
    return zoo.part("features", "motion-cnn").build()


@pytest.mark.parametrize("size", [(8, 28, 28), (12, 28, 40)])
def test_it_draws_articles_that_move_as_they_are_told(model, network, size):
    frames, height, width = size
    drawn = model.sample(
        prompt=ASKED, num_frames=frames, height=height, width=width, num_inference_steps=STEPS, seed=3, output_type="latent"
    ).images
    assert drawn.shape == (COUNT, 1, *size)
    article, motion, _ = (network.see(drawn).attributes == WANTED).double().mean(0).tolist()
    assert article > 0.6
    assert motion > 0.7


def test_a_given_frame_stays_and_what_it_shows_goes_on(model, network):
    first = model.sample(prompt="sneaker, left, slow", num_frames=8, num_inference_steps=STEPS, seed=1, output_type="pt").frames[:, :, :1]
    clips = model.sample(
        prompt=["sneaker, up, slow"] * 4, given=first[0], num_frames=8, num_inference_steps=STEPS, seed=2, output_type="pt"
    )
    torch.testing.assert_close(clips.frames[:, :, :1], first.expand(4, -1, -1, -1, -1), atol=1e-5, rtol=0)
    article, motion, _ = network.see(clips.frames * 2 - 1).attributes.unbind(1)
    assert (article == ARTICLES.index("sneaker")).double().mean() > 0.7
    assert (motion == MOTIONS.index("up")).double().mean() > 0.7


def test_longer_clips_move_to_their_end(model, network):
    asked = ["sneaker, left, fast", "bag, down, fast", "trouser, right, slow", "ankle boot, up, fast"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", SamplingWarning)
        clips = model.sample(
            prompt=asked, num_frames=24, height=28, width=28, num_inference_steps=STEPS, seed=4, output_type="latent"
        ).images
    article, motion, _ = network.see(clips[:, :, -8:]).attributes.unbind(1)
    assert (motion == torch.tensor([0, 3, 1, 2])).sum() >= 3
    assert (article == torch.tensor([7, 8, 1, 9])).sum() >= 2


@torch.no_grad()
def test_no_two_words_are_one(model):
    words = model.prompt.encode([(word,) for word in range(len(model.spec.prompt.vocabulary))]).vec
    apart = torch.pdist(words)
    assert apart.min() > 0.65 * apart.mean()


def test_lengths_that_it_was_trained_on_are_not_remarked_on(zoo):
    backbone = zoo.spec("moving-fashion-video").backbone
    assert all(backbone.remark((frames, 28, 28)) is None for frames in (1, 8, 12, 16))
    assert "they have its first 6" in backbone.remark((6, 28, 28))
    assert "24 frames, and the table of frames was trained with 16: it is continued" in backbone.remark((24, 28, 28))


def test_other_words_and_sizes_are_refused(model):
    with pytest.raises(UnknownNameError, match="words that this model was not trained with: hat"):
        model.sample(prompt="hat, left")
    with pytest.raises(SamplingError, match="patch=1x4x4 does not divide"):
        model.sample(prompt="bag, left", height=30)
