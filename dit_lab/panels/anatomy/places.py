"""What parts are called, what they do in plain words, where the papers speak of them, and the letters of their code."""

from torch import nn

from dit_lab.models.conv_mlp import DepthwiseMLP
from dit_lab.models.grid_layers import FACTOR, GridAttention
from dit_lab.models.layers import CrossAttention, Modulation
from dit_lab.models.udit import Down, Up

# A title and a sentence for who meets the part here first.
TOLD = {
    "patchify": ("Patchify", "The picture is cut into square patches, and each becomes one token: a list of numbers."),
    "positions": ("Positions", "A fixed table of sines and cosines is added, so that each token says where it lies."),
    "enter": ("Condition joins", "The time token and the label token are put behind the image's, as two more tokens."),
    "exit": ("Condition leaves", "The two condition tokens are dropped again; the image's go on."),
    "time": ("Timestep embedding", "The timestep t, how noisy the picture is, becomes a token."),
    "label": ("Label embedding", "A table with a row for each class and one for no class; the label picks its row."),
    "conditioning": ("Condition", "Two tokens that every block is given: how noisy the picture is, and what to draw."),
    "block": ("Block", "Attention carries things between tokens, the MLP works on each alone; both add to the stream."),
    "attn": ("Attention", "Every token looks at the others and takes what it needs from them, in several heads."),
    "cross": ("Cross-attention", "Every image token looks at the two condition tokens: time and label enter here."),
    "mlp": ("MLP", "Works on each token alone: made wider, bent, made narrow again."),
    "modulation": ("Modulation", "Time and label decide how the norms are shifted and scaled, alike for all tokens."),
    "norm_attn": ("Norm before attention", "Each token is brought to mean 0 and standard deviation 1."),
    "norm_cross": ("Norm before cross-attention", "Each token is brought to mean 0 and standard deviation 1."),
    "norm_mlp": ("Norm before the MLP", "Each token is brought to mean 0 and standard deviation 1."),
    "final": ("Final norm", "A last norm before the tokens are read."),
    "out": ("Read out", "Each token becomes what is predicted of its patch."),
    "unpatchify": ("Unpatchify", "The tokens' predictions are laid out as a picture again."),
    "stem": ("Stem", "A convolution makes a token of every pixel: there are no patches."),
    "down": ("Down", "Half the rows and columns, twice the width."),
    "up": ("Up", "Twice the rows and columns, half the width."),
    "merge": ("Merge", "What comes from below and what the encoder kept, side by side, become one again."),
    "neck": ("Neck", "One more convolution before the picture is read."),
}  # fmt: skip

PLACES = {
    "DiT": {
        "patchify": "DiT, section 3.2 (Patchify) and figure 4",
        "positions": "DiT, section 3.2 (Patchify)",
        "enter": "DiT, section 3.2 (In-context conditioning)",
        "exit": "DiT, section 3.2 (In-context conditioning)",
        "time": "DiT, section 3.2 and appendix A",
        "label": "DiT, section 3.1 (Classifier-free guidance)",
        "conditioning": "DiT, section 3.2 and figure 3",
        "block": "DiT, section 3.2 (DiT block design) and figure 3",
        "attn": "DiT, figure 3 (Multi-head self-attention)",
        "cross": "DiT, section 3.2 (Cross-attention block) and figure 3",
        "mlp": "DiT, figure 3 (Pointwise feedforward)",
        "modulation": "DiT, section 3.2 (Adaptive layer norm) and figure 3",
        "norm_attn": "DiT, figure 3",
        "norm_cross": "DiT, figure 3",
        "norm_mlp": "DiT, figure 3",
        "final": "DiT, section 3.2 (Transformer decoder)",
        "out": "DiT, section 3.2 (Transformer decoder)",
        "unpatchify": "DiT, section 3.2 (Transformer decoder)",
    },
    "U-DiT": {
        "stem": "U-DiT, figure 3",
        "conditioning": "U-DiT, figure 3; DiT, section 3.2",
        "block": "U-DiT, section 3 and figure 3: the paper's block is two of these",
        "attn": "U-DiT, section 3.2 (downsampled self-attention)",
        "mlp": "U-DiT, section 5.4",
        "modulation": "DiT, section 3.2 (adaLN-Zero) and figure 3",
        "norm_attn": "DiT, figure 3",
        "norm_mlp": "DiT, figure 3",
        "down": "U-DiT, figure 3",
        "up": "U-DiT, figure 3",
        "merge": "U-DiT, figure 3",
        "neck": "U-DiT, figure 3",
        "final": "DiT, section 3.2 (Transformer decoder)",
        "out": "DiT, section 3.2 (Transformer decoder)",
    },
}


def axes_of(module: nn.Module | None, before: list, after: list) -> dict[str, int]:
    """The sizes of the letters in a module's own `forward`, in one picture of this model; none of a stranger's."""
    if module is None or not type(module).__module__.startswith("dit_lab."):
        return {}
    if isinstance(module, Down | Up):
        return grid_axes(module, before, after)
    axes = {"b": 1, "k": 2, "qkv": 3, "kv": 2}
    if isinstance(module, Modulation):
        return axes | {"parts": len(module.parts), "d": after[0][-1]}
    if isinstance(module, GridAttention):
        if module.sampler.queries != module.sampler.keys:
            return {}  # its n is that of the queries here and that of the keys there
        grids = module.sampler.queries**2
        return {"b": grids, "n": before[0][1] // grids, "head": module.heads, "e": module.width}
    if not before:
        return axes
    axes |= {"n": before[0][1], "d": before[0][-1]} if len(before[0]) == 3 else {}
    if heads := getattr(module, "heads", None):
        axes |= {"head": heads, "e": before[0][-1] // heads}
    if isinstance(module, CrossAttention):
        axes["k"] = before[1][1]
    return axes


def grid_axes(module: Down | Up, before: list, after: list) -> dict[str, int]:
    """The letters of a change of resolution: h and w are the coarser side's."""
    fine, coarse = (before[0], after[0]) if isinstance(module, Down) else (after[0], before[0])
    d = coarse[1] // FACTOR**2 if isinstance(module, Down) else fine[1]
    return {"b": 1, "d": d, "h": coarse[2], "w": coarse[3], "p": FACTOR, "q": FACTOR}


def helpers(module: nn.Module) -> list[tuple]:
    """What a module's `forward` calls that reshapes too, with the letters there: `(function, axes)`."""
    if isinstance(module, GridAttention):
        rows, columns, coarse, keys = module.layout
        wide = {"b": 1, "d": module.heads * module.width, "p": FACTOR, "q": FACTOR}
        wide |= {"h": rows // FACTOR, "w": columns // FACTOR}
        kind = type(module.sampler)
        if coarse == FACTOR:
            return [(kind.split, wide), (kind.join, wide)]
        return [(kind.thin, wide | {"d": 2 * wide["d"]})] if keys == FACTOR else []
    if isinstance(module, DepthwiseMLP):
        hidden = next(module.down.parameters()).shape[1]
        axes = {"b": 1, "h": module.grid.rows, "w": module.grid.columns, "d": hidden}
        return [(type(module).convolved, axes)]
    return []
