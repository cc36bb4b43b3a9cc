# %% [markdown]
# # 7. Latent diffusion
#
# **Aim:** Train the small autoencoder in whose latents a DiT works, scale them as the diffusion process needs it, see
# what a wrong scale does, and find out what no DiT behind an autoencoder can repair.
#
# **Before:** convolutions and a training loop in PyTorch; $x_t$ and signal to noise (notebook 1), patches and tokens
# (notebook 2), the loss and the averaged weights (notebook 5), guidance (notebook 6).
#
# **Time:** about 5 minutes of computing on two CPU cores; an hour and a half with the exercises.
#
# **Exercises:** `kl_to_standard_normal`, `to_latents`
#
# The papers:
#
# * VAE: Kingma & Welling 2013, *Auto-Encoding Variational Bayes*, [arXiv 1312.6114](https://arxiv.org/abs/1312.6114)
# * latent diffusion: Rombach et al. 2021, *High-Resolution Image Synthesis with Latent Diffusion Models*, [arXiv
#   2112.10752](https://arxiv.org/abs/2112.10752)
# * DiT: Peebles & Xie 2022, *Scalable Diffusion Models with Transformers*, [arXiv
#   2212.09748](https://arxiv.org/abs/2212.09748)

# %%
import os

os.environ["TQDM_DISABLE"] = "1"  # no progress bars between the pictures

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from IPython.display import display
from matplotlib.figure import Figure
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import dit_lab
from dit_lab.course import check, predict, reveal
from dit_lab.data import Images, encoded, open_codec
from dit_lab.diffusion import Diffusion, loss_by_timestep
from dit_lab.evaluation import frechet_distance, zoo_judge
from dit_lab.inside.plots import BLUE, CATEGORIES, GREEN, ORANGE, picture_table
from dit_lab.models import count, pick_device, taking
from dit_lab.widgets import scrub

# %% [markdown]
# Everything that you may want to change is in the next cell.

# %% tags=["parameters"]
fast = os.environ.get("FAST") == "1"  # for the tests: a little of everything
device = pick_device("auto")  # the first of CUDA, an Apple GPU and the CPU
vae_steps = 10 if fast else 350  # optimiser steps of each autoencoder
weights = (1e-5, 1e-3, 1.0)  # of the penalty in the autoencoders' loss
chosen = 1e-3  # the one that all else is done with
steps = 10 if fast else 550  # optimiser steps of each DiT
wrong = 5.5  # how many times too large, and too small, the wrong scales are
sample_steps = 3 if fast else 15
judged = 150 if fast else 500  # digits that are compared at a time, a multiple of 10
seed = 0  # fixes the weights, the order of the data and all noise

# %% [markdown]
# ## 1. Why not pixels
#
# A photograph of 256 x 256 pixels has 196,608 numbers. Most of them say what their neighbours say. DiT does not denoise
# them. An **autoencoder**, trained before and then left as it is, makes 32 x 32 x 4 = 4,096 numbers of them, the
# **latent**. The DiT denoises latents (DiT, section 3.1), and only at the very end a decoder makes a picture.
#
# What is saved? A DiT's cost is counted in multiply-accumulates (MACs; the papers say "Gflops"). DiT-XL/2 cuts what it
# gets into patches of 2 x 2, a token each: 256 tokens of the latent, 16,384 of the pixels, 64 times as many.
#
# **Guess first.** How many times as many MACs would DiT-XL/2 spend on the pixels?

# %% tags=["stub"]
predict("7.1 times the MACs on pixels", ...)

# %% tags=["guess"]
predict("7.1 times the MACs on pixels", 64)


# %%
def on_pixels():
    """GMACs and tokens of DiT-XL/2 on a latent and on the pixels behind it."""
    costs = {}
    for what, channels, side in ("latent", 4, 32), ("pixels", 3, 256):
        costs[what] = count("DiT-XL/2", in_channels=channels, input_size=side).macs / 1e9
        print(f"{what}: {side} x {side} x {channels}, {(side // 2) ** 2:6,} tokens, {costs[what]:8,.0f} GMACs a step")
    return f"about {costs['pixels'] / costs['latent']:.0f}"


reveal("7.1 times the MACs on pixels", on_pixels)

# %% [markdown] tags=["after"]
# **About 208**, not 64 (the paper has the 119 on a latent as 118.64 Gflops, table 4): in attention every token looks at
# every other, so that part grows with the square of their number, 4,096-fold, and outgrows all the rest. A DiT could
# take patches of 16 x 16 pixels instead, and have 256 tokens again. Then each token must tell 768 numbers of fine
# detail by itself, and detail is what the autoencoder takes off its hands.

# %% [markdown]
# ## 2. An autoencoder that forgets on purpose
#
# An **encoder** $E$ makes a latent $z$ of a picture $x$, a **decoder** $D$ a picture of the latent. Both are trained
# together to give back what went in. That alone would allow any latents: they could lie anywhere, huge or tiny, and two
# neighbours could be two quite different pictures. But a DiT never hits a latent exactly. What it draws lies near one,
# and must be nearly its picture.
#
# So the latent is blurred while training. The encoder gives two numbers for each number of the latent: a **mean** $\mu$
# and the logarithm of a **variance**, $\ln\sigma^2$. The latent is drawn (VAE, section 2.4):
#
# $$z = \mu + \sigma\,\epsilon, \qquad \epsilon \sim \mathcal N(0, 1)$$
#
# The encoder would soon learn to undo that, by means that are huge beside $\sigma$. Hence a **penalty**: how far is
# what the encoder says, $\mathcal N(\mu, \sigma^2)$, from $\mathcal N(0, 1)$, which says nothing? The distance of two
# distributions is their **KL divergence**. For these two it is a formula (VAE, appendix B), added up over all numbers
# of the latent:
#
# $$D_\text{KL} = \frac12 \sum_{c,h,w} \left(\mu^2 + \sigma^2 - 1 - \ln\sigma^2\right)$$
#
# Its unit is the **nat**, 1.44 bits. It says how much the latent may tell about its picture: at 0 nothing. An
# autoencoder with drawn latents and this penalty is a *variational* one, a **VAE**. Write the penalty.


# %% tags=["stub"]
def kl_to_standard_normal(mean, log_variance):
    """The VAE's penalty, in nats a picture: `mean, log_variance: b c h w -> b`."""
    ...


# %% tags=["solution"]
def kl_to_standard_normal(mean, log_variance):
    """The VAE's penalty, in nats a picture: `mean, log_variance: b c h w -> b`."""
    return reduce(mean**2 + log_variance.exp() - 1 - log_variance, "b c h w -> b", "sum") / 2


# %%
check.kl_to_standard_normal(kl_to_standard_normal)

# %% [markdown]
# One number of a latent, and what it costs:

# %%
for mean, std in (0.0, 1.0), (2.0, 1.0), (2.0, 0.1), (2.0, 0.01):
    one = torch.full((1, 1, 1, 1), mean), torch.full((1, 1, 1, 1), 2 * np.log(std))
    print(f"mean {mean:g}, deviation {std:<4g}: {kl_to_standard_normal(*one).item():.2f} nats")

# %% [markdown]
# Each further decimal place costs up to 2.3 nats, the logarithm of 10. It is cheap to be a little surer.
#
# Now the data: 5,000 of MNIST's digits, which ship with dit_lab. A frame of 2 black pixels makes them 32 x 32, which
# can be halved more often. Our VAE halves twice: 1,024 pixels become a latent of 8 x 8 x 4 = 256 numbers. DiT's halves
# three times.

# %%
digits, unseen = dit_lab.open_data("mnist-small"), dit_lab.open_data("mnist-small", split="test")
if fast:
    digits = Images(digits.pixels[::10], digits.labels[::10], digits.names)
    unseen = Images(unseen.pixels[::5], unseen.labels[::5], unseen.names)
x_train, y_train = digits.batch(range(len(digits)))
x_test, y_test = unseen.batch(range(len(unseen)))
judge = zoo_judge("mnist28")
frame = lambda x: F.pad(x, (2, 2, 2, 2), value=-1)  # b 1 28 28 -> b 1 32 32
cut = lambda x: x[..., 2:-2, 2:-2].clamp(-1, 1).cpu()  # and back


class VAE(nn.Module):
    """Two halvings and two doublings: `b 1 32 32 -> b 4 8 8 -> b 1 32 32`."""

    def __init__(self, width=32, channels=4):
        super().__init__()
        conv = lambda before, after: nn.Conv2d(before, after, 3, padding=1)
        halve = lambda before, after: nn.Conv2d(before, after, 4, stride=2, padding=1)
        double = lambda before, after: nn.Sequential(conv(before, 4 * after), nn.PixelShuffle(2))
        narrow, wide, silu = width // 2, 2 * width, nn.SiLU()
        self.encoder = nn.Sequential(
            conv(1, narrow), silu, halve(narrow, width), silu, halve(width, wide), silu, conv(wide, 2 * channels)
        )
        self.decoder = nn.Sequential(
            conv(channels, wide), silu, double(wide, width), silu, double(width, narrow), silu, conv(narrow, 1)
        )

    def encode(self, x):
        """Mean and log variance of each number of the latent: `b 1 32 32 -> two of b 4 8 8`."""
        return rearrange(self.encoder(x), "b (two c) h w -> two b c h w", two=2)

    def decode(self, z):
        """The picture of a latent: `b 4 8 8 -> b 1 32 32`."""
        return self.decoder(z)


print(f"{sum(p.numel() for p in VAE().parameters()):,} weights; {judge}")


# %% [markdown]
# The loss is the squared error, added up over the pixels, and the penalty with a weight $\lambda$:
#
# $$L = \lVert x - D(z) \rVert^2 + \lambda\,D_\text{KL}$$
#
# (With $\lambda = 2 s^2$ it is, up to a factor, the bound of the VAE paper's equation 7 for pixels that are known to a
# deviation of $s$.) We train three: with hardly any penalty, with a little, and with much.
#
# **Guess first.** What size have the latents (the standard deviation over all of them) with hardly any penalty,
# $\lambda = 0.00001$? The penalty would like them to have 1.

# %% tags=["stub"]
predict("7.2 the latents' deviation with hardly any penalty", ...)

# %% tags=["guess"]
predict("7.2 the latents' deviation with hardly any penalty", 1.0)


# %%
def train_vae(weight):
    """A VAE trained with that weight on the penalty."""
    torch.manual_seed(seed)
    vae = VAE().to(device)
    optimiser = torch.optim.AdamW(vae.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=3e-3, total_steps=vae_steps)
    random = torch.Generator().manual_seed(seed)
    for _ in range(vae_steps):
        x = frame(x_train[torch.randint(len(x_train), (64,), generator=random)]).to(device)
        mean, log_variance = vae.encode(x)
        z = mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=random).to(device)
        error = reduce((vae.decode(z) - x) ** 2, "b c h w -> b", "sum")
        loss = (error + weight * kl_to_standard_normal(mean, log_variance)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return vae.requires_grad_(False).eval()


vaes = {weight: train_vae(weight) for weight in weights}

# %% [markdown]
# Each is looked at on digits that it has not seen. The size of the latents is their standard deviation, as they are
# drawn; `blur, of that` is the mean $\sigma$ as a share of it. `rms error` is the root of the mean squared error of a
# pixel, where black is -1 and white is 1. The last rows of the figure decode pure noise, $z \sim \mathcal N(0, 1)$: a
# VAE's own way to draw, without any diffusion.

# %%
spelt = lambda weight: np.format_float_positional(weight, trim="-")
noise = torch.randn(10, 4, 8, 8, generator=torch.Generator().manual_seed(seed)).to(device)
shown = [list(y_test).index(digit) for digit in range(10)]  # one of each


def looked_at(vae):
    """What a VAE makes of unseen digits, in numbers and pictures."""
    mean, log_variance = vae.encode(frame(x_test).to(device))
    rebuilt, deviation = cut(vae.decode(mean)), (log_variance / 2).exp()
    size = (mean.var() + deviation.square().mean()).sqrt()
    return {
        "size": size.item(),
        "blur": (deviation.mean() / size).item(),
        "nats": kl_to_standard_normal(mean, log_variance).mean().item(),
        "error": (rebuilt - x_test).square().mean().sqrt().item(),
        "rebuilt": rebuilt,
        "drawn": cut(vae.decode(noise)),
    }


seen = {weight: looked_at(vae) for weight, vae in vaes.items()}


def three_vaes():
    """A table of the three, and their pictures."""
    print("weight    size of the latents   blur, of that   nats a picture   rms error")
    for weight, of in seen.items():
        print(f"{spelt(weight):9} {of['size']:12.1f} {of['blur']:18.0%} {of['nats']:15.0f} {of['error']:15.2f}")
    rows = {"unseen digit": x_test[shown]}
    rows |= {f"rebuilt, λ = {spelt(weight)}": of["rebuilt"][shown] for weight, of in seen.items()}
    rows |= {f"noise decoded, λ = {spelt(weight)}": of["drawn"] for weight, of in seen.items()}
    display(picture_table(rows, range(10), "Three autoencoders"))
    return f"about {seen[weights[0]]['size']:.1f}"


reveal("7.2 the latents' deviation with hardly any penalty", three_vaes)

# %% [markdown]
# *Figure: ten unseen digits, what the three VAEs make of them, and what they make of noise. Look at the strokes of the
# rebuilt ones, and for a digit among those from noise.*

# %% [markdown] tags=["after"]
# With hardly any penalty the latents take whatever size suits the weights, here more than twice 1. Stable Diffusion's
# VAE, which DiT uses, is of that kind: its penalty's weight is about a millionth (Rombach et al., appendix G), and its
# latents' deviation about 5.5.
#
# With much penalty they are smaller and mostly blur, and the rebuilt strokes are soft and grey. Noise becomes a digit
# in none of the three: the latents of digits are a thin part of all that noise may be. That part is what the diffusion
# model has to find. The VAE only has to make it small, smooth and decodable, so its penalty is small, and it forgets
# little.

# %% [markdown]
# ## 3. What the VAE loses by itself
#
# Everything that a latent model draws comes out of the decoder. What the VAE cannot rebuild, the model cannot draw. So
# there is a **floor**, and one should know it before training anything.
#
# It is measured as the samples will be. A judge, a small network that reads digits, sees 128 features in each picture.
# The **Fréchet distance** compares two sets of pictures by the mean and covariance of their features: FID is the same
# with another network (you will write it in notebook 8). Smaller is nearer. It is not 0 between two sets of real digits
# either, since sets differ by chance, and more so the smaller they are. So all sets here have the same number of
# pictures, and all are held against the same training digits.
#
# **Guess first.** Unseen digits are held against training digits, as they are, and once rebuilt by the VAE. How many
# times as far is the rebuilt set? (Look at the rebuilt rows above.)

# %% tags=["stub"]
predict("7.3 distance of the rebuilt, over that of the real", ...)

# %% tags=["guess"]
predict("7.3 distance of the rebuilt, over that of the real", 1.1)

# %%
vae = vaes[chosen]
real_features = judge.features(x_train)
spread = torch.randperm(len(x_test), generator=torch.Generator().manual_seed(seed))[:judged]


def distance(pictures):
    """The Fréchet distance of pictures to the training digits: `b 1 28 28 -> float`."""
    return frechet_distance(judge.features(pictures), real_features)


sets = {"real": x_test[spread], "rebuilt": seen[chosen]["rebuilt"][spread]}
nothing = torch.randn(judged, 4, 8, 8, generator=torch.Generator().manual_seed(seed + 1)).to(device)
sets["noise decoded"] = cut(vae.decode(nothing * seen[chosen]["size"]))  # as large as the latents are
distances = {name: distance(pictures) for name, pictures in sets.items()}
two_digits = lambda value: f"{float(f'{value:.2g}'):.0f}"  # so that two machines agree


def floor():
    """How far each set is, and how many of it are read as the digit that they are."""
    for name, pictures in sets.items():
        read = "" if name == "noise decoded" else f"; {judge.agreement(pictures, y_test[spread]):.0%} read rightly"
        print(f"{name:14} about {two_digits(distances[name]):>4} from the training digits{read}")
    chosen_rows = seen[chosen]["rebuilt"][shown]
    rows = {"unseen digit": x_test[shown], "rebuilt": chosen_rows, "difference": chosen_rows - x_test[shown]}
    display(picture_table(rows, range(10), "What the VAE loses"))
    return f"about {distances['rebuilt'] / distances['real']:.1f}"


reveal("7.3 distance of the rebuilt, over that of the real", floor)

# %% [markdown]
# *Figure: digits, the same rebuilt, and the difference, in which grey is none. Look at where it is not grey.*

# %% [markdown] tags=["after"]
# The eye sees hardly a difference, the judge reads nearly all rightly, and yet the distance grows: at the edges of the
# strokes, where pixels were half lit, something is smoothed, in all digits alike. The distance notices what all of a
# set have in common.
#
# No DiT in these latents can be expected to come nearer than the rebuilt set. Beside noise, decoded by the same
# decoder, that is very near. In DiT's paper a better decoder alone, behind the same XL/2, moves FID from 2.46 to 2.27
# (its appendix on the VAE's decoders). At that point a good part of what is left is the VAE's.

# %% [markdown]
# ## 4. From the encoder's units to the model's
#
# The diffusion process mixes $x_0$ with noise of deviation 1, and all its numbers are made for an $x_0$ that is about
# as large: centred at 0, with a deviation near 1. Pixels in [-1, 1] are nearly so. Latents are whatever the VAE made
# them. So between the two stands
#
# $$x_0 = (z - \text{shift}) \cdot \text{factor}$$
#
# and, before the decoder, the way back. The **shift** is the latents' mean, the **scaling factor** is 1 over their
# deviation. Both are measured once and then belong to the VAE (Rombach et al., appendix G; DiT's VAE has the factor
# 0.18215 and no shift). Your function takes the means $\mu$; a deviation $\sigma$ is only multiplied by the factor.
# Write it.


# %% tags=["stub"]
def to_latents(mean, shift, factor):
    """From the encoder's units to the model's: `mean: b c h w -> b c h w`."""
    ...


# %% tags=["solution"]
def to_latents(mean, shift, factor):
    """From the encoder's units to the model's: `mean: b c h w -> b c h w`."""
    return (mean - shift) * factor


# %%
check.to_latents(to_latents)

# %% [markdown]
# The statistics of our VAE, over the training digits. A latent is drawn, so its variance is that of the means and, on
# average, $\sigma^2$ on top. Two wrong scales are made on purpose, to be followed to the end:
#
# * **too small**, by 5.5: as if somebody multiplied by 0.18215, the factor of another VAE, latents that have size 1;
# * **too large**, by 5.5: as if somebody forgot the factor of a VAE like Stable Diffusion's.

# %%
parts = [vae.encode(frame(part).to(device)) for part in x_train.split(1000)]
mean, log_variance = torch.cat([each[0] for each in parts]), torch.cat([each[1] for each in parts])
shift, std = mean.mean().item(), (mean.var() + log_variance.exp().mean()).sqrt().item()
scales = {"too small": 1 / wrong, "right": 1.0, "too large": wrong}
factors = {name: scale / std for name, scale in scales.items()}
scaled = to_latents(mean, shift, factors["right"])

figure = Figure(figsize=(9.5, 3.2), layout="constrained")
for axis, values, title in zip(
    figure.subplots(1, 2, sharey=True),
    (mean, scaled),
    ("As encoded", "Shifted and scaled, by your function"),
    strict=True,
):
    for channel in range(4):
        axis.hist(
            values[:, channel].flatten().cpu().clamp(-9, 9).numpy(), np.linspace(-9, 9, 91), histtype="step",
            density=True, color=CATEGORIES[channel], linestyle=("-", "--", "-.", ":")[channel],
            label=f"channel {channel}",
        )  # fmt: skip
    axis.set(title=title, xlabel="value of a latent", ylabel="share of the values, per unit")
axis.legend(frameon=False)
display(figure)
print(
    f"shift about {round(shift, 1) + 0}, deviation about {std:.1f}, so a scaling factor of about {factors['right']:.1f}"
)
by_channel = [reduce(scaled, "b c h w -> c", how) for how in ("mean", torch.std)]
means, stds = (", ".join(f"{value:.1f}" for value in values) for values in by_channel)
print(f"scaled, by channel: mean {means}; deviation {stds}")

# %% [markdown]
# *Figure: how the values of the four channels of the latents are spread over the training digits, before and after.
# Look how far the four differ.*
#
# One shift and one factor for all do not make each channel alike. Newer VAEs come with a mean and a deviation for each
# channel (`latents_mean`, `latents_std`), which dit_lab reads as well. DiT does with one factor, and so do we.
#
# ## 5. A wrong factor is another noise schedule
#
# Say the latents are $k$ times as large as they should be. In $x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1 -
# \bar\alpha_t}\,\epsilon$ the noise stays what it is, so the signal-to-noise ratio is $k^2$ times as large, at every
# $t$:
#
# $$\ln \text{SNR}_k(t) = \ln \frac{\bar\alpha_t}{1 - \bar\alpha_t} + 2 \ln k$$
#
# **Guess first.** With the right factor, 259 of the 1,000 timesteps have more picture than noise. How many have it when
# the latents are 5.5 times too small?

# %% tags=["stub"]
predict("7.4 timesteps with more picture than noise, too small", ...)

# %% tags=["guess"]
predict("7.4 timesteps with more picture than noise, too small", 150)

# %%
diffusion = Diffusion.named("linear")  # DiT's 1000 steps
log_snr = np.log(diffusion.alpha_bar / (1 - diffusion.alpha_bar))
styles = dict(zip(scales, ((ORANGE, "--"), (BLUE, "-"), (GREEN, "-.")), strict=True))


def shifted_schedules():
    """The three schedules that one schedule becomes."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axis = figure.subplots()
    for name, scale in scales.items():
        colour, style = styles[name]
        above = int((log_snr + 2 * np.log(scale) > 0).sum())
        axis.plot(log_snr + 2 * np.log(scale), color=colour, linestyle=style, label=f"{name}: {above} steps above 0")
    axis.axhline(0, color="grey", linewidth=0.8)
    axis.set(title="One schedule, three scales of latents", xlabel="timestep t", ylabel="ln SNR, picture over noise")
    axis.legend(frameon=False)
    display(figure)
    return int((log_snr - 2 * np.log(wrong) > 0).sum())


reveal("7.4 timesteps with more picture than noise, too small", shifted_schedules)

# %% [markdown]
# *Figure: the logarithm of the signal-to-noise ratio. Above the grey line there is more picture than noise. Look where
# each curve crosses it, and at its right end, where sampling begins.*

# %% [markdown] tags=["after"]
# **52.** Nearly all of training then is spent on noise in which no digit is to be seen, and all that makes a digit has
# to happen in the last twentieth of the way. Too large is the mirror image: at $t = 582$ there is still as much picture
# as noise, and even at the end, $t = 999$, the latents still show through a little, while sampling begins with noise
# alone.

# %% [markdown]
# The same as pictures: noisy latents of three scales, each divided by $\sqrt{\bar\alpha_t}$, so that the picture in it
# has its full size again, and then scaled back and decoded. Move the timestep.

# %%
backs = {name: lambda x, factor=factor: x / factor + shift for name, factor in factors.items()}  # the way back
few = to_latents(mean[:6], shift, 1.0)
eps = torch.randn(few.shape, generator=torch.Generator().manual_seed(seed)).to(device)


def decoded_at(t):
    """Six digits' latents with the noise of timestep t, for each scale, decoded."""
    rows = {}
    for name, factor in factors.items():
        a, s = diffusion.alpha_bar[t] ** 0.5, (1 - diffusion.alpha_bar[t]) ** 0.5
        x_t = a * few * factor + s * eps
        rows[name] = cut(vae.decode(backs[name](x_t / a)))  # over a, so that only the noise is too much
    figure = picture_table(rows, title=f"Latents with the noise of t = {t}, decoded")
    figure.set_dpi(60)
    return figure


scrub({t: decoded_at(t) for t in (0, 25, 50, 100, 200, 400, 600, 800)}, "Three scales", along="timestep t", at=100)

# %% [markdown]
# *Figure: six training digits as latents of three scales in the same noise, decoded. Look for the timestep at which
# each row can no longer be read.*
#
# ## 6. A DiT in the latents
#
# Now three DiTs, alike in everything but the scale of their latents: the same weights at birth, the same batches in the
# same order with the same timesteps and noise. Your `to_latents` feeds them: `encoded` asks a function for the mean and
# the deviation of each picture's latent, and each time that a picture is trained on, a fresh latent is drawn.
#
# Each latent of 8 x 8 makes 16 tokens with patches of 2. The networks, of 4 blocks and a width of 96, predict $v =
# \sqrt{\bar\alpha_t}\,\epsilon - \sqrt{1 - \bar\alpha_t}\,x_0$, from which noise and picture both follow. DiT's own
# choice, the noise alone, learns more slowly in so few steps (notebook 12 compares what is predicted). To compare the
# three we turn what they predict into noise: the loss is the mean squared error of the noise, on unseen digits, over
# ten timesteps from 25 to 925, the loss that you know from notebook 5.
#
# **Guess first.** Which of the three ends with the *lowest* loss: too small, right, or too large?

# %% tags=["stub"]
predict("7.5 the lowest loss", ...)

# %% tags=["guess"]
predict("7.5 the lowest loss", "right")

# %% [markdown]
# **And:** of 500 digits that are asked for, which scale has the *fewest* that can be read as what they should be: too
# small or too large?

# %% tags=["stub"]
predict("7.6 the worst digits", ...)

# %% tags=["guess"]
predict("7.6 the worst digits", "too large")


# %%
def encoder_for(factor):
    """What `encoded` asks: pictures to mean and deviation of their latents, in the model's units."""

    def encode(x):
        mean, log_variance = vae.encode(frame(x).to(device))
        return to_latents(mean, shift, factor), (log_variance / 2).exp() * factor

    return encode


def train_dit(factor):
    """A DiT trained on latents of that factor: `-> the averaged model`."""
    latents = encoded(digits, encoder_for(factor), batch_size=500)
    torch.manual_seed(seed)
    config = dit_lab.preset("DiT-nano/2", prediction="v", **taking(latents))
    model, average = (dit_lab.build(config).to(device) for _ in range(2))
    options = dit_lab.TrainOptions(steps=steps, lr=3e-3, warmup=100, ema_decay=0.99, precision="fp32", seed=seed)
    for _ in dit_lab.train(model, latents, options, average=average):
        pass
    return average.eval()


dits = {name: train_dit(factor) for name, factor in factors.items()}

# %%
wanted = torch.arange(10).repeat(judged // 10)
test_mean, _ = vae.encode(frame(x_test).to(device))
losses, drawn, sampled = {}, {}, {}
for name, dit in dits.items():
    x0 = to_latents(test_mean, shift, factors[name])
    losses[name] = loss_by_timestep(dit, x0, y_test, range(25, 1000, 100), of="eps").mean()
    latents = dit_lab.generate(dit, wanted, sampler="dpmpp", steps=sample_steps, cfg_scale=2.0, seed=seed)
    sampled[name] = latents.to(device)
    drawn[name] = cut(vae.decode(backs[name](sampled[name])))
read = {name: judge.agreement(pictures, wanted) for name, pictures in drawn.items()}
far = {name: distance(pictures) for name, pictures in drawn.items()}


def by_loss():
    """The loss of each scale, on unseen digits."""
    for name, loss in losses.items():
        print(f"{name:10} loss about {loss:.2g}")
    return min(losses, key=losses.get)


reveal("7.5 the lowest loss", by_loss)

# %% [markdown]
# Now what they draw, with a guidance scale of 2 (notebook 6), 15 steps of DPM-Solver++, a sampler that needs few of
# them (`dpmpp`), and the same first noise.

# %%
shuffled = wanted[torch.randperm(judged, generator=torch.Generator().manual_seed(seed))]


def by_eye():
    """What the three draw, and how far it is from real digits."""
    for name in scales:
        print(f"{name:10} about {read[name]:4.0%} read as asked for, distance about {two_digits(far[name])}")
    print(f"right, held against shuffled labels: {judge.agreement(drawn['right'], shuffled):.0%}")
    real, rebuilt = (two_digits(distances[name]) for name in ("real", "rebuilt"))
    print(f"distance of real digits about {real}, of rebuilt ones about {rebuilt}")
    display(picture_table({name: each[:10] for name, each in drawn.items()}, range(10), "Drawn in latents, decoded"))
    return min(("too small", "too large"), key=read.get)


reveal("7.6 the worst digits", by_eye)

# %% [markdown]
# *Figure: ten digits of each model, the label above, from the same noise in the model's units. Look at which rows can
# be read, and remember the losses.*

# %% [markdown] tags=["after"]
# The **lowest loss belongs to the worst digits**. Latents that are too small are drowned in noise; to name that noise
# is easy, one nearly only has to repeat $x_t$, and the loss is low. But what the network does not know of the latent is
# then scaled up 5.5 times on the way back. With latents that are too large the loss is high, for there is much picture
# in which little noise has to be found. They suffer too, though less: fewer are read than with the right scale, and
# their distance is a little larger. (It is so with `seed = 1` too: about 50 % of the too small are read, 94 % of the
# right and 83 % of the too large, at distances of about 430, 130 and 190.)
#
# So losses compare only within one scale of latents. A lower loss in somebody else's latent space says nothing, and an
# "improvement" that came with another VAE, or another factor, may be none.

# %% [markdown]
# ## 7. The way back
#
# The decoder wants the encoder's units. Who forgets to go back decodes latents of the wrong size. How much does that
# cost? The same latents $x_0$ of the right model, decoded after the whole way back, without it, and multiplied by the
# factor once more in its place:

# %%
ways = {
    "x0 / factor + shift": backs["right"](sampled["right"]),
    "x0": sampled["right"],
    "x0 * factor": sampled["right"] * factors["right"],
}
back = {name: cut(vae.decode(latents)) for name, latents in ways.items()}
for name, pictures in back.items():
    share = judge.agreement(pictures, wanted)
    print(f"decoded {name:19} about {share:4.0%} read as asked for, distance about {two_digits(distance(pictures))}")
picture_table({name: each[:10] for name, each in back.items()}, range(10), "One latent, three ways to decode it")

# %% [markdown]
# *Figure: the same ten latents, decoded after the whole way back, without it, and scaled once more in its place. Look
# how bright the strokes are.*
#
# By eye most digits can still be told. That is what makes this mistake hard to see: pale pictures, and a distance that
# is far too large, while everything "works". AutoencoderTiny, which is often used for quick previews of Stable
# Diffusion's latents, invites it the other way round: its factor is 1, and who divides by 0.18215 for it decodes
# latents that are 5.5 times too large.
#
# Last, the way from noise to a digit, in the latents and decoded. For that the run is recorded, and each step's $x_t$
# and predicted $x_0$ are decoded.

# %%
trajectory = dit_lab.record(dits["right"], [3], sampler="dpmpp", steps=sample_steps, cfg_scale=2.0, seed=seed)


def step_of(step):
    """One step of the way: x_t and x_0 as latents, and the predicted x_0 decoded."""
    figure = Figure(figsize=(7, 1.6), layout="constrained", dpi=70)
    axes = figure.subplots(1, 6)
    x_t, x0 = trajectory.x[step, 0], trajectory.x0[step, 0]
    for axis, latent, name in (axes[0], x_t, "$x_t$, channel 0"), (axes[1], x0, "$x_0$, channel 0"):
        axis.imshow(latent[0], cmap="cividis", vmin=-3, vmax=3)
        axis.set_title(name, fontsize=8)
    for channel in (1, 2, 3):
        axes[channel + 1].imshow(x0[channel], cmap="cividis", vmin=-3, vmax=3)
        axes[channel + 1].set_title(f"$x_0$, channel {channel}", fontsize=8)
    decoded = cut(vae.decode(backs["right"](x0[None].to(device))))
    axes[5].imshow(decoded[0, 0], cmap="gray", vmin=-1, vmax=1)
    axes[5].set_title("$x_0$, decoded", fontsize=8)
    for axis in axes:
        axis.set(xticks=[], yticks=[])
    figure.suptitle(f"A 3 at t = {trajectory.t[step]:g}", fontsize=9)
    return figure


scrub(
    {step: step_of(step) for step in range(0, sample_steps, 2)},
    "From noise to a 3, in latents",
    along="step",
    at=sample_steps // 5 * 2,
)

# %% [markdown]
# *Figure: one step of the way: $x_t$ in one channel, the predicted $x_0$ in all four (dark is -3, bright is 3), and
# what the decoder makes of it. Move the slider: the latents have the digit's place and rough shape, the decoder its
# strokes.*
#
# ## 8. Photographs, and Stable Diffusion's VAE
#
# The same at the next size ships with dit_lab: `cifar10_vae`, a VAE of 1.45 million weights for photographs of 32 x 32
# pixels, 3,000 of CIFAR-10's photographs as its latents of 8 x 8 x 4, and `cifar10`, a DiT trained in them for two and
# a half hours on one core. A VAE is opened with its factor, and its `decode` goes the whole way back by itself.

# %%
latents = dit_lab.open_data("cifar10-latents-small")
codec = open_codec(None, vae="cifar10_vae", channels=4)
x0, y = latents.batch(range(len(latents)))
factor, moved = codec.scaling
print(f"its factor {factor}, shift {moved:g}; the latents' mean {x0.mean().abs():.2f} and deviation {x0.std():.2f}")
photographs = [np.flatnonzero(latents.labels == label)[3] for label in range(10)]  # the fourth of each class
loaded = dit_lab.load("cifar10", device=device)
labels = range(10) if not fast else [8]
samples = dit_lab.generate(
    loaded.model, list(labels), sampler="dpmpp", steps=20 if not fast else 2, cfg_scale=2.0, seed=seed
)
places = [photographs[label] for label in labels]
rows = {"photograph's latent, decoded": codec.decode(x0[places]), "drawn by the DiT": codec.decode(samples.cpu())}
picture_table(rows, [latents.names[label] for label in labels], "CIFAR-10, through a small VAE")

# %% [markdown]
# *Figure: photographs as the VAE gives them back (the photographs themselves are not shipped), and what the DiT draws
# for the same classes. Look at what is missing in the first row already: fur, letters, leaves.*
#
# Measured over 10,000 test photographs, with a judge for CIFAR-10 (`dit_lab/zoo/cifar10/README.md`): real training and
# test photographs are 0.4 apart, test photographs and what the VAE makes of them **81**, and test photographs and the
# samples of this DiT 170. Distances do not simply add up, but 81 is there before the DiT has drawn anything, and a
# better DiT cannot take it away.
#
# Stable Diffusion's VAE is built in the same way, and much larger. To count it no file is needed:


# %%
def large_vae():
    """Stable Diffusion's VAE as sizes alone, without numbers."""
    from diffusers import AutoencoderKL  # here and not above, for it takes some seconds

    with torch.device("meta"):
        return AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
        )  # fmt: skip


def gmacs(compute):
    """GMACs of one picture."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        compute()
    return counter.get_total_flops() / 2e9


large = large_vae()
millions = sum(each.numel() for each in large.parameters()) / 1e6
encoding = gmacs(lambda: large.encode(torch.empty(1, 3, 256, 256)))
decoding = gmacs(lambda: large.decode(torch.empty(1, 4, 32, 32)))
a_pass = count("DiT-XL/2", input_size=32, num_classes=1000).macs / 1e9
print(f"{millions:.1f} million weights: a file of {4 * millions:.0f} MB in single precision")
print(f"a picture of 256 x 256 pixels: {encoding:.0f} GMACs to encode it, {decoding:.0f} to decode it")
print(f"a pass of DiT-XL/2: {a_pass:.0f} GMACs")

# %% [markdown]
# Decoding costs as much as between two and three passes through DiT-XL/2, of which each step with guidance takes two,
# and it is done once. Encoding is saved altogether: a data set is encoded once, before training (`python -m dit_lab
# encode`), which is why training in latents is cheap.
#
# | | our VAE | `cifar10_vae` | Stable Diffusion's, as DiT uses it |
# | --- | --- | --- | --- |
# | pixels a side, for one of the latent | 4 | 4 | 8 |
# | channels of the latent | 4 | 4 | 4 |
# | pixel values for one of the latent | 4 | 12 | 48 |
# | scaling factor | measured above | 1.02066 | 0.18215 |
# | learnt from | squared error | squared error | squared error, a perceptual and an adversarial loss |
#
# The last two losses (Rombach et al., section 3.1) are why the large one does not blur: a perceptual loss compares
# features in place of pixels, an adversarial one has a second network tell rebuilt pictures from real ones. Where it
# cannot know a detail, its decoder invents a likely one.
#
# To load it, where there is a network (it downloads the file of the size above):
#
# ```python
# codec = open_codec(None, vae="stabilityai/sd-vae-ft-ema", channels=4)
# ```
#
# Offline, give a folder in the place of the name, with the two files `config.json` and
# `diffusion_pytorch_model.safetensors`. `codec.scaling`, `codec.encode` and `codec.decode` are then used exactly as
# above. DiT's samples for its paper's FID are decoded with `sd-vae-ft-ema` (2.27; with the original decoder 2.46, with
# `sd-vae-ft-mse` 2.30). One leftover to know of: DiT's own sampling guides only the first three of the four channels
# (notebook 6).
#
# ## Summary
#
# * A latent model is two models: a VAE that makes pictures small, and a DiT that draws what is small. On pixels
#   DiT-XL/2 would cost some two hundred times as much.
# * The VAE's penalty is kept small. What it should do is keep the latents smooth, not make them noise: noise becomes no
#   digit.
# * What the VAE loses is a floor under everything that is drawn, to be measured before any DiT is trained.
# * The scaling factor is part of the noise schedule. A wrong one shifts $\ln\text{SNR}$ by $2 \ln k$. Too small a one
#   spoils the samples, and *lowers* the loss.
# * Your penalty trained the VAE, and your `to_latents` made all latents that the DiTs saw.

# %% tags=["figures"]
print(f"latents' deviation with hardly any penalty: about {seen[weights[0]]['size']:.1f}")
near = ", ".join(two_digits(distances[name]) for name in ("real", "rebuilt"))
print(f"distance of real digits, of rebuilt ones: about {near}")
for name in scales:
    print(f"scale {name}, loss: about {losses[name]:.2g}")
    print(f"scale {name}, of {judged} read as asked for: about {round(read[name], 1):.0%}")
    print(f"scale {name}, distance: about {two_digits(far[name])}")

# %% [markdown]
# ## What would falsify this?
#
# * *The factor spoils the samples by way of the noise schedule.* If it is the size of what goes into the network
#   instead, then a model with the wrong factor and a schedule shifted by $-2 \ln k$ would be as bad. Try a schedule
#   with more steps at small $t$ for the latents that are too small.
# * *Too small is worse than too large.* These are two seeds, one VAE each, and one factor. Set `seed = 2`, or put 3 for
#   `wrong`: if the order turns, it is chance.
# * *The rebuilt set is a floor.* A DiT whose samples are nearer to the training digits than rebuilt ones would refute
#   it. It can happen where the distance sees little: with few features, or few pictures (notebook 8).
# * *A little penalty is best.* We have not shown it: all DiTs here used one VAE. Set `chosen = 1e-5` and `chosen = 1.0`
#   and compare what the right scale reads.
