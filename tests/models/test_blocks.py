"""The conditioning blocks: what is true of every one in the registry, and what sets each apart."""

import math

import pytest
import torch
import torch.nn.functional as F

from dit_lab.models import BLOCKS, Block, build
from dit_lab.models.blocks.adaln import AdaLN
from dit_lab.models.blocks.adaln_zero import AdaLNZero
from dit_lab.models.blocks.cross_attention import CrossAttentionBlock
from dit_lab.models.blocks.in_context import InContext
from dit_lab.models.layers import MLP, Attention, LayerNorm, ModulatedNorm, PlainNorm

DIM, HEADS = 32, 4


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def tokens():
    """Image tokens `b n d` and condition tokens `b k d`."""
    return torch.randn(2, 6, DIM), torch.randn(2, 2, DIM)


def fresh(block: type[Block]) -> Block:
    return block(DIM, HEADS, Attention(DIM, HEADS), MLP(DIM))


def stirred(module):
    """The same module with every number moved, so that nothing that is born zero hides a mistake."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return module


def test_the_papers_four_blocks_are_registered():
    assert {"in_context", "cross_attention", "adaln", "adaln_zero"} <= set(BLOCKS)


@pytest.mark.parametrize(
    ("name", "title", "readers", "parts"),
    [
        ("in_context", "in-context", (), None),
        ("cross_attention", "cross-attention", ("cross.kv",), None),
        ("adaln", "adaLN", ("modulation",), "shift_attn scale_attn shift_mlp scale_mlp"),
        ("adaln_zero", "adaLN-Zero", ("modulation",), "shift_attn scale_attn gate_attn shift_mlp scale_mlp gate_mlp"),
    ],
)
def test_a_block_is_named_looked_into_and_made_ahead_by_these_words(name, title, readers, parts):
    block = fresh(BLOCKS[name])
    assert (block.name, block.title, block.readers) == (name, title, readers)
    assert all([*block.get_submodule(reader).parameters()] for reader in readers)
    assert (" ".join(block.modulation.parts) if block.modulated else None) == parts
    if block.modulated:
        assert block.final_norm(DIM).modulation.parts == ("shift", "scale")


def test_a_fresh_adaln_zero_block_is_exactly_the_identity(tokens):
    x, cond = tokens
    assert torch.equal(fresh(AdaLNZero)(x, cond), x)


def test_a_fresh_adaln_zero_block_learns_through_its_gates(tokens):
    block = fresh(AdaLNZero)
    block(*tokens).square().sum().backward()
    shift_attn, scale_attn, gate_attn, *_, gate_mlp = block.modulation.linear.weight.grad.chunk(6)
    assert gate_attn.any() and gate_mlp.any()
    assert not shift_attn.any() and not scale_attn.any()


def test_plain_adaln_is_born_with_shifts_and_scales_as_other_linears_are_and_hears_the_condition(tokens):
    block, (x, cond) = fresh(AdaLN), tokens
    weight, bound = block.modulation.linear.weight.detach(), math.sqrt(6 / (DIM + 4 * DIM))  # xavier's
    assert 0.95 * bound < weight.abs().max() <= bound and weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert all(part.any() for part in block.modulation(cond)) and not block.modulation.linear.bias.any()
    assert not torch.allclose(block(x, cond), block(x, cond.flip(-1)), atol=1e-3)


def test_adaln_zero_is_born_with_every_gate_shift_and_scale_zero_and_the_rest_not(tokens):
    block, (_, cond) = fresh(AdaLNZero), tokens
    parts = dict(zip(block.modulation.parts, block.modulation(cond), strict=True))
    assert {name for name in parts if name.startswith("gate")} == {"gate_attn", "gate_mlp"} and len(parts) == 6
    assert not any(part.any() for part in parts.values())
    assert all(linear.weight.any() for linear in (block.attn.qkv, block.attn.out, block.mlp.up, block.mlp.down))


@pytest.mark.parametrize("name", sorted({*BLOCKS} - {"adaln_zero"}))
def test_the_branches_of_a_block_without_gates_are_open_at_birth(name, tokens):
    x, cond = tokens
    block = fresh(BLOCKS[name])
    assert (block.exit(block(block.enter(x, cond), cond), cond) - x).abs().mean() > 0.1


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_keeps_the_shape_and_hears_the_condition(name, tokens):
    x, cond = tokens
    block = stirred(fresh(BLOCKS[name]))

    def through(cond):
        entered = block.enter(x, cond)
        out = block(entered, cond)
        assert out.shape == entered.shape
        return block.exit(out, cond)

    assert through(cond).shape == x.shape
    assert not torch.allclose(through(cond), through(cond.flip(-1)))


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("k", (1, 2, 5))
def test_exit_undoes_enter_for_any_number_of_condition_tokens(name, k):
    block, x, cond = BLOCKS[name], torch.randn(2, 6, DIM), torch.randn(2, k, DIM)
    assert torch.equal(block.exit(block.enter(x, cond), cond), x)


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_treats_the_samples_of_a_batch_apart(name, tokens):
    x, cond = tokens
    block = stirred(fresh(BLOCKS[name]))
    together = block(block.enter(x, cond), cond)
    alone = block(block.enter(x[:1], cond[:1]), cond[:1])
    torch.testing.assert_close(together[:1], alone, rtol=1e-5, atol=1e-5)


def test_in_context_appends_the_condition_after_the_image_tokens(tokens):
    x, cond = tokens
    assert torch.equal(InContext.enter(x, cond), torch.cat([x, cond], dim=1))


def test_in_context_is_a_plain_pre_norm_transformer_block(tokens):
    block, (x, cond) = stirred(fresh(InContext)), tokens
    h = x + block.attn(block.norm_attn(x))
    assert torch.equal(block(x, cond), h + block.mlp(block.norm_mlp(h)))


def test_cross_attention_stands_between_self_attention_and_the_mlp_with_a_norm_of_its_own(tokens):
    block, (x, cond) = stirred(fresh(CrossAttentionBlock)), tokens
    h = x + block.attn(block.norm_attn(x))
    h = h + block.cross(block.norm_cross(h), cond)
    assert torch.equal(block(x, cond), h + block.mlp(block.norm_mlp(h)))


def test_adaln_shifts_and_scales_in_the_order_of_the_paper_without_gates(tokens):
    block, (x, cond) = stirred(fresh(AdaLN)), tokens
    vectors = block.modulation.linear(F.silu(cond.sum(1)))
    shift1, scale1, shift2, scale2 = (vector[:, None] for vector in vectors.chunk(4, dim=1))
    h = x + block.attn(F.layer_norm(x, (DIM,), eps=1e-6) * (1 + scale1) + shift1)
    expected = h + block.mlp(F.layer_norm(h, (DIM,), eps=1e-6) * (1 + scale2) + shift2)
    torch.testing.assert_close(block(x, cond), expected, rtol=1e-5, atol=1e-5)


def test_adaln_zero_shifts_scales_and_gates_in_the_order_of_the_paper(tokens):
    block, (x, cond) = stirred(fresh(AdaLNZero)), tokens
    vectors = block.modulation.linear(F.silu(cond.sum(1)))
    shift1, scale1, gate1, shift2, scale2, gate2 = (vector[:, None] for vector in vectors.chunk(6, dim=1))
    h = x + gate1 * block.attn(F.layer_norm(x, (DIM,), eps=1e-6) * (1 + scale1) + shift1)
    expected = h + gate2 * block.mlp(F.layer_norm(h, (DIM,), eps=1e-6) * (1 + scale2) + shift2)
    torch.testing.assert_close(block(x, cond), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", BLOCKS)
def test_the_final_norm_is_modulated_exactly_where_the_block_norms_are(name):
    block = BLOCKS[name]
    assert isinstance(block.final_norm(DIM), ModulatedNorm if block.modulated else PlainNorm)
    norms = [module for module in fresh(block).modules() if isinstance(module, LayerNorm)]
    assert {norm.elementwise_affine for norm in norms} <= {not block.modulated}


@pytest.fixture
def clean_registry():
    before = dict(BLOCKS)
    yield
    BLOCKS.clear()
    BLOCKS.update(before)


def test_a_fifth_block_is_one_class_and_no_other_edit(clean_registry):
    class Added(Block):
        """Add the summed condition to every token before the MLP."""

        name = "added"
        title = "added"

        def forward(self, x, cond):
            x = x + self.attn(x)
            return x + self.mlp(x + cond.sum(1, keepdim=True))

    model = build("DiT-nano/4", block="added", num_classes=3)
    assert all(type(block) is Added for block in model.blocks)
    stirred(model)
    x, t = torch.randn(2, 4, 32, 32), torch.tensor([5, 900])
    out = model(x, t, torch.tensor([0, 1]))
    assert out.shape == (2, 8, 32, 32)
    assert not torch.allclose(out, model(x, t, torch.tensor([2, 1])))


def test_a_class_between_does_not_take_its_parents_place_in_the_registry(clean_registry):
    class Variant(AdaLNZero):
        """A subclass that names itself nothing new."""

    assert BLOCKS["adaln_zero"] is AdaLNZero


def test_an_unknown_block_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="no conditioning block 'film'; there are .*adaln_zero"):
        build("DiT-nano/4", block="film")
