"""The DiT backbone and its four conditionings: what they promise at the start, and what their output depends on."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import assert_near, tiny, wake

from ditzoo.assemble import build
from ditzoo.layers import Attention, attend, patchify, unpatchify

CONDITIONINGS = ("adaln-zero", "adaln", "in-context", "cross-attention")
# the shapes of S, B, L and XL: their depth, heads and ratio of width to heads, narrowed so that a test is quick
SIZES = {"S": (48, 12, 6), "B": (96, 12, 12), "L": (128, 24, 16), "XL": (144, 28, 16)}


def woken(zoo, conditioning, size="S", **backbone):
    width, depth, heads = SIZES[size]
    fields = {"width": width, "depth": depth, "heads": heads, **backbone}
    return wake(build(zoo.model(tiny(backbone=fields, conditioning={"kind": conditioning})))).requires_grad_(False)


def inputs(model, batch=3, size=(8, 8)):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, model.spec.backbone.in_channels, *size, generator=generator)
    return x, torch.tensor([10.0, 400.0, 900.0])[:batch], [0, 1, 2][:batch]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_output_depends_on_time_and_own_prompt_and_not_on_neighbours(zoo, conditioning, size):
    model = woken(zoo, conditioning, size)
    x, t, labels = inputs(model)
    base = model(x, t, labels)
    assert (model(x, t + 50, labels) - base).abs().amax((1, 2, 3)).min() > 1e-4
    other = model(x, t, [0, 4, 2])
    assert (other[1] - base[1]).abs().max() > 1e-4
    assert_near(other[[0, 2]], base[[0, 2]])
    for row in range(3):
        assert_near(model(x[row : row + 1], t[row : row + 1], [labels[row]])[0], base[row])


@pytest.mark.parametrize("size", SIZES)
def test_adaln_zero_starts_with_every_block_as_the_identity(zoo, size):
    width, depth, heads = SIZES[size]
    model = build(zoo.model(tiny(backbone={"width": width, "depth": depth, "heads": heads})))
    x, t, labels = inputs(model)
    stream = model.backbone.begin(x, t, model.prompt.encode(labels))
    for i in range(depth):
        assert torch.equal(model.backbone.run(stream, i, i + 1).tokens, stream.tokens)
    assert torch.equal(model(x, t, labels), torch.zeros_like(x))


@pytest.mark.parametrize("conditioning", ["adaln", "in-context", "cross-attention"])
def test_the_other_conditionings_do_not_start_as_the_identity(zoo, conditioning):
    model = build(zoo.model(tiny(conditioning={"kind": conditioning})))
    x, t, labels = inputs(model)
    stream = model.backbone.begin(x, t, model.prompt.encode(labels))
    assert (model.backbone.run(stream, 0, 1).tokens - stream.tokens).abs().max() > 1e-3


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_every_parameter_gets_a_gradient_once_gates_are_off_zero(zoo, conditioning, size):
    model = woken(zoo, conditioning, size).requires_grad_(True)
    x, t, labels = inputs(model)
    model(x, t, labels).square().mean().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    # a key's bias shifts all scores of a query alike, so softmax gives it no gradient but rounding
    assert [name for name in silent if not name.endswith(".k.bias")] == []


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_split_runs_equal_whole_ones_bit_for_bit(zoo, conditioning):
    model = woken(zoo, conditioning)
    x, t, labels = inputs(model)
    stream = model.backbone.begin(x, t, model.prompt.encode(labels))
    whole = model.backbone.head(model.backbone.run(stream, 0, 12))
    for cut in (1, 5, 11):
        parts = model.backbone.run(model.backbone.run(stream, 0, cut), cut, 12)
        assert torch.equal(model.backbone.head(parts), whole)
    assert torch.equal(model(x, t, labels), whole)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_grids_that_are_not_square(zoo, conditioning):
    model = woken(zoo, conditioning, input_size=[4, 12])
    x, t, labels = inputs(model, size=(4, 12))
    out = model(x, t, labels)
    assert out.shape == x.shape
    # a transposed picture is another picture to a position table that knows rows from columns
    turned = woken(zoo, conditioning, input_size=[12, 4])(x.transpose(2, 3).contiguous(), t, labels).transpose(2, 3)
    assert (turned - out).abs().max() > 1e-4


def test_other_sizes_only_where_the_positions_serve_them(zoo):
    model = woken(zoo, "adaln-zero")
    x, t, labels = inputs(model, size=(16, 8))
    with pytest.raises(ValueError, match="serves latents of 8x8 alone, not 16x8"):
        model(x, t, labels)
    extended = woken(zoo, "adaln-zero", positions="extend")
    interpolated = woken(zoo, "adaln-zero", positions="interpolate")
    assert extended(x, t, labels).shape == interpolated(x, t, labels).shape == x.shape
    table = extended.backbone.table((8, 4)).view(8, 4, -1)
    torch.testing.assert_close(table[:4], extended.backbone.table((4, 4)).view(4, 4, -1))  # extended: the old rows stay
    stretched = interpolated.backbone.table((8, 4)).view(8, 4, -1)
    torch.testing.assert_close(stretched[::2], interpolated.backbone.table((4, 4)).view(4, 4, -1))  # every second row is an old one


def test_learned_sigma_doubles_the_channels(zoo):
    model = woken(zoo, "adaln-zero", learn_sigma=True)
    x, t, labels = inputs(model)
    assert model(x, t, labels).shape == (3, 6, 8, 8)


@pytest.mark.parametrize("size", [(6,), (4, 6), (2, 4, 6)])
def test_unpatchify_undoes_patchify(size):
    x = torch.arange(2 * 3 * int(torch.tensor(size).prod())).view(2, 3, *size)
    patch = (1, 2, 2)[-len(size) :]
    grid = tuple(n // p for n, p in zip(size, patch, strict=True))
    tokens = patchify(x, patch)  # channels slowest; unpatchify wants them fastest
    cells = tokens.unflatten(-1, (3, -1)).transpose(-1, -2).flatten(-2)
    assert torch.equal(unpatchify(cells, grid, patch), x)


def test_streams_subtract_and_add_to_residuals_and_know_their_bytes(zoo):
    model = woken(zoo, "adaln-zero")
    x, t, labels = inputs(model)
    early = model.backbone.begin(x, t, model.prompt.encode(labels))
    late = model.backbone.run(early, 0, 3)
    torch.testing.assert_close((early + (late - early)).tokens, late.tokens)
    assert early.rows(slice(1, 2)).tokens.shape[0] == early.rows(slice(1, 2)).cond.vec.shape[0] == 1
    assert early.rows(torch.tensor([0, 2])).nbytes < early.nbytes


@pytest.mark.parametrize("autocast", [True, False])
def test_attention_in_half_precision_is_trained_in_fp32_on_a_cpu(autocast, monkeypatch):
    seen, plain = [], F.scaled_dot_product_attention

    def told(q, k, v, **more):
        seen.append((q.dtype, torch.is_autocast_enabled("cpu")))
        return plain(q, k, v, **more)

    monkeypatch.setattr(F, "scaled_dot_product_attention", told)
    attention, x = Attention(32, 2), torch.randn(2, 9, 32)
    keep = torch.tensor([[True] * 9, [True] * 5 + [False] * 4])
    exact = attention(x, mask=keep)
    exact.square().sum().backward()
    expected = attention.q.weight.grad.clone()
    attention.zero_grad()
    if not autocast:
        attention, x = attention.to(torch.bfloat16), x.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = attention(x, mask=keep)
    assert seen[-1] == (torch.float32, False)
    assert found.dtype == torch.bfloat16
    found.float().square().sum().backward()
    torch.testing.assert_close(found.float(), exact, rtol=0.05, atol=0.02)
    grad = attention.q.weight.grad.float()
    assert float((grad - expected).norm() / expected.norm()) < 0.05
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        attention(x)
    assert seen[-1] == (torch.bfloat16, autocast)  # no gradient: torch's own
    assert attend(*torch.randn(3, 2, 2, 9, 16).unbind(0)).dtype == torch.float32
