"""U-DiT's layers, each against the same written out by hand: a softmax, rotation matrices, branches one by one."""

import itertools
import math
from functools import cache

import pytest
import torch
import torch.nn.functional as F

from dit_lab.models.conv_mlp import DepthwiseMLP, LinearPair, ReparameterisedMLP
from dit_lab.models.grid_layers import Grid, GridAttention, rotations
from dit_lab.models.layers import MLP, Attend, attention_map

DIM, HEADS, ROWS, COLUMNS = 16, 2, 4, 6
DOWNSAMPLE = ("none", "kv", "token")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# By hand: plain functions on pictures, `b d h w`, driven by a module's tensors; `test_udit.py` builds a U-DiT of them.


def under(tensors, name):
    """The tensors of a submodule, by their names in it."""
    return {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}


def convolved(tensors, name, x):
    """A convolution that keeps the size; a linear is one of 1x1, and one kernel a channel is a depthwise one."""
    weight, bias = tensors[f"{name}.weight"], tensors.get(f"{name}.bias")
    weight = weight.reshape(*weight.shape, 1, 1) if weight.ndim == 2 else weight
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=x.shape[1] // weight.shape[1])


@cache
def rotation_by_hand(width, row, column):
    """2-D RoPE at one place as a matrix: x0, y0, x1, y1 ... on pairs of features, x = column."""
    blocks = []
    for i in range(width // 4):
        for place in (column, row):
            angle = place * 10000 ** (-4 * i / width)
            cos, sin = math.cos(angle), math.sin(angle)
            blocks.append(torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64))
    return torch.block_diag(*blocks)


def turned_by_hand(x, width, stride=1):
    """`x: b d h w -> b d h w`, every head of every place turned; each stands for stride x stride places."""
    out = torch.empty_like(x)
    for row in range(x.shape[2]):
        for column in range(x.shape[3]):
            middle = (row * stride + (stride - 1) / 2, column * stride + (stride - 1) / 2)
            matrix = rotation_by_hand(width, *middle).to(x.dtype)
            for head in range(0, x.shape[1], width):
                out[:, head : head + width, row, column] = x[:, head : head + width, row, column] @ matrix.T
    return out


def attended_by_hand(q, k, v, scales, heads, *, rope):
    """Softmax attention of all places of q to all of k, `b d h w`; `scales` of a cosine attention, or None."""
    width = q.shape[1] // heads
    if rope:
        q, k = turned_by_hand(q, width), turned_by_hand(k, width, q.shape[-1] // k.shape[-1])
    out = torch.empty_like(q)
    for head in range(heads):
        mine = slice(head * width, (head + 1) * width)
        queries, keys, values = (part[:, mine].flatten(2).transpose(1, 2) for part in (q, k, v))
        if scales is None:
            scores = queries @ keys.transpose(1, 2) / width**0.5
        else:
            queries = queries / queries.square().sum(-1, keepdim=True).sqrt()
            keys = keys / keys.square().sum(-1, keepdim=True).sqrt()
            scores = queries @ keys.transpose(1, 2) * scales[head]
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        out[:, mine] = (weights @ values).transpose(1, 2).reshape(out[:, mine].shape)
    return out


def attention_by_hand(tensors, x, heads, *, downsample, cosine, rope):
    """`GridAttention` on a picture: `x: b d h w -> b d h w`."""
    scales = tensors["log_scale"].flatten().clamp(max=4.6052).exp() if cosine else None
    how, out = dict(scales=scales, heads=heads, rope=rope), torch.empty_like(x)
    if downsample == "token":
        x = convolved(tensors, "sampler.conv", x) + x
        for top in (0, 1):
            for left in (0, 1):
                quarter = convolved(tensors, "qkv", x[:, :, top::2, left::2])
                out[:, :, top::2, left::2] = attended_by_hand(*quarter.chunk(3, dim=1), **how)
    else:
        q, k, v = convolved(tensors, "qkv", x).chunk(3, dim=1)
        if downsample == "kv":
            kv = torch.cat([k, v], dim=1)
            k, v = F.avg_pool2d(convolved(tensors, "sampler.conv", kv) + kv, 2).chunk(2, dim=1)
        out = attended_by_hand(q, k, v, **how)
    return convolved(tensors, "out", out)


def mlp_by_hand(tensors, x, kind):
    """The three MLPs on a picture: `x: b d h w -> b d h w`."""
    if kind == "reparameterised":
        x = F.gelu(convolved(tensors, "up.second", convolved(tensors, "up.first", x)))
        x = x + sum(convolved(tensors, f"conv.branches.{i}", x) for i in range(3))
        return convolved(tensors, "down.second", convolved(tensors, "down.first", x))
    x = convolved(tensors, "up", x)
    if kind == "plain":
        return convolved(tensors, "down", F.gelu(x, approximate="tanh"))
    return convolved(tensors, "down", convolved(tensors, "conv", F.gelu(x)))


def randomised(module):
    """The module with every number random and none zero, sized so that a layer leaves the scale of what it is given."""
    for name, parameter in module.named_parameters():
        if name.endswith("log_scale"):
            torch.nn.init.normal_(parameter, math.log(3), 0.3)
        else:
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 10
            torch.nn.init.normal_(parameter, std=fan_in**-0.5)
    return module


def as_tokens(picture):
    return picture.flatten(2).transpose(1, 2).contiguous()


def as_picture(tokens, rows=ROWS):
    return tokens.transpose(1, 2).unflatten(2, (rows, -1))


def entered(rows=ROWS, columns=COLUMNS):
    grid = Grid()
    grid.enter(rows, columns)
    return grid


def attention(rows=ROWS, columns=COLUMNS, **how):
    return randomised(GridAttention(DIM, HEADS, entered(rows, columns), **how))


def mlp(kind, ratio=2.0):
    if kind == "plain":
        return randomised(MLP(DIM, ratio))
    return randomised({"depthwise": DepthwiseMLP, "reparameterised": ReparameterisedMLP}[kind](DIM, ratio, entered()))


def picture(rows=ROWS, columns=COLUMNS):
    return torch.randn(2, DIM, rows, columns)


def without_convolution(module):
    """The module with the weights of its depthwise convolution zero, so that only attention moves anything."""
    for name, parameter in module.named_parameters():
        if "conv" in name and name.endswith("weight"):
            torch.nn.init.zeros_(parameter)
    return module


@pytest.mark.parametrize("rope", (False, True))
@pytest.mark.parametrize("cosine", (False, True))
@pytest.mark.parametrize("downsample", DOWNSAMPLE)
@torch.no_grad()
def test_attention_with_any_switches_is_the_written_out_softmax(downsample, cosine, rope):
    how, x = dict(downsample=downsample, cosine=cosine, rope=rope), picture()
    module = attention(**how)
    expected = attention_by_hand(module.state_dict(), x, HEADS, **how)
    assert expected.std() > 0.1
    torch.testing.assert_close(as_picture(module(as_tokens(x))), expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("heads", (1, 3, 5))
@pytest.mark.parametrize("downsample", DOWNSAMPLE)
@torch.no_grad()
def test_any_number_of_heads_is_told_apart_from_queries_and_keys(downsample, heads):
    how, x = dict(downsample=downsample, cosine=True, rope=True), torch.randn(2, 8 * heads, ROWS, COLUMNS)
    module = randomised(GridAttention(8 * heads, heads, entered(), **how))
    expected = attention_by_hand(module.state_dict(), x, heads, **how)
    torch.testing.assert_close(as_picture(module(as_tokens(x))), expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("downsample", DOWNSAMPLE)
@torch.no_grad()
def test_queries_and_keys_of_no_length_have_no_direction_and_attend_evenly(downsample):
    module = attention(downsample=downsample, rope=False)
    module.qkv.weight[: 2 * DIM], module.qkv.bias[: 2 * DIM] = 0, 0
    if downsample == "kv":
        module.sampler.conv.weight[:DIM], module.sampler.conv.bias[:DIM] = 0, 0
    seen = []
    module.attend.register_forward_hook(lambda part, inputs, out: seen.append((inputs[2], out)))
    assert module(as_tokens(picture())).isfinite().all()
    v, out = seen[0]
    torch.testing.assert_close(out, v.mean(2, keepdim=True).expand_as(out))


@pytest.mark.parametrize(
    "switch", [dict(downsample="none"), dict(downsample="kv"), dict(cosine=False), dict(rope=False)], ids=str
)
@torch.no_grad()
def test_every_switch_changes_what_attention_computes(switch):
    x, full, other = as_tokens(picture()), attention(), attention(**switch)
    other.load_state_dict({k: v for k, v in full.state_dict().items() if k in ("qkv.weight", "qkv.bias")}, strict=False)
    other.out.load_state_dict(full.out.state_dict())
    assert (other(x) - full(x)).norm() > 0.05 * full(x).norm()


@pytest.mark.parametrize("cosine", (False, True))
@pytest.mark.parametrize("downsample", DOWNSAMPLE)
@torch.no_grad()
def test_the_map_made_of_what_attend_sees_is_the_one_that_ran(downsample, cosine):
    module, seen = attention(downsample=downsample, cosine=cosine), []
    attend = next(part for part in module.modules() if isinstance(part, Attend))
    attend.register_forward_hook(lambda part, inputs, out: seen.append((*inputs, out)))
    module(as_tokens(picture()))
    ((q, k, v, out),) = seen
    images, queries, keys = {"none": (2, 24, 24), "kv": (2, 24, 6), "token": (8, 6, 6)}[downsample]
    assert q.shape == (images, HEADS, queries, DIM // HEADS) and k.shape == (images, HEADS, keys, DIM // HEADS)
    torch.testing.assert_close(attention_map(q, k) @ v, out, rtol=1e-5, atol=1e-6)


def scores(module, x):
    """`b head i j`: what the softmax of a module is taken of, from what its `Attend` is given."""
    seen = []
    module.attend.register_forward_pre_hook(lambda part, inputs: seen.append(inputs))
    module(x)
    q, k, _ = seen[0]
    return q @ k.transpose(-1, -2)


@torch.no_grad()
def test_rotary_scores_of_downsampled_keys_depend_on_the_way_to_the_middle_of_their_square_only():
    module = without_convolution(attention(8, 8, downsample="kv"))
    found = scores(module, torch.randn(1, 1, DIM).expand(1, 64, DIM))[0].reshape(HEADS, 8, 8, 4, 4)
    by_way = {}
    for r, c, s, d in itertools.product(range(8), range(8), range(4), range(4)):
        by_way.setdefault((2 * s - r, 2 * d - c), []).append(found[:, r, c, s, d])
    spread = max((torch.stack(same) - same[0]).abs().max() for same in by_way.values())
    assert spread < 1e-5 * found.abs().max() and max(map(len, by_way.values())) == 16


@pytest.mark.parametrize("cosine", (False, True))
@pytest.mark.parametrize("downsample", ("none", "token"))
@torch.no_grad()
def test_rotary_scores_depend_on_relative_position_only(downsample, cosine):
    side = 2 if downsample == "token" else 1
    rows, columns = ROWS, COLUMNS + 2
    module = without_convolution(attention(rows * side, columns * side, downsample=downsample, cosine=cosine))
    everywhere_the_same = torch.randn(1, 1, DIM).expand(1, rows * columns * side**2, DIM)
    found = scores(module, everywhere_the_same)[0].reshape(HEADS, rows, columns, rows, columns)
    by_difference = {}
    for r in range(rows):
        for c in range(columns):
            for s in range(rows):
                for d in range(columns):
                    by_difference.setdefault((s - r, d - c), []).append(found[:, r, c, s, d])
    assert len(by_difference) == (2 * rows - 1) * (2 * columns - 1)
    spread = max((torch.stack(same) - same[0]).abs().max() for same in by_difference.values())
    assert spread < 1e-5 * found.abs().max(), "two pairs of tokens with the same offset have other scores"
    means = torch.stack([same[0] for same in by_difference.values()])
    apart = (means - means[:, None]).abs().amax(-1) + torch.eye(len(means))
    assert apart.min() > 1e-4, "two different offsets have the same scores"


@torch.no_grad()
def test_without_rotary_positions_the_place_of_a_token_means_nothing():
    module, x = attention(downsample="none", rope=False), as_tokens(picture())
    order = torch.randperm(x.shape[1])
    torch.testing.assert_close(module(x[:, order]), module(x)[:, order], rtol=1e-5, atol=1e-6)
    module.rope = True
    assert not torch.allclose(module(x[:, order]), module(x)[:, order], atol=1e-2)


def test_rotary_positions_need_heads_of_a_width_that_4_divides():
    with pytest.raises(ValueError, match="width that 4 divides, not 6"):
        rotations(6, 2, 2)


@pytest.mark.parametrize("downsample", DOWNSAMPLE)
@torch.no_grad()
def test_cosine_attention_is_blind_to_the_length_of_q_and_k(downsample):
    x, stretch = as_tokens(picture()), torch.tensor([7.0, 0.2, 1.0]).repeat_interleave(DIM)
    for cosine in (True, False):
        module = attention(downsample=downsample, cosine=cosine)
        before = module(x)
        module.qkv.weight.mul_(stretch[:, None])
        module.qkv.bias.mul_(stretch)
        if downsample == "kv":
            module.sampler.conv.bias[:DIM].mul_(0.2)  # it joins the keys after they are stretched
        assert torch.allclose(module(x), before, rtol=1e-4, atol=1e-5) == cosine


@pytest.mark.parametrize("downsample", DOWNSAMPLE)
@torch.no_grad()
def test_the_scale_of_cosine_attention_stops_at_100(downsample):
    module, x = attention(downsample=downsample), as_tokens(picture())

    def at(scale):
        module.log_scale.fill_(math.log(scale))
        return module(x)

    assert torch.equal(at(101.0), at(1e6))
    # The original stops at a logarithm of 4.6052, which is 100.003.
    assert (at(100.0) - at(1e6)).norm() < 0.01 * (at(90.0) - at(1e6)).norm()


def test_cosine_attention_is_born_at_a_scale_of_10_a_head():
    fresh = GridAttention(DIM, HEADS, entered())
    assert fresh.log_scale.numel() == HEADS
    torch.testing.assert_close(fresh.log_scale.exp().flatten(), torch.full((HEADS,), 10.0))
    assert "log_scale" not in GridAttention(DIM, HEADS, entered(), cosine=False).state_dict()


@torch.no_grad()
def test_a_token_of_zeros_gives_no_nan():
    module = attention()
    torch.nn.init.zeros_(module.qkv.bias)
    assert module(torch.zeros(1, ROWS * COLUMNS, DIM)).isfinite().all()


def reached(module, row, column):
    """Which places of the grid the output at one place depends on: `h w`, true or false."""
    x = as_tokens(picture()).requires_grad_()
    as_picture(module(x))[:, :, row, column].square().sum().backward()
    return as_picture(x.grad).abs().sum(dim=(0, 1)) > 0


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 3), (3, 0), (1, 5), (2, 2)])
def test_token_grids_do_not_mix(row, column):
    same = torch.zeros(ROWS, COLUMNS, dtype=torch.bool)
    same[row % 2 :: 2, column % 2 :: 2] = True
    assert torch.equal(reached(without_convolution(attention()), row, column), same)


@pytest.mark.parametrize("downsample", DOWNSAMPLE)
def test_every_token_reaches_every_other(downsample):
    assert reached(attention(downsample=downsample), 1, 2).all()


@pytest.mark.parametrize("kind", ("plain", "depthwise", "reparameterised"))
@pytest.mark.parametrize("ratio", (2.0, 1.3))
@torch.no_grad()
def test_every_mlp_is_the_one_computed_branch_by_branch(kind, ratio):
    module, x = mlp(kind, ratio), picture()
    expected = mlp_by_hand(module.state_dict(), x, kind)
    assert expected.std() > 0.1
    out = module(as_tokens(x))
    torch.testing.assert_close(as_picture(out), expected, rtol=1e-5, atol=3e-6)


def reach_of(kind):
    """The places that the MLP's output in the middle of a 4 x 6 grid depends on, as (rows, columns)."""
    seen = reached(mlp(kind), 2, 3)
    return int(seen.any(dim=1).sum()), int(seen.any(dim=0).sum())


def test_convolutional_mlps_see_two_places_far_and_the_plain_one_its_own():
    assert reach_of("plain") == (1, 1)
    assert reach_of("depthwise") == reach_of("reparameterised") == (4, 5)


@pytest.mark.parametrize("part", ("up", "down"))
@torch.no_grad()
def test_a_pair_folds_to_the_one_linear_that_it_computes(part):
    pair = getattr(mlp("reparameterised"), part)
    assert isinstance(pair, LinearPair)
    x = torch.randn(5, pair.first.in_features)
    expected = pair.second(pair.first(x))
    torch.testing.assert_close(F.linear(x, *pair.folded()), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(pair(x), expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_branches_fold_to_the_one_convolution_that_they_compute():
    branches, x = mlp("reparameterised").conv, torch.randn(2, 2 * DIM, ROWS, COLUMNS)
    weight, bias = branches.folded()
    assert weight.shape == (2 * DIM, 1, 5, 5)
    expected = x + sum(branch(x) for branch in branches.branches)
    torch.testing.assert_close(F.conv2d(x, weight, bias, padding=2, groups=2 * DIM), expected, rtol=1e-5, atol=3e-6)
    torch.testing.assert_close(branches(x), expected, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("layer", ("attention", "mlp"))
@torch.no_grad()
def test_a_layer_follows_its_grid_to_another_size(layer):
    module = attention() if layer == "attention" else mlp("reparameterised")
    x, larger = picture(), picture(8, 4)
    first = module(as_tokens(x))
    module.grid.enter(8, 4)
    if layer == "attention":
        expected = attention_by_hand(module.state_dict(), larger, HEADS, downsample="token", cosine=True, rope=True)
    else:
        expected = mlp_by_hand(module.state_dict(), larger, "reparameterised")
    torch.testing.assert_close(as_picture(module(as_tokens(larger)), 8), expected, rtol=1e-5, atol=3e-6)
    module.grid.enter(ROWS, COLUMNS)
    assert torch.equal(module(as_tokens(x)), first)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="3 heads do not divide a width of 16"):
        GridAttention(16, 3, entered())
