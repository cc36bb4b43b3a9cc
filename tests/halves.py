"""What a fast model is held to: which half precisions are tried here, and how far off their outputs may be."""

import torch

from dit_lab.models.packed import packs

HALVES = ["bf16", *["fp16"] * packs(torch.float16)]  # a CPU without kernels for it computes in bf16 all the same
FORWARD, SAMPLE = 0.01, 0.02  # relative errors of a forward and of a sampled x0 must be below
ROUNDING = 1e-5  # of what adds up in fp32 in another order


def inputs(model, batch=4):
    """Random `x: b c h w`, and timesteps and labels that differ, the null label among them."""
    torch.manual_seed(1)
    config = model.config
    x = torch.randn(batch, config.in_channels, *config.size)
    return x, torch.linspace(20, 980, batch).round(), torch.arange(batch).flip(0) + config.num_classes - batch + 1


def error(x, reference):
    """||x - reference|| / ||reference||."""
    return ((x - reference).norm() / reference.norm()).item()
