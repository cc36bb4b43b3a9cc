"""Contributions: parts of a prediction that add up to it, on every block, preset and prediction, and what each is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from einops import rearrange
from looks import hooks_left
from shared import random_model, random_udit, stirred

import dit_lab
from dit_lab.diffusion.process import split_output
from dit_lab.inside import TraceError, record
from dit_lab.inside.contributions import contribution_norms, contributions
from dit_lab.inside.parts import Part
from dit_lab.models import BLOCKS, PRESETS, DiTConfig, build

OPTIONS = dict(steps=4, cfg_scale=2.0, seed=3)
LABELS = [1, 4]
BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-10}
MODELS = [(random_model, block) for block in BLOCKS]
MODELS += [(random_udit, block) for block in BLOCKS if block != "in_context"]
PROCESSES = [("eps", "linear"), ("eps", "cosine"), ("x0", "linear"), ("v", "cosine"), ("x0", "flow")]
PROCESSES += [("velocity", "flow"), ("sit_velocity", "sit")]


def relative(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm()).item()


@torch.no_grad()
def predicted(run, model, step, half, sample=1):
    """The prediction `c h w` of a plain forward, nobody looking, and x_t in the same dtype."""
    x, t, y = run.inputs(model, step, sample, half)
    return split_output(model(x, t, y), x)[0][0], x[0]


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture(scope="module")
def run(model):
    return record(model, LABELS, **OPTIONS)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(("make", "block"), MODELS)
def test_parts_add_up_to_the_prediction_on_every_block(make, block, dtype):
    model = make(block).to(dtype)
    run = record(model, LABELS, **OPTIONS)
    halves = {half: predicted(run, model, 2, half)[0] for half in ("cond", "uncond")}
    assert relative(*halves.values()) > 1e-4  # they are two
    halves["guided"] = halves["uncond"] + 2 * (halves["cond"] - halves["uncond"])
    for half, prediction in halves.items():
        found = contributions(run, model, 2, sample=1, half=half)
        assert relative(found.output.sum(0), prediction) < BOUNDS[dtype] and found.error < BOUNDS[dtype]
        for tensor in found.output, found.eps, found.x0:
            assert tensor.shape == (len(found.parts), 3, 8, 12)
            assert (tensor.dtype, tensor.device.type) == (dtype, "cpu")
    assert hooks_left(model) == 0


@pytest.mark.parametrize("name", PRESETS)
def test_parts_add_up_on_every_preset(name):
    # Of the large ones fewer blocks: full width, and all that is different about them. By hand, all add up in full.
    config = PRESETS[name]
    flat = isinstance(config, DiTConfig)
    shape = dict(depth=min(config.depth, 2)) if flat else dict(depths=(1,) * len(config.depths))
    model = stirred(replace(config, input_size=16 if flat else 8, num_classes=3, **shape))
    run = record(model, [1], steps=1)
    assert contributions(run, model, 0).error < 1e-5


@pytest.mark.parametrize(("prediction", "schedule"), PROCESSES)
@pytest.mark.parametrize("make", [random_model, random_udit])
def test_eps_and_x0_add_up_to_what_is_read_from_the_prediction(make, prediction, schedule):
    learned = schedule == "linear"
    model = make(prediction=prediction, schedule=schedule, learned_variance=learned, in_channels=4)
    run = record(model, LABELS, **OPTIONS | dict(clip_x0=False))
    for step in range(4):
        found = contributions(run, model, step, sample=1)
        output, x = predicted(run, model, step, "cond")
        # In fp64: in fp32 reading eps from x0 at the last step would round more than the sum does.
        x0, eps = run.process.denoised(output[None].double(), x[None].double(), torch.tensor([3 - step]))
        assert relative(found.x0.sum(0), x0[0]) < 1e-5 and relative(found.eps.sum(0), eps[0]) < 1e-5
        assert found.parts[-1] == Part("x_t") and not found.output[-1].any()
        assert found.eps[-1].any() == (prediction != "eps") and found.x0[-1].any() == (prediction != "x0")


@pytest.mark.parametrize("size", [(16, 8), 24])
@pytest.mark.parametrize("make", [random_model, random_udit])
def test_parts_add_up_at_other_sizes_than_the_trained_one(make, size):
    model = make("adaln")
    run = record(model, LABELS, size=size, **OPTIONS)
    found = contributions(run, model, 1, half="guided")
    assert found.error < 1e-5 and found.output.shape[1:] == run.x.shape[2:]


@pytest.mark.parametrize("change", [dict(downsample="kv"), dict(downsample="none", mlp="plain"), dict(mlp="depthwise")])
def test_parts_add_up_with_every_attention_and_mlp_of_a_udit(change):
    model = random_udit(depths=(1, 1, 2, 1, 1), input_size=16, **change)
    found = contributions(record(model, [0], steps=1), model, 0)
    assert found.error < 1e-5 and len(found.parts) == 1 + 12 * 4 + 4


def test_a_mix_of_some_channels_is_the_mix_that_was_walked(model):
    run = record(model, LABELS, cfg_channels=2, **OPTIONS)
    cond, uncond, mixed = (contributions(run, model, 1, half=half).output for half in ("cond", "uncond", "guided"))
    torch.testing.assert_close(mixed[:, :2], (2 * cond - uncond)[:, :2], atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed[:, 2:], cond[:, 2:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["mnist", "mnist_in_context", "mnist_cross_attention", "mnist_adaln", "cifar10"])
def test_trained_models_add_up_at_every_noise(name):
    model = dit_lab.load(name).model
    run = record(model, [7], steps=3, cfg_scale=2.0)
    for step in range(3):
        assert contributions(run, model, step, half="guided").error < 1e-5


@pytest.mark.parametrize("block", BLOCKS)
def test_what_a_head_gave_is_what_an_explicit_loop_finds(block):
    model = random_model(block).double()
    run = record(model, LABELS, **OPTIONS)
    kind = "cross" if block == "cross_attention" else "attn"
    branch, noted = getattr(model.blocks[1], kind), {}
    hooks = [
        branch.out.register_forward_pre_hook(lambda module, given: noted.update(z=given[0][0].numpy())),
        model.final_norm.register_forward_pre_hook(lambda module, given: noted.update(x=given[0][0].numpy())),
    ]
    with torch.no_grad():
        x, t, y = run.inputs(model, 2, 1, "cond")
        model(x, t, y)
        cond = model.condition(t, y)
        gate = model.blocks[1].modulation(cond)[2][0, 0].numpy() if block == "adaln_zero" else np.ones(96)
        norm = model.final_norm
        scale = 1 + norm.modulation(cond)[1][0, 0] if BLOCKS[block].modulated else norm.weight
    for hook in hooks:
        hook.remove()
    head, e, pq_c = 2, 24, (4, 4, 6)
    expected = np.zeros((3, 8, 12))
    weight, last = branch.out.weight.detach().numpy(), model.out.weight.detach().numpy()
    for token in range(6):
        column = range(head * e, (head + 1) * e)
        given = np.array([gate[d] * sum(weight[d, i] * noted["z"][token, i] for i in column) for d in range(96)])
        held = (given - given.mean()) / np.sqrt(noted["x"][token].var() + 1e-6) * scale.numpy(force=True)
        for p, q, c in np.ndindex(4, 4, 3):
            row, place = divmod(token, 3), np.ravel_multi_index((p, q, c), pq_c)
            expected[c, row[0] * 4 + p, row[1] * 4 + q] = last[place] @ held
    found = contributions(run, model, 2, sample=1).of(kind, 1, head)
    np.testing.assert_allclose(found.output[0], expected, atol=1e-12 * abs(expected).max() * 100)


@pytest.mark.parametrize("number", range(6))
def test_what_a_udits_part_gave_is_what_its_layers_make_of_it_alone(number):
    # Independent of `onward`: the model's own layers with and without the part, all statistics held.
    model = random_udit().double()
    run = record(model, LABELS, **OPTIONS)
    noted = {}
    hooks = [
        model.final_norm.register_forward_pre_hook(lambda module, given: noted.update(x=given[0])),
        model.blocks[number].mlp.register_forward_hook(lambda module, given, made: noted.update(mlp=made)),
        model.blocks[number].modulation.register_forward_hook(lambda module, given, made: noted.update(gate=made[5])),
    ]
    with torch.no_grad():
        x, t, y = run.inputs(model, 1, 1, "cond")
        model(x, t, y)
    for hook in hooks:
        hook.remove()
    deviation = (noted["x"].var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
    part = rearrange(noted["gate"] * noted["mlp"], "b (h w) d -> b d h w", h=4 if number in (2, 3) else 8)

    @torch.no_grad()
    def onward(part):
        zero = torch.zeros(1, 16, 8, 12, dtype=part.dtype)
        stage = number // 2
        skip = part if stage == 0 else zero
        x = model.down[0](part) if stage == 0 else part
        x = model.merge[0](torch.cat([model.up[0](x), skip], dim=1)) if stage < 2 else x
        x = rearrange(model.neck(x), "b d h w -> b (h w) d")
        scale = 1 + model.final_norm.modulation(model.stage_conditions(t, y)[-1])[1]
        x = (x - x.mean(-1, keepdim=True)) / deviation * scale
        return model.out(rearrange(x, "b (h w) d -> b d h w", h=8))[0, :3]

    expected = onward(part) - onward(torch.zeros_like(part))
    found = contributions(run, model, 1, sample=1).of("mlp", number)
    assert relative(found.output[0], expected) < 1e-12


@pytest.mark.parametrize("preset", ["DiT-nano/2", "U-DiT-tiny"])
def test_blocks_of_an_untrained_adaln_zero_model_gave_exactly_nothing(preset):
    torch.manual_seed(0)
    model = build(preset, input_size=8, num_classes=3).eval()
    run = record(model, [1], steps=2)
    silent = contributions(run, model, 0)
    assert silent.error == 0 and not silent.output.any() and silent.x0.isfinite().all()
    torch.nn.init.normal_(model.out.weight)
    found = contributions(run, model, 0)
    of_blocks = torch.tensor([part.block is not None for part in found.parts])
    assert not found.output[of_blocks].any() and found.output[0].any() and found.error < 1e-5
    assert not found.of("shift").output.any() and not found.of("bias").output.any()


@pytest.mark.parametrize(("make", "block"), MODELS)
def test_parts_have_names_of_their_own_in_the_order_of_the_blocks(make, block):
    model = make(block)
    parts = contributions(record(model, [0], steps=1), model, 0).parts
    assert len(set(map(str, parts))) == len(set(parts)) == len(parts)
    heads = model.config.heads
    attentions = ["attn"] + ["cross"] * (block == "cross_attention")
    expected = [Part("patches")] + [Part("positions")] * (make is random_model)
    for number in range(len(model.blocks)):
        for kind in attentions:
            expected += [Part(kind, number, head) for head in range(heads)] + [Part(f"{kind}_bias", number)]
        expected.append(Part("mlp", number))
    expected += [Part("bias_between")] * (make is random_udit) + [Part("shift"), Part("bias"), Part("x_t")]
    assert parts == expected


def test_parts_are_called_what_people_call_them():
    names = [Part("patches"), Part("attn", 3, 1), Part("cross", 0, 2), Part("mlp", 2), Part("attn_bias", 1)]
    said = ["patches", "block 3 head 1", "block 0 cross-attention head 2", "block 2 MLP", "block 1 attention bias"]
    assert [str(name) for name in names] == said


@pytest.mark.parametrize(("prediction", "schedule"), [("eps", "linear"), ("velocity", "flow")])
@pytest.mark.parametrize("half", ["cond", "guided"])
def test_norms_are_those_of_the_parts_of_eps_at_every_step(prediction, schedule, half):
    model = random_model(prediction=prediction, schedule=schedule, learned_variance=False)
    run = record(model, LABELS, **OPTIONS)
    parts, norms = contribution_norms(run, model, sample=1, half=half)
    assert norms.shape == (len(parts), 4)
    for step in range(4):
        found = contributions(run, model, step, sample=1, half=half)
        assert found.parts == parts
        torch.testing.assert_close(norms[:, step], (found.eps**2).mean((1, 2, 3)).sqrt())


def test_looking_changes_no_bit_and_hooks_go_when_the_forward_raises(run, model):
    x, t, y = run.inputs(model, 1, 0, "cond")
    before = model(x, t, y)
    contributions(run, model, 1)
    assert torch.equal(model(x, t, y), before) and hooks_left(model) == 0

    def broken(module, given):
        raise ZeroDivisionError

    with model.blocks[2].register_forward_pre_hook(broken), pytest.raises(ZeroDivisionError):
        contributions(run, model, 1)
    assert hooks_left(model) == 0


def test_a_model_in_bf16_adds_up_to_its_own_precision():
    for make in random_model, random_udit:
        model = make().bfloat16()
        found = contributions(record(model, LABELS, **OPTIONS), model, 1, half="guided")
        assert found.output.dtype == torch.float32 and 1e-5 < found.error < 0.2


def test_a_model_without_classes_is_split_too():
    model = random_model(num_classes=0)
    run = record(model, [0], steps=2)
    assert contributions(run, model, 1).error < 1e-5
    with pytest.raises(TraceError, match="no unconditional half"):
        contributions(run, model, 1, half="uncond")
