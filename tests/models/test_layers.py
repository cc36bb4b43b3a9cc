"""The layers, each against an independent computation of what it says it is."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dit_lab.models.layers import (
    MLP,
    Attend,
    Attention,
    CrossAttention,
    LabelEmbedding,
    LayerNorm,
    Linear,
    ModulatedNorm,
    Modulation,
    PlainNorm,
    TimestepEmbedding,
    attention_map,
    condition_tokens,
    modulate,
    position_table,
    small_normal,
    timestep_waves,
    zeros,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def numpy_position_table(dim, rows, columns):
    """The table written out position by position, after the definition: column half first, sines before cosines."""
    table = np.zeros((rows * columns, dim))
    quarter = dim // 4
    for row in range(rows):
        for column in range(columns):
            for i in range(quarter):
                omega = 1 / 10000 ** (i / quarter)
                place = table[row * columns + column]
                place[i], place[quarter + i] = math.sin(column * omega), math.cos(column * omega)
                place[2 * quarter + i], place[3 * quarter + i] = math.sin(row * omega), math.cos(row * omega)
    return table.astype(np.float32)


@pytest.mark.parametrize(("dim", "rows", "columns"), [(4, 1, 1), (16, 4, 4), (24, 3, 5), (1152, 2, 7)])
def test_the_position_table_is_the_written_out_one(dim, rows, columns):
    expected = torch.from_numpy(numpy_position_table(dim, rows, columns))
    torch.testing.assert_close(position_table(dim, rows, columns), expected, rtol=0, atol=1e-7)


def test_the_position_table_is_that_of_diffusers():
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    expected = embeddings.get_2d_sincos_pos_embed(1152, 16, base_size=16, output_type="pt")
    torch.testing.assert_close(position_table(1152, 16, 16), expected.float(), rtol=0, atol=1e-6)


def test_the_position_table_refuses_a_width_that_4_does_not_divide():
    with pytest.raises(ValueError, match="not 6"):
        position_table(6, 2, 2)


def test_timestep_waves_are_cosines_then_sines_without_a_frequency_shift():
    t = torch.tensor([0.0, 1.0, 37.5, 999.0])
    frequencies = np.exp(-math.log(10000) * np.arange(128) / 128)
    angles = t.numpy()[:, None].astype(np.float64) * frequencies
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    np.testing.assert_allclose(timestep_waves(t, 256).numpy(), expected, atol=1e-4)


def test_whole_and_fractional_timesteps_are_embedded_alike():
    embed = TimestepEmbedding(32)
    assert torch.equal(embed(torch.tensor([3, 700])), embed(torch.tensor([3.0, 700.0])))
    assert not torch.equal(embed(torch.tensor([3.5])), embed(torch.tensor([3.0])))


def test_attend_applies_exactly_the_attention_map():
    q, k, v = torch.randn(2, 3, 7, 8), torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8)
    weights = attention_map(q, k)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 7))
    torch.testing.assert_close(weights @ v, Attend()(q, k, v), rtol=1e-5, atol=1e-6)


def test_the_attention_map_is_fp32_whatever_the_model_runs_in():
    q, k = torch.randn(1, 2, 4, 8).bfloat16(), torch.randn(1, 2, 4, 8).bfloat16()
    assert attention_map(q, k).dtype == torch.float32


def test_a_pre_hook_on_attend_sees_the_q_and_k_that_ran_and_changes_nothing():
    attention, x, seen = Attention(16, 4), torch.randn(2, 9, 16), []
    plain = attention(x)
    handle = attention.attend.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    assert torch.equal(attention(x), plain)
    handle.remove()
    q, k, v = seen[0]
    assert q.shape == k.shape == v.shape == (2, 4, 9, 4)
    out = (attention_map(q, k) @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention.out(out), plain, rtol=1e-5, atol=1e-6)


def test_self_attention_is_torchs_multi_head_attention():
    ours, theirs, x = Attention(24, 3), torch.nn.MultiheadAttention(24, 3, batch_first=True), torch.randn(2, 6, 24)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.qkv.weight.data, torch.randn(72)
    ours.qkv.bias.data = theirs.in_proj_bias.data
    theirs.out_proj.weight.data, theirs.out_proj.bias.data = ours.out.weight.data, ours.out.bias.data
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0], rtol=1e-5, atol=1e-6)


def test_cross_attention_is_torchs_multi_head_attention_over_the_condition():
    ours, theirs = CrossAttention(24, 3), torch.nn.MultiheadAttention(24, 3, batch_first=True)
    x, cond = torch.randn(2, 6, 24), torch.randn(2, 2, 24)
    theirs.in_proj_weight.data = torch.cat([ours.q.weight.data, ours.kv.weight.data])
    theirs.in_proj_bias.data.zero_()
    theirs.out_proj.weight.data, theirs.out_proj.bias.data = ours.out.weight.data, ours.out.bias.data
    torch.testing.assert_close(ours(x, cond), theirs(x, cond, cond, need_weights=False)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", (Attention, CrossAttention))
def test_heads_must_divide_the_width(layer):
    with pytest.raises(ValueError, match="5 heads do not divide a width of 24"):
        layer(24, 5)
    with pytest.raises(ValueError, match="0 heads do not divide a width of 24"):
        layer(24, 0)


@pytest.mark.parametrize("layer", (Attention, CrossAttention))
@pytest.mark.parametrize("heads", (1, 24))
def test_from_one_head_to_one_a_feature_all_are_heads(heads, layer):
    x, cond = torch.randn(2, 3, 24), torch.randn(2, 2, 24)
    assert layer(24, heads)(*([x] if layer is Attention else [x, cond])).shape == x.shape


def test_condition_tokens_are_time_and_label_and_without_labels_the_null_row():
    time, label = TimestepEmbedding(8), LabelEmbedding(3, 8)
    t, y = torch.tensor([5.0, 900.0]), torch.tensor([2, 0])
    assert torch.equal(condition_tokens(time, label, t, y), torch.stack([time(t), label(y)], dim=1))
    null = condition_tokens(time, label, t)
    assert torch.equal(null[:, 1], label.weight[[3, 3]]) and torch.equal(null[:, 0], time(t))
    bare = LabelEmbedding(3, 8, null=False)
    assert torch.equal(condition_tokens(time, bare, t, y)[:, 1], bare.weight[y])
    with pytest.raises(ValueError, match="this model has no null label"):
        condition_tokens(time, bare, t)


def test_the_mlp_is_four_times_as_wide_inside_with_a_tanh_gelu():
    mlp, x = MLP(8), torch.randn(2, 3, 8)
    assert mlp.up.out_features == 32
    h = x @ mlp.up.weight.T + mlp.up.bias
    h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
    torch.testing.assert_close(mlp(x), h @ mlp.down.weight.T + mlp.down.bias, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dim", "inside"), [(28, 61), (44, 15), (96, 200)])
def test_a_ratio_taken_from_a_checkpoints_widths_gives_those_widths_back(dim, inside):
    assert MLP(dim, inside / dim).up.out_features == inside


def test_modulate_is_x_times_one_plus_scale_plus_shift():
    x, shift, scale = torch.randn(2, 5, 8), torch.randn(2, 1, 8), torch.randn(2, 1, 8)
    torch.testing.assert_close(modulate(x, shift, scale), x * (1 + scale) + shift)
    assert torch.equal(modulate(x, torch.zeros(2, 1, 8), torch.zeros(2, 1, 8)), x)


def test_modulation_sums_the_condition_tokens_and_gives_its_parts_in_order():
    modulation, cond = Modulation(4, ("shift", "scale", "gate"), init=small_normal), torch.randn(3, 2, 4)
    expected = modulation.linear(F.silu(cond[:, 0] + cond[:, 1])).chunk(3, dim=1)
    for part, vector in zip(modulation(cond), expected, strict=True):
        assert part.shape == (3, 1, 4)
        assert torch.equal(part[:, 0], vector)


def test_a_fresh_modulated_norm_is_the_plain_norm_without_weights():
    x, cond = torch.randn(2, 5, 8), torch.randn(2, 2, 8)
    expected = F.layer_norm(x, (8,), eps=1e-6)
    assert torch.equal(ModulatedNorm(8)(x, cond), expected)
    assert torch.equal(PlainNorm(8)(x, cond), expected)
    assert [name for name, _ in PlainNorm(8).named_parameters()] == ["weight", "bias"]
    assert not list(LayerNorm(8).parameters()) and LayerNorm(8).eps == 1e-6


def test_linears_are_born_xavier_small_normal_or_zero_with_a_zero_bias():
    xavier, normal, zero = Linear(300, 200), Linear(300, 200, init=small_normal), Linear(300, 200, init=zeros)
    bound = math.sqrt(6 / 500)
    assert xavier.weight.abs().max() <= bound
    assert xavier.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert normal.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not zero.weight.any()
    assert not any(layer.bias.any() for layer in (xavier, normal, zero))


def test_a_layer_can_be_born_again_and_keeps_its_own_initialisation():
    gate = Linear(8, 8, init=zeros)
    gate.weight.data.fill_(1)
    gate.reset_parameters()
    assert not gate.weight.any()


def test_the_label_table_has_a_null_row_and_small_numbers():
    table = LabelEmbedding(1000, 64)
    assert table.weight.shape == (1001, 64)
    assert table.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert table(torch.tensor([1000])).shape == (1, 64)


def test_the_timestep_linears_are_born_small():
    embed = TimestepEmbedding(512)
    for linear in (embed.up, embed.down):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.02)
