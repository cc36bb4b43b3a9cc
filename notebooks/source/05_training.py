# %% [markdown]
# # 5. Training, step by step
#
# **Aim:** Write the loss, the learned variance and the averaged weights of a DiT, and train one with them.
#
# **Before:** a training loop in PyTorch; what $x_t$ is (notebook 1), and how a DiT looks from outside (notebook 4).
# Both are said again in a sentence where they are needed.
#
# **Time:** about 4 minutes of computing on one CPU core, nearly all of it in section 6; an hour with the exercises.
# With CUDA the model is larger, and trained for longer.
#
# **Exercises:** `simple_loss`, `interpolated_log_variance`, `update_average`
#
# The papers:
#
# * DDPM: Ho et al. 2020, *Denoising Diffusion Probabilistic Models*, [arXiv
#   2006.11239](https://arxiv.org/abs/2006.11239)
# * learned variance: Nichol & Dhariwal 2021, *Improved DDPM*, [arXiv 2102.09672](https://arxiv.org/abs/2102.09672)
# * guidance: Ho & Salimans 2022, *Classifier-Free Diffusion Guidance*, [arXiv
#   2207.12598](https://arxiv.org/abs/2207.12598)
# * DiT: Peebles & Xie 2022, *Scalable Diffusion Models with Transformers*, [arXiv
#   2212.09748](https://arxiv.org/abs/2212.09748)

# %%
import math
import os
from copy import deepcopy

import numpy as np
import torch
from einops import rearrange, reduce
from IPython.display import display
from matplotlib.figure import Figure

import dit_lab
from dit_lab.course import check, predict, reveal
from dit_lab.diffusion import Diffusion
from dit_lab.diffusion.gaussian import discretised_nll, gaussian_kl
from dit_lab.diffusion.process import split_output
from dit_lab.inside.plots import BLUE, GREEN, ORANGE, picture_table
from dit_lab.models import pick_device, taking
from dit_lab.widgets import monitor

# %% [markdown]
# Everything that you may want to change is in the next cell.

# %% tags=["parameters"]
fast = os.environ.get("FAST") == "1"  # for the tests: a little of everything
device = pick_device("auto")  # the first of CUDA, an Apple GPU and the CPU
large = device.type == "cuda"
data = "digits"  # scikit-learn's, 8 x 8; or "mnist-small", 28 x 28, which wants a GPU
preset = "DiT-tiny/2" if large else "DiT-nano/2"  # the /2 is the patch: 2 x 2 pixels a token
width = 128 if large else 64  # numbers in a token
steps = 64 if fast else 5120 if large else 1280  # optimiser steps
batch_size = 256 if large else 64
lr = 1e-3 if large else 5e-3  # a small model bears, and needs, a high learning rate; the paper's is 1e-4
decay = 0.99  # of the averaged weights
dropout = 0.1  # share of the labels that are dropped
judged = 20 if fast else 200  # samples that are read at the end, a multiple of 10
seed = 0  # fixes the weights, the order of the data and all noise
out = "runs/digits"  # the folder where the trained model will lie

# %% [markdown]
# ## 1. What is asked of the network
#
# A picture $x_0$ and noise $\epsilon$ are mixed: much picture at timestep $t = 0$, nearly all noise at $t = 999$ (DDPM,
# equation 4):
#
# $$x_t = \sqrt{\bar\alpha_t}\;x_0 + \sqrt{1 - \bar\alpha_t}\;\epsilon, \qquad \epsilon \sim \mathcal N(0, 1)$$
#
# The network sees $x_t$, the number $t$ and a label $y$. It is asked for the noise. That is all: a picture, a random
# $t$, random noise, and the question "which noise is in this?".
#
# The pictures are 1,498 grey digits of 8 x 8 pixels in [-1, 1], which come with scikit-learn. (With a GPU you may set
# `data = "mnist-small"` above: 5,000 of MNIST's, 28 x 28, which come with dit_lab. The words here are about the small
# ones.) Nothing is downloaded.

# %%
digits, unseen = dit_lab.open_data(data), dit_lab.open_data(data, split="test")
diffusion = Diffusion.named("linear")  # the paper's 1000 steps
torch.manual_seed(seed)
model = dit_lab.build(preset, dim=width, **taking(digits)).to(device)
untrained = deepcopy(model)  # kept as it is: the control for what is claimed below

random = torch.Generator().manual_seed(seed)
x0, y = (each.to(device) for each in digits.batch(range(256)))
i = torch.randint(1000, (256,), generator=random).to(device)  # a timestep for every picture
eps = torch.randn(x0.shape, generator=random).to(device)
x_t = diffusion.noised(x0, i, eps)
with torch.no_grad():
    predicted, v = split_output(model(x_t, i, y), x_t)
print(f"in: {tuple(x_t.shape)}, out: noise {tuple(predicted.shape)} and something more, v {tuple(v.shape)}")
print(
    f"{len(digits)} digits to learn, {len(unseen)} kept apart; {sum(p.numel() for p in model.parameters()):,} weights"
)

# %% [markdown]
# Two pictures come out for one that goes in. The first is the noise that the network believes to see. The second, $v$,
# is section 3.
#
# ## 2. The simple loss
#
# The loss is the mean squared error of the noise, one number for each picture of the batch (DDPM, equation 14):
#
# $$L_\text{simple} = \lVert \epsilon - \epsilon_\theta(x_t, t, y) \rVert^2, \quad \text{a mean over c, h, w}$$
#
# **Guess first.** A new DiT answers 0 everywhere, for its last layer is born zero. What is its loss, to one digit?

# %% tags=["stub"]
predict("5.1 the first loss", ...)

# %% tags=["guess"]
predict("5.1 the first loss", 0.5)

# %% [markdown]
# Now write it. In and out are in the house's alphabet: `b` pictures, `c` channels, `h` rows, `w` columns.


# %% tags=["stub"]
def simple_loss(eps, predicted):
    """L_simple, a sample: `eps, predicted: b c h w -> b`."""
    ...


# %% tags=["solution"]
def simple_loss(eps, predicted):
    """L_simple, a sample: `eps, predicted: b c h w -> b`."""
    return reduce((eps - predicted) ** 2, "b c h w -> b", "mean")


# %%
check.simple_loss(simple_loss)

# %%
first_loss = simple_loss(eps, predicted).mean().item()
reveal("5.1 the first loss", f"{first_loss:.1f}")

# %% [markdown] tags=["after"]
# With the answer 0 the loss is the mean of $\epsilon^2$, the variance of the noise: **1.0**. Remember it for your own
# runs. A first loss far from 1 means a bug.

# %% [markdown]
# **Guess first.** In the very first backward pass, how many of the model's tensors get a gradient that is not zero?

# %% tags=["stub"]
predict("5.2 tensors with a gradient in step 1", ...)

# %% tags=["guess"]
predict("5.2 tensors with a gradient in step 1", "all")

# %%
simple_loss(eps, split_output(model(x_t, i, y), x_t)[0]).mean().backward()
moved = [name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()]
model.zero_grad()
reveal("5.2 tensors with a gradient in step 1", f"{len(moved)}: {', '.join(moved)}")

# %% [markdown] tags=["after"]
# Only the last layer. Everything before it is multiplied by the layer's zeros on the way back. In step 1 the last layer
# moves, in step 2 the gates of the blocks feel a gradient and open, and from step 3 on the attention and the MLP behind
# them learn. You will see it happen in section 6.

# %% [markdown]
# ## 3. How much noise to put back: the learned variance
#
# Sampling goes back from $x_t$ to $x_{t-1}$. That step is a Gaussian: a mean, which follows from the predicted noise,
# and a variance. Which variance? There are two extremes (DDPM, section 3.2):
#
# * if nothing at all is known of $x_0$, it is $\beta_t$, the variance that the forward step added: the **upper** bound;
# * if $x_0$ is known exactly, it is $\tilde\beta_t = \frac{1 - \bar\alpha_{t-1}}{1 - \bar\alpha_t}\beta_t$: the
#   **lower** bound.
#
# **Guess first.** At $t = 500$, how many times larger is the upper bound than the lower one?

# %% tags=["stub"]
predict("5.3 upper over lower variance at t = 500", ...)

# %% tags=["guess"]
predict("5.3 upper over lower variance at t = 500", 2)

# %%
log_low = torch.tensor(
    diffusion.log_posterior_variance, dtype=torch.float32
)  # at t = 0, where x_0 is known, that of t = 1
log_high = torch.tensor(np.log(diffusion.betas), dtype=torch.float32)


def variances():
    """Both bounds over the timesteps, and how far they are apart."""
    figure = Figure(figsize=(9.5, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for values, name, colour in (log_high, "upper", ORANGE), (log_low, "lower", BLUE):
        left.plot(values.exp(), color=colour, linestyle="-" if name == "upper" else "--", label=name)
    left.set(title="The two variances", xlabel="timestep t", ylabel="variance of a step (log scale)", yscale="log")
    left.legend(frameon=False)
    right.plot(np.arange(1, 1000), (log_high - log_low).exp()[1:], color=GREEN)
    right.set(title="How far they are apart", xlabel="timestep t (log scale)", ylabel="upper / lower", xscale="log")
    display(figure)
    return f"{(log_high - log_low)[500].exp().item():.3f}"


reveal("5.3 upper over lower variance at t = 500", variances)

# %% [markdown]
# *Figure: the two bounds of the variance of a step, and their ratio, over the timestep. Look where on the way the
# choice between them matters at all.*

# %% [markdown] tags=["after"]
# For nearly all steps the two are the same. They part in the first few, where the last details of the picture are
# drawn: at $t = 1$ by a factor of 2.2. There the variance is worth learning.

# %% [markdown]
# Improved DDPM lets the network choose between the bounds. Its value $v$, one for each pixel, slides the **logarithm**
# of the variance from the lower ($v = -1$) to the upper ($v = 1$) bound (equation 15, for $v$ in [0, 1]; DiT's $v$ is
# in [-1, 1]).


# %% tags=["stub"]
def interpolated_log_variance(v, log_low, log_high):
    """The learned variance, v in [-1, 1]: `v: b c h w; log_low, log_high: b -> b c h w`."""
    ...


# %% tags=["solution"]
def interpolated_log_variance(v, log_low, log_high):
    """The learned variance, v in [-1, 1]: `v: b c h w; log_low, log_high: b -> b c h w`."""
    low, high = rearrange(log_low, "b -> b 1 1 1"), rearrange(log_high, "b -> b 1 1 1")
    share = (v + 1) / 2
    return share * high + (1 - share) * low


# %%
check.interpolated_log_variance(interpolated_log_variance)

# %% [markdown]
# The simple loss does not contain $v$, so something else must teach it: the **variational bound**. It measures, in bits
# per pixel, how far the Gaussian step that the model would take is from the step that leads to the true $x_0$. The
# distance of two Gaussians, their KL divergence, is a formula (`gaussian_kl`). The true step's mean is DDPM's equation
# 7, which you will write in notebook 6; here the library's `posterior_mean` does.


# %%
def bound(x0, x_t, i, predicted, v):
    """One term of the bound in bits per pixel: `x0, x_t, predicted, v: b c h w, i: b -> b`."""
    low, high = log_low.to(i.device)[i], log_high.to(i.device)[i]
    x0_guess, _ = diffusion.denoised(predicted, x_t, i)  # the noise taken out again
    mean, log_variance = diffusion.posterior_mean(x0_guess, x_t, i), interpolated_log_variance(v, low, high)
    kl = gaussian_kl(diffusion.posterior_mean(x0, x_t, i), rearrange(low, "b -> b 1 1 1"), mean, log_variance)
    last = discretised_nll(x0, mean, log_variance / 2)  # the step to x_0: how likely are these 8-bit pixels?
    bits = torch.where(rearrange(i == 0, "b -> b 1 1 1"), last, kl) / math.log(2)
    return reduce(bits, "b c h w -> b", "mean")


def losses(model, x0, i, y, eps):
    """What a DiT is trained on: `x0, eps: b c h w; i, y: b -> loss, mse, vb, each b`."""
    x_t = diffusion.noised(x0, i, eps)
    predicted, v = split_output(model(x_t, i, y), x_t)
    mse = simple_loss(eps, predicted)
    vb = bound(x0, x_t, i, predicted.detach(), v)  # detached: the bound teaches v alone
    return mse + vb, mse, vb


with torch.no_grad():
    mine, theirs = losses(model, x0, i, y, eps), diffusion.losses(model, x0, i, y, eps)
for name, own, library in zip(("loss", "mse", "vb"), mine, theirs, strict=True):
    print(f"{name:4} {own.mean():.3f}; the library's is the same: {torch.allclose(own, library, rtol=1e-4)}")

# %% [markdown]
# The loss that is trained is `mse + vb`, from your two functions. The gradient of the bound is stopped at the noise: it
# teaches $v$ alone. The noise is taught by the simple loss, which weighs all timesteps alike.
#
# ## 4. Labels that are left out
#
# Guidance (notebook 6) asks the same network twice: with the label, and without. "Without" is a label of its own, the
# **null label**: number 10, one more than the digits have. To learn it, one label in ten is replaced by it while
# training. (The line that does so is an exercise of notebook 4.)
#
# The network looks labels up in a table, a row each. **Guess first.** Train without dropping any label: how large is
# the gradient of the null label's row? And how large is it, beside that of the 3, when one in ten is dropped?

# %% tags=["stub"]
predict("5.4 the null label's gradient if no label is dropped", ...)

# %% tags=["guess"]
predict("5.4 the null label's gradient if no label is dropped", "small, but not 0")


# %%
def drop(y, share, random):
    """Replace a share of the labels by the null label: `y: b -> b`."""
    dropped = torch.rand(len(y), generator=random).to(y.device) < share
    return torch.where(dropped, 10, y)


def row_gradients(share):
    """The size of the gradient of each label's row in the fourth step, when the gates are open: `-> 11`."""
    opened = deepcopy(untrained)
    optimiser = torch.optim.AdamW(opened.parameters(), lr=1e-2, weight_decay=0)
    for _ in range(4):
        optimiser.zero_grad()
        labels = drop(y, share, torch.Generator().manual_seed(seed))
        losses(opened, x0, i, labels, eps)[0].mean().backward()
        optimiser.step()
    table = next(weight for name, weight in opened.named_parameters() if weight.shape[0] == 11)
    return table.grad.norm(dim=1).cpu()


def null_row():
    """The gradients of all rows, with and without dropped labels, as bars."""
    figure = Figure(figsize=(9.5, 2.8), layout="constrained")
    axis = figure.subplots()
    for shift, share, colour in (-0.2, 0.0, BLUE), (0.2, 0.1, ORANGE):
        axis.bar(np.arange(11) + shift, row_gradients(share), 0.4, color=colour, label=f"{share:.0%} dropped")
    names = [*map(str, range(10)), "null"]
    axis.set(xlabel="label", ylabel="norm of the row's gradient", xticks=range(11), xticklabels=names)
    axis.set_title("Which rows of the label table learn")
    axis.legend(frameon=False)
    display(figure)
    return f"{row_gradients(0.0)[10].item():g}"


reveal("5.4 the null label's gradient if no label is dropped", null_row)

# %% [markdown]
# *Figure: how strongly each row of the label table is pulled in the fourth step, without (left bar of a pair, blue) and
# with (right bar, orange) dropped labels. Look at the last pair.*

# %% [markdown] tags=["after"]
# Exactly 0: a row that no picture looks up is never moved. The model would be asked for something that it has never
# been taught, and the difference that guidance exaggerates would be the difference to random numbers.

# %% [markdown]
# ## 5. Averaged weights
#
# The weights that are sampled with are not the ones that are trained. Each step moves the trained weights $\theta$ a
# little too far, this way and that. An **exponential moving average** (EMA) follows them slowly and shakes less:
#
# $$\bar\theta \leftarrow d\,\bar\theta + (1 - d)\,\theta$$
#
# DiT's decay $d$ is 0.9999, over 400,000 steps and more. **Guess first.** Our run has 1,280 steps. With that decay, how
# many per cent of the average would still be the *untrained* weights at its end?

# %% tags=["stub"]
predict("5.5 per cent of untrained weights left", ...)

# %% tags=["guess"]
predict("5.5 per cent of untrained weights left", 10)


# %% tags=["stub"]
def update_average(average, weights, decay):
    """One step of the average: two lists of tensors `-> list of tensors`."""
    ...


# %% tags=["solution"]
def update_average(average, weights, decay):
    """One step of the average: two lists of tensors `-> list of tensors`."""
    return [decay * mean + (1 - decay) * weight for mean, weight in zip(average, weights, strict=True)]


# %%
check.update_average(update_average)


# %% [markdown]
# Your function, on a "weight" that trembles around a curve which rises from 0 to 1:


# %%
def averages():
    """A trembling weight and its averages with three decays."""
    random = torch.Generator().manual_seed(seed)
    time = torch.arange(1280)
    weight = 1 - torch.exp(-time / 150) + 0.15 * torch.randn(1280, generator=random)
    figure = Figure(figsize=(9.5, 3.2), layout="constrained")
    axis = figure.subplots()
    axis.plot(time, weight, color="lightgrey", linewidth=0.7, label="the weight")
    for rate, colour, style in (0.9, BLUE, "-"), (0.99, GREEN, "--"), (0.9999, ORANGE, "-."):
        line, mean = [], [torch.zeros(())]
        for value in weight:
            mean = update_average(mean, [value], rate)
            line.append(mean[0])
        axis.plot(time, torch.stack(line), style, color=colour, label=f"average, decay {rate}")
    axis.set(xlabel="training step", ylabel="value of the weight", title="One weight, and three averages of it")
    axis.legend(frameon=False, loc="center right", bbox_to_anchor=(1, 0.38), ncols=2)
    display(figure)
    return f"{100 * 0.9999**1280:.0f}"


reveal("5.5 per cent of untrained weights left", averages)

# %% [markdown]
# *Figure: a weight that is trained (grey) and its averages. A decay $d$ looks back some $1 / (1 - d)$ steps. Look for
# one that is smooth and yet arrives.*

# %% [markdown] tags=["after"]
# $0.9999^{1280} = 0.88$: that average would be 88 % untrained. It suits runs of hundreds of thousands of steps. For
# ours 0.99 does, which looks back a hundred steps. (The library's `train` lets the decay rise in the first steps, so
# that any decay can be asked for.)

# %% [markdown]
# ## 6. Training
#
# Now the loop, with your three functions in it: a batch, `losses`, a backward pass, AdamW, `update_average`. In the
# first hundred steps the learning rate rises, and gradients longer than 1 are shortened, for the rate is fifty times
# the paper's (ten times with CUDA).
#
# While it trains, a panel looks at the **average**, every few steps: ten samples, one a label, always from the same
# noise, so whatever changes in the pictures has been learned; and the size of the *gates* of the blocks, by which each
# block's share is multiplied and which are 0 at birth (notebook 4). It is the app's panel, and `monitor` wants one
# thing of a loop: that it is told the loss of each step.
#
# **Guess first.** After how many steps can at least 8 of the 10 samples be read as the digit that was asked for? A
# program reads: it names the training picture that is nearest.

# %% tags=["stub"]
predict("5.6 step from which the samples can be read", ...)

# %% tags=["guess"]
predict("5.6 step from which the samples can be read", 1000)


# %%
def batch(step):
    """The batch of a step, always the same for the same step: `-> x0: b c h w, i: b, y: b, eps: b c h w`."""
    random = torch.Generator().manual_seed(1_000_003 * seed + step)
    x0, y = digits.batch(torch.randint(len(digits), (batch_size,), generator=random).numpy())
    i = torch.randint(1000, (batch_size,), generator=random)
    drawn = x0, i, drop(y, dropout, random), torch.randn(x0.shape, generator=random)
    return tuple(each.to(device) for each in drawn)


def train_step(step):
    """One optimiser step, and one of the average: `-> mse`, the mean of the batch."""
    for group in optimiser.param_groups:
        group["lr"] = lr * min(1, (step + 1) / 100)
    optimiser.zero_grad()
    loss, mse, _ = losses(model, *batch(step))
    loss.mean().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    with torch.no_grad():
        moved = update_average(list(average.parameters()), list(model.parameters()), decay)
        for mean, new in zip(average.parameters(), moved, strict=True):
            mean.copy_(new)
    return mse.mean().item()


known, known_labels = digits.batch(range(len(digits)))


def read(pictures):
    """The label of the training picture that is nearest to each: `b c h w -> b`."""
    flat = lambda x: rearrange(x.cpu().clamp(-1, 1), "b c h w -> b (c h w)")
    return known_labels[torch.cdist(flat(pictures), flat(known)).argmin(1)]


# %% [markdown]
# To train again from nothing, run the next cell again.

# %%
torch.manual_seed(seed)
model = dit_lab.build(preset, dim=width, **taking(digits)).to(device)
average = deepcopy(model).requires_grad_(False)
optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0)
with monitor(average, digits, steps, name="your loop, on digits", read=read) as watching:
    for step in range(steps):
        watching(train_step(step))

# %% [markdown]
# *Figure: the simple loss of each batch and the gates of each block by step, and ten samples from one noise; the slider
# goes back to what they were at any look, and below is where one head of a block looks, a map of attention (notebook
# 10). A picture without scripts has no map, and the samples at some steps, a row each. Look at what the loss does while
# the digits appear.*

# %%
right = {look["step"]: sum(label == asked for asked, label in enumerate(look["read"])) for look in watching.looks}
readable = [step for step, count in right.items() if count >= 8]
first = f"about {max(100, round(readable[0], -2))}" if readable else "later than this run's end"
reveal("5.6 step from which the samples can be read", first)

# %% [markdown] tags=["after"]
# From the top: noise stays noise; then the frame of a digit, bright in the middle and dark at the sides, which all
# digits share; then strokes; last the classes. The loss had fallen long before, and crawls while they appear. (People
# ask why their DiT "is stuck" at a loss of 0.1 or 0.2: it is not.) Every gate begins at exactly 0 and opens in the
# first two hundred steps; then each block finds its own share.

# %% [markdown]
# ## 7. What was learnt, beside its controls
#
# The loss cannot reach 0: from $x_t$ alone, nobody can tell all of the noise. **Guess first.** Where is the trained
# model's loss largest: at small $t$ (hardly any noise), in the middle, or at large $t$ (nearly all noise)?

# %% tags=["stub"]
predict("5.7 where the trained loss is largest", ...)

# %% tags=["guess"]
predict("5.7 where the trained loss is largest", "large t")


# %%
def by_timestep(of):
    """Mean mse and vb of a model on unseen digits, for each hundredth of the timesteps: `-> two times 10`."""
    x0, y = unseen.batch(range(len(unseen)))
    means = []
    for first in range(0, 1000, 100):
        random = torch.Generator().manual_seed(first)
        i = torch.randint(first, first + 100, y.shape, generator=random)
        eps = torch.randn(x0.shape, generator=random)
        with torch.no_grad():
            _, mse, vb = losses(of, *(each.to(device) for each in (x0, i, y, eps)))
        means.append((mse.mean().item(), vb.mean().item()))
    return zip(*means, strict=True)


curves = {"trained": by_timestep(average), "untrained": by_timestep(untrained)}
curves = {name: [list(values) for values in both] for name, both in curves.items()}


def loss_by_timestep():
    """Both losses over the timestep, of the trained and of the untrained model."""
    figure = Figure(figsize=(9.5, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for (name, both), colour, style in zip(curves.items(), (BLUE, ORANGE), ("o-", "s--"), strict=True):
        for axis, values in zip(axes, both, strict=True):
            axis.plot(range(50, 1000, 100), values, style, color=colour, label=name)
    axes[0].set(title="Simple loss", xlabel="timestep t", ylabel="mean squared error of the noise (log scale)")
    axes[1].set(title="Variational bound", xlabel="timestep t", ylabel="bits per pixel (log scale)")
    for axis in axes:
        axis.set_yscale("log")
        axis.legend(frameon=False)
    display(figure)
    where = ("small t", "the middle", "large t")
    return where[min(2, int(np.argmax(curves["trained"][0]) / 3.4))]


reveal("5.7 where the trained loss is largest", loss_by_timestep)

# %% [markdown]
# *Figure: both losses on digits that were not trained on, averaged over a hundred timesteps a point, for the trained
# and the untrained model. Look at which end each loss is large.*

# %% [markdown] tags=["after"]
# At small $t$: there is little noise, and it cannot be told from the picture. At large $t$ nearly all that is seen is
# noise, and to name it is easy, but for the little that is picture, and that little is what matters: an error there is
# divided by $\sqrt{\bar\alpha_t}$ when $x_0$ is computed. The untrained model's loss is 1 throughout: it is the same
# for every $t$. The bound weighs small timesteps most of all.

# %% [markdown]
# Do the samples follow their labels? We ask for 20 of each digit, with the averaged weights, and read them. The
# control: the same samples, held against labels that are shuffled. And the averaged weights against those that were
# trained last.

# %%
wanted = torch.arange(10).repeat(judged // 10)
shuffled = wanted[torch.randperm(judged, generator=torch.Generator().manual_seed(seed))]
shares, rows = {}, {}
for name, of in {"averaged": average, "trained last": model.eval(), "untrained": untrained}.items():
    samples = dit_lab.generate(of, wanted.to(device), sampler="dpmpp", steps=15, cfg_scale=2.0, seed=seed)
    rows[name], shares[name] = samples[:10].cpu(), (read(samples) == wanted).float().mean().item()
    print(f"{name:12} weights: about {round(shares[name], 1):4.0%} read as asked for")
    if name == "averaged":
        shares["shuffled"] = (read(samples) == shuffled).float().mean().item()
print(f"held against shuffled labels: about {round(shares['shuffled'], 1):.0%}; by chance it would be 10%")
picture_table(rows, range(10), "The same noise, three sets of weights")

# %% [markdown]
# *Figure: ten samples of each model, the label above. Look whether the second row can be told from the first.*

# %% [markdown] tags=["after"]
# The label is followed, and held against other labels nothing is left of that. The averaged weights are hardly better
# than those that were trained last: at the end of an easy run there is little left to average away. In the paper's
# runs, of hundreds of thousands of steps, all figures are those of the average.

# %% [markdown]
# ## 8. Keep it
#
# A checkpoint is a folder: tensors, and a `config.json`; nothing in it is executed on loading.

# %%
dit_lab.save(out, average, labels=digits.names, codec_hint="pixels")
loaded = dit_lab.load(out, device=device)
seven = [dit_lab.generate(of, [7], steps=10, seed=seed) for of in (loaded.model, average)]
print("the loaded model draws the same 7:", torch.equal(*seven))

# %% [markdown]
# Open it in the app, from the root of the repository, and click through time, patches and heads:
#
# ```
# python app.py --checkpoint notebooks/runs/digits
# ```
#
# All of this notebook in one line, with checkpoints, resuming and several GPUs:
#
# ```
# python -m dit_lab train --preset DiT-nano/2 --data digits --dim 64 --lr 5e-3 --warmup 100 \
#     --ema-decay 0.99 --steps 1280 --out runs/longer
# ```
#
# In Python it is `dit_lab.train(model, digits, options)`, which yields after every step, as the loop above does.

# %% [markdown]
# ## Summary
#
# * The loss of a DiT is two things: the squared error of the noise, which begins at 1 and cannot reach 0, and the
#   bound, which teaches the variance alone and matters in the first few timesteps.
# * One label in ten is dropped, for the null label's row learns only when it is looked up.
# * What is sampled is an average of the weights, whose decay must fit the length of the run.
# * All of this was yours: the model above was trained by the three functions that you wrote.
#
# The paper trains in the same way, with a batch of 256, a rate of 1e-4 and 400,000 steps and more, on latents of 256 x
# 256 pictures.

# %% tags=["figures"]
print(f"first loss: {first_loss:.1f}")
print(f"simple loss on unseen digits: {np.mean(curves['trained'][0]):.2f}")
print(f"read as asked for, of {judged}: about {round(shares['averaged'], 1):.0%}")
print(f"held against shuffled labels: about {round(shares['shuffled'], 1):.0%}")
print(f"samples readable from step: {first}")

# %% [markdown]
# ## What would falsify this?
#
# * *The loss is what teaches.* Train with `simple_loss` multiplied by 0: the samples must stay noise.
# * *The average is better than the weights trained last.* It need not be here, at the end of a run whose pictures are
#   easy. Double `lr`, so that the weights tremble more: if the last weights' samples are read as often as the average's
#   even then, the claim is wrong for this run.
# * *The label is followed.* If the samples held against shuffled labels were read as well, it would not be.
# * *Digits appear while the loss hardly moves.* Plot the loss on a linear axis from that step on. A fall that you had
#   overlooked would be there.
