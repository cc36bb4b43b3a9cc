"""Opening a VAE of diffusers: from a folder, a pipeline, the zoo or the hub."""

from importlib.resources import files
from pathlib import Path

import torch

from dit_lab.checkpoints.places import HUB_ID, diffusers_weights, downloaded
from dit_lab.checkpoints.reading import listed, read
from dit_lab.data.vae_config import checked
from dit_lab.files import read_json
from dit_lab.program import quoted

# What a checkpoint may have fetched from the hub by naming it: the VAEs that DiT's authors trained and sampled with,
# and their own pipelines', which hold one of these.
KNOWN = (
    "stabilityai/sd-vae-ft-mse", "stabilityai/sd-vae-ft-ema", "facebook/DiT-XL-2-256", "facebook/DiT-XL-2-512",
)  # fmt: skip
FILES = ("config.json", "diffusion_pytorch_model.safetensors")
VAE_FILES = [f"{folder}{name}" for folder in ("", "vae/") for name in FILES]
# The largest side in pixels that goes through a VAE in one piece, and a tile's beyond it: the largest of DiT's pictures
# stays whole. Stable Diffusion's decoder then needs about 1 GiB in fp32: four maps of 256 channels, 1 kB a pixel each.
TILE = 512
CONFIG_BYTES = 2**20  # of a config, a thousand times what one has
# What diffusers called the parts of an attention before version 0.17, as Stable Diffusion's VAEs still have them.
OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LONGEST = 300  # letters of a sentence, and of a name


def open_vae(source: str, channels: int | None = None) -> torch.nn.Module:
    """An AutoencoderKL or AutoencoderTiny, or the `vae` of a pipeline, whose latents have `channels`, where given.

    A hub id that is not a folder here is fetched. Raises ValueError.
    """
    return opened(source, vae_folder(source), channels)


def open_named_vae(hint: str, channels: int | None = None) -> torch.nn.Module:
    """The same of what a checkpoint names: its word alone makes nobody ask the hub, but for the VAEs that are `KNOWN`.

    Others open where they are on this disk, in the hub's cache too. Raises ValueError.
    """
    if hint in KNOWN or not is_hub_id(hint):
        return open_vae(hint, channels)
    if (folder := in_cache(hint)) is None:
        raise ValueError(
            f"the VAE {quoted(hint)} is not on this disk, and a checkpoint's word fetches none but the known ones; "
            "named with --vae it is fetched"
        )
    return opened(hint, in_pipeline(folder), channels)


def opened(source: str, folder: Path, channels: int | None) -> torch.nn.Module:
    """The VAE in a folder. Its config is checked before anything is built from it. Raises ValueError."""
    try:
        name, said = checked(config_in(folder))
        if channels is not None and (there := said.get("latent_channels", 4)) != channels:
            raise ValueError(f"its latents have {there} channels, the model's {channels}")
        import diffusers  # here, not above: it takes seconds, and pictures and false colours do without it

        with torch.device("meta"):  # sizes alone, as yet without memory
            model = getattr(diffusers, name)(**said)
        filled(model, folder)
    except (OSError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(cut(f"could not open the VAE {quoted(source)}: {reason}", LONGEST)) from error
    return tiles_set(model).eval().requires_grad_(False)


def config_in(folder: Path) -> dict:
    """A VAE's `config.json`. Raises ValueError where there is none, or no object in it."""
    try:
        return read_json(folder / FILES[0], CONFIG_BYTES)
    except ValueError as error:
        raise ValueError(f"its {FILES[0]} cannot be read, {error}") from error


def filled(model: torch.nn.Module, folder: Path) -> None:
    """Give a model of sizes alone its tensors, in fp32: half precision is for the file, a CPU is slow in it.

    They are read as a checkpoint's are: code in a `.bin` never runs. Raises ValueError unless each is there as the
    config says it.
    """
    tensors, wanted, paths = {}, model.state_dict(), diffusers_weights(folder)
    for path in paths:
        tensors |= {new_name(name, wanted): tensor for name, tensor in read(path, "ema")[0].items()}
    if missing := sorted(wanted.keys() - tensors.keys()):
        raise ValueError(f"its file lacks {listed(missing, most=2)}")
    for name, tensor in wanted.items():
        if tensors[name].shape != tensor.shape or tensors[name].dtype not in FLOATS:
            there, said = (" x ".join(map(str, each.shape[:4])) for each in (tensors[name], tensor))
            raise ValueError(f"its {name} is {there} in {str(tensors[name].dtype)[6:]}, by its config {said} in float")
    if sum(tensors[name].nbytes for name in wanted) > (size := sum(path.stat().st_size for path in paths)):
        raise ValueError(f"its tensors are more than the {size} bytes of its file")
    # Copied: a file that is mapped, and then cut short by someone, would end the program.
    model.load_state_dict({name: tensors.pop(name).to(torch.float32, copy=True) for name in wanted}, assign=True)


def new_name(name: str, wanted) -> str:
    """A tensor's name as diffusers has it now."""
    for old, new in OLD_NAMES.items():
        if old in name and (renamed := name.replace(old, new)) in wanted:
            return renamed
    return name


def factor_of(vae: torch.nn.Module) -> int:
    """Pixels a latent has along each side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def tiles_set(vae: torch.nn.Module) -> torch.nn.Module:
    """The VAE with diffusers' tiles of `TILE` pixels, wherever its config puts them."""
    factor = factor_of(vae)
    vae.tile_sample_min_size, vae.tile_latent_min_size = TILE, TILE // factor
    vae.spatial_scale_factor = factor  # AutoencoderTiny's, which it takes to be 8
    return vae


def vae_folder(source: str) -> Path:
    """The folder that holds the VAE's `config.json`: of a VAE or a pipeline; in the zoo, on this disk or on the hub."""
    if source in (zoo := zoo_vaes()):
        return zoo[source]
    if is_folder(source):
        return in_pipeline(Path(source))
    if is_hub_id(source):
        return in_pipeline(downloaded(source, VAE_FILES))
    hint = "" if "/" in source else f", and the zoo has {', '.join(sorted(zoo)) or 'no VAE'}"
    raise ValueError(f"could not open the VAE {quoted(source)}: there is no such folder{hint}")


def in_pipeline(folder: Path) -> Path:
    """The folder of a pipeline's VAE, or the VAE's own."""
    return folder / "vae" if (folder / "vae").is_dir() else folder


def is_folder(source: str) -> bool:
    """Whether there is such a folder; a text that can name none is none."""
    try:
        return Path(source).is_dir()
    except (OSError, ValueError):  # too long, or with a zero in it
        return False


def is_hub_id(source: str) -> bool:
    """Whether only the hub could have it."""
    return len(source) <= LONGEST and HUB_ID.fullmatch(source) is not None and not is_folder(source)


def in_cache(repository: str) -> Path | None:
    """The folder of a repository that was fetched before, without asking the hub; None where there is none."""
    try:
        import huggingface_hub

        return Path(huggingface_hub.snapshot_download(repository, local_files_only=True))
    except (ImportError, OSError, ValueError):
        return None


def cut(sentence: str, most: int) -> str:
    """A sentence without its middle where it is longer than `most`: its beginning names, its end advises."""
    half = (most - 3) // 2
    return sentence if len(sentence) <= most else f"{sentence[:half]} … {sentence[-half:]}"


def zoo_vaes() -> dict[str, Path]:
    """The VAEs that ship with the package, by name."""
    return {path.name: path for path in Path(str(files("dit_lab.zoo"))).iterdir() if (path / FILES[1]).is_file()}
