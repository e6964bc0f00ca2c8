"""Prompts of frozen encoders: any of transformers' reads as it says, and what may be asked beside a prompt is what diffusers does with it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import assert_near, run_ditzoo, tiny, wake
from diffusers import PixArtAlphaPipeline, StableDiffusion3Pipeline
from pixart_pipeline import tiny_pixart
from sd3_pipeline import clip_tokenizer, t5_tokenizer, tiny_sd3
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    GPT2Config,
    GPT2Model,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5Model,
)

import ditzoo
from ditzoo.assemble import build
from ditzoo.errors import CheckpointError, SamplingError, SpecError
from ditzoo.sources import resolve
from ditzoo.training.recipe import read_recipe

TEXTS = ["red hat", "a"]
SIZE = {"vocab_size": 60, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
ENCODERS = {
    "bert": lambda: BertModel(BertConfig(**SIZE, max_position_embeddings=20)),
    "clip": lambda: CLIPTextModel(CLIPTextConfig(**SIZE, max_position_embeddings=20, bos_token_id=52, eos_token_id=53)),
    "gpt2": lambda: GPT2Model(GPT2Config(vocab_size=60, n_positions=20, n_embd=16, n_layer=2, n_head=2)),
    "t5": lambda: T5EncoderModel(T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)),
    "t5 with decoder": lambda: T5Model(T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DITZOO_CACHE", str(tmp_path / "cache"))


def written(folder, kind, *, tokenizer="", encoder=""):
    """Write a tiny encoder and a tokenizer into folders below one; return both."""
    torch.manual_seed(0)
    network = wake(ENCODERS[kind]().eval(), 0.1)
    words = clip_tokenizer(folder.parent / "words") if kind == "clip" else t5_tokenizer()
    network.save_pretrained(folder / encoder)
    words.save_pretrained(folder / tokenizer)
    return network, words


def prompt(zoo, folder, **fields):
    spec = zoo.part("prompt", {"kind": "transformers-text", "source": str(folder), "states": 16, "length": 12, **fields})
    return spec, wake(spec.build(32)).requires_grad_(False)


@torch.no_grad()
def said(network, words, **options):
    told = words(TEXTS, padding="max_length", max_length=12, truncation=True, return_tensors="pt")
    network = network.encoder if hasattr(network, "encoder") and hasattr(network, "decoder") else network
    return told.attention_mask.bool(), network(told.input_ids, attention_mask=told.attention_mask, **options)


@pytest.mark.parametrize(
    ("kind", "fields", "pooled"),
    [
        ("bert", {"pooling": "pooler"}, lambda mask, told: told.pooler_output),
        ("bert", {"pooling": "cls"}, lambda mask, told: told.last_hidden_state[:, 0]),
        ("bert", {"pooling": "mean", "layer": -2}, lambda mask, told: torch.stack([row[kept].mean(0) for row, kept in zip(told.hidden_states[-2], mask, strict=True)])),
        ("clip", {"pooling": "eos"}, lambda mask, told: told.pooler_output),
        ("gpt2", {"pooling": "last"}, lambda mask, told: torch.stack([row[kept][-1] for row, kept in zip(told.last_hidden_state, mask, strict=True)])),
        ("t5", {"encoder": "text_encoder", "tokenizer": "tokenizer"}, None),
        ("t5 with decoder", {"pooling": "last"}, lambda mask, told: torch.stack([row[kept][-1] for row, kept in zip(told.last_hidden_state, mask, strict=True)])),
    ],
)  # fmt: skip
def test_any_encoder_reads_as_it_does_in_transformers(zoo, tmp_path, kind, fields, pooled):
    folders = {name: fields[name] for name in ("encoder", "tokenizer") if name in fields}
    network, words = written(tmp_path / "source", kind, **folders)
    spec, made = prompt(zoo, tmp_path / "source", **fields)
    mask, told = said(network, words, output_hidden_states=True)
    cond = made.encode(spec.parse(TEXTS))
    states = told.hidden_states[spec.layer] if spec.layer != -1 else told.last_hidden_state
    assert torch.equal(cond.mask, mask)
    assert_near(cond.tokens[mask], made.context(states)[mask])
    assert ("prompt-vec" in spec.provides_now) is (pooled is not None)
    assert_near(cond.vec, torch.zeros(2, 32) if pooled is None else made.pooled(pooled(mask, told)))
    assert not torch.equal(made.null(1).tokens, cond.tokens[:1])


def test_a_decoders_tokenizer_has_neither_padding_nor_marks(zoo, tmp_path):
    network, _ = written(tmp_path / "source", "gpt2")
    words = Tokenizer(WordLevel({"<end>": 0, "<unk>": 1, "red": 2, "hat": 3}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", unk_token="<unk>").save_pretrained(tmp_path / "source")
    spec, made = prompt(zoo, tmp_path / "source", pooling="last")
    cond = made.encode(spec.parse(["red hat", ""]))
    with torch.no_grad():
        states = network(torch.tensor([[2, 3]])).last_hidden_state
    assert_near(cond.tokens[0, :2], made.context(states)[0])
    assert_near(cond.vec[0], made.pooled(states[0, -1]))
    assert cond.mask.sum(1).tolist() == [2, 1]
    assert torch.isfinite(cond.tokens).all()


@pytest.mark.parametrize(
    "parts",
    [
        {"conditioning": "cross-attention"},
        {
            "conditioning": "joint-attention",
            "backbone": {"kind": "mmdit", "width": 32, "depth": 2, "heads": 2, "in_channels": 3, "input_size": [8, 8], "table": 8},
        },
    ],
    ids=["dit", "mmdit"],
)
def test_models_of_it_are_sampled_saved_with_the_encoder_and_loaded(zoo, tmp_path, parts):
    written(tmp_path / "source", "bert")
    told = {"kind": "transformers-text", "source": str(tmp_path / "source"), "states": 16, "length": 12, "pooling": "mean"}
    model = wake(build(zoo.model(tiny(**parts, prompt=told, guidance={"scale": 2.0})))).requires_grad_(False)
    asked = {"prompt": TEXTS, "negative_prompt": "blue", "output_type": "latent"}
    drawn = model.sample(**asked).images
    assert_near(model.sample(**asked | {"prompt": TEXTS[:1]}).images, drawn[:1], 1e-4)
    model.save_pretrained(tmp_path / "saved")
    (tmp_path / "source").rename(tmp_path / "gone")
    again = ditzoo.load(f"local-dir:{tmp_path / 'saved'}", runtime="eager")
    assert torch.equal(again.sample(**asked).images, drawn)


def test_an_encoder_that_is_no_such_one_is_told(zoo, tmp_path):
    network, _ = written(tmp_path / "source", "t5")
    fields = {"kind": "transformers-text", "source": str(tmp_path / "source"), "pooling": "mean"}
    with pytest.raises(SpecError, match=r"say vectors of another width: set prompt.states=16 \(found 32\)"):
        zoo.model(tiny(prompt=fields | {"states": 32}, conditioning="cross-attention"))
    spec, made = prompt(zoo, tmp_path / "source", pooling="pooler")
    with pytest.raises(CheckpointError, match="has no pooler; set prompt.pooling to one of none, mean, last, cls, eos"):
        made.encode(spec.parse(["red"]))
    with pytest.warns(UserWarning, match="longer than the 12 tokens that 'tokenizer' reads; left out: 'ed'"):
        prompt(zoo, tmp_path / "source")[1].encode(["cat" * 3 + "red"])
    network.half().save_pretrained(tmp_path / "source")  # T5 overflows in fp16: it works in fp32 whatever it was saved in
    assert torch.isfinite(prompt(zoo, tmp_path / "source")[1].encode(["red"]).tokens).all()
    network.float().encoder.block[0].layer[0].SelfAttention.o.weight.data.fill_(float("inf"))
    network.save_pretrained(tmp_path / "source")
    with pytest.raises(CheckpointError, match="says numbers that are not finite, though it works in fp32"):
        prompt(zoo, tmp_path / "source")[1].encode(["red"])
    with pytest.raises(CheckpointError, match="names no encoders; set prompt.source"):
        prompt(zoo, "x", source=None)[1].encode(["red"])


def test_a_tokenizer_may_be_a_sentencepiece_file_alone(zoo, tmp_path):
    """As the published PixArt repositories have T5's."""
    words = [a + b + c for a in "abcdefghijklmnopqrstuvwxyz" for b in "aeiou" for c in "lmnr"]
    (tmp_path / "words.txt").write_text("\n".join(" ".join(words[i : i + 6]) for i in range(len(words) - 6)))
    written(tmp_path / "source", "t5", tokenizer="tokenizer", encoder="text_encoder")
    shutil.rmtree(tmp_path / "source" / "tokenizer")
    (tmp_path / "source" / "tokenizer").mkdir()
    ends = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "vocab_size": 50, "minloglevel": 2}
    SentencePieceTrainer.train(input=str(tmp_path / "words.txt"), model_prefix=str(tmp_path / "source" / "tokenizer" / "spiece"), **ends)
    config = {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "extra_ids": 0}
    (tmp_path / "source" / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config))
    spec, made = prompt(zoo, tmp_path / "source", encoder="text_encoder", tokenizer="tokenizer")
    ids, mask = made.encoders.ids("tokenizer", "a cal bem", spec.length)
    due = SentencePieceProcessor(model_file=str(tmp_path / "source" / "tokenizer" / "spiece.model")).encode("a cal bem")
    assert ids[mask].tolist() == [*due, 1]
    assert ids[~mask].unique().tolist() == [0]


PROMPTS = ["a red cat", "blue hat with words"]


@pytest.fixture(scope="module")
def sd3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts") / "sd3"
    tiny_sd3(folder)
    return folder


def test_widths_that_are_not_those_of_the_encoders_are_told_before_anything_is_loaded(zoo, sd3):
    with pytest.raises(SpecError, match=r"another width: set prompt.pooled=24 \(found 20\) and prompt.states=40 \(found 64\)"):
        resolve(f"local-dir:{sd3}", zoo, ["prompt.pooled=20", "prompt.states=64"])


@pytest.mark.parametrize(
    "more",
    [
        {"prompt_2": ["green", "grey"], "prompt_3": ["long", "short"], "negative_prompt": "bad", "negative_prompt_2": "worse", "negative_prompt_3": "worst"},
        {"max_sequence_length": 24},
        {"max_sequence_length": 24, "negative_prompt": "bad"},
    ],
    ids=["each encoder", "length", "length and negative"],
)  # fmt: skip
def test_what_goes_with_a_prompt_is_what_diffusers_does(sd3, more):
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    pipeline = StableDiffusion3Pipeline.from_pretrained(sd3)
    pipeline.set_progress_bar_config(disable=True)
    asked = {"prompt": PROMPTS, "guidance_scale": 4.0, "num_inference_steps": 3, "output_type": "pt", "height": 16, "width": 16}
    lists = {name: [value] * 2 if name.startswith("negative") else value for name, value in more.items()}
    due = pipeline(latents=noise.clone(), **asked, **lists).images
    torch.testing.assert_close(ditzoo.load(f"local-dir:{sd3}").sample(latents=noise, **asked, **more).images, due, atol=1e-4, rtol=0)


def test_pixart_reads_as_many_tokens_as_asked(tmp_path):
    tiny_pixart(tmp_path / "pixart", "alpha 512")
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    pipeline = PixArtAlphaPipeline.from_pretrained(tmp_path / "pixart")
    pipeline.set_progress_bar_config(disable=True)
    asked = {"prompt": "a red cat", "num_inference_steps": 3, "output_type": "pt", "height": 16, "width": 16, "max_sequence_length": 5}
    due = pipeline(latents=noise.clone(), use_resolution_binning=False, clean_caption=False, **asked).images
    with pytest.warns(UserWarning, match="longer than the 5 tokens"):
        found = ditzoo.load(f"local-dir:{tmp_path / 'pixart'}").sample(latents=noise, **asked).images
    torch.testing.assert_close(found, due, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"prompt": PROMPTS, "prompt_2": ["a", "b", "c"]}, "3 of prompt_2 for 2 of prompt; give one each, or a single one"),
        ({"prompt_2": "a"}, "prompt_2 goes with prompt, which is not given"),
        ({"prompt": "a", "negative_prompt_2": "b"}, "negative_prompt_2 goes with negative_prompt, which is not given"),
        ({"prompt": "a", "max_sequence_length": 0}, "max_sequence_length is 0; a whole number of tokens from 1 is needed"),
        ({"prompt": "a", "prompt_4": "b"}, "sample takes no argument 'prompt_4'; did you mean 'prompt_"),
        ({"prompt": []}, "prompt is empty; name at least one"),
        ({"prompt": "a", "clip_skip": 1}, "sample takes no argument 'clip_skip'"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_told(sd3, asked, told):
    with pytest.raises(SamplingError, match=told):
        ditzoo.load(f"local-dir:{sd3}").sample(guidance_scale=4.0, **asked)


def test_a_model_that_reads_no_such_text_says_so(zoo):
    with pytest.raises(SamplingError, match="'tiny' takes no max_sequence_length, found 12"):
        build(zoo.model(tiny())).sample(class_labels=[1], max_sequence_length=12)


def test_the_command_takes_them(sd3, tmp_path):
    words = ["-p", "a cat", "--prompt-2", "a dog", "--max-sequence-length", 20, "--negative-prompt", "bad", "--negative-prompt-3", "worse"]
    done = run_ditzoo("sample", f"local-dir:{sd3}", *words, "--steps", 2, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert told["samples"][0]["item"] == ["a cat", "a dog", "a cat", 20]
    assert "--prompt-2 'a dog' " in told["command"]
    assert "--max-sequence-length 20 " in told["command"]


def test_the_page_is_true(zoo, tmp_path, monkeypatch):
    """Its Python runs where it needs no weights, and its recipe is valid."""
    text = (Path(__file__).parent.parent / "docs" / "text-to-image.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    blocks = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if not block.startswith("# with weights")]
    for block in blocks:
        exec(block, {})
    assert (tmp_path / "hat.png").is_file()
    (recipe,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "foxes.toml").write_text(recipe)
    declared = read_recipe(str(tmp_path / "foxes.toml"), zoo)
    assert declared.adapter.targets == ("backbone.*.q", "backbone.*.k", "backbone.*.v", "backbone.*.out")
    assert declared.model.backbone == zoo.spec("sd3-medium").backbone
