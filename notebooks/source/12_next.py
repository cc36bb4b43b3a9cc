# %% [markdown]
# # 12. What came next
#
# **Aim:** Try what later papers changed in DiT, one change at a time, each beside its control.
#
# **Before:** attention (notebook 3), training (5), sampling and guidance (6). What is needed is said again.
#
# **Time:** about 9 minutes of computing on two CPU cores; an hour with the exercises.
#
# **Exercises:** `velocity`, `rotate`, `rms_norm`
#
# The papers:
#
# * flow matching: Liu et al. 2022, *Rectified Flow*, [arXiv 2209.03003](https://arxiv.org/abs/2209.03003); Ma et al.
#   2024, *SiT*, [arXiv 2401.08740](https://arxiv.org/abs/2401.08740)
# * predicting the picture: Salimans & Ho 2022, *Progressive Distillation*, [arXiv
#   2202.00512](https://arxiv.org/abs/2202.00512); Li & He 2025, *Back to Basics*, [arXiv
#   2511.13720](https://arxiv.org/abs/2511.13720)
# * rotary positions: Su et al. 2021, *RoFormer*, [arXiv 2104.09864](https://arxiv.org/abs/2104.09864)
# * QK-norm: Dehghani et al. 2023, *ViT-22B*, [arXiv 2302.05442](https://arxiv.org/abs/2302.05442)
# * registers: Darcet et al. 2023, *Vision Transformers Need Registers*, [arXiv
#   2309.16588](https://arxiv.org/abs/2309.16588)
# * guidance interval: Kynkäänniemi et al. 2024, [arXiv 2404.07724](https://arxiv.org/abs/2404.07724)

# %%
import os
from copy import deepcopy

import torch
from einops import rearrange, reduce, repeat
from IPython.display import display
from matplotlib.figure import Figure
from torch import nn

import dit_lab
from dit_lab.course import check, predict, reveal
from dit_lab.diffusion import PREDICTIONS, Diffusion
from dit_lab.evaluation import frechet_distance, zoo_judge
from dit_lab.inside.plots import BLUE, GREEN, picture_table
from dit_lab.models import BLOCKS, pick_device, taking
from dit_lab.models.layers import Attention
from dit_lab.training import TrainOptions

# %% [markdown]
# Everything that you may want to change is in the next cell.

# %% tags=["parameters"]
fast = os.environ.get("FAST") == "1"  # for the tests: a little of everything
device = pick_device("auto")  # the first of CUDA, an Apple GPU and the CPU
steps = 5 if fast else 400  # optimiser steps of every model here
judged = 10 if fast else 200  # samples that are read of each, a multiple of 10
lr = 8e-3  # the learning rate; it suits the base model, and section 4 shows four times as much
seed = 0  # fixes the weights, the order of the data and all noise

# %% [markdown]
# ## 1. One model, and one change at a time
#
# DiT is of 2022. Much has been tried on it since, and reports of what helped come from large models, where nothing can
# be tried twice. Here the models are tiny, so that every change can stand beside its control: the same data in the same
# order, the same noise, the same first weights. What a tiny model does **not** show, a large one may. So read each
# result as "here", not as "always".
#
# The data are 5,000 of MNIST's digits, cut into 16 patches of 7 x 7 pixels. The base model predicts $v$ (section 2) and
# learns no variance (notebook 5), since flow matching has none to learn. After 400 steps each model draws 200 digits
# from the same noise, with guidance 2. Two judgements: how many a trained reader, the **judge**, reads as the digit
# that was asked for, and the **Fréchet distance** of the judge's features to those of real digits (notebook 8; smaller
# is better, and with 200 samples it is rough).

# %%
digits = dit_lab.open_data("mnist-small")
judge = zoo_judge("mnist28")
real = judge.features(dit_lab.open_data("mnist-small", split="test").batch(range(1000))[0])
wanted = torch.arange(10).repeat(judged // 10)
results, drawn = {}, {}


def born(change=None, seed=seed, **fields):
    """A new model: the base, with other `fields` of its config, or changed by a function of the model."""
    torch.manual_seed(seed)
    fields = {"prediction": "v", "learned_variance": False} | fields
    model = dit_lab.build("DiT-nano/2", patch_size=7, **fields, **taking(digits)).to(device)
    if change:
        change(model)
    return model


def experiment(name, change=None, seed=seed, lr=lr, **fields):
    """Train one model with one change, draw with it, and keep what the judge says: `-> the averaged model`."""
    model = born(change, seed, **fields)
    average = deepcopy(model)
    options = TrainOptions(steps=steps, batch_size=64, lr=lr, warmup=50, ema_decay=0.99, seed=seed, precision="fp32")
    for _ in dit_lab.train(model, digits, options, average=average):
        pass
    samples = dit_lab.generate(average, wanted.to(device), sampler="heun", steps=10, cfg_scale=2.0, seed=0).cpu()
    distance = frechet_distance(judge.features(samples), real) if judged > 128 else float("nan")
    results[name], drawn[name] = (judge.agreement(samples, wanted), distance), samples[:10]
    return average


def table(*names):
    """What the judge says of some models."""
    print(f"{'':28}{'read as asked':>15}{'distance':>11}")
    for name in names:
        share, distance = results[name]
        print(f"{name:28}{f'about {share:.0%}':>15}{distance:11.0f}")


# %% [markdown]
# How much of a difference is chance? It comes from two places: from which 200 samples are drawn, and from the seed of
# the training. The first can be computed: the difference of two shares of $n$ samples has a standard error of
# $\sqrt{2p(1-p)/n}$, where $p$ is the share. For the second the base model is trained twice, with two seeds: other
# first weights, another order of the data, other noise. Each change below is trained with one seed only, for time's
# sake, so a small gap is worth little: it counts as a difference here only if it is larger than two standard errors and
# than the gap between the two seeds.

# %%
base = experiment("base (predicts v)")
experiment("base, another seed", seed=1)
p, another = (results[name][0] for name in ("base (predicts v)", "base, another seed"))
chance = max(2 * (2 * p * (1 - p) / judged) ** 0.5, abs(p - another))
table("base (predicts v)", "base, another seed")
print(f"a difference by chance, of the shares: up to about {100 * chance:.0f} points")

# %% [markdown]
# ## 2. What is asked for: the velocity
#
# DDPM mixes picture and noise along a curve, $x_t = a_t\,x_0 + s_t\,\epsilon$ with $a_t^2 + s_t^2 = 1$ (notebook 1,
# where $a_t^2$ is $\bar\alpha_t$). **Flow matching** mixes them along a straight line, with $t$ from 0 to 1:
#
# $$x_t = (1 - t)\,x_0 + t\,\epsilon$$
#
# and asks the network for the **velocity**: how $x_t$ changes as $t$ grows. Along a straight line it is the same at
# every $t$. Write it.


# %% tags=["stub"]
def velocity(x0, eps):
    """The target of flow matching, from picture (t = 0) to noise (t = 1): `x0, eps: b c h w -> b c h w`."""
    ...


# %% tags=["solution"]
def velocity(x0, eps):
    """The target of flow matching, from picture (t = 0) to noise (t = 1): `x0, eps: b c h w -> b c h w`."""
    return eps - x0


# %%
check.velocity(velocity)

# %% [markdown]
# Your line becomes the library's target: the table of predictions holds, for each, what the network is trained towards
# and how the picture is got back from it. For a moment its entry for the velocity is yours.

# %%
library = PREDICTIONS["velocity"]
PREDICTIONS["velocity"] = library._replace(target=lambda x0, eps, a, s: velocity(x0, eps))
x0, eps = torch.randn(2, 4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
same = torch.allclose(PREDICTIONS["velocity"].target(x0, eps, 0, 0), library.target(x0, eps, 0, 0))
print("mine and the library's agree:", same)

# %% [markdown]
# So flow matching changes two things: what is asked for, and the path. We change them one at a time. First what is
# asked for, on DDPM's curve. One and the same network can be asked for four things: the noise $\epsilon$, the picture
# $x_0$, $v = a_t\,\epsilon - s_t\,x_0$, a mixture of both that changes with $t$, and your velocity. Knowing $x_t$, each
# gives all others. So it should not matter which. **Guess first.** Which of the four is read best after 400 steps? And
# worst?

# %% tags=["stub"]
predict("12.1 best and worst thing to predict, of eps, x0, v and velocity", ...)

# %% tags=["guess"]
predict("12.1 best and worst thing to predict, of eps, x0, v and velocity", "velocity, x0")

# %%
experiment("eps", prediction="eps")
experiment("x0", prediction="x0")
experiment("velocity", prediction="velocity")
asked = {"eps": "eps", "x0": "x0", "v": "base (predicts v)", "velocity": "velocity"}
share = {name: results[each][0] for name, each in asked.items()}
best = [name for name in asked if share[name] >= max(share.values()) - chance]  # all that chance may have put there


def four_targets():
    """Samples of four models that were asked for four things."""
    table(*asked.values())
    samples = {name: drawn[each] for name, each in asked.items()}
    display(picture_table(samples, range(10), "What the network is asked for, on DDPM's curve"))
    return f"best {' and '.join(best)}, worst {min(share, key=share.get)}"


reveal("12.1 best and worst thing to predict, of eps, x0, v and velocity", four_targets)

# %% [markdown]
# *Figure: ten samples, from the same noise, of four models that differ in what they predict and in nothing else. Look
# at the strokes of the first row, and at the ground around the digits in the others.*

# %% [markdown] tags=["after"]
# The noise is by far the worst. $x_0$ and $v$ are within chance of each other, and the velocity is behind them by about
# as much as chance may be: there is no order to be read from these three. Two reasons are known for the noise.
# *Salimans & Ho* (section 4): from a predicted noise the picture is got back by $x_0 = (x_t - s_t\,\epsilon) / a_t$,
# and at the noisy end $a_t$ is 0.006, so an error of the network is multiplied by 160. None of the others divides by
# anything small. *Back to Basics*: noise fills all 49 numbers of a patch evenly, and to name it each must be passed
# through the network; pictures lie in far fewer dimensions. Which of the two it is here, or whether the noise only
# takes longer, this does not tell.
#
# One change at a time is harder than it looks. Let the models learn their variance (`learned_variance=True` in `born`):
# $v$ hardly minds, but $x_0$ collapses to nearly one grey for every label (try it), and one might have put it down to
# $x_0$.

# %% [markdown]
# Now the path: the straight line in the place of the curve, nothing else. On it dit_lab asks for the velocity or for
# $x_0$. From $\epsilon$ no picture can be got back at $t = 1$, where nothing of it is left, and $v$ is made for the
# curve.
#
# **Guess first.** Is each of the two read better or worse on the straight line than on the curve?

# %% tags=["stub"]
predict("12.2 on the straight line: velocity better or worse, x0 better or worse", ...)

# %% tags=["guess"]
predict("12.2 on the straight line: velocity better or worse, x0 better or worse", "velocity better, x0 the same")

# %%
experiment("velocity, straight (flow)", prediction="velocity", schedule="flow")
experiment("x0, straight", prediction="x0", schedule="flow")
PREDICTIONS["velocity"] = library
paths = {
    "velocity,\ncurve": "velocity", "velocity,\nstraight": "velocity, straight (flow)",
    "x0,\ncurve": "x0", "x0,\nstraight": "x0, straight",
}  # fmt: skip
better = {
    name: "better" if results[straight][0] > results[name][0] else "worse"
    for name, straight in {"velocity": "velocity, straight (flow)", "x0": "x0, straight"}.items()
}


def two_paths():
    """Samples of two targets on two paths."""
    table(*paths.values())
    display(picture_table({name: drawn[each] for name, each in paths.items()}, range(10), "Two targets on two paths"))
    return ", ".join(f"{name} {said}" for name, said in better.items())


reveal("12.2 on the straight line: velocity better or worse, x0 better or worse", two_paths)

# %% [markdown]
# *Figure: samples of two targets, each on DDPM's curve and on flow matching's straight line, from the same noise. The
# first and third row are those of the figure before. Compare rows two by two.*

# %% [markdown] tags=["after"]
# The velocity is read far less often on the straight line, and $x_0$ more often, more than all other models here. So
# neither "the velocity is better" nor "the straight line is better" is a sentence: the pair counts. *Back to Basics*
# asks large patches for the picture on the straight line (and weighs its error as the velocity's), and that is the pair
# that is best here. *SiT* asks for the velocity on it, and gains by it, on latents with small patches and in long
# training.
#
# And the path is two things in one, too: another way through the noise, and another share of the steps at each ratio of
# signal to noise. On the curve 37 % of the steps are nearly pure noise, on the straight line 12 % (notebook 1). To tell
# the two apart, one would train both with the same spread of log SNR.

# %% [markdown]
# ## 3. Where a token is: turning instead of adding
#
# DiT adds a fixed code of each place to its token (notebook 2). **Rotary positions** (RoPE) add nothing. They turn the
# queries and keys of attention: features are taken in neighbouring pairs, each pair is a point in a plane, and it is
# turned by an angle that grows with the token's place. The first pair turns by one radian a place, each further pair
# more slowly (RoFormer, section 3.2).
#
# $$(a, b) \mapsto (a \cos\theta - b \sin\theta,\; a \sin\theta + b \cos\theta)$$


# %% tags=["stub"]
def rotate(x, angles):
    """RoPE on neighbouring pairs of features: `x: b head n e, angles: n (e/2) -> b head n e`."""
    ...


# %% tags=["solution"]
def rotate(x, angles):
    """RoPE on neighbouring pairs of features: `x: b head n e, angles: n (e/2) -> b head n e`."""
    first, second = rearrange(x, "b head n (pair two) -> two b head n pair", two=2)
    turned = first * angles.cos() - second * angles.sin(), first * angles.sin() + second * angles.cos()
    return rearrange(list(turned), "two b head n pair -> b head n (pair two)")


# %%
check.rotate(rotate)

# %% [markdown]
# **Guess first.** A query and a key, turned by their places, give a product. Now both are moved along by three places.
# What happens to the product?

# %% tags=["stub"]
predict("12.3 what the product of query and key does when both move by three places", ...)

# %% tags=["guess"]
predict("12.3 what the product of query and key does when both move by three places", "it changes a little")

# %%
random = torch.Generator().manual_seed(seed)
q, k = torch.randn(2, 8, generator=random)
frequencies = 10 ** -torch.arange(4.0)
places = torch.arange(20.0)
angles = rearrange(places, "n -> n 1") * frequencies
turned = [rotate(repeat(each, "e -> 1 1 n e", n=20), angles)[0, 0] for each in (q, k)]
products = turned[0] @ turned[1].T  # i j: query at place i, key at place j


def by_distance():
    """The product of one query and one key at all pairs of places."""
    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    axis = figure.subplots()
    drawn = axis.imshow(products, cmap="viridis")
    axis.set(title="One query, one key, all places", xlabel="place of the key", ylabel="place of the query")
    axis.set_xticks(range(0, 20, 5))
    axis.set_yticks(range(0, 20, 5))
    figure.colorbar(drawn, ax=axis, label="product")
    display(figure)
    moved = (products[3:, 3:] - products[:-3, :-3]).abs().max().item()
    return "the same as before" if moved < 1e-4 else f"another, by up to {moved:.1g}"


reveal("12.3 what the product of query and key does when both move by three places", by_distance)

# %% [markdown]
# *Figure: the product of one and the same query and key, turned by every place of the query (down) and of the key
# (across). Look along the diagonals.*

# %% [markdown] tags=["after"]
# It depends on the *distance* of the two alone. Where a token stands is not told; how far it is from another, and in
# which direction, is. That is the reason given for using RoPE where pictures come in many sizes.

# %% [markdown]
# In a picture a place is a row and a column, so half of the pairs turn by the row and half by the column. We put your
# function in front of attention itself, which is a module of its own in dit_lab, `attend`: whoever looks in sees the
# queries and keys that come in there, and so sees yours. Three models: with DiT's table, with no positions at all, and
# with yours.


# %%
class Prepared(Attention):
    """DiT's attention, after `prepare` has been done to queries and keys: `x: b n d -> b n d`."""

    def __init__(self, attention, prepare):
        super().__init__(attention.out.in_features, attention.heads)
        self.load_state_dict(attention.state_dict())  # the same first weights
        self.prepare = prepare

    def forward(self, x):
        q, k, v = rearrange(self.qkv(x), "b n (qkv head e) -> qkv b head n e", qkv=3, head=self.heads)
        z = self.attend(self.prepare(q), self.prepare(k), v)
        return self.out(rearrange(z, "b head n e -> b n (head e)"))


def prepared(model, prepare):
    """Let every block of a model do something to its queries and keys first."""
    for block in model.blocks:
        block.attn = Prepared(block.attn, prepare).to(device)


def grid_angles(rows, columns, pairs):
    """The angles of the places of a grid, half of the pairs by row, half by column: `-> n pair`."""
    frequencies = 10_000 ** (-torch.arange(pairs // 2) / (pairs // 2))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.cat([rearrange(each, "h w -> (h w) 1") * frequencies for each in (row, column)], dim=1)


def no_positions(model):
    """Take the table of positions out."""
    model.positions.zero_()


def rotary(model):
    """Rotary positions in the place of the table."""
    no_positions(model)
    angles = grid_angles(*model.config.grid, model.config.dim // model.config.heads // 2).to(device)
    prepared(model, lambda x: rotate(x, angles))


experiment("no positions", no_positions)
experiment("rotary positions", rotary)
table("base (predicts v)", "no positions", "rotary positions")
named = {"DiT's table": "base (predicts v)", "none": "no positions", "rotary": "rotary positions"}
picture_table({name: drawn[each] for name, each in named.items()}, range(10), "Positions: a table, none, rotary")

# %% [markdown]
# *Figure: samples of three models that differ in how a token knows its place. Look what goes wrong in the middle row.*
#
# Without any positions the patches are drawn and do not know where they belong: that is the control. Rotary positions
# help, and yet DiT's table is far ahead in this short training, by much more than chance. A reason that fits: these
# digits are centred, so the *place* says much, and RoPE tells distances only. Papers that gain by it have pictures in
# which anything may be anywhere, of many sizes.
#
# ## 4. Queries and keys of one length
#
# Attention weighs by $\exp(q \cdot k / \sqrt e)$, with $e$ features a head. If training lets queries and keys grow, the
# largest product soon takes all, the softmax is 0 and 1, and its gradient is gone: in large models trainings were lost
# by it. **QK-norm** divides each query and key by its root mean square before the product:
#
# $$\hat q = \frac{q}{\sqrt{\frac{1}{e} \sum q_i^2 + 10^{-6}}}$$


# %% tags=["stub"]
def rms_norm(x):
    """QK-norm without a weight, eps 1e-6: `x: b head n e -> b head n e`."""
    ...


# %% tags=["solution"]
def rms_norm(x):
    """QK-norm without a weight, eps 1e-6: `x: b head n e -> b head n e`."""
    return x / torch.sqrt(reduce(x**2, "b head n e -> b head n 1", "mean") + 1e-6)


# %%
check.rms_norm(rms_norm)

# %% [markdown]
# It goes where your rotation went. **Guess first.** A tiny model is trained with four times the learning rate, with and
# without QK-norm. Does QK-norm help it?

# %% tags=["stub"]
predict("12.4 at four times the rate: is QK-norm better, worse, or the same", ...)

# %% tags=["guess"]
predict("12.4 at four times the rate: is QK-norm better, worse, or the same", "better")


# %%
def qk_norm(model):
    """QK-norm in every block."""
    prepared(model, rms_norm)


def looked_into(model):
    """One forward on 64 noisy digits at t = 300, watched: `-> what was seen`."""
    x0, y = digits.batch(range(64))
    t, eps = torch.full((64,), 300), torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed))
    x_t = Diffusion.named("linear").noised(x0, t, eps)
    with torch.no_grad(), dit_lab.watch(model) as seen:
        model(x_t.to(device), t.to(device), y.to(device))
    return seen


def largest(model):
    """The largest product of a query and a key, as the softmax sees it, in any block: one number."""
    products = [
        q @ rearrange(k, "b head j e -> b head e j") / q.shape[-1] ** 0.5 for q, k in looked_into(model).q_k.values()
    ]
    return max(each.abs().max().item() for each in products)


logits = {"base": largest(base)}
for name, change in {"4 x rate": None, "4 x rate, QK-norm": qk_norm}.items():
    logits[name] = largest(experiment(name, change, lr=4 * lr))
gap = results["4 x rate, QK-norm"][0] - results["4 x rate"][0]


def with_and_without():
    """What the judge says of the three."""
    table("base (predicts v)", "4 x rate", "4 x rate, QK-norm")
    for name, value in logits.items():
        print(f"largest product of query and key, {name}: about {value:.0f}")
    return "the same, within chance" if abs(gap) <= chance else "better" if gap > 0 else "worse"


reveal("12.4 at four times the rate: is QK-norm better, worse, or the same", with_and_without)

# %% [markdown] tags=["after"]
# Look at the products, of 64 noisy digits at $t = 300$. At four times the rate they have run away into the hundreds or
# thousands: there the softmax is 0 and 1, its gradient is gone, and hardly more is read than by guessing (one in ten).
# With QK-norm they are bounded, by $\sqrt e$ (here 4.9), and something is learnt: about twice as many are read, and the
# distance is smaller. That is little. The gap in what is read is hardly larger than chance, and the base, at the rate
# that suits it and without the cure, is far ahead of both. It points the way that ViT-22B reports (without QK-norm
# training was lost), but of what too high a rate does, the products are only a part.

# %% [markdown]
# ## 5. Registers
#
# Large transformers turn some tokens of plain background into scratch paper: tokens of huge norm that all others look
# at, **sinks** (notebook 10). *Registers* give them paper of their own, a few learnt tokens that join the sequence and
# are thrown away at the end. In dit_lab a block may let tokens in before the first block and out after the last. (Every
# block here is made with registers, but the model lets only the first block's in.)


# %%
class WithRegisters(BLOCKS["adaln_zero"]):
    """adaLN-Zero with four learnt tokens more: `x: b (n + 4) d -> b (n + 4) d`."""

    name, title = "with_registers", "adaLN-Zero, registers"

    def __init__(self, dim, heads, attn, mlp):
        super().__init__(dim, heads, attn, mlp)
        own = torch.Generator().manual_seed(0)  # so that all other weights begin as the control's do
        self.registers = nn.Parameter(0.02 * torch.randn(4, dim, generator=own))

    def enter(self, x, cond):
        return torch.cat([x, repeat(self.registers, "k d -> b k d", b=len(x))], dim=1)

    @staticmethod
    def exit(x, cond):
        return x[:, :-4]


# %% [markdown]
# **Guess first.** Do four registers help the tiny model?

# %% tags=["stub"]
predict("12.5 with registers: better, worse, or the same", ...)

# %% tags=["guess"]
predict("12.5 with registers: better, worse, or the same", "the same")

# %%
registered = experiment("registers", block="with_registers")
control, ours = born().state_dict(), born(block="with_registers").state_dict()
print("all first weights but the registers are the control's:", all(control[at].equal(ours[at]) for at in control))
norms = torch.stack([each.norm(dim=-1) for each in looked_into(base).features.values()])  # block b n
sink = (norms.amax(dim=-1) / norms.median(dim=-1).values).mean(1).max().item()
seen = looked_into(registered)
paid = torch.stack([seen.attention(block)[..., :16, -4:].sum(-1).mean() for block in range(base.config.depth)])
gap = results["registers"][0] - results["base (predicts v)"][0]


def registers():
    """What the judge says, and whether there was anything to cure."""
    table("base (predicts v)", "base, another seed", "registers")
    print(f"largest token over the median one in the base model: about {sink:.1f} times")
    print(f"share of attention that goes to the registers: about {paid.mean():.0%}; evenly it would be {4 / 20:.0%}")
    return "the same, within chance" if abs(gap) <= chance else "better" if gap > 0 else "worse"


reveal("12.5 with registers: better, worse, or the same", registers)

# %% [markdown] tags=["after"]
# There are no sinks here: the largest token is hardly longer than the median one, where in large models it is about ten
# times as long (Darcet et al.). So registers have nothing to cure. The tokens look at them about as much as at any
# other token, and what they change in the samples is within chance. A null result of a small model is not a result
# about large ones. It is a reason to look for the cause, sinks, before the cure.

# %% [markdown]
# ## 6. Guidance for a part of the way
#
# Guidance (notebook 6) pushes every step away from what the model would draw without a label. Kynkäänniemi et al. found
# that it is needed in the middle only: at the noisy end it makes samples alike, at the clean end it does nothing. No
# model need be trained for it, so we take the zoo's good one.
#
# **Guess first.** Guidance 4 at all steps, or only where $t$ is between 200 and 700: which samples are nearer to real
# digits?

# %% tags=["stub"]
predict("12.6 nearer to real digits: guidance at all steps, or in the middle only", ...)

# %% tags=["guess"]
predict("12.6 nearer to real digits: guidance at all steps, or in the middle only", "at all steps")

# %%
zoo = dit_lab.load("mnist", device=device)
many = torch.arange(10).repeat(2 if fast else 40)
ways = {
    "no guidance": {}, "4, everywhere": {"cfg_scale": 4.0},
    "4, t in 200 to 700": {"cfg_scale": 4.0, "cfg_interval": (200, 700)},
    "4, t above 700 only": {"cfg_scale": 4.0, "cfg_interval": (700, 1000)}, "2, everywhere": {"cfg_scale": 2.0},
}  # fmt: skip
guided, pictures = {}, {}
for name, way in ways.items():
    samples = dit_lab.generate(zoo.model, many.to(device), sampler="dpmpp", steps=12, seed=0, **way).cpu()
    distance = frechet_distance(judge.features(samples), real) if len(many) > 128 else float("nan")
    guided[name], pictures[name] = (judge.agreement(samples, many), distance), samples[:10]
nearer = min(("4, everywhere", "4, t in 200 to 700"), key=lambda name: guided[name][1])


def intervals():
    """Fréchet distance and agreement of the ways to guide."""
    figure = Figure(figsize=(8.5, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axis, which, colour, label in (left, 1, BLUE, "Fréchet distance"), (right, 0, GREEN, "share read as asked"):
        axis.barh(list(guided), [each[which] for each in guided.values()], color=colour)
        axis.set(xlabel=label, ylabel="guidance", title="Nearer is better" if which else "More is better")
    left.invert_yaxis()  # the first on top; the right one shares it
    display(figure)
    return "everywhere" if nearer == "4, everywhere" else "in the middle only"


reveal("12.6 nearer to real digits: guidance at all steps, or in the middle only", intervals)

# %% [markdown]
# *Figure: how far 400 samples are from real digits, and how many of them are read as asked, for five ways to guide one
# model; the first number is the scale. Compare "4, everywhere" with "4, t in 200 to 700" on both sides, and both with
# "2, everywhere".*

# %%
picture_table(pictures, range(10), "One noise a column, five ways to guide")

# %% [markdown]
# *Figure: samples of the zoo's model, the same noise in a column. Look what guidance at all steps does to strokes.*
#
# At scale 4, guidance in the middle only is as well read as guidance everywhere, and nearer to real digits: that is the
# paper's finding. But look at the control. Half the scale at all steps is nearer still, and nearly as well read: scale
# 4 is too much for these digits, and the interval takes a part of it back. The paper compares both ways at the scale
# that is best for each; here one would have to search for it. And guidance at the noisy end alone is nearer than in the
# middle, but about one digit in ten is not read as asked, where in the middle nearly all are: to be near and to be well
# read are two things, and no way here is best at both.
#
# ## Summary
#
# | change | what it is | here, after 400 steps |
# | --- | --- | --- |
# | asking for $x_0$, $v$ or the velocity | instead of the noise | each far better than the noise |
# | the straight line | another path | worse for the velocity (flow matching), best of all for $x_0$ |
# | RoPE | distance instead of place | better than nothing, behind the table on centred digits |
# | QK-norm | queries and keys of one length | bounds the products; saves little of a training whose rate is too high |
# | registers | learnt tokens for scratch | no sinks, so nothing to cure |
# | guidance interval | guidance for a part of the way | nearer than the same scale everywhere, not than half of it |
#
# Each of your three functions has trained a model.

# %% tags=["figures"]
for name in (name for name in results if "rate" not in name):
    print(f"read as asked, {name}: about {round(results[name][0], 1):.0%}")
for name, (_, distance) in guided.items():
    print(f"Fréchet distance, guidance {name}: about {float(f'{distance:.1g}'):.0f}")

# %% [markdown]
# ## What would falsify this?
#
# * *The noise is the hardest thing to ask for.* Train ten times as long: if it caught up, it was only slower. Cut the
#   digits into patches of 2 x 2: if it stayed as far behind, the size of the patch is not the reason.
# * *The pair of target and path counts.* Choose another learning rate, or other seeds. If the order of the two targets
#   no longer turned with the path, we have seen the rate or the seed.
# * *RoPE sees distances only.* Turn all queries by one angle more, and not the keys: the products must change, and
#   still be the same along every diagonal. If they were not, our angles are wrong.
# * *Registers have nothing to cure here.* Train until there are sinks, or make one by hand, and count again.
# * *Guidance for a part of the way is better.* Search for the best scale with an interval, and for the best without,
#   with more samples. If they came as near, the interval would be a detour. The bar of "2, everywhere" points that way.
