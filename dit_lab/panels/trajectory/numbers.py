"""A run in numbers by step, of one sample: how large its tensors are, signal to noise, the moves of x0, spectra."""

import torch
from einops import reduce

from dit_lab.inside import TraceError, path_spectra, signal_to_noise, x0_changes
from dit_lab.inside.path import root_mean_square
from dit_lab.panels.opened import Opened
from dit_lab.panels.packing import pack


def numbers(opened: Opened, sample: int) -> dict:
    """What the curves of a sample are drawn from; `snr` and `spectra` are None where the process is not known."""
    return opened.once(("numbers", sample), lambda: measured(opened.trajectory, sample))


def measured(run, sample: int) -> dict:
    """`norms: kind step` (of x_t, x0 and eps) and `change: step` (from each step to the next) are root mean squares."""
    walked = torch.stack([root_mean_square(x[:, sample], "s c h w -> s") for x in (run.x, run.x0, run.eps)])
    told = {"sample": sample, "norms": pack(walked), "change": pack(x0_changes(run, sample=sample).whole)}
    try:
        return told | {"snr": pack(signal_to_noise(run)), "spectra": spectra(run, sample)}
    except TraceError:
        return told | {"snr": None, "spectra": None}


def spectra(run, sample: int) -> dict | None:
    """The power of x_t and x0 by frequency, `step f`, the mean over channels, and the process's noise, `step`.

    None where pictures are too small for a wave.
    """
    if min(run.x.shape[-2:]) < 2:
        return None
    found = path_spectra(run, sample=sample)
    x, x0 = (reduce(power, "step c f -> step f", "mean") for power in (found.x, found.x0))
    return {"frequency": pack(found.frequency), "x": pack(x), "x0": pack(x0), "noise": pack(found.noise)}
