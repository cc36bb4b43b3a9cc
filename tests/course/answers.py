"""Answers as readers give them: right in another way than the solution, and wrong in a way that nobody foresaw."""

import math

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F

from dit_lab.course import EXERCISES


def each(vector):
    return vector[:, None, None, None]


def product_by_hand(betas):
    left, kept = [], 1.0
    for beta in betas:
        kept = kept * (1 - beta)
        left.append(kept)
    return torch.stack(left)


def noised_one_by_one(x0, eps, alpha_bar):
    return torch.stack([a**0.5 * x + (1 - a) ** 0.5 * e for x, e, a in zip(x0, eps, alpha_bar, strict=True)])


def patchify_by_convolution(x, patch):
    c = x.shape[1]
    kernel = torch.eye(c * patch**2).to(x).view(-1, c, patch, patch)
    return F.conv2d(x, kernel, stride=patch).flatten(2).transpose(1, 2)


def unpatchify_pixel_by_pixel(tokens, rows, patch):
    b, n, features = tokens.shape
    c, columns = features // patch**2, n // rows
    x = tokens.new_zeros(b, c, rows * patch, columns * patch)
    for row in range(rows):
        for column in range(columns):
            for p in range(patch):
                for q in range(patch):
                    at = (p * patch + q) * c
                    x[:, :, row * patch + p, column * patch + q] = tokens[:, row * columns + column, at : at + c]
    return x


def table_of_meta(dim, rows, columns):
    """As the original makes it, in numpy; and in float64, which a table may be."""
    grid = np.meshgrid(np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32))
    omega = 1 / 10000 ** (np.arange(dim // 4) / (dim / 4))
    angles = [np.einsum("m,d->md", place.reshape(-1), omega) for place in grid]
    return torch.from_numpy(np.concatenate([wave(a) for a in angles for wave in (np.sin, np.cos)], axis=1))


def heads_by_view(qkv, heads):
    b, n, width = qkv.shape
    q, k, v = qkv.view(b, n, 3, heads, width // 3 // heads).permute(2, 0, 3, 1, 4)
    return q, k, v


def attend_query_by_query(q, k, v):
    out = torch.zeros_like(q)
    for i in range(q.shape[2]):
        weights = torch.softmax((q[:, :, i, None] * k).sum(-1) / math.sqrt(q.shape[-1]), dim=-1)
        out[:, :, i] = (weights[..., None] * v).sum(2)
    return out


def waves_in_float64(t, width):
    angles = [[at * 10000 ** (-i / (width // 2)) for i in range(width // 2)] for at in t.tolist()]
    angles = torch.tensor(angles, dtype=torch.float64)
    return torch.cat([angles.cos(), angles.sin()], 1).to(torch.float32)


def labels_one_by_one(y, dropped, num_classes):
    return torch.tensor([num_classes if lost else label for label, lost in zip(y.tolist(), dropped, strict=True)])


def mean_by_eps(x0, x, beta, alpha_bar, alpha_bar_previous):
    """DDPM's other form, through the noise (equation 11)."""
    eps = (x - each(alpha_bar).sqrt() * x0) / (1 - each(alpha_bar)).sqrt()
    return (x - each(beta) / (1 - each(alpha_bar)).sqrt() * eps) / (1 - each(beta)).sqrt()


def polyfit(macs, loss):
    slope, height = np.polyfit(np.log(macs.double().numpy()), np.log(loss.double().numpy()), 1)
    return slope, np.exp(height)


def frechet_by_sqrtm(mean1, covariance1, mean2, covariance2):
    root = scipy.linalg.sqrtm(covariance1 @ covariance2).real
    return ((mean1 - mean2) ** 2).sum() + np.trace(covariance1 + covariance2 - 2 * root)


def grids_by_slices(x, factor):
    offsets = [(p, q) for p in range(factor) for q in range(factor)]
    return torch.stack([x[:, p::factor, q::factor].flatten(1, 2) for p, q in offsets], dim=1).flatten(0, 1)


def folded_by_asking(weight1, bias1, weight2, bias2):
    both = lambda x: F.linear(F.linear(x, weight1, bias1), weight2, bias2)
    bias = both(torch.zeros_like(weight1[:1]))[0]
    return (both(torch.eye(weight1.shape[1]).to(weight1)) - bias).T, bias


def share_mode_by_mode(x):
    power, low, all_of_it = torch.fft.fft2(x).abs().square().sum((0, 1)), 0.0, 0.0
    h, w = power.shape
    for row in range(h):
        for column in range(w):
            far = math.hypot(min(row, h - row) / h, min(column, w - column) / w)
            low += power[row, column].item() * (0 < far <= 0.25)
            all_of_it += power[row, column].item() * (far > 0)
    return low / all_of_it


def distance_pair_by_pair(map, rows, columns):
    far = torch.zeros(rows * columns, rows * columns).to(map)
    for i in range(rows * columns):
        for j in range(rows * columns):
            far[i, j] = math.dist(divmod(i, columns), divmod(j, columns))
    return (map * far).sum(-1).mean(-1)


def chained(halves):
    rolled = halves[-1]
    for half in reversed(halves[:-1]):
        rolled = rolled @ half
    return rolled


def heads_alone(z, weight, bias):
    """Each head through the whole projection, the others silent."""
    parts = []
    for head in range(z.shape[1]):
        alone = torch.zeros_like(z)
        alone[:, head] = z[:, head]
        parts.append(F.linear(alone.transpose(1, 2).flatten(2), weight) + bias / z.shape[1])
    return torch.stack(parts, dim=1)


def rotate_as_complex(x, angles):
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


RIGHT = {
    "alpha_bar": product_by_hand,
    "noised": noised_one_by_one,
    "log_snr": lambda alpha_bar: torch.log(alpha_bar) - torch.log1p(-alpha_bar),
    "patchify": patchify_by_convolution,
    "unpatchify": unpatchify_pixel_by_pixel,
    "position_table": table_of_meta,
    "split_heads": heads_by_view,
    "attend": attend_query_by_query,
    "layer_norm": lambda x: F.layer_norm(x, x.shape[-1:], eps=1e-6),
    "block_macs": lambda n, d, r: sum([3 * n * d * d, n * n * d, n * n * d, n * d * d, *[int(n * d * d * r)] * 2]),
    "timestep_waves": waves_in_float64,
    "drop_labels": labels_one_by_one,
    "modulate": lambda x, shift, scale: torch.addcmul(shift[:, None], x, 1 + scale.unsqueeze(1)),
    "gated_branch": lambda x, branch, gate: torch.stack([a + b * g for a, b, g in zip(x, branch, gate, strict=True)]),
    "simple_loss": lambda eps, predicted: F.mse_loss(predicted, eps, reduction="none").flatten(1).mean(1),
    "interpolated_log_variance": lambda v, low, high: each(low) + (v + 1) * each(high - low) / 2,
    "update_average": lambda average, weights, decay: tuple(
        torch.lerp(a, w, 1 - decay) for a, w in zip(average, weights, strict=True)
    ),
    "predicted_x0": lambda x, eps, a: x / each(a).sqrt() - (1 / each(a) - 1).sqrt() * eps,
    "ddim_step": lambda x0, eps, a: (each(a.double()) ** 0.5 * x0 + (1 - each(a.double())) ** 0.5 * eps).to(x0),
    "posterior_mean": mean_by_eps,
    "guided": lambda cond, uncond, scale: torch.lerp(uncond, cond, scale),
    "kl_to_standard_normal": lambda mean, log_variance: torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (log_variance / 2).exp()), torch.distributions.Normal(0.0, 1.0)
    ).sum((1, 2, 3)),
    "to_latents": lambda mean, shift, factor: factor * mean - factor * shift,
    "power_law": polyfit,
    "frechet_distance": frechet_by_sqrtm,
    "interleaved_tokens": grids_by_slices,
    "fold_linears": folded_by_asking,
    "low_frequency_share": share_mode_by_mode,
    "attention_entropy": lambda map: torch.distributions.Categorical(probs=map).entropy(),
    "attention_distance": distance_pair_by_pair,
    "rollout": lambda maps: chained([(map.mean(1) + torch.eye(map.shape[-1]).to(map)) / 2 for map in maps]),
    "head_contributions": heads_alone,
    "velocity": lambda x0, eps: (1.5 * eps - 0.5 * x0) - (0.5 * eps + 0.5 * x0),
    "rotate": rotate_as_complex,
    "rms_norm": lambda x: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6),
}


def of(name, *arguments):
    """The solution's result."""
    return EXERCISES[name].solution(*arguments)


# None of these is among the known mistakes, nor like one.
WRONG = {
    "alpha_bar": lambda betas: of("alpha_bar", betas.flip(0)),
    "noised": lambda x0, eps, a: of("noised", x0, eps, a**2),
    "log_snr": lambda a: torch.log(a / (1 + a)),
    "patchify": lambda x, patch: of("patchify", x, patch).flip(1),
    "unpatchify": lambda tokens, rows, patch: of("unpatchify", tokens, rows, patch).flip(-1),
    "position_table": lambda dim, rows, columns: 1 + of("position_table", dim, rows, columns),
    "split_heads": lambda qkv, heads: tuple(part.flip(1) for part in of("split_heads", qkv, heads)),
    "attend": lambda q, k, v: of("attend", q, k, v) * 0.9,
    "layer_norm": lambda x: of("layer_norm", x) / 2,
    "block_macs": lambda n, d, r: of("block_macs", n, d, r) + n * d,
    "timestep_waves": lambda t, width: of("timestep_waves", t + 1, width),
    "drop_labels": lambda y, dropped, num_classes: torch.where(dropped, num_classes + 1, y),
    "modulate": lambda x, shift, scale: x * (2 + scale[:, None]) + shift[:, None],
    "gated_branch": lambda x, branch, gate: x + gate[:, None].abs() * branch,
    "simple_loss": lambda eps, predicted: of("simple_loss", eps, predicted) ** 2,
    "interpolated_log_variance": lambda v, low, high: of("interpolated_log_variance", v**2, low, high),
    "update_average": lambda average, weights, decay: of("update_average", average, average[:1] + weights[1:], decay),
    "predicted_x0": lambda x, eps, a: of("predicted_x0", x, eps, a).clamp(-1, 1),
    "ddim_step": lambda x0, eps, a: of("ddim_step", x0, eps, a**0.5),
    "posterior_mean": lambda x0, x, beta, now, before: of("posterior_mean", x0, x, 2 * beta, now, before),
    "guided": lambda cond, uncond, scale: of("guided", cond, uncond, scale**2),
    "kl_to_standard_normal": lambda mean, log_variance: of("kl_to_standard_normal", 2 * mean, log_variance),
    "to_latents": lambda mean, shift, factor: (mean - shift) * factor**2,
    "power_law": lambda macs, loss: (of("power_law", macs, loss)[0], 1.0),
    "frechet_distance": lambda m1, c1, m2, c2: of("frechet_distance", m1, c1, m2, c1),
    "interleaved_tokens": lambda x, factor: of("interleaved_tokens", x, factor).flip(0),
    "fold_linears": lambda w1, b1, w2, b2: (w2 @ w1, w2 @ b1 - b2),
    "low_frequency_share": lambda x: 1 - of("low_frequency_share", x),
    "attention_entropy": lambda map: of("attention_entropy", map) / math.log(map.shape[-1]),
    "attention_distance": lambda map, rows, columns: of("attention_distance", map, rows, columns) / rows,
    "rollout": lambda maps: of("rollout", [map[:, :1] for map in maps]),
    "head_contributions": lambda z, weight, bias: of("head_contributions", z, weight, bias).flip(1),
    "velocity": lambda x0, eps: 2 * eps - x0,
    "rotate": lambda x, angles: of("rotate", x, 2 * angles),
    "rms_norm": lambda x: x / (x.abs().mean(-1, keepdim=True) + 1e-6),
}
