# %% [markdown]
# # 0. A tour
#
# **Aim:** See a diffusion transformer draw, look into it while it does, and change one thing in it.
#
# **Before:** nothing but Python. Every term here comes again, slowly, in a notebook of its own.
#
# **Time:** a minute or two of computing on a CPU; a quarter of an hour with the guesses.
#
# The paper: Peebles & Xie 2022, *Scalable Diffusion Models with Transformers* (DiT), [arXiv
# 2212.09748](https://arxiv.org/abs/2212.09748)

# %%
import os
from dataclasses import replace

import torch
from IPython.display import display
from matplotlib.figure import Figure

import dit_lab
from dit_lab.course import predict, reveal
from dit_lab.evaluation import zoo_judge
from dit_lab.inside import Scale, effect
from dit_lab.inside.plots import BLUE, GREEN, effect_pictures, picture_table
from dit_lab.models import pick_device
from dit_lab.panels import Opened
from dit_lab.widgets import show

# %% [markdown]
# Everything that you may want to change is in the next cell.

# %% tags=["parameters"]
fast = os.environ.get("FAST") == "1"  # for the tests: a little of everything
device = pick_device("auto")  # the first of CUDA, an Apple GPU and the CPU
label, seed = 7, 0  # what is drawn, and from which noise
steps = 30  # from noise to picture
drawn = 20 if fast else 200  # pictures that a program reads, a multiple of 10
controls = 2 if fast else 5  # the same edit elsewhere, beside ours; there are five other blocks

# %% [markdown]
# ## 1. Draw
#
# A **diffusion model** is a network that has learnt one thing: to say what in a noisy picture is noise. To draw, it is
# given pure noise and asked again and again, and each time a little of what it calls noise is taken away. A **diffusion
# transformer**, DiT, is such a network built as a transformer: it cuts the picture into patches, the *tokens*, which
# look at each other.
#
# A few small ones, trained on MNIST's digits and on CIFAR-10's photographs, ship with dit_lab: the **zoo**. Nothing is
# downloaded. This one has 1.9 million parameters; DiT-XL/2, the largest of the paper, has 675 million and works in the
# same way. `cfg_scale` below says how strongly the class that is asked for is followed: **guidance**, notebook 6.

# %%
zoo = dit_lab.load("mnist", device=device)
digits = dit_lab.generate(zoo.model, list(range(10)) * 2, steps=steps, cfg_scale=2.0, seed=seed).cpu()
picture_table({"ten noises": digits[:10], "ten others": digits[10:]}, range(10), "Drawn by a model of the zoo")

# %% [markdown]
# *Figure: twenty digits, drawn from noise; above each column the class that was asked for. Look for one that you would
# read as something else.*
#
# Is it good? Let a program say: a small network that has been trained to read real digits, and only those. **Guess
# first.** Of 200 drawn digits, how many per cent does it read as the digit that was asked for?

# %% tags=["stub"]
predict("0.1 per cent of drawn digits that are read as asked for", ...)

# %% tags=["guess"]
predict("0.1 per cent of drawn digits that are read as asked for", 80)

# %%
judge, wanted = zoo_judge("mnist28"), torch.arange(10).repeat(drawn // 10)
many = dit_lab.generate(zoo.model, wanted.to(device), steps=15, sampler="dpmpp", cfg_scale=2.0, seed=seed).cpu()
noise = torch.randn(many.shape, generator=torch.Generator().manual_seed(seed))
shares = {name: judge.agreement(x, wanted) for name, x in {"drawn": many, "noise": noise}.items()}
reveal("0.1 per cent of drawn digits that are read as asked for", lambda: f"about {shares['drawn']:.0%}")
print(f"its own score on real digits that it has not seen: {judge.accuracy:.0%}; on pure noise: {shares['noise']:.0%}")

# %% [markdown]
# ## 2. Watch it draw
#
# Now one picture, a 7, from noise to end in 30 steps, **recorded**: everything that passed is kept and can be looked at
# as often as we like. Two pictures of each step matter. $x_t$ is what the network is given, picture and noise mixed.
# $x_0$, "x nought", is what it believes will come out in the end.
#
# Move the time, or press play. The same panel is in the app.

# %%
run = dit_lab.record(zoo.model, [label], steps=steps, cfg_scale=2.0, seed=seed)
opened = Opened(run, zoo.model, labels=zoo.labels, source="mnist")
show("trajectory", opened, step=steps // 3)

# %% [markdown]
# *Figure: one run: the noisy input, the predicted picture and the predicted noise at the step that you choose. $t$ says
# how much noise there is, from 999, all, to 0, almost none. Look when the 7 is there in the predicted $x_0$, and when
# in $x_t$.*
#
# **Guess first.** After which of the 30 steps can the reader tell from the *predicted* picture that it will be a 7, and
# stays with it?

# %% tags=["stub"]
predict("0.2 step after which the predicted picture is read as a 7", ...)

# %% tags=["guess"]
predict("0.2 step after which the predicted picture is read as a 7", 15)

# %%
readings = {name: judge.read(getattr(run, name)[:, 0].cpu()) == label for name in ("x0", "x")}
since = {
    name: next((step + 1 for step in range(steps) if rightly[step:].all()), None) for name, rightly in readings.items()
}


def read_at_each_step():
    """Whether the predicted picture and the noisy one are read rightly, step by step."""
    figure = Figure(figsize=(8, 1.8), layout="constrained")
    axis = figure.subplots()
    for row, (name, colour) in enumerate({"x": GREEN, "x0": BLUE}.items()):
        right = [step + 1 for step in range(steps) if readings[name][step]]
        axis.plot(right, [row] * len(right), "s", color=colour)
    axis.set(xlabel="step", ylabel="read as a 7", xlim=(0, steps + 1), ylim=(-0.6, 1.6), title="When the 7 can be read")
    axis.set_yticks([0, 1], ["noisy input $x_t$", "predicted $x_0$"])
    display(figure)
    return f"{since['x0']} of {steps}; in the noisy input only from {since['x'] or 'never'} on"


reveal("0.2 step after which the predicted picture is read as a 7", read_at_each_step)

# %% [markdown]
# *Figure: a mark for every step at which the reader sees a 7: above in the prediction, below in the noisy picture
# itself.*

# %% [markdown] tags=["after"]
# Early: the prediction follows the label that the network was told, long before the 7 can be seen in $x_t$ (you see it
# at about t = 400; the reader, which knows clean digits only, at the last step). That is not yet a decision: see the
# last section. What follows is the exact shape of the stroke, and at last its edges.

# %% [markdown]
# ## 3. Look inside
#
# The picture is cut into 7 x 7 patches of 4 x 4 pixels, 49 tokens. In each of the six **blocks** every token looks at
# all others, by **attention**: it has 100 % to spend and spends it on the tokens that it wants to know of. It does so
# four times over, in four **heads**, each with a way of its own.
#
# **Guess first.** A patch in the middle of the picture, late in the run, in block 2: which patches does it look at?

# %% tags=["stub"]
predict("0.3 where a patch of block 2 looks", ...)

# %% tags=["guess"]
predict("0.3 where a patch of block 2 looks", "at all of the stroke")

# %%
step, block, patch = 2 * steps // 3, 2, 24  # patches are counted row by row from 0: 24 is the one in the middle


def where_it_looks():
    """The panel of the app: a patch is clicked, all heads are shown."""
    display(show("attention", opened, step=step, block=block, patch=patch))
    ways = {17: "the one above", 31: "the one below", 23: "the one to the left", 25: "the one to the right"}
    weights = run.attention(zoo.model, step, block=block, queries=[patch])[:, 0]  # head j: of our patch alone
    most, where = weights.max(-1)
    return "; ".join(
        f"head {head}: {ways.get(place, 'elsewhere')}, {share:.0%}"
        for head, (place, share) in enumerate(zip(where.tolist(), most.tolist(), strict=True))
    )


reveal("0.3 where a patch of block 2 looks", where_it_looks)

# %% [markdown]
# *Figure: the predicted picture, the chosen patch framed in it, and where it looks: the mean of the heads beside it,
# then each head. Click another patch, choose another block.*

# %% [markdown] tags=["after"]
# At its four neighbours, one a head, each with nearly all of its attention. Nobody asked for that: where a token looks
# is learnt. These four heads together can compare a patch with what lies around it, as a convolution does. Most
# heads of the other blocks spread their attention more thinly, but not all: choose block 1, then another.

# %% [markdown]
# ## 4. Change one thing
#
# Four heads, so clear in what they do: surely they matter. To know, one switches them off. We multiply the attention of
# block 2 by 0, in all steps, and draw the same noise again.
#
# But **anything** that is changed in a network changes its picture. So beside the edit belongs a **control**: the same
# edit at another place. Here: the attention of each of the other five blocks off instead.
#
# **Guess first.** Rank the six blocks by how far the picture moves when their attention is off, 1 being the furthest.
# Which rank has block 2?

# %% tags=["stub"]
predict("0.4 rank of block 2's attention among the six", ...)

# %% tags=["guess"]
predict("0.4 rank of block 2's attention among the six", 1)

# %%
edit = Scale(block, "attn", 0.0)
found = effect(run, zoo.model, edit, controls)
moved = {f"block {each.block}": far.item() for each, far in zip(found.controls, found.picture_controls, strict=True)}
strongest = found.controls[int(found.picture_controls.argmax())]  # shown beside ours: the control that moved most
edited, control = (run.edited(zoo.model, each) for each in (edit, strongest))
in_range = lambda of: replace(of, x0=of.x0.clamp(-1, 1), sample=of.sample.clamp(-1, 1))  # as pictures are shown


def edit_and_control():
    """The untouched run, the edited one and the strongest control, and how far each edit moved the picture."""
    named = f"Attention off: of block {block} (edited), of block {strongest.block} (the strongest control)"
    display(effect_pictures(in_range(run), in_range(edited), in_range(control), title=named))
    order = sorted([(found.picture, f"block {block}, ours"), *((far, name) for name, far in moved.items())])
    figure = Figure(figsize=(7, 2.4), layout="constrained")
    axis = figure.subplots()
    axis.barh(
        [name for _, name in order],
        [far for far, _ in order],
        color=[GREEN if "ours" in name else "lightgrey" for _, name in order],
    )
    axis.set(xlabel="how far the picture moved (root mean square, pixels from -1 to 1)", ylabel="attention off")
    axis.set_title("What is lost without each block's attention")
    display(figure)
    return found.rank


reveal("0.4 rank of block 2's attention among the six", edit_and_control)

# %% [markdown]
# *Figure: above, predicted pictures on the way and the final one of the untouched run, of the edited run and of the
# control that moved the picture most (the title names its block), each with what has been added (orange, above 0 on the
# scale) and taken away (blue, below 0); below, how far the final picture moves without the attention of each block.*

# %% [markdown] tags=["after"]
# It matters, but for this noise it is not the block whose absence moves the picture most, and it is barely ahead of the
# next. Look at the pictures, too: without block 0's attention another 7 comes out, whole and clean; without block 2's
# the strokes fall to pieces. How far a picture moved is not how badly it was hurt, and which of the two one measures
# decides the rank. With other noises block 2 may come first in this one as well: one run does not rank blocks. Without
# the bars of the others one would have told a finer story. That is the rule of this course: a claim about the inside of
# a network needs its control. Notebook 10 does this in earnest.

# %% [markdown]
# ## 5. The same with a click
#
# All of this is in the app, for this model and for your own checkpoints, DiT-XL/2 among them. From the root of the
# repository:
#
# ```
# make app
# ```
#
# and a run of a notebook opens there too (*Open run*), once it has been kept as a file:

# %%
run.save("tour.safetensors")
print(f"kept: {os.path.getsize('tour.safetensors') / 1e3:.0f} kB")

# %% [markdown]
# ## 6. What comes next
#
# | notebook | what you will have made |
# | --- | --- |
# | 1 noise | the way from a picture into noise, in one line |
# | 2 patches | the sequence that a picture becomes, and back; what positions are for |
# | 3 attention | a transformer block by hand, which runs in this very model |
# | 4 conditioning | four ways to say what to draw, and one of your own |
# | 5 training | a DiT, trained by your own loss within minutes |
# | 6 sampling | three samplers and guidance |
# | 7 latents | a VAE, and a DiT that paints in its latents |
# | 8 scaling | what quality costs, as a law; the Fréchet distance |
# | 9 U-DiT | the U-shaped sibling and why it downsamples tokens |
# | 10 inside | attention, contributions and edits, with controls |
# | 11 full size | all of it on DiT-XL/2 |
# | 12 next | what came after the paper, one change at a time |
#
# Most take a few minutes of computing, some up to half an hour on a slow machine, and each about an hour of yours. They
# build on each other but can be read alone.
#
# ## Summary
#
# * A diffusion model draws by taking away, again and again, what it calls noise.
# * What is asked for shows early in the prediction and late in the noisy picture.
# * Attention can be looked at, token by token, and some heads are easily read.
# * Whether what is read matters, only an edit beside its control can say.

# %% tags=["figures"]
print(f"drawn digits read as asked for, of {drawn}: about {shares['drawn']:.0%}")
print(f"the 7 can be read in the prediction from step: {since['x0']} of {steps}")
print(f"rank of block 2's attention among the blocks: {found.rank} of {controls + 1}")

# %% [markdown]
# ## What would falsify this?
#
# * *A prediction that is read as a 7 is a decision.* Exchange the label after step 3, by `run.edited(zoo.model,
#   Label(3), steps=range(3, 30))` with `Label` of `dit_lab.inside`. It becomes a 3: nothing had been decided. From
#   which step on does it no longer?
# * *Block 2 looks at neighbours.* Choose other seeds and labels. If the heads looked elsewhere there, we have shown a
#   picture and not a habit.
# * *Its attention matters.* With another noise the ranks may change. A rank that changes with every seed says little.
