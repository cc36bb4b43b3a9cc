"""The released U-DiT format (YuchuanTian/U-DiT): `U-DiT-S-400k.pt` and what its training scripts write.

Only adaLN-Zero exists in it, at three resolutions, unfolded. The tensors say everything but the class names and the
input's size, which is 32, a latent of 256 x 256 pixels, where nothing else is said.
"""

import torch
from einops import rearrange

from dit_lab.checkpoints import meta_dit
from dit_lab.checkpoints.meta_dit import KINDS
from dit_lab.checkpoints.origin import classes_of, size_of
from dit_lab.checkpoints.reading import CheckpointError, first_line
from dit_lab.checkpoints.told import Told
from dit_lab.models import Config, UDiTConfig
from dit_lab.models.udit import PAIRS

NAME = "udit"
INPUT_SIZE = 32
STAGES = {
    "encoder_level_1": "encoder.0",
    "encoder_level_2": "encoder.1",
    "latent": "middle",
    "decoder_level_2": "decoder.0",
    "decoder_level_1": "decoder.1",
}
LEVELS = (1, 2, 3)
ENDS = {
    "x_embedder.proj": "stem",
    "reduce_chan_level2": "merge.0",
    "reduce_chan_level1": "merge.1",
    "output": "neck",
    "final_layer.adaLN_modulation.1": "final_norm.modulation.linear",
    "final_layer.out_proj": "out",
}
BIASLESS = {"down1_2.body.0": "down.0", "down2_3.body.0": "down.1", "up3_2.body.0": "up.0", "up2_1.body.0": "up.1"}
CONDITION = {"t_embedder_{}.mlp.0": "time_embedding.up", "t_embedder_{}.mlp.2": "time_embedding.down"}
# Both pairs of their block, numbered 1 and 2; each is a block of ours.
PAIR = {
    "attn{}.downsampler.layer": "attn.sampler.conv",
    "attn{}.to_qkv": "attn.qkv",
    "attn{}.to_out": "attn.out",
    "adaLN_modulation{}.1": "modulation.linear",
    "mlp{}.project_in.0": "mlp.up.first",
    "mlp{}.project_in.1": "mlp.up.second",
    "mlp{}.dwconv.0": "mlp.conv.branches.0",
    "mlp{}.dwconv.1": "mlp.conv.branches.1",
    "mlp{}.dwconv.2": "mlp.conv.branches.2",
    "mlp{}.project_out.0": "mlp.down.first",
    "mlp{}.project_out.1": "mlp.down.second",
}
# Convolutions of one pixel in theirs, linears in ours.
POINTWISE = tuple(
    f".{name}.weight" for name in ("attn.out", "mlp.up.first", "mlp.up.second", "mlp.down.first", "mlp.down.second")
)


def matches(tensors: dict) -> bool:
    """Whether these are the names of the released U-DiT."""
    return "x_embedder.proj.weight" in tensors and "final_layer.out_proj.weight" in tensors


def names(depths: tuple[int, ...]) -> dict[str, str]:
    """Their name -> ours, of every tensor; `depths` are their blocks a stage."""
    layers, single = dict(ENDS), {f"{theirs}.weight": f"{ours}.weight" for theirs, ours in BIASLESS.items()}
    for level in LEVELS:
        ours = f"conditions.{level - 1}"
        layers |= {theirs.format(level): f"{ours}.{name}" for theirs, name in CONDITION.items()}
        single[f"y_embedder_{level}.embedding_table.weight"] = f"{ours}.label_embedding.weight"
    for (stage, ours), depth in zip(STAGES.items(), depths, strict=True):
        for n in range(PAIRS * depth):
            theirs, pair = f"{stage}.{n // PAIRS}", n % PAIRS + 1
            layers |= {f"{theirs}.{name.format(pair)}": f"{ours}.blocks.{n}.{same}" for name, same in PAIR.items()}
            single[f"{theirs}.attn{pair}.logit_scale"] = f"{ours}.blocks.{n}.attn.log_scale"
    return single | {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in layers.items() for kind in KINDS}


def to_ours(tensors: dict, config: UDiTConfig) -> dict[str, torch.Tensor]:
    """Their tensors under our names: convolutions of one pixel as linear layers."""
    ours = {ours: tensors[theirs] for theirs, ours in names(config.depths).items()}
    return {name: rearrange(t, "o i 1 1 -> o i") if name.endswith(POINTWISE) else t for name, t in ours.items()}


def to_theirs(tensors: dict, config: Config) -> dict[str, torch.Tensor]:
    """Our tensors under their names. Raises CheckpointError for a model that the format does not have."""
    check_expressible(config)
    fit = lambda name: rearrange(tensors[name], "o i -> o i 1 1") if name.endswith(POINTWISE) else tensors[name]
    return {theirs: fit(ours) for theirs, ours in names(config.depths).items()}


def check_expressible(config: Config) -> None:
    """Raise CheckpointError, saying why, for a model that has no names in this format."""
    if not isinstance(config, UDiTConfig):
        raise CheckpointError(f"the released U-DiT's format holds U-DiTs only, this model is a {config.architecture}")
    switches = dict(block="adaln_zero", downsample="token", cosine=True, rope=True, mlp="reparameterised")
    other = [f"{field} {getattr(config, field)}" for field, only in switches.items() if getattr(config, field) != only]
    if config.levels != len(LEVELS):
        other.append(f"{config.levels} resolutions")
    if other:
        only = ", ".join(f"{field} {only}" for field, only in switches.items())
        raise CheckpointError(
            f"the released U-DiT's format has {only} and {len(LEVELS)} resolutions only, this model has "
            f"{', '.join(other)}"
        )


def config_of(tensors: dict, told: Told, args: dict) -> UDiTConfig:
    """The config that the tensors' shapes imply, with what is told and what the training's arguments say.

    Raises CheckpointError when they imply none.
    """
    try:
        dim, in_channels, *_ = tensors["x_embedder.proj.weight"].shape
        rows = tensors["y_embedder_1.embedding_table.weight"].shape[0]
        return UDiTConfig(
            input_size=size_of(in_channels, told, args) or INPUT_SIZE,
            in_channels=in_channels,
            dim=dim,
            heads=tensors["latent.0.attn1.logit_scale"].shape[0],
            depths=tuple(len({name.split(".")[1] for name in tensors if name.startswith(f"{s}.")}) for s in STAGES),
            # Where it is widest, so that a width cut to a whole number tells most of the ratio.
            mlp_ratio=tensors["latent.0.mlp1.project_in.1.weight"].shape[0] / (dim * 2 ** (len(LEVELS) - 1)),
            learned_variance=tensors["final_layer.out_proj.weight"].shape[0] == 2 * in_channels,
            **classes_of(rows, in_channels, told, args),
        )
    except KeyError as error:
        raise CheckpointError(f"the tensor {error} is missing") from error
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"its tensors' shapes make no U-DiT: {first_line(error)}") from error


labels_of = meta_dit.labels_of


def codec_of(config: Config, args: dict) -> str | None:
    """As the original DiT's, but its scripts train and sample with the VAE `ema` where nothing else is said."""
    return meta_dit.codec_of(config, {"vae": "ema", **args})
