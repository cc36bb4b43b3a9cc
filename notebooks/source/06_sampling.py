# %% [markdown]
# # 6. Sampling
#
# **Aim:** Walk from noise to a picture with steps of your own, measure how good a solver is and how many steps it
# needs, and steer the walk by guidance.
#
# **Before:** what $x_t$ and $\bar\alpha_t$ are (notebook 1), the null label (notebook 4), and what a DiT is trained to
# predict (notebook 5). Each is said again in a sentence where it is needed.
#
# **Time:** about 5 minutes of computing on one CPU core; an hour and a half with the exercises.
#
# **Exercises:** `predicted_x0`, `ddim_step`, `posterior_mean`, `guided`
#
# The papers:
#
# * DDPM: Ho et al. 2020, *Denoising Diffusion Probabilistic Models*, [arXiv
#   2006.11239](https://arxiv.org/abs/2006.11239)
# * DDIM: Song et al. 2020, *Denoising Diffusion Implicit Models*, [arXiv 2010.02502](https://arxiv.org/abs/2010.02502)
# * guidance: Ho & Salimans 2022, *Classifier-Free Diffusion Guidance*, [arXiv
#   2207.12598](https://arxiv.org/abs/2207.12598)
# * solvers: Lu et al. 2022, *DPM-Solver++*, [arXiv 2211.01095](https://arxiv.org/abs/2211.01095); Zhao et al. 2023,
#   *UniPC*, [arXiv 2302.04867](https://arxiv.org/abs/2302.04867); Heun's method for diffusion: Karras et al. 2022,
#   [arXiv 2206.00364](https://arxiv.org/abs/2206.00364)
# * guidance in an interval: Kynkäänniemi et al. 2024, [arXiv 2404.07724](https://arxiv.org/abs/2404.07724)
# * DiT: Peebles & Xie 2022, *Scalable Diffusion Models with Transformers*, [arXiv
#   2212.09748](https://arxiv.org/abs/2212.09748)

# %%
import math
import os

import numpy as np
import torch
from einops import rearrange, reduce
from IPython.display import display
from matplotlib.figure import Figure

import dit_lab
from dit_lab.course import check, predict, reveal
from dit_lab.data import open_codec
from dit_lab.diffusion import SAMPLERS, Diffusion, ideal_denoiser, posterior_weights
from dit_lab.diffusion import posterior_mean as mean_of_pictures
from dit_lab.diffusion.solvers import Now, exponential, log_snr
from dit_lab.evaluation import frechet_distance, zoo_judge
from dit_lab.inside.plots import BLUE, CATEGORIES, GREEN, ORANGE, picture_table
from dit_lab.models import pick_device
from dit_lab.widgets import scrub

# %% [markdown]
# Everything that you may want to change is in the next cell.

# %% tags=["parameters"]
fast = os.environ.get("FAST") == "1"  # for the tests: a little of everything
device = pick_device("auto")  # the first of CUDA, an Apple GPU and the CPU
held_against = 500 if fast else 5000  # real digits that samples are compared with
judged = 20 if fast else 120  # digits drawn in each way and judged, a multiple of 10
calls = (3, 5) if fast else (5, 9, 17)  # of the network in a walk, odd numbers: what the samplers are compared at
many = 9 if fast else 33  # steps of two long walks, with fresh noise and without
scales = (1.0, 2.0) if fast else (1.0, 1.5, 2.0, 4.0)  # of guidance
colours = 10 if fast else 40  # CIFAR-10 pictures drawn at each scale in the last section, a multiple of 10
colour_steps = 4 if fast else 10
finest = 80 if fast else 320  # steps on the whole path from noise to picture, where orders are measured
seed = 0  # fixes all noise

# %% [markdown]
# ## 1. The picture that an answer implies
#
# A picture $x_0$ and noise $\epsilon$ are mixed, much picture at timestep $t = 0$, nearly all noise at $t = 999$ (DDPM,
# equation 4):
#
# $$x_t = \sqrt{\bar\alpha_t}\;x_0 + \sqrt{1 - \bar\alpha_t}\;\epsilon$$
#
# A network sees $x_t$ and answers what it believes $\epsilon$ to be. Whoever knows $x_t$ and $\epsilon$ also knows
# $x_0$: solve the equation for it. Every sampler begins with this line. All of them are one loop:
#
# 1. ask the network for the noise in $x_t$;
# 2. work out the picture that this implies, the **predicted** $x_0$;
# 3. take a step towards it, to a timestep with less noise, and ask again.
#
# They differ in step 3 alone. Write step 2. `alpha_bar` has one number for each picture of the batch.


# %% tags=["stub"]
def predicted_x0(x, eps, alpha_bar):
    """The picture that a noise prediction implies: `x, eps: b c h w, alpha_bar: b -> b c h w`."""
    ...


# %% tags=["solution"]
def predicted_x0(x, eps, alpha_bar):
    """The picture that a noise prediction implies: `x, eps: b c h w, alpha_bar: b -> b c h w`."""
    alpha_bar = rearrange(alpha_bar, "b -> b 1 1 1")
    return (x - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()


# %%
check.predicted_x0(predicted_x0)

# %% [markdown]
# To try samplers, we want a network whose answers are known to be right. For a finite set of $n$ pictures there is one,
# and it needs no training. Let each picture $x^{(k)}$ be as likely as any other. By Bayes' rule, the chance that it is
# the one behind $x_t$ is
#
# $$w_k \propto \exp\left(-\frac{\lVert x_t - \sqrt{\bar\alpha_t}\,x^{(k)} \rVert^2}
# {2\,(1 - \bar\alpha_t)}\right), \qquad \sum_k w_k = 1$$
#
# The best answer in the squared error that a DiT is trained with is the mean over those chances, $\hat x_0 = \sum_k
# w_k\,x^{(k)}$. We call who answers so the **ideal denoiser**: no network has a smaller error on these pictures. The
# pictures are 1,498 grey digits of 8 x 8 pixels, which come with scikit-learn.
#
# **Guess first.** Noise a digit, and let the ideal denoiser look. At $t = 999$ it cannot know which of the 1,498 it
# sees. At $t = 0$ it does. At which $t$, coming from the noise, is it sure for the first time: 99 per cent of the
# weight on one picture? (The median of 50 digits.)

# %% tags=["stub"]
predict("6.1 timestep at which the picture is decided", ...)

# %% tags=["guess"]
predict("6.1 timestep at which the picture is decided", 500)

# %%
digits = dit_lab.open_data("digits")
pictures, labels = digits.batch(range(len(digits)))
ideal = ideal_denoiser(pictures, labels)  # called like any DiT: x, t, y -> noise
diffusion = Diffusion.named("linear")  # the paper's 1000 steps
alpha_bars = torch.tensor(diffusion.alpha_bar, dtype=torch.float32)
NULL = 10  # the label that stands for "any": all pictures


def believed(x, t):
    """What the ideal denoiser believes the picture to be, by your function: `x: b c h w -> b c h w`."""
    times = torch.full((len(x),), t)
    return predicted_x0(x, ideal(x, times, torch.full_like(times, NULL)), alpha_bars[times])


def sureness(x0, eps, t):
    """The largest weight that a picture gets: `x0, eps: b c h w -> b`."""
    times = torch.full((len(x0),), t)
    levels = diffusion.signal_and_noise(times, x0)
    return posterior_weights(diffusion.noised(x0, times, eps), pictures, *levels).amax(dim=1)


some = pictures[:50]
eps = torch.randn(some.shape, generator=torch.Generator().manual_seed(seed))
times = torch.full((50,), 600)
x_t = diffusion.noised(some, times, eps)
closed = mean_of_pictures(x_t, pictures, *diffusion.signal_and_noise(times, x_t)).float()
print("your x0 of its answer is the weighted mean:", torch.allclose(believed(x_t, 600), closed, atol=1e-3))
grid = range(0, 1000, 50 if fast else 10)
sure = torch.stack([sureness(some, eps, t) for t in grid])
decided = [max(t for t, is_sure in zip(grid, line, strict=True) if is_sure) for line in (sure > 0.99).T]


def belief():
    """A digit on its way into noise, what is believed there, and how sure that is; the median of when it is decided."""
    shown = (900, 600, 300, 200, 100, 50)
    noised = [diffusion.noised(some[3:4], torch.tensor([t]), eps[3:4]) for t in shown]
    rows = {"$x_t$": torch.cat(noised)}
    rows["your\npredicted $x_0$"] = torch.cat([believed(x, t) for x, t in zip(noised, shown, strict=True)])
    display(picture_table(rows, [f"t = {t}" for t in shown], "What a perfect denoiser believes"))
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    axis = figure.subplots()
    axis.plot(grid, sure.median(dim=1).values, color=BLUE, label="median of 50 digits")
    axis.fill_between(
        grid, *sure.quantile(torch.tensor([0.1, 0.9]).double(), dim=1), color=BLUE, alpha=0.2, linewidth=0
    )
    axis.set(xlabel="timestep t", ylabel="largest weight of a picture", title="How sure it is which of 1,498 it sees")
    axis.legend(frameon=False)
    display(figure)
    return f"{np.median(decided):.0f}"


reveal("6.1 timestep at which the picture is decided", belief)

# %% [markdown]
# *Figure: above, one digit at six timesteps, the noisiest on the left, and what is believed to be behind it. Below, the
# weight of the likeliest picture over the timestep; the band holds 8 of 10 digits. Read the curve from right to left,
# as sampling goes.*

# %% [markdown] tags=["after"]
# Near **150**, late in the walk. Down to $t = 600$ or so the belief is the mean of hundreds of digits, a grey frame.
# Nothing is wrong with it: it is the best answer in squared error. This is why a sampler does not jump to the predicted
# $x_0$ at once, but only goes a step towards it.

# %% [markdown]
# ## 2. DDIM: noise it again, with less
#
# The simplest step 3: make $x$ at the next timestep out of the same $x_0$ and the same $\epsilon$. It is equation 4 of
# DDPM once more, with the next $\bar\alpha$ in it, and no fresh noise (DDIM, equation 12 with $\sigma_t = 0$, which is
# called $\eta = 0$).


# %% tags=["stub"]
def ddim_step(x0, eps, alpha_bar_next):
    """One deterministic step, eta 0: `x0, eps: b c h w, alpha_bar_next: b -> b c h w`."""
    ...


# %% tags=["solution"]
def ddim_step(x0, eps, alpha_bar_next):
    """One deterministic step, eta 0: `x0, eps: b c h w, alpha_bar_next: b -> b c h w`."""
    alpha_bar_next = rearrange(alpha_bar_next, "b -> b 1 1 1")
    return alpha_bar_next.sqrt() * x0 + (1 - alpha_bar_next).sqrt() * eps


# %%
check.ddim_step(ddim_step)

# %% [markdown]
# The library's loop takes a step of your own as `sampler=`. It is told where it stands: `now.i` is the number of the
# step (0 is the last), `now.x` and `now.eps` are $x_t$ and the answer; `process.levels(i)` are $\sqrt{\bar\alpha}$ and
# $\sqrt{1 - \bar\alpha}$ there, 1 and 0 for the clean picture, at step -1. (The others, which you do not need: the
# `now`s before, a function that asks the network once more, fresh noise, and $\eta$.)
#
# **Guess first.** We let the ideal denoiser draw 50 digits in 20 of your steps, each from noise of its own. How many of
# the 50 are *new*, that is, not one of the 1,498 training pictures?

# %% tags=["stub"]
predict("6.2 new digits among 50 of a perfect denoiser", ...)

# %% tags=["guess"]
predict("6.2 new digits among 50 of a perfect denoiser", 45)


# %%
def alpha_bar_at(process, like, i):
    """alpha_bar of a step of a process, one a picture: `like: b c h w -> b`."""
    return torch.full((len(like),), process.levels(i)[0] ** 2, dtype=like.dtype, device=like.device)


def my_ddim(process, now, before, ask, noise, eta):
    """A step of the walk, all of it yours: `-> x one step on, b c h w`."""
    x0 = predicted_x0(now.x, now.eps, alpha_bar_at(process, now.x, now.i))
    return ddim_step(x0, now.eps, alpha_bar_at(process, now.x, now.i - 1))


def nearest(x, known):
    """The nearest of the known pictures, and how far away it is: `x: b c h w, known: n c h w -> b c h w, b`."""
    flat = lambda each: rearrange(each.cpu().float(), "b c h w -> b (c h w)")
    distance, place = torch.cdist(flat(x), flat(known), compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
    return known[place], distance


fifty = list(range(10)) * 5
drawn = dit_lab.generate(ideal, fifty, sampler=my_ddim, steps=20, seed=seed)
theirs = dit_lab.generate(ideal, fifty, sampler="ddim", steps=20, seed=seed)
print("mine and the library's agree:", torch.allclose(drawn, theirs, atol=1e-3))
twins, away = nearest(drawn, pictures)


def newness():
    """Ten of the samples above the training pictures that are nearest; how many of all are no copies."""
    rows = {"drawn": drawn[:10], "nearest\ntraining picture": twins[:10]}
    display(picture_table(rows, range(10), "What a perfect denoiser draws"))
    print(f"largest distance of a sample to its nearest training picture: {away.max():.2f}")
    unseen, _ = dit_lab.open_data("digits", split="test").batch(range(50))
    print(f"from a real digit that is not in the set to its nearest: about {nearest(unseen, pictures)[1].mean():.0f}")
    return int((away > 0.1).sum())


reveal("6.2 new digits among 50 of a perfect denoiser", newness)

# %% [markdown]
# *Figure: ten of the samples, the label that was asked for above, and for each the training picture that is nearest to
# it. Compare them pixel by pixel.*

# %% [markdown] tags=["after"]
# **0.** All are training pictures, to the last pixel. There is no bug: the loss that a DiT is trained with has its
# smallest value on the training set at a denoiser that can draw nothing else. What makes a trained network worth having
# is that it does *not* reach that minimum. Where its belief differs from the ideal one, it draws what is not in the
# set. (How networks come to err in a useful way is a question of research; see Kadkhodaie et al. 2023, [arXiv
# 2310.02557](https://arxiv.org/abs/2310.02557).)

# %% [markdown]
# Now the control: a trained DiT. `mnist` of the zoo was trained on MNIST's 60,000 digits, 28 x 28 pixels. Your step
# walks it too. Of the 60,000, the 5,000 that ship with the library are searched.

# %%
model = dit_lab.load("mnist", device=device).model
known, _ = dit_lab.open_data("mnist-small").batch(range(0, 5000, 5000 // held_against))
unseen, unseen_labels = dit_lab.open_data("mnist-small", split="test").batch(range(1000))
mine, theirs = (dit_lab.generate(model, range(10), sampler=step, steps=20, seed=seed) for step in (my_ddim, "ddim"))
print("mine and the library's agree:", torch.allclose(mine, theirs, atol=1e-2))
twins, away = nearest(mine, known)
_, real_away = nearest(unseen[::10], known)
print(f"to the nearest of {len(known):,}, samples: about {away.median():.0f}, as root of the summed squares")
print(f"to the nearest of {len(known):,}, unseen real digits: about {real_away.median():.0f}")
picture_table({"drawn": mine.cpu(), "nearest\ntraining picture": twins}, range(10), "What a trained DiT draws")

# %% [markdown]
# *Figure: a sample of each label, 20 of your steps, and the nearest of 5,000 training pictures. Look whether a stroke
# of the one is a stroke of the other.*

# %% [markdown]
# The trained model's digits are no nearer to these training pictures than real digits are that it has not seen.
#
# ## 3. The ancestral step
#
# DDPM goes back in the way the noise came: one step at a time, and at random. If $x_0$ were known, where could
# $x_{t-1}$ have been? Bayes' rule gives a Gaussian, whose mean lies between the two (DDPM, equation 7):
#
# $$\tilde\mu_t = \frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1 - \bar\alpha_t}\,x_0 +
# \frac{\sqrt{1 - \beta_t}\,(1 - \bar\alpha_{t-1})}{1 - \bar\alpha_t}\,x_t$$
#
# $\beta_t$ is the variance that the step from $t - 1$ to $t$ had added, and $\bar\alpha_t = (1 -
# \beta_t)\,\bar\alpha_{t-1}$. The predicted $x_0$ is put in the place of the true one. Then **fresh noise** is added,
# of the variance that the network has learnt (notebook 5).


# %% tags=["stub"]
def posterior_mean(x0, x, beta, alpha_bar, alpha_bar_previous):
    """The ancestral step's mean, equation 7 of DDPM: `x0, x: b c h w; the others: b -> b c h w`."""
    ...


# %% tags=["solution"]
def posterior_mean(x0, x, beta, alpha_bar, alpha_bar_previous):
    """The ancestral step's mean, equation 7 of DDPM: `x0, x: b c h w; the others: b -> b c h w`."""
    beta, now, before = rearrange([beta, alpha_bar, alpha_bar_previous], "three b -> three b 1 1 1")
    of_x0 = beta * before.sqrt() / (1 - now)
    of_x = (1 - before) * (1 - beta).sqrt() / (1 - now)
    return of_x0 * x0 + of_x * x


# %%
check.posterior_mean(posterior_mean)

# %% [markdown]
# Each step takes noise out and puts some fresh noise back; the last puts none.
#
# **Guess first.** Why put noise back at all? Leave it out: each step goes to the mean, and that is all. A judge, a
# small classifier that has only ever seen real digits, reads the samples of an ordinary ancestral walk as the digit
# that was asked for in about 85 of 100 cases. In how many without the fresh noise?

# %% tags=["stub"]
predict("6.3 per cent read as asked for without fresh noise", ...)

# %% tags=["guess"]
predict("6.3 per cent read as asked for without fresh noise", 60)


# %%
def my_ancestral(process, now, before, ask, noise, eta):
    """The ancestral step, of your functions: `-> x one step on, b c h w`."""
    here, previous = (alpha_bar_at(process, now.x, i) for i in (now.i, now.i - 1))
    x0 = predicted_x0(now.x, now.eps, here)
    mean = posterior_mean(x0, now.x, 1 - here / previous, here, previous)
    deviation = torch.exp(now.log_variance / 2)  # of the variance that the network has learnt
    return mean + deviation * noise if now.i > 0 else mean


def my_quiet(process, now, before, ask, noise, eta):
    """The same without the fresh noise."""
    return my_ancestral(process, now, before, ask, 0 * noise, eta)


judge = zoo_judge("mnist28")
print(judge)
goal = judge.features(known)
wanted = torch.arange(10).repeat(judged // 10)


def draw(**way):
    """Digits of the trained model from the same noise each time: `-> judged 1 28 28`."""
    return dit_lab.generate(model, wanted.to(device), seed=seed, **way).cpu()


def about(distance):
    """A Fréchet distance to two digits: more does not mean anything with so few samples."""
    return f"{float(f'{distance:.2g}'):g}"


def spread(x):
    """How much samples of one label differ: the standard deviation of a pixel, averaged over pixels and labels."""
    return rearrange(x, "(many label) c h w -> many label c h w", label=10).std(dim=0).mean().item()


steps = calls[-1]
mine, theirs = (
    dit_lab.generate(model, range(10), sampler=step, steps=steps, seed=seed) for step in (my_ancestral, "ddpm")
)
print("mine and the library's agree:", torch.allclose(mine, theirs, atol=2e-2))
noisy, quiet = (draw(sampler=step, steps=steps) for step in (my_ancestral, my_quiet))
halfway = {}
for name, step in {"with fresh noise": my_ancestral, "without": my_quiet}.items():
    passed = list(dit_lab.sample(model, range(10), sampler=step, steps=steps, seed=seed))
    halfway[name] = passed[steps // 2].x.std().item()
real = torch.cat([unseen[unseen_labels == label][: judged // 10] for label in range(10)])
real = rearrange(real, "(label many) c h w -> (many label) c h w", label=10)


def without_noise():
    """Samples of two labels, with and without fresh noise, and what the judge says of all."""
    for name, x in {"with fresh noise": noisy, "without": quiet, "real digits": real}.items():
        reads = judge.agreement(x, wanted)
        print(f"{name:16} read as asked for: about {reads:4.0%}, spread within a class {spread(x):.2f}")
    for name, deviation in halfway.items():
        print(f"{name:16} standard deviation of x half-way: {deviation:.1f}")
    chosen = [place for place in range(judged) if place % 10 in (3, 7)][:10]
    rows = {"with\nfresh noise": noisy[chosen], "without": quiet[chosen]}
    display(picture_table(rows, [place % 10 for place in chosen], "The same noise to begin with, ten walks"))
    return f"about {100 * judge.agreement(quiet, wanted):.0f}"


reveal("6.3 per cent read as asked for without fresh noise", without_noise)

# %% [markdown]
# *Figure: ancestral walks to 3s and 7s, each column from noise of its own, the same in both rows. Look along a row: how
# much does one 3 differ from the next? The printed spread is the standard deviation of a pixel over the samples of one
# label.*

# %% [markdown] tags=["after"]
# Nearly **all**, and yet they are of little use: every 3 is *the* 3, whatever noise it began with. The mean holds less
# noise than belongs to the next timestep, for the fresh noise is meant to make up for that. Without it $x$ soon fades:
# half-way its standard deviation is about 0.1 where it should be near 1. All walks go through nearly the same grey
# picture, and come out as one. (DDIM adds no noise either, but it puts the old noise back at the strength that belongs
# there.) And a judge that counts what can be read does not see that anything is missing. We need a second figure, which
# does.

# %% [markdown]
# That figure is the **Fréchet distance**: the judge turns each picture into 128 numbers, its features; their mean and
# covariance over the samples are held against those of real digits (notebook 8 writes it by hand). 0 is the same; it
# grows when samples are odd, and when they are all alike. It is too large for few samples, even for real ones, so here
# are real digits in the same number as a floor:

# %%
floor = frechet_distance(judge.features(real), goal)
for name, x in {"real digits": real, "with fresh noise": noisy, "without": quiet}.items():
    distance = frechet_distance(judge.features(x), goal)
    print(f"{name:16} Fréchet distance to {len(known):,} real digits: about {about(distance)}")

# %% [markdown]
# ## 4. How good is a solver? The order, measured
#
# DDIM adds no noise, so its walk is a curve, and the steps cut it into pieces. With ever smaller pieces it becomes the
# solution of an ordinary differential equation (ODE), the *probability-flow ODE* (Song et al. 2020, [arXiv
# 2011.13456](https://arxiv.org/abs/2011.13456)). With $a$ and $s$ the factors of picture and noise, $x = a x_0 + s
# \epsilon$, it says
#
# $$dx = \hat x_0\,da + \hat\epsilon\,ds$$
#
# where the hats are the network's answers at $x$. Walking it is a problem that numerical mathematics knows well:
#
# * **Euler** goes straight on with the answer it has. That is DDIM.
# * **Heun** takes Euler's step, asks again at its end, and goes back and takes the mean of both answers. Two calls a
#   step.
# * **DPM-Solver++ (2M)** and **(3M)** draw $\hat x_0$ on as a line or a parabola through the last two or three answers,
#   in the logarithm of signal over noise. One call a step: old answers cost nothing.
# * **UniPC** also mends each step when the answer at its end comes in. That answer serves the next step too: one call a
#   step.
#
# A solver has **order** $p$ if its error falls as $h^p$ with the length $h$ of a step: half the step, $1/2^p$ of the
# error. As they are described, DDIM is of order 1, Heun and DPM-Solver++ (2M) of 2, (3M) of 3, and UniPC's mending adds
# one to what it mends, 2 + 1 = 3.
#
# **Guess first.** Which order will be *measured* for DPM-Solver++ (3M), as the library has it? (A test holds its
# numbers to those of the library diffusers.)

# %% tags=["stub"]
predict("6.4 measured order of DPM-Solver++ (3M)", ...)

# %% tags=["guess"]
predict("6.4 measured order of DPM-Solver++ (3M)", 3)

# %% [markdown]
# The ideal denoiser answers exactly, so all error is the solver's. We compute in float64, for rounding in float32 would
# hide the small errors. The steps are even in the angle $\varphi$ of $a = \cos\varphi$, $s = \sin\varphi$, nearly the
# cosine schedule of notebook 1: 0 is the picture, $\pi / 2$ the noise. The walk goes from 0.9 to 0.5 of that quarter
# turn. Further on it falls into a training picture, and errors vanish whatever the solver. The reference is a classical
# Runge-Kutta method of order 4 with small steps. Your own step is among those that are measured.

# %%
start, stop, walks = 0.9, 0.5, 8


class Quarter:
    """A process whose steps are even in the angle: step i lies at (i + 1) / steps of a quarter turn."""

    def __init__(self, steps):
        self.steps, self.timesteps = steps, range(steps)

    def levels(self, i):
        """Factors of picture and noise."""
        angle = math.pi / 2 * (i + 1) / self.steps
        return math.cos(angle), math.sin(angle)


def answer(x, a, s):
    """x0 and eps of the ideal denoiser, in float64: `x: b c h w -> b c h w, b c h w`."""
    levels = (torch.full((len(x), 1, 1, 1), each, dtype=torch.float64) for each in (a, s))
    x0 = mean_of_pictures(x, pictures, *levels)
    return x0, (x - a * x0) / s


def walk(step, steps, earlier=()):
    """From start to stop in steps of which a quarter turn has so many: `-> b c h w`.

    `earlier` are the x at the two steps before, the latest first, for steps that draw on what was before.
    """
    process, x = Quarter(steps), begin
    ask = lambda x, i: answer(x, *process.levels(i))
    stand = lambda x, i: Now(i, x, *ask(x, i), None)
    first, last = round(start * steps) - 1, round(stop * steps) - 1
    before = tuple(stand(each, first + number) for number, each in enumerate(earlier, 1))
    for i in range(first, last, -1):
        now = stand(x, i)
        x = step(process, now, before, ask, torch.zeros_like(x), 0.0)
        before = (now, *before)[:2]
    return x


def exactly(u, pieces):
    """The ODE solved from start to u by Runge-Kutta's classical method, of order 4: `-> b c h w`."""

    def slope(x, u):
        a, s = math.cos(math.pi / 2 * u), math.sin(math.pi / 2 * u)
        x0, eps = answer(x, a, s)
        return math.pi / 2 * (a * eps - s * x0)  # da = -s, ds = a

    x, at, h = begin, start, (u - start) / pieces
    for _ in range(pieces):
        k1 = slope(x, at)
        k2 = slope(x + h / 2 * k1, at + h / 2)
        k3 = slope(x + h / 2 * k2, at + h / 2)
        k4 = slope(x + h * k3, at + h)
        x, at = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), at + h
    return x


# %%
begin = torch.randn(walks, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
truth = exactly(stop, 32 if fast else 128)
sizes = [20 * 2**doubling for doubling in range(int(math.log2(finest / 20)) + 1)]
taken = [round((start - stop) * size) for size in sizes]


def errors(step, begun=False):
    """The error at the end, root mean square of a pixel, by number of steps; `begun` with two exact steps before."""
    found = []
    for size in sizes:
        earlier = [exactly(start + number / size, 8) for number in (1, 2)] if begun else ()
        found.append((walk(step, size, earlier) - truth).pow(2).mean().sqrt().item())
    return found


def order(found):
    """How fast the error falls, between the two finest walks."""
    return math.log2(found[-2] / found[-1])


solvers = {
    "DDIM, yours": my_ddim, "Heun": SAMPLERS["heun"], "DPM-Solver++ (2M)": SAMPLERS["dpmpp"],
    "DPM-Solver++ (3M)": SAMPLERS["dpmpp3"], "UniPC": SAMPLERS["unipc"],
}  # fmt: skip
fallen = {name: errors(step) for name, step in solvers.items()}
LINES = dict(zip(solvers, ("o-", "s-", "^-", "v--", "D-"), strict=True))
COLOURS = dict(zip(solvers, (*CATEGORIES, "#444444"), strict=True))


def orders():
    """Errors against steps and against calls; the measured orders."""
    figure = Figure(figsize=(9.5, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for name, found in fallen.items():
        cost = [(2 if name == "Heun" else 1) * number for number in taken]
        for axis, along in (left, taken), (right, cost):
            axis.loglog(along, found, LINES[name], color=COLOURS[name], label=name)
        print(f"{name:18} error with {taken[-1]} steps {found[-1]:.0e}, measured order {order(found):.1f}")
    left.set(title="The error by steps", xlabel="steps (log scale)", ylabel="error of a pixel, rms (log scale)")
    right.set(title="The error by calls of the network", xlabel="calls (log scale)")
    for axis, marked in (left, taken), (right, [*taken, 2 * taken[-1]]):
        axis.set_xticks(marked, marked)
        axis.set_xticks([], minor=True)
    left.legend(frameon=False, fontsize=8)
    display(figure)
    return f"{order(fallen['DPM-Solver++ (3M)']):.1f}"


reveal("6.4 measured order of DPM-Solver++ (3M)", orders)

# %% [markdown]
# *Figure: the error at the end of a part of the walk (the root mean square, rms, over the pixels of eight walks) with
# the ideal denoiser, over the steps (left) and over the calls that they cost (right). A straight line that falls by $p$
# powers of ten while the steps grow by one is order $p$. Compare which lines are parallel.*

# %% [markdown] tags=["after"]
# DDIM has order 1, Heun and (2M) have 2, UniPC has **3**. And (3M), said to be of order 3, has **2**. It is somewhat
# better than (2M), but its line is parallel to it.

# %% [markdown]
# A measured order that is not the paper's has a cause. (3M) uses a parabola of $\hat x_0$ over $\lambda = \log(a / s)$,
# whose curvature comes from differences of differences. Two suspects:
#
# * **the beginning.** The first two steps have no two earlier answers, and are taken with less;
# * **the curvature's factor.** The weights of slope and curvature in the step come from Taylor's series, $\hat
#   x_0(\lambda + h) = \hat x_0 + \hat x_0' h + \tfrac12 \hat x_0'' h^2$. A difference of differences divided by the
#   distances, as the solver has it, is $\tfrac12 \hat x_0''$; the weight that it is given belongs to $\hat x_0''$.
#
# **Guess first.** Which must be mended for order 3: the beginning, the factor, or both?

# %% tags=["stub"]
predict("6.5 what must be mended for order 3", ...)

# %% tags=["guess"]
predict("6.5 what must be mended for order 3", "the beginning")


# %%
def third(curvature):
    """DPM-Solver++ (3M), the curvature's factor multiplied by `curvature`; by 1 it is the library's."""

    def step(process, now, before, ask, noise, eta):
        if len(before) < 2:
            return SAMPLERS["dpmpp"](process, now, before, ask, noise, eta)
        ahead, here, last, first = (log_snr(process, i) for i in (now.i - 1, now.i, *(each.i for each in before)))
        h, r, q = ahead - here, (here - last) / (ahead - here), (last - first) / (ahead - here)
        slope, slope_before = (now.x0 - before[0].x0) / r, (before[0].x0 - before[1].x0) / q
        bend = (slope - slope_before) / (r + q)  # the second difference: half the second derivative
        shrunk = math.expm1(-h)
        of_slope, of_bend = -(shrunk / h + 1) / shrunk, ((shrunk + h) / h**2 - 0.5) / shrunk
        return exponential(process, now, now.x0 + of_slope * (slope + r * bend) + curvature * of_bend * bend)

    return step


same = torch.equal(walk(third(1), 40), walk(SAMPLERS["dpmpp3"], 40))
print("with factor 1 it is the library's, bit for bit:", same)
mended = {
    "as it is": errors(third(1)),
    "exact beginning": errors(third(1), begun=True),
    "factor doubled": errors(third(2)),
    "both": errors(third(2), begun=True),
}


def suspects():
    """The errors of (3M) with neither, either and both mended."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axis = figure.subplots()
    for (name, found), line, colour in zip(mended.items(), ("v--", "o-", "s-", "D-"), CATEGORIES, strict=True):
        axis.loglog(taken, found, line, color=colour, label=f"{name}: order {order(found):.1f}")
    axis.set(title="DPM-Solver++ (3M), mended", xlabel="steps (log scale)", ylabel="error of a pixel, rms (log scale)")
    axis.set_xticks(taken, taken)
    axis.set_xticks([], minor=True)
    axis.legend(frameon=False)
    display(figure)
    return ", ".join(f"{name} {order(found):.1f}" for name, found in mended.items())


reveal("6.5 what must be mended for order 3", suspects)

# %% [markdown]
# *Figure: the errors (as above) of DPM-Solver++ (3M) as it is, begun with two exact earlier answers, with the
# curvature's weight doubled, and with both. Look for the one that is steeper.*

# %% [markdown] tags=["after"]
# **Both.** Either alone leaves an error of second order, which hides that the other is mended. With both, the order is
# three. With few steps the difference is small, and it is for few steps that these solvers are used: in the project's
# long run (section 5) no difference in quality is seen between (2M) and (3M).

# %% [markdown]
# ## 5. Steps against quality
#
# Now the trained DiT, which errs by itself, and walks that begin in pure noise. What counts is no longer the error of a
# solver but what the pictures look like: the judge's reading and the Fréchet distance to real digits. No guidance yet.
#
# **Guess first.** Each may call the network 9 times: DDIM (9 steps), DPM-Solver++ (2M) (9 steps), the ancestral sampler
# (9 steps), Heun (5 steps, the last of which needs one call only). Whose samples are the *worst*, by the Fréchet
# distance?

# %% tags=["stub"]
predict("6.6 the worst of four with 9 calls", ...)

# %% tags=["guess"]
predict("6.6 the worst of four with 9 calls", "ancestral")


# %%
def steps_of(name, cost):
    """How many steps a sampler takes for so many calls."""
    return (cost + 1) // 2 if name == "heun" else cost


def quality(x):
    """Share read as asked for, and Fréchet distance to real digits."""
    return judge.agreement(x, wanted), frechet_distance(judge.features(x), goal)


compared = {"ancestral, yours": my_ancestral, "DDIM, yours": my_ddim, "Heun": "heun", "DPM-Solver++ (2M)": "dpmpp"}
ways = [(name, cost) for name in compared for cost in calls]
ways += [(name, many) for name in ("ancestral, yours", "DPM-Solver++ (2M)")]
samples = {("ancestral, yours", steps): noisy}  # those of section 3
for name, cost in ways:
    if (name, cost) not in samples:
        samples[name, cost] = draw(sampler=compared[name], steps=steps_of(compared[name], cost))
qualities = {way: quality(samples[way]) for way in ways}
middle = calls[1]


def against_steps():
    """Both figures over the calls, and the worst of the middle number."""
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, line, colour in zip(compared, ("o-", "s-", "^-", "v-"), CATEGORIES, strict=True):
        costs = [cost for of, cost in qualities if of == name]
        reads, distances = zip(*(qualities[name, cost] for cost in costs), strict=True)
        left.plot(costs, distances, line, color=colour, label=name)
        right.plot(costs, [100 * each for each in reads], line, color=colour, label=name)
    left.axhline(floor, color="grey", linestyle=":", label="real digits, as many")
    left.set(title="How far from real digits", xscale="log", yscale="log")
    left.set(xlabel="calls of the network (log scale)", ylabel="Fréchet distance (log scale)")
    right.set(title="How many can be read", xlabel="calls of the network (log scale)")
    right.set(ylabel="read as asked for, per cent")
    right.set_xscale("log")
    for axis in left, right:
        axis.set_xticks([*calls, many], [*calls, many])
        axis.set_xticks([], minor=True)
    left.set_yticks([50, 100, 200, 400], [50, 100, 200, 400])
    left.set_yticks([], minor=True)
    left.legend(frameon=False, fontsize=8)
    display(figure)
    return max(compared, key=lambda name: qualities[name, middle][1])


reveal("6.6 the worst of four with 9 calls", against_steps)

# %% [markdown]
# *Figure: Fréchet distance to real digits (left, lower is better) and share that the judge reads as the digit asked for
# (right), over how often the network was called for each sample. The dotted line is what as many real digits come to.
# Look at the left ends, and whether both panels agree on which sampler is best.*

# %% [markdown] tags=["after"]
# **Heun**, which was far ahead of DDIM on the ideal denoiser. An order is a promise for *small* steps, and these are
# not. DPM-Solver++ is best at 5 and 9 calls. From 9 on more steps hardly change it; the ancestral sampler goes on
# improving, and with 33 it is no farther from real digits. (Fresh noise also corrects errors that earlier steps made,
# as Karras et al. show.) And the panels do not agree: with 5 calls the ancestral sampler's digits are read *best*, and
# are far from real ones. Legible is not lifelike, as in 6.3.

# %% [markdown]
# One sampler deserves a second look. In its last step but one, Heun goes to $t = 0$ by Euler's step, which is long, and
# asks the network there, where it has only ever seen pictures that are all but clean. Then it takes the mean with that
# answer. The control: the same, but steps to and from $t = 0$ are yours, by DDIM.


# %%
def gentle_heun(process, now, before, ask, noise, eta):
    """Heun's step, but for the last two, which are DDIM's."""
    return (my_ddim if now.i <= 1 else SAMPLERS["heun"])(process, now, before, ask, noise, eta)


number = steps_of("heun", middle)
gentle = draw(sampler=gentle_heun, steps=number)
for name, x in {"Heun": samples["Heun", middle], "the last two by DDIM": gentle}.items():
    reads, distance = quality(x)
    print(f"{name:21} Fréchet distance about {about(distance)}, read as asked for about {reads:.0%}")
rows = {"Heun": samples["Heun", middle][:10], "the last two\nby DDIM": gentle[:10]}
picture_table(rows, range(10), f"{number} steps of Heun, and where the noise stays")

# %% [markdown]
# *Figure: digits of Heun's sampler and of the same with its last two steps by DDIM, one call less. Look at the ground
# between the strokes.*

# %% [markdown]
# Most of what Heun's distance has beyond DDIM's (the curve at 9 calls, above) goes with those two steps. A likely
# cause: Euler's long step leaves more noise in the picture than the network is told at $t = 0$, so that its answer
# there leaves that noise in; and it counts as much as the other.
#
# To look for yourself: ten digits from the same noise, by sampler and steps, with the usual guidance of 2 (section 6).

# %%
explored = {}
for name, step in {"ancestral": my_ancestral, "DDIM": my_ddim, "Heun": "heun", "DPM-Solver++": "dpmpp"}.items():
    for number in (3,) if fast else (3, 8, 24):
        x = dit_lab.generate(model, range(10), sampler=step, steps=number, cfg_scale=2.0, seed=seed).cpu()
        explored[name, number] = rearrange(x.clamp(-1, 1), "b c h w -> c h (b w)")
scrub(explored, "Ten digits by sampler and steps", along=("sampler", "steps"), at=("DDIM", number))

# %% [markdown]
# *Figure: the labels 0 to 9, always from the same noise. Move the second slider and watch one digit: where a sampler
# adds no noise, more steps sharpen the same digit; where it does, another one comes.*

# %% [markdown]
# So few samples give rough figures. The project's long run (`docs/results/fewer_steps.md`) draws 1,500 digits a way
# from the same model, with guidance 2; each call is then two passes in one:
#
# | sampler | steps | calls | Fréchet distance | read as asked for |
# | --- | ---: | ---: | ---: | ---: |
# | Heun | 3 | 5 | 609.3 | 25.3% |
# | DDIM | 4 | 4 | 79.0 | 98.7% |
# | DPM-Solver++ (2M) | 4 | 4 | 38.7 | 97.5% |
# | UniPC | 4 | 4 | 36.6 | 97.2% |
# | Heun | 5 | 9 | 132.6 | 90.5% |
# | DDIM | 10 | 10 | 32.1 | 97.4% |
# | DPM-Solver++ (2M) | 10 | 10 | 29.1 | 96.7% |
# | DPM-Solver++ (3M) | 10 | 10 | 29.1 | 96.9% |
# | UniPC | 10 | 10 | 28.8 | 96.7% |
# | Heun | 25 | 49 | 30.5 | 96.6% |
# | DDIM | 50 | 50 | 30.9 | 96.8% |
# | DPM-Solver++ (2M) | 50 | 50 | 31.3 | 96.7% |
# | ancestral | 250 | 250 | 37.2 | 98.7% |
#
# As many real digits as one of its three batches has, 500, come to 11.0. DiT samples with 250 ancestral steps; on this
# small model 10 calls come nearer to real digits.
#
# ## 6. Guidance
#
# A label can be followed more strongly than the network was taught. Ask twice, with the label $y$ and with the null
# label $\varnothing$, and exaggerate the difference by the **guidance scale** $s$:
#
# $$\hat\epsilon = \epsilon_\varnothing + s\,(\epsilon_y - \epsilon_\varnothing)$$
#
# In DiT's way of counting, $s = 1$ is no guidance; the guidance paper's $w$ is $s - 1$ (its equation 6). Each step
# takes two calls.


# %% tags=["stub"]
def guided(cond, uncond, scale):
    """Classifier-free guidance, scale 1 being none: `cond, uncond: b c h w -> b c h w`."""
    ...


# %% tags=["solution"]
def guided(cond, uncond, scale):
    """Classifier-free guidance, scale 1 being none: `cond, uncond: b c h w -> b c h w`."""
    return uncond + scale * (cond - uncond)


# %%
check.guided(guided)

# %% [markdown]
# The library takes it as `guide=`. **Guess first.** Without guidance about 80 of 100 samples of DPM-Solver++ are read
# as asked for. A larger scale gets more of them right, and makes them more alike. At which of the scales 1, 1.5, 2 and
# 4 is the Fréchet distance *smallest*?

# %% tags=["stub"]
predict("6.7 the scale nearest to real digits", ...)

# %% tags=["guess"]
predict("6.7 the scale nearest to real digits", 4)

# %%
short = dict(sampler="dpmpp", steps=middle)
mine, theirs = (
    dit_lab.generate(model, range(10), cfg_scale=2.0, seed=seed, guide=guide, **short) for guide in (guided, None)
)
print("mine and the library's agree:", torch.allclose(mine, theirs, atol=1e-3))
by_scale = {scale: draw(**short, cfg_scale=scale, guide=guided) for scale in scales if scale != 1}
by_scale = {1.0: samples["DPM-Solver++ (2M)", middle]} | by_scale
guided_quality = {scale: quality(x) for scale, x in by_scale.items()}


def against_scale():
    """Three figures over the scale, and ten samples each; the scale of the smallest distance."""
    figure = Figure(figsize=(9.5, 3), layout="constrained")
    axes = figure.subplots(1, 3)
    reads, distances = zip(*guided_quality.values(), strict=True)
    lines = [100 * each for each in reads], distances, [spread(x) for x in by_scale.values()]
    units = "read as asked for, per cent", "Fréchet distance", "standard deviation of a pixel"
    titles = "Legible", "How far from real digits", "Spread within a class"
    levels = None, floor, spread(real)
    for axis, line, unit, title, level in zip(axes, lines, units, titles, levels, strict=True):
        axis.plot(list(by_scale), line, "o-", color=BLUE)
        if level is not None:
            axis.axhline(level, color="grey", linestyle=":", label="real digits, as many")
            axis.legend(frameon=False, fontsize=8)
        axis.set(title=title, xlabel="guidance scale", ylabel=unit)
    display(figure)
    rows = {f"scale {scale:g}": x[:10] for scale, x in by_scale.items()}
    display(picture_table(rows, range(10), "The same noise, guided more and more"))
    return f"{min(guided_quality, key=lambda scale: guided_quality[scale][1]):g}"


reveal("6.7 the scale nearest to real digits", against_scale)

# %% [markdown]
# *Figure: above, over the guidance scale, how many samples are read as asked for, their Fréchet distance to real
# digits, and how much samples of one label differ. Below, ten samples at each scale from the same noise. Look at the
# thickness of the strokes.*

# %% [markdown] tags=["after"]
# A little guidance, **1.5** or 2 (with so few samples they are the same): legible at once, and not yet far away.
# Beyond, nothing is left to win in reading, and the strokes grow too bright and too alike. The paper's best FID for
# DiT-XL/2 is at 1.5 too: 9.62 without guidance, 3.22 at 1.25, 2.27 at 1.5. Its script draws pictures at 4: what pleases
# the eye is not what is nearest to the data.

# %% [markdown]
# Need it be in every step? `cfg_interval` keeps it to some timesteps; outside, one call a step is enough. Kynkäänniemi
# et al. found that it harms in the noisiest steps and is wasted on the last ones. We take a scale that is too strong,
# 4, and keep it to a part of the walk.
#
# **Guess first.** With guidance in the *last* half alone ($t < 500$), how many per cent are read as asked for? (Without
# any it was about 80, with all of it 100.)

# %% tags=["stub"]
predict("6.8 per cent read as asked for, guided at t < 500 alone", ...)

# %% tags=["guess"]
predict("6.8 per cent read as asked for, guided at t < 500 alone", 85)

# %%
parts = {"for t < 500": (0, 499), "for t >= 500": (500, 999), "from 200 to 800": (200, 800)}
strong = scales[-1]
by_part = {name: draw(**short, cfg_scale=strong, cfg_interval=part, guide=guided) for name, part in parts.items()}
by_part = {"in all of it": by_scale[strong]} | by_part


def in_parts():
    """What guidance in a part of the walk does; the share that is read with the last half."""
    for name, x in {"nowhere": by_scale[1.0], **by_part}.items():
        reads, distance = quality(x)
        print(f"guided {name:16} read as asked for about {reads:4.0%}, Fréchet distance about {about(distance)}")
    rows = {"guided\nnowhere": by_scale[1.0][:10]} | {f"guided\n{name}": x[:10] for name, x in by_part.items()}
    display(picture_table(rows, range(10), f"Scale {strong:g}, in a part of the walk"))
    return f"about {100 * judge.agreement(by_part['for t < 500'], wanted):.0f}"


reveal("6.8 per cent read as asked for, guided at t < 500 alone", in_parts)

# %% [markdown]
# *Figure: the same noise, unguided and guided with a scale that is too strong in all of the walk or in a part of it.
# Look in which rows the digit changes, and in which only its strokes do.*

# %% [markdown] tags=["after"]
# Nearly all: either half is enough to have the label followed, and each alone leaves the samples much nearer to real
# digits than guidance throughout, as the paper would have it a little nearer without the noisy half. But look at the
# controls: "from 200 to 800" has 6 of the 9 steps in it and hardly helps, and a scale of 2 in *all* of the walk is no
# farther from real digits than any of these. So a good part of it is only that there is less guidance. What an interval
# surely saves is work. In the long run, at scale 2 and with 6 steps of DPM-Solver++, guidance from 200 to 800 alone
# takes 9 passes where 12 were taken, for a Fréchet distance of 27.4 where it was 29.5.

# %% [markdown]
# ## 7. A quirk: three channels of four
#
# DiT's own script guides only the first three of the four channels of its latents (a latent is the small picture that
# an autoencoder makes of a large one, notebook 7). It is a leftover, kept so that the paper's figures can be had again.
# It makes scales incomparable: is "4" there the 4 of other programs? DiT's authors give a rule (appendix A of the
# paper): a scale of $1 + x$ on three channels is about $1 + \tfrac34 x$ on all four.
#
# `cifar10` of the zoo is a DiT on latents of four channels. **Guess first.** We draw 40 pictures with scale 4 on three
# channels, and again with other scales on all four. At which of 2, 2.5, 3, 3.25 and 4 are they nearest?

# %% tags=["stub"]
predict("6.9 the scale on four channels nearest to 4 on three", ...)

# %% tags=["guess"]
predict("6.9 the scale on four channels nearest to 4 on three", 3.25)


# %%
def three_channels(cond, uncond, scale):
    """DiT's way, by your function: the first three channels are guided, the others are as they are with the label."""
    return torch.cat([guided(cond[:, :3], uncond[:, :3], scale), cond[:, 3:]], dim=1)


painter, codec = dit_lab.load("cifar10", device=device).model, open_codec("cifar10_vae", channels=4)
asked = torch.arange(10).repeat(colours // 10)


def paint(scale, **how):
    """Latents of CIFAR-10 pictures from the same noise each time: `-> colours 4 8 8`."""
    how = dict(sampler="dpmpp", steps=colour_steps, seed=seed, cfg_scale=scale) | how
    return dit_lab.generate(painter, asked.to(device), **how).cpu()


on_three = paint(4.0, guide=three_channels)
print("mine is the library's cfg_channels=3:", torch.allclose(on_three, paint(4.0, cfg_channels=3), atol=1e-3))
on_four = {scale: paint(scale, guide=guided) for scale in ((2.0, 4.0) if fast else (2.0, 2.5, 3.0, 3.25, 4.0))}
apart = {scale: reduce((x - on_three) ** 2, "b c h w -> c", "mean").sqrt() for scale, x in on_four.items()}
whole = {scale: each.pow(2).mean().sqrt().item() for scale, each in apart.items()}
latents, _ = dit_lab.open_data("cifar10-latents-small").batch(range(3000))


def quirk():
    """How far apart the latents are by scale and channel; the pictures; the scale that is nearest."""
    figure = Figure(figsize=(9.5, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    of_three, of_fourth = zip(*((each[:3].pow(2).mean().sqrt(), each[3]) for each in apart.values()), strict=True)
    left.plot(list(apart), of_three, "o-", color=BLUE, label="in the first three")
    left.plot(list(apart), of_fourth, "s-", color=ORANGE, label="in the fourth")
    left.plot(list(apart), list(whole.values()), "D--", color="#444444", label="in all four")
    left.axvline(3.25, color="grey", linestyle=":", label="DiT's rule")
    left.set(title="How far from 4 on three channels", xlabel="scale on four channels")
    left.set(ylabel="difference of the latents, rms")
    left.legend(frameon=False, fontsize=8)
    shown = {"real latents": latents, "4 on three": on_three, "4 on four": on_four[4.0]}
    for shift, (name, x), colour in zip((-0.27, 0, 0.27), shown.items(), ("grey", GREEN, ORANGE), strict=True):
        height = x.std(dim=(0, 2, 3))
        right.bar(np.arange(4) + shift, height, 0.27, color=colour, label=name)
    right.set(title="How strong each channel is", xlabel="channel", ylabel="standard deviation", xticks=range(4))
    right.set_xticklabels(range(1, 5))
    right.set_ylim(0, 1.6)
    right.legend(frameon=False, fontsize=8, loc="upper center", ncols=3)
    display(figure)
    near = min(whole, key=whole.get)
    with torch.no_grad():
        decoded = {"4 on three": on_three, f"{near:g} on four": on_four[near], "4 on four": on_four[4.0]}
        rows = {name: codec.decode(x[:10]) for name, x in decoded.items()}
    names = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    display(picture_table(rows, names, "Scale 4, counted in two ways"))
    return f"{near:g}"


reveal("6.9 the scale on four channels nearest to 4 on three", quirk)

# %% [markdown]
# *Figure: above left, how far latents drawn with a scale on all four channels are from those with scale 4 on the first
# three: in the first three channels, in the fourth, and in all. Above right, the standard deviation of each channel.
# Below, some of the pictures. Look at where the curves have their lowest points, and at the fourth channel's bars.*

# %% [markdown] tags=["after"]
# In all four channels together, about **2.5 to 3**, below the rule's 3.25. The three guided channels by themselves are
# nearest at about 3.25, which is the rule; the fourth is nearest at the smallest scale tried, for it is not guided at
# all. So no scale on four channels gives the same: what the quirk changes is *which* numbers are pushed. Here it leaves
# the fourth channel about as strong as in real latents, where scale 4 on all makes it stronger. The rule was made for
# DiT-XL/2 on another autoencoder's latents, and by FID; to test it there takes that model and tens of thousands of
# samples.
#
# So write three things beside a guidance scale: the scale, whether 0 or 1 is none, and the channels.

# %% [markdown]
# ## Summary
#
# * Every sampler asks for the noise, works out the picture that is implied, and takes a step towards it. They differ in
#   the step.
# * A perfect denoiser draws nothing but its training set. What is new in a trained DiT's samples comes from where it
#   differs from that.
# * Ancestral steps need their fresh noise: without it all samples of a label become one. A judge of legibility does not
#   see it; the Fréchet distance does.
# * Orders can be measured, on an answer that is exact. DPM-Solver++ (3M) as it is in use has order 2; UniPC has 3.
# * With few and long steps the order says little. On the trained model Heun is worst and DPM-Solver++ is best, and
#   about 10 calls are enough.
# * A little guidance brings samples nearer to real digits, more takes them away. On three channels it is not the same
#   as less of it on four.
# * The ancestral walks and those by DDIM were your steps, and from section 6 on all guidance was your line.

# %% tags=["figures"]
print(f"timestep at which a perfect denoiser is sure: about {round(float(np.median(decided)), -1):.0f}")
print(f"new digits among 50 of a perfect denoiser: {int((nearest(drawn, pictures)[1] > 0.1).sum())}")
print(f"spread within a class with and without fresh noise: {spread(noisy):.2f}, {spread(quiet):.2f}")
for name, found in fallen.items():
    print(f"measured order of {name}: {order(found):.1f}")
print(f"measured order of DPM-Solver++ (3M), mended: {order(mended['both']):.1f}")
for name in compared:
    print(f"Fréchet distance, {middle} calls of {name}: about {about(qualities[name, middle][1])}")
for scale, (reads, distance) in guided_quality.items():
    print(f"guidance {scale:g}: about {reads:.0%} read as asked for, Fréchet distance about {about(distance)}")
print(f"nearest to guidance 4 on three channels, on four: {min(whole, key=whole.get):g}")

# %% [markdown]
# ## What would falsify this?
#
# * *A perfect denoiser can only copy.* One sample farther than rounding from every training picture would do. (Ask it
#   with very few steps of DPM-Solver++, and look what those are: errors of the solver.)
# * *DPM-Solver++ (3M) is of order 2 for the two reasons given.* If some other path, data or range gave order 3 without
#   both, they would not be the reasons. Change `start`, `stop` and `seed`.
# * *Without fresh noise all samples of a label become one.* Look at more labels, and with other models: if the spread
#   stayed near that of real digits, it would not be so.
# * *Heun fails for its answer at $t = 0$.* Ask there with the timestep that fits the noise which is really in $x$. If
#   the noise stayed all the same, the cause would be another.
# * *The panels' ranks are real, and not chance.* Take another seed and more samples; ranks that change are chance. At 9
#   and more calls those of DDIM, DPM-Solver++ and the ancestral sampler may.
