"""diffusers' format (`DiTTransformer2DModel`, `DiTPipeline`): every block carries its own copy of the embedders.

Only adaLN-Zero exists in it. Its class computes other numbers from the same weights (a frequency shift of 1 in the
timestep embedding, 1e-5 in the second norm); here these weights run with the original's.
"""

import torch
from einops import rearrange

from dit_lab.checkpoints.diffusers_schedulers import trained_with
from dit_lab.checkpoints.meta_dit import KINDS
from dit_lab.checkpoints.meta_dit import labels_of as imagenet_labels
from dit_lab.checkpoints.reading import CheckpointError
from dit_lab.models import Config, DiTConfig
from dit_lab.models.config import is_whole
from dit_lab.models.layers import position_table
from dit_lab.program import quoted

NAME = "diffusers"
CLASSES = ("DiTTransformer2DModel", "Transformer2DModel")
COPIED = {
    "norm1.emb.timestep_embedder.linear_1.weight": "time_embedding.up.weight",
    "norm1.emb.timestep_embedder.linear_1.bias": "time_embedding.up.bias",
    "norm1.emb.timestep_embedder.linear_2.weight": "time_embedding.down.weight",
    "norm1.emb.timestep_embedder.linear_2.bias": "time_embedding.down.bias",
    "norm1.emb.class_embedder.embedding_table.weight": "label_embedding.weight",
}
ENDS = {"pos_embed.proj": "patch_embedding", "proj_out_1": "final_norm.modulation.linear", "proj_out_2": "out"}
BLOCK = {
    "norm1.linear": "modulation.linear",
    "attn1.to_out.0": "attn.out",
    "ff.net.0.proj": "mlp.up",
    "ff.net.2": "mlp.down",
}
QKV = ("attn1.to_q", "attn1.to_k", "attn1.to_v")


def matches(tensors: dict) -> bool:
    """Whether these are the names of diffusers' transformer."""
    return "pos_embed.proj.weight" in tensors and "proj_out_2.weight" in tensors


def names(depth: int) -> dict[str, str]:
    """Their name -> ours, of every tensor that has one counterpart."""
    layers = ENDS | {
        f"transformer_blocks.{n}.{theirs}": f"blocks.{n}.{ours}" for n in range(depth) for theirs, ours in BLOCK.items()
    }
    return {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in layers.items() for kind in KINDS}


def to_ours(tensors: dict, config: DiTConfig) -> dict[str, torch.Tensor]:
    """Their tensors under our names: one copy of the embedders, q, k and v side by side, the position table computed.

    Raises CheckpointError when the copies differ (fine-tuned in diffusers): no single embedder says the same.
    """
    ours = {ours: tensors[theirs] for theirs, ours in names(config.depth).items()}
    for theirs, name in COPIED.items():
        ours[name], *copies = [tensors[f"transformer_blocks.{n}.{theirs}"] for n in range(config.depth)]
        if differing := [n for n, copy in enumerate(copies, 1) if not torch.equal(copy, ours[name])]:
            raise CheckpointError(f"the embedder {theirs} of block {differing[0]} differs from block 0's; DiT has one")
    for n in range(config.depth):
        for kind in KINDS:
            parts = [tensors[f"transformer_blocks.{n}.{part}.{kind}"] for part in QKV]
            ours[f"blocks.{n}.attn.qkv.{kind}"] = torch.cat(parts)
    ours["patch_embedding.weight"] = rearrange(ours["patch_embedding.weight"], "d c p q -> d (c p q)")
    ours["positions"] = position_table(config.dim, *config.grid).to(ours["patch_embedding.weight"].dtype)
    return ours


def to_theirs(tensors: dict, config: Config) -> dict[str, torch.Tensor]:
    """Our tensors under their names. Raises CheckpointError for what `DiTTransformer2DModel` cannot be."""
    check_expressible(config)
    theirs = {theirs: tensors[ours] for theirs, ours in names(config.depth).items()}
    for n in range(config.depth):
        theirs |= {f"transformer_blocks.{n}.{copy}": tensors[ours].clone() for copy, ours in COPIED.items()}
        for kind in KINDS:
            parts = rearrange(tensors[f"blocks.{n}.attn.qkv.{kind}"], "(qkv d) ... -> qkv d ...", qkv=3)
            theirs |= {f"transformer_blocks.{n}.{name}.{kind}": part for name, part in zip(QKV, parts, strict=True)}
    p = config.patch_size
    patch = theirs["pos_embed.proj.weight"]
    theirs["pos_embed.proj.weight"] = rearrange(patch, "d (c p q) -> d c p q", p=p, q=p)
    return theirs


def check_expressible(config: Config) -> None:
    """Raise CheckpointError, saying why, for a model that diffusers' class cannot be."""
    if not isinstance(config, DiTConfig):
        raise CheckpointError(f"diffusers' format holds DiTs only, this model is a {config.architecture}")
    reasons = {
        "has adaLN-Zero blocks only": config.block != "adaln_zero",
        "takes square inputs only": config.size[0] != config.size[1],
        "has an MLP ratio of 4": config.mlp_ratio != 4,
        "needs at least one class": config.num_classes == 0,
        "has a null label": not config.null_label,
    }
    if why := [reason for reason, applies in reasons.items() if applies]:
        raise CheckpointError(f"this model does not fit diffusers' DiT, which {' and '.join(why)}")


def check_positions(positions: torch.Tensor, config: DiTConfig) -> None:
    """Raise CheckpointError for a position table `n d` other than the sine table, which diffusers computes itself."""
    if not torch.allclose(position_table(config.dim, *config.grid), positions.float(), atol=1e-2):
        raise CheckpointError("this model's position table is not the sine table, the only one that diffusers' DiT has")


def config_of(tensors: dict, transformer: dict, scheduler: dict) -> DiTConfig:
    """The config that diffusers' `config.json` and scheduler config say. Raises CheckpointError."""
    if transformer.get("_class_name") not in CLASSES or transformer.get("norm_type") != "ada_norm_zero":
        raise CheckpointError(
            f"its config is of a {quoted(transformer.get('_class_name'))} with the norm "
            f"{quoted(transformer.get('norm_type'))}, not of a class-conditional DiT (ada_norm_zero)"
        )
    trained_for = trained_with(scheduler)
    try:
        heads, width, channels = (
            whole(transformer, name) for name in ("num_attention_heads", "attention_head_dim", "in_channels")
        )
        return DiTConfig(
            input_size=transformer["sample_size"],
            patch_size=transformer["patch_size"],
            in_channels=channels,
            dim=heads * width,
            depth=transformer["num_layers"],
            heads=heads,
            num_classes=transformer["num_embeds_ada_norm"],
            learned_variance=transformer.get("out_channels") == 2 * channels,
            **trained_for,
        )
    except KeyError as error:
        raise CheckpointError(f"its config has no {error}") from error
    except CheckpointError:
        raise
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"its config makes no DiT: {error}") from error


def whole(transformer: dict, name: str) -> int:
    """A field that is computed with. Raises CheckpointError where it is no whole number, KeyError where it is none."""
    if not is_whole(value := transformer[name]):
        raise CheckpointError(f"its config's {name} should be a whole number, not {quoted(value)}")
    return value


def transformer_json(config: DiTConfig) -> dict:
    """diffusers' `transformer/config.json` for a config of ours."""
    return {
        "_class_name": "DiTTransformer2DModel",
        "num_attention_heads": config.heads,
        "attention_head_dim": config.dim // config.heads,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "num_layers": config.depth,
        "sample_size": config.size[0],
        "patch_size": config.patch_size,
        "num_embeds_ada_norm": config.num_classes,
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-05,
        "dropout": 0.0,
        "upcast_attention": False,
    }


def index_json(labels: list[str]) -> dict:
    """diffusers' `model_index.json`."""
    return {
        "_class_name": "DiTPipeline",
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "scheduler": ["diffusers", "DDIMScheduler"],
        "transformer": ["diffusers", "DiTTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def labels_of(index: dict, config: DiTConfig) -> list[str] | None:
    """Class names from a pipeline's `model_index.json` (`id2label`); ImageNet's for a bare transformer of its shape."""
    table = index.get("id2label")
    if not isinstance(table, dict):
        return imagenet_labels(config)
    return [table.get(str(number), str(number)) for number in range(config.num_classes)]
