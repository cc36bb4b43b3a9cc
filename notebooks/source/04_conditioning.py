# %% [markdown]
# # 4. Four ways to condition
#
# **Aim:** Write the blocks by which a diffusion transformer is told which time it is and what to draw, and invent one.
#
# **Before:** what a transformer block is (notebook 3), what the timestep $t$ says (notebook 1). Both are repeated in a
# sentence where they are needed.
#
# **Time:** about 8 minutes of computing on a CPU; an hour with the exercises.
#
# **Exercises:** `timestep_waves`, `drop_labels`, `modulate`, `gated_branch`
#
# The papers:
#
# * DiT: Peebles & Xie 2022, *Scalable Diffusion Models with Transformers*, [arXiv
#   2212.09748](https://arxiv.org/abs/2212.09748), section 3.2 and figure 5
# * adaptive normalisation: Perez et al. 2017, *FiLM*, [arXiv 1709.07871](https://arxiv.org/abs/1709.07871)
# * guidance: Ho & Salimans 2022, *Classifier-Free Diffusion Guidance*, [arXiv
#   2207.12598](https://arxiv.org/abs/2207.12598)

# %%
import math
import os
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from einops import pack, rearrange, reduce
from IPython.display import display
from matplotlib.figure import Figure
from torch import nn

import dit_lab
from dit_lab.course import check, predict, reveal
from dit_lab.diffusion import loss_by_timestep
from dit_lab.experiments.papers import DIT_BLOCKS
from dit_lab.inside.plots import BLUE, CATEGORIES, GREEN, picture_table
from dit_lab.models import BLOCKS, Block, DiT, count, pick_device, preset, taking
from dit_lab.models.layers import CrossAttention, LayerNorm, Linear, Modulation
from dit_lab.panels import Opened
from dit_lab.training import TrainOptions
from dit_lab.widgets import show

# %% [markdown]
# Everything that you may want to change is in the next cell.

# %% tags=["parameters"]
fast = os.environ.get("FAST") == "1"  # for the tests: a little of everything
device = pick_device("auto")  # the first of CUDA, an Apple GPU and the CPU
steps = 12 if fast else 200  # optimiser steps of each block
seeds = (0,) if fast else (0, 1)  # each block is trained once a seed
judged = 50 if fast else 500  # unseen digits that the losses are measured on
looked = 4 if fast else 20  # sampling steps of the run that is looked into

# %% [markdown]
# ## 1. Two things to be told
#
# A denoising network gets a noisy picture and has to say what the noise in it is. It needs to know two more things. The
# **timestep** $t$, 0 to 999: how much noise there is. And the **label** $y$: what the picture shows. Together they are
# called the **condition**. This notebook is about how a transformer is told.
#
# First both become vectors as long as a token, $d$ numbers. For the label that is easy: a table with a row for each
# class, learnt like any weight. For the timestep a table of 1,000 rows would do, but it would learn each timestep
# alone. DiT takes waves instead, as the first Transformer did for places in a text: cosines and sines of $t$, from fast
# to slow.
#
# $$\big[\cos(t f_0), \dots, \cos(t f_{w/2-1}),\; \sin(t f_0), \dots, \sin(t f_{w/2-1})\big], \qquad
# f_i = e^{-\ln(10000)\, i / (w / 2)}$$
#
# with $w = 256$ numbers. **Guess first.** Each of 256 numbers changes when $t$ goes from 500 to 501. How many change by
# more than 0.1?

# %% tags=["stub"]
predict("4.1 numbers that one timestep changes by more than 0.1", ...)

# %% tags=["guess"]
predict("4.1 numbers that one timestep changes by more than 0.1", 20)


# %% tags=["stub"]
def timestep_waves(t, width):
    """DiT's sinusoids of the timestep, cosines first: `t: b -> b width`."""
    ...


# %% tags=["solution"]
def timestep_waves(t, width):
    """DiT's sinusoids of the timestep, cosines first: `t: b -> b width`."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half) / half)
    angles = rearrange(t, "b -> b 1") * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


# %%
check.timestep_waves(timestep_waves)

# %%
waves = timestep_waves(torch.arange(1000.0), 256)
changed = int(((waves[501] - waves[500]).abs() > 0.1).sum())


def likeness():
    """All waves of all timesteps, and how alike the vectors of two timesteps are."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    drawn = left.imshow(waves.T, aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    left.set(title="The waves", xlabel="timestep t", ylabel="number of the vector\n(cosines above, sines below)")
    figure.colorbar(drawn, ax=left, label="value")
    alike = torch.cosine_similarity(waves[500:501], waves)
    right.plot(alike, color=BLUE)
    right.set(title="Likeness to t = 500", xlabel="timestep t", ylabel="cosine of the angle", ylim=(0, 1.02))
    display(figure)
    return f"{changed} of 256"


reveal("4.1 numbers that one timestep changes by more than 0.1", likeness)

# %% [markdown]
# *Figure: left, the 256 numbers (down) of every timestep (across), fast waves at the top of each half; right, how alike
# the vector of each timestep is to that of $t = 500$. Look how the likeness falls on both sides.*

# %% [markdown] tags=["after"]
# A fifth of them, the fast waves; the slow ones hardly move. So near timesteps have near vectors and a network can
# treat them alike, and yet no two are the same.

# %% [markdown]
# ## 2. A label for "no label"
#
# **Classifier-free guidance** (notebook 6) needs an answer without a label too, from the same network. So the label
# table gets one row more than there are classes, the **null label**, and in training one label in ten is replaced by
# it. Write that line: `dropped` says which labels go. (Classes count from 0. So which number is one more?)


# %% tags=["stub"]
def drop_labels(y, dropped, num_classes):
    """What classifier-free training sees: `y: b, dropped: b bool -> b`."""
    ...


# %% tags=["solution"]
def drop_labels(y, dropped, num_classes):
    """What classifier-free training sees: `y: b, dropped: b bool -> b`."""
    return torch.where(dropped, num_classes, y)


# %%
check.drop_labels(drop_labels)

# %%
random = torch.Generator().manual_seed(0)
y = torch.randint(10, (60,), generator=random)
print("labels of a batch, | where one was dropped:")
dropped = drop_labels(y, torch.rand(60, generator=random) < 0.1, 10)
print(" ".join("|" if label == 10 else str(label) for label in dropped.tolist()))

# %% [markdown]
# Both functions go into a model: the library's `DiT`, with a `condition` of your own. That is the method which makes
# the two **condition tokens** of width $d$: the waves go through two linear layers with a SiLU between them, `up` and
# `down`, and the label takes its row of the table. In training it drops labels, as DiT's own code does it; `training`
# is PyTorch's switch, set by `.train()` and `.eval()`. This model is what you train in section 6 and look into in
# section 7.


# %%
class MyDiT(DiT):
    """The library's DiT, told the time by your waves, and in training the labels that your line leaves."""

    def condition(self, t, y):
        """The condition tokens, time and label: `t: b, y: b -> b k d`, k = 2."""
        if self.training:
            y = drop_labels(y, (torch.rand(len(y)) < 0.1).to(y.device), self.config.num_classes)
        waves = timestep_waves(t.float().cpu(), 256).to(t.device)
        time = self.time_embedding.down(F.silu(self.time_embedding.up(waves)))
        return torch.stack([time, self.label_embedding(y)], dim=1)


zoo = dit_lab.load("mnist_adaln_zero", device=device)  # a small trained model that ships with the library
mine = MyDiT(zoo.model.config, BLOCKS[zoo.model.config.block]).to(device).eval()
mine.load_state_dict(zoo.model.state_dict())
t, y = torch.tensor([0, 250, 500, 999], device=device), torch.tensor([3, 7, 1, 10], device=device)
with torch.no_grad():
    cond = mine.condition(t, y)
    print(f"the condition of 4 pictures: {tuple(cond.shape)}, that is b k d")
    print("mine and the library's agree:", torch.allclose(cond, zoo.model.condition(t, y), atol=1e-4))
    torch.manual_seed(0)
    thousand = torch.full((1000,), 7, device=device)
    told = mine.train().condition(torch.full((1000,), 500, device=device), thousand)[:, 1]
    null = (told == mine.label_embedding.weight[10]).all(dim=1).sum()
    print(f"in training, of 1,000 pictures with the label 7: about {round(int(null), -1)} told no label")

# %% [markdown]
# ## 3. Three blocks without a gate
#
# A **block** is a step of a transformer: attention, by which the tokens look at each other, and an MLP, which works on
# each token alone. Both are *added* to what was there (the **residual** stream), and before each the tokens are
# normalised. In dit_lab a block is given its attention `attn` and its MLP `mlp` and decides one thing only: how the
# condition comes in. `x` are the image tokens, `b n d`; `cond` the two condition tokens, `b k d`.
#
# The first way, **in-context**: the two tokens join the sequence and are looked at like any other. Nothing changes in
# the block; `enter` lets them in before the first block and `exit` takes them out after the last.


# %%
class MyInContext(Block):
    """The condition joins the sequence: `x: b (n + k) d -> b (n + k) d`."""

    name, title = "my_in_context", "my in-context"

    def __init__(self, dim, heads, attn, mlp):
        super().__init__(dim, heads, attn, mlp)
        self.norm_attn, self.norm_mlp = LayerNorm(dim, affine=True), LayerNorm(dim, affine=True)

    @staticmethod
    def enter(x, cond):
        return pack([x, cond], "b * d")[0]

    @staticmethod
    def exit(x, cond):
        return x[:, : -cond.shape[1]]

    def forward(self, x, cond):
        x = x + self.attn(self.norm_attn(x))
        return x + self.mlp(self.norm_mlp(x))


# %% [markdown]
# The second, **cross-attention**: a third branch, in which the image tokens look at the condition tokens alone.


# %%
class MyCrossAttention(Block):
    """The image tokens attend to the condition: `x: b n d, cond: b k d -> b n d`."""

    name, title = "my_cross_attention", "my cross-attention"

    def __init__(self, dim, heads, attn, mlp):
        super().__init__(dim, heads, attn, mlp)
        self.norm_attn, self.norm_cross = LayerNorm(dim, affine=True), LayerNorm(dim, affine=True)
        self.norm_mlp, self.cross = LayerNorm(dim, affine=True), CrossAttention(dim, heads)

    def forward(self, x, cond):
        x = x + self.attn(self.norm_attn(x))
        x = x + self.cross(self.norm_cross(x), cond)
        return x + self.mlp(self.norm_mlp(x))


# %% [markdown]
# The third needs no tokens at all. A layer norm usually ends with a learnt scale and shift of each feature. In
# **adaptive layer norm** (adaLN) these are not learnt numbers but are computed from the condition, by one linear layer
# for each block: time and label added up, SiLU, linear. So the condition turns knobs, the same for all image tokens:
#
# $$\text{modulate}(x) = x \cdot (1 + \text{scale}) + \text{shift}$$
#
# The 1 is there so that a scale of 0 changes nothing. `x` has tokens, `scale` and `shift` have none.


# %% tags=["stub"]
def modulate(x, shift, scale):
    """Adaptive layer norm's last step: `x: b n d, shift, scale: b d -> b n d`."""
    ...


# %% tags=["solution"]
def modulate(x, shift, scale):
    """Adaptive layer norm's last step: `x: b n d, shift, scale: b d -> b n d`."""
    return x * (1 + rearrange(scale, "b d -> b 1 d")) + rearrange(shift, "b d -> b 1 d")


# %%
check.modulate(modulate)

# %% [markdown]
# Your `modulate` makes the block. `Modulation` is that linear layer; each of its parts comes as `b 1 d`.


# %%
class MyAdaLN(Block):
    """Shift and scale come from the condition: `x: b n d, cond: b k d -> b n d`."""

    name, title = "my_adaln", "my adaLN"
    modulated = True  # so that the norm before the model's last layer is adaptive too

    def __init__(self, dim, heads, attn, mlp):
        super().__init__(dim, heads, attn, mlp)
        self.norm_attn, self.norm_mlp = LayerNorm(dim), LayerNorm(dim)
        parts = "shift_attn", "scale_attn", "shift_mlp", "scale_mlp"
        self.modulation = Modulation(dim, parts, init=nn.init.xavier_uniform_)  # born random, as other layers are

    def forward(self, x, cond):
        parts = (rearrange(part, "b 1 d -> b d") for part in self.modulation(cond))
        shift_attn, scale_attn, shift_mlp, scale_mlp = parts
        x = x + self.attn(modulate(self.norm_attn(x), shift_attn, scale_attn))
        return x + self.mlp(modulate(self.norm_mlp(x), shift_mlp, scale_mlp))


# %% [markdown]
# ## 4. The fourth: a gate that is born shut
#
# **adaLN-Zero**, the paper's choice, adds one knob more: before a branch joins the stream, it is multiplied by a
# **gate**, again computed from the condition.
#
# $$x \leftarrow x + \text{gate} \cdot \text{branch}(x)$$


# %% tags=["stub"]
def gated_branch(x, branch, gate):
    """The residual of adaLN-Zero: `x, branch: b n d, gate: b d -> b n d`."""
    ...


# %% tags=["solution"]
def gated_branch(x, branch, gate):
    """The residual of adaLN-Zero: `x, branch: b n d, gate: b d -> b n d`."""
    return x + rearrange(gate, "b d -> b 1 d") * branch


# %%
check.gated_branch(gated_branch)


# %%
class MyAdaLNZero(Block):
    """adaLN with a gate on each branch, born zero: `x: b n d, cond: b k d -> b n d`."""

    name, title = "my_adaln_zero", "my adaLN-Zero"
    modulated = True
    parts = ("shift_attn", "scale_attn", "gate_attn", "shift_mlp", "scale_mlp", "gate_mlp")

    def __init__(self, dim, heads, attn, mlp):
        super().__init__(dim, heads, attn, mlp)
        self.norm_attn, self.norm_mlp = LayerNorm(dim), LayerNorm(dim)
        self.modulation = Modulation(dim, self.parts)

    def forward(self, x, cond):
        parts = (rearrange(part, "b 1 d -> b d") for part in self.modulation(cond))
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = parts
        x = gated_branch(x, self.attn(modulate(self.norm_attn(x), shift_attn, scale_attn)), gate_attn)
        return gated_branch(x, self.mlp(modulate(self.norm_mlp(x), shift_mlp, scale_mlp)), gate_mlp)


# %% [markdown]
# Are they the library's? Each pair gets the same weights (your last two carry the same names for them as the library's)
# and the same inputs.

# %%
names = ("in_context", "cross_attention", "adaln", "adaln_zero")
random = torch.Generator().manual_seed(0)
x, cond = (torch.randn(2, count_of, 96, generator=random) for count_of in (16, 2))
for name in names:
    built = [
        dit_lab.build("DiT-nano/4", input_size=16, in_channels=1, num_classes=10, block=each).blocks[0]
        for each in (name, f"my_{name}")
    ]
    for parameter in built[0].parameters():  # away from the zeros they are born with
        nn.init.normal_(parameter, std=0.1, generator=random)
    built[1].load_state_dict(built[0].state_dict())
    with torch.no_grad():
        mine, theirs = (block(x, cond) for block in reversed(built))
    print(f"{name:16} mine and the library's agree: {torch.allclose(mine, theirs, atol=1e-5)}")

# %% [markdown]
# adaLN-Zero's linear layer, which computes all knobs, is **born with zeros**. So at birth shift, scale and gate are 0.
# **Guess first.** A new DiT has 28 blocks. By how much do the tokens that leave the last one differ from those that
# entered the first, relatively, with adaLN-Zero, and with the other three?

# %% tags=["stub"]
predict("4.2 relative change by 28 new blocks, adaLN-Zero and the others", ...)

# %% tags=["guess"]
predict("4.2 relative change by 28 new blocks, adaLN-Zero and the others", "nothing; a little")

# %%
changes = {}
pictures = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
for name in names:
    torch.manual_seed(0)
    deep = dit_lab.build("DiT-nano/4", input_size=16, in_channels=1, num_classes=10, depth=28, block=f"my_{name}")
    with torch.no_grad(), dit_lab.watch(deep, attention=None, modulation=False) as seen:
        deep(pictures, torch.full((4,), 500), torch.arange(4))
    tokens = [deep.patchify(pictures) + deep.positions, *(seen.features[block][:, :16] for block in range(28))]
    changes[name] = [((each - tokens[0]).norm() / tokens[0].norm()).item() for each in tokens]


def at_birth():
    """How far the tokens have come from where they entered, block by block."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axis = figure.subplots()
    for (name, line), colour, style in zip(changes.items(), CATEGORIES, ("-", "--", "-.", "D-"), strict=False):
        axis.plot(line, style, color=colour, markersize=3, label=BLOCKS[name].title)
    axis.set(
        xlabel="blocks passed", ylabel="change of the tokens\n(relative)", title="Tokens on their way through a new DiT"
    )
    axis.legend(frameon=False)
    display(figure)
    print("adaLN-Zero changes nothing, bit for bit:", set(changes["adaln_zero"]) == {0.0})
    return ", ".join(f"{BLOCKS[name].title} {line[-1]:.1f}" for name, line in changes.items())


reveal("4.2 relative change by 28 new blocks, adaLN-Zero and the others", at_birth)

# %% [markdown]
# *Figure: how far the image tokens of a new, untrained network have moved from where they entered, over its 28 blocks.
# Look for the line that stays on the ground.*

# %% [markdown] tags=["after"]
# With adaLN-Zero: by exactly nothing. A new block is the **identity**, however many there are, and each opens its gates
# where training finds a use for it. The others hand the picture through 28 random layers: what they add is nearly five
# times as large as the tokens that entered. adaLN-Zero and adaLN differ in the gates and in this birth; in the paper
# (section 5, table 4) that takes FID, the distance to real pictures, from 25.21 to 19.47.

# %% [markdown]
# ## 5. What they cost
#
# A multiply-accumulate (**MAC**) is one product added to a sum; papers call a billion of them a "Gflop". **Guess
# first.** adaLN-Zero adds one linear layer for each block, from $d$ to $6 d$ numbers: a third of all parameters of
# DiT-XL/2. By how many per cent does it raise the MACs over in-context?

# %% tags=["stub"]
predict("4.3 per cent more MACs of adaLN-Zero over in-context", ...)

# %% tags=["guess"]
predict("4.3 per cent more MACs of adaLN-Zero over in-context", 10)

# %%
costs = {name: count(preset("DiT-XL/2", block=f"my_{name}")) for name in names}


def beside_the_paper():
    """What your four blocks cost in the paper's largest model, and what the paper says."""
    print(f"{'DiT-XL/2':18}{'GMACs':>8}{'paper':>8}{'M parameters':>15}{'FID, paper':>12}")
    for name, cost in costs.items():
        paper = DIT_BLOCKS[name]
        figures = f"{cost.macs / 1e9:8.2f}{paper.gmacs:8.2f}{cost.trained / 1e6:15.0f}{paper.fid:12.2f}"
        print(f"{BLOCKS[name].title:18}{figures}")
    return f"{100 * (costs['adaln_zero'].macs / costs['in_context'].macs - 1):.1f}"


reveal("4.3 per cent more MACs of adaLN-Zero over in-context", beside_the_paper)

# %% [markdown] tags=["after"]
# Fewer, not more. The knobs are computed once for a picture and not once for each of 256 tokens, so they cost next to
# nothing; in-context has two tokens more to carry through every layer. Parameters and work are different things:
# notebook 8 asks which of them makes quality. (FID, the Fréchet distance to real pictures, is the paper's measure after
# 400,000 steps. Lower is better.)

# %% [markdown]
# ## 6. A fifth, your own
#
# Now yours. The smallest idea that could work: **add** the condition to every token, before each block, through a
# linear layer born zero. Change it as you like: a class with a `name` is all it takes, and from then on it can be
# built, counted, trained and sampled by that name.


# %%
class MyOwn(Block):
    """The condition is added to every token: `x: b n d, cond: b k d -> b n d`."""

    name, title = "my_own", "my own: added"

    def __init__(self, dim, heads, attn, mlp):
        super().__init__(dim, heads, attn, mlp)
        self.norm_attn, self.norm_mlp = LayerNorm(dim, affine=True), LayerNorm(dim, affine=True)
        self.add = Linear(dim, dim, init=nn.init.zeros_)

    def forward(self, x, cond):
        x = x + self.add(reduce(cond, "b k d -> b 1 d", "sum"))
        x = x + self.attn(self.norm_attn(x))
        return x + self.mlp(self.norm_mlp(x))


own = count(preset("DiT-XL/2", block="my_own"))
print(f"DiT-XL/2 with it: {own.macs / 1e9:.1f} GMACs, {own.trained / 1e6:.0f} M parameters")

# %% [markdown]
# All five, in `MyDiT`, on MNIST's digits, 5,000 of them, cut into 16 patches of 7 x 7 pixels, small and short: 200
# steps where the paper has 400,000. The same seed means the same pictures in the same order, the same noise and the
# same dropped labels; the block is all that differs. The loss is measured on digits that were not trained on, over all
# timesteps. (The model predicts $v$, a mixture of picture and noise, for in so few steps the noise alone is not learnt:
# notebook 12.)
#
# **Guess first.** The paper's order, by FID, is adaLN-Zero, adaLN, cross-attention, in-context. Which of the five is
# best after 200 steps, and which is worst?

# %% tags=["stub"]
predict("4.4 the best and the worst block after 200 steps", ...)

# %% tags=["guess"]
predict("4.4 the best and the worst block after 200 steps", "adaLN-Zero and in-context, as in the paper")

# %%
digits = dit_lab.open_data("mnist-small")
unseen, labels = dit_lab.open_data("mnist-small", split="test").batch(range(judged))
mine_all = [*(f"my_{name}" for name in names), "my_own"]
marks = [each for each in (10, 50, 100, 150, 200) if each <= steps]
losses, models = {}, {}
for name in mine_all:
    for seed in seeds:
        torch.manual_seed(seed)
        config = preset("DiT-nano/2", patch_size=7, block=name, prediction="v", **taking(digits))
        model = MyDiT(config, BLOCKS[name]).to(device)
        torch.manual_seed(seed)  # blocks draw differently many weights; from here on all drop the same labels
        options = TrainOptions(
            steps=steps, batch_size=64, lr=2e-3, warmup=20, seed=seed, precision="fp32",
            label_dropout=0,  # the library drops none: your model does
        )  # fmt: skip
        line = []
        for step in dit_lab.train(model, digits, options):
            if step.step in marks:
                line.append(loss_by_timestep(model, unseen.to(device), labels.to(device), range(50, 1000, 100)).mean())
        losses.setdefault(name, []).append(line)
    models[name] = model
last = {BLOCKS[name].title: np.mean(lines, axis=0)[-1] for name, lines in losses.items()}
best, worst = min(last, key=last.get), max(last, key=last.get)


def race():
    """The loss on unseen digits as the five train, the range over seeds as a band."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axis = figure.subplots()
    looks = zip([*CATEGORIES[:4], "dimgrey"], ("o-", "s--", "^-.", "D-", "x:"), strict=True)
    for (name, lines), (colour, style) in zip(losses.items(), looks, strict=True):
        axis.plot(marks, np.mean(lines, axis=0), style, color=colour, markersize=4, label=BLOCKS[name].title)
        axis.fill_between(marks, np.min(lines, axis=0), np.max(lines, axis=0), color=colour, alpha=0.15)
    axis.set(
        xlabel="training step", ylabel="mean squared error of v,\nunseen digits", title="Five blocks, the same start"
    )
    axis.legend(frameon=False)
    display(figure)
    return f"best {best}, worst {worst}"


reveal("4.4 the best and the worst block after 200 steps", race)

# %% [markdown]
# *Figure: the loss on unseen digits as five small DiTs learn, one a block; the band is the range of the seeds. Look at
# the order at the right end, and how far the lines are apart.*

# %% [markdown] tags=["after"]
# At step 10 adaLN-Zero is last, its gates still all but shut. From step 50 on it leads, by far more than two seeds
# differ. The rest is **not** the paper's order: there in-context is far behind and cross-attention near to adaLN. Here
# these two lie close together with bands that overlap, so which of them is worst is chance, and the block that adds is
# near to them. Two hundred steps of a tiny model do not settle such things.

# %% [markdown]
# A longer run says more (`docs/results/blocks.md` in the repository): DiTs of width 96 on all of MNIST, 8,000 steps,
# three seeds (their mean ± half of their range). Beside it the paper's, 400,000 steps of XL/2 on ImageNet. Both are
# distances of samples to real pictures, lower is better, but by different judges: only the order may be compared.

# %%
LONG = {"in_context": (133.0, 6.1), "cross_attention": (132.9, 4.1), "adaln": (118.9, 4.6), "adaln_zero": (98.6, 3.5)}
print(f"{'':18}{f'loss, {steps} steps, about':>24}{'distance, 8,000 steps':>24}{'FID, paper':>12}")
for name in names:
    here, (mean, spread) = last[BLOCKS[f"my_{name}"].title], LONG[name]
    print(f"{BLOCKS[name].title:18}{here:24.2f}{f'{mean} ± {spread}':>24}{DIT_BLOCKS[name].fid:12.2f}")

# %% [markdown]
# adaLN-Zero first and adaLN second: that held with every seed. In-context and cross-attention, far apart in the paper,
# could not be told apart at that size. To see the rest would take the paper's scale.
#
# ## 7. Looking at the knobs
#
# What is new with adaLN is that the condition can be **read**: shift, scale and gate are numbers, for every block and
# every timestep. The zoo's `mnist_adaln_zero` is one of the models of that long run; its weights now go into your model
# with your block. **Guess first.** When does its first block's attention count most: at the start of sampling (nearly
# all noise), in the middle, or at the end?

# %% tags=["stub"]
predict("4.5 when the first block's attention gate is widest", ...)

# %% tags=["guess"]
predict("4.5 when the first block's attention gate is widest", "at the start")

# %%
mine = MyDiT(zoo.model.config, BLOCKS["my_adaln_zero"]).to(device).eval()
mine.load_state_dict(zoo.model.state_dict())
run = dit_lab.record(mine, [7, 3], steps=looked, seed=0)
theirs = dit_lab.record(zoo.model, [7, 3], steps=looked, seed=0)
print("two digits from noise, mine and the library's agree:", torch.allclose(run.x0[-1], theirs.x0[-1], atol=1e-2))
widths, when = [], np.linspace(0, 999, 41)
with torch.no_grad():
    for t in when:
        here = torch.full((10,), t, device=device)
        knobs = mine.blocks[0].modulation(mine.condition(here, torch.arange(10, device=device)))
        gate = dict(zip(MyAdaLNZero.parts, knobs, strict=True))["gate_attn"]
        widths.append(gate.square().mean().sqrt().item())
third = ("the end", "the middle", "the start")[min(2, int(3 * np.argmax(widths) / len(when)))]


def gates():
    """The size of the first block's attention gate over the timesteps."""
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axis = figure.subplots()
    axis.plot(when, widths, color=GREEN)
    axis.set(xlabel="timestep t (sampling goes from right to left)", ylabel="gate, root mean square", ylim=(0, None))
    axis.set_title("The gate of the first block's attention, mean of ten classes")
    display(figure)
    return f"at {third} of sampling"


reveal("4.5 when the first block's attention gate is widest", gates)

# %% [markdown]
# *Figure: the size of the gate by which the first block's attention is multiplied, over the timestep. 0 would be shut.
# Look how broad the top is.*

# %% [markdown] tags=["after"]
# The top is broad: from the beginning to the middle of the walk the gate hardly changes, and towards the picture it
# closes to less than half. So "the middle" is right by a little. And it is this block's: in the next figure each row
# has its own answer.

# %% [markdown]
# All knobs of all blocks, while a 7 is drawn. The same panel is in the app. Choose another part, or a class to compare.

# %%
show("conditioning", Opened(run, mine, labels=zoo.labels, source="mnist_adaln_zero, in my DiT"), step=looked // 2)

# %% [markdown]
# *Figure: shift, scale and gate of every block (down) over the steps of one run (across, noise on the left). Look
# whether time changes a row more than the block does.*
#
# A control: is it the label that speaks, or only time? We exchange the label and leave all else, and the time and leave
# all else, and measure how far all the knobs move (the length of the difference). Then we draw with another label.


# %%
def knobs(t, label):
    """All shifts, scales and gates of the model, as one vector: `-> n`."""
    t, label = torch.tensor([float(t)], device=device), torch.tensor([label], device=device)
    with torch.no_grad():
        cond = mine.condition(t, label)
        made = [part for block in mine.blocks for part in block.modulation(cond)]
        return rearrange(made, "parts 1 1 d -> (parts d)")


by_label = np.mean([(knobs(500, a) - knobs(500, b)).norm().item() for a, b in pairwise(range(10))])
by_time = np.mean([(knobs(t, 7) - knobs(t + 100, 7)).norm().item() for t in range(0, 900, 100)])
print(f"another label moves the knobs by about {by_label:.0f}, a hundred timesteps by about {by_time:.0f}")
asked = {"label 7": 7, "label 3": 3, "no label": 10}
samples = {  # guidance 2 (notebook 6), which changes nothing where there is no label
    name: dit_lab.generate(mine, [label] * 5, steps=looked, cfg_scale=2.0, seed=0).cpu()
    for name, label in asked.items()
}
picture_table(samples, [f"noise {number}" for number in range(1, 6)], "Nothing but the label is another")

# %% [markdown]
# *Figure: five samples from five noises, a column each, with the label 7, with 3, and with the null label. Look at what
# of a picture its noise decides, and what the label.*
#
# Both speak: another label moves the knobs about as far as a hundred timesteps do.
#
# And your own block, made to draw, beside adaLN-Zero. After 200 steps expect strokes at best.

# %%
drawn = {
    BLOCKS[name].title: dit_lab.generate(
        models[name].eval(), list(range(10)), steps=looked, cfg_scale=2.0, seed=0
    ).cpu()
    for name in ("my_adaln_zero", "my_own")
}
picture_table(drawn, range(10), f"After {steps} steps")

# %% [markdown]
# *Figure: ten samples each of two of the blocks trained above, the label above each column. Look in which row strokes
# begin to stand out from the ground.*
#
# ## Summary
#
# * Time comes as 256 waves, a label as a row of a table; the null label is one row more.
# * In-context and cross-attention bring the condition as tokens; adaLN turns knobs; adaLN-Zero adds gates that are born
#   shut, so that a new block is exactly the identity.
# * adaLN-Zero has half again as many parameters as in-context, and fewer MACs.
# * A block is one class. Yours was built, counted, trained and sampled like the paper's four, in a model that is told
#   the time and the label by your functions.

# %% tags=["figures"]
print(f"numbers that one timestep changes by more than 0.1: {changed} of 256")
print(f"change of the tokens by 28 new adaLN-Zero blocks: {changes['adaln_zero'][-1]:.1f}")
print(f"GMACs of XL/2, adaLN-Zero: {costs['adaln_zero'].macs / 1e9:.1f} (paper: {DIT_BLOCKS['adaln_zero'].gmacs})")
print(f"loss on unseen digits, adaLN-Zero and my own: {last['my adaLN-Zero']:.1f} and {last['my own: added']:.1f}")

# %% [markdown]
# ## What would falsify this?
#
# * *The zeros matter, and not the gates.* Give `MyAdaLNZero`'s `Modulation` `init=nn.init.xavier_uniform_`. If it
#   learnt as fast, the gates would matter and not their birth.
# * *adaLN-Zero is ahead because of its birth.* At `lr=2e-3` the others may only be trained at the wrong rate. Give each
#   the rate that suits it best: if the lead went, it was the rate's.
# * *The label speaks through the knobs.* Hand all blocks the null label's knobs and only the final norm the right one.
#   If the digits still came out as asked, the knobs of the blocks would not be where the label is read.
