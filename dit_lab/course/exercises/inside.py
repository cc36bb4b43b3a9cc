"""Notebook 10: what attention does, and what each head gives (2010.11929; 2005.00928)."""

import torch
from einops import einsum, rearrange, reduce

from dit_lab.course.exercise import Exercise, Mistake


def attention_entropy(map):
    """How spread each query's attention is, in nats: `map: b head i j -> b head i`."""
    return reduce(torch.special.entr(map), "b head i j -> b head i", "sum")


def attention_distance(map, rows, columns):
    """The mean distance on the grid from query to key, weighted by attention: `map: b head i j -> b head`."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    places = rearrange([row, column], "two h w -> (h w) two").to(map)
    far = torch.cdist(places, places)
    return einsum(map, far, "b head i j, i j -> b head") / (rows * columns)


def rollout(maps):
    """What of each token reaches each other through all blocks, first block first: `list of b head i j -> b i j`."""
    rolled = torch.eye(maps[0].shape[-1]).to(maps[0])
    for map in maps:
        through = reduce(map, "b head i j -> b i j", "mean") + torch.eye(map.shape[-1]).to(map)
        rolled = through / reduce(through, "b i j -> b i 1", "sum") @ rolled
    return rolled


def head_contributions(z, weight, bias):
    """What each head adds to the stream: `z: b head n e, weight: d (head e), bias: d -> b head n d`."""
    heads = z.shape[1]
    weight = rearrange(weight, "d (head e) -> head e d", head=heads)
    return z @ weight + bias / heads


def entropy_by(information, along=-1):
    """`attention_entropy` with another information of a weight."""
    return lambda map: (map * information(map)).sum(along)


def distance_by(far, numbered=lambda n, columns: (n // columns, n % columns), over="mean"):
    """`attention_distance` by another distance, or other places of the tokens."""

    def made(map, rows, columns):
        row, column = numbered(torch.arange(rows * columns).to(map), columns)
        apart = far(*(rearrange(place, "i -> i 1") - rearrange(place, "j -> 1 j") for place in (row, column)))
        return reduce(einsum(map, apart, "b head i j, i j -> b head i"), "b head i -> b head", over)

    return made


def rolled_by(joined=lambda maps: reduce(maps, "b head i j -> b i j", "mean"), share=0.5, later=True):
    """`rollout` otherwise: heads joined, the share of the block, and the side on which later blocks stand."""

    def made(maps):
        rolled = torch.eye(maps[0].shape[-1]).to(maps[0])
        for map in maps:
            through = share * joined(map) + (1 - share) * torch.eye(map.shape[-1]).to(map)
            rolled = through @ rolled if later else rolled @ through
        return rolled

    return made


def given_by(pattern="d (head e) -> head e d", of_bias=lambda bias, z: bias / z.shape[1]):
    """`head_contributions` with another split of the weight, or of the bias."""
    return lambda z, weight, bias: z @ rearrange(weight, pattern, head=z.shape[1]) + of_bias(bias, z)


EXERCISES = (
    Exercise(
        notebook=10,
        solution=attention_entropy,
        signature="(map: b head i j) -> b head i",
        inputs=lambda draw, *shape: (draw.attention(*shape),),
        sizes=((2, 3, 4, 6), (1, 2, 5, 3), (2, 2, 4, 4)),
        mistakes=(
            Mistake(
                entropy_by(lambda map: -map.log()),
                "NaN, where a weight is exactly 0: 0 times the log of 0. Such a key costs nothing, its part is 0. In a "
                "DiT's half precision and under cut edges there are such.",
            ),
            Mistake(
                entropy_by(lambda map: -torch.log(map + 1e-6)),
                "You add a small number inside the log. It hides the NaN but moves all other values; the part of a "
                "weight of 0 should be exactly 0 and the rest untouched.",
            ),
            Mistake(
                entropy_by(lambda map: -torch.log2(map.clamp(min=1e-30))),
                "Those are bits: the log to base 2. In nats, as asked, even attention to n tokens has ln n.",
            ),
            Mistake(
                entropy_by(lambda map: torch.log(map.clamp(min=1e-30))),
                "The sign is missing: the log of a weight is negative, an entropy is not.",
            ),
            Mistake(
                lambda map: torch.special.entr(map).mean(-1),
                "You average over the keys. An entropy is a sum over them: its largest value grows with their number.",
            ),
            Mistake(
                lambda map: torch.special.entr(map).sum(-2),
                "You sum over the queries. Each query shares out its own attention among the keys j, so that is what "
                "an entropy is taken of.",
            ),
            Mistake(
                lambda map: torch.special.entr(map).sum(-1).mean(1),
                "You average over the heads. Heads differ, some sharp and some even; the mean hides what you look for.",
            ),
        ),
        hints=(
            "Minus the sum over keys of weight times log weight.",
            "Where a weight is 0 its part is 0, but the computer says NaN. torch.xlogy and torch.special.entr know.",
            "torch.special.entr(map), summed over the last axis.",
        ),
        known="0 is a head that looks at one token, ln n one that looks at all alike.",
    ),
    Exercise(
        notebook=10,
        solution=attention_distance,
        signature="(map: b head i j, rows: int, columns: int) -> b head",
        inputs=lambda draw, b, head, rows, columns: (draw.attention(b, head, *[rows * columns] * 2), rows, columns),
        sizes=((2, 3, 2, 4), (1, 2, 5, 3), (2, 1, 3, 3)),
        mistakes=(
            Mistake(
                distance_by(lambda row, column: (row**2 + column**2).sqrt(), lambda n, columns: (0 * n, n % columns)),
                "Only the columns count in your distance: rows are lost. Tokens lie on a grid, and a head that looks "
                "straight down would seem to look at itself.",
            ),
            Mistake(
                lambda map, rows, columns: distance_by(lambda row, column: (row**2 + column**2).sqrt())(
                    map, columns, rows
                ),
                "You number tokens with rows for columns: the grid is on its side. Token n lies in row n // columns: "
                "on a square grid nobody would notice.",
            ),
            Mistake(
                distance_by(lambda row, column: row**2 + column**2),
                "The distance is squared. A mean of squares is ruled by the few farthest keys; asked for is the mean "
                "distance itself, in tokens.",
            ),
            Mistake(
                distance_by(lambda row, column: row.abs() + column.abs()),
                "You add rows and columns (city blocks). The distance on the grid is the straight line.",
            ),
            Mistake(
                distance_by(lambda row, column: (row**2 + column**2).sqrt(), lambda n, columns: (n, 0 * n)),
                "You take the distance in the sequence. The token right below is a whole row away in the sequence and "
                "one step away in the picture: a head that looks at neighbours would seem to look far.",
            ),
            Mistake(
                distance_by(lambda row, column: (row**2 + column**2).sqrt(), over="sum"),
                "You add up over the queries. Asked for is the mean query's distance, so that grids of different size "
                "compare.",
            ),
            Mistake(
                distance_by(lambda row, column: torch.maximum(row.abs(), column.abs())),
                "You take the larger of rows and columns. The distance on the grid is the straight line.",
            ),
        ),
        hints=(
            "First a table of distances between all pairs of tokens, i by j; it is the same for all maps.",
            "Token n lies in row n // columns and column n % columns; the distance is by Pythagoras (torch.cdist).",
            "Weigh the table with the map, sum over the keys, average over the queries.",
        ),
        known="Near 1, a head is a small convolution; near half of the grid's side, it looks everywhere.",
    ),
    Exercise(
        notebook=10,
        solution=rollout,
        signature="(maps: list of b head i j, first block first) -> b i j",
        inputs=lambda draw, b, head, n, depth: ([draw.attention(b, head, n, n) for _ in range(depth)],),
        sizes=((2, 3, 4, 3), (1, 2, 6, 2), (2, 2, 5, 1)),
        mistakes=(
            Mistake(
                rolled_by(later=False),
                "The blocks are multiplied in the wrong order. What a late block looks at was mixed by those before "
                "it, so the later map stands to the left.",
            ),
            Mistake(
                rolled_by(share=1.0),
                "The residual stream is missing. Half of what a token carries on is what it was, the identity; without "
                "it everything is mixed into one grey after a few blocks.",
            ),
            Mistake(
                lambda maps: rolled_by(share=0.5)(maps) * 2 ** len(maps),
                "Map and identity are added and not halved: rows sum to 2, and after 28 blocks to 2 to the 28th. Rows "
                "are kept at 1, so that they say shares.",
            ),
            Mistake(
                rolled_by(joined=lambda map: map.amax(1) / map.amax(1).sum(-1, keepdim=True)),
                "You take the strongest head. Asked for is the mean of the heads, as in the paper; the maximum lets "
                "one odd head speak for all.",
            ),
            Mistake(
                lambda maps: torch.stack([rolled_by()([map]) for map in maps]).mean(0),
                "You average over the blocks. They follow on each other: what reaches a token went through all, so "
                "their maps are multiplied.",
            ),
            Mistake(
                lambda maps: rolled_by()(maps[-1:]),
                "That is the last block alone. What it looks at has been mixed by all blocks before.",
            ),
        ),
        hints=(
            "One block: half of what it attended to, the mean over heads, and half of what was there.",
            "Start with the identity, and go through the blocks in order: which side does the later one stand on?",
            "rolled = (mean map + identity) / 2 @ rolled, for each block from the first to the last.",
        ),
        known="Rollout says where information could have come from, not what was made of it.",
    ),
    Exercise(
        notebook=10,
        solution=head_contributions,
        signature="(z: b head n e, weight: d (head e), bias: d) -> b head n d",
        inputs=lambda draw, b, head, n, e, d: (draw.normal(b, head, n, e), draw.normal(d, head * e), draw.normal(d)),
        sizes=((2, 3, 5, 4, 12), (1, 2, 4, 3, 6), (2, 4, 3, 2, 7)),
        mistakes=(
            Mistake(
                given_by(of_bias=lambda bias, z: bias),
                "Each head gets the whole bias: added up it counts once a head. The parts must sum to what attention "
                "gave, so the bias is shared.",
            ),
            Mistake(
                given_by(of_bias=lambda bias, z: 0),
                "The bias is left out: the parts do not add up to the output. It belongs to no head, and is shared "
                "evenly here.",
            ),
            Mistake(
                given_by("d (e head) -> head e d"),
                "You gave each head columns strided over the weight. A head's features lie side by side, (head e), as "
                "the heads are joined before the projection.",
            ),
            Mistake(
                given_by(of_bias=lambda bias, z: bias / z.shape[2]),
                "The bias is shared among the tokens. Every token gets the whole of it; it is the heads that share.",
            ),
            Mistake(
                lambda z, weight, bias: (
                    einsum(
                        z, rearrange(weight, "d (head e) -> head e d", head=z.shape[1]), "b head n e, head e d -> b n d"
                    )
                    + bias
                ),
                "That is the output of attention as a whole, the sum over heads. Asked for is each head's part of it.",
            ),
        ),
        hints=(
            "The output projection multiplies all heads' features, side by side. Which of its columns meet head 0?",
            "Cut the weight into one d by e piece a head; each head's z goes through its own piece.",
            'rearrange(weight, "d (head e) -> head e d", head=...), then z @ that, plus the bias over the number of '
            "heads.",
        ),
        known="Attention's output is a sum over heads, exactly: any head's share of a picture can be asked for.",
    ),
)
