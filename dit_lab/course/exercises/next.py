"""Notebook 12: flow matching's target, rotary positions, QK-norm (2209.03003; 2104.09864; 2302.05442)."""

import torch
import torch.nn.functional as F
from einops import rearrange, reduce

from dit_lab.course.exercise import Exercise, Mistake


def velocity(x0, eps):
    """The target of flow matching, from picture (t = 0) to noise (t = 1): `x0, eps: b c h w -> b c h w`."""
    return eps - x0


def rotate(x, angles):
    """RoPE on neighbouring pairs of features: `x: b head n e, angles: n (e/2) -> b head n e`."""
    first, second = rearrange(x, "b head n (pair two) -> two b head n pair", two=2)
    turned = first * angles.cos() - second * angles.sin(), first * angles.sin() + second * angles.cos()
    return rearrange(list(turned), "two b head n pair -> b head n (pair two)")


def rms_norm(x):
    """QK-norm without a weight, eps 1e-6: `x: b head n e -> b head n e`."""
    return x / torch.sqrt(reduce(x**2, "b head n e -> b head n 1", "mean") + 1e-6)


def turned_by(split="(pair two)", join="(pair two)", turn=None):
    """`rotate` of other pairs, or by another turn."""
    turn = turn or (lambda a, b, cos, sin: (a * cos - b * sin, a * sin + b * cos))

    def made(x, angles):
        first, second = rearrange(x, f"b head n {split} -> two b head n pair", two=2)
        turned = turn(first, second, angles.cos(), angles.sin())
        return rearrange(list(turned), f"two b head n pair -> b head n {join}")

    return made


def over(x, root, dim=-1):
    """`x` divided by what `root` makes of its mean square along some axes."""
    return x / root((x**2).mean(dim, keepdim=True))


EXERCISES = (
    Exercise(
        notebook=12,
        solution=velocity,
        signature="(x0: b c h w, eps: b c h w) -> b c h w",
        inputs=lambda draw, *shape: (draw.normal(*shape), draw.normal(*shape)),
        sizes=((2, 3, 4, 6), (1, 4, 2, 3)),
        mistakes=(
            Mistake(
                lambda x0, eps: x0 - eps,
                "The sign: that points from noise to picture. Here t runs from the picture (0) to the noise (1), so x "
                "moves towards the noise. SiT's checkpoints have time the other way, and their sign with it: the two "
                "must go together, or sampling walks away from the picture.",
            ),
            Mistake(
                lambda x0, eps: eps,
                "That is the noise, DDPM's target. The velocity is how x_t changes with t along the straight line, and "
                "the picture has a part in that.",
            ),
            Mistake(
                lambda x0, eps: eps + x0,
                "You add the two. As t grows the noise comes in and the picture goes out: one of them has a minus.",
            ),
            Mistake(
                lambda x0, eps: (eps - x0) / 2,
                "Half of it is x_t's way in half of the time. The line runs from one to the other in t = 1.",
            ),
            Mistake(
                lambda x0, eps: -x0,
                "Only the picture's part is there: the noise comes in at the rate at which the picture goes out.",
            ),
        ),
        hints=(
            "x_t = (1 - t) x0 + t eps. How does it change when t grows a little?",
            "Take the derivative with respect to t: it does not depend on t at all.",
            "Where the line ends minus where it begins; it begins at the picture.",
        ),
        known="The target is the same at every t, and a straight path needs few steps.",
    ),
    Exercise(
        notebook=12,
        solution=rotate,
        signature="(x: b head n e, angles: n (e/2)) -> b head n e",
        inputs=lambda draw, b, head, n, e: (draw.normal(b, head, n, e), draw.uniform(n, e // 2, low=0.2, high=3)),
        sizes=((2, 3, 5, 4), (1, 2, 3, 6), (2, 4, 4, 8)),
        learns=True,
        mistakes=(
            Mistake(
                turned_by("(two pair)", "(two pair)"),
                "You pair each feature with the one half a head away. Some language models do; here, as in U-DiT's "
                "checkpoints, a pair is two neighbours: features 0 and 1, 2 and 3, and so on.",
            ),
            Mistake(
                turned_by(turn=lambda a, b, cos, sin: (a * cos + b * sin, b * cos - a * sin)),
                "You turn the other way: the sines' signs. Alone it is as good, but a checkpoint's k was trained to "
                "meet a q that turns this way.",
            ),
            Mistake(
                turned_by(join="(two pair)"),
                "The pairs are turned rightly but put back as halves: all firsts, then all seconds. Scores of q with k "
                "would not change, but features must lie where the next layer expects them.",
            ),
            Mistake(
                turned_by(turn=lambda a, b, cos, sin: (a * sin - b * cos, a * cos + b * sin)),
                "Sine and cosine are exchanged. At an angle of 0, the first place, nothing may change.",
            ),
            Mistake(
                turned_by(turn=lambda a, b, cos, sin: (a * cos - b * sin, a * sin - b * cos)),
                "A sign in the second line: that is no rotation. At an angle of 0 nothing may change, and yours turns "
                "the second feature's sign.",
            ),
            Mistake(
                turned_by(turn=lambda a, b, cos, sin: (a * cos + b * sin, a * sin + b * cos)),
                "Both sines have a plus, so lengths change: that is no rotation. One of them has a minus.",
            ),
        ),
        hints=(
            "Two neighbouring features are a point in the plane; turn it about 0 by the angle of its token and pair.",
            "(a, b) becomes (a cos - b sin, a sin + b cos). torch.view_as_complex does it as a product, too.",
            'Split with rearrange "b head n (pair two) -> two b head n pair", turn, and put back in the same way.',
        ),
        known="After this a score depends on how far apart two tokens are, not on where they are.",
    ),
    Exercise(
        notebook=12,
        solution=rms_norm,
        signature="(x: b head n e) -> b head n e",
        inputs=lambda draw, b, head, n, e, scale: (draw.normal(b, head, n, e, scale=scale, shift=scale / 2),),
        sizes=((2, 3, 5, 4, 1.0), (1, 2, 3, 6, 20.0), (2, 2, 4, 8, 1e-3), (1, 2, 2, 3, 0.0)),
        learns=True,
        mistakes=(
            Mistake(
                lambda x: x / (x**2).sum(-1, keepdim=True).add(1e-6).sqrt(),
                "You divide by the length: a sum where the mean is meant. Features then have size 1 / sqrt(e) instead "
                "of 1, and the scores, divided by sqrt(e) once more, are so small that attention is even.",
            ),
            Mistake(
                lambda x: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-6).sqrt(),
                "You take the mean away: that is a layer norm. RMS norm only sets the size; a direction that all "
                "features share stays.",
            ),
            Mistake(
                lambda x: over(x, lambda square: (square + 1e-5).sqrt()),
                "eps is 1e-5. Asked for is 1e-6: where q or k are tiny the two differ.",
            ),
            Mistake(
                lambda x: over(x, lambda square: square.sqrt() + 1e-6),
                "eps is added after the root. It belongs under it, to the mean square, where 1e-6 is a size of 1e-3.",
            ),
            Mistake(
                lambda x: over(x, lambda square: square.sqrt()),
                "There is no eps: a token whose features are all 0 gives NaN, which is what QK-norm is there to "
                "prevent.",
            ),
            Mistake(
                lambda x: F.rms_norm(x, x.shape[-1:]),
                "eps is PyTorch's default, the smallest step of the dtype: another one in float32 than in half "
                "precision. A checkpoint is trained with one number, here 1e-6.",
            ),
            Mistake(
                lambda x: over(x, lambda square: square + 1e-6),
                "The root is missing: you divide by the mean square itself. Then large features come out small and "
                "small ones large, instead of all of size 1.",
            ),
            Mistake(
                lambda x: over(x, lambda square: (square + 1e-6).sqrt(), dim=(1, 3)),
                "You average over the heads too. Each head's q and k are set to one size by themselves: a loud head "
                "must not silence the others.",
            ),
        ),
        hints=(
            "Divide each token's features, head by head, by their root mean square.",
            "Root of the mean of the squares: the mean is over e, and 1e-6 is added before the root.",
            "x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-6).",
        ),
        known="Scores can no longer grow without bound: large DiTs train in half precision without NaNs.",
    ),
)
