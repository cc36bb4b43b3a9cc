"""The original's format (facebookresearch/DiT): `DiT-XL-2-256x256.pt` and what its training script writes.

Only adaLN-Zero exists in it. The tensors say everything but the number of heads, the class names, and what they were
trained for: SiT's files (willisma/SiT) have the same.
"""

import math
from importlib.resources import files

import torch
from einops import rearrange

from dit_lab.checkpoints.origin import LATENTS, PICTURES, classes_of, size_of, vae_of
from dit_lab.checkpoints.reading import CheckpointError, first_line
from dit_lab.checkpoints.told import Told
from dit_lab.models import Config, DiTConfig
from dit_lab.models.config import MOST
from dit_lab.models.layers import position_table, position_waves
from dit_lab.models.presets import SIZES

NAME = "meta_dit"
FIRST = {
    "x_embedder.proj": "patch_embedding",
    "t_embedder.mlp.0": "time_embedding.up",
    "t_embedder.mlp.2": "time_embedding.down",
}
LAST = {"final_layer.linear": "out", "final_layer.adaLN_modulation.1": "final_norm.modulation.linear"}
BLOCK = {
    "attn.qkv": "attn.qkv",
    "attn.proj": "attn.out",
    "mlp.fc1": "mlp.up",
    "mlp.fc2": "mlp.down",
    "adaLN_modulation.1": "modulation.linear",
}
POSITIONS = "pos_embed"
LABELS = "y_embedder.embedding_table.weight"
KINDS = ("weight", "bias")
LOOKED_AT = 2**18  # numbers of a position table at once
HEADS = {shape["dim"]: shape["heads"] for shape in SIZES.values()}


def matches(tensors: dict) -> bool:
    """Whether these are the original's names."""
    return "x_embedder.proj.weight" in tensors and "final_layer.linear.weight" in tensors


def names(depth: int) -> dict[str, str]:
    """Their name -> ours, of every tensor, in the order of the original's parameters, by which AdamW numbers them."""
    blocks = {f"blocks.{n}.{theirs}": f"blocks.{n}.{ours}" for n in range(depth) for theirs, ours in BLOCK.items()}
    both = lambda layers: {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in layers.items() for kind in KINDS}
    return {POSITIONS: "positions"} | both(FIRST) | {LABELS: "label_embedding.weight"} | both(blocks) | both(LAST)


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


def config_of(tensors: dict, told: Told, args: dict) -> DiTConfig:
    """The config of a DiT that the tensors' shapes imply, with what is told and what the training's arguments say.

    Raises CheckpointError when they imply none.
    """
    try:
        dim, in_channels, p, _ = tensors["x_embedder.proj.weight"].shape
        rows = tensors[LABELS].shape[0]
        return DiTConfig(
            input_size=input_size_of(tensors, p, size_of(in_channels, told, args)),
            patch_size=p,
            in_channels=in_channels,
            dim=dim,
            depth=len({name.split(".")[1] for name in tensors if name.startswith("blocks.")}),
            heads=told.heads or heads_of(dim),
            mlp_ratio=tensors["blocks.0.mlp.fc1.weight"].shape[0] / dim,
            learned_variance=tensors["final_layer.linear.weight"].shape[0] == 2 * in_channels * p**2,
            **classes_of(rows, in_channels, told, args),
        )
    except KeyError as error:
        raise CheckpointError(f"the tensor {error} is missing") from error
    except CheckpointError:
        raise
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"its tensors' shapes make no DiT: {first_line(error)}") from error


def input_size_of(tensors: dict, patch: int, said) -> int | tuple[int, int]:
    """The input that the position table is of, else what is `said`. Raises CheckpointError where there is neither."""
    if POSITIONS in tensors:
        return tuple(side * patch for side in grid_of(rearrange(tensors[POSITIONS], "1 n d -> n d")))
    if said is None:
        raise CheckpointError(
            "its position table (pos_embed) is left out, so say the input's side: input_size=32 (--input-size 32) "
            "for latents of 256 pixels"
        )
    return said


def completed(tensors: dict, config: DiTConfig) -> dict:
    """The tensors of a whole file: a position table that was left out computed, outputs that are not used left out.

    SiT's last layer has a second half of output channels (its `learn_sigma`) that nothing reads.
    """
    weight, extra = tensors["x_embedder.proj.weight"], {}
    if POSITIONS not in tensors:
        extra[POSITIONS] = rearrange(position_table(config.dim, *config.grid).to(weight.dtype), "n d -> 1 n d")
    for name in (f"final_layer.linear.{kind}" for kind in KINDS):
        if config.schedule == "sit" and len(tensors.get(name, ())) == 2 * config.in_channels * config.patch_size**2:
            shape = dict(two=2, p=config.patch_size, c=config.in_channels)
            extra[name] = rearrange(tensors[name], "(p q two c) ... -> two (p q c) ...", **shape)[0].clone()
    return tensors | extra


def grid_of(positions: torch.Tensor) -> tuple[int, int]:
    """(rows, columns) of a stored table `n d`: the grid whose table it is, or a square where it is none's."""
    n, dim = positions.shape
    if n * dim > MOST["table"] or dim % 4:
        raise CheckpointError(f"its position table of {n} x {dim} numbers is none that a DiT has")
    side = math.isqrt(n)
    grids = [(side, side)] if side**2 == n else []
    grids += [(rows, n // rows) for rows in range(1, n + 1) if n % rows == 0 and rows**2 != n]
    for rows, columns in grids:
        if is_table(positions, rows, columns):
            return rows, columns
    if side**2 != n:
        raise CheckpointError(f"its position table has {n} places, which is no square, and is no grid's sine table")
    return side, side


def is_table(positions: torch.Tensor, rows: int, columns: int) -> bool:
    """Whether `n d` is the sine table of a grid, to 16 bits; looked at part by part, up to the first other."""
    n, dim = positions.shape
    across, down = position_waves(columns, dim // 2), position_waves(rows, dim // 2)
    for tokens in torch.arange(n).split(max(1, LOOKED_AT // dim)):
        expected = torch.cat([across[tokens % columns], down[tokens // columns]], dim=1)
        if not torch.allclose(expected, positions[tokens[0] : tokens[-1] + 1].float(), atol=1e-2):
            return False
    return True


def heads_of(dim: int) -> int:
    """The heads of a known width; tensors do not show them. Raises CheckpointError for another width."""
    if dim not in HEADS:
        known = ", ".join(map(str, sorted(HEADS)))
        raise CheckpointError(
            f"its width {dim} is none of the known ({known}), so say how many heads it has: heads=... (--heads)"
        )
    return HEADS[dim]


def labels_of(config: Config) -> list[str] | None:
    """ImageNet's class names for a latent model of 1,000 classes; the format has none of its own."""
    if config.num_classes == 1000 and config.in_channels in LATENTS:
        return files("dit_lab.checkpoints").joinpath("imagenet_classes.txt").read_text().splitlines()
    return None


def codec_of(config: Config, args: dict) -> str | None:
    """The VAE that the original trains and samples with, for 4 channels; pictures for 1 or 3."""
    if config.in_channels in LATENTS:
        return vae_of(args, "mse")
    return "pixels" if config.in_channels in PICTURES else None
