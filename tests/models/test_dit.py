"""The whole model: identity at birth, parity with diffusers' DiT, and every shape it promises to take."""

import pytest
import torch
from einops import rearrange

from dit_lab.models import BLOCKS, DiTConfig, build, preset
from dit_lab.models.layers import Attend, position_table

SMALL = dict(input_size=8, patch_size=2, dim=32, depth=2, heads=4, num_classes=10)
T = torch.tensor([3, 900])
Y = torch.tensor([0, 7])


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def small(**changes):
    return build(DiTConfig(**(SMALL | changes)))


def stirred(model):
    """The same model with every number moved, so that nothing that is born zero hides a mistake."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def pictures(h=8, w=8, channels=4):
    return torch.randn(2, channels, h, w)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_fresh_model_outputs_exact_zeros(block):
    out = small(block=block)(pictures(), T, Y)
    assert torch.equal(out, torch.zeros(2, 8, 8, 8))


def test_the_blocks_of_a_fresh_adaln_zero_model_are_the_identity():
    model, seen = small(), []
    model.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model.final_norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(pictures(), T, Y)
    assert torch.equal(*seen)


def copied_into_diffusers(ours, theirs):
    """Copy our weights by a key map of its own, and correct what diffusers does otherwise than the original."""
    p = ours.config.patch_size
    sources = {"pos_embed.proj": ours.patch_embedding, "proj_out_2": ours.out}
    sources["proj_out_1"] = ours.final_norm.modulation.linear
    tensors = {}
    for i, block in enumerate(ours.blocks):
        prefix = f"transformer_blocks.{i}."
        embedder = prefix + "norm1.emb.timestep_embedder."
        sources[embedder + "linear_1"], sources[embedder + "linear_2"] = (
            ours.time_embedding.up,
            ours.time_embedding.down,
        )
        tensors[prefix + "norm1.emb.class_embedder.embedding_table.weight"] = ours.label_embedding.weight
        sources[prefix + "norm1.linear"] = block.modulation.linear
        for kind in ("weight", "bias"):
            for name, part in zip("qkv", getattr(block.attn.qkv, kind).chunk(3), strict=True):
                tensors[f"{prefix}attn1.to_{name}.{kind}"] = part
        sources[prefix + "attn1.to_out.0"] = block.attn.out
        sources[prefix + "ff.net.0.proj"], sources[prefix + "ff.net.2"] = block.mlp.up, block.mlp.down
    for name, linear in sources.items():
        tensors[name + ".weight"], tensors[name + ".bias"] = linear.weight, linear.bias
    weight = tensors["pos_embed.proj.weight"]
    tensors["pos_embed.proj.weight"] = rearrange(weight, "d (c p q) -> d c p q", p=p, q=p)
    missing, unexpected = theirs.load_state_dict(tensors, strict=False)
    assert not unexpected and set(missing) <= {"pos_embed.pos_embed"}
    for block in theirs.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
        block.norm3.eps = 1e-6
    return theirs.eval()


@pytest.mark.parametrize("patch_size", (1, 2, 4))
@torch.no_grad()
def test_diffusers_dit_with_our_weights_gives_our_output(patch_size):
    diffusers = pytest.importorskip("diffusers")
    ours = stirred(small(patch_size=patch_size))
    theirs = diffusers.DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        patch_size=patch_size,
        num_embeds_ada_norm=10,
    )
    copied_into_diffusers(ours, theirs)
    x, y = pictures(), torch.tensor([3, 10])
    expected = theirs(x, timestep=T, class_labels=y).sample
    assert expected.std() > 0.1
    torch.testing.assert_close(ours(x, T, y), expected, rtol=1e-5, atol=1e-5)
    theirs.transformer_blocks[0].norm1.emb.time_proj.downscale_freq_shift = 1
    assert not torch.allclose(theirs(x, timestep=T, class_labels=y).sample, expected, atol=1e-4)


def test_patch_embedding_is_a_convolution_with_kernel_and_stride_p():
    model, x = small(input_size=(8, 12), patch_size=4), pictures(8, 12)
    kernel = model.patch_embedding.weight.reshape(32, 4, 4, 4)
    expected = torch.nn.functional.conv2d(x, kernel, model.patch_embedding.bias, stride=4)
    torch.testing.assert_close(model.patchify(x), expected.flatten(2).mT, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("h", "w"), [(8, 8), (4, 12)])
def test_unpatchify_undoes_patchify(h, w):
    model, x = small(input_size=(h, w), dim=16, learned_variance=False), pictures(h, w)
    channels_last = rearrange(torch.eye(16), "(c p q) d -> (p q c) d", p=2, q=2)
    model.patch_embedding.weight.data, model.patch_embedding.bias.data = torch.eye(16), torch.zeros(16)
    tokens = model.patchify(x) @ channels_last.T
    assert torch.equal(model.unpatchify(tokens, h // 2), x)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(("h", "w"), [(8, 8), (8, 12), (16, 4)])
def test_every_block_takes_square_and_oblong_inputs(block, h, w):
    out = stirred(small(block=block, input_size=(h, w)))(pictures(h, w), T, Y)
    assert out.shape == (2, 8, h, w)
    assert out.isfinite().all() and out.std() > 0


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("name", ("DiT-S/8", "DiT-B/4", "DiT-L/2", "DiT-XL/2", "DiT-tiny/4", "DiT-nano/2"))
def test_every_block_builds_and_runs_at_every_size_on_the_meta_device(name, block):
    with torch.device("meta"):
        model = build(name, block=block, depth=2)
        out = model(torch.empty(1, 4, 32, 32), torch.zeros(1), torch.zeros(1, dtype=torch.long))
    assert out.shape == (1, 8, 32, 32) and out.is_meta
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}


def test_another_size_than_the_trained_one_gets_the_table_of_that_size():
    trained, larger = stirred(small()), small(input_size=(12, 16))
    assert torch.equal(trained.positions_of(6, 8), position_table(32, 6, 8))
    weights = {name: tensor for name, tensor in trained.state_dict().items() if name != "positions"}
    larger.load_state_dict(weights, strict=False)
    x = pictures(12, 16)
    assert torch.equal(trained(x, T, Y), larger(x, T, Y))
    assert trained.positions.shape == (16, 32)


def test_the_position_table_is_saved_but_not_trained():
    model = small()
    assert "positions" in model.state_dict()
    assert "positions" not in dict(model.named_parameters())


def test_labels_default_to_the_null_label():
    model, x = stirred(small()), pictures()
    assert torch.equal(model(x, T), model(x, T, torch.tensor([10, 10])))
    assert not torch.equal(model(x, T), model(x, T, Y))


def test_an_unconditional_model_has_the_null_label_alone():
    model, x = stirred(small(num_classes=0)), pictures()
    assert model.label_embedding.weight.shape == (1, 32)
    assert torch.equal(model(x, T), model(x, T, torch.tensor([0, 0])))


def test_without_learned_variance_the_output_has_the_inputs_channels():
    assert stirred(small(learned_variance=False, in_channels=1))(pictures(channels=1), T, Y).shape == (2, 1, 8, 8)


def test_the_condition_is_the_time_token_and_the_label_token():
    model = small()
    cond = model.condition(T, Y)
    assert cond.shape == (2, 2, 32)
    assert torch.equal(cond[:, 0], model.time_embedding(T)) and torch.equal(cond[:, 1], model.label_embedding(Y))


@pytest.mark.parametrize("block", BLOCKS)
@torch.no_grad()
def test_bf16_weights_give_a_bf16_output_near_the_fp32_one(block):
    model, x = stirred(small(block=block)), pictures()
    expected = model(x, T, Y)
    out = model.to(torch.bfloat16)(x.bfloat16(), T, Y)
    assert out.dtype == torch.bfloat16
    assert (out.float() - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("block", BLOCKS)
def test_bf16_autocast_trains(block):
    model, x = stirred(small(block=block)), pictures()
    expected = model(x, T, Y)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x, T, Y)
    assert (out.float() - expected).norm() < 0.05 * expected.norm()
    out.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_every_block_has_one_attend_for_the_trace_to_look_into():
    model = small(depth=3)
    assert sum(isinstance(module, Attend) for module in model.modules()) == 3
    assert sum(isinstance(module, Attend) for module in small(depth=3, block="cross_attention").modules()) == 6


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 4, 7, 8), (2, 4, 8, 9), (4, 8, 8)])
def test_an_input_that_does_not_fit_is_refused_with_both_shapes(shape):
    with pytest.raises(ValueError, match=r"takes b 4 h w .* patch size 2, not \(") as refusal:
        small()(torch.randn(shape), T, Y)
    assert str(shape) in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(patch_size=0), "patch_size must be a whole number of at least 1, not 0"),
        (dict(patch_size=2.0), "patch_size must be a whole number"),
        (dict(in_channels=0), "in_channels must be"),
        (dict(depth=0), "depth must be"),
        (dict(depth=True), "depth must be"),
        (dict(heads=0), "heads must be"),
        (dict(heads=5), "5 heads do not divide a width of 32"),
        (dict(num_classes=-1), "num_classes must be a whole number of at least 0, not -1"),
        (dict(dim=30, heads=2), "multiple of 4"),
        (dict(input_size=9), "input_size 9 must be"),
        (dict(input_size=0), "input_size 0 must be"),
        (dict(input_size=(8, 8, 8)), "one or two"),
        (dict(input_size=(8, 7)), "multiples of patch_size 2"),
        (dict(input_size=8.0), "input_size 8.0 must be"),
        (dict(input_size=None), "input_size None must be"),
        (dict(mlp_ratio=0), "mlp_ratio must be"),
        (dict(mlp_ratio=float("nan")), "mlp_ratio must be"),
        (dict(mlp_ratio="4"), "mlp_ratio must be"),
    ],
)
def test_an_impossible_config_is_one_clear_value_error(change, said):
    with pytest.raises(ValueError) as refusal:
        DiTConfig(**(SMALL | change))
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_config_of_nothing_but_defaults_is_the_papers_largest_and_is_called_dit():
    assert DiTConfig() == preset("DiT-XL/2") and DiTConfig().as_json()["architecture"] == "DiT"


def test_the_smallest_model_there_is_is_one():
    config = DiTConfig(dim=4, heads=1, depth=1, patch_size=1, input_size=1, in_channels=1, num_classes=0)
    assert build(config)(torch.zeros(1, 1, 1, 1), torch.tensor([5])).shape == (1, 2, 1, 1)


def test_an_oblong_has_rows_and_columns_in_this_order_and_a_table_of_them():
    config = DiTConfig(**SMALL | dict(input_size=(8, 24), patch_size=4))
    assert config.grid == (2, 6)
    model = build(config)
    assert torch.equal(model.positions, position_table(config.dim, 2, 6))
    assert model.positions_of(2, 6) is model.positions and model.positions_of(6, 2).shape == model.positions.shape


def test_there_may_be_as_many_tokens_and_numbers_of_positions_as_are_said_and_no_more():
    wide, many = dict(dim=256, heads=1, patch_size=1), dict(dim=4, heads=1, patch_size=1)
    assert DiTConfig(input_size=(512, 256), **wide).grid == (512, 256)  # 2 ** 25 numbers
    told = "512 x 260 tokens of dim 256 make a position table of more than 33554432 numbers"
    with pytest.raises(ValueError, match=f"^{told}$"):
        DiTConfig(input_size=(512, 260), **wide)
    assert DiTConfig(input_size=(1024, 256), **many).grid == (1024, 256)  # 2 ** 18 tokens
    with pytest.raises(ValueError, match="^input_size 1024 x 260 makes 1024 x 260 tokens, the most are 262144$"):
        DiTConfig(input_size=(1024, 260), **many)


def test_every_block_is_given_the_condition():
    model = small()
    given = model.block_conditions(T, Y)
    assert len(given) == len(model.blocks) and all(torch.equal(each, model.condition(T, Y)) for each in given)


def test_a_square_has_one_name():
    assert DiTConfig(input_size=28, patch_size=4) == DiTConfig(input_size=(28, 28), patch_size=4)
    assert DiTConfig(input_size=[28, 28], patch_size=4).input_size == 28
    assert DiTConfig(input_size=(28, 32), patch_size=4).input_size == (28, 32)


def test_a_config_from_json_equals_the_one_that_was_written():
    assert DiTConfig(input_size=[8, 16]) == DiTConfig(input_size=(8, 16))
    assert hash(DiTConfig(input_size=[8, 16])) == hash(DiTConfig(input_size=(8, 16)))
