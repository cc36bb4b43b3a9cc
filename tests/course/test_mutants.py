"""Slips in the solutions themselves: each small change of a source is seen by its check, or changes nothing."""

import pytest
from mutants import mutants

from dit_lab.course import EXERCISES
from dit_lab.course.engine import Wrong, judge

ORDER = "a mean or a sum does not care in which order its axes are named"
EVEN = "a square does not care which is taken from which"
CENTRED = "the products with x, which is centred, sum to 0 over any constant of y"
SYMMETRIC = "a distance is the same both ways, and over exchanged axes"
LAST = "it is the only axis, or of two the second"
SAME_MAP = "all maps have one shape and dtype, and a square one's axes are equally long"
# What is computed is the same, whatever the source says.
EQUIVALENT = {
    "alpha_bar": {"return torch.cumprod(1 - betas, dim=-1)": LAST},
    "timestep_waves": {"return torch.cat([angles.cos(), angles.sin()], dim=1)": LAST},
    "simple_loss": {
        "return reduce((eps - predicted) ** 2, 'b h c w -> b', 'mean')": ORDER,
        "return reduce((eps - predicted) ** 2, 'b c w h -> b', 'mean')": ORDER,
        "return reduce((predicted - eps) ** 2, 'b c h w -> b', 'mean')": EVEN,
    },
    "kl_to_standard_normal": {
        "return reduce(mean ** 2 + log_variance.exp() - 1 - log_variance, 'b h c w -> b', 'sum') / 2": ORDER,
        "return reduce(mean ** 2 + log_variance.exp() - 1 - log_variance, 'b c w h -> b', 'sum') / 2": ORDER,
    },
    "power_law": {
        "x_centred, y_centred = (x - x.mean(), y + y.mean())": CENTRED,
        "x_centred, y_centred = (x - x.mean(), y)": CENTRED,
        "x_centred, y_centred = (x - x.mean(), y - y.sum())": CENTRED,
    },
    "frechet_distance": {
        "apart = np.sum((mean2 - mean1) ** 2)": EVEN,
        "roots = np.sqrt(np.linalg.eigvals(covariance1 @ covariance2).real.clip(min=-1))": "they are negative only by "
        "rounding, where features are fewer than they seem",
        "roots = np.sqrt(np.linalg.eigvals(covariance2 @ covariance1).real.clip(min=0))": "AB and BA have the same "
        "eigenvalues",
    },
    "low_frequency_share": {
        "low = (radius <= 0.25) & (radius > 0)": "both are asked either way",
        "rows, columns = (torch.fft.fftfreq(side, dtype=x.dtype) for side in x.shape[2:])": LAST,
    },
    "attention_distance": {
        "column, row = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing='ij')": SYMMETRIC,
        "places = rearrange([column, row], 'two h w -> (h w) two').to(map)": SYMMETRIC,
        "return einsum(map, far, 'b head j i, i j -> b head') / (rows * columns)": SYMMETRIC,
        "return einsum(map, far, 'b head i j, j i -> b head') / (rows * columns)": SYMMETRIC,
    },
    "rollout": {
        "rolled = torch.eye(maps[0].shape[-1]).to(maps[-1])": SAME_MAP,
        "rolled = torch.eye(maps[0].shape[-2]).to(maps[0])": SAME_MAP,
        "rolled = torch.eye(maps[-1].shape[-1]).to(maps[0])": SAME_MAP,
        "through = reduce(map, 'b head i j -> b i j', 'mean') + torch.eye(map.shape[-2]).to(map)": SAME_MAP,
    },
}
FEW = {"velocity": 4, "drop_labels": 0, "split_heads": 4, "unpatchify": 5}  # what these short lines have


@pytest.mark.parametrize("name", EXERCISES)
def test_every_slip_in_a_solution_is_seen_or_changes_nothing(name):
    exercise, passed, tries = EXERCISES[name], set(), 0
    for line, mutant in mutants(exercise.solution):
        tries += 1
        try:
            judge(exercise, mutant)
            passed.add(line)
        except Wrong:
            pass
    assert passed == {*EQUIVALENT.get(name, {})}
    assert tries >= FEW.get(name, 6)
