# %% [markdown]
# # 1. Noise, the way in
#
# **Aim:** Write the forward process: how a picture becomes noise, how fast, and what of it is lost first.
#
# **Before:** tensors in PyTorch, means and variances. Nothing of diffusion. Shapes are written as einops does, a letter
# an axis: `b c h w` are pictures, channels, rows and columns.
#
# **Time:** about a minute of computing on a CPU; an hour with the exercises.
#
# **Exercises:** `alpha_bar`, `noised`, `log_snr`
#
# The papers:
#
# * DDPM: Ho et al. 2020, *Denoising Diffusion Probabilistic Models*, [arXiv
#   2006.11239](https://arxiv.org/abs/2006.11239)
# * the cosine schedule: Nichol & Dhariwal 2021, *Improved DDPM*, [arXiv 2102.09672](https://arxiv.org/abs/2102.09672)
# * signal to noise: Kingma et al. 2021, *Variational Diffusion Models*, [arXiv
#   2107.00630](https://arxiv.org/abs/2107.00630)

# %%
import math
import os

import numpy as np
import torch
from einops import rearrange, reduce, repeat
from IPython.display import display
from matplotlib.figure import Figure

import dit_lab
from dit_lab.course import check, predict, reveal
from dit_lab.diffusion import Diffusion, Flow
from dit_lab.evaluation import zoo_judge
from dit_lab.inside.plots import BLUE, GREEN, ORANGE, picture_table, schedule_plot
from dit_lab.widgets import scrub

# %% [markdown]
# Everything that you may want to change is in the next cell.

# %% tags=["parameters"]
fast = os.environ.get("FAST") == "1"  # for the tests: a little of everything
simulated = 200 if fast else 2000  # pictures that walk all steps one by one
read = 100 if fast else 1000  # digits that are read at each timestep, at most 1000
watched = 4 if fast else 12  # frames to scrub through
seed = 0  # fixes all noise

# %% [markdown]
# ## 1. A little noise, a thousand times
#
# Diffusion models learn to draw by learning to clean. Something has to make the dirt first: the **forward process**
# takes a picture $x_0$ and mixes a little noise into it, again and again, until nothing is left but noise. There is
# nothing to learn in this direction. All that a network will ever be asked is to go back.
#
# One step (DDPM, equation 2): the picture is made a little fainter, and a little Gaussian noise is added.
#
# $$x_t = \sqrt{1 - \beta_t}\;x_{t-1} + \sqrt{\beta_t}\;\epsilon_t, \qquad \epsilon_t \sim \mathcal N(0, 1)$$
#
# $\beta_t$ is small and grows, in DDPM and in DiT from 0.0001 to 0.02 over $T = 1000$ steps, in a straight line: the
# **linear schedule**. (Papers count $t$ from 1, code from 0. Here $t = 0$ is the first, almost clean step and $t = 999$
# the last.)
#
# Our pictures are MNIST's digits, 28 x 28 pixels in [-1, 1]. 5,000 of them ship with dit_lab.

# %%
digits = dit_lab.open_data("mnist-small")
unseen = dit_lab.open_data("mnist-small", split="test")
betas = torch.linspace(0.0001, 0.02, 1000, dtype=torch.float64)
places = [int(np.flatnonzero(digits.labels == label)[0]) for label in (7, 3, 0)]
examples, _ = digits.batch(places)
print(f"{len(digits)} digits, {len(unseen)} kept apart; a picture: {digits.shape} from {examples.min():.0f} to 1")

# %%
random = torch.Generator().manual_seed(seed)
x, walk = examples[:1].double(), {}
for t, beta in enumerate(betas):
    x = (1 - beta).sqrt() * x + beta.sqrt() * torch.randn(x.shape, generator=random, dtype=x.dtype)
    if t in (0, 50, 100, 200, 300, 500, 999):
        walk[f"t = {t}"] = x[0].float()
picture_table({"one walk": torch.stack(list(walk.values()))}, list(walk), "A thousand steps, some of them")

# %% [markdown]
# *Figure: one 7 on its way through the thousand steps, black -1 and white 1. What is beyond is cut off. Look for the
# last picture in which you would still say 7.*
#
# Why is the picture made fainter at all, and not only noise added? **Guess first.** A picture whose pixels have
# variance 1 goes through all steps. What is the variance of its pixels at the end?

# %% tags=["stub"]
predict("1.1 variance of the pixels at the end", ...)

# %% tags=["guess"]
predict("1.1 variance of the pixels at the end", 10)


# %%
def variances():
    """The variance of a walk that fades the picture, and of one that does not."""
    random, both = torch.Generator().manual_seed(seed), []
    for fades in True, False:
        x, line = torch.randn(20_000, generator=random), []
        for beta in betas.float():
            kept = (1 - beta).sqrt() if fades else 1
            x = kept * x + beta.sqrt() * torch.randn(x.shape, generator=random)
            line.append(x.var().item())
        both.append(line)
    figure = Figure(figsize=(7, 3), layout="constrained")
    axis = figure.subplots()
    axis.plot(both[0], color=BLUE, label=r"with the factor $\sqrt{1 - \beta_t}$")
    axis.plot(both[1], "--", color=ORANGE, label="without it")
    axis.set(xlabel="timestep t", ylabel="variance of the pixels", title="What the fading is for", ylim=(0, 12))
    axis.legend(frameon=False)
    display(figure)
    return f"{both[0][-1]:.1f}; without the factor it would be about {both[1][-1]:.0f}"


reveal("1.1 variance of the pixels at the end", variances)

# %% [markdown]
# *Figure: the variance of pixels that begin at 1, over the steps, with and without the factor that fades the picture.
# Look at the two ends.*

# %% [markdown] tags=["after"]
# **1.** The step keeps $1 - \beta_t$ of the variance and adds $\beta_t$: together 1 again. The network that comes later
# always sees numbers of the same size, whatever $t$ is. Such a process is called *variance preserving*.

# %% [markdown]
# ## 2. All steps in one: what is left
#
# Each step keeps $1 - \beta_t$ of the picture's **power** (the mean of its squared pixels). What is left after step $t$
# is called $\bar\alpha_t$, "alpha bar" (DDPM, below equation 3):
#
# $$\bar\alpha_t = \prod_{s \le t} (1 - \beta_s)$$
#
# Write it: from the betas of all steps, the share that is left after each.


# %% tags=["stub"]
def alpha_bar(betas):
    """The share of the picture's power that is left after each step: `betas: t -> t`."""
    ...


# %% tags=["solution"]
def alpha_bar(betas):
    """The share of the picture's power that is left after each step: `betas: t -> t`."""
    return torch.cumprod(1 - betas, dim=0)


# %%
check.alpha_bar(alpha_bar)

# %% [markdown]
# **Guess first.** $\beta$ grows in a straight line. At which $t$ is half of the picture's power gone?

# %% tags=["stub"]
predict("1.2 the step at which half of the power is gone", ...)

# %% tags=["guess"]
predict("1.2 the step at which half of the power is gone", 500)

# %%
left = alpha_bar(betas)
diffusion = Diffusion.named("linear")
print("mine and the library's agree:", np.allclose(left, diffusion.alpha_bar, rtol=1e-12))
half = int((left < 0.5).nonzero()[0])


# %%
def remains():
    """What is left of the picture's power, and what a single step takes."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    axis = figure.subplots()
    axis.plot(left, color=BLUE, label=r"left of the picture, $\bar\alpha_t$")
    axis.plot(1 - left, "--", color=ORANGE, label=r"noise, $1 - \bar\alpha_t$")
    axis.axvline(half, color="grey", linestyle=":", label=f"half: t = {half}")
    axis.set(xlabel="timestep t", ylabel="share of the power", title="Picture and noise, linear schedule")
    axis.legend(frameon=False)
    display(figure)
    return half


reveal("1.2 the step at which half of the power is gone", remains)

# %% [markdown]
# *Figure: the shares of the power of $x_t$ that are picture and noise. Look how much of the thousand steps lies to the
# right of their crossing.*

# %% [markdown] tags=["after"]
# At a quarter of the way. What is lost multiplies, so the curve falls like the right half of a bell: by $t = 500$ less
# than a tenth is left, and the last 300 steps work on pictures with under a hundredth. Whether that is a waste is
# section 4's question.

# %% [markdown]
# ## 3. In one jump
#
# Noise on noise is noise: two Gaussians added give one whose variances add up. So all steps up to $t$ together are one
# mixture (DDPM, equation 4):
#
# $$x_t = \sqrt{\bar\alpha_t}\;x_0 + \sqrt{1 - \bar\alpha_t}\;\epsilon, \qquad \epsilon \sim \mathcal N(0, 1)$$
#
# This equation is why diffusion models can be trained cheaply: any $t$ is one line away. Write it for a batch in which
# every picture has a $t$ of its own. `b` pictures, `c` channels, `h` rows, `w` columns.


# %% tags=["stub"]
def noised(x0, eps, alpha_bar):
    """x_t in one jump: `x0, eps: b c h w, alpha_bar: b -> b c h w`."""
    ...


# %% tags=["solution"]
def noised(x0, eps, alpha_bar):
    """x_t in one jump: `x0, eps: b c h w, alpha_bar: b -> b c h w`."""
    alpha_bar = rearrange(alpha_bar, "b -> b 1 1 1")
    return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps


# %%
check.noised(noised)

# %% [markdown]
# Is it the same? Not picture by picture, for the noises differ. But it must be the same **distribution**. We let many
# copies of one pixel, worth 0.8, walk all steps one by one, and jump as many times. At every $t$ mean and standard
# deviation must agree, up to what so few copies can say (the difference of two means has a standard error of at most
# $\sqrt{2/n}$). We look at every fiftieth $t$.

# %%
random = torch.Generator().manual_seed(seed)
x, walked = torch.full((simulated,), 0.8, dtype=torch.float64), []
for beta in betas:
    x = (1 - beta).sqrt() * x + beta.sqrt() * torch.randn(simulated, generator=random, dtype=torch.float64)
    walked.append((x.mean().item(), x.std().item()))
times = torch.arange(0, 1000, 50)
pixel = torch.full((len(times), 1, simulated, 1), 0.8, dtype=torch.float64)
eps = torch.randn(pixel.shape, generator=random, dtype=torch.float64)
jumped = noised(pixel, eps, left[times])
means, deviations = (reduce(each, "t 1 n 1 -> t", "mean") for each in (jumped, (jumped - jumped.mean(2, True)) ** 2))
walked = torch.tensor(walked)[times]
error = max((walked[:, 0] - means).abs().max(), (walked[:, 1] - deviations.sqrt()).abs().max()).item()
print(f"walk and jump differ by less than five standard errors: {error < 5 * math.sqrt(2 / simulated)}")

figure = Figure(figsize=(9.5, 3), layout="constrained")
for axis, number, jumps, exact, name in zip(
    figure.subplots(1, 2),
    (0, 1),
    (means, deviations.sqrt()),
    (0.8 * left.sqrt(), (1 - left).sqrt()),
    ("mean", "standard deviation"),
    strict=True,
):
    axis.plot(exact, color="lightgrey", linewidth=5, label="equation 4")
    axis.plot(times, walked[:, number], "o", color=BLUE, label="a thousand steps")
    axis.plot(times, jumps, "x", color=ORANGE, label="one jump")
    axis.set(xlabel="timestep t", ylabel=f"{name} of the pixel", title=f"The {name} of a pixel that was 0.8")
axis.legend(frameon=False)
display(figure)

# %% [markdown]
# *Figure: mean and standard deviation of a pixel's many copies, walked step by step (dots) and jumped (crosses), and
# what equation 4 says (grey). Dots and crosses scatter a little; look for one that is off by much more.*
#
# Now use yours: the same three digits and the same noise at rising $t$, to scrub through.

# %%
eps = torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(seed))
frames = {}
for t in torch.linspace(0, 999, watched).round().int().tolist():
    x_t = noised(examples, repeat(eps, "1 c h w -> b c h w", b=3), left[[t, t, t]].float())
    frames[t] = rearrange(x_t, "b c h w -> c h (b w)").clamp(-1, 1)
scrub(frames, "Three digits into the noise", along="timestep t", at=list(frames)[watched // 3])

# %% [markdown]
# *Figure: three digits in the same noise, at a timestep that you choose. Look for the $t$ from which the noise's own
# grain is all that you see: it is the same in all three.*
#
# ## 4. Signal to noise
#
# How hard is $x_t$ to clean? What counts is how much picture there is beside the noise. Their powers are $\bar\alpha_t$
# and $1 - \bar\alpha_t$, the ratio of the two is the **signal-to-noise ratio** (SNR), and since it runs over many
# powers of ten one takes its logarithm:
#
# $$\ln \text{SNR}(t) = \ln \frac{\bar\alpha_t}{1 - \bar\alpha_t}$$
#
# It is 0 where picture and noise are equally strong.


# %% tags=["stub"]
def log_snr(alpha_bar):
    """The natural log of signal power over noise power: `alpha_bar: t -> t`."""
    ...


# %% tags=["solution"]
def log_snr(alpha_bar):
    """The natural log of signal power over noise power: `alpha_bar: t -> t`."""
    return torch.log(alpha_bar / (1 - alpha_bar))


# %%
check.log_snr(log_snr)

# %% [markdown]
# With it, schedules can be compared. Two others are in use. The **cosine** schedule (Improved DDPM, equation 17) lets
# $\bar\alpha_t$ fall along a squared cosine. **Flow matching** (notebook 12) mixes along a straight line, $x_t = (1 -
# t)\,x_0 + t\,\epsilon$ with $t$ from 0 to 1.
#
# **Guess first.** Which share of the linear schedule's steps has a log SNR below -4, where the noise is over fifty
# times as strong as the picture? In per cent.

# %% tags=["stub"]
predict("1.3 per cent of steps with nearly no picture", ...)

# %% tags=["guess"]
predict("1.3 per cent of steps with nearly no picture", 10)

# %%
schedules = {"linear": diffusion, "cosine": Diffusion.named("cosine"), "flow": Flow()}
faint = {}
for name, process in schedules.items():
    a, s = np.array([process.levels(i) for i in range(1000)]).T
    power = torch.from_numpy(a**2 / (a**2 + s**2)).clamp(1e-12, 1 - 1e-12)  # of the whole, as alpha_bar is
    faint[name] = (log_snr(power) < -4).double().mean().item()


def compared():
    """The three schedules side by side."""
    display(schedule_plot(schedules))
    return ", ".join(f"{name} {share:.0%}" for name, share in faint.items())


reveal("1.3 per cent of steps with nearly no picture", compared)

# %% [markdown]
# *Figure: three schedules: the share of the picture's power, the log of signal to noise, and the factor of the noise
# (flow's picture and noise do not add up to 1; only their ratio counts). Look where each curve in the middle crosses
# 0.*

# %% [markdown] tags=["after"]
# Nearly four in ten. That was the point of Improved DDPM: on small pictures the linear schedule destroys too early, and
# its last part can be left out with little loss (their section 3.2). DiT keeps it all the same, on latents of 32 x 32.
# One lesson for reading papers: $t$ means nothing by itself, log SNR is what compares. What the linear schedule calls
# $t = 500$ is another number elsewhere:

# %%
same = int(np.abs(schedules["cosine"].alpha_bar - schedules["linear"].alpha_bar[500]).argmin())
print(f"as noisy as t = 500 of the linear schedule is t = {same} of the cosine one")

# %% [markdown]
# ## 5. What is lost first
#
# Noise is equally strong everywhere. A picture is not: neighbouring pixels are alike, so most of its power is in broad
# shapes, and little in fine detail. To see it one takes the picture apart into waves, by the **Fourier transform**. A
# wave's frequency is counted in cycles a pixel: 0.036 is one swing over our 28 pixels, 0.5 is black and white by turns,
# the finest along a row.
#
# **Guess first.** At which frequency, in cycles a pixel, is the digits' power as strong as the noise's at $t = 250$,
# where picture and noise have about the same power over all?

# %% tags=["stub"]
predict("1.4 frequency at which the noise takes over at t = 250", ...)

# %% tags=["guess"]
predict("1.4 frequency at which the noise takes over at t = 250", 0.25)


# %%
def power_by_frequency(x):
    """Mean power of pictures at rising frequencies: `x: b 1 h w -> frequencies, power`, one of unit noise being 1."""
    x = x.double() - x.double().mean((2, 3), keepdim=True)  # frequency 0, the mean grey, is no wave
    power = (torch.fft.fft2(x, norm="ortho").abs() ** 2).mean((0, 1))
    side = torch.fft.fftfreq(x.shape[-1], dtype=torch.float64)
    radius = (rearrange(side, "h -> h 1") ** 2 + rearrange(side, "w -> 1 w") ** 2).sqrt()
    rings = torch.arange(1, x.shape[-1] // 2 + 1) / x.shape[-1]
    inside = [(radius - ring).abs() <= 0.5 / x.shape[-1] for ring in rings]
    return rings.numpy(), torch.stack([power[each].mean() for each in inside]).numpy()


pictures, labels = unseen.batch(range(read))
frequencies, power = power_by_frequency(pictures)
_, of_noise = power_by_frequency(torch.randn(pictures.shape, generator=torch.Generator().manual_seed(seed)))
print(f"the control, pure noise: power {of_noise.min():.1f} to {of_noise.max():.1f} at all frequencies")


def taken_over(t):
    """The first frequency at which noise is stronger than picture in x_t, None where there is none."""
    below = left[t].item() * power < 1 - left[t].item()
    return float(frequencies[below.argmax()]) if below.any() else None


def spectra():
    """Signal to noise in x_t, frequency by frequency, at four timesteps; and where it is 1, at every timestep."""
    figure = Figure(figsize=(9.5, 3.4), layout="constrained")
    waves, when = figure.subplots(1, 2)
    for t, style in zip((50, 250, 500, 750), ("-", "--", "-.", ":"), strict=True):
        waves.plot(frequencies, left[t].item() * power / (1 - left[t].item()), style, color=BLUE, label=f"t = {t}")
    waves.axhline(1, color=ORANGE, linewidth=1, label="equally strong")
    waves.set(title="Signal to noise in $x_t$", xlabel="frequency (cycles a pixel)", yscale="log")
    waves.set_ylabel("picture's power over noise's (log scale)")
    waves.legend(frameon=False, fontsize=8)
    lost = [(t, taken_over(t)) for t in range(0, 1000, 5) if taken_over(t)]
    when.plot(*zip(*lost, strict=True), color=GREEN)
    when.set(title="From where on the noise is stronger", xlabel="timestep t", ylabel="frequency (cycles a pixel)")
    display(figure)
    return f"about {taken_over(250):.2f}"


reveal("1.4 frequency at which the noise takes over at t = 250", spectra)

# %% [markdown]
# *Figure: left, how many times as strong as the noise the picture is in $x_t$, at each frequency, at four timesteps
# (blue); the level line is 1, where both are equally strong. Right, the frequency from which on the noise is the
# stronger. Follow a blue line down to the level one; at $t = 500$ and 750 the noise is stronger nearly everywhere. The
# right curve falls in steps, for there are only 14 frequencies.*

# %% [markdown] tags=["after"]
# At about a third of the finest frequency: broad strokes stand far out of the noise when details have long drowned in
# it. So the fine goes first and the coarse last, and on the way back it is the other way round: a diffusion model draws
# from coarse to fine, and not because anybody built that into it. U-DiT makes use of it (notebook 9).

# %% [markdown]
# ## 6. When is the digit gone?
#
# Eyes differ, so let programs read. Two of them: a **judge**, a small network that was trained on clean digits and
# ships with dit_lab; and the **nearest picture**, which names the training picture that is nearest to $x_t /
# \sqrt{\bar\alpha_t}$. The second knows the schedule and all training pictures.
#
# **Guess first.** From which $t$ on are more than half of the digits misread by the nearest-picture reader?

# %% tags=["stub"]
predict("1.5 timestep from which more than half are misread", ...)

# %% tags=["guess"]
predict("1.5 timestep from which more than half are misread", 250)

# %%
judge = zoo_judge("mnist28")
known, known_labels = digits.batch(range(len(digits)))
flat = lambda x: rearrange(x, "b c h w -> b (c h w)")


def nearest(x):
    """The label of the training picture that is nearest: `b c h w -> b`."""
    return known_labels[torch.cdist(flat(x), flat(known)).argmin(1)]


eps = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(seed))
when = list(range(0, 1000, 200 if fast else 50))
shares = {"judge, trained on clean digits": [], "nearest training picture": []}
for t in when:
    x_t = noised(pictures, eps, left[[t] * read].float())
    shares["judge, trained on clean digits"].append((judge.read(x_t) == labels).float().mean().item())
    shares["nearest training picture"].append((nearest(x_t / left[t].sqrt().float()) == labels).float().mean().item())
gone = next(t for t, share in zip(when, shares["nearest training picture"], strict=True) if share < 0.5)


def readable():
    """How many digits are read rightly at each timestep."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axis = figure.subplots()
    for (name, values), colour, style in zip(shares.items(), (ORANGE, BLUE), ("s--", "o-"), strict=True):
        axis.plot(when, values, style, color=colour, label=name, markersize=4)
    axis.axhline(0.1, color="grey", linestyle=":", label="guessing, 1 in 10")
    axis.set(xlabel="timestep t", ylabel="share of digits read rightly", title="Can it still be read?", ylim=(0, 1.02))
    axis.legend(frameon=False)
    display(figure)
    return f"about {gone}"


reveal("1.5 timestep from which more than half are misread", readable)

# %% [markdown]
# *Figure: the share of unseen digits that each reader names rightly, over the timestep; the dotted line is guessing.
# Look how far the two are apart.*

# %% [markdown] tags=["after"]
# Two things to keep. A reader made for clean digits fails long before the digit is gone; one that allows for the noise
# does not. A diffusion model is trained at all levels of noise and told which one it is. And what kind of digit it is
# gets lost in a stretch in the **middle**. On the way back that is where the network has to commit to one. Earlier than
# that (at larger $t$) the picture says next to nothing, and the label is the only clue.

# %% [markdown]
# ## Summary
#
# * A step fades the picture by $\sqrt{1 - \beta_t}$ and adds noise of variance $\beta_t$; the variance stays 1.
# * All steps up to $t$ are one jump, with $\bar\alpha_t$, the running product: checked here against a thousand steps.
# * Log SNR says how hard a step is; $t$ alone does not, and schedules spend their steps very differently.
# * Fine detail drowns first, broad shapes last, so a model that goes back draws from coarse to fine.
#
# Notebook 5 trains a network to go back, and notebook 6 walks.

# %% tags=["figures"]
print(f"half of the power is gone at t: {half}")
print("steps with a log SNR below -4:", ", ".join(f"{name} {share:.0%}" for name, share in faint.items()))
print(f"frequency at which noise takes over at t = 250: about {taken_over(250):.2f} cycles a pixel")
print(f"more than half of unseen digits misread from t: about {gone}")

# %% [markdown]
# ## What would falsify this?
#
# * *Walk and jump are the same.* Give the walk noise that is not fresh: the same $\epsilon$ at every step. The standard
#   deviations must then leave the curve. If they did not, our comparison could not see anything.
# * *Fine detail goes first because pictures are smooth.* Shuffle the pixels of every digit, in the same way for all:
#   the left figure's curves must become nearly flat, and no frequency would go before another.
# * *The digit is lost in the middle.* With the cosine schedule the middle is elsewhere in $t$. If the readers failed at
#   the same $t$ there, and not at the same log SNR, it would be $t$ that counts.
