"""The course's solutions say what the library computes: one source of truth, derived twice."""

import math

import numpy as np
import pytest
import torch
from einops import rearrange, reduce, repeat
from shared import tiny_vae

from dit_lab.course import EXERCISES
from dit_lab.course.engine import judge
from dit_lab.course.exercise import Draw
from dit_lab.data.codecs import Autoencoder
from dit_lab.diffusion import PREDICTIONS, Diffusion
from dit_lab.diffusion.gaussian import gaussian_kl
from dit_lab.diffusion.sampling import Guidance, ddim_step
from dit_lab.diffusion.solvers import Now
from dit_lab.diffusion.solvers import log_snr as half_log_snr
from dit_lab.evaluation.metrics import frechet_of_moments
from dit_lab.inside import rollout
from dit_lab.inside.attention import Places, distances, entropies
from dit_lab.inside.endings import heads_through
from dit_lab.inside.spectrum import low_share, power_of, radius
from dit_lab.models import build, count
from dit_lab.models.conv_mlp import LinearPair
from dit_lab.models.grid_layers import DownsampledTokens, Grid
from dit_lab.models.grid_layers import rotate as turned
from dit_lab.models.layers import Attend, Attention, LayerNorm, modulate, position_table, timestep_waves
from dit_lab.training.state import TrainState

draw = Draw(0, torch.float64)
STEPS = torch.tensor([0, 17, 500, 999])
PROCESS = Diffusion.named()
close = torch.testing.assert_close


def solution(name):
    return EXERCISES[name].solution


def pictures(many: int, b=4, c=3, h=4, w=6):
    return [draw.normal(b, c, h, w) for _ in range(many)]


def at_steps(values):
    return torch.as_tensor(values)[STEPS]


def test_noise_is_the_diffusions():
    close(solution("alpha_bar")(torch.as_tensor(PROCESS.betas)), torch.as_tensor(PROCESS.alpha_bar))
    x0, eps = pictures(2)
    close(solution("noised")(x0, eps, at_steps(PROCESS.alpha_bar)), PROCESS.noised(x0, STEPS, eps))
    wanted = torch.tensor([2 * half_log_snr(PROCESS, i) for i in STEPS.tolist()], dtype=torch.float64)
    close(solution("log_snr")(at_steps(PROCESS.alpha_bar)), wanted)


def test_patches_are_the_models():
    model = build("DiT-nano/2", input_size=(4, 6), in_channels=3, learned_variance=False)
    model.patch_embedding = torch.nn.Identity()
    (x,) = pictures(1)
    close(solution("patchify")(x, 2), model.patchify(x))
    tokens = draw.normal(2, 6, 12)
    close(solution("unpatchify")(tokens, 2, 2), model.unpatchify(tokens, 2))
    judge(EXERCISES["position_table"], position_table)


def test_attention_is_the_layers():
    x, layer = draw.normal(2, 5, 12), Attention(12, 3).double()
    q, k, v = solution("split_heads")(layer.qkv(x), 3)
    close(layer.out(rearrange(solution("attend")(q, k, v), "b head n e -> b n (head e)")), layer(x))
    judge(EXERCISES["attend"], Attend())
    judge(EXERCISES["layer_norm"], lambda x: LayerNorm(x.shape[-1])(x))


@pytest.mark.parametrize(("preset", "tokens"), [("DiT-S/4", 64), ("DiT-XL/2", 256)])
def test_a_blocks_macs_are_the_counts(preset, tokens):
    table = count(preset)
    depth, dim = {"DiT-S/4": (12, 384), "DiT-XL/2": (28, 1152)}[preset]
    both = table["blocks.*.attn"].macs + table["blocks.*.mlp"].macs
    assert solution("block_macs")(tokens, dim, 4.0) * depth == both


def test_conditioning_is_the_layers():
    judge(EXERCISES["timestep_waves"], timestep_waves)
    x, (shift, scale) = draw.normal(2, 5, 3), draw.normal(2, 2, 3)
    close(solution("modulate")(x, shift, scale), modulate(x, shift[:, None], scale[:, None]))
    model = build("DiT-nano/4", depth=1).eval()
    block, x, cond = model.blocks[0], torch.randn(2, 5, model.config.dim), torch.zeros(2, 2, model.config.dim)
    for parameter in block.modulation.parameters():
        torch.nn.init.normal_(parameter)
    shift, scale, gate, *of_mlp = (vector[:, 0] for vector in block.modulation(cond))
    with torch.no_grad():
        middle = solution("gated_branch")(
            x, block.attn(solution("modulate")(solution("layer_norm")(x), shift, scale)), gate
        )
        last = solution("modulate")(solution("layer_norm")(middle), *of_mlp[:2])
        close(solution("gated_branch")(middle, block.mlp(last), of_mlp[2]), block(x, cond))


def test_training_is_the_librarys():
    x0, eps, predicted, v = pictures(4)
    network = lambda x, t, y: torch.cat([predicted, v], dim=1)
    losses = PROCESS.losses(network, x0, STEPS, None, eps)
    close(solution("simple_loss")(eps, predicted), losses.mse)
    low, high = at_steps(PROCESS.log_posterior_variance), at_steps(np.log(PROCESS.betas))
    close(solution("interpolated_log_variance")(v, low, high), PROCESS.log_variance(v, STEPS, x0))
    state = TrainState.fresh(build("DiT-nano/4"), lr=1e-3, decays=(0.9,), ema_warmup=False)
    before = [tensor.clone() for tensor in state.averages[0.9].values()]
    weights = [parameter.data.normal_() for parameter in state.model.parameters()]
    state.average()
    close(solution("update_average")(before, weights, 0.9), list(state.averages[0.9].values()))


def test_sampling_is_the_samplers():
    x, eps, x0 = pictures(3)
    alpha_bar = at_steps(PROCESS.alpha_bar)
    a, s = (rearrange(level, "b -> b 1 1 1").sqrt() for level in (alpha_bar, 1 - alpha_bar))
    close(solution("predicted_x0")(x, eps, alpha_bar), PREDICTIONS["eps"].x0(x, eps, a, s))
    following = repeat(torch.tensor(PROCESS.alpha_bar[499]), "-> b", b=4)
    step = ddim_step(PROCESS, Now(500, x, x0, eps, None), (), None, torch.zeros_like(x), 0.0)
    close(solution("ddim_step")(x0, eps, following), step)
    numbers = map(at_steps, (PROCESS.betas, PROCESS.alpha_bar, PROCESS.alpha_bar_previous))
    close(solution("posterior_mean")(x0, x, *numbers), PROCESS.posterior_mean(x0, x, STEPS))
    close(solution("guided")(x, eps, 4.0), Guidance(4.0).mix(x, eps))


def test_latents_are_the_vaes():
    mean, log_variance = pictures(2)
    zero = torch.zeros_like(mean)
    wanted = reduce(gaussian_kl(mean, log_variance, zero, zero), "b c h w -> b", "sum")
    close(solution("kl_to_standard_normal")(mean, log_variance), wanted)
    vae = tiny_vae()
    vae.register_to_config(scaling_factor=0.18215, shift_factor=-0.7)
    images = torch.rand(2, 3, 8, 12)
    with torch.no_grad():
        encoded = vae.encode(images).latent_dist.mean
    close(solution("to_latents")(encoded, -0.7, 0.18215), Autoencoder(vae).encode(images))


def test_the_frechet_distance_is_the_evaluations():
    arguments = EXERCISES["frechet_distance"].probes()[0].arguments
    assert math.isclose(
        solution("frechet_distance")(*arguments), frechet_of_moments(*map(torch.from_numpy, arguments)), rel_tol=1e-9
    )


def test_udit_is_the_grids():
    x, grid = draw.normal(2, 4, 6, 5), Grid()
    grid.enter(4, 6)
    sampler = DownsampledTokens(5, grid).double()
    torch.nn.init.zeros_(sampler.conv.weight)  # its shortcut alone
    close(solution("interleaved_tokens")(x, 2), sampler.split(rearrange(x, "b h w d -> b (h w) d")))
    pair = LinearPair(3, 5, 4)
    torch.nn.init.normal_(pair.first.bias), torch.nn.init.normal_(pair.second.bias)
    one, two = pair.first, pair.second
    close(solution("fold_linears")(one.weight, one.bias, two.weight, two.bias), pair.folded())
    (x,) = pictures(1, h=8, w=6)
    power = power_of(rearrange(x, "b d h w -> b (h w) d"), (8, 6))
    assert math.isclose(solution("low_frequency_share")(x), low_share(power, radius((8, 6))), rel_tol=1e-6)


def test_inside_is_insides():
    scores = draw.normal(2, 3, 6, 6)
    maps = scores.softmax(-1)
    close(solution("attention_entropy")(maps).sum((0, 2)), entropies(scores, maps))
    grid = torch.cartesian_prod(torch.arange(2), torch.arange(3)).double()
    far = distances(Places(grid, grid[None], torch.arange(6)), 0, 6)
    close(solution("attention_distance")(maps, 2, 3), (maps * far).sum(-1).mean(-1))
    judge(EXERCISES["rollout"], rollout)
    z, weight, bias, rows = draw.normal(1, 3, 5, 4), draw.normal(12, 12), draw.normal(12), torch.eye(12).double()
    ours = solution("head_contributions")(z, weight, bias)
    joined = rearrange(z, "b head n e -> b n (head e)")
    close(ours.sum(1), torch.nn.functional.linear(joined, weight, bias))
    theirs = heads_through(joined, [weight], rows[None], 3)  # without the bias, which is a part of its own there
    close(ours - bias / 3, theirs)


def test_what_came_next_is_there_too():
    x0, eps = pictures(2)
    close(solution("velocity")(x0, eps), PREDICTIONS["velocity"].target(x0, eps, None, None))
    x, angles = draw.normal(2, 3, 5, 4), draw.uniform(5, 2, high=3)
    table = repeat(torch.polar(torch.ones_like(angles), angles), "n pair -> n (head pair)", head=3)
    theirs = turned(rearrange(x, "b head n e -> b n (head e)"), table)
    close(solution("rotate")(x, angles), rearrange(theirs, "b n (head e) -> b head n e", head=3))
    judge(EXERCISES["rms_norm"], lambda x: torch.nn.functional.rms_norm(x, x.shape[-1:], eps=1e-6))
