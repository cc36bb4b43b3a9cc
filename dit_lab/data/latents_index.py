"""What a cache of latents says of itself, in its index and in its shards' headers, checked before any of it is used."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from dit_lab.data.pictures import DataError
from dit_lab.data.rules import NUMBER, SWITCH, Rule, each, maybe, text, whole
from dit_lab.files import check_fields, json_object, read_json

INDEX = "latents.json"
VERSION = 3
AGAIN = "run the same encode command again, which writes what is missing"
# In bytes: of an index, for some 200,000 names of classes, and of a shard's header.
INDEX_BYTES, HEADER_BYTES = 2**22, 2**20
SIDE = whole(1, 2**16)
# What an index has to say of the latents (`encoding.about`), and what each may be.
ABOUT = {
    "vae": text(4096), "encoder_checksum": text(64), "split": text(256), "size": each(SIDE, 2, 2),
    "shape": each(SIDE, 3, 3), "distribution": SWITCH, "pictures": whole(1, 10**10),
    "pictures_checksum": whole(0, 2**32 - 1), "shard_size": whole(1, 10**10),
    "crop": maybe(text(64)),
}  # fmt: skip
SIZES = ("shape", "pictures", "shard_size")  # of these, what indices of all versions have
OBJECT = Rule(lambda x: isinstance(x, dict), "an object")
PARTS = {"version": whole(0, 10**6), "about": OBJECT, "names": each(text(1000), 2**20, least=0)}
HEADER = {"shard": whole(0, 10**10), "about": OBJECT, "sums": each(each(NUMBER, 2**16), 2, 2)}


def read_index(folder: Path) -> tuple[dict, list[str]]:
    """(about, class names) of a cache. Raises DataError."""
    path = folder / INDEX
    if not path.is_file():
        raise DataError(f"the latents in {folder} are not all there (no {INDEX}); {AGAIN}")
    try:
        index = read_json(path, INDEX_BYTES)
        check_fields(index, **PARTS)
        version, about = index["version"], index["about"]
        check_fields(about, **{name: ABOUT[name] for name in (ABOUT if version == VERSION else SIZES)})
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no index of latents ({error}); {AGAIN}") from error
    if version != VERSION:
        raise DataError(f"{path} is of version {version}; this dit_lab reads {VERSION}")
    return about, index["names"]


def opened_shard(folder: Path, shard: int, about: dict):
    """A shard's file and its header's per-channel sums. Raises DataError when it is not whole or not this set's."""
    path = shard_path(folder, shard)
    if not path.is_file():
        raise DataError(f"{path.name} is missing")
    file, header = with_header(path)
    parts = [(name, file.get_slice(name)) for name in file.keys()]  # noqa: SIM118
    there = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in parts}
    if header["about"] != about or header["shard"] != shard:
        raise DataError(f"{path.name} belongs to other latents")
    rows = (len(shard_range(shard, about)), 2, *about["shape"])
    kept = ("mean", "std") if about["distribution"] else ("mean",)
    if there != {**dict.fromkeys(kept, ("F16", rows)), "labels": ("I64", rows[:1])}:
        raise DataError(f"{path.name} does not hold the tensors that its header says")
    return file, header["sums"]


def with_header(path: Path):
    """A shard's file and what its header says: the shard's number, what it is `about`, and sums.

    Sizes are checked here, by safetensors, which compares its header with the file's length; contents are not read.
    Raises DataError.
    """
    try:
        with open(path, "rb") as start:
            if (length := int.from_bytes(start.read(8), "little")) > HEADER_BYTES:
                raise ValueError(f"its header has {length} bytes")
        file = safe_open(path, framework="pt")
        header = json_object(file.metadata()["dit_lab"])
        check_fields(header, **HEADER)
        return file, {name: header[name] for name in HEADER}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path.name} is truncated or damaged ({' '.join(str(error).split())[:100]})") from error


def shard_path(folder: Path, shard: int) -> Path:
    """The file of a shard."""
    return folder / f"shard-{shard:05d}.safetensors"


def shard_count(about: dict) -> int:
    """How many shards a cache has."""
    return -(-about["pictures"] // about["shard_size"])


def shard_range(shard: int, about: dict) -> range:
    """The numbers of the pictures in a shard."""
    start = shard * about["shard_size"]
    return range(start, min(start + about["shard_size"], about["pictures"]))
