"""Looking into a forward: what is seen is what ran, nothing changes, and nothing stays behind."""

import math

import pytest
import torch
from einops import einsum
from looks import hooks_left
from shared import random_model, random_udit

from dit_lab.inside import Box, TraceError, token_at, token_box, token_under, watch
from dit_lab.inside.geometry import interleaved
from dit_lab.models import BLOCKS

INPUTS = (
    torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0)),
    torch.tensor([7, 900]),
    torch.tensor([1, 5]),
)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_watched_forward_is_bit_identical_and_leaves_no_hook(block):
    model = random_model(block)
    plain = model(*INPUTS)
    with watch(model) as seen:
        watched = model(*INPUTS)
    assert torch.equal(plain, watched)
    assert hooks_left(model) == 0
    assert sorted(seen.features) == [0, 1, 2]


@pytest.mark.parametrize("block", BLOCKS)
def test_maps_are_the_softmax_of_what_the_layers_compute(block):
    model = random_model(block)
    inputs = []
    hook = model.blocks[1].attn.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    with watch(model, attention=[1]) as seen, torch.no_grad():
        model(*INPUTS)
    hook.remove()
    qkv = model.blocks[1].attn.qkv(inputs[0])
    q, k = (part.unflatten(-1, (4, -1)) for part in qkv.chunk(3, dim=-1)[:2])
    explicit = (einsum(q, k, "b i head e, b j head e -> b head i j") / math.sqrt(q.shape[-1])).softmax(-1)
    tokens = 8 if block == "in_context" else 6
    assert seen.attention(1).shape == (2, 4, tokens, tokens)
    torch.testing.assert_close(seen.attention(1), explicit, atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.attention(1, queries=[4, 2]), explicit[:, :, [4, 2]], atol=1e-5, rtol=0)
    for query in -1, explicit.shape[2]:
        with pytest.raises(TraceError, match=f"query must be a whole number from 0 to {explicit.shape[2] - 1}, not"):
            seen.attention(1, queries=[query])


def test_the_cross_attention_map_is_over_the_condition_tokens():
    model = random_model("cross_attention")
    with watch(model) as seen:
        model(*INPUTS)
    cross = seen.attention(0, kind="cross")
    assert cross.shape == (2, 4, 6, 2)
    torch.testing.assert_close(cross.sum(-1), torch.ones(2, 4, 6))


def test_modulation_has_the_names_that_the_block_gives_its_parts():
    model = random_model()
    with watch(model, attention=None, features=False) as seen:
        model(*INPUTS)
    assert list(seen.modulation) == list(model.blocks[0].modulation.parts)
    gate = model.blocks[2].modulation(model.condition(*INPUTS[1:]))[2][:, 0]
    assert torch.equal(seen.modulation["gate_attn"][2], gate)
    assert not seen.modulation["gate_attn"][2].requires_grad


def test_hooks_go_when_the_body_raises():
    model = random_model()
    with pytest.raises(ZeroDivisionError), watch(model):
        _ = 1 / 0
    assert hooks_left(model) == 0


def test_an_empty_look_is_an_error():
    model = random_model("in_context")
    with pytest.raises(TraceError, match="nothing was seen"), watch(model):
        pass
    with pytest.raises(TraceError, match="nothing was seen"), watch(model, attention=None, features=False):
        model(*INPUTS)
    assert hooks_left(model) == 0


@pytest.mark.parametrize("attention", [[3], [-1], "first", [True]])
def test_blocks_that_do_not_exist_are_refused(attention):
    with pytest.raises(TraceError), watch(random_model(), attention=attention):
        pass


def test_attention_that_was_not_watched_is_named_as_missing():
    model = random_model()
    with watch(model, attention=[0]) as seen:
        model(*INPUTS)
    with pytest.raises(TraceError, match="no cross of block 0 among the attention seen: attn of block 0"):
        seen.attention(0, kind="cross")


@pytest.mark.parametrize(("grid", "patch", "scale"), [((2, 3), 4, 1), ((3, 2), 2, 8), ((1, 5), 1, 1)])
def test_every_pixel_lies_in_the_box_of_its_token(grid, patch, scale):
    owner = {}
    for token in range(grid[0] * grid[1]):
        top, left, height, width = token_box(token, grid, patch, scale)
        owner |= {(row, column): token for row in range(top, top + height) for column in range(left, left + width)}
    side = patch * scale
    assert len(owner) == grid[0] * grid[1] * side**2
    assert all(token_at(row, column, grid, patch, scale) == token for (row, column), token in owner.items())


def test_token_boxes_follow_the_patches_of_the_model():
    model = random_model()
    picture = torch.zeros(1, 3, 8, 12)
    top, left, height, width = token_box(4, model.config.grid, model.config.patch_size)
    picture[:, :, top : top + height, left : left + width] = 1
    changed = (model.patchify(picture) != model.patchify(torch.zeros_like(picture))).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == [4]
    assert token_box(4, (2, 3), 2, scale=8) == Box(16, 16, 16, 16)
    assert token_at(7.9, 4.0, (2, 3), 4) == 4


def test_places_outside_the_picture_are_refused():
    for outside in (-1, 6):
        with pytest.raises(ValueError, match="tokens 0 to 5"):
            token_box(outside, (2, 3), 4)
    for row, column in ((-0.5, 0), (8, 0), (0, 12), (math.nan, 0)):
        with pytest.raises(ValueError, match="8 x 12"):
            token_at(row, column, (2, 3), 4)


@pytest.mark.parametrize("downsample", ["token", "kv", "none"])
@pytest.mark.parametrize("cosine", [True, False])
def test_a_watched_u_dit_is_bit_identical_and_shows_every_block(downsample, cosine):
    model = random_udit(downsample=downsample, cosine=cosine, rope=cosine)
    plain = model(*INPUTS)
    with watch(model) as seen:
        watched = model(*INPUTS)
    assert torch.equal(plain, watched) and hooks_left(model) == 0
    assert [x.shape[1:] for x in seen.features.values()] == [(96, 16)] * 2 + [(24, 32)] * 2 + [(96, 32)] * 2
    for block, tokens in enumerate([96, 96, 24, 24, 96, 96]):
        maps = seen.attention(block)
        assert maps.shape == (2, 2, tokens, tokens)
        torch.testing.assert_close(maps.sum(-1), torch.ones(2, 2, tokens))
        torch.testing.assert_close(seen.attention(block, queries=[5, 2]), maps[:, :, [5, 2]])
        with pytest.raises(TraceError, match=f"query must be a whole number from 0 to {maps.shape[2] - 1}, not -1"):
            seen.attention(block, queries=[-1])


def test_the_map_of_interleaved_grids_is_cosine_attention_written_out_token_by_token():
    """Every pair of tokens by itself, on the picture's own coordinates: same grid or not, RoPE by sine and cosine."""
    model = random_udit()
    attn, inputs = model.blocks[2].attn, []
    with torch.no_grad():
        attn.log_scale.copy_(torch.tensor([0.5, 6.0]).reshape(2, 1, 1))  # the second is above the limit
    hook = attn.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    with watch(model, attention=[2]) as seen, torch.no_grad():
        model(*INPUTS)
    hook.remove()
    rows, columns, heads, e = 4, 6, 2, 16
    kernel, bias = attn.sampler.conv.weight, attn.sampler.conv.bias
    x = inputs[0].transpose(1, 2).reshape(2, 32, rows, columns)
    x = (x + torch.nn.functional.conv2d(x, kernel, bias, padding=2, groups=32)).flatten(2).transpose(1, 2)
    q, k, _ = attn.qkv(x).chunk(3, dim=-1)
    expected = torch.zeros(2, heads, 24, 24)
    for i in range(24):
        for j in range(24):
            (r, c), (s, d) = divmod(i, columns), divmod(j, columns)
            if (r % 2, c % 2) != (s % 2, d % 2):
                continue
            for head in range(heads):
                part = slice(head * e, (head + 1) * e)
                a, b = turned(q[:, i, part], r // 2, c // 2), turned(k[:, j, part], s // 2, d // 2)
                scale = math.exp(min(attn.log_scale[head].item(), 4.6052))
                expected[:, head, i, j] = scale * torch.cosine_similarity(a, b, dim=-1)
    other = expected == 0
    expected = expected.masked_fill(other, -math.inf).softmax(-1)
    torch.testing.assert_close(seen.attention(2), expected, atol=1e-5, rtol=0)
    assert (seen.attention(2)[other] == 0).all() and other.float().mean() == 0.75


def turned(x, row, column):
    """2-D RoPE of one token, `x: b e`, pair by pair: column, row, column, row ..."""
    out, e = x.clone(), x.shape[-1]
    for pair in range(e // 2):
        angle = (row if pair % 2 else column) * 10000 ** (-4 * (pair // 2) / e)
        even, odd = x[:, 2 * pair], x[:, 2 * pair + 1]
        out[:, 2 * pair] = even * math.cos(angle) - odd * math.sin(angle)
        out[:, 2 * pair + 1] = even * math.sin(angle) + odd * math.cos(angle)
    return out


def test_downsampled_keys_share_their_weight_among_the_tokens_they_cover():
    model = random_udit(downsample="kv", cosine=False, rope=False)
    with watch(model, attention=[0]) as seen, torch.no_grad():
        model(*INPUTS)
    q, k = seen.q_k[0, "attn"]
    assert (q.shape[2], k.shape[2]) == (96, 24)
    coarse = (einsum(q, k, "b head i e, b head j e -> b head i j") / math.sqrt(q.shape[-1])).softmax(-1)
    fine = coarse.reshape(2, 2, 96, 4, 6).repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1).flatten(-2) / 4
    torch.testing.assert_close(seen.attention(0), fine)


def test_modulation_of_both_pairs_of_a_u_dit_block_is_seen_at_its_own_width():
    model = random_udit()
    with watch(model) as seen, torch.no_grad():
        model(*INPUTS)
    gates = seen.modulation["gate_mlp"]
    assert [gates[block].shape[1] for block in range(6)] == [16, 16, 32, 32, 32, 32]
    cond = model.block_conditions(*INPUTS[1:])[3]
    assert torch.equal(gates[3], model.blocks[3].modulation(cond)[5][:, 0])
    assert not torch.equal(gates[2], gates[3])


def test_interleaved_grids_hold_every_token_once_and_start_at_the_corner():
    grids = interleaved(4, 6, 2)
    assert grids.tolist()[0] == [0, 2, 4, 12, 14, 16] and grids.tolist()[3] == [7, 9, 11, 19, 21, 23]
    assert sorted(grids.flatten().tolist()) == list(range(24))
    assert interleaved(2, 3, 1).tolist() == [[0, 1, 2, 3, 4, 5]]


def test_the_token_under_another_covers_the_same_pixels():
    for token in range(96):
        coarse = token_under(token, (8, 12), 1, (4, 6), 2)
        box, inside = token_box(coarse, (4, 6), 2), token_box(token, (8, 12), 1)
        assert box.top <= inside.top < box.top + 2 and box.left <= inside.left < box.left + 2
