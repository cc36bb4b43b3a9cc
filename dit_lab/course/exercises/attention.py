"""Notebook 3: heads, attention by hand, the norm before it, and what a block costs (DiT paper, sections 3.2 and 4)."""

import math

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, reduce

from dit_lab.course.exercise import Exercise, Mistake


def split_heads(qkv, heads):
    """One projection, three parts: `qkv: b n (qkv head e) -> q, k, v`, each `b head n e`."""
    return tuple(rearrange(qkv, "b n (qkv head e) -> qkv b head n e", qkv=3, head=heads))


def attend(q, k, v):
    """Attention by hand: `q: b head i e, k: b head j e, v: b head j e -> b head i e`."""
    scores = einsum(q, k, "b head i e, b head j e -> b head i j") / math.sqrt(q.shape[-1])
    return einsum(scores.softmax(dim=-1), v, "b head i j, b head j e -> b head i e")


def layer_norm(x):
    """Each token's features with mean 0 and variance 1, eps 1e-6: `x: b n d -> b n d`."""
    centred = x - reduce(x, "b n d -> b n 1", "mean")
    variance = reduce(centred**2, "b n d -> b n 1", "mean")
    return centred / torch.sqrt(variance + 1e-6)


def block_macs(tokens, dim, mlp_ratio):
    """Multiply-accumulates of one block's attention and MLP: `tokens n, dim d -> int`."""
    projections = 4 * tokens * dim**2  # q, k, v and the output
    products = 2 * tokens**2 * dim  # q with k, and the weights with v
    mlp = 2 * tokens * dim * round(dim * mlp_ratio)
    return projections + products + mlp


def heads_by(pattern):
    """`split_heads` by another pattern."""
    return lambda qkv, heads: tuple(rearrange(qkv, pattern, qkv=3, head=heads))


def attended(scale=lambda q, k: q.shape[-1] ** -0.5, weigh=lambda scores: scores.softmax(dim=-1)):
    """`attend` with another factor of the scores, or other weights."""

    def made(q, k, v):
        scores = einsum(q, k, "b head i e, b head j e -> b head i j") * scale(q, k)
        return einsum(weigh(scores), v, "b head i j, b head j e -> b head i e")

    return made


def cut_anew(qkv, heads):
    """`split_heads` that only cuts memory anew."""
    b, n, width = qkv.shape
    return tuple(part.reshape(b, heads, n, width // 3 // heads) for part in qkv.chunk(3, dim=-1))


def attention_inputs(draw, b, head, i, j, e, scale):
    """Queries, keys and values; a large `scale` makes scores that exp() alone cannot hold."""
    return draw.normal(b, head, i, e, scale=scale), draw.normal(b, head, j, e, scale=scale), draw.normal(b, head, j, e)


EXERCISES = (
    Exercise(
        notebook=3,
        solution=split_heads,
        signature="(qkv: b n (qkv head e), heads: int) -> q, k, v each b head n e",
        inputs=lambda draw, b, n, heads, e: (draw.normal(b, n, 3 * heads * e), heads),
        sizes=((2, 5, 3, 4), (1, 4, 2, 6), (3, 7, 4, 2)),
        learns=True,
        mistakes=(
            Mistake(
                heads_by("b n (head qkv e) -> qkv b head n e"),
                "You give each head its own q, k, v side by side. DiT's projection has all queries first, then all "
                "keys, then all values, and heads within: read the other way, a checkpoint's keys are taken for "
                "queries.",
            ),
            Mistake(
                heads_by("b n (qkv e head) -> qkv b head n e"),
                "Features of a head are strided over the width: in your split the head runs fastest. A head owns e "
                "neighbouring features, and the output projection expects it so.",
            ),
            Mistake(
                heads_by("b n (qkv head e) -> qkv b n head e"),
                "The split is right, but the axes are b n head e. Attention multiplies the last two, and as it stands "
                "heads would attend to each other within one token, instead of tokens within one head.",
            ),
            Mistake(
                cut_anew,
                "The shape is right, but view or reshape straight to b head n e moves nothing: each of your heads has "
                "whole features of some tokens. Split the width first, then let head and n change places.",
            ),
            Mistake(
                lambda qkv, heads: tuple(split_heads(qkv, heads)[number] for number in (1, 0, 2)),
                "Queries and keys are exchanged. In a DiT's weights the queries come first; exchanged, every map is "
                "turned over: token i gets what it would have given.",
            ),
        ),
        hints=(
            "The last axis is three in one: which of q, k and v, which head, which feature of the head.",
            "rearrange can take the axis of three to the very front; then it is unpacked like a tuple.",
            'q, k, v = rearrange(qkv, "b n (qkv head e) -> qkv ...", qkv=3, head=heads): after qkv come b head n e.',
        ),
        known="Each head has queries, keys and values of its own, cut from one matrix product.",
    ),
    Exercise(
        notebook=3,
        solution=attend,
        signature="(q: b head i e, k: b head j e, v: b head j e) -> b head i e",
        inputs=attention_inputs,
        sizes=((2, 3, 4, 6, 5, 1.0), (1, 2, 5, 3, 8, 2.0), (2, 2, 4, 4, 3, 1.0), (1, 2, 3, 4, 4, 12.0)),
        learns=True,
        mistakes=(
            Mistake(
                attended(scale=lambda q, k: 1),
                "The scores are not divided. Products of e features grow with the root of e, and in a DiT's wide heads "
                "softmax would put nearly all weight on one token and pass next to no gradient.",
            ),
            Mistake(
                attended(scale=lambda q, k: 1 / q.shape[-1]),
                "You divide by e itself. A sum of e products spreads as the root of e; divided by more, all weights "
                "become nearly equal and heads can hardly choose.",
            ),
            Mistake(
                attended(scale=lambda q, k: 1 / math.sqrt(q.shape[-1] * q.shape[1])),
                "You divide by the root of the whole width. Each head's products sum over its own e features only: it "
                "is the head's width that counts.",
            ),
            Mistake(
                attended(scale=lambda q, k: 1 / math.sqrt(k.shape[2])),
                "You divide by the root of the number of tokens. The product sums over features, so it is the head's "
                "width e that decides how large scores are; a DiT's maps must not flatten on larger pictures.",
            ),
            Mistake(
                attended(weigh=lambda scores: scores.softmax(dim=-2)),
                "softmax runs over the queries. Each query shares out its attention among the keys, so the weights "
                "along j must sum to 1; yours do so along i, and a token's output is no average of values any more.",
            ),
            Mistake(
                attended(weigh=lambda scores: scores.softmax(dim=1)),
                "softmax runs over the heads. Heads do not compete: each shares out its own attention among the keys.",
            ),
            Mistake(
                attended(weigh=lambda scores: scores.exp() / scores.exp().sum(dim=-1, keepdim=True)),
                "Right for small scores, NaN for large ones: exp() overflows in float32 from 89 on, and much sooner in "
                "the half precision that DiTs run in. Take the row's largest score away first, as softmax does.",
            ),
            Mistake(
                lambda q, k, v: q + attend(q, k, v),
                "You add the queries to the result. The residual stream is added once a block, outside, after the "
                "output projection and the gate; added here, a closed gate would not close the branch's input.",
            ),
        ),
        hints=(
            "Three steps: how well each query fits each key, weights that sum to 1, an average of the values.",
            "A score is a dot product over e, divided by the square root of e; softmax is over the keys.",
            'Use einsum twice: "b head i e, b head j e -> b head i j" for scores, then softmax over j, then '
            '"b head i j, b head j e -> b head i e".',
        ),
        known="That is all that scaled_dot_product_attention computes; the fused kernel is only faster.",
    ),
    Exercise(
        notebook=3,
        solution=layer_norm,
        signature="(x: b n d) -> b n d",
        inputs=lambda draw, b, n, d, scale, shift: (draw.normal(b, n, d, scale=scale, shift=shift),),
        sizes=((2, 5, 3, 1.0, 0.7), (1, 4, 8, 2.0, -1.0), (2, 3, 6, 2e-3, 0.0), (1, 2, 4, 0.0, 0.0)),
        learns=True,
        mistakes=(
            Mistake(
                lambda x: F.layer_norm(x, x.shape[-1:], eps=1e-5),
                "eps is 1e-5, PyTorch's default. DiT's norms have 1e-6: you see the difference only where a token's "
                "features are tiny, but there a checkpoint no longer gives the original's numbers.",
            ),
            Mistake(
                lambda x: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-6).sqrt(),
                "The variance is divided by d - 1 (torch.var's default). A layer norm divides by d: it does not "
                "estimate anything, it measures these features. The narrower a model, the more that is off.",
            ),
            Mistake(
                lambda x: (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True, correction=0) + 1e-6),
                "eps is added to the deviation, after the root. It belongs to the variance, under the root, where "
                "1e-6 means a deviation of 1e-3: quiet tokens come out louder in yours.",
            ),
            Mistake(
                lambda x: (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True, correction=0),
                "There is no eps: where all features of a token are equal you divide by 0, and one NaN spreads over a "
                "whole picture through attention.",
            ),
            Mistake(
                lambda x: x / (x.var(-1, keepdim=True, correction=0) + 1e-6).sqrt(),
                "The mean is not taken away. adaLN's shift is meant to set the mean of a token's features, which it "
                "cannot where an unknown mean is left in them.",
            ),
            Mistake(
                lambda x: (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-6).sqrt(),
                "You normalise over the tokens. A layer norm takes each token by itself, over its features: otherwise "
                "every patch would leak into all others outside of attention.",
            ),
            Mistake(
                lambda x: F.layer_norm(x, x.shape[-2:], eps=1e-6),
                "You normalise over tokens and features together. Each token has a mean and a variance of its own; "
                "together, one loud patch makes all others quiet.",
            ),
        ),
        hints=(
            "For each token by itself: take the mean of its features away, then divide by their deviation.",
            "The variance is the mean of the squared differences (divided by d). Where does eps go, so that a variance "
            "of 0 does no harm?",
            "(x - mean) / sqrt(variance + 1e-6), mean and variance over the last axis with keepdim, the variance with "
            "correction=0.",
        ),
        known="Every branch of a DiT's block now sees features of one size; the condition sets shift and scale.",
    ),
    Exercise(
        notebook=3,
        solution=block_macs,
        signature="(tokens: int, dim: int, mlp_ratio: float) -> int",
        inputs=lambda draw, *size: size,
        sizes=((16, 64, 4.0), (7, 24, 2.0), (256, 1152, 4.0), (5, 12, 1.5)),
        dtypes=(torch.float32,),
        mistakes=(
            Mistake(
                lambda tokens, dim, mlp_ratio: 2 * block_macs(tokens, dim, mlp_ratio),
                "Twice too many: you count a multiplication and an addition as two (FLOPs). DiT's tables count them as "
                "one multiply-accumulate, though they print Gflops: a DiT-XL/2 would cost 237 instead of 118.6.",
            ),
            Mistake(
                lambda tokens, dim, mlp_ratio: block_macs(tokens, dim, mlp_ratio) - 2 * tokens**2 * dim,
                "The two products of attention itself are missing: every query with every key, and the weights with "
                "the values. They grow with the square of the tokens and are what makes small patches dear.",
            ),
            Mistake(
                lambda tokens, dim, mlp_ratio: block_macs(tokens, dim, mlp_ratio) - tokens**2 * dim,
                "Attention has two products of n by n: queries with keys, and then weights with values. You count one.",
            ),
            Mistake(
                lambda tokens, dim, mlp_ratio: block_macs(tokens, dim, mlp_ratio) - tokens * dim**2,
                "One of attention's four projections is missing: queries, keys, values, and the output, where the "
                "heads meet again.",
            ),
            Mistake(
                lambda tokens, dim, mlp_ratio: block_macs(tokens, dim, mlp_ratio) - int(tokens * dim**2 * mlp_ratio),
                "The MLP has two linears, up and down again, each tokens x dim x (dim times the ratio). You count one.",
            ),
            Mistake(
                lambda tokens, dim, mlp_ratio: int(4 * dim**2 + 2 * dim**2 * mlp_ratio),
                "Those are the weights, the block's parameters. Each is used once a token, and attention's products "
                "have no weights at all: that is why parameters predict a DiT's quality worse than MACs do.",
            ),
        ),
        hints=(
            "A linear from d_in to d_out costs d_in times d_out multiply-accumulates a token.",
            "Attention: four linears of d by d, and two products of n by n by d (all heads together have width d).",
            "4 n d^2 + 2 n^2 d for attention, and for the MLP twice n times d times its inner width.",
        ),
        known="You can price a DiT before you train it: halve the patch, and n is 4 times as large.",
    ),
)
