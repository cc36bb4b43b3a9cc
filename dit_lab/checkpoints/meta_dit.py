"""The original's format (facebookresearch/DiT): `DiT-XL-2-256x256.pt` and what its training script writes.

Only adaLN-Zero exists in it. The tensors say everything but the number of heads and the class names.
"""

import math
from importlib.resources import files

import torch
from einops import rearrange

from dit_lab.checkpoints.reading import CheckpointError
from dit_lab.models import Config, DiTConfig
from dit_lab.models.layers import position_table
from dit_lab.models.presets import SIZES

NAME = "meta_dit"
ENDS = {
    "x_embedder.proj": "patch_embedding",
    "t_embedder.mlp.0": "time_embedding.up",
    "t_embedder.mlp.2": "time_embedding.down",
    "final_layer.adaLN_modulation.1": "final_norm.modulation.linear",
    "final_layer.linear": "out",
}
BLOCK = {
    "attn.qkv": "attn.qkv",
    "attn.proj": "attn.out",
    "mlp.fc1": "mlp.up",
    "mlp.fc2": "mlp.down",
    "adaLN_modulation.1": "modulation.linear",
}
SINGLE = {"pos_embed": "positions", "y_embedder.embedding_table.weight": "label_embedding.weight"}
KINDS = ("weight", "bias")
HEADS = {shape["dim"]: shape["heads"] for shape in SIZES.values()}


def matches(tensors: dict) -> bool:
    """Whether these are the original's names."""
    return "x_embedder.proj.weight" in tensors and "final_layer.linear.weight" in tensors


def names(depth: int) -> dict[str, str]:
    """Their name -> ours, of every tensor."""
    blocks = {f"blocks.{n}.{theirs}": f"blocks.{n}.{ours}" for n in range(depth) for theirs, ours in BLOCK.items()}
    layers = ENDS | blocks
    return SINGLE | {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in layers.items() for kind in KINDS}


def to_ours(tensors: dict, config: DiTConfig) -> dict[str, torch.Tensor]:
    """Their tensors under our names: the patch convolution as a linear layer, the position table without a batch."""
    ours = {ours: tensors[theirs] for theirs, ours in names(config.depth).items()}
    ours["patch_embedding.weight"] = rearrange(ours["patch_embedding.weight"], "d c p q -> d (c p q)")
    ours["positions"] = rearrange(ours["positions"], "1 n d -> n d")
    return ours


def to_theirs(tensors: dict, config: Config) -> dict[str, torch.Tensor]:
    """Our tensors under their names. Raises CheckpointError for a model or a block that the format does not have."""
    if not isinstance(config, DiTConfig):
        raise CheckpointError(f"the original's format holds DiTs only, this model is a {config.architecture}")
    if config.block != "adaln_zero":
        raise CheckpointError(f"the original's format has adaLN-Zero blocks only, this model has {config.block}")
    theirs = {theirs: tensors[ours] for theirs, ours in names(config.depth).items()}
    p = config.patch_size
    patch = theirs["x_embedder.proj.weight"]
    theirs["x_embedder.proj.weight"] = rearrange(patch, "d (c p q) -> d c p q", p=p, q=p)
    theirs["pos_embed"] = rearrange(theirs["pos_embed"], "n d -> 1 n d")
    return theirs


def config_of(tensors: dict, heads: int | None) -> DiTConfig:
    """The config that the tensors' shapes imply. Raises CheckpointError when they imply none."""
    try:
        dim, in_channels, p, _ = tensors["x_embedder.proj.weight"].shape
        input_size = tuple(side * p for side in grid_of(rearrange(tensors["pos_embed"], "1 n d -> n d")))
        return DiTConfig(
            input_size=input_size,
            patch_size=p,
            in_channels=in_channels,
            dim=dim,
            depth=len({name.split(".")[1] for name in tensors if name.startswith("blocks.")}),
            heads=heads or heads_of(dim),
            mlp_ratio=tensors["blocks.0.mlp.fc1.weight"].shape[0] / dim,
            num_classes=tensors["y_embedder.embedding_table.weight"].shape[0] - 1,
            learned_variance=tensors["final_layer.linear.weight"].shape[0] == 2 * in_channels * p**2,
        )
    except KeyError as error:
        raise CheckpointError(f"the tensor {error} is missing") from error
    except CheckpointError:
        raise
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"its tensors' shapes make no DiT: {error}") from error


def grid_of(positions: torch.Tensor) -> tuple[int, int]:
    """(rows, columns) of a stored table `n d`: the grid whose table it is, or a square where it is none's."""
    n, dim = positions.shape
    side = math.isqrt(n)
    grids = [(side, side)] if side**2 == n else []
    grids += [(rows, n // rows) for rows in range(1, n + 1) if n % rows == 0 and rows**2 != n]
    for rows, columns in grids:
        if torch.allclose(position_table(dim, rows, columns), positions.float(), atol=1e-2):
            return rows, columns
    if side**2 != n:
        raise CheckpointError(f"its position table has {n} places, which is no square, and is no grid's sine table")
    return side, side


def heads_of(dim: int) -> int:
    """The heads of a known width; tensors do not show them. Raises CheckpointError for another width."""
    if dim not in HEADS:
        known = ", ".join(map(str, sorted(HEADS)))
        raise CheckpointError(
            f"its width {dim} is none of the known ({known}), so say how many heads it has: heads=..."
        )
    return HEADS[dim]


def labels_of(config: Config) -> list[str] | None:
    """ImageNet's class names for a latent model of 1,000 classes; the format has none of its own."""
    if config.num_classes == 1000 and config.in_channels == 4:
        return files("dit_lab.checkpoints").joinpath("imagenet_classes.txt").read_text().splitlines()
    return None


def codec_of(config: Config, args: dict) -> str | None:
    """The VAE that the original trains and samples with, for 4 channels; pictures for 1 or 3."""
    if config.in_channels == 4:
        return f"stabilityai/sd-vae-ft-{args.get('vae', 'mse')}"
    return "pixels" if config.in_channels in (1, 3) else None
