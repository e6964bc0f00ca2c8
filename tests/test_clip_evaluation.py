"""An evaluation of clips: of several sizes, with what they show read off them, and whether an article stays itself."""

from __future__ import annotations

import pytest
import torch
from ditzoo_features.motion_cnn import Network
from ditzoo_features.specs import MotionCNNSpec
from safetensors.torch import save_file

from ditzoo.assemble import build
from ditzoo.errors import EvaluationError, SpecError
from ditzoo.evaluation.metrics import consistency
from ditzoo.evaluation.protocol import Protocol, read_protocol
from ditzoo.evaluation.run import evaluate
from ditzoo.model_spec import ModelSpec
from ditzoo.sources import resolve

WORDS = [
    "t-shirt",
    "top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle",
    "boot",
    "left",
    "right",
    "up",
    "down",
]
WORDS += ["clockwise", "anticlockwise", "bouncing", "slow", "fast"]


@pytest.fixture
def told(tmp_path, idx_folder, monkeypatch):
    """A protocol with changes; the network has random weights."""
    monkeypatch.setenv("DITZOO_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    save_file(Network().state_dict(), tmp_path / "motion.safetensors")

    def clips(split, count, seed):
        articles = {"kind": "fashion-mnist", "folder": str(idx_folder), "split": split}
        shape = {"frames": [4, 6], "heights": [28], "widths": [28, 36], "unsaid": 0.0}
        return {"kind": "moving-fashion", "articles": articles, "count": count, "seed": seed} | shape

    def made(zoo, **changes):
        data = {"name": "clips", "count": 12, "chunk": 3, "kid_subset_size": 6, "kid_subsets": 2, "resamples": 5}
        data |= {"sizes": [[4, 28, 28], [6, 28, 36]], "settings": ["sampling.steps=1"]}
        data |= {"features": MotionCNNSpec(weights=str(tmp_path / "motion.safetensors")), "reference": clips("train", 24, 0)}
        data |= {"floor": clips("test", 16, 1), "asked": clips("test", 16, 1)}
        return zoo.validate(Protocol, data | changes, source="clips")

    return made


def saved(zoo, folder):
    data = {
        "name": "clips",
        "backbone": {
            "kind": "video-dit",
            "width": 24,
            "depth": 1,
            "heads": 2,
            "patch": [2, 4, 4],
            "in_channels": 1,
            "input_size": [4, 28, 28],
        },
        "conditioning": "adaln-zero",
        "prompt": {"kind": "text-tokens", "vocabulary": WORDS, "heads": 2},
        "schedule": {"kind": "flow", "prediction": "velocity"},
        "sampler": "euler",
        "codec": {"kind": "pixels", "channels": 1},
    }
    build(zoo.validate(ModelSpec, data, source="clips")).save_pretrained(folder)
    return f"local-dir:{folder}"


def test_an_article_that_the_edge_cuts_is_the_article():
    network, clips = Network().eval(), torch.randn(2, 1, 3, 28, 36)
    whole, cut = network(clips), network(clips.roll((12, 20), (3, 4)))
    torch.testing.assert_close(cut[1], whole[1])
    torch.testing.assert_close(cut[2][0], whole[2][0])
    assert not torch.allclose(cut[2][1], whole[2][1])  # how it moves is not read across the edge


def test_the_network_that_ships_reads_real_articles_that_move(zoo, real_pictures):
    protocol = read_protocol("moving-fashion", zoo)
    clips, network = protocol.floor.build(), protocol.features.build()
    read = torch.cat([network.see(clips[index]["pixels"][None]).attributes for index in range(300)])
    right = (read == clips.attributes[:300]).double().mean(0)
    assert right[0] >= 0.88
    assert right[1] >= 0.97


def test_consistency_is_the_mean_cosine_with_the_first_frame_and_the_one_before():
    a, b = torch.eye(2)
    clips = torch.stack([torch.stack([a, 2 * a, 3 * a]), torch.stack([a, b, a]), torch.stack([a, b, b])])
    torch.testing.assert_close(consistency(clips), torch.tensor([1.0, 0.25, 0.25]))
    assert consistency(clips[:, :1]).tolist() == [1, 1, 1]


def test_clips_of_several_sizes_are_measured_and_real_ones_beside_them(told, zoo, tmp_path):
    sizes = [[4, 28, 28], [4, 28, 36], [6, 28, 28], [6, 28, 36]]
    protocol = told(zoo, sizes=sizes)
    found = resolve(saved(zoo, tmp_path / "model"), zoo, protocol.settings)
    made = evaluate(found, protocol, tmp_path / "out")
    for figures in (made["seeds"]["0"], made["floor"]):
        assert set(figures["attribute_agreement"]["by_attribute"]) == {"article", "motion", "speed"}
        low, high = figures["consistency"]["interval_95"]
        assert low <= figures["consistency"]["value"] <= high
    network, data = protocol.features.build(), protocol.floor.build()
    alone = [consistency(network.see(data[index]["pixels"][None]).frames) for index in range(12)]
    assert made["floor"]["consistency"]["value"] == pytest.approx(float(torch.cat(alone).mean()), abs=1e-5)
    assert "| consistency | " in (tmp_path / "out" / "row.md").read_text()
    again = evaluate(found, protocol, tmp_path / "again")
    assert again["mean"] == made["mean"]


def test_sizes_that_are_not_compared_or_cannot_be_drawn_are_refused(told, zoo, tmp_path):
    found = resolve(saved(zoo, tmp_path / "model"), zoo, [])
    with pytest.raises(
        EvaluationError, match="draws 1x4x28x28, 1x6x28x36 pictures, and reference 'moving-fashion' of protocol 'clips' holds"
    ):
        evaluate(found, told(zoo), tmp_path / "out")
    odd = {"frames": [5], "widths": [28], "count": 16}
    parts = {name: getattr(told(zoo), name).model_dump() | odd for name in ("reference", "floor")}
    with pytest.raises(EvaluationError, match="asks for 5x28x28 pictures: .*patch=2x4x4 does not divide the latent 5x28x28"):
        evaluate(found, told(zoo, sizes=[[5, 28, 28]], **parts), tmp_path / "out")
    for changes, problem in [
        ({"sizes": [[4, 28, 28], [28, 28]]}, "sizes are .height, width., or .frames, height, width. of all"),
        ({"chunk": 12}, "2 sizes and 1 chunks, and each size needs one; lower chunk=12"),
    ]:
        with pytest.raises(SpecError, match=problem):
            told(zoo, **changes)
