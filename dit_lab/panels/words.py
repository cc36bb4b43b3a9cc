"""What panels call the parts of a model and of a run: stages and blocks, samplers, times, and the facts of a header."""

import re

from dit_lab.models import BLOCKS, Config, UDiTConfig

SAMPLER_TITLES = {
    "ddim": "DDIM", "ddpm": "DDPM", "euler": "Euler", "heun": "Heun", "dpmpp": "DPM-Solver++",
    "dpmpp3": "DPM-Solver++(3M)", "unipc": "UniPC", "sde": "SDE (SiT)", "dpmpp_sde": "DPM-Solver++ SDE",
}  # fmt: skip


def stage_words(config: Config) -> list[dict]:
    """Every stage: its name ("" where there is only one), its first block's number, and what to call its blocks."""
    named = len(config.stages) > 1
    return [
        {"name": shape.name if named else "", "first": blocks.start, "blocks": [block_words(b) for b in shape.blocks]}
        for shape, blocks in zip(config.stages, config.stage_blocks.values(), strict=True)
    ]


def block_words(name: str) -> str:
    """A block's name within its stage for a reader: `3 -> block 3`, `1b -> block 1, pair b`."""
    number, pair = re.fullmatch("([0-9]+)([a-z]?)", name).groups()
    return f"block {number}, pair {pair}" if pair else f"block {number}"


def shown_times(trajectory) -> list[float]:
    """A run's timesteps as the page says them; those of flow matching have endless decimals."""
    return [round(t, 1) for t in trajectory.t]


def facts(config: Config, parameters: int, *, latent: bool) -> dict[str, str]:
    """What is loaded, by short names."""
    (h, w), heads = config.size, f"{config.heads} heads"
    if isinstance(config, UDiTConfig):
        grids = [grid_words(config.grid_of(blocks.start)) for blocks in config.stage_blocks.values()][: config.levels]
        depth = f"{' + '.join(map(str, config.depths))} blocks of two pairs × {heads}"
        tokens = f"{', '.join(grids[:-1])} and {grids[-1]}, one a {'latent ' * latent}pixel at first"
    else:
        side, (rows, columns) = config.patch_size, config.grid
        depth = f"{config.depth} blocks × {heads}"
        tokens = f"{rows} × {columns} = {rows * columns} patches of {side} × {side}"
    return {
        "Model": f"{config.architecture}, {BLOCKS[config.block].title} blocks, {parameters / 1e6:.1f} M parameters",
        "Depth": depth,
        "Input": f"{h} × {w} {'latent' if latent else 'picture'}, "
        f"{config.in_channels} channel{'s' * (config.in_channels > 1)}",
        "Tokens": tokens,
    }


def grid_words(grid: tuple[int, int]) -> str:
    """(rows, columns) for a reader."""
    return "{} × {}".format(*grid)
