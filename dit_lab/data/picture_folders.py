"""A local folder of pictures: which of its subfolders are splits and which classes, and the labels of a metadata file.

The convention of metadata is that of `datasets`: a file `metadata.csv`, `.jsonl` or `.parquet` beside the pictures,
with a column `file_name` and others.
"""

import os
from collections import Counter
from pathlib import Path, PurePath

from dit_lab.data.pixels import DataError, shown

SUFFIXES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpf", ".jpx", ".avif", ".qoi", ".tga", ".ico", ".pcx",
)  # fmt: skip
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
LABEL_COLUMNS = ("label", "labels", "cls", "fine_label")
SPLITS = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "test": "test", "testing": "test", "evaluation": "test", "eval": "test",
}  # fmt: skip


def picture_splits(folder: Path, files: list[str], left: Counter) -> dict:
    """Data sets of a folder's pictures by split, from its regular files; `left` counts what is left out of them.

    Labels are those of a metadata file, or the folders that the pictures lie in, or there are none.
    """
    pictures = [file for file in files if PurePath(file).suffix.lower() in SUFFIXES]
    splits, read = {}, 0
    for name, root in split_roots(folder, pictures, left).items():
        inside = below(root, pictures)
        metadata = [file for file in below(root, files) if PurePath(file).name in METADATA]
        if labels := labels_told(folder, metadata):
            splits[name], read = with_labels(labels, inside, left), read + len(metadata)
        else:
            splits[name] = with_classes(folder, root, inside, left)
    left["no picture"] = len(files) - len(pictures) - read
    return {name: as_dataset(folder, split) for name, split in splits.items()}


def below(root: str, files: list[str]) -> list[str]:
    """Those of the files that lie in a subfolder, or all."""
    return [file for file in files if not root or file.startswith(root + os.sep)]


def split_roots(folder: Path, pictures: list[str], left: Counter) -> dict[str, str]:
    """The subfolder of each split, or `{"train": ""}`. Raises DataError where it is not plain what is a split.

    `train/` and `test/`, and others with the name of a split, are splits where they are all that holds pictures.
    """
    tops = {top for top, *below in map(parts, pictures) if below}
    named = sorted(top for top in tops if top.lower() in SPLITS)
    splits = {SPLITS[top.lower()]: top for top in named}
    if not splits.keys() & {"train", "test"}:
        return {"train": ""}
    if len(named) == len(tops):
        if doubled := [top for top in named if splits[SPLITS[top.lower()]] != top]:
            other = splits[SPLITS[doubled[0].lower()]]
            raise DataError(f"{doubled[0]} and {other} in {shown(folder)} name one split; put their pictures together")
        left["beside the splits"] = sum(len(parts(picture)) == 1 for picture in pictures)
        return splits
    if deep := next((top for top, *below in map(parts, pictures) if top in named and len(below) > 1), None):
        other = shown(min(tops - set(named)))
        raise DataError(
            f"{deep} in {shown(folder)} holds folders of its own, as a split does, but {other} is none; give the path "
            f"of {deep}, or move {other} away"
        )
    return {"train": ""}


def parts(file: str) -> tuple[str, ...]:
    """The folders and the name of a path."""
    return PurePath(file).parts


def with_classes(folder: Path, root: str, pictures: list[str], left: Counter) -> dict[str, str | None]:
    """Pictures with the subfolder of `root` they lie in, their class, if there are any subfolders; else with None.

    Then what lies beside them has no class and is left out. Raises DataError where that is most of the pictures.
    """
    inside = {picture: parts(picture)[1 if root else 0 :] for picture in pictures}
    classes = {picture: below[0] for picture, below in inside.items() if len(below) > 1}
    if not classes:
        return dict.fromkeys(pictures)
    if (loose := len(pictures) - len(classes)) > len(classes):
        raise DataError(
            f"{loose} pictures in {shown(folder / root)} lie beside its subfolders, which are the classes and hold "
            f"{len(classes)}; move either away"
        )
    left["beside the classes' folders"] += loose
    return classes


def labels_told(folder: Path, metadata: list[str]) -> dict:
    """Each picture's label as metadata files say it; nothing where one has no such columns, or does not open."""
    import pyarrow

    labels = {}
    for file in metadata:
        try:
            rows = read_metadata(folder / file)
            names = rows["file_name"].to_pylist()
            values = rows[next(column for column in LABEL_COLUMNS if column in rows.column_names)].to_pylist()
        except (ValueError, KeyError, StopIteration, OSError, pyarrow.ArrowException):  # another thing of this name
            return {}
        places = [os.path.normpath(os.path.join(os.path.dirname(file), str(name))) for name in names]
        labels |= dict(zip(places, values, strict=True))
    return labels


def read_metadata(path: Path):
    """The arrow table in a metadata file. Raises ValueError, OSError or ArrowException on a file that is none."""
    import pandas
    import pyarrow.json
    import pyarrow.parquet

    if path.suffix == ".csv":
        return pyarrow.Table.from_pandas(pandas.read_csv(path))
    return (pyarrow.json.read_json if path.suffix == ".jsonl" else pyarrow.parquet.read_table)(path)


def with_labels(labels: dict, pictures: list[str], left: Counter) -> dict:
    """Pictures with their labels, in that order; those without are left out. Raises DataError on a missing picture."""
    if missing := labels.keys() - set(pictures):
        raise DataError(f"the metadata names {shown(min(missing))}, which is no picture in the folder")
    left["without a row in the metadata"] += len(pictures) - len(labels)
    return labels


def as_dataset(folder: Path, labels: dict):
    """A data set of pictures, left where they are, with their labels if there are any."""
    import datasets

    paths = [str(folder.absolute() / picture) for picture in labels]
    try:
        "".join(paths).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"a file in {shown(folder)} has a name that is no UTF-8; give it another") from error
    pictures = datasets.Dataset.from_dict({"image": paths}, features=datasets.Features({"image": datasets.Image()}))
    told = any(label is not None for label in labels.values())
    return pictures.add_column("label", list(labels.values())) if told else pictures
