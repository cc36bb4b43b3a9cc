"""U-DiT: parity with one written out by hand, identity at birth, every switch and size it promises, and folding."""

import re
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from test_grid_layers import attention_by_hand, convolved, mlp_by_hand, randomised, under

import dit_lab
from dit_lab.models import BLOCKS, UDiTConfig, build, fold
from dit_lab.models.layers import Attend, timestep_waves

SMALL = dict(input_size=8, dim=16, heads=2, depths=(1, 1, 1, 1, 1), num_classes=10)
T = torch.tensor([3, 900])
Y = torch.tensor([0, 7])
MLPS = ("plain", "depthwise", "reparameterised")
WORKING_BLOCKS = [name for name in BLOCKS if name != "in_context"]
FLAT = dict(depths=(1, 1, 1), input_size=4)  # two levels, for what does not depend on their number


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def small(**changes):
    return build(UDiTConfig(**(SMALL | changes)))


def stirred(**changes):
    """A small model with every number random, so that nothing that is born zero hides a mistake."""
    return randomised(small(**changes))


def pictures(h=8, w=8, channels=4):
    return torch.randn(2, channels, h, w)


def flat_pictures():
    return pictures(4, 4)


def copied(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_tensors(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# By hand, after the description of the architecture: pictures `b d h w` all the way, two vectors a level for the
# condition, nothing of the model but its tensors. The timestep's waves are fp32 in any precision (`test_layers.py`).


def normed(x):
    """A layer norm over channels."""
    x = x - x.mean(dim=1, keepdim=True)
    return x / (x.square().mean(dim=1, keepdim=True) + 1e-6).sqrt()


def modulation(tensors, name, cond, parts):
    vectors = F.silu(cond) @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]
    return [vector[:, :, None, None] for vector in vectors.chunk(parts, dim=1)]


def condition_by_hand(tensors, t, y):
    up, down = under(tensors, "time_embedding.up"), under(tensors, "time_embedding.down")
    waves = timestep_waves(t, 256).to(up["weight"].dtype)
    time = F.linear(F.silu(F.linear(waves, **up)), **down)
    return time + tensors["label_embedding.weight"][y]


def stage_by_hand(tensors, x, cond, depth, config):
    """Two (attention, FFN) pairs a block of the paper, each with an adaLN-Zero of its own."""
    how = dict(downsample=config.downsample, cosine=config.cosine, rope=config.rope)
    for number in range(2 * depth):
        pair = under(tensors, f"blocks.{number}")
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = modulation(pair, "modulation.linear", cond, 6)
        moved = normed(x) * (1 + scale) + shift
        x = x + gate * attention_by_hand(under(pair, "attn"), moved, config.heads, **how)
        moved = normed(x) * (1 + scale_mlp) + shift_mlp
        x = x + gate_mlp * mlp_by_hand(under(pair, "mlp"), moved, config.mlp)
    return x


@torch.no_grad()
def udit_by_hand(model, x, t, y):
    config, tensors = model.config, model.state_dict()
    bottom = len(config.depths) // 2
    conds = [condition_by_hand(under(tensors, f"conditions.{level}"), t, y) for level in range(bottom + 1)]
    x, skips = convolved(tensors, "stem", x), []
    for level in range(bottom):
        x = stage_by_hand(under(tensors, f"encoder.{level}"), x, conds[level], config.depths[level], config)
        skips.append(x)
        x = F.pixel_unshuffle(convolved(tensors, f"down.{level}", x), 2)
    x = stage_by_hand(under(tensors, "middle"), x, conds[bottom], config.depths[bottom], config)
    for number in range(bottom):
        x = F.pixel_shuffle(convolved(tensors, f"up.{number}", x), 2)
        x = convolved(tensors, f"merge.{number}", torch.cat([x, skips.pop()], dim=1))
        level = bottom - 1 - number
        cond, depth = conds[max(level, 1)], config.depths[bottom + 1 + number]  # the last keeps level 2's width
        x = stage_by_hand(under(tensors, f"decoder.{number}"), x, cond, depth, config)
    shift, scale = modulation(tensors, "final_norm.modulation.linear", conds[1], 2)
    return convolved(tensors, "out", normed(convolved(tensors, "neck", x)) * (1 + scale) + shift)


def agree(model, x, t, y, tolerance):
    """That a model computes what is written out by hand, to a tolerance relative to the output's size."""
    expected = udit_by_hand(model, x, t, y)
    assert expected.std() > 0.1
    with torch.no_grad():
        out = model(x, t, y)
    assert out.shape == expected.shape and out.dtype == expected.dtype
    assert (out - expected).abs().max() < tolerance * expected.abs().max()


@pytest.mark.parametrize("mlp", MLPS)
def test_udit_is_the_written_out_one(mlp):
    agree(stirred(mlp=mlp), pictures(), T, Y, 1e-5)


@pytest.mark.parametrize("switch", [dict(downsample="none"), dict(downsample="kv"), dict(cosine=False)], ids=str)
def test_udit_with_a_switch_off_is_the_written_out_one(switch):
    agree(stirred(**switch), pictures(), T, Y, 1e-5)


def test_udit_in_double_precision_is_the_written_out_one_to_ten_places():
    agree(stirred().double(), pictures().double(), T, Y, 1e-10)


CASES = {
    "three stages": dict(depths=(1, 1, 1)),
    "more blocks in some stages than in others": dict(depths=(1, 2, 1, 1, 2), heads=1, dim=8),
    "seven stages": dict(depths=(1,) * 7, dim=8, input_size=16),
    "oblong": dict(input_size=(8, 16)),
    "unconditional": dict(num_classes=0),
    "without learned variance": dict(learned_variance=False, in_channels=3),
    "another ratio": dict(mlp_ratio=1.3),
    "no switch on": dict(downsample="none", cosine=False, rope=False, mlp="plain"),
}


@pytest.mark.parametrize("name", CASES)
def test_every_shape_of_udit_is_the_written_out_one(name):
    model = stirred(**CASES[name])
    config = model.config
    y = torch.tensor([0, config.num_classes])
    agree(model, pictures(*config.size, config.in_channels), T, y, 1e-5)


def test_udit_at_another_size_than_its_configs_is_the_written_out_one():
    agree(stirred(), pictures(8, 24), T, Y, 1e-5)


@torch.no_grad()
def test_a_forward_at_one_size_leaves_nothing_behind_for_the_next():
    model, x = stirred(**FLAT), flat_pictures()
    before = model(x, T, Y)
    model(pictures(8, 12), T, Y)
    assert torch.equal(model(x, T, Y), before)


@pytest.mark.parametrize("block", WORKING_BLOCKS)
def test_a_fresh_udit_outputs_exact_zeros(block):
    assert torch.equal(small(block=block)(pictures(), T, Y), torch.zeros(2, 8, 8, 8))


@pytest.mark.parametrize("mlp", MLPS)
@pytest.mark.parametrize("downsample", ("none", "token"))
@torch.no_grad()
def test_the_stages_of_a_fresh_adaln_zero_udit_are_the_identity(downsample, mlp):
    model = small(downsample=downsample, mlp=mlp)
    for stage, cond in zip(model.stages, model.stage_conditions(T, Y), strict=True):
        x = torch.randn(2, cond.shape[-1], 4, 6)
        assert torch.equal(stage(x, cond), x)
        for block in stage.blocks:
            block.modulation.linear.bias.fill_(0.1)
        assert not torch.allclose(stage(x, cond), x, atol=1e-3)


@pytest.mark.parametrize("changes", [{}, dict(downsample="kv"), dict(mlp="depthwise")], ids=str)
@pytest.mark.parametrize("block", WORKING_BLOCKS)
def test_every_parameter_of_every_block_gets_a_gradient(block, changes):
    model, x = stirred(block=block, **changes), pictures()
    out = model(x, T, Y)
    assert out.shape == (2, 8, 8, 8) and out.isfinite().all()
    out.square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert not [name for name, grad in gradients.items() if grad is None or not grad.any()]
    assert all(grad.isfinite().all() for grad in gradients.values())


@pytest.mark.parametrize("block", WORKING_BLOCKS)
@torch.no_grad()
def test_timestep_label_and_picture_all_matter(block):
    model, x = stirred(block=block, **FLAT), flat_pictures()
    out = model(x, T, Y)
    for other in (model(x, T + 50, Y), model(x, T, Y + 1), model(x + 1, T, Y)):
        assert (other - out).abs().max() > 0.01 * out.abs().max()


def test_in_context_is_refused_with_the_reason():
    with pytest.raises(
        ValueError, match=r"no in-context blocks: condition tokens .* have no place on a grid"
    ) as refusal:
        small(block="in_context")
    assert "\n" not in str(refusal.value) and "cross-attention" in str(refusal.value)


def test_every_block_has_one_attend_and_one_condition_for_the_trace_to_look_into():
    model = small(depths=(1, 2, 1))
    assert sum(isinstance(module, Attend) for module in model.modules()) == 8
    assert len(model.blocks) == len(model.config.block_names) == model.config.depth == 8
    dims = [model.config.stage_of(number).dim for number in range(8)]
    assert [cond.shape[-1] for cond in model.block_conditions(T, Y)] == dims == [16] * 2 + [32] * 6


def test_stages_have_the_papers_widths_and_resolutions():
    config = UDiTConfig(dim=96, heads=4)
    assert [(stage.dim, stage.patch, len(stage.blocks)) for stage in config.stages] == [
        (96, 1, 4),
        (192, 2, 10),
        (384, 4, 16),
        (192, 2, 10),
        (192, 1, 4),
    ]
    assert len(set(config.block_names)) == config.depth == 44
    assert [config.grid_of(block) for block in (0, 4, 14, 43)] == [(32, 32), (16, 16), (8, 8), (32, 32)]
    assert config.grid_of(14, (16, 40)) == (4, 10)


@torch.no_grad()
def test_bf16_weights_give_a_bf16_output_near_the_fp32_one():
    model, x = stirred(), pictures()
    expected = model(x, T, Y)
    out = model.to(torch.bfloat16)(x.bfloat16(), T, Y)
    assert out.dtype == torch.bfloat16
    assert (out.float() - expected).norm() < 0.1 * expected.norm()


def test_bf16_autocast_trains():
    model, x = stirred(), pictures()
    expected = model(x, T, Y)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x, T, Y)
    assert (out.float() - expected).norm() < 0.1 * expected.norm()
    out.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# Folding


@pytest.mark.parametrize("mlp", MLPS)
@pytest.mark.parametrize("block", WORKING_BLOCKS)
@torch.no_grad()
def test_a_folded_model_computes_what_the_trained_one_does(block, mlp):
    model, x = stirred(block=block, mlp=mlp), pictures()
    expected, out = model(x, T, Y), fold(model)(x, T, Y)
    assert expected.std() > 0.1
    assert (out - expected).abs().max() < 1e-5 * expected.abs().max()


@torch.no_grad()
def test_every_attention_runs_the_fused_kernel(monkeypatch):
    calls, fused = [], F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or fused(*a, **k))
    model = stirred(**FLAT)
    model(flat_pictures(), T, Y)
    assert len(calls) == len(model.blocks)


def test_a_dit_has_nothing_to_fold():
    model = build("DiT-nano/4", input_size=8, depth=1)
    folded = fold(model)
    assert folded is not model and not folded.training and same_tensors(copied(folded), copied(model))


def test_folding_takes_the_branches_away():
    model = stirred()
    folded = fold(model)
    assert folded.config == replace(model.config, mlp="depthwise")
    assert copied(folded).keys() == copied(small(mlp="depthwise")).keys()
    assert sum(p.numel() for p in folded.parameters()) < sum(p.numel() for p in model.parameters())
    assert all(parameter.requires_grad for parameter in folded.parameters())


@torch.no_grad()
def test_folding_leaves_the_trained_model_bit_identical():
    model, x = stirred(**FLAT).train(), flat_pictures()
    tensors, out = copied(model), model(x, T, Y)
    fold(model)
    assert same_tensors(copied(model), tensors)
    assert torch.equal(model(x, T, Y), out)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("mlp", MLPS)
@torch.no_grad()
def test_a_folded_model_shares_no_memory_with_the_trained_one(mlp):
    model = stirred(**FLAT, mlp=mlp)
    tensors, folded = copied(model), fold(model)
    assert folded is not model
    for parameter in folded.parameters():
        parameter.zero_()
    assert same_tensors(copied(model), tensors)


@torch.no_grad()
def test_folding_twice_changes_nothing():
    model = stirred(**FLAT)
    once, again = fold(model), fold(model)
    twice = fold(once)
    assert twice is not once and twice.config == once.config
    assert same_tensors(copied(twice), copied(once)) and same_tensors(copied(again), copied(once))
    x = flat_pictures()
    assert torch.equal(twice(x, T, Y), once(x, T, Y))


@pytest.mark.parametrize("kind", ("trained", "folded"))
@torch.no_grad()
def test_train_and_eval_change_no_number_and_no_output(kind):
    model, x = stirred(**FLAT), flat_pictures()
    model = fold(model) if kind == "folded" else model
    tensors, out = copied(model), model(x, T, Y)
    for change in (model.eval, model.eval, model.train, model.eval, model.train):
        change()
        assert same_tensors(copied(model), tensors)
        assert torch.equal(model(x, T, Y), out)


@torch.no_grad()
def test_a_folded_model_is_complete_in_its_state_dict():
    folded, fresh = fold(stirred(**FLAT)), small(**FLAT, mlp="depthwise")
    fresh.load_state_dict(folded.state_dict())
    x = flat_pictures()
    assert torch.equal(fresh(x, T, Y), folded(x, T, Y))


@torch.no_grad()
def test_everything_in_a_folded_model_moves():
    folded = fold(stirred(**FLAT)).to(torch.float64)
    assert {tensor.dtype for tensor in folded.state_dict().values()} == {torch.float64}
    agree(folded, flat_pictures().double(), T, Y, 1e-6)
    assert {tensor.device.type for tensor in deepcopy(folded).to("meta").state_dict().values()} == {"meta"}


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float64))
def test_folding_keeps_the_precision(dtype):
    assert {tensor.dtype for tensor in fold(stirred(**FLAT).to(dtype)).state_dict().values()} == {dtype}


@pytest.mark.parametrize("kind", ("trained", "folded"))
@torch.no_grad()
def test_a_copy_is_a_model_of_its_own(kind):
    model, x = stirred(**FLAT), flat_pictures()
    model = fold(model) if kind == "folded" else model
    out = model(x, T, Y)
    copy = deepcopy(model)
    assert torch.equal(copy(x, T, Y), out)
    copy(pictures(8, 12), T, Y)
    for parameter in copy.parameters():
        parameter.zero_()
    assert torch.equal(model(x, T, Y), out)


@pytest.mark.parametrize("kind", ("trained", "folded"))
@torch.no_grad()
def test_saved_and_loaded_it_is_the_same_model(kind, tmp_path):
    model, x = stirred(**FLAT).eval(), flat_pictures()
    model = fold(model) if kind == "folded" else model
    loaded = dit_lab.load(dit_lab.save(tmp_path / "model", model)).model
    assert loaded.config == model.config
    assert same_tensors(copied(loaded), copied(model))
    assert torch.equal(loaded(x, T, Y), model(x, T, Y))
    assert same_tensors(copied(fold(loaded)), copied(fold(model)))


def test_a_folded_model_can_be_trained_on():
    folded = fold(stirred(**FLAT)).train()
    folded(flat_pictures(), T, Y).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in folded.parameters())


# Labels


@pytest.mark.parametrize("num_classes", (0, 1, 3, 1000))
@torch.no_grad()
def test_any_number_of_classes_has_the_null_label_after_them(num_classes):
    model, x = stirred(**FLAT, num_classes=num_classes), flat_pictures()
    assert all(condition.label_embedding.num_embeddings == num_classes + 1 for condition in model.conditions)
    null = model(x, T)
    assert torch.equal(null, model(x, T, torch.tensor([num_classes, num_classes])))
    for label in range(min(num_classes, 3)):
        assert not torch.allclose(model(x, T, torch.tensor([label, label])), null, atol=1e-3)


# Sizes and refusals


MULTIPLES = [
    (dict(depths=(1, 1, 1)), 4),
    (dict(depths=(1, 1, 1), downsample="kv", cosine=False, rope=False), 4),
    (dict(depths=(1, 1, 1), downsample="none"), 2),
    (dict(), 8),
    (dict(downsample="none"), 4),
]


@pytest.mark.parametrize(("changes", "multiple"), MULTIPLES, ids=str)
@torch.no_grad()
def test_every_multiple_of_the_needed_number_works(changes, multiple):
    model = stirred(
        input_size=multiple, dim=8, heads=1, **{k: v for k, v in changes.items() if k not in ("dim", "heads")}
    )
    for h, w in [(1, 1), (1, 2), (3, 1), (2, 3), (5, 1)]:
        h, w = h * multiple, w * multiple
        assert replace(model.config, input_size=(h, w)).size == (h, w)
        out = model(pictures(h, w), T, Y)
        assert out.shape == (2, 8, h, w) and out.isfinite().all()


def sizes_named(refusal, taken):
    """The sizes that a refusal says work, apart from what was refused."""
    said = str(refusal.value)
    assert "\n" not in said and said.endswith(f"not {taken[0]} x {taken[1]}")
    found = re.search(r"such as ([\d or]+),", said)
    return [int(number) for number in found[1].split(" or ")]


@pytest.mark.parametrize(("changes", "multiple"), MULTIPLES, ids=str)
def test_any_other_size_is_refused_with_sizes_that_work(changes, multiple):
    model = small(input_size=multiple, **changes)
    sides = [side for side in range(1, 3 * multiple) if side % multiple]
    for size in [(side, side) for side in sides] + [(sides[-1], multiple), (multiple, sides[-1])]:
        with pytest.raises(ValueError, match=f"multiples of {multiple} ") as in_config:
            replace(model.config, input_size=size)
        with pytest.raises(ValueError, match=f"multiples of {multiple} ") as in_forward:
            model(pictures(*size), T, Y)
        named = sizes_named(in_config, size)
        assert named == sizes_named(in_forward, size) and min(named) > 0
        assert all(replace(model.config, input_size=side).input_size == side for side in named)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 8, 8, 8), (4, 8, 8), (2, 4, 8, 8, 1)])
def test_an_input_with_other_channels_is_refused_with_both_shapes(shape):
    with pytest.raises(ValueError, match=r"takes b 4 h w, not \(") as refusal:
        small()(torch.randn(shape), T, Y)
    assert str(shape) in str(refusal.value)


def test_an_empty_picture_is_refused():
    with pytest.raises(ValueError, match="0 x 8"):
        small()(pictures(0, 8), T, Y)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(depths=(1, 1)), "depths must be an odd number of stages"),
        (dict(depths=(1, 1, 1, 1)), "depths must be an odd number of stages"),
        (dict(depths=(1,)), "at least 3"),
        (dict(depths=()), "depths must be"),
        (dict(depths=(1, 0, 1)), "at least 1 block, not (1, 0, 1)"),
        (dict(depths=(1, -1, 1)), "depths must be"),
        (dict(depths=(1, 2.0, 1)), "depths must be"),
        (dict(depths=(True, 1, 1)), "depths must be"),
        (dict(depths=5), "depths must be"),
        (dict(depths="111"), "depths must be"),
        (dict(depths=None), "depths must be"),
        (dict(downsample="all"), "downsample must be one of none, kv, token, not 'all'"),
        (dict(downsample=None), "downsample must be one of"),
        (dict(downsample=["token"]), "downsample must be one of"),
        (dict(mlp="conv"), "mlp must be one of plain, depthwise, reparameterised, not 'conv'"),
        (dict(mlp={}), "mlp must be one of"),
        (dict(cosine=1), "cosine must be true or false, not 1"),
        (dict(rope="yes"), "rope must be true or false, not 'yes'"),
        (dict(dim=12), "heads of a width that 4 divides, not 12 / 2"),
        (dict(dim=10), "heads of a width that 4 divides, not 10 / 2"),
        (dict(dim=20, heads=3), "3 heads do not divide a width of 20"),
        (dict(dim=5, heads=1, rope=False), "dim"),  # halved and doubled between levels
        (dict(heads=0), "heads must be"),
        (dict(in_channels=0), "in_channels must be"),
        (dict(num_classes=-1), "num_classes must be"),
        (dict(num_classes=None), "num_classes must be"),
        (dict(mlp_ratio=0), "mlp_ratio must be"),
        (dict(learned_variance=1), "learned_variance must be"),
        (dict(input_size=0), "one or two positive whole numbers"),
        (dict(input_size=(8, 8, 8)), "one or two positive whole numbers"),
        (dict(input_size=8.0), "one or two positive whole numbers"),
    ],
    ids=str,
)
def test_an_impossible_config_is_one_clear_value_error(change, said):
    with pytest.raises(ValueError) as refusal:
        UDiTConfig(**(SMALL | change))
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_without_rope_a_head_may_have_any_width_that_the_levels_can_halve():
    agree(stirred(dim=6, heads=2, rope=False, **FLAT), flat_pictures(), T, Y, 1e-5)
