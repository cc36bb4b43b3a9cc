"""Notebook 2: a picture as a sequence, the way back, and where each token lies (DiT paper, section 3.2)."""

import torch
import torch.nn.functional as F
from einops import rearrange

from dit_lab.course.exercise import Exercise, Mistake


def patchify(x, patch):
    """The sequence of a picture, row by row: `x: b c (h p) (w q) -> b (h w) (c p q)`."""
    return rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=patch, q=patch)


def unpatchify(tokens, rows, patch):
    """The way back, in DiT's order of output features: `tokens: b (h w) (p q c) -> b c (h p) (w q)`."""
    return rearrange(tokens, "b (h w) (p q c) -> b c (h p) (w q)", h=rows, p=patch, q=patch)


def position_table(dim, rows, columns):
    """The fixed 2-D sine-cosine code, half the width a coordinate, the column first: `-> (h w) dim`."""
    omega = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [rearrange(place, "h w -> (h w) 1") * omega for place in (column, row)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)


def laid_out(pattern):
    """`patchify` by another pattern."""
    return lambda x, patch: rearrange(x, pattern, p=patch, q=patch)


def laid_back(pattern):
    """`unpatchify` by another pattern."""
    return lambda tokens, rows, patch: rearrange(tokens, pattern, h=rows, p=patch, q=patch)


def table(dim, rows, columns, *, first="column", count=4, waves=None):
    """`position_table`, made otherwise."""
    omega = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // count))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    places = (column, row) if first == "column" else (row, column)
    waves = waves or (lambda angle: torch.cat([angle.sin(), angle.cos()], dim=1))
    return torch.cat([waves(rearrange(place, "h w -> (h w) 1") * omega) for place in places], dim=1)


def in_a_line(dim, rows, columns):
    """The 1-D code of a sentence, as long as the sequence."""
    omega = 10000.0 ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
    angles = rearrange(torch.arange(rows * columns), "n -> n 1") * omega
    return torch.cat([angles.sin(), angles.cos()], dim=1)


EXERCISES = (
    Exercise(
        notebook=2,
        solution=patchify,
        signature="(x: b c (h p) (w q), patch: int) -> b (h w) (c p q)",
        inputs=lambda draw, b, c, h, w, patch: (draw.normal(b, c, h, w), patch),
        sizes=((2, 3, 4, 6, 2), (1, 2, 9, 6, 3), (3, 4, 3, 2, 1)),
        learns=True,
        mistakes=(
            Mistake(
                laid_out("b c (h p) (w q) -> b (h w) (p q c)"),
                "Inside a token the channels come last. On the way in DiT has them first: its patch layer is a "
                "convolution, whose weights lie as (c p q), and with pixels in another order a loaded checkpoint "
                "multiplies each by another pixel's weight. (p q c) is the order of the way out.",
            ),
            Mistake(
                laid_out("b c (h p) (w q) -> b (w h) (c p q)"),
                "The tokens run down the columns. DiT's sequence goes row by row, and its position table is in that "
                "order: token 1 would be told that it lies to the right of token 0 while it lies below.",
            ),
            Mistake(
                laid_out("b c (h p) (w q) -> b (h w) (c q p)"),
                "Each patch is laid on its side: within a token, columns come before rows. Every patch would be "
                "mirrored at its diagonal, which no square test picture of one colour shows.",
            ),
            Mistake(
                laid_out("b c (p h) (q w) -> b (h w) (c p q)"),
                "Your tokens are made of pixels that lie far apart: h and p are exchanged inside the brackets. In "
                "(h p) the last name runs fastest, and neighbours must be in one patch; a patch is a small square.",
            ),
            Mistake(
                lambda x, patch: x.reshape(len(x), x.shape[2] * x.shape[3] // patch**2, -1),
                "The shape is right, but memory was only cut anew: reshape and view move nothing, so your tokens are "
                "pieces of pixel rows. The two axes inside each side must be split off first, and then change places.",
            ),
            Mistake(
                lambda x, patch: F.unfold(x, patch, stride=patch),
                "The values are right, with features before tokens. A transformer's linears work on the last axis: "
                "b n d, tokens second, features last.",
            ),
            Mistake(
                laid_out("b c (h p) (w q) -> b (p q) (c h w)"),
                "What is a token and what is a feature are exchanged: you have one token for each place inside a patch "
                "and the grid as its features. Attention should look from patch to patch: n is h times w.",
            ),
        ),
        hints=(
            "Each side of the picture is two axes in one: which patch, and which pixel in the patch.",
            "Split the height into (h p) and the width into (w q); then say which of the six axes make the sequence "
            "and which the features, and in which order.",
            'rearrange(x, "b c (h p) (w q) -> ...", p=patch, q=patch): rows of patches before columns, and channels '
            "before the pixels of a patch.",
        ),
        known="A picture is now a sentence: to the transformer each patch is one word.",
    ),
    Exercise(
        notebook=2,
        solution=unpatchify,
        signature="(tokens: b (h w) (p q c), rows: int, patch: int) -> b c (h p) (w q)",
        inputs=lambda draw, b, c, h, w, patch: (draw.normal(b, h * w, patch * patch * c), h, patch),
        sizes=((2, 3, 2, 3, 2), (1, 2, 4, 1, 3), (2, 4, 3, 5, 1)),
        learns=True,
        mistakes=(
            Mistake(
                laid_back("b (h w) (c p q) -> b c (h p) (w q)"),
                "You read the features as (c p q), the order of the way in. DiT's last linear gives them as (p q c), "
                "channels fastest: the two ends are not mirror images, and a checkpoint read the other way paints "
                "colour noise.",
            ),
            Mistake(
                laid_back("b (w h) (p q c) -> b c (h p) (w q)"),
                "You fill the grid column by column. The sequence goes row by row, so on a grid that is not square "
                "every patch but the first lands elsewhere.",
            ),
            Mistake(
                laid_back("b (h w) (q p c) -> b c (h p) (w q)"),
                "Rows and columns inside a patch are exchanged: every patch comes out mirrored at its diagonal.",
            ),
            Mistake(
                laid_back("b (h w) (p q c) -> b c (p h) (q w)"),
                "The pixels of one patch are strewn over the whole picture: h and p are exchanged inside the brackets. "
                "In (h p) the patch's own rows run fastest.",
            ),
            Mistake(
                lambda tokens, rows, patch: rearrange(
                    tokens, "b (h w) (p q c) -> b c (h p) (w q)", w=rows, p=patch, q=patch
                ),
                "You take rows for the number of columns. On a square grid it is the same; a wide picture comes out "
                "tall, with its patches in the wrong lines.",
            ),
            Mistake(
                lambda tokens, rows, patch: tokens.reshape(
                    len(tokens), -1, rows * patch, tokens.shape[1] // rows * patch
                ),
                "Only the shape was changed: memory was cut anew and nothing moved. Each token must be laid out as a "
                "square of pixels, so axes have to change places.",
            ),
        ),
        hints=(
            "The way back splits the sequence into rows and columns of patches, and the features into three.",
            "In DiT's output the features of a token are (p q c): pixel rows, pixel columns, channels last.",
            'rearrange(tokens, "b (h w) (p q c) -> ...", h=rows, p=patch, q=patch), with each side of the picture put '
            "together of a grid's axis and a patch's.",
        ),
        known="Tokens lie where they belong again, in the order in which a DiT's checkpoint speaks.",
    ),
    Exercise(
        notebook=2,
        solution=position_table,
        signature="(dim: int, rows: int, columns: int) -> (rows columns) dim",
        inputs=lambda draw, *size: size,
        sizes=((8, 2, 3), (12, 5, 3), (16, 1, 4), (32, 9, 7)),
        dtypes=(torch.float32,),
        mistakes=(
            Mistake(
                lambda dim, rows, columns: table(dim, rows, columns, first="row"),
                "The row has the first half of the features. In DiT's table the column comes first (a habit of the "
                "original's meshgrid). The shape does not tell, and a checkpoint would take its pictures to be "
                "mirrored at the diagonal.",
            ),
            Mistake(
                lambda dim, rows, columns: table(
                    dim, rows, columns, waves=lambda angle: torch.cat([angle.cos(), angle.sin()], dim=1)
                ),
                "Cosines come before sines. That is the order of DiT's timestep code; its position table has the sines "
                "first.",
            ),
            Mistake(
                lambda dim, rows, columns: table(
                    dim,
                    rows,
                    columns,
                    waves=lambda angle: rearrange([angle.sin(), angle.cos()], "two n i -> n (i two)"),
                ),
                "Sines and cosines alternate, feature by feature. DiT's table has, for each coordinate, all its sines "
                "and then all its cosines: a trained DiT knows the features by their number.",
            ),
            Mistake(
                lambda dim, rows, columns: table(dim, rows, columns, count=2),
                "Your frequencies fall too slowly: the exponent counts to half the width. Each coordinate has half of "
                "the features, and half of those are sines, so there are a quarter of dim frequencies, and i is "
                "divided by that.",
            ),
            Mistake(
                in_a_line,
                "That is the code of a sentence, one number a token. A picture has two coordinates, and each gets half "
                "of the features; numbered in a line, the token below is as far as a whole row.",
            ),
            Mistake(
                lambda dim, rows, columns: rearrange(table(dim, rows, columns), "(h w) dim -> (w h) dim", h=rows),
                "The rows of your table run down the columns of the grid. Tokens come row by row, so entry 1 belongs "
                "to the patch right of the first, not to the one below.",
            ),
        ),
        hints=(
            "One coordinate first: a code of width dim / 2 for the numbers 0, 1, 2, ..., sines then cosines.",
            "Its frequencies are 10000 to the power of -i / (dim / 4), for i from 0 to dim / 4. Do this for columns "
            "and for rows, over the whole grid.",
            "Lay both coordinates out with torch.meshgrid(rows, columns, indexing='ij'), flatten row by row, multiply "
            "with the frequencies, and put side by side: sin and cos of the column, sin and cos of the row.",
        ),
        known="Attention does not know order; with this table added, tokens know where they are.",
    ),
)
