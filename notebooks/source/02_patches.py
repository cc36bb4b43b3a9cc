# %% [markdown]
# # 2. Patches and positions
#
# **Aim:** Turn a picture into the sequence that a transformer reads, and back, tell each piece where it lies, and find
# out what that is worth: in a small reader of digits, and in a DiT that draws them.
#
# **Before:** tensors and modules in PyTorch. What a DiT does with noise (notebook 1) is said again where it is needed.
#
# **Time:** about 4 minutes of computing on a CPU; an hour with the exercises.
#
# **Exercises:** `patchify`, `unpatchify`, `position_table`
#
# The papers:
#
# * DiT: Peebles & Xie 2022, *Scalable Diffusion Models with Transformers*, [arXiv
#   2212.09748](https://arxiv.org/abs/2212.09748)
# * ViT, the first transformer of patches: Dosovitskiy et al. 2020, *An Image is Worth 16x16 Words*, [arXiv
#   2010.11929](https://arxiv.org/abs/2010.11929)
# * sine-cosine positions: Vaswani et al. 2017, *Attention Is All You Need*, [arXiv
#   1706.03762](https://arxiv.org/abs/1706.03762)

# %%
import os

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from IPython.display import display
from matplotlib.figure import Figure

import dit_lab
from dit_lab.course import check, predict, reveal
from dit_lab.data import open_codec
from dit_lab.evaluation import zoo_judge
from dit_lab.experiments.papers import DIT, DIT_GMACS_512
from dit_lab.inside.plots import BLUE, CATEGORIES, ORANGE, picture_table
from dit_lab.models import BLOCKS, DiT, count, layers, one_thread, pick_device
from dit_lab.widgets import scrub

# %% [markdown]
# Everything that you may want to change is in the next cell.

# %% tags=["parameters"]
fast = os.environ.get("FAST") == "1"  # for the tests: a little of everything
device = pick_device("auto")  # the first of CUDA, an Apple GPU and the CPU
steps = 40 if fast else 400  # optimiser steps of each little reader of digits
seeds = (0,) if fast else (0, 1, 2)  # each reader is trained once with each
batch_size = 64
lr = 3e-3
judged = 10 if fast else 100  # digits that the DiT draws and a judge reads, a multiple of 10
seed = 0  # fixes all that is shuffled, and the noise that digits are drawn from

# %% [markdown]
# ## 1. A picture becomes a sequence
#
# A transformer does not know pictures. It reads a **sequence of tokens**, each of them a list of numbers: `b n d` in
# the house's alphabet, `b` sequences of `n` tokens with `d` numbers, its *features*. In a language model a token is a
# piece of a word. In a ViT, and in a DiT, it is a **patch**: a square of $p \times p$ pixels with all its channels. A
# picture of height $H$ and width $W$ makes (DiT, section 3.2 and figure 4)
#
# $$n = \frac{H}{p} \cdot \frac{W}{p} \quad \text{tokens, of} \quad c\,p^2 \quad \text{numbers each.}$$
#
# The sequence goes row by row, as one reads: first all patches of the top row, from left to right.
#
# **Guess first.** A picture of 8 x 8 pixels is cut with $p = 2$. In which token is the pixel in row 5 and column 2? All
# is counted from 0.

# %% tags=["stub"]
predict("2.1 the token of pixel (5, 2)", ...)

# %% tags=["guess"]
predict("2.1 the token of pixel (5, 2)", 10)

# %% [markdown]
# The tool is `rearrange` of einops. Its pattern names all axes before and after. Brackets on the left **split** an
# axis, brackets on the right **merge** some into one, and in brackets the last name runs fastest. A row of eight
# numbers, split in two ways:

# %%
eight = torch.arange(8)
print("(h p): neighbours stay together:", rearrange(eight, "(h p) -> h p", p=2).tolist())
print("(p h): they part:               ", rearrange(eight, "(p h) -> h p", p=2).tolist())

# %% [markdown]
# Both have the same shape. Most mistakes with patches have the right shape too.
#
# Now write the cut, in one `rearrange`. Each side of the picture is two axes in one: which patch, and which pixel in
# it. Within a token DiT has the channels first, then the rows, then the columns: `(c p q)`, with `p` and `q` both as
# long as `patch`.


# %% tags=["stub"]
def patchify(x, patch):
    """The sequence of a picture, row by row: `x: b c (h p) (w q) -> b (h w) (c p q)`."""
    ...


# %% tags=["solution"]
def patchify(x, patch):
    """The sequence of a picture, row by row: `x: b c (h p) (w q) -> b (h w) (c p q)`."""
    return rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=patch, q=patch)


# %%
check.patchify(patchify)

# %%
numbered = rearrange(torch.arange(64.0), "(h w) -> 1 1 h w", h=8)  # a picture whose pixels are their own numbers
there = (patchify(numbered, 2) == numbered[0, 0, 5, 2]).any(dim=2)
reveal("2.1 the token of pixel (5, 2)", there.int().argmax().item())

# %% [markdown] tags=["after"]
# Row 5 is in the patches of row 2 (rows 4 and 5), column 2 in those of column 1, and a row has 4 patches: 2 * 4 + 1 =
# **9**.

# %% [markdown]
# One step at a time, on a picture of 4 x 4 pixels that are their own numbers. What your one line does is three things:

# %%
picture = rearrange(torch.arange(16.0), "(h w) -> 1 1 h w", h=4)
print(f"the picture, {tuple(picture.shape)}:\n{picture[0, 0].int().numpy()}\n")

split = rearrange(picture, "b c (h p) (w q) -> b c h p w q", p=2, q=2)
print(f"1. split,        b c h p w q:     {tuple(split.shape)}, in memory {split.flatten().int().tolist()}")
moved = rearrange(split, "b c h p w q -> b h w c p q")
print(f"2. change place, b h w c p q:     {tuple(moved.shape)}, in memory {moved.flatten().int().tolist()}")
merged = rearrange(moved, "b h w c p q -> b (h w) (c p q)")
print(f"3. merge,        b (h w) (c p q): {tuple(merged.shape)}, in memory {merged.flatten().int().tolist()}")
print("\nyour line does the same:", torch.equal(merged, patchify(picture, 2)))

# %% [markdown]
# Only the second step moves numbers in memory. The others say where an axis ends. A `reshape` straight to the final
# shape leaves the second step out: it gives no error, and tokens that are pieces of pixel rows. On a digit of
# scikit-learn, 8 x 8 pixels:

# %%
digits, unseen = dit_lab.open_data("digits"), dit_lab.open_data("digits", split="test")
seven = digits.batch([list(digits.labels).index(7)])[0]


def as_sequence(figure, tokens, title):
    """Draw 16 tokens of 2 x 2 pixels in their order."""
    for number, axis in enumerate(figure.subplots(2, 8).flat):
        axis.imshow(rearrange(tokens[0, number], "(p q) -> p q", p=2), cmap="gray", vmin=-1, vmax=1)
        axis.set_title(number, fontsize=9)
        axis.set(xticks=[], yticks=[])
    figure.suptitle(title)


figure = Figure(figsize=(10, 4.8), layout="constrained")
whole, cut = figure.subfigures(1, 2, width_ratios=(1, 1.9))
axis = whole.subplots()
axis.imshow(seven[0, 0], cmap="gray", vmin=-1, vmax=1)
axis.set(title="The picture, and where it is cut", xticks=[], yticks=[])
for line in (1.5, 3.5, 5.5):
    axis.axhline(line, color=ORANGE)
    axis.axvline(line, color=ORANGE)
mine, anew = cut.subfigures(2, 1)
as_sequence(mine, patchify(seven, 2), "Your patchify: tokens 0 to 15")
as_sequence(anew, seven.reshape(1, 16, 4), "reshape(1, 16, 4): the same shape")
display(figure)

# %% [markdown]
# *Figure: a digit with the lines along which it is cut (left), and its 16 tokens, each drawn as a square of 2 x 2
# pixels (right): above yours, below what `reshape` makes. Find tokens 5 and 6, the middle of the picture's second row
# of patches, in the picture: above they are there, below they are not.*

# %% [markdown]
# The numbers of a patch are not yet what the transformer works with. One linear layer, the same for all tokens, makes
# `d` features of them: the **patch embedding**. You will often see both, cut and linear layer, written as one
# convolution whose kernel is as wide as its stride, so that squares do not overlap. DiT's own code does so. It is the
# same:

# %%
torch.manual_seed(seed)
embed = torch.nn.Linear(3 * 4 * 4, 64)
kernel = rearrange(embed.weight, "d (c p q) -> d c p q", c=3, p=4)
some = torch.randn(2, 3, 12, 20)
by_convolution = rearrange(F.conv2d(some, kernel, embed.bias, stride=4), "b d h w -> b (h w) d")
print("mine and the convolution agree:", torch.allclose(embed(patchify(some, 4)), by_convolution, atol=1e-5))

# %% [markdown]
# Here you see why `(c p q)`: that is how a convolution's weights lie in memory, `d c p q`, channels first.
#
# ## 2. And back
#
# At its end a DiT turns tokens into a picture: one more linear layer makes the numbers of a patch out of each token's
# features, and *unpatchify* lays them out. Nothing was lost on the way in, so the way back is exact: it is the same
# line, read from right to left.
#
# Almost. In DiT's code (and so in every checkpoint) the numbers of an outgoing token are in the order `(p q c)`,
# **channels last**, while on the way in they are first.
#
# **Guess first.** A colour picture, three channels, is cut by your `patchify` with $p = 2$ and laid out again in DiT's
# outgoing order. How many per cent of its numbers are back in their place? (With one channel it would be all.)

# %% tags=["stub"]
predict("2.2 per cent of the numbers in their place", ...)

# %% tags=["guess"]
predict("2.2 per cent of the numbers in their place", 33)

# %% [markdown]
# Write it. The sequence alone does not tell how many rows of patches there are (12 tokens may be 3 x 4 or 2 x 6), so
# that is told: `rows`.


# %% tags=["stub"]
def unpatchify(tokens, rows, patch):
    """The way back, in DiT's order of output features: `tokens: b (h w) (p q c) -> b c (h p) (w q)`."""
    ...


# %% tags=["solution"]
def unpatchify(tokens, rows, patch):
    """The way back, in DiT's order of output features: `tokens: b (h w) (p q c) -> b c (h p) (w q)`."""
    return rearrange(tokens, "b (h w) (p q c) -> b c (h p) (w q)", h=rows, p=patch, q=patch)


# %%
check.unpatchify(unpatchify)

# %% [markdown]
# On four colour pictures of CIFAR-10 (they are stored as latents, from which a small autoencoder makes pictures;
# notebook 7), with $p = 2$ again. In the second row the tokens are given to `unpatchify` as they come out of
# `patchify`. In the third their numbers are put into the outgoing order first.

# %%
latents, _ = dit_lab.open_data("cifar10-latents-small").batch([500, 600, 1700, 1800])
with torch.no_grad():
    pictures = open_codec("cifar10_vae", channels=4).decode(latents)
tokens = patchify(pictures, 2)
in_order = rearrange(tokens, "b n (c p q) -> b n (p q c)", p=2, q=2)
as_they_come, laid_back = unpatchify(tokens, 16, 2), unpatchify(in_order, 16, 2)
print("put into order first, it is the picture again, bit for bit:", torch.equal(laid_back, pictures))


def both_orders():
    """The pictures, and what comes back in both orders; how many numbers are in their place if none is like another."""
    rows = {"picture": pictures, "given as\n(c p q)": as_they_come, "put into order\n(p q c) first": laid_back}
    display(picture_table(rows, title="There and back again"))
    distinct = rearrange(torch.arange(3 * 64.0), "(c h w) -> 1 c h w", c=3, h=8)
    back = unpatchify(patchify(distinct, 2), 4, 2)
    return f"{100 * (back == distinct).float().mean():.0f}"


reveal("2.2 per cent of the numbers in their place", both_orders)

# %% [markdown]
# *Figure: four pictures of 32 x 32 pixels, and what `unpatchify` makes of their tokens. Look at what is kept in the
# middle row and what is not.*

# %% [markdown] tags=["after"]
# **17 per cent**, 2 of the 12 numbers of a token: the first and the last. Every patch is where it belongs, so from afar
# one still sees the picture, but within each patch colours and pixels are mixed up. Why does DiT not care? Each end has
# a linear layer of its own, which learns whatever numbering it is given. It matters when weights that were trained in
# one order are read in another: nothing complains, for all shapes fit. With a grey picture you would not even see it
# here. (A DiT of grey digits has two outgoing channels, noise and variance, and there you would.)

# %% [markdown]
# ## 3. What a patch costs
#
# The patch size decides how long the sequence is. Work is counted in **multiply-accumulates** (MACs): one
# multiplication and the addition that follows it. (The DiT paper's "Gflops" are $10^9$ MACs.) Try the patch sizes on a
# digit of MNIST, 28 x 28 pixels, for a small DiT:

# %%
mnist = dit_lab.open_data("mnist-small")
five = mnist.batch([list(mnist.labels).index(5)])[0]
sizes = (1, 2, 4, 7, 14, 28)
small = {p: count("DiT-nano/2", patch_size=p, input_size=28, in_channels=1, num_classes=10) for p in sizes}


def cut_with(patch):
    """A digit cut into patches, and what a small DiT pays for that."""
    figure = Figure(figsize=(8.6, 3.4), dpi=75, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    left.imshow(five[0, 0], cmap="gray", vmin=-1, vmax=1)
    for line in np.arange(patch, 28, patch) - 0.5:
        left.axhline(line, color=ORANGE, linewidth=0.8)
        left.axvline(line, color=ORANGE, linewidth=0.8)
    tokens = (28 // patch) ** 2
    left.set(title=f"{tokens} tokens, {patch**2} numbers each", xticks=[], yticks=[])
    right.loglog(sizes, [small[p].macs / 1e6 for p in sizes], "o-", color=BLUE)
    right.plot(patch, small[patch].macs / 1e6, "o", color=ORANGE, markersize=12)
    right.set(title=f"{small[patch].macs / 1e6:.3g} million MACs", xlabel="patch size p, pixels (log scale)")
    right.set(ylabel="million MACs a forward pass (log scale)")
    right.set_xticks(sizes, sizes)
    right.set_xticks([], minor=True)
    return figure


scrub({p: cut_with(p) for p in sizes}, "A digit cut into patches", along="patch size p", at=4)

# %% [markdown]
# *Figure: left a digit with the lines along which it is cut, right what one forward pass of a DiT of width 96 and depth
# 4 costs, this patch size as the large point. Move the slider: the curve is steepest where patches are small.*

# %% [markdown]
# Now the paper's largest model. It does not draw pixels but a picture's *latent*, a smaller picture that an autoencoder
# has made of it (notebook 7): 32 x 32 x 4 numbers for 256 x 256 pixels. With patches of 2, as DiT-XL/2, it makes 256
# tokens of that and spends 118.6 billion MACs (GMACs).
#
# **Guess first.** With patches of 1 instead there are four times as many tokens. How many times as many MACs is that?

# %% tags=["stub"]
predict("2.3 MACs of XL/1 over XL/2", ...)

# %% tags=["guess"]
predict("2.3 MACs of XL/1 over XL/2", 16)

# %%
patches = (1, 2, 4, 8)
costs = {
    size: {p: count(f"DiT-{size}/2", patch_size=p) for p in patches}
    for size in (("S", "XL") if fast else ("S", "B", "L", "XL"))
}  # nothing is computed: the layers' shapes are enough


def costs_of_patches():
    """XL's costs by patch size as a table, and all four sizes' beside the paper's figures."""
    print("patch  tokens  numbers a token  parameters  GMACs   the paper: GMACs  FID")
    for p, counted in costs["XL"].items():
        said = DIT.get(f"DiT-XL/{p}")
        paper = f"{said.gmacs:16.2f}  {said.fid:6.2f}" if said else "               -       -"
        row = f"{p:5}  {(32 // p) ** 2:6}  {4 * p**2:15}  {counted.trained / 1e6:8.1f} M  {counted.macs / 1e9:6.2f}"
        print(f"{row}  {paper}")
    print(f"XL/2 for 512 x 512 pixels, 1024 tokens too: {DIT_GMACS_512:25.2f}")
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (size, of), colour, mark in zip(costs.items(), CATEGORIES, "os^D", strict=False):
        left.loglog([(32 // p) ** 2 for p in of], [each.macs / 1e9 for each in of.values()], color=colour)
        said = {p: DIT[f"DiT-{size}/{p}"] for p in patches[1:]}
        points = [(32 // p) ** 2 for p in said], [each.gmacs for each in said.values()]
        left.plot(*points, mark, color=colour, label=f"DiT-{size}")
        right.plot(list(said), [each.fid for each in said.values()], f"{mark}-", color=colour, label=f"DiT-{size}")
    left.set(title="Cost", xlabel="tokens n (log scale)", ylabel="GMACs a forward (log scale)")
    left.set_xticks([16, 64, 256, 1024], ["16", "64", "256", "1,024"])
    left.set_xticks([], minor=True)
    right.set(title="Quality, from the paper's table", xlabel="patch size p", ylabel="FID (less is better)")
    right.set_xticks([2, 4, 8])
    for axis in left, right:
        axis.legend(frameon=False, fontsize=8)
    display(figure)
    return f"{costs['XL'][1].macs / costs['XL'][2].macs:.2f}"


reveal("2.3 MACs of XL/1 over XL/2", costs_of_patches)

# %% [markdown]
# *Figure: the paper's four sizes of DiT, from small (S) to extra large (XL). Left, MACs against the number of tokens,
# counted here (lines) and as the paper gives them (marks), for a latent of 32 x 32 x 4. Right, the paper's FID after
# 400,000 training steps (a distance between drawn and real pictures; notebook 8). Look at how steep the lines are on
# the left, and which way quality goes on the right.*

# %% [markdown] tags=["after"]
# **4.42.** Nearly all of a DiT works on each token by itself and grows with $n$: 4 times. Only the two products inside
# of attention, every token with every other, grow with $n^2$: 16 times; and at 256 tokens they are but a small part of
# the whole. (How small, notebook 3 asks.) In the small model above the same step, from patches of 2 to patches of 1,
# costs 7 times: its 784 tokens are many for a width of 96, and there the products weigh more. XL's parameters hardly
# change: 674.8 million with patches of 1 and of 2, for only the first and the last layer know $p$. So from XL/8 to XL/2
# the same parameters cost 16 times the MACs, and FID falls from 106 to 19. That is the paper's main finding: MACs
# count, not parameters (section 5).
#
# The paper trained no XL/1. But at 512 x 512 pixels XL/2 has 1,024 tokens too, and there it gives 524.60 GMACs: what
# you see in the table's first row, but for 0.1 GMACs.

# %% [markdown]
# ## 4. Attention does not know order
#
# What happens to the sequence inside? In each block two things: **attention**, where every token takes something from
# all others, and an MLP, which works on each token by itself. (Notebook 3 builds both.) Neither looks at a token's
# *number* in the sequence.
#
# We take the blocks of a trained DiT of the **zoo** (the small trained models that ship with the library), which draws
# MNIST's digits out of 49 tokens (7 x 7 patches of 4 x 4 pixels). Into them go the patches of a five, embedded, with
# **no positions**. Then the same 49 tokens in random order. (A DiT's blocks are also told a timestep and a label;
# notebook 4. Here they are always the same.)
#
# **Guess first.** What does the shuffling do to what comes out? "Nothing", "other numbers", or "the same numbers,
# shuffled"?

# %% tags=["stub"]
predict("2.4 shuffled tokens come out as", ...)

# %% tags=["guess"]
predict("2.4 shuffled tokens come out as", "other numbers")

# %%
zoo = dit_lab.load("mnist", device=device).model
order = torch.randperm(49, generator=torch.Generator().manual_seed(seed))
label, time = torch.tensor([5], device=device), torch.tensor([300], device=device)


@torch.no_grad()
def through_the_blocks(tokens):
    """What the zoo's six blocks make of tokens, at timestep 300 and for the label 5: `b n d -> b n d`."""
    cond = zoo.condition(time, label)
    for block in zoo.blocks:
        tokens = block(tokens, cond)
    return tokens


with torch.no_grad():
    embedded = zoo.patch_embedding(patchify(five, 4).to(device))
plain = through_the_blocks(embedded), through_the_blocks(embedded[:, order])
placed = through_the_blocks(embedded + zoo.positions), through_the_blocks(embedded[:, order] + zoo.positions)


def same(a, b):
    """Whether two outputs are one, but for rounding."""
    return torch.allclose(a, b, atol=1e-4 * a.std().item())


def compared():
    """What became of the tokens, without positions and with them."""
    told = [
        "the same numbers, shuffled" if same(before[:, order], after) else "other numbers"
        for before, after in (plain, placed)
    ]
    print(f"control, with each place's positions added after the shuffling: {told[1]}")
    return told[0]


reveal("2.4 shuffled tokens come out as", compared)

# %% [markdown] tags=["after"]
# **The same numbers, shuffled**: each token comes out as before, only at another place of the sequence. For a
# transformer without positions a picture is a *bag* of patches. The line above is the control: where a token is told
# its place by its number in the sequence, the shuffling tells it a wrong one, and everything changes.

# %% [markdown]
# ## 5. A code for places
#
# So each token is told where it lies: to its `d` features a list of `d` numbers is added, which stands for its place
# and is the same in all pictures. DiT does not learn these lists. It computes them, once and for all (section 3.2: "the
# sine-cosine version"). One coordinate $k = 0, 1, 2, \dots$ becomes $d/2$ numbers (*Attention Is All You Need*, section
# 3.5, there with $d$ for our $d/2$):
#
# $$\sin(k\,\omega_0), \sin(k\,\omega_1), \dots, \cos(k\,\omega_0), \cos(k\,\omega_1), \dots \qquad \omega_i =
# 10000^{-i / (d/4)}, \quad i = 0, \dots, d/4 - 1$$
#
# Think of the hands of $d/4$ clocks. The first turns by 1 radian from one token to the next, and tells neighbours
# apart. The last hardly moves. A token has two coordinates: the first half of its list is the code of its **column**,
# the second half that of its **row**.
#
# **Guess first.** DiT-XL/2 has a grid of 16 x 16 tokens and $d = 1152$. How alike are two places? Take the cosine of
# the angle between their two lists: 1 for the same place. Which place is more alike to the corner (0, 0): (5, 5), seven
# tokens away along the diagonal, or (0, 15), the far end of its row?

# %% tags=["stub"]
predict("2.5 more alike to (0, 0): (5, 5) or (0, 15)", ...)

# %% tags=["guess"]
predict("2.5 more alike to (0, 0): (5, 5) or (0, 15)", "(5, 5)")

# %% [markdown]
# Write the table: one row for each token, in the order of your sequence. All sines of a coordinate come before all its
# cosines.


# %% tags=["stub"]
def position_table(dim, rows, columns):
    """DiT's fixed 2-D sine-cosine code, the column first: `-> (rows columns) dim`."""
    ...


# %% tags=["solution"]
def position_table(dim, rows, columns):
    """DiT's fixed 2-D sine-cosine code, the column first: `-> (rows columns) dim`."""
    omega = 10000.0 ** (-torch.arange(dim // 4) / (dim / 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [rearrange(place, "h w -> (h w) 1") * omega for place in (column, row)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)


# %%
check.position_table(position_table)

# %%
table = position_table(128, 7, 7)
library = layers.position_table(128, 7, 7)
print("mine and the library's agree:", torch.allclose(table.float(), library, atol=1e-4))

figure = Figure(figsize=(9.5, 4.2), layout="constrained")
axis = figure.subplots()
drawn = axis.imshow(table, cmap="cividis", vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
axis.set(title="The position table of a grid of 7 x 7 tokens", ylabel="token (row by row)")
axis.set_yticks(range(0, 49, 7))
axis.set_xticks([16, 48, 80, 112], ["sin of column", "cos of column", "sin of row", "cos of row"])
axis.set_xlabel("feature (32 frequencies each, fast to slow)")
for line in (31.5, 63.5, 95.5):
    axis.axvline(line, color="white")
figure.colorbar(drawn, label="value added to the feature")
display(figure)

# %% [markdown]
# *Figure: the table for 49 tokens of width 128, a line for each token. The four parts are 32 frequencies each. Look at
# how often each part repeats itself from top to bottom: the column's every seven tokens, the row's not at all.*

# %% [markdown]
# How alike places are follows from one identity, $\sin a \sin b + \cos a \cos b = \cos(a - b)$: the inner product of
# two codes of one coordinate is the sum of $\cos((k - k')\,\omega_i)$. It depends on the **difference** alone, not on
# where on the grid the two places are.


# %%
def in_a_line(dim, count):
    """The code of a sentence, one number a token: `-> count dim`; the column's half of a table of one row."""
    return position_table(2 * dim, 1, count)[:, :dim]


def likeness(table, of):
    """The cosine of one row of a table with all rows: `n d -> n`."""
    unit = F.normalize(table, dim=1)
    return unit @ unit[of]


grid, line = position_table(1152, 16, 16).float(), in_a_line(1152, 256).float()


def likeness_of(row, column):
    """How alike a place is to all others, by the table of a picture and by that of a sentence."""
    figure = Figure(figsize=(7.6, 3.7), dpi=75, layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, codes, name in zip(axes, (grid, line), ("two coordinates (DiT)", "one number (a sentence)"), strict=True):
        values = rearrange(likeness(codes, 16 * row + column), "(h w) -> h w", h=16)
        drawn = axis.imshow(values, cmap="viridis", vmin=0.3, vmax=1)
        axis.plot(column, row, "o", color=ORANGE, markerfacecolor="none", markersize=10)
        axis.set(title=name, xlabel="column of token", ylabel="row of token")
    figure.colorbar(drawn, ax=axes, label=f"cosine to token ({row}, {column})")
    return figure


def alike():
    """The likeness of places, to be moved about, and the answer."""
    places = (0, 15) if fast else (0, 7, 15)
    frames = {(row, column): likeness_of(row, column) for row in places for column in places}
    display(scrub(frames, "How alike the codes of places are", along=("row", "column"), at=(0, 0)))
    corner = rearrange(likeness(grid, 0), "(h w) -> h w", h=16)
    near, far = corner[5, 5].item(), corner[0, 15].item()
    return f"{'(0, 15)' if far > near else '(5, 5)'}: {far:.2f} against {near:.2f}"


reveal("2.5 more alike to (0, 0): (5, 5) or (0, 15)", alike)

# %% [markdown]
# *Figure: the cosine between one token's code (circle) and all others, on a grid of 16 x 16: left DiT's table, right
# that of a sentence of 256 words, laid out in the same rows. Move the circle, and look at the shape of what is bright.*

# %% [markdown] tags=["after"]
# **(0, 15)**: a cross, not a disc. Half of the list is the column's and half the row's, so whoever shares the row keeps
# half of the likeness in full. And nothing is unlike: the lowest value is 0.65, since most hands hardly move over 16
# tokens. That is no harm. The model is not asked for cosines: its first layers can weigh the features as they need.
# Right, the control: numbered in a line, the token below is as far as a whole row.

# %% [markdown]
# ## 6. What positions are worth: a reader of digits
#
# A small ViT reads scikit-learn's digits, 8 x 8 pixels: **your** `patchify` with $p = 2$, one linear layer, something
# that stands for places, two transformer blocks of PyTorch's own, the mean over the tokens, and ten scores. It is
# trained four times, and only the places differ:
#
# * **none**: nothing is added;
# * **table**: yours;
# * **shuffled once**: your table with its rows in random order, the same for all pictures: token 0 may be told that it
#   lies at the bottom right;
# * **shuffled anew**: in another order for every picture: the control, which adds as much but says nothing.
#
# **Guess first**, twice. How many per cent of unseen digits does it read without positions (by chance it would be 10)?
# And with the table shuffled once: as well as with the table, as badly as without, or between?

# %% tags=["stub"]
predict("2.6 per cent read without positions", ...)

# %% tags=["guess"]
predict("2.6 per cent read without positions", 40)

# %% tags=["stub"]
predict("2.7 with the table shuffled once", ...)

# %% tags=["guess"]
predict("2.7 with the table shuffled once", "between")


# %%
class Reader(torch.nn.Module):
    """A ViT of digits: `x: b 1 8 8 -> b 10` scores; `places` is one of none, table, shuffled once, shuffled anew."""

    def __init__(self, places, width=64):
        super().__init__()
        self.places = places
        self.embed = torch.nn.Linear(4, width)
        self.register_buffer("table", position_table(width, 4, 4).float())
        self.register_buffer("order", torch.randperm(16, generator=torch.Generator().manual_seed(seed)))
        self.blocks = torch.nn.Sequential(*(self.block(width) for _ in range(2)))
        self.norm, self.scores = torch.nn.LayerNorm(width), torch.nn.Linear(width, 10)

    @staticmethod
    def block(width):
        """Attention of 4 heads and an MLP, as notebook 3 explains them: `b n d -> b n d`."""
        options = dict(dropout=0, activation="gelu", batch_first=True, norm_first=True)
        return torch.nn.TransformerEncoderLayer(width, 4, 2 * width, **options)

    def where(self, count):
        """What is added to the tokens of `count` pictures: `-> n d` or `b n d`."""
        if self.places == "shuffled anew":
            return self.table[torch.rand(count, 16).argsort(1).to(self.order)]
        return {"none": 0 * self.table, "table": self.table, "shuffled once": self.table[self.order]}[self.places]

    def forward(self, x):
        tokens = self.blocks(self.embed(patchify(x, 2)) + self.where(len(x)))
        return self.scores(self.norm(reduce(tokens, "b n d -> b d", "mean")))


def trained(places, seed):
    """A reader, after its training."""
    torch.manual_seed(seed)
    reader = Reader(places).to(device)
    optimiser = torch.optim.AdamW(reader.parameters(), lr=lr)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps)  # rises, then falls to 0
    random = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x, y = digits.batch(torch.randint(len(digits), (batch_size,), generator=random).numpy())
        optimiser.zero_grad()
        F.cross_entropy(reader(x.to(device)), y.to(device)).backward()
        optimiser.step()
        rate.step()
    return reader.eval()


@torch.no_grad()
def read_right(reader, x, y):
    """The share of pictures that a reader reads right."""
    torch.manual_seed(seed)
    return (reader(x.to(device)).argmax(1).cpu() == y).float().mean().item()


x, y = unseen.batch(range(len(unseen)))
mixed = torch.rand(len(x), 16, generator=torch.Generator().manual_seed(seed)).argsort(1)
in_disorder = patchify(x, 2)[torch.arange(len(x))[:, None], mixed]  # the patches of each picture in an order of its own
shuffled_x = unpatchify(in_disorder, 4, 2)  # with one channel both orders are the same
names = "none", "table", "shuffled once", "shuffled anew"
shares = {name: [] for name in names}
for name in names:
    for each in seeds:
        with one_thread():  # for models this small two threads are no faster
            reader = trained(name, each)
        shares[name].append((read_right(reader, x, y), read_right(reader, shuffled_x, y)))
means = {name: np.mean(both, axis=0) for name, both in shares.items()}
to_five = lambda share: f"about {5 * round(20 * share)}"


# %%
def worth():
    """What each reader reads, in order and in disorder, a point for each seed."""
    figure = Figure(figsize=(9.5, 3.4), layout="constrained")
    axis = figure.subplots()
    for shift, which, colour, said in (-0.2, 0, BLUE, "as they are"), (0.2, 1, ORANGE, "patches of each shuffled"):
        axis.bar(np.arange(4) + shift, [100 * means[name][which] for name in names], 0.4, color=colour, label=said)
        for place, name in enumerate(names):
            of_seeds = [100 * both[which] for both in shares[name]]
            axis.plot([place + shift] * len(of_seeds), of_seeds, "k.", markersize=5)
    axis.axhline(10, color="grey", linestyle=":", label="by chance")
    axis.set(title="Unseen digits read right", xlabel="what is added for the places", ylabel="per cent")
    axis.set_xticks(range(4), names)
    axis.set_ylim(0, 105)
    figure.legend(loc="outside right upper", frameon=False)
    display(figure)
    return f"{to_five(means['none'][0])}; with the table {to_five(means['table'][0])}"


reveal("2.6 per cent read without positions", worth)

# %% [markdown]
# *Figure: the share of 299 unseen digits that is read right (bars are means, points are single trainings): left bars,
# the pictures as they are, right bars, with the patches of each picture in an order of its own. Compare the four left
# bars, and then each right bar with the left one beside it.*


# %%
def shuffled_once():
    """What the reader with the table shuffled once reads."""
    none, full, once = (to_five(means[name][0]) for name in names[:3])
    return f"{once}; with the table {full}, without {none}"


reveal("2.7 with the table shuffled once", shuffled_once)

# %% [markdown] tags=["after"]
# Without positions about three in four are read: far more than by chance. A bag of 16 patches says much: how many are
# dark, how many hold a slanted edge. Shuffle the patches of the pictures and as many are read: that is section 4 again,
# for a mean over tokens does not see their order. With the table it is about 95 per cent, and about 25 when the patches
# are shuffled. *Shuffled anew*, the control, is as poor as none.
#
# And **shuffled once is as good as the table**. The reader did not need the geometry in the table's waves: it learned
# from the pictures what belongs where, and for that each place needs a *name* that is its own, and always the same.
# That neighbours' names are alike might help a model that has seen few pictures, or a size that it was not trained on.
# Here, with 16 places, nothing of it is to be seen.

# %% [markdown]
# ## 7. In a DiT that draws
#
# Now all three functions go into a DiT. The library's `DiT` has a method for each, and a subclass overrides them. The
# weights are the zoo's, trained on MNIST; so your functions must speak the order of axes that these weights know. (Of
# the two outgoing channels the second, the variance, is notebook 5's matter.)


# %%
class MyDiT(DiT):
    """A DiT with the cut, the way back and the positions of this notebook."""

    order = None  # of the table's rows, if they are to be shuffled

    def patchify(self, x):
        return self.patch_embedding(patchify(x, self.config.patch_size))

    def unpatchify(self, tokens, rows):
        return unpatchify(tokens, rows, self.config.patch_size)

    def positions_of(self, rows, columns):
        table = position_table(self.config.dim, rows, columns).float().to(self.positions.device)
        return table if self.order is None else table[self.order]


mine = MyDiT(zoo.config, BLOCKS[zoo.config.block])
mine.load_state_dict(zoo.state_dict())
mine = mine.to(device).eval()

labels = torch.arange(10, device=device)
noise = torch.randn(10, 1, 28, 28, generator=torch.Generator().manual_seed(seed)).to(device)
times = torch.full((10,), 500, device=device)
with torch.no_grad():
    ours, theirs = mine(noise, times, labels), zoo(noise, times, labels)
# the zoo keeps its numbers, the table among them, in 16 bits: they are right to about three digits
print("mine and the library's agree:", torch.allclose(ours, theirs, atol=1e-2))

# %% [markdown]
# Next, a drawing with each digit once, and then a trial: the rows of the position table are shuffled, once, into a
# random order of all 49 places. Nothing else: same weights, same sampler. From pure noise, with that table at every
# step.
#
# **Guess first.** What will it draw: digits as before, noise, black, or something else?

# %% tags=["stub"]
predict("2.8 with a shuffled table a DiT draws", ...)

# %% tags=["guess"]
predict("2.8 with a shuffled table a DiT draws", "noise")

# %%
judge = zoo_judge("mnist28")  # a network of the zoo that reads digits, 99 % of MNIST's right
wanted = torch.arange(10).repeat(judged // 10)


def draw(model):
    """Digits of all labels from noise, always the same noise: `-> b 1 28 28` (how: notebook 6)."""
    return dit_lab.generate(model, wanted.to(device), sampler="dpmpp", steps=15, cfg_scale=2.0, seed=seed).cpu()


def put(x, order):
    """The patches of pictures in another order: `b c h w -> b c h w`."""
    return unpatchify(patchify(x, 4)[:, order], 7, 4)


class OtherWay(MyDiT):
    """The same, with outgoing features read in the order of the way in, (c p q)."""

    def unpatchify(self, tokens, rows):
        return super().unpatchify(rearrange(tokens, "b n (c p q) -> b n (p q c)", p=4, q=4), rows)


drawn = {"your functions": draw(mine)}
mine.order = order.to(device)
drawn["table shuffled"] = draw(mine)
with torch.no_grad():
    in_pieces = mine(put(noise.cpu(), order).to(device), times, labels)[:, :1].cpu()
moves_along = torch.allclose(in_pieces, put(ours[:, :1].cpu(), order), atol=1e-3)
# the token in place i was told that it lies at order[i]; argsort is the way back
drawn["its patches\nput back"] = put(drawn["table shuffled"], order.argsort())
drawn["put into\nanother order"] = put(drawn["table shuffled"], torch.arange(49).flip(0))
mine.order = None
other = OtherWay(zoo.config, BLOCKS[zoo.config.block])
other.load_state_dict(zoo.state_dict())
drawn["unpatchify\nby (c p q)"] = draw(other.to(device).eval())
read = {name.replace("\n", " "): judge.agreement(each, wanted) for name, each in drawn.items()}


def drawings():
    """Ten digits of each trial, and how many of all are read as asked for."""
    display(picture_table({name: each[:10] for name, each in drawn.items()}, range(10), "The same noise and weights"))
    for name, share in read.items():
        print(f"{name:24} about {round(share, 1):4.0%} read as asked for")
    print("one forward, its noise put into the table's order: the output is as before, in that order:", moves_along)
    rescued = read["its patches put back"] > 0.8
    return "digits in pieces: with the patches put back they are whole" if rescued else "nothing that can be read"


reveal("2.8 with a shuffled table a DiT draws", drawings)

# %% [markdown]
# *Figure: ten digits of the zoo's DiT, drawn with your three functions; with a shuffled table; the same pictures with
# their patches put back; put into an order that is not theirs (the patches' sequence from its end); and with the
# outgoing features read in the wrong order. Compare the third row with the first.*

# %% [markdown] tags=["after"]
# **Digits, in pieces.** The model was told that its top left token lies, say, in the middle, so it drew there what
# belongs in the middle. Nothing told it that anything was wrong: shuffled noise is still noise, and inside of a DiT
# nothing but the table says which token is whose neighbour. Put the patches back and nearly all digits can be read. A
# convolution knows the plane by how it is built. A DiT knows names of places, and has learned from pictures what they
# have to do with each other. (The digits are others than in the first row, for each place begins with another piece of
# noise.)
#
# The last line printed makes it exact: shuffle the noise like the table, and what comes out is what came out before,
# shuffled.
#
# The last row of the figure is what an order of axes can do. No error, no warning: all shapes fit.

# %% [markdown]
# ## Summary
#
# * A picture is a sequence of patches: split both sides, change places, merge. Two of the three steps move nothing, and
#   the one that does is what `reshape` forgets.
# * DiT's ends are not mirror images: `(c p q)` on the way in, `(p q c)` on the way out.
# * Halve the patch: four times the tokens, at XL's width about four times the MACs, nearly the same parameters. In the
#   paper FID falls each time.
# * A transformer is blind to order. What it knows of places is what is added to the tokens. DiT's sine-cosine table is
#   one choice: two coordinates, likeness by difference.
# * On small pictures any names do, if each place keeps its own.
#
# Later models turn queries and keys by the place instead of adding to the tokens (RoPE; notebook 12).

# %% tags=["figures"]
print(f"MACs of DiT-XL with patches of 1 over patches of 2: {costs['XL'][1].macs / costs['XL'][2].macs:.2f}")
for name in names:
    print(f"digits read right, places {name}: {to_five(means[name][0])}%")
print(f"digits drawn with your functions, read as asked for: about {round(read['your functions'], 1):.0%}")
print(f"with the table shuffled: about {round(read['table shuffled'], 1):.0%}")
print(f"with their patches put back: about {round(read['its patches put back'], 1):.0%}")

# %% [markdown]
# ## What would falsify this?
#
# * *A transformer without positions is blind to order.* Find a shuffle for which the readers "none" and "shuffled anew"
#   do not read the same with the patches shuffled and in order, but for rounding (the first) and chance (the second).
# * *Any names do.* Train the readers on 100 digits instead of 1,498, or with patches of 1 and so 64 places. If the
#   shuffled table falls behind the real one, geometry in the table is worth something there.
# * *A DiT's geometry is in its table alone.* It was shown for one forward. Shuffle the noise of a whole run like the
#   table: what is drawn, put back, must be the first row's digits, up to rounding. If it is not, something else knows
#   of places.
# * *MACs count, not parameters.* In the paper's table S/2 and B/4 cost about the same (6.06 and 5.56 GMACs) and
#   have the same FID (68.40 and 68.38); B/2 and L/4 come near to that (23.01 and 19.70, FID 43.47 and 45.64). But S/4
#   and B/8 cost the same 1.4 GMACs, and their FIDs are 100.41 and 122.74. With patches of 8 the claim is at its
#   weakest; a model there as good as its MACs promise would mend it, more such pairs would end it.
