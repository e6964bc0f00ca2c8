"""The early-exit sampler: what must not change with depth, what each policy runs, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import assert_near, refused, tiny, wake
from ditzoo_dynamic.exits import SeparateExits
from ditzoo_dynamic.planned import fingerprint

from ditzoo.assemble import build
from ditzoo.denoiser import Branch, Denoiser, Ledger
from ditzoo.errors import SamplingError, SpecError
from ditzoo.noise import Noise
from ditzoo.passes import Passes

DEPTH = 8
EXITED = {"backbone": {"depth": DEPTH}, "exits": {"kind": "offset", "at": [2, 4, 6]}, "guidance": {"scale": 2.0}, "sampling": {"steps": 6}}
INNER = {"kind": "early-exit", "inner": "ddim"}


def early(**fields):
    return {"sampler": INNER | fields}


def made(zoo, **changes):
    return wake(build(zoo.model(tiny(**(EXITED | changes))))).requires_grad_(False)


def drawn(model, zoo=None, rows=(0, 1, 2), **fields):
    """Draw latents with other sampler fields on the same weights; return them and the ledger."""
    spec = model.spec if not fields else zoo.model(model.spec.model_dump() | early(**fields))
    own, model.spec = model.spec, spec
    try:
        found = model.sample(class_labels=list(rows), output_type="latent", seed=3)
    finally:
        model.spec = own
    return found.images, found.ledger


@pytest.fixture(scope="module")
def model(zoo):
    return made(zoo)


@pytest.mark.parametrize("inner", ["ddim", "ddpm", "heun", "ab2", "dpm-solver++", "unipc", {"kind": "sde"}, "diffusers:DDIMScheduler"])
@pytest.mark.parametrize("backbone_exits", [False, True])
def test_at_full_depth_it_is_the_inner_sampler_bit_for_bit(zoo, inner, backbone_exits):
    model = made(zoo, **({} if backbone_exits else {"exits": None}), sampler=inner)
    plain, spent = drawn(model)
    for policy in ({"kind": "uniform"}, {"kind": "uniform", "depth": DEPTH}):
        found, ledger = drawn(model, zoo, inner=inner, policy=policy)
        assert torch.equal(found, plain)
        assert (ledger.calls, ledger.block_evals) == (spent.calls, spent.block_evals)


POLICIES = {
    "uniform": ({"kind": "uniform", "depth": 4}, {}),
    "null at 2": ({"kind": "uniform"}, {"null_exit": 2}),
    "internal": ({"kind": "uniform", "depth": 6}, {"internal": {"exit": 2, "scale": 1.5}}),
    "confidence": ({"kind": "confidence", "threshold": 0.5}, {}),
    "confidence by noise": ({"kind": "confidence", "threshold": [0.2, 0.9]}, {"null_exit": 2}),
    "residual held": ({"kind": "exit-residual", "prefix": 2, "reach": 0}, {}),
    "residual": ({"kind": "exit-residual", "prefix": 3, "warmup": 1}, {"null_exit": 2}),
    "guidance guessed": ({"kind": "exit-residual", "prefix": 2, "every": 1, "null_every": 3, "whole_above": 1.0}, {}),
    "no block of its own": ({"kind": "exit-residual", "prefix": 0}, {}),
    "both guessed": ({"kind": "exit-residual", "prefix": 0, "every": 2, "null_every": 2, "whole_above": 0.9}, {}),
}


@pytest.mark.parametrize("name", POLICIES)
def test_the_ledger_equals_hooked_counts_and_full_depth_is_more(zoo, model, name):
    policy, fields = POLICIES[name]
    counted = [0]
    hooks = [
        block.register_forward_hook(lambda m, i, o: counted.__setitem__(0, counted[0] + len(i[0].tokens)))
        for block in model.backbone.blocks
    ]
    _, ledger = drawn(model, zoo, policy=policy, **fields)
    for hook in hooks:
        hook.remove()
    assert ledger.block_evals == counted[0]
    assert ledger.block_evals < 6 * 2 * 3 * DEPTH
    assert sum(blocks for _, blocks in ledger.trace) * 3 == pytest.approx(ledger.block_evals)


@pytest.mark.parametrize("name", POLICIES)
def test_a_picture_does_not_depend_on_its_batch_nor_on_an_earlier_run(zoo, model, name):
    policy, fields = POLICIES[name]
    together, _ = drawn(model, zoo, policy=policy, **fields)
    again, _ = drawn(model, zoo, policy=policy, **fields)
    assert torch.equal(together, again)  # nothing is kept from run to run
    alone, _ = drawn(model, zoo, rows=(0,), policy=policy, **fields)
    assert_near(alone, together[:1])


def look(model, branches, x, t, policy=None):
    """Return what the denoiser says of branches, and the ledger."""
    denoiser = Denoiser(model.backbone, model.spec.schedule.build(), lambda t: branches, ledger=Ledger())
    return (denoiser.under(policy) if policy else denoiser)(x, t), denoiser.ledger


@pytest.fixture(scope="module")
def parts(model):
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return x, torch.tensor(0.5, dtype=torch.float64), model.prompt.encode([1, 2, 3, 4]), model.prompt.null(4)


def at(model, parts, cond, depth=None):
    x, t, *_ = parts
    return model.backbone(x, model.spec.schedule.build().model_time(t).expand(len(x)), cond, depth)


def test_internal_guidance_is_its_formula_and_shares_the_blocks(zoo, model, parts):
    x, t, cond, null = parts
    sampler = zoo.part("sampler", INNER | {"null_exit": 4, "internal": {"exit": 2, "scale": 1.5}}).build()
    branches = sampler.steered(0.5, [Branch(cond, 3.0), Branch(null, -2.0, name="null")])
    found, ledger = look(model, branches, x, t)
    full, shallow, empty = at(model, parts, cond), at(model, parts, cond, 2), at(model, parts, null, 4)
    expected = 3 * full - 2 * empty + 0.5 * (full - shallow)
    assert_near(found.eps, model.spec.schedule.build().split(expected, x, t).eps)
    assert ledger.block_evals == 4 * (DEPTH + 4)  # the guiding exit lies on the way
    assert sampler.steered(0.5, [Branch(cond)])[1].weight == -0.5
    outside = zoo.part("sampler", INNER | {"internal": {"exit": 2, "scale": 1.5, "interval": [0.6, 1]}}).build()
    assert len(outside.steered(0.5, [Branch(cond)])) == 1


@pytest.mark.parametrize("quota", [None, 0.0, 0.5, 1.0])
def test_rows_leave_where_two_exits_agree(zoo, model, parts, quota):
    x, t, cond, _ = parts
    outs = {depth: at(model, parts, cond, depth) for depth in (2, 4, 6)} | {DEPTH: at(model, parts, cond)}
    apart = {k: (outs[k] - outs[j]).flatten(1).norm(dim=1) / outs[k].flatten(1).norm(dim=1) for j, k in ((2, 4), (4, 6))}
    threshold = float(apart[4].sort().values[1:3].mean())  # two rows are surer
    policy = zoo.part("policy", {"kind": "confidence", "threshold": threshold, "quota": quota}).build()
    found, ledger = look(model, [Branch(cond)], x, t, policy)
    depths = []
    alive = list(range(4))
    for depth in (4, 6, DEPTH):
        if depth == DEPTH:
            stay = []
        elif quota is None:
            stay = [row for row in alive if apart[depth][row] > threshold]
        else:
            stay = sorted(sorted(alive, key=lambda row: -apart[depth][row])[: -(-int(quota * 2 * len(alive)) // 2)])
        depths += [(row, depth) for row in alive if row not in stay]
        alive = stay
    expected = torch.stack([outs[depth][row] for row, depth in sorted(depths)])
    assert_near(found.eps, model.spec.schedule.build().split(expected, x, t).eps)
    assert ledger.block_evals == sum(depth for _, depth in depths)


@pytest.mark.parametrize(("reach", "ahead"), [(0, 0), (0.5, 0.5), (2, (0.4 - 0.7) / (0.7 - 0.9))])
def test_a_guessed_look_is_the_prefix_and_the_line_through_the_last_residuals(zoo, model, parts, reach, ahead):
    x, _, cond, null = parts
    policy = zoo.part("policy", {"kind": "exit-residual", "prefix": 3, "reach": reach, "every": 4, "warmup": 2}).build()
    passes = Passes(model.backbone, model.spec.schedule.build(), Ledger())
    evaluate, branches = policy.follow(passes), [Branch(cond, 2.0), Branch(null, -1.0, name="null")]
    times = torch.tensor([0.9, 0.7, 0.4], dtype=torch.float64)
    outs = [evaluate(branches, x * (1 + i), t) for i, t in enumerate(times)]

    def streams(i, prompt):
        begun = model.backbone.begin(x * (1 + i), passes.schedule.model_time(times[i]).expand(4), prompt)
        early = model.backbone.run(begun, 0, 3)
        return early, model.backbone.run(early, 3, DEPTH)

    for branch, prompt in enumerate((cond, null)):
        (e0, l0), (e1, l1), (e2, _) = (streams(i, prompt) for i in range(3))
        assert_near(outs[1][branch], model.backbone.head(l1))
        r0, r1 = l0.tokens - e0.tokens, l1.tokens - e1.tokens
        guess = r1 + ahead * (r1 - r0)
        assert_near(outs[2][branch], model.backbone.head(e2 + (l1 - e1)._replace(tokens=guess)))
    assert passes.ledger.block_evals == 8 * (2 * DEPTH + 3)


@pytest.mark.parametrize(("reach", "ahead"), [(0, 0), (0.5, 0.5), (2, (0.4 - 0.7) / (0.7 - 0.9))])
def test_a_guessed_branch_is_its_prefix_the_firsts_residual_and_their_difference_extrapolated(zoo, model, parts, reach, ahead):
    x, _, cond, null = parts
    fields = {"prefix": 3, "reach": reach, "every": 1, "null_every": 3, "whole_above": 0.6}
    passes = Passes(model.backbone, model.spec.schedule.build(), Ledger())
    evaluate = zoo.part("policy", {"kind": "exit-residual", **fields}).build().follow(passes)
    branches, times = [Branch(cond, 2.0), Branch(null, -1.0, name="null")], torch.tensor([0.9, 0.7, 0.4, 0.3, 0.2], dtype=torch.float64)
    outs = [evaluate(branches, x * (1 + i), t) for i, t in enumerate(times)]

    def added(i, prompt):
        begun = model.backbone.begin(x * (1 + i), passes.schedule.model_time(times[i]).expand(4), prompt)
        early = model.backbone.run(begun, 0, 3)
        return early, model.backbone.run(early, 3, DEPTH) - early

    apart = [added(i, null)[1].tokens - added(i, cond)[1].tokens for i in range(2)]
    early, seen = added(2, null)[0], added(2, cond)
    assert_near(outs[2][0], model.backbone.head(seen[0] + seen[1]))
    guess = seen[1].tokens + apart[1] + ahead * (apart[1] - apart[0])
    assert_near(outs[2][1], model.backbone.head(early + seen[1]._replace(tokens=guess)))
    early, late = added(4, null)  # two were guessed, and the third is seen
    assert_near(outs[4][1], model.backbone.head(early + late))
    assert passes.ledger.block_evals == 4 * (3 * 2 * DEPTH + 2 * (DEPTH + 3))


@pytest.mark.parametrize("steps", [5, 10, 20])
def test_noisy_looks_are_whole_whatever_their_number_and_every_other_one_after_them(zoo, steps):
    policy = {"kind": "exit-residual", "prefix": 1, "every": 2, "warmup": 1, "whole_above": 0.55}
    trace = drawn(made(zoo, sampling={"steps": steps}), zoo, rows=[0], policy=policy)[1].trace
    whole = [blocks == 2 * DEPTH for _, blocks in trace]
    noisy = sum(t > 0.55 for t, _ in trace)
    assert len(whole) == steps
    assert whole == [True] * noisy + [place % 2 == 1 for place in range(steps - noisy)]


def test_a_residual_that_begins_in_the_middle_of_guidance_is_not_guessed_from_other_rows(zoo, model, parts):
    x, _, cond, null = parts
    policy = zoo.part("policy", {"kind": "exit-residual", "prefix": 2, "warmup": 1}).build()
    passes = Passes(model.backbone, model.spec.schedule.build(), Ledger())
    evaluate = policy.follow(passes)
    evaluate([Branch(cond)], x, torch.tensor(0.9))
    both = [Branch(cond, 2.0), Branch(null, -1.0, name="null")]
    found = evaluate(both, x, torch.tensor(0.8))
    assert torch.equal(found[1], passes.together(both, x, torch.tensor(0.8))[1])


def test_separate_exits_begin_as_the_head_and_are_trained_apart(zoo):
    model = build(zoo.model(tiny(**(EXITED | {"exits": {"kind": "separate", "at": [4]}}))))
    wake(model)
    for name, parameter in model.backbone.given_exits.named_parameters():
        with torch.no_grad():
            parameter.copy_(model.backbone.get_parameter(name.removeprefix("heads.4.")))
    x, t, cond = torch.randn(2, 3, 8, 8), torch.tensor([300.0, 700.0]), model.prompt.encode([0, 1])
    stream = model.backbone.run(model.backbone.begin(x, t, cond), 0, 4)
    assert torch.equal(model.backbone.read(stream, 4), model.backbone.head(stream))
    model.requires_grad_(True)
    model.backbone.read(stream, 4).square().sum().backward()
    assert model.backbone.head_linear.weight.grad is None
    assert model.backbone.given_exits.heads["4"]["head_linear"].weight.grad is not None
    model.backbone.head_modules = ()
    with pytest.raises(SpecError, match=r"names no modules of its head \(head_modules\); set exits.kind=offset"):
        SeparateExits([1], model.backbone)


@pytest.mark.parametrize("conditioning", ["adaln", "cross-attention", "in-context"])
@pytest.mark.parametrize("kind", ["offset", "separate"])
def test_exits_on_every_conditioning(zoo, conditioning, kind):
    model = made(zoo, conditioning={"kind": conditioning}, exits={"kind": kind, "at": [2, 4, 6]})
    found, _ = drawn(model, zoo, policy={"kind": "uniform", "depth": 4}, null_exit=2)
    assert torch.isfinite(found).all()


def table(model, **changes):
    spec = model.spec
    return {
        "model": spec.name,
        "fingerprint": fingerprint(model.backbone),
        "solver": spec.sampler.model_dump(mode="json"),
        "schedule": spec.schedule.model_dump(mode="json"),
        "guidance": spec.guidance.model_dump(mode="json"),
        "steps": [3, 15],
        "edges": [0.0, 0.5, 1.0],
        "cond": [4, 8],
        "null": [2, 4],
        "budget": 0.6,
    } | changes


def test_a_table_gives_each_noise_level_its_depths(zoo, model, tmp_path):
    (tmp_path / "table.json").write_text(json.dumps(table(model)))
    spec = zoo.model(model.spec.model_dump() | early(policy=f"depth-table:{tmp_path / 'table.json'}"))
    assert spec.sampler.policy.table.cond == (4, 8)  # read once; the spec holds it
    _, ledger = drawn(model, zoo, policy=f"depth-table:{tmp_path / 'table.json'}")
    assert [blocks for t, blocks in ledger.trace] == [12 if t >= 0.5 else 6 for t, _ in ledger.trace]
    assert {t >= 0.5 for t, _ in ledger.trace} == {True, False}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"guidance": {"scale": 3.0}}, "it was calibrated with guidance.scale=2.0, and that is 3.0 here; calibrate anew"),
        ({"sampling": {"steps": 20}}, "it serves 3 to 15 steps, and sampling.steps is 20"),
        ({"schedule": {"kind": "cosine"}}, "it was calibrated with schedule."),
    ],
)
def test_a_table_is_refused_elsewhere(zoo, model, change, told):
    data = model.spec.model_dump() | early(policy={"kind": "depth-table", "table": table(model)})
    zoo.model(data)
    with pytest.raises(SpecError, match=told):
        zoo.model(data | change)
    with pytest.raises(SpecError, match=r"it was calibrated with sampler\.inner\.kind=ddim, and that is ab2 here"):
        zoo.model(data | {"sampler": data["sampler"] | {"inner": "ab2"}})


def test_a_table_of_other_weights_is_refused(zoo, model):
    other = made(zoo)
    with torch.no_grad():
        other.backbone.blocks[3].mlp.fc1.weight.mul_(1.01)
    with pytest.raises(SamplingError, match="the table of depths was calibrated on weights .{12}, and these are .{12}; calibrate anew"):
        drawn(model, zoo, policy={"kind": "depth-table", "table": table(other)})
    drawn(model.to(torch.bfloat16), zoo, policy={"kind": "depth-table", "table": table(model.float())})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"exits": {"kind": "offset", "at": [2, 8]}},
            "exits.at: exits.at names 8 and backbone.depth=8; exits lie before the last block: at most 7",
        ),
        ({"exits": {"kind": "offset", "at": [4, 2]}}, "exits.at: depths rise, each once, found [4, 2]; write [2, 4]"),
        (
            early(policy={"kind": "uniform", "depth": 3}),
            "sampler: sampler.policy.depth=3: 'tiny' is read out after 2, 4, 6, 8 blocks alone",
        ),
        (
            {"exits": None, **early(policy={"kind": "uniform", "depth": 4})},
            "'tiny' has no exits, and is read out after all 8 blocks alone; policy exit-residual needs none",
        ),
        (early(null_exit=5), "sampler.null_exit=5: 'tiny' is read out after 2, 4, 6, 8 blocks alone"),
        (early(internal={"exit": 1, "scale": 2}), "sampler.internal.exit=1: 'tiny' is read out after 2, 4, 6, 8 blocks alone"),
        (early(inner=INNER), "sampler.inner is an early-exit sampler itself"),
        (
            early(policy={"kind": "exit-residual", "prefix": 1, "every": 1}),
            "sampler.policy has every=1 and null_every=1, so every look is whole and nothing is saved; set one of them to 2 or more",
        ),
        (
            early(policy={"kind": "exit-residual", "prefix": 1, "null_every": 3}, null_exit=2),
            "sampler.policy.null_every=3 guesses a branch that sampler.null_exit=2 cuts short; set one of them",
        ),
        (
            early(policy={"kind": "exit-residual", "prefix": 8}),
            "sampler.policy.prefix=8 leaves none of backbone.depth=8 to guess; set it below",
        ),
        (
            {"exits": {"kind": "offset", "at": [4]}, **early(policy="confidence")},
            "compares two exits before the last block, and 'tiny' has 1",
        ),
        (early(policy={"kind": "depth-table", "table": "nowhere.json"}), "cannot read the table 'nowhere.json'"),
        (early(inner={"kind": "ddpm", "variance": "learned"}), "sampler 'early-exit' requires 'learned-variance'"),
        (early(inner={"kind": "unipc", "order": 3}) | {"sampling": {"steps": 2}}, "unipc of order 3 needs 3 steps"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_built(zoo, changes, told):
    with pytest.raises(SpecError) as refusal:
        zoo.model(tiny(**(EXITED | changes)))
    assert told in str(refusal.value)


def test_layouts_changed_on_the_way_are_told(zoo, model, parts):
    policy = zoo.part("policy", {"kind": "exit-residual", "prefix": 2}).build()
    staged = Passes(model.backbone, model.spec.schedule.build(), Ledger())
    model.backbone.stages = (5,)
    try:
        with pytest.raises(SamplingError, match="changes its layout after block 5, .* set sampler.policy.prefix to at least 5"):
            policy.follow(staged)
    finally:
        model.backbone.stages = ()


def test_it_is_one_line_on_the_command_line(capsys, monkeypatch, tmp_path):
    told = refused(
        capsys, monkeypatch, "sample", "fashion-dit", "-o", tmp_path, "--set", "sampler={kind='early-exit', inner='ddim', null_exit=3}"
    )
    assert "sampler.null_exit=3: 'fashion-dit'" in told, told


def test_noise_is_the_inner_samplers(zoo):
    """An inner sampler that draws noise draws the same at any depth."""
    model = made(zoo, sampler={"kind": "ddpm"})
    drawn_numbers = []

    class Counting(Noise):
        def draw(self, like):
            drawn_numbers.append(like.shape)
            return super().draw(like)

    from ditzoo.sampling import walk

    for fields in ({}, {"policy": {"kind": "uniform", "depth": 2}}):
        spec = zoo.model(model.spec.model_dump() | early(inner="ddpm", **fields))
        list(walk(model, spec, [0, 1], torch.randn(2, 3, 8, 8), Counting.seeded(0, range(2)), Ledger()))
    assert len(drawn_numbers) == 2 * 5
