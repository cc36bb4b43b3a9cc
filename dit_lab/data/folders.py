"""What a local folder is, by looking at it: tables that hold pictures, or pictures, with their splits.

The rules by which `datasets` reads splits and classes out of names are made for hubs: a class named `train`, a picture
named `test_shot.png` or a folder named `N[1]` make them leave data out in silence. Here all that is left out is said.
"""

import glob
import os
import re
from collections import Counter, deque
from pathlib import Path, PurePath

from dit_lab.data.picture_folders import METADATA, SPLITS, SUFFIXES, picture_splits
from dit_lab.data.pictures import say
from dit_lab.data.pixels import DataError, shown

# By what reads them; where there are several kinds, the first is taken.
TABLES = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}
SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}.*")
SPLIT = re.compile(rf"(?:^|[-._ 0-9])({'|'.join(SPLITS)})(?=[-._ 0-9]|$)", re.IGNORECASE)


def opened_folder(folder: Path) -> tuple[dict, list[Path] | None]:
    """A folder's data sets by split, and where files that they name may lie (None: these are its own pictures).

    Their columns are `image` and, with classes, `label`, or what its tables have.
    Says what of it is left out. Raises DataError on a folder that holds no data, or where it is not plain what.
    """
    files, left = look(folder)
    for suffix, module in TABLES.items():
        tables = [file for file in files if kind_of(file) == suffix]
        if tables:
            others = [file for file in files if kind_of(file) in (*TABLES, *SUFFIXES) and file not in set(tables)]
            return opened_tables(folder, module, tables, Counter({"of another kind": len(others)})), [folder]
    if not any(kind_of(file) in SUFFIXES for file in files):
        raise DataError(
            f"the folder {shown(folder)} holds no pictures and no parquet, arrow or tar files; unpack what is packed"
        )
    splits = picture_splits(folder, files, left)
    tell(folder, left)
    return splits, None


def kind_of(file: str) -> str:
    """A file's suffix; metadata of pictures is no table of them."""
    path = PurePath(file)
    return "" if path.name in METADATA else path.suffix.lower()


def look(folder: Path) -> tuple[list[str], Counter]:
    """The regular files in and below a folder, by their paths in it, and how many other things there are.

    Links are followed, but into no folder a second time, so that this ends.
    """
    files, left, known = [], Counter(), set()
    inside, linked = deque([""]), deque()
    while inside or linked:
        here = (inside or linked).popleft()
        about = os.stat(folder / here)
        if (about.st_dev, about.st_ino) in known:
            left["linked twice"] += 1
            continue
        known.add((about.st_dev, about.st_ino))
        for entry in sorted(os.scandir(folder / here), key=lambda entry: entry.name):
            file = os.path.join(here, entry.name)
            if entry.name.startswith("."):
                left["hidden"] += 1
            elif entry.is_dir():
                (linked if entry.is_symlink() else inside).append(file)
            elif entry.is_file():
                files.append(file)
            else:
                left["no regular file"] += 1
    return sorted(files), left


def tell(folder: Path, left: Counter) -> None:
    """Say what of a folder is left out, if anything is."""
    if counts := ", ".join(f"{count} {what}" for what, count in left.items() if count):
        say(f"left out of {shown(folder)}: {counts}")


def opened_tables(folder: Path, module: str, files: list[str], left: Counter) -> dict:
    """The data sets in a folder's tables, read by that module of `datasets`, by split."""
    import datasets

    splits = table_splits(files)
    left["that name no split"] = len(files) - sum(map(len, splits.values()))
    for split, parts in splits.items():
        homes = sorted({os.path.dirname(file) or "." for file in parts})
        if len(homes) > 1:
            raise DataError(
                f"the folder {shown(folder)} holds several sets with a split {shown(split)}, in {shown(homes[0])} and "
                f"{shown(homes[1])}; give the folder of one"
            )
    tell(folder, left)
    exact = {split: [str((folder / file).absolute()) for file in parts] for split, parts in splits.items()}
    if strange := next((file for parts in exact.values() for file in parts if "::" in file), None):
        raise DataError(f"datasets takes the :: in {shown(strange)} for two places; give it another name")
    return datasets.load_dataset(module, data_files={split: list(map(glob.escape, exact[split])) for split in exact})


def table_splits(files: list[str]) -> dict[str, list[str]]:
    """Files by the split that their names say; where none says one, all are `train`."""
    splits = {}
    for file in files:
        splits.setdefault(split_of(file), []).append(file)
    return {"train": files} if list(splits) == [None] else {name: files for name, files in splits.items() if name}


def split_of(file: str) -> str | None:
    """The split that a table's path says: `data/extra-00000-of-00002`, `test/0`, `mnist-train`; None: it says none."""
    *folders, name = PurePath(file).with_suffix("").parts
    shard = SHARD.fullmatch(name)
    if shard and folders[-1:] == ["data"]:
        return SPLITS.get(shard[1], shard[1])
    for part in (*folders, name):
        if found := SPLIT.search(part):
            return SPLITS[found[1].lower()]
    return shard and shard[1]
