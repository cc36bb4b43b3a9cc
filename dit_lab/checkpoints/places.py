"""Where a checkpoint is: a zoo name, a file or folder here, or a Hugging Face hub id, brought to files on this disk."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

from dit_lab.checkpoints.own import JSON, TENSORS
from dit_lab.checkpoints.reading import CheckpointError, listed, read_json
from dit_lab.program import quoted

STATE = "state.safetensors"
PATIENCE = 8  # seconds that the hub may take to say anything at all
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_FILE = re.compile(rf"({HUB_ID.pattern})/(.+)")
PICKLED = (".bin", ".pt", ".pth")
UNWANTED = ("*.fp16.*", "*non_ema*")
ENDINGS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".json")


@dataclass(frozen=True)
class Place:
    """The files with the tensors, and the JSON beside them: ours (`config`), or diffusers' four."""

    tensors: list[Path]
    config: dict = field(default_factory=dict)
    index: dict = field(default_factory=dict)
    scheduler: dict = field(default_factory=dict)
    vae: Path | None = None


def find(source: str, weights: str) -> Place:
    """The place that `source` names. A bare name is the zoo's before it is a folder's. Raises CheckpointError."""
    if source in zoo():
        return in_folder(zoo()[source], weights)
    path = Path(os.path.expanduser(source))
    if path.is_file():
        return Place([path], read_config(beside(path)))
    if path.is_dir():
        return in_folder(path, weights)
    if HUB_ID.fullmatch(source) and not source.endswith(ENDINGS):
        return in_folder(downloaded(source), weights)
    if HUB_FILE.fullmatch(source) and source.endswith(ENDINGS) and not Path(path.parts[0]).exists():
        return Place([path := downloaded_file(source)], read_config(beside(path)))
    if path.exists():
        raise CheckpointError(f"{quoted(source)} is neither a file nor a folder")
    known = get_close_matches(source, zoo(), n=3, cutoff=0.4) or sorted(zoo())
    hint = "" if "/" in source or path.suffix else f", and the zoo has no such model (nearest: {', '.join(known)})"
    raise CheckpointError(f"there is no file or folder {quoted(source)}{hint}")


def zoo() -> dict[str, Path]:
    """The checkpoints that ship with the package, by name."""
    return {path.name: path for path in Path(str(files("dit_lab.zoo"))).iterdir() if (path / TENSORS).is_file()}


def beside(path: Path) -> Path:
    """The JSON that belongs to a tensors' file: `model.safetensors` has config.json, `DiT.pt` has DiT.json."""
    return path.with_name(JSON) if path.name in (TENSORS, STATE) or is_diffusers(path) else path.with_suffix(".json")


def is_diffusers(path: Path) -> bool:
    """Whether a file is named as diffusers names its weights."""
    return path.name.startswith("diffusion_pytorch_model")


def read_config(path: Path) -> dict:
    """The JSON at `path`, empty without one."""
    return read_json(path) if path.is_file() else {}


def in_folder(folder: Path, weights: str) -> Place:
    """The checkpoint in a folder: a pipeline, a bare transformer, ours, or a single file. Raises CheckpointError."""
    if (folder / "model_index.json").is_file():
        return in_pipeline(folder)
    config = read_config(folder / JSON)
    if "_class_name" in config:
        return Place(diffusers_weights(folder), config)
    if weights == "model" and (folder / STATE).is_file():
        return Place([folder / STATE], config)
    if (folder / TENSORS).is_file():
        return Place([folder / TENSORS], config)
    endings = (".safetensors", ".pt", ".pth", ".ckpt")
    single = [path for path in sorted(folder.iterdir()) if path.suffix in endings and path.is_file()]
    if len(single) == 1:
        return Place(single, read_config(beside(single[0])))
    what = f"several, so name one: {listed([path.name for path in single])}" if single else "no checkpoint"
    raise CheckpointError(f"the folder {folder} holds {what}")


def in_pipeline(folder: Path) -> Place:
    """A diffusers pipeline's folder."""
    return Place(
        diffusers_weights(folder / "transformer"),
        read_config(folder / "transformer" / JSON),
        index=read_json(folder / "model_index.json"),
        scheduler=read_config(folder / "scheduler" / "scheduler_config.json"),
        vae=folder / "vae" if (folder / "vae" / JSON).is_file() else None,
    )


def diffusers_weights(folder: Path) -> list[Path]:
    """The file, or the shards that an index lists, of a transformer's folder. Raises CheckpointError."""
    for name in ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"):
        if (folder / name).is_file():
            return [folder / name]
        if (index := folder / f"{name}.index.json").is_file():
            table = read_json(index).get("weight_map")
            shards = sorted(set(map(str, table.values()))) if isinstance(table, dict) else []
            if missing := [shard for shard in shards if Path(shard).name != shard or not (folder / shard).is_file()]:
                raise CheckpointError(f"{index} names {listed(missing)}, not in its folder")
            if not shards:
                raise CheckpointError(f"{index} names no files (weight_map)")
            return [folder / shard for shard in shards]
    raise CheckpointError(f"the folder {folder} has no diffusion_pytorch_model.safetensors (or .bin)")


def downloaded(repository: str, safe: Sequence[str] = ("*.json", "*.safetensors")) -> Path:
    """The newest snapshot of a hub repository's files; pickled weights only of a part that has no others.

    Raises CheckpointError, before such are fetched, when a part has several and nothing says which.
    """
    silence = silence_on(repository)
    folder = fetched(repository, safe, silence)
    parts = {path.parent for path in folder.rglob(JSON)} or {folder}
    if bare := [part for part in parts if not any(part.glob("*.safetensors"))]:
        pickled = [name for part in bare for name in pickled_in(repository, part, part.relative_to(folder), silence)]
        folder = fetched(repository, [*safe, *pickled], silence)
    if not any(path.suffix in ENDINGS and path.suffix != ".json" for path in folder.rglob("*.*")):
        raise CheckpointError(f"{quoted(repository)}: the repository has no file that a checkpoint could be in")
    return folder


def pickled_in(repository: str, folder: Path, part: Path, silence: str | None) -> list[str]:
    """The pickled files of a part of a repository, one, or the shards that an index in `folder` names."""
    try:
        if silence is not None:
            raise CheckpointError(unreached(repository, silence))
        names = [Path(name) for name in sorted(from_hub(repository, lambda hub: hub.list_repo_files(repository)))]
    except CheckpointError:
        names = [part / path.name for path in folder.iterdir()]  # what was fetched before
        if not any(name.suffix in PICKLED for name in names):
            raise
    wanted = [n for n in names if n.parent == part and n.suffix in PICKLED and not any(map(n.match, UNWANTED))]
    if len(wanted) > 1 and not any(folder.glob("*.index.json")):
        files = listed([name.as_posix() for name in wanted])
        raise CheckpointError(
            f"{quoted(repository)} holds several, so name one, such as {repository}/{wanted[0]}: {files}"
        )
    return [name.as_posix() for name in wanted]


def downloaded_file(source: str) -> Path:
    """One file of a hub repository, `owner/name/path`, and the JSON beside it. Raises CheckpointError."""
    repository, name = HUB_FILE.fullmatch(source).groups()
    try:
        path = fetched(repository, [name, beside(Path(name)).as_posix()], silence_on(repository)) / name
    except CheckpointError as error:
        raise CheckpointError(f"there is no file or folder {quoted(source)} here, and on the hub {error}") from error
    if not path.is_file():
        raise CheckpointError(
            f"there is no file or folder {quoted(source)} here, nor {name} in the hub's repository {repository}"
        )
    return path


def fetched(repository: str, patterns: Sequence[str], silence: str | None) -> Path:
    """Files of a hub repository, from the cache where they are there, and from there alone where the hub is silent.

    What breaks off is continued.
    """
    options = dict(allow_patterns=list(patterns), ignore_patterns=list(UNWANTED), local_files_only=silence is not None)
    return Path(from_hub(repository, lambda hub: hub.snapshot_download(repository, **options), silence))


def silence_on(repository: str) -> str | None:
    """Why the hub says nothing of a repository; None where it answers, if only to refuse, within `PATIENCE` seconds.

    Asked in a thread of its own, since nothing else bounds the time that looking up the hub's address takes.
    """
    said = Queue()
    Thread(target=lambda: said.put(answer(repository)), daemon=True).start()
    try:
        return said.get(timeout=PATIENCE)
    except Empty:
        return f"no answer in {PATIENCE} seconds"


def answer(repository: str) -> str | None:
    """What kept the hub from answering; None where it did, or where there is no library to ask it with."""
    try:
        from huggingface_hub import model_info
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        return None
    try:
        model_info(repository, revision="main", timeout=PATIENCE)  # the first that a download asks, too
    except HfHubHTTPError:  # an answer all the same
        return None
    except Exception as error:  # of the network's, which are many
        return said_by(error)
    return None


def said_by(error: Exception) -> str:
    """The first line of an error's message, its length bounded."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def unreached(repository: str, why: str) -> str:
    """The sentence for a hub that gives nothing."""
    way = "try again, or give the path of a local folder"
    return f"{quoted(repository)}: the hub could not be reached, or broke off ({why}); {way}"


def from_hub(repository: str, call: Callable, silence: str | None = None):
    """What `call` gets from huggingface_hub; where the hub is known to be silent, `silence` is why.

    Raises CheckpointError when the hub has no such repository, keeps it behind a login, or cannot be reached.
    """
    try:
        import huggingface_hub
        from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError
    except ImportError as error:
        raise CheckpointError(
            f"there is no folder {quoted(repository)}, and no huggingface_hub to look further"
        ) from error
    try:
        return call(huggingface_hub)
    except GatedRepoError:
        reason = "the hub asks for a login: run `hf auth login`, or download it and give the folder"
    except RepositoryNotFoundError:
        reason = "neither a file or folder here nor a repository of the hub (or a private one: `hf auth login`)"
    except (OSError, ValueError, RuntimeError, HTTPError) as error:
        raise CheckpointError(unreached(repository, silence or said_by(error))) from error
    raise CheckpointError(f"{quoted(repository)}: {reason}")
