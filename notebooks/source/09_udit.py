# %% [markdown]
# # 9. U-DiT
#
# **Aim:** Follow U-DiT's argument from a plain DiT to a U-shaped one whose attention compares a quarter of the pairs,
# and test it.
#
# **Before:** attention and MACs (notebook 3); positions by turning (RoPE) are explained in notebook 12. Frequencies as
# in notebook 1. What is needed is said again.
#
# **Time:** about 5 minutes of computing on two CPU cores; an hour with the exercises.
#
# **Exercises:** `interleaved_tokens`, `low_frequency_share`, `fold_linears`
#
# The papers:
#
# * U-DiT: Tian et al. 2024, *U-DiTs: Downsample Tokens in U-Shaped Diffusion Transformers*, [arXiv
#   2405.02730](https://arxiv.org/abs/2405.02730)
# * DiT: Peebles & Xie 2022, [arXiv 2212.09748](https://arxiv.org/abs/2212.09748)
# * re-parameterisation: Ding et al. 2021, *RepVGG*, [arXiv 2101.03697](https://arxiv.org/abs/2101.03697)

# %%
import os
from copy import deepcopy

import numpy as np
import torch
from einops import rearrange
from IPython.display import display
from matplotlib.figure import Figure
from torch import nn

import dit_lab
from dit_lab.course import check, predict, reveal
from dit_lab.diffusion import loss_by_timestep
from dit_lab.experiments.papers import UDIT_LADDER
from dit_lab.inside.plots import BLUE, CATEGORIES, GREEN, ORANGE
from dit_lab.models import build, count, ladder, pick_device, preset, taking
from dit_lab.models.conv_mlp import LinearPair
from dit_lab.panels import Opened
from dit_lab.training import TrainOptions
from dit_lab.widgets import show

# %% [markdown]
# Everything that you may want to change is in the next cell.

# %% tags=["parameters"]
fast = os.environ.get("FAST") == "1"  # for the tests: a little of everything
device = pick_device("auto")  # the first of CUDA, an Apple GPU and the CPU
steps = 4 if fast else 150  # optimiser steps of each rung that is trained here
seeds = (0,) if fast else (0, 1)  # each is trained once a seed
judged = 20 if fast else 300  # unseen digits that the losses are measured on

# %% [markdown]
# ## 1. A U
#
# DiT is **isotropic**: all its blocks work on the same grid of tokens. The networks that diffusion models had before it
# were U-shaped: an **encoder** that makes the picture smaller, a middle, and a **decoder** that makes it larger again,
# with **skip connections** that hand what the encoder saw at each size over to the decoder. Coarse things are decided
# where tokens are few, and are cheap there.
#
# U-DiT asks: what if a U is built of DiT's blocks? Its "toy experiment" climbs from the one to the other in rungs, each
# of which changes one thing of the one before. dit_lab has all of them:
#
# | rung | what changes |
# | --- | --- |
# | `isotropic` | nothing yet: DiT-S/4, all blocks on one grid |
# | `unet` | the same kind of block in a U, of a width at which it costs the same |
# | `kv` | attention's keys and values come from a coarser grid, a quarter as many; all tokens still ask |
# | `token` | instead, all tokens are dealt into four coarser grids (section 2) |
# | `cosine` | queries and keys are scaled to length 1 before their product, so that it is a cosine |
# | `rope` | queries and keys are turned by their place, rotary positions (notebook 12) |
# | `depthwise` | the MLP gets a convolution that works on each feature by itself, so neighbours are mixed there too |
# | `reparameterised` | there each linear layer becomes two in a row, the convolution a sum of several (section 5) |
#
# Here they are counted, beside the paper's figures. FID is the distance of samples to real pictures, lower is better.
#
# **Guess first.** The largest step in FID of the whole ladder is which: to the U, to downsampled tokens, to another
# attention, or to another MLP?

# %% tags=["stub"]
predict("9.1 the rung with the largest step in the paper's FID", ...)

# %% tags=["guess"]
predict("9.1 the rung with the largest step in the paper's FID", "to the U")

# %%
rungs = ladder()
costs = {name: count(config) for name, config in rungs.items()}
fids = {name: fid for name, (_, fid) in UDIT_LADDER.items()}
steps_down = {b: fids[a] - fids[b] for a, b in zip(fids, list(fids)[1:], strict=False)}


def the_ladder():
    """Every rung: what it costs and what the paper reports."""
    print(f"{'rung':24}{'GMACs':>7}{'paper':>7}{'M parameters':>14}{'FID, paper':>12}{'step':>8}")
    for name, (gmacs, fid) in UDIT_LADDER.items():
        cost, step = costs[name], f"{-steps_down[name]:+.2f}" if name in steps_down else ""
        paper = "" if gmacs is None else f"{gmacs:.2f}"
        print(f"{name:24}{cost.macs / 1e9:7.2f}{paper:>7}{cost.trained / 1e6:14.1f}{fid:12.2f}{step:>8}")
    return max(steps_down, key=steps_down.get)


reveal("9.1 the rung with the largest step in the paper's FID", the_ladder)

# %% [markdown] tags=["after"]
# Not the U: the convolution that the MLP gets (`depthwise`), then the downsampled tokens, counted from `kv`; from the U
# itself they gain 4.05, a little less than the U did. And look at `kv`: to let only keys and values be fewer saves as
# much, and makes the pictures *worse*. What follows explains why the other way is better.

# %% [markdown]
# ## 2. Downsampling without losing anything
#
# Attention compares every token with every other, so its work grows with the square of their number $n$. Fewer tokens
# would be cheaper. But whoever averages 2 x 2 tokens into one has lost detail that a denoiser must give back.
#
# U-DiT's **token downsampling** loses nothing. It takes the tokens apart into four grids, as one deals cards: every
# other row and column, from each of the four possible starts. Each grid is a coarse picture of all. Attention runs in
# each grid by itself, and afterwards all tokens go back to their places.
#
# **Guess first.** By which factor do the products $q \cdot k$ of all grids together become fewer?

# %% tags=["stub"]
predict("9.2 the products become fewer by a factor of", ...)

# %% tags=["guess"]
predict("9.2 the products become fewer by a factor of", 16)

# %% [markdown]
# Write it: `b` pictures of tokens with `d` features on a grid; `p q` say from which start a grid was dealt. All grids
# of all pictures become one longer batch, picture by picture.


# %% tags=["stub"]
def interleaved_tokens(x, factor):
    """Token downsampling, one grid an offset: `x: b (h p) (w q) d -> (b p q) (h w) d`."""
    ...


# %% tags=["solution"]
def interleaved_tokens(x, factor):
    """Token downsampling, one grid an offset: `x: b (h p) (w q) d -> (b p q) (h w) d`."""
    return rearrange(x, "b (h p) (w q) d -> (b p q) (h w) d", p=factor, q=factor)


# %%
check.interleaved_tokens(interleaved_tokens)

# %%
digits = dit_lab.open_data("mnist-small", size=16)
picture = digits.batch([int(np.flatnonzero(digits.labels == 3)[0])])[0]
grids = interleaved_tokens(rearrange(picture, "b c h w -> b h w c"), 2)


def dealt():
    """A digit whose pixels are the tokens, its four grids, and to which grid each place goes."""
    figure = Figure(figsize=(10, 2.2), layout="constrained")
    axes = figure.subplots(1, 6)
    starts = interleaved_tokens(rearrange(torch.arange(64.0), "(h w) -> 1 h w 1", h=8), 2)
    number = torch.empty(64)
    for grid, tokens in enumerate(starts[..., 0].long()):
        number[tokens] = grid
    axes[0].imshow(rearrange(number, "(h w) -> h w", h=8), cmap="cividis")
    axes[0].set_title("grid of each token")
    greys = dict(cmap="gray", vmin=-1, vmax=1)  # one scale for all: black is -1, white is 1
    axes[1].imshow(picture[0, 0], **greys)
    axes[1].set_title("all tokens")
    for axis, grid, name in zip(axes[2:], grids, ("0, 0", "0, 1", "1, 0", "1, 1"), strict=True):
        axis.imshow(rearrange(grid, "(h w) 1 -> h w", h=8), **greys)
        axis.set_title(f"from {name}")
    for axis in axes:
        axis.set_axis_off()
    display(figure)
    whole, parts = 256**2, 4 * 64**2
    return f"{whole // parts}: {whole:,} products become {parts:,}"


reveal("9.2 the products become fewer by a factor of", dealt)

# %% [markdown]
# *Figure: left, to which of the four grids each of 8 x 8 tokens is dealt, a shade a grid; then a digit of 16 x 16
# pixels that stand for tokens, and its four grids of 8 x 8, named by the row and column that they start from, all on
# one scale of greys from -1 (black) to 1 (white). Look how alike the four are, and that none is the others' copy.*

# %% [markdown] tags=["after"]
# **4**: each grid has a quarter of the tokens and a sixteenth of the products, and there are four grids. The four
# pictures are alike *because* neighbouring tokens are alike. Where they are not, the grids could not speak for each
# other, and this is the hypothesis of the paper: what a U's blocks work on is mostly of low frequency.

# %% [markdown]
# In the zoo is a small U-DiT, `mnist_udit`. Its attention is made of `split`, which deals, and `join`, which puts back.
# We put your function into every block, and the model must draw the same.

# %%
zoo = dit_lab.load("mnist_udit", device=device)
mine = deepcopy(zoo.model)
for block in mine.blocks:
    sampler = block.attn.sampler

    def split(x, sampler=sampler):
        """A convolution first, by which each token tells its neighbours of itself; then the cards are dealt."""
        laid_out = sampler.conv(sampler.grid.lay_out(x))
        return interleaved_tokens(rearrange(laid_out, "b d h w -> b h w d"), 2)

    sampler.split = split
labels = torch.arange(10, device=device)
drawn = [dit_lab.generate(model, labels, steps=10, cfg_scale=2.0, seed=0) for model in (zoo.model, mine)]
print("with mine it draws the same:", torch.allclose(*drawn, atol=1e-4))

# %% [markdown]
# Where does a patch of it look? Only into its own grid: in every second row and column there is exactly nothing. But
# the convolution before the dealing has told each token of its neighbours.

# %%
run = dit_lab.record(zoo.model, [3], steps=6 if fast else 20, cfg_scale=2.0, seed=0)
show("attention", Opened(run, zoo.model, labels=zoo.labels, source="mnist_udit"), step=3, block=0, patch=120)

# %% [markdown]
# *Figure: where one token of the U-DiT's first block looks. Choose other blocks: further inside the U the grid is
# coarser.*
#
# ## 3. Are the features really of low frequency?
#
# Take the features that a block puts out and lay them on their grid: a picture for every feature. By the Fourier
# transform each is a sum of waves. The share of its power in slow waves, at most 0.25 cycles a token (one swing over
# four tokens or more), is a number between 0 and 1. The wave of frequency 0, the mean, is left out: it says nothing of
# structure.


# %% tags=["stub"]
def low_frequency_share(x):
    """The share of the Fourier power at a radius of at most 0.25 cycles a token: `x: b d h w -> float`."""
    ...


# %% tags=["solution"]
def low_frequency_share(x):
    """The share of the Fourier power at a radius of at most 0.25 cycles a token: `x: b d h w -> float`."""
    power = torch.fft.fft2(x).abs() ** 2
    rows, columns = (torch.fft.fftfreq(side, dtype=x.dtype) for side in x.shape[-2:])
    radius = torch.sqrt(rearrange(rows, "h -> h 1") ** 2 + columns**2)
    low = (radius > 0) & (radius <= 0.25)
    return (power[..., low].sum() / power[..., radius > 0].sum()).item()


# %%
check.low_frequency_share(low_frequency_share)

# %% [markdown]
# A share needs something to be compared with: what has no structure at all. Of white noise on the same grid, the share
# is simply the part of all waves that are slow. **Guess first.** White noise has 0.2 to 0.3, by the grid. What have the
# features of the U-DiT's blocks, on average?

# %% tags=["stub"]
predict("9.3 low-frequency share of a trained U-DiT's features", ...)

# %% tags=["guess"]
predict("9.3 low-frequency share of a trained U-DiT's features", 0.9)

# %%
torch.manual_seed(0)
untrained = build("U-DiT-tiny", **taking(digits))
untrained = untrained.to(device).eval()
noises = torch.randn(10, 1, 16, 16, generator=torch.Generator().manual_seed(0)).to(device)
x_t = (0.5 * digits.batch(range(10))[0] + 0.75**0.5 * noises.cpu()).to(device)  # half amplitude: the middle of the way
t = torch.full((10,), 350, device=device)


def shares(model, order=None):
    """The share of every block, in a forward on noisy digits: `-> block`; `order` shuffles the tokens first."""
    with torch.no_grad(), dit_lab.watch(model, attention=None, modulation=False) as seen:
        model(x_t, t, labels)
    found = []
    for block in range(model.config.depth):
        rows, columns = run.grid_of(block)
        tokens = seen.features[block].cpu()
        if order is not None:
            tokens = tokens[:, torch.randperm(tokens.shape[1], generator=torch.Generator().manual_seed(order))]
        found.append(low_frequency_share(rearrange(tokens, "b (h w) d -> b d h w", h=rows)))
    return found


sides = [run.grid_of(block) for block in range(zoo.model.config.depth)]
white = [low_frequency_share(torch.randn(64, 8, *side, generator=torch.Generator().manual_seed(1))) for side in sides]
lines = {
    "trained": shares(zoo.model), "untrained": shares(untrained), "trained, tokens shuffled": shares(zoo.model, 0),
    "white noise": white,
}  # fmt: skip
mean_share = float(np.mean(lines["trained"]))


def by_block():
    """The share of low frequencies, block by block, beside its controls."""
    figure = Figure(figsize=(8.5, 3.4), layout="constrained")
    axis = figure.subplots()
    for (name, line), colour, style in zip(lines.items(), CATEGORIES, ("o-", "s--", "^-.", ":"), strict=False):
        axis.plot(line, style, color=colour, label=name, markersize=4)
    named = [name.replace("encoder", "enc").replace("decoder", "dec") for name in zoo.model.config.block_names]
    axis.set_xticks(range(len(named)), named, rotation=45, ha="right", fontsize=8)
    axis.set(xlabel="block", ylabel="share of low frequencies", ylim=(0, 1), title="How coarse the features are")
    axis.legend(frameon=False)
    display(figure)
    return f"about {mean_share:.1f}"


reveal("9.3 low-frequency share of a trained U-DiT's features", by_block)

# %% [markdown]
# *Figure: the share of slow waves in every block's output on noisy digits, of the trained U-DiT, of an untrained one,
# of the trained one's tokens in random places, and of white noise. Compare the first line with the second as well as
# with the last.*

# %% [markdown] tags=["after"]
# Above white noise and its own tokens in random places everywhere, but far above only in the decoder. An untrained
# block passes on what it gets, for its gates are born shut (notebook 4), so that line shows the noisy input's own
# share. In the encoder the trained blocks are hardly above it, in the middle somewhat, and in the decoder they are far
# above it: there coarseness is learnt. The smaller the grid, the fewer waves there are to tell apart, so compare a
# block with its own controls rather than with other blocks.

# %% [markdown]
# And the plain DiT of the zoo, `mnist`, which nobody made to be coarse? Its control is again the same model untrained.

# %%
plain = dit_lab.load("mnist", device=device).model
torch.manual_seed(0)
plain_untrained = build(plain.config).to(device).eval()
full = dit_lab.open_data("mnist-small").batch(range(10))[0]
noise = torch.randn(full.shape, generator=torch.Generator().manual_seed(0))


def plain_share(model):
    """The mean share of a plain DiT's blocks, in a forward on noisy digits of 28 x 28."""
    with torch.no_grad(), dit_lab.watch(model, attention=None, modulation=False) as seen:
        model((0.5 * full + 0.75**0.5 * noise).to(device), t, labels)
    grids = [rearrange(each.cpu(), "b (h w) d -> b d h w", h=7) for each in seen.features.values()]
    return float(np.mean([low_frequency_share(grid) for grid in grids]))


of_plain, of_plain_untrained = plain_share(plain), plain_share(plain_untrained)
of_white = low_frequency_share(torch.randn(64, 8, 7, 7, generator=torch.Generator().manual_seed(1)))
print(f"low-frequency share of the plain DiT's features: about {of_plain:.1f}")
print(f"of its untrained control: about {of_plain_untrained:.1f}; of white noise on its grid: {of_white:.1f}")

# %% [markdown]
# Not finer than the U either. But look at the control: more than half of what it has over white noise is there before
# any training, for DiT adds its table of positions to the tokens (notebook 2), and that is made of slow waves. Training
# adds a little. In the long run of the next section the isotropic model's share was near that of white noise. So
# coarseness is not the U's own, and it depends on the model. What the U adds is to *use* it, by working where tokens
# are few.
#
# ## 4. Up the ladder
#
# Now three rungs are trained: the isotropic DiT, the U, and the U with downsampled tokens. Small (digits of 16 x 16, 2
# x 2 pixels a token in the isotropic one), short, and with two seeds, so that you see how far two runs of the same
# thing are apart. The widths are chosen so that the first two cost about the same.
#
# **Guess first.** Which has the lowest loss on unseen digits after 150 steps?

# %% tags=["stub"]
predict("9.4 the lowest loss after 150 steps: isotropic, unet or token", ...)

# %% tags=["guess"]
predict("9.4 the lowest loss after 150 steps: isotropic, unet or token", "isotropic, the simplest")

# %%
small = {
    "isotropic": preset("toy/isotropic", dim=56, heads=2, patch_size=2, **taking(digits)),
    "unet": preset("toy/unet", dim=16, heads=2, **taking(digits)),
    "token": preset("toy/token", dim=16, heads=2, **taking(digits)),
}
unseen, unseen_labels = dit_lab.open_data("mnist-small", split="test", size=16).batch(range(judged))
losses = {}
for name, config in small.items():
    for seed in seeds:
        torch.manual_seed(seed)
        model = build(config).to(device)
        options = TrainOptions(steps=steps, batch_size=32, lr=2e-3, warmup=20, seed=seed, precision="fp32")
        for _ in dit_lab.train(model, digits, options):
            pass
        losses.setdefault(name, []).append(
            loss_by_timestep(model, unseen.to(device), unseen_labels.to(device), range(50, 1000, 100)).mean()
        )
best = min(losses, key=lambda name: np.mean(losses[name]))
# A rung whose best seed does not lose to the worst seed of the best rung cannot be told apart from it.
lowest = " and ".join(name for name in losses if min(losses[name]) <= max(losses[best]))


def three_rungs():
    """Loss against cost of three rungs, every seed a point."""
    figure = Figure(figsize=(6.5, 3), layout="constrained")
    axis = figure.subplots()
    for (name, values), colour, mark in zip(losses.items(), (BLUE, ORANGE, GREEN), "osD", strict=True):
        macs = count(small[name]).macs / 1e6
        axis.plot([macs] * len(values), values, mark, color=colour, label=f"{name}: {macs:.0f} MMACs")
    axis.set(xlabel="MACs of one picture (millions)", ylabel="mean squared error of the noise,\nunseen digits")
    axis.set(title=f"Three rungs after {steps} steps, a point a seed")
    axis.legend(frameon=False)
    display(figure)
    return lowest + (", which the seeds do not tell apart" if " and " in lowest else "")


reveal("9.4 the lowest loss after 150 steps: isotropic, unet or token", three_rungs)

# %% [markdown]
# *Figure: the loss on unseen digits of three rungs over what a picture costs, a point for each seed. Look at the
# distance between two points of one colour before you compare colours.*

# %% [markdown] tags=["after"]
# The U learns far faster here than the isotropic model, whose error is still a third larger, or more. The U with
# downsampled tokens is close to the one without: its error was a few per cent larger with both seeds, and it costs a
# quarter less. Two seeds are few, and on another machine these two may change places. Whether downsampled tokens
# *gain*, as in the paper, 150 steps cannot say.

# %% [markdown]
# The long run (`docs/results/udit_ladder.md` in the repository) trained every rung for 1,500 steps with three seeds.
# Its distance is the Fréchet distance of 1,000 samples to real digits (notebook 8; smaller is better), the mean of the
# seeds and their spread:

# %%
LONG = {
    "toy/isotropic": (318, 4), "toy/unet": (75, 3), "toy/kv": (83, 20), "toy/token": (58, 15), "toy/cosine": (60, 15),
    "toy/rope": (57, 12), "toy/depthwise": (53, 17), "toy/reparameterised": (50, 6),
}  # fmt: skip
print(f"{'rung':24}{'distance, 1,500 steps':>24}{'FID, paper':>14}")
for name, (mean, spread) in LONG.items():
    print(f"{name:24}{f'{mean} ± {spread}':>24}{fids[name]:14.2f}")

# %% [markdown]
# The means follow the paper's order but for cosine attention, and only the first step is larger than what a seed makes.
# Downsampled tokens beat downsampled keys and values with every seed (by 12, 59 and 2). For the rest, three seeds and
# models this small neither confirm nor deny the paper: that would take its 200,000 steps on ImageNet's latents.
#
# ## 5. Two layers that are one
#
# The last rung has *more* weights and the same function. Each linear layer of its MLP is two in a row, with nothing
# between them:
#
# $$W_2 (W_1 x + b_1) + b_2$$
#
# It makes training easier; that is all it is for. Before the model is used the two are folded into one. **Guess
# first.** Which share of the weights of `mnist_udit`'s MLPs is gone after folding the linear layers, in per cent?

# %% tags=["stub"]
predict("9.5 per cent of the linears' weights that folding saves", ...)

# %% tags=["guess"]
predict("9.5 per cent of the linears' weights that folding saves", 50)


# %% tags=["stub"]
def fold_linears(weight1, bias1, weight2, bias2):
    """Two linears as one: `weight1: m d, bias1: m, weight2: e m, bias2: e -> weight: e d, bias: e`."""
    ...


# %% tags=["solution"]
def fold_linears(weight1, bias1, weight2, bias2):
    """Two linears as one: `weight1: m d, bias1: m, weight2: e m, bias2: e -> weight: e d, bias: e`."""
    return weight2 @ weight1, weight2 @ bias1 + bias2


# %%
check.fold_linears(fold_linears)

# %%
folded = deepcopy(zoo.model)
before = after = 0
for block in folded.blocks:
    for name, pair in list(block.mlp.named_children()):
        if not isinstance(pair, LinearPair):
            continue
        first, second = pair.first, pair.second
        one = nn.Linear(first.in_features, second.out_features, device=device)
        with torch.no_grad():
            weight, bias = fold_linears(first.weight, first.bias, second.weight, second.bias)
            one.weight.copy_(weight)
            one.bias.copy_(bias)
        setattr(block.mlp, name, one)
        before += sum(p.numel() for p in pair.parameters())
        after += sum(p.numel() for p in one.parameters())
with torch.no_grad():
    both = [model(x_t, t, labels) for model in (zoo.model, folded)]
print("folded it says the same:", torch.allclose(*both, atol=1e-4))
reveal("9.5 per cent of the linears' weights that folding saves", lambda: f"{100 * (1 - after / before):.0f}")
print(f"weights of the linear layers: {before:,} before, {after:,} after")

# %% [markdown] tags=["after"]
# It depends on the width between the two. Here the middle of each pair is half as wide as the MLP's hidden layer.
# dit_lab multiplies the two matrices at every pass anyway, so folding saves that product and the memory. It folds by
# itself where a model is only used (`dit_lab.models.fast`), and by `python -m dit_lab convert ... --fold`.

# %% [markdown]
# ## Summary
#
# * U-DiT is DiT's blocks in a U, with attention in four interleaved grids: nothing is lost, a quarter of the products.
# * A U's features are coarser than white noise and than their own tokens shuffled; how much of that is learnt, an
#   untrained model tells.
# * Three of its rungs were trained here, all eight in the long run: the U is the large step in a short training, the
#   paper's small steps are within the spread of the seeds.
# * Two linear layers in a row are one; more weights can be a help in training and cost nothing afterwards.

# %% tags=["figures"]
print(
    f"GMACs of the toy rungs unet and token: {costs['toy/unet'].macs / 1e9:.2f} and {costs['toy/token'].macs / 1e9:.2f}"
)
print(f"low-frequency share of the U-DiT's features: about {mean_share:.1f}")
print(f"of its untrained control: about {np.mean(lines['untrained']):.1f}, of white noise: {np.mean(white):.1f}")
print(f"lowest loss after {steps} steps: {lowest}")
print(f"weights that folding saves: {100 * (1 - after / before):.0f}%")

# %% [markdown]
# ## What would falsify this?
#
# * *Token downsampling works because features are coarse.* Add noise of the highest frequency to the tokens before the
#   dealing: attention should then suffer more than attention on all tokens does. If it did not, coarseness is not why.
# * *Coarseness is learnt.* If the untrained model's line lies as high as the trained one's, it is not.
# * *The U is the large step.* Give the isotropic model ten times the steps. If it caught up, the step was one of speed.
