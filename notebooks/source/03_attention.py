# %% [markdown]
# # 3. Attention and the transformer block
#
# **Aim:** Write attention, the norm before it and the block around both, put them into a trained DiT in place of the
# library's, look where its heads look, break it line by line, and count what each part costs.
#
# **Before:** patches and positions (notebook 2). What a DiT does with noise (notebook 1) is said again where it is
# needed.
#
# **Time:** about 3 minutes of computing on a CPU; an hour with the exercises.
#
# **Exercises:** `split_heads`, `attend`, `layer_norm`, `block_macs`
#
# The papers:
#
# * attention: Vaswani et al. 2017, *Attention Is All You Need*, [arXiv 1706.03762](https://arxiv.org/abs/1706.03762)
# * the norm: Ba et al. 2016, *Layer Normalization*, [arXiv 1607.06450](https://arxiv.org/abs/1607.06450)
# * DiT: Peebles & Xie 2022, *Scalable Diffusion Models with Transformers*, [arXiv
#   2212.09748](https://arxiv.org/abs/2212.09748)
# * fused attention: Dao et al. 2022, *FlashAttention*, [arXiv 2205.14135](https://arxiv.org/abs/2205.14135)

# %%
import math
import os

import numpy as np
import torch
import torch.nn.functional as F
from einops import einsum, rearrange, reduce, repeat
from IPython.display import display
from matplotlib.figure import Figure

import dit_lab
from dit_lab.course import check, predict, reveal
from dit_lab.evaluation import zoo_judge
from dit_lab.experiments.papers import DIT
from dit_lab.inside.plots import BLUE, GREEN, ORANGE, attention_overlay, picture_table
from dit_lab.models import Block, count, one_thread, pick_device
from dit_lab.models.blocks.adaln_zero import PARTS
from dit_lab.models.layers import Attend, Modulation
from dit_lab.panels import Opened
from dit_lab.widgets import show

# %% [markdown]
# Everything that you may want to change is in the next cell.

# %% tags=["parameters"]
fast = os.environ.get("FAST") == "1"  # for the tests: a little of everything
device = pick_device("auto")  # the first of CUDA, an Apple GPU and the CPU
run_steps = 10 if fast else 50  # of the run that is looked into
look_at = 6 if fast else 30  # the step at which it is looked into, counted from 0: a bit after the middle
block_number = 2  # the block that is looked into, counted from 0; there are six
judged = 10 if fast else 100  # digits that are drawn and read in each trial, a multiple of 10
seed = 5  # fixes the noise that digits are drawn from

# %% [markdown]
# ## 1. What a token asks, and what it offers
#
# A picture is now `n` tokens of `d` numbers each. A transformer keeps that shape, `b n d`, from its first block to its
# last; each block only **adds** something to the tokens. What runs through all blocks is called the *residual stream*.
#
# A token alone knows its own patch and its place. To draw a stroke that goes on in the next patch it must hear of that
# patch. For this each token makes three lists of numbers out of its `d` features, by a linear layer each:
#
# * a **query** $q$: what it looks for,
# * a **key** $k$: by which others find it,
# * a **value** $v$: what it hands over to those that do.
#
# All of it is done several times side by side, by **heads**. With 4 heads and $d = 128$ each head has queries, keys and
# values of $e = 128 / 4 = 32$ numbers of its own, and looks for something of its own.
#
# **Guess first.** Take 8 heads instead of 4, with the same $d$. How many times as many multiply-accumulates (MACs, one
# multiplication and the addition after it) does a DiT then do?

# %% tags=["stub"]
predict("3.1 MACs with 8 heads over those with 4", ...)

# %% tags=["guess"]
predict("3.1 MACs with 8 heads over those with 4", 2)

# %% [markdown]
# For speed all three linear layers of all heads are one: `qkv`, from `d` to `3 d` numbers. First lie all queries, then
# all keys, then all values; among the queries first those of head 0, and so on. Take it apart: three tensors, each with
# an axis of heads before that of tokens, so that what follows runs for each head by itself.


# %% tags=["stub"]
def split_heads(qkv, heads):
    """One projection, three parts: `qkv: b n (qkv head e) -> q, k, v`, each `b head n e`."""
    ...


# %% tags=["solution"]
def split_heads(qkv, heads):
    """One projection, three parts: `qkv: b n (qkv head e) -> q, k, v`, each `b head n e`."""
    q, k, v = rearrange(qkv, "b n (qkv head e) -> qkv b head n e", qkv=3, head=heads)
    return q, k, v


# %%
check.split_heads(split_heads)

# %% [markdown]
# On something real: a DiT of the zoo (small trained models that ship with the library) that was trained on MNIST's
# digits. It draws 28 x 28 pixels as 49 tokens (7 x 7 patches of 4 x 4), with 6 blocks of width 128 and 4 heads. We let
# it draw a 7, from noise to digit, and keep every step. At one of them, a bit after the middle, the network is run
# again, and what passes by its `qkv` layer in one block is written down.

# %%
zoo = dit_lab.load("mnist", device=device).model
run = dit_lab.record(zoo, [7], steps=run_steps, cfg_scale=2.0, seed=seed)
passed = {}


def forward(model, t, x):
    """What a model makes of `x: b 1 28 28` at the timestep `t`, asked for a 7."""
    filled = lambda value: torch.full((len(x),), value, device=device)
    with torch.no_grad():
        return model(x.to(device), filled(t), filled(7))


x_t, t = run.x[look_at], run.t[look_at]
attention = zoo.blocks[block_number].attn
hook = attention.qkv.register_forward_hook(lambda layer, given, made: passed.update(tokens=given[0], qkv=made))
with dit_lab.watch(zoo) as seen:  # the library's own way of looking in
    forward(zoo, t, x_t)
hook.remove()

q, k, v = split_heads(passed["qkv"], attention.heads)
of_library = seen.q_k[block_number, "attn"]
print(f"step {look_at + 1} of {run_steps}, t = {t}")
print(f"tokens {tuple(passed['tokens'].shape)} -> qkv {tuple(passed['qkv'].shape)} -> q, k, v {tuple(q.shape)} each")
print("mine and the library's agree:", torch.equal(q, of_library[0]) and torch.equal(k, of_library[1]))

# %%
more = dit_lab.build(zoo.config, heads=8)
reveal("3.1 MACs with 8 heads over those with 4", f"{count(more).macs / count(zoo).macs:.2f}")

# %% [markdown] tags=["after"]
# **The same**, and the same number of parameters too. More heads are narrower heads: the width is shared out among
# them.

# %% [markdown]
# ## 2. Attention by hand
#
# Three steps, for each head by itself (*Attention Is All You Need*, equation 1):
#
# $$\text{attention}(q, k, v) = \text{softmax}\left(\frac{q\,k^\top}{\sqrt e}\right) v$$
#
# 1. **Scores.** How well does each query fit each key? The product of the two lists, number by number, summed.
# 2. **Weights.** A softmax turns the scores of one query into positive numbers that sum to 1.
# 3. **Average.** What the query gets is the average of all values, with these weights.
#
# By hand, with one query, three keys, and $e = 2$:

# %%
query, keys = torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 1.0], [0.0, 2.0], [-1.0, 0.0]])
values = torch.tensor([[10.0, 0.0], [0.0, 10.0], [5.0, 5.0]])
scores = [round(float(query[0] * key[0] + query[1] * key[1]), 2) for key in keys]
print("1. scores, one a key:     ", scores)
divided = [score / math.sqrt(2) for score in scores]
exps = [math.exp(score) for score in divided]
weights = [each / sum(exps) for each in exps]
print("   divided by sqrt(2):    ", [round(each, 2) for each in divided])
print("2. exp, over their sum:   ", [round(each, 2) for each in weights])
average = sum(weight * value for weight, value in zip(weights, values, strict=True))
print("3. average of the values: ", [round(each, 2) for each in average.tolist()])

# %% [markdown]
# **Why the root?** A score is a sum of $e$ products. If the numbers in $q$ and $k$ are like standard noise, the sum's
# variance is $e$, and the scores are spread over $\pm\sqrt e$. A softmax of large numbers is nearly all or nothing.
#
# **Guess first.** Queries and keys of pure noise, 49 tokens, heads of $e = 64$ (as DiT-S to L have). An even head would
# give each token 1/49, that is 2 per cent. *Without* the division, how many per cent does a query give to its
# favourite, on average?

# %% tags=["stub"]
predict("3.2 per cent on the favourite of 49, undivided", ...)

# %% tags=["guess"]
predict("3.2 per cent on the favourite of 49, undivided", 20)

# %% [markdown]
# Write all three steps. `i` counts queries and `j` keys, for there need not be equally many. `einsum` of einops
# multiplies two tensors and sums over every axis that is not named behind the arrow.


# %% tags=["stub"]
def attend(q, k, v):
    """Attention by hand: `q: b head i e, k: b head j e, v: b head j e -> b head i e`."""
    ...


# %% tags=["solution"]
def attend(q, k, v):
    """Attention by hand: `q: b head i e, k: b head j e, v: b head j e -> b head i e`."""
    scores = einsum(q, k, "b head i e, b head j e -> b head i j") / math.sqrt(q.shape[-1])
    return einsum(scores.softmax(dim=-1), v, "b head i j, b head j e -> b head i e")


# %%
check.attend(attend)

# %% [markdown]
# Held beside PyTorch's `scaled_dot_product_attention`, which the library runs, on the queries, keys and values of the
# zoo's block:

# %%
fused = F.scaled_dot_product_attention(q, k, v)
print("mine and the fused one agree:", torch.allclose(attend(q, k, v), fused, atol=1e-5))


def weights_of(q, k):
    """The weights that your `attend` averages with: `q: b head i e, k: b head j e -> b head i j`."""
    one_each = torch.eye(k.shape[2], device=k.device)  # token j hands over a 1 in place j, and nothing else
    return attend(q, k, repeat(one_each, "j e -> b head j e", b=q.shape[0], head=q.shape[1]))


print("mine and the library's maps agree:", torch.allclose(weights_of(q, k), seen.attention(block_number), atol=1e-5))
print("the weights of one picture and block, 16 heads, 4 bytes each:")
for tokens in 256, 1024, 4096:
    print(f"{tokens:5} tokens: {16 * tokens**2 * 4 / 2**20:5.0f} MiB")

# %% [markdown]
# `weights_of` is a trick worth knowing. Give attention identity matrices as values, and out come its weights.
#
# Why "fused"? By hand all weights lie in memory, 4 MiB a picture for every block of a DiT-XL/2, and they grow with the
# square of the tokens. A fused kernel goes through the keys in pieces and never has the whole map (*FlashAttention*,
# section 3). It computes the same numbers, up to rounding. The price: the map cannot be read off afterwards. Whoever
# wants to see it computes it anew from $q$ and $k$, as we did. So does the library.

# %%
widths = (4, 8, 16, 32, 64, 128, 256)


def on_the_favourite(factor, e):
    """The mean largest weight of queries among 49 keys of noise of width `e`, scores times a factor: in per cent."""
    random = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(20, 4, 49, e, generator=random) for _ in range(2))
    undone = math.sqrt(e)  # your attend divides by it
    largest = reduce(weights_of(q * factor * undone, k), "b head i j -> b head i", "max")
    return 100 * largest.mean().item()


def favourites():
    """The favourite's share against the width of a head, by what scores are divided by."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axis = figure.subplots()
    kinds = {"not divided": (lambda e: 1, ORANGE, "s--"), r"by $\sqrt{e}$": (lambda e: e**-0.5, BLUE, "o-")}
    kinds["by e"] = (lambda e: 1 / e, GREEN, "^:")
    for name, (factor, colour, style) in kinds.items():
        axis.plot(widths, [on_the_favourite(factor(e), e) for e in widths], style, color=colour, label=name)
    axis.axhline(100 / 49, color="grey", linewidth=0.8, label="an even head")
    axis.set(title="One query, 49 keys, all of noise", xlabel="width of the head, e (log scale)", xscale="log")
    axis.set(ylabel="per cent of the weight\non the favourite key", ylim=(0, 100))
    axis.set_xticks(widths, widths)
    axis.set_xticks([], minor=True)
    axis.legend(frameon=False, title="scores divided")
    display(figure)
    return f"about {on_the_favourite(1, 64):.0f}; divided it is {on_the_favourite(1 / 8, 64):.0f}"


reveal("3.2 per cent on the favourite of 49, undivided", favourites)

# %% [markdown]
# *Figure: how much of its weight a query gives to the key that fits best, when queries and keys are noise and mean
# nothing. Look at which of the three curves is level.*

# %% [markdown] tags=["after"]
# **About 80 per cent**, for nothing but noise. A wide head would be sure before it has learned anything; and where a
# softmax is nearly all or nothing its slope is nearly 0, so it would learn slowly (*Attention Is All You Need*, section
# 3.2.1). Divided by the root of $e$ it is about 13 per cent at every width. Divided by $e$ itself, wide heads become
# even and can hardly choose.

# %% [markdown]
# ## 3. Where a trained DiT looks
#
# We have the weights of a block in the middle of the zoo's DiT, while it draws a 7: for each of 4 heads, how much each
# of the 49 tokens gives to each other. Nobody told the model that tokens lie on a grid; all that it is given is the
# position table (notebook 2).
#
# **Guess first.** What do you think the four heads of this block look for? (On the stroke? Everywhere? In themselves?)

# %% tags=["stub"]
predict("3.3 what the four heads of block 2 look for", ...)

# %% tags=["guess"]
predict("3.3 what the four heads of block 2 look for", "the stroke")

# %%
inner = rearrange(torch.arange(49), "(h w) -> h w", h=7)[1:-1, 1:-1].flatten()  # tokens that have four neighbours
neighbours = {"left": -1, "above": -7, "right": 1, "below": 7}


def to_neighbours(weights):
    """What a token gives to each neighbour, the mean of the inner ones, in per cent: `1 head i j -> head by name`."""
    return {name: 100 * weights[0][:, inner, inner + step].mean(1).cpu() for name, step in neighbours.items()}


def weights_in(model, block):
    """The weights of a block of a model at our step of the run, by your function: `-> 1 head i j`."""
    with dit_lab.watch(model) as seen:
        forward(model, t, x_t)
    return weights_of(*seen.q_k[block, "attn"])


torch.manual_seed(seed)
untrained = dit_lab.build(zoo.config).to(device).eval()
told = torch.randperm(49, generator=torch.Generator().manual_seed(seed))  # token i is told that it lies at told[i]
who = told.argsort()  # the token that is told that it lies in place 0, 1, 2 ...
shuffled = dit_lab.load("mnist", device=device).model
shuffled.positions.copy_(zoo.positions[told])
astray = weights_in(shuffled, block_number)
maps = {
    f"block {block_number}": weights_in(zoo, block_number),
    "the next block": weights_in(zoo, block_number + 1),
    "untrained": weights_in(untrained, block_number),
    "table shuffled: on the picture": astray,
    "table shuffled: as told": astray[:, :, who][:, :, :, who],
}
given = {name: to_neighbours(weights) for name, weights in maps.items()}


def heads():
    """Where the middle patch looks, and what tokens give their neighbours in all maps."""
    display(attention_overlay(run.x0[look_at, 0], weights_in(zoo, block_number)[0, :, 24], 24, (7, 7)))
    print("per cent of a token's weight that goes to its neighbour (an even head: 2)")
    print(f"{'':37}{''.join(f'{name:>7}' for name in neighbours)}")
    for name, by_neighbour in given.items():
        for head in range(4):
            row = "".join(f"{by_neighbour[each][head]:7.0f}" for each in neighbours)
            print(f"{name if head == 0 else '':30} head {head}{row}")
    best = {head: max(neighbours, key=lambda name: given[f"block {block_number}"][name][head]) for head in range(4)}
    return f"their neighbours: {', '.join(f'head {head} {name}' for head, name in best.items())}"


reveal("3.3 what the four heads of block 2 look for", heads)

# %% [markdown]
# *Figure: the clean picture of a 7 that the network predicts at that step, and the weights of the outlined patch in the
# middle, laid over it: their mean and one panel a head. Bright patches get much. Compare the heads with each other.*

# %% [markdown] tags=["after"]
# **Each head looks at one neighbour**: one left, one above, one right, one below, with some nine tenths of its weight
# (the table's mean over the 25 inner tokens; a few give it less). Together they see what a 3 x 3 convolution sees,
# without its corners. Attention could look anywhere; here it learned to be local.
#
# The controls: in the next block no head gives a neighbour more than about a quarter, and an untrained model's heads
# are even. And how do they know where "left" is? The position table was shuffled, as in notebook 2: each token is told
# a wrong place. On the picture the heads now look anywhere. But put in order by what tokens are *told*, they look left,
# up, right and down as before. They do not compare what is in patches. They read the table.

# %% [markdown]
# ## 4. The norm
#
# Each block adds to the tokens, so their size drifts from block to block, and differs from token to token. Before
# attention and before the MLP, each token is brought to one size: a **layer norm** (Ba et al., equation 3). For each
# token by itself, with the mean $\mu$ and the variance $\sigma^2$ of *its* `d` features:
#
# $$\text{LN}(x) = \frac{x - \mu}{\sqrt{\sigma^2 + 10^{-6}}}$$
#
# The usual layer norm then multiplies and shifts each feature by trained numbers (its *affine* part). In DiT these come
# from the timestep and the label instead (notebook 4), so its norm has none.


# %% tags=["stub"]
def layer_norm(x):
    """Each token's features with mean 0 and variance 1, eps 1e-6: `x: b n d -> b n d`."""
    ...


# %% tags=["solution"]
def layer_norm(x):
    """Each token's features with mean 0 and variance 1, eps 1e-6: `x: b n d -> b n d`."""
    centred = x - reduce(x, "b n d -> b n 1", "mean")
    variance = reduce(centred**2, "b n d -> b n 1", "mean")
    return centred / torch.sqrt(variance + 1e-6)


# %%
check.layer_norm(layer_norm)


# %%
def size(tokens):
    """The root of the mean square of each token's features: `1 n d -> n`."""
    return reduce(tokens.cpu() ** 2, "1 n d -> n", "mean").sqrt()


with dit_lab.watch(zoo) as seen:
    forward(zoo, t, x_t)
stream = [seen.features[block] for block in range(zoo.config.depth)]
figure = Figure(figsize=(8, 3.2), layout="constrained")
axis = figure.subplots()
for tokens, colour, mark, name in (
    (stream, BLUE, "o", "as they are"),
    (map(layer_norm, stream), ORANGE, "s", "your norm"),
):
    sizes = torch.stack([size(each) for each in tokens])
    axis.plot(sizes, mark, color=colour, markersize=3, alpha=0.4)
    axis.plot(sizes.mean(1), "-", color=colour, label=name)
axis.set(
    title="Sizes of the 49 tokens after each block", xlabel="block", ylabel="root mean square\nof a token's features"
)
axis.set_ylim(0)
axis.set_xticks(range(zoo.config.depth))
axis.legend(frameon=False)
display(figure)

# %% [markdown]
# *Figure: how large each token is in the residual stream of the zoo's DiT (a dot a token, lines their means), as it is
# and after your norm. Look at the spread of the dots in one block.*

# %% [markdown]
# ## 5. The block
#
# Now all of it. A DiT's block has two **branches**, attention and an MLP. Each reads the tokens through a norm, and
# what it makes is added to the stream (DiT, figure 3; norms *before* the branches leave the stream itself untouched):
#
# $$x \leftarrow x + g_1 \cdot \text{Attention}\big((1 + s_1)\,\text{LN}(x) + b_1\big)$$
#
# $$x \leftarrow x + g_2 \cdot \text{MLP}\big((1 + s_2)\,\text{LN}(x) + b_2\big)$$
#
# The six lists of `d` numbers $b, s, g$ (shift, scale and gate) are made from the timestep and the label; that is
# adaLN-Zero, notebook 4, and here they are taken as given. The MLP is two linear layers with a GELU between them, four
# times as wide inside: it works on each token by itself. Attention ends with one more linear layer, `out`, where the
# heads' results, side by side again, are mixed.
#
# In the library a block is a subclass of `Block` with a name. Written down, it is registered: a config can ask for it.
# It is given its attention `attn`, of which yours uses the linear layers `qkv` and `out`, and its `mlp`; the linear
# layer that makes the six lists is `Modulation`. This one reads your three functions from a table, so that section 6
# can exchange one.

# %%
lines = {"split_heads": split_heads, "attend": attend, "layer_norm": layer_norm}


class MyAttend(Attend):
    """Your `attend`, at the place where the library looks for queries and keys."""

    def forward(self, q, k, v):
        return lines["attend"](q, k, v)


class ByHand(Block):
    """adaLN-Zero's block by hand: `x: b n d, cond: b k d -> b n d`; `cond` are the timestep and the label, k = 2."""

    name, title = "by_hand", "by hand"
    modulated = True  # the norm before the model's last layer takes shift and scale from the condition too

    def __init__(self, dim, heads, attn, mlp):
        super().__init__(dim, heads, attn, mlp)
        self.attn.attend = MyAttend()
        self.modulation = Modulation(dim, PARTS)

    def attention(self, x):
        """From normed tokens to what attention adds: `b n d -> b n d`."""
        q, k, v = lines["split_heads"](self.attn.qkv(x), self.attn.heads)
        return self.attn.out(rearrange(self.attn.attend(q, k, v), "b head n e -> b n (head e)"))

    def forward(self, x, cond):
        b1, s1, g1, b2, s2, g2 = self.modulation(cond)
        x = x + g1 * self.attention((1 + s1) * lines["layer_norm"](x) + b1)
        return x + g2 * self.mlp((1 + s2) * lines["layer_norm"](x) + b2)


mine = dit_lab.build(zoo.config, block="by_hand")
mine.load_state_dict(zoo.state_dict())
mine = mine.to(device).eval()

ours, theirs = forward(mine, t, x_t), forward(zoo, t, x_t)
agrees = torch.allclose(ours, theirs, atol=1e-4)
print("one forward, mine and the library's agree:", agrees)
options = dict(sampler="dpmpp", steps=15, cfg_scale=2.0, seed=seed)  # notebook 6
wanted = torch.arange(10, device=device)
ours, theirs = (dit_lab.generate(each, wanted, **options) for each in (mine, zoo))
print("ten digits from noise, mine and the library's agree:", torch.allclose(ours, theirs, atol=1e-2))

# %% [markdown]
# All six blocks of a trained DiT are yours now. What the app has for looking inside works on them too. Here is its
# attention panel, on a 7 and a 3 that *your* block draws:

# %%
drawn = dit_lab.record(mine, [7, 3], steps=run_steps, cfg_scale=2.0, seed=seed)
opened = Opened(drawn, mine, labels=list("0123456789"), source="by hand")
place = dict(step=look_at, sample=0, half="cond")
asked = [{"look": "rows", **place, "patch": patch} for patch in (17, 24, 31)]
asked += [{"look": "numbers", **place}, {"look": "received", **place, "block": 0}]
show("attention", opened, asked=asked, step=look_at, patch=17, block=block_number)

# %% [markdown]
# *Figure: the attention panel. With a kernel: click a patch, a block, a head, or another step. Saved, it shows this
# step, for the patch that is outlined (number 17) and the two below it (24 and 31). Look at block 2 from another patch:
# do its heads look the same way?*

# %% [markdown]
# ## 6. What each line is worth
#
# Now break it: one line at a time, in all six blocks, with the weights as they are. Each is a mistake that the checks
# above know, for people make them, and each gives the right shape:
#
# * **a** scores not divided by $\sqrt e$
# * **b** softmax over the queries instead of the keys
# * **c** queries and keys exchanged
# * **d** in `qkv`, heads outside and q, k, v inside: `(head qkv e)`
# * **e** no norm
#
# **Guess first.** After which one can most digits still be read? A network of the zoo reads them, which reads 99 per
# cent of MNIST's test digits right.

# %% tags=["stub"]
predict("3.4 the mistake that does the least harm", ...)

# %% tags=["guess"]
predict("3.4 the mistake that does the least harm", "c")

# %% [markdown]
# And a question that is no mistake. Let attention stop choosing: every token takes the plain average of all values.
# **Guess first.** How many per cent of its digits can then be read?

# %% tags=["stub"]
predict("3.5 per cent read when attention is even", ...)

# %% tags=["guess"]
predict("3.5 per cent read when attention is even", 70)


# %%
def undivided(q, k, v):
    return attend(q * math.sqrt(q.shape[-1]), k, v)


def over_queries(q, k, v):
    scores = einsum(q, k, "b head i e, b head j e -> b head i j") / math.sqrt(q.shape[-1])
    return einsum(scores.softmax(dim=-2), v, "b head i j, b head j e -> b head i e")


def heads_outside(qkv, heads):
    return tuple(rearrange(qkv, "b n (head qkv e) -> qkv b head n e", qkv=3, head=heads))


trials = {
    "yours, as it is": {},
    "a: not divided": {"attend": undivided},
    "b: over queries": {"attend": over_queries},
    "c: q, k exchanged": {"attend": lambda q, k, v: attend(k, q, v)},
    "d: heads outside": {"split_heads": heads_outside},
    "e: no norm": {"layer_norm": lambda x: x},
    "even attention": {"attend": lambda q, k, v: attend(0 * q, k, v)},
    "itself alone": {"attend": lambda q, k, v: v},
}
judge = zoo_judge("mnist28")
many = torch.arange(10).repeat(judged // 10)
right, pictures, share = dict(lines), {}, {}
for name, changes in trials.items():
    lines.update(right | changes)
    with one_thread():  # for a model this small two threads are hardly faster
        digits = dit_lab.generate(mine, many.to(device), **options).cpu()
    pictures[name], share[name] = digits[:10], judge.agreement(digits, many)
lines.update(right)
about = lambda name: f"about {round(share[name], 1):.0%}"


def broken():
    """The drawings of all trials and what the judge reads."""
    display(picture_table(pictures, range(10), "One line changed, in all six blocks"))
    for name in trials:
        print(f"{name:18} {about(name):>10} read as asked for")
    mistakes = sorted((name for name in trials if name[1] == ":"), key=share.get, reverse=True)
    return " and ".join(f"{name[0]} ({about(name)})" for name in mistakes if share[name] > share[mistakes[0]] - 0.1)


reveal("3.4 the mistake that does the least harm", broken)

# %% [markdown]
# *Figure: ten digits from one noise by the same weights, a changed line a row. The last two rows are no mistakes: all
# tokens averaged, and every token left with itself alone. Look at what is kept of a digit where it cannot be read any
# more.*

# %%
reveal("3.5 per cent read when attention is even", lambda: about("even attention").replace("%", ""))

# %% [markdown] tags=["after"]
# **b and a**: some nine in ten digits can still be read after the softmax over the wrong axis, and about as many
# without the division. Beside the first row one sees that strokes differ or are missing; without it one might take this
# for a model that was trained too little. That a model draws what it should is little proof that its code is right.
# (One reason may be what you saw in section 3. A head whose tokens each give nearly all of their weight to one
# neighbour has a map whose columns sum to about 1 as its rows do, and it cannot get much more decided.) The others do
# break it: fewer than half are left.
#
# Even attention is no better: about **three in ten** can be read. Its tokens still know the picture's mean, and their
# own patch and place, and the frame of a digit is still there. But where a stroke goes on is not in an average. With
# every token left to itself, squares remain.

# %% [markdown]
# ## 7. Where the MACs go
#
# "Attention is quadratic" is what everyone knows of transformers' cost. In a DiT-XL/2, for 256 x 256 pixels, there are
# 256 tokens of width 1152.
#
# **Guess first.** How many per cent of its MACs are the products that are quadratic: each query with each key, and
# weights with values?

# %% tags=["stub"]
predict("3.6 per cent of XL/2's MACs in quadratic products", ...)

# %% tags=["guess"]
predict("3.6 per cent of XL/2's MACs in quadratic products", 30)

# %% [markdown]
# Count a block. A linear layer from $a$ to $b$ numbers costs $a \cdot b$ MACs a token. The product of a matrix of $n$
# by $m$ with one of $m$ by $l$ costs $n \cdot m \cdot l$. There are
#
# * four linear layers of `dim` by `dim` in attention: q, k, v, and the one at its end;
# * two products of tokens with tokens, over all heads together `dim` wide;
# * the MLP's two linear layers, `dim` to `mlp_ratio * dim` and back.
#
# Norms, softmax and additions are left out: it is what the paper counts, and prints as "Gflops".


# %% tags=["stub"]
def block_macs(tokens, dim, mlp_ratio):
    """Multiply-accumulates of one block's attention and MLP, without the condition: `-> int`."""
    ...


# %% tags=["solution"]
def block_macs(tokens, dim, mlp_ratio):
    """Multiply-accumulates of one block's attention and MLP, without the condition: `-> int`."""
    linears = 4 * tokens * dim**2
    products = 2 * tokens**2 * dim
    mlp = 2 * tokens * dim * round(mlp_ratio * dim)
    return linears + products + mlp


# %%
check.block_macs(block_macs)

# %% [markdown]
# Beside the library's count, which runs a model without data and counts every matrix product, and beside the paper's
# figures (table 4):

# %%
print("model     blocks, by you   whole model, counted   the paper    (all in GMACs)")
for size_name, depth, dim in ("S", 12, 384), ("B", 12, 768), ("L", 24, 1024), ("XL", 28, 1152):
    name = f"DiT-{size_name}/2"
    by_you = depth * block_macs(256, dim, 4) / 1e9
    print(f"{name:9} {by_you:14.2f} {count(name).macs / 1e9:22.2f} {DIT[name].gmacs:11.2f}")

xl = count("DiT-XL/2")
print(f"\n{xl}")

# %% [markdown]
# Your formula leaves hardly anything over: a DiT's cost *is* that of its blocks. One line of the table is worth a
# second look, `blocks.*.modulation`, the linear layers that make shifts, scales and gates: a third of the parameters,
# and 0.2 per cent of the MACs. They work once a picture, not once a token. (Notebook 4 compares this block with the
# paper's three others.)

# %%
share_of_products = 28 * 2 * 256**2 * 1152 / xl.macs  # 28 blocks of width 1152, 256 tokens


def where_they_go():
    """The shares of a block's parts against the number of tokens, at XL's width."""
    tokens = 16 * 2 ** np.arange(0, 12.25, 0.25)
    parts = {"MLP": 8 * tokens * 1152**2, "attention's four linears": 4 * tokens * 1152**2}
    parts["tokens with tokens"] = 2 * tokens**2 * 1152
    whole = sum(parts.values())
    figure = Figure(figsize=(8.5, 3.6), layout="constrained")
    axis = figure.subplots()
    shares = [100 * part / whole for part in parts.values()]
    axis.stackplot(tokens, *shares, labels=list(parts), colors=[BLUE, GREEN, ORANGE], alpha=0.8)
    for n, name in (256, "256 pixels"), (1024, "512 pixels"), (4096, "1,024 pixels"):
        axis.axvline(n, color="white", linewidth=1)
        axis.text(n, 3, f" {name}", color="white", fontsize=8)
    axis.set(title="Where the MACs of a block go, width 1152", xlabel="tokens (log scale)", ylabel="per cent of MACs")
    axis.set(xscale="log", xlim=(16, 65536), ylim=(0, 100))
    marked = [16, 64, 256, 1024, 4096, 16384, 65536]
    axis.set_xticks(marked, [f"{n:,}" for n in marked])
    axis.set_xticks([], minor=True)
    figure.legend(loc="outside right center", frameon=False, reverse=True)
    display(figure)
    return f"{100 * share_of_products:.1f}"


reveal("3.6 per cent of XL/2's MACs in quadratic products", where_they_go)

# %% [markdown]
# *Figure: the shares of a block's MACs at DiT-XL's width, over the number of tokens. White lines: pictures of 256, 512
# and 1,024 pixels a side with patches of 2 on latents of an eighth of the side. Look at where the quadratic part
# overtakes the rest.*

# %% [markdown] tags=["after"]
# **3.6 per cent.** At 256 tokens a DiT is two thirds MLP. The quadratic products, $2 n^2 d$, equal all the rest, $12 n
# d^2$, only at $n = 6d$: 6,912 tokens for XL, pictures of some 1,300 pixels a side. Well below that, half the patch
# size costs little more than 4 times as much, not 16 times (notebook 2). (MACs are not seconds, though. Attention by
# hand writes all its weights to memory and reads them again, and waits for that: *FlashAttention*, section 2.)

# %% [markdown]
# ## Summary
#
# * Attention is an average of values; the weights are a softmax of products of queries with keys, over the root of the
#   head's width. It is the only place where tokens hear of each other.
# * A fused kernel computes the same and keeps no map. The map is there for whoever multiplies q and k again.
# * In this DiT one block's four heads look left, up, right and down, and they read it from the position table.
# * Your block ran a trained DiT, and gave the library's numbers. With two of five wrong lines nine in ten of its digits
#   could still be read: what a model draws is a poor test of its code.
# * A block costs $12 n d^2 + 2 n^2 d$ MACs. At the paper's sizes the quadratic part is small.

# %% tags=["figures"]
print(f"one forward, mine and the library's agree: {agrees}")
for name in trials:
    print(f"digits read right, {name.replace(': ', ', ')}: {about(name)}")
strongest = {name: max(values.max().item() for values in each.values()) for name, each in given.items()}
for name, most in strongest.items():
    rounded = round(most) if most < 10 else 5 * round(most / 5)
    print(f"largest share that a head gives a neighbour, {name.replace(': ', ', ')}: about {rounded}%")
print(f"share of DiT-XL/2's MACs in products of tokens with tokens: {100 * share_of_products:.1f}%")

# %% [markdown]
# ## What would falsify this?
#
# * *These heads look at neighbours, whatever is there.* Change `seed`, or the label in `forward`: if the shares in the
#   table move far from nine tenths, they look at the 7 and not at the grid.
# * *They read it from the position table.* That was one step of one digit. Take a late step, where patches say much, or
#   another shuffle: if the heads then follow the picture, the table is not their only source.
# * *A wrong line can be invisible.* Let mistakes **a** and **b** act for a whole training: a model trained with them
#   may be as good, or far worse. What was shown is only that weights trained without them bear them.
# * *The quadratic part is small.* Clock it: if at 256 tokens the fused attention took a third of a block's time, MACs
#   would be a poor guide to time, for this part at least.
