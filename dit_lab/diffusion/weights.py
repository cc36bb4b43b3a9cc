"""Weights on the paper's loss that later papers found to help."""

from collections.abc import Callable

import torch
from einops import rearrange


def min_snr_weight(x0_of: Callable, a, s, gamma: float):
    """min(SNR, gamma) on the error of x0, for what the network predicts instead: `a, s: b 1 1 1 -> b`.

    Min-SNR-gamma weights the squared error of x0 (2303.09556, equation 9); an error of the output is one of x0 times
    d x0 / d output, which `x0_of(x, output, a, s)` tells: it is linear.
    """
    slope = x0_of(torch.zeros_like(a), torch.ones_like(a), a, s)
    # (a / s)^2 slope^2 as one square, and gamma's share of it: neither overflows where s or a is nearly 0.
    return rearrange(torch.minimum((a / s * slope) ** 2, gamma * slope**2), "b 1 1 1 -> b")
