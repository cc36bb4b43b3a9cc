"""Looking into a forward: what is seen is what ran, nothing changes, and nothing stays behind."""

import math

import pytest
import torch
from einops import einsum
from shared import random_model

from dit_lab.blocks import BLOCKS
from dit_lab.geometry import Box, token_at, token_box
from dit_lab.trace import TraceError, watch

INPUTS = (
    torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0)),
    torch.tensor([7, 900]),
    torch.tensor([1, 5]),
)


def hooks_left(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


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
