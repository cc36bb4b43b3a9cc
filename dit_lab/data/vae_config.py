"""What a VAE's `config.json` may say: types, ranges and sizes, checked before anything is built from it.

The limits are generous: the largest VAEs in use have 4 levels of at most 1,024 channels, 2 or 3 layers a level and 32
channels of latents.
"""

from dit_lab.checkpoints.own import NAME as OURS
from dit_lab.data.rules import NUMBER, POSITIVE, SWITCH, Rule, each, maybe, one_of, whole
from dit_lab.files import check_fields
from dit_lab.program import escaped, quoted

MOST_LEVELS, MOST_WIDTH, MOST_LAYERS, MOST_CHANNELS = 8, 2**14, 16, 1024
STATISTICS = ("latents_mean", "latents_std")
ACTIVATION = one_of("silu", "swish", "mish", "gelu", "relu")
WIDTHS, LAYERS = each(whole(1, MOST_WIDTH), MOST_LEVELS), whole(1, MOST_LAYERS)
SIDE = whole(1, 2**16)
BOTH = {
    "in_channels": one_of(3), "out_channels": one_of(3), "latent_channels": whole(1, MOST_CHANNELS),
    "act_fn": ACTIVATION, "force_upcast": SWITCH, "scaling_factor": POSITIVE, "shift_factor": maybe(NUMBER),
}  # fmt: skip
RULES = {
    "AutoencoderKL": BOTH | {
        "down_block_types": each(one_of("DownEncoderBlock2D", "AttnDownEncoderBlock2D"), MOST_LEVELS),
        "up_block_types": each(one_of("UpDecoderBlock2D", "AttnUpDecoderBlock2D"), MOST_LEVELS),
        "block_out_channels": WIDTHS, "layers_per_block": LAYERS, "norm_num_groups": whole(1, MOST_WIDTH),
        "sample_size": Rule(lambda x: SIDE.fits(x) or each(SIDE, 2).fits(x), "a side or two"),
        "latents_mean": maybe(each(NUMBER, MOST_CHANNELS)), "latents_std": maybe(each(POSITIVE, MOST_CHANNELS)),
        "use_quant_conv": SWITCH, "use_post_quant_conv": SWITCH, "mid_block_add_attention": SWITCH,
    },
    "AutoencoderTiny": BOTH | {
        "encoder_block_out_channels": WIDTHS, "decoder_block_out_channels": WIDTHS,
        "num_encoder_blocks": each(LAYERS, MOST_LEVELS), "num_decoder_blocks": each(LAYERS, MOST_LEVELS),
        "upsample_fn": one_of("nearest", "bilinear", "bicubic"), "upsampling_scaling_factor": one_of(2),
        "latent_magnitude": NUMBER, "latent_shift": NUMBER,
    },
}  # fmt: skip
# Lists that have one entry a level, by class, and how many each has where the config leaves it out (diffusers').
LEVELS = {
    "AutoencoderKL": {"block_out_channels": 1, "down_block_types": 1, "up_block_types": 1},
    "AutoencoderTiny": dict.fromkeys(
        ("encoder_block_out_channels", "decoder_block_out_channels", "num_encoder_blocks", "num_decoder_blocks"), 4
    ),
}


def checked(config: dict) -> tuple[str, dict]:
    """(class, arguments) of a VAE's config, without what the class does not know; diffusers ignores that too.

    Raises ValueError that names the first value that is none of what it should be.
    """
    name = config.get("_class_name")
    if name is None:
        what = "a model, not a VAE" if config.get("format") == OURS else "no VAE of diffusers"
        raise ValueError(f"it holds {what}: its config.json names no class, {' or '.join(RULES)}; give a VAE's folder")
    if not isinstance(name, str) or name not in RULES:
        found = escaped(name[:80]) if isinstance(name, str) else quoted(name)
        raise ValueError(f"it holds a {found}, not one of {', '.join(RULES)}")
    said = {key: config[key] for key in RULES[name] if key in config}
    check_fields(said, **{key: RULES[name][key] for key in said})
    levels = {key: len(said[key]) if key in said else count for key, count in LEVELS[name].items()}
    if len(set(levels.values())) > 1:
        raise ValueError(f"its {' and '.join(levels)} differ in length: {', '.join(map(str, levels.values()))}")
    check_groups(said) if name == "AutoencoderKL" else check_without_statistics(config)
    check_statistics(said)
    return name, said


def check_groups(said: dict) -> None:
    """Raise ValueError where a width of an AutoencoderKL does not divide into its groups."""
    groups = said.get("norm_num_groups", 32)
    if uneven := [width for width in said.get("block_out_channels", [64]) if width % groups]:
        raise ValueError(f"its block_out_channels has {uneven[0]}, which is no multiple of {groups} groups")


def check_without_statistics(config: dict) -> None:
    """Raise ValueError where a VAE that has no statistics of latents is given some: they would be lost."""
    if given := [key for key in STATISTICS if config.get(key) is not None]:
        raise ValueError(f"its config has {given[0]}, which an AutoencoderTiny does not know")


def check_statistics(said: dict) -> None:
    """Raise ValueError unless mean and standard deviation are both there, a value a channel, or neither is."""
    mean, std = (said.get(key) for key in STATISTICS)
    if (mean is None) != (std is None):
        there, lacking = STATISTICS if std is None else STATISTICS[::-1]
        raise ValueError(f"its config has {there} but no {lacking}; latents need both or neither")
    channels = said.get("latent_channels", 4)
    for key, values in zip(STATISTICS, (mean, std), strict=True):
        if values is not None and len(values) != channels:
            raise ValueError(f"its {key} has {len(values)} values, its latents {channels} channels")
