"""LoRA: trained here and loaded in diffusers, written there and loaded here; several at once, taken out, merged; refusals."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from conftest import assert_near, run_ditzoo, wake
from diffusers import DiTTransformer2DModel, SD3Transformer2DModel, StableDiffusion3Pipeline
from ditzoo_text.encoders import States
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from pixart_pipeline import network as pixart
from safetensors.torch import load_file, save_file
from sd3_pipeline import tiny_sd3

import ditzoo
from ditzoo.assemble import build
from ditzoo.errors import CheckpointError, OutputError, SpecError, TrainingError
from ditzoo.layouts import to_ours
from ditzoo.training.loop import train
from ditzoo.training.recipe import read_recipe
from ditzoo.training.rehearsal import rehearse

FILE = "pytorch_lora_weights.safetensors"
RECIPE = """
seed = 1
start = {{model = "local-dir:{base}"}}
adapter = {{rank = 3, alpha = 6.0}}
data = {{kind = "avatars"}}
objective = {{times = "logit-normal"}}
optimizer = {{lr = 1e-2}}
length = {{steps = 50, batch_size = 4, ema = 0.9}}
output = {{log_every = 10, checkpoint_every = 25}}
"""


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DITZOO_CACHE", str(tmp_path_factory.getbasetemp() / "said"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora") / "sd3"
    tiny_sd3(folder)
    return folder


def inputs():
    draws = torch.Generator().manual_seed(0)
    shapes = ((2, 4, 8, 6), (2, 24), (2, 7, 40))
    return *(torch.randn(*shape, generator=draws) for shape in shapes), torch.tensor([37.0, 911.0])


@torch.no_grad()
def theirs(network):
    x, pooled, tokens, t = inputs()
    return network(x, encoder_hidden_states=tokens, pooled_projections=pooled, timestep=t).sample


@torch.no_grad()
def ours(model):
    x, pooled, tokens, t = inputs()
    return model(x, t, [States(p, s) for p, s in zip(pooled, tokens, strict=True)])


def loaded(base):
    return ditzoo.load(f"local-dir:{base}"), SD3Transformer2DModel.from_pretrained(base / "transformer")


def test_trained_here_it_is_the_same_in_diffusers(zoo, base, tmp_path):
    (tmp_path / "lora.toml").write_text(RECIPE.format(base=base))
    recipe = read_recipe(str(tmp_path / "lora.toml"), zoo)
    folder = train(recipe, tmp_path / "run", quiet=True)
    assert [path.name for path in folder.iterdir()] == [FILE]
    held = load_file(folder / FILE)
    assert "transformer.transformer_blocks.0.attn.to_q.lora_A.weight" in held
    assert all(".attn" in name for name in held)
    model, network = loaded(base)
    before = ours(model)
    assert_near(before, theirs(network))
    assert model.load_lora_weights(folder) == "default_0"
    network.load_lora_adapter(folder, use_safetensors=True)
    assert_near(ours(model), theirs(network))
    pipeline = StableDiffusion3Pipeline.from_pretrained(base)
    pipeline.load_lora_weights(folder)
    assert_near(theirs(pipeline.transformer), theirs(network))
    assert float((ours(model) - before).abs().max()) > 0.05 * float(before.abs().max())
    losses = [float(row.split(",")[2]) for row in (tmp_path / "run" / "log.csv").read_text().splitlines()[1:]]
    assert losses[-1] < losses[0]

    shutil.rmtree(tmp_path / "run" / "checkpoint-50")  # as a run that was killed
    kept = load_file(tmp_path / "run" / "checkpoint-25" / "model.safetensors")
    assert all(".lora_" in name or name == "model.backbone.position_table" for name in kept)
    again = load_file(train(recipe, tmp_path / "run", resume=True, quiet=True) / FILE)
    assert all(torch.equal(again[name], tensor) for name, tensor in held.items())


def test_a_rehearsal_counts_what_is_written(zoo, base, tmp_path):
    (tmp_path / "lora.toml").write_text(RECIPE.format(base=base))
    told = rehearse(read_recipe(str(tmp_path / "lora.toml"), zoo, ["adapter.rank=100"]))
    layers = 2 * 4 + (4 + 3) + 4  # projections of the picture, of the prompt but for the last, and of the first block's second attention
    assert told["checkpoint_mb"] == round(16 * layers * 100 * (32 + 32) / 1e6, 1)


def written_by_diffusers(network, folder, **fields):
    """Give diffusers' network an adapter of random numbers and write it as its pipeline does."""
    network.add_adapter(LoraConfig(**({"r": 4, "lora_alpha": 6, "target_modules": ["to_q", "to_out.0", "add_k_proj"]} | fields)))
    wake_lora(network)
    layers = get_peft_model_state_dict(network)
    config = network.peft_config["default"].to_dict()
    StableDiffusion3Pipeline.save_lora_weights(
        folder,
        transformer_lora_layers=layers,
        transformer_lora_adapter_metadata={k: list(v) if isinstance(v, set) else v for k, v in config.items()},
    )
    return folder


def wake_lora(network):
    draws = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in network.named_parameters():
            if ".lora_" in name:
                p.copy_(torch.randn(p.shape, generator=draws) * 0.2)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"use_rslora": True},
        {"target_modules": ["norm_out.linear", "transformer_blocks.1.norm1_context.linear", "context_embedder", "ff.net.2", "attn2.to_v"]},
        {"rank_pattern": {"to_q": 2}, "alpha_pattern": {"0.attn.to_q": 1}},
    ],
    ids=["plain", "rslora", "all kinds of layers", "patterns"],
)
def test_written_by_diffusers_it_is_the_same_here_and_back(base, tmp_path, fields):
    model, network = loaded(base)
    file = written_by_diffusers(network, tmp_path / "theirs", **fields)
    model.load_lora_weights(file)
    assert_near(ours(model), theirs(network))
    model.save_lora_weights(tmp_path / "back")
    other = SD3Transformer2DModel.from_pretrained(base / "transformer")
    other.load_lora_adapter(tmp_path / "back", use_safetensors=True)
    assert_near(theirs(other), theirs(network))
    before, after = load_file(file / FILE), load_file(tmp_path / "back" / FILE)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_it_comes_from_the_hub_too(server, base, tmp_path):
    model, network = loaded(base)
    commit = server.add_folder("me/foxes", written_by_diffusers(network, tmp_path / "theirs"))
    for source in ("me/foxes", f"hf-hub:me/foxes@{commit}"):
        model.load_lora_weights(source, adapter_name="foxes")
        assert_near(ours(model), theirs(network))
        model.unload_lora_weights()


def test_a_file_without_a_header_has_the_alphas_beside_or_its_rank(base, tmp_path):
    model, network = loaded(base)
    held = load_file(written_by_diffusers(network, tmp_path / "theirs", lora_alpha=4) / FILE)
    save_file({name.removeprefix("transformer."): tensor for name, tensor in held.items()}, tmp_path / "bare.safetensors")
    model.load_lora_weights(tmp_path / "bare.safetensors")
    assert_near(ours(model), theirs(network))
    model.unload_lora_weights()
    alphas = {name.replace("lora_A.weight", "alpha"): torch.tensor(2.0) for name in held if "lora_A" in name}
    save_file(held | alphas, tmp_path / "alphas.safetensors")
    model.load_lora_weights(tmp_path / "alphas.safetensors")
    network.set_adapters("default", 0.5)
    assert_near(ours(model), theirs(network))


def test_several_act_by_their_weights_and_leave_no_trace(base, tmp_path):
    model, network = loaded(base)
    plain = ours(model)
    first = written_by_diffusers(loaded(base)[1], tmp_path / "a")
    second = written_by_diffusers(loaded(base)[1], tmp_path / "b", r=2, target_modules=["to_q", "to_v"])
    for name, file in (("a", first), ("b", second)):
        model.load_lora_weights(file, adapter_name=name)
        network.load_lora_adapter(file, adapter_name=name, use_safetensors=True)
    assert model.adapters == {"a": 1.0, "b": 1.0}
    for names, weights in ((["a", "b"], [0.7, -0.4]), (["b"], [2.0])):
        model.set_adapters(names, weights)
        network.set_adapters(names, weights)
        assert_near(ours(model), theirs(network))
    assert not any(p.requires_grad for p in model.parameters())
    model.delete_adapters("b")
    network.set_adapters("a", 0.5)
    model.set_adapters("a", 0.5)
    assert_near(ours(model), theirs(network))
    with pytest.raises(OutputError, match="carries the adapters a; fuse_lora"):
        model.save_pretrained(tmp_path / "saved")
    with pytest.raises(SpecError, match=r"no adapter 'aa'; did you mean 'a'\? \(loaded: a\)"):
        model.set_adapters("aa")
    with pytest.raises(SpecError, match="adapter_name 'a' is loaded already"):
        model.load_lora_weights(first, adapter_name="a")
    adapted = ours(model)
    model.fuse_lora()
    assert_near(ours(model), adapted)
    model.save_pretrained(tmp_path / "saved")

    model = ditzoo.load(f"local-dir:{base}")
    model.load_lora_weights(first, scale=3.0)
    model.unload_lora_weights()
    assert torch.equal(ours(model), plain)
    assert model.state_dict().keys() == ditzoo.load(f"local-dir:{base}").state_dict().keys()


@pytest.mark.parametrize("kind", ["dit", "pixart"])
def test_other_backbones_have_diffusers_names_too(zoo, tmp_path, kind):
    """Their classes have no loader of LoRA in diffusers, so peft itself puts it in and says its names."""
    if kind == "dit":
        network = wake(
            DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, num_layers=2, sample_size=8, num_embeds_ada_norm=5), 0.1
        )
        first = network.transformer_blocks[0].norm1.emb.state_dict()
        network.transformer_blocks[1].norm1.emb.load_state_dict(first)
        prompt, given = [1, 3], {"class_labels": torch.tensor([1, 3])}
    else:
        network = pixart(sample_size=8, num_layers=2)
        tokens = torch.randn(2, 3, 40)
        prompt, given = [States(tokens.new_zeros(0), one) for one in tokens], {"encoder_hidden_states": tokens}
    layout = zoo.layout(f"diffusers-{kind}")
    data = {"name": kind, "schedule": "linear", "sampler": "ddim", "codec": {"kind": "pixels", "channels": 4}}
    model = build(zoo.model(data | layout.read_config(dict(network.config))))
    model.load_state_dict(to_ours(layout.rows(model.spec, model.state_dict()), network.state_dict()))
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=4, target_modules=["to_k", "to_out.0"]), network.eval())
    wake_lora(network)
    held = {f"transformer.{name}": tensor for name, tensor in get_peft_model_state_dict(network).items()}
    save_file(held, tmp_path / FILE, metadata={"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 4, "transformer.r": 2})})
    model.load_lora_weights(tmp_path)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([30.0, 700.0])
    with torch.no_grad():
        assert_near(model(x, t, prompt), network(x, timestep=t, **given).sample)


def test_another_architecture_is_refused_and_nothing_is_changed(base, tmp_path):
    model, network = loaded(base)
    plain, held = ours(model), load_file(written_by_diffusers(network, tmp_path / "a") / FILE)
    q = "transformer.transformer_blocks.0.attn.to_q.lora_A.weight"
    for changed, told in (
        (
            {q: torch.zeros(4, 64)},
            r"attn.to_q.lora_A.weight is \(4, 64\), and 'sd3' needs \(4, 32\), its layer being \(32, 32\): it was made for",
        ),
        ({"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": torch.zeros(4, 32)}, "is of no linear layer of 'sd3'"),
        ({"text_encoder.layers.0.q_proj.lora_A.weight": torch.zeros(4, 32)}, "is of a text encoder, and encoders are left as they are"),
        ({"lora_unet_down_blocks_0.lora_down.weight": torch.zeros(4, 32)}, "is not in diffusers' LoRA format"),
    ):
        save_file(held | changed, tmp_path / "bad.safetensors")
        with pytest.raises(CheckpointError, match=told):
            model.load_lora_weights(tmp_path / "bad.safetensors")
    save_file({name: tensor for name, tensor in held.items() if name != q}, tmp_path / "bad.safetensors")
    with pytest.raises(CheckpointError, match="transformer_blocks.0.attn.to_q has no lora_A; the file is incomplete"):
        model.load_lora_weights(tmp_path / "bad.safetensors")
    with pytest.raises(CheckpointError, match="no LoRA 'nowhere': neither a file, nor a folder, nor a repository"):
        model.load_lora_weights("nowhere")
    assert torch.equal(ours(model), plain)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["start.train=['backbone.*']"], "with an adapter nothing else of the model is trained"),
        (["adapter.rank=0"], "adapter.rank"),
        (["adapter.targets=['*.to_q']"], r"no linear layer is called '\*\.to_q'"),
    ],
)
def test_recipes_that_cannot_be_are_refused(zoo, base, tmp_path, settings, told):
    (tmp_path / "lora.toml").write_text(RECIPE.format(base=base))
    with pytest.raises((SpecError, TrainingError), match=told):
        train(read_recipe(str(tmp_path / "lora.toml"), zoo, settings), tmp_path / "run", quiet=True)


def test_the_command_draws_with_it(base, tmp_path):
    file = written_by_diffusers(loaded(base)[1], tmp_path / "a")
    done = [
        run_ditzoo("sample", f"local-dir:{base}", "-p", "a cat", "--steps", 2, *words, "--out", tmp_path / out)
        for out, words in (("plain", []), ("lora", ["--lora", f"{file}=0.5"]))
    ]
    assert all(one.returncode == 0 for one in done), done[1].stderr
    plain, lora = ((tmp_path / out / "00000.png").read_bytes() for out in ("plain", "lora"))
    assert plain != lora
    sidecar = json.loads((tmp_path / "lora" / "samples.json").read_text())
    assert sidecar["loras"][0]["scale"] == 0.5
    assert f"--lora {file}=0.5" in sidecar["command"]
