"""What a data set is parted into: the splits of a folder or a hub id, cuts of them, a tenth of a single one."""

import os
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dit_lab.data.folders import opened_folder
from dit_lab.data.latents import is_cache
from dit_lab.data.picture_folders import LABEL_COLUMNS
from dit_lab.data.pictures import say
from dit_lab.data.pixels import DataError, shown
from dit_lab.data.shipped import SETS

NAMED = 5
HALVES = REST, TENTH = "rest", "tenth"


def opened_splits(source: str) -> tuple[dict, Sequence[Path] | None]:
    """The data sets of a folder or a hub id by split, and where files that they name may lie, as `Encoded` takes it.

    Raises DataError; what looks like a path never goes to the hub, nor what `datasets` calls a kind of file, as which
    it would open the current folder.
    """
    folder = Path(os.path.expanduser(source))
    if folder.is_dir():
        with explained(f"the folder {shown(source)} does not open as a data set"):
            return opened_folder(folder)
    if folder.exists():
        raise DataError(f"{shown(source)} is a file; give the folder it lies in")
    if source.count("/") > 1 or source.startswith(("/", ".", "~")) or source.endswith("/") or "\\" in source:
        raise DataError(f"there is no folder {shown(source)}")
    from datasets import config, load_dataset
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES as kinds
    from huggingface_hub.constants import HF_HUB_CACHE

    if source in kinds:
        raise DataError(f"there is no folder {source}, and {source} is a kind of file, no data set; give a folder")
    homes = [Path(HF_HUB_CACHE, f"datasets--{source.replace('/', '--')}"), Path(config.DOWNLOADED_DATASETS_PATH)]
    elsewhere = "without the hub, give a local folder of parquet files, or of pictures with a subfolder a class"
    with explained(f"there is no folder {shown(source)}, and as a hub id it does not open", elsewhere):
        return load_dataset(source), homes


@contextmanager
def explained(what: str, advice: str = ""):
    """Around opening a data set: whatever `datasets`, its file formats and its network raise becomes a DataError."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise DataError("; ".join(filter(None, (f"{what}: {shown(reason)}", advice)))) from error


def part(splits: dict, split: str, source: str):
    """One of the splits, or what is cut out of them: `train[:100]`, `train+test`, of a single one `rest`, `tenth`.

    Raises DataError naming those there are.
    """
    import datasets

    there = {**splits, **(halves(splits) if any(name in split for name in HALVES) else {})}
    try:
        wanted = datasets.ReadInstruction.from_spec(split).to_absolute({name: len(there[name]) for name in there})
    except (ValueError, AssertionError) as error:
        raise DataError(f"{shown(source)} has no split {shown(split)}; it has {told(splits)}") from error
    return datasets.concatenate_datasets([there[cut.splitname].select(range(cut.from_, cut.to)) for cut in wanted])


def whole(splits: dict) -> bool:
    """Whether a set has a single split, and that is none of the halves of one."""
    return len(splits) == 1 and not set(splits) & set(HALVES)


def told(splits: dict) -> str:
    """The names of the splits in a sentence, and, of a single one, how it is halved."""
    names = ", ".join(map(shown, list(splits)[:NAMED]))
    if not whole(splits):
        return names
    return f"{names}; --split {TENTH} is a tenth of it, at random but always the same one, and --split {REST} the rest"


def halves(splits: dict) -> dict:
    """A tenth of a set's only split and the rest by name, nothing of a set with several, or with one of these names.

    The tenth has as near as can be its share of each class, and depends on nothing but the order of the pictures'
    labels: which seed and which machine make no difference, nor whether labels are asked for.
    """
    if not whole(splits):
        return {}
    [only] = splits.values()
    tenth = tenth_of(values_of(only, name) if (name := label_column(only)) else [None] * len(only))
    rest = np.setdiff1d(np.arange(len(only)), tenth)
    return {REST: only.select(rest), TENTH: only.select(tenth)}


def tenth_of(values: list) -> np.ndarray:
    """The places of a tenth of so many pictures, at least one, spread over the values of their labels: `n -> m`."""
    # The legacy generator: its numbers are promised to stay what they are in all of numpy's versions.
    order = np.random.RandomState(0).permutation(len(values))
    _, classes = np.unique([str(value) for value in values], return_inverse=True)
    order = order[np.argsort(classes[order], kind="stable")]
    return np.sort(order[min(4, len(order) - 1) :: 10])


def label_column(dataset) -> str | None:
    """The name of the column that holds a data set's labels; None where there is none."""
    return next((name for name in LABEL_COLUMNS if name in dataset.features), None)


def values_of(dataset, name: str) -> list:
    """What is in a column, as Python's values."""
    return dataset.select_columns([name]).with_format("arrow")[:][name].to_pylist()


def named_splits(source: str | Path) -> dict | None:
    """The data sets of a folder or hub id by split; None of what is known to have train and test. Raises DataError."""
    if str(source) == "digits" or str(source) in SETS or is_cache(Path(os.path.expanduser(source))):
        return None
    return opened_splits(str(source))[0]


def judged_splits(source: str | Path, asked: str | None = None) -> tuple[str, str]:
    """(what a judge learns from, what samples are compared with) of a data set: `train` and what is `asked` for.

    Unasked that is `test`; a set with another split alone is halved, and it is said. Raises DataError.
    """
    if asked is not None:
        return REST if TENTH in asked else "train", asked
    splits = named_splits(source)
    if splits is None or len(splits) > 1 or "test" in splits:
        return "train", "test"
    say(
        f"{shown(source)} has no split test: samples are compared with a tenth of its pictures, at random but "
        f"always the same ones (--split {TENTH}); train with --split {REST}, or the model has seen them"
    )
    return HALVES
