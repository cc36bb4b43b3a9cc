"""What a local folder is: its pictures, classes and splits, and that nothing of it is left out without a word."""

import io
import os
import socket
import tarfile

import datasets
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from dit_lab.data import DataError, open_data
from dit_lab.data import images as data


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """Of `datasets`, the cache alone, and never the hub."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def png(shade=0):
    Image.fromarray(np.full((2, 2), shade, np.uint8)).save(buffer := io.BytesIO(), format="PNG")
    return buffer.getvalue()


def fill(folder, *names):
    """Write grey pictures, the n-th of shade n, and others by their content; the folder."""
    for shade, name in enumerate(names):
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(png(shade))
    return folder


def table(folder, name, shades, **columns):
    """Write a parquet file of pictures of these shades, with other columns."""
    stored = [shade if isinstance(shade, dict) else {"bytes": png(shade), "path": None} for shade in shades]
    made = datasets.Dataset.from_dict(dict(image=stored) | columns)
    made = made.cast_column("image", datasets.Image())
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    # Not `to_parquet`, which reads the files that records name.
    pyarrow.parquet.write_table(made.data.table.cast(made.features.arrow_schema), folder / name)
    return folder


def shades(images):
    return images.pixels[range(len(images))][:, 0, 0, 0].tolist()


def said(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("dit_lab: ")]


def test_a_picture_is_trained_on_whatever_its_name(tmp_path, capsys):
    animals = [f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(10)]
    images = open_data(fill(tmp_path / "zoo", *animals, "cat/my_train_1.png", "dog/test_shot.png"))
    assert len(images) == 22 and images.names == ["cat", "dog"]
    assert np.bincount(images.labels).tolist() == [11, 11] and not said(capsys)


@pytest.mark.parametrize("kinds", [("train", "bus"), ("dev", "ops"), ("eval", "test_bench"), ("cat", "test", "val")])
def test_a_class_may_have_a_splits_name(kinds, tmp_path):
    images = open_data(fill(tmp_path / "zoo", *[f"{kind}/0.png" for kind in kinds]))
    assert images.names == sorted(kinds) and images.labels.tolist() == list(range(len(kinds)))


def test_one_subfolder_is_one_class_and_none_is_none(tmp_path):
    assert open_data(fill(tmp_path / "one", "cat/0.png", "cat/1.png")).names == ["cat"]
    assert open_data(fill(tmp_path / "dev", "dev/0.png")).names == ["dev"]
    plain = fill(tmp_path / "none", "0.png", "test_1.png")
    assert len(open_data(plain, labelled=False)) == 2
    with pytest.raises(DataError, match="no column with a label .*which has image; to train without classes"):
        open_data(plain)


def test_of_nested_folders_the_first_is_the_class(tmp_path):
    images = open_data(fill(tmp_path / "zoo", "cat/0.png", "cat/big/1.png", "dog/small/grey/2.png"))
    assert images.names == ["cat", "dog"] and shades(images) == [0, 1, 2] and images.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize("splits", [("train", "test"), ("Train", "val", "test"), ("train",)])
def test_splits_that_hold_classes_are_splits_and_number_them_alike(splits, tmp_path):
    names = [f"{split}/{kind}/{split}_0.png" for split in splits for kind in ("cat", "dog", "eel")]
    zoo = fill(tmp_path / "zoo", *names, f"{splits[0]}/ape/0.png")
    for split in map(str.lower, splits):
        images = open_data(zoo, split={"val": "validation"}.get(split, split))
        assert images.names == ["ape", "cat", "dog", "eel"] and images.labels.max() == 3
        assert len(images) == (4 if split == "train" else 3)


def test_splits_of_nothing_but_pictures_are_splits(tmp_path, capsys):
    zoo = fill(tmp_path / "zoo", "train/test_0.png", "train/1.png", "test/train_2.png")
    (zoo / "README.md").write_text("of animals")
    assert shades(open_data(zoo, labelled=False)) == [1, 0]
    assert shades(open_data(zoo, split="test", labelled=False)) == [2]
    assert shades(open_data(zoo, split="train[:1]+test", labelled=False)) == [1, 2]
    assert said(capsys) == [f"dit_lab: left out of {zoo}: 1 no picture"] * 3
    with pytest.raises(DataError, match="zoo has no split validation; it has test, train"):
        open_data(zoo, split="validation")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (
            ["train/cat/0.png", "test/cat/1.png", "extra/2.png"],
            "in .*zoo holds folders of its own.* but extra is none",
        ),
        (["train/0.png", "val/1.png", "dev/2.png"], "dev and val in .*zoo name one split"),
        (["cat/0.png", "1.png", "2.png"], "2 pictures in .*zoo lie beside its subfolders.* hold 1"),
        (["train/cat/0.png", "train/1.png", "train/2.png"], "2 pictures in .*train lie beside its subfolders"),
    ],
)
def test_what_is_not_plain_is_refused(names, told, tmp_path):
    with pytest.raises(DataError, match=told):
        open_data(fill(tmp_path / "zoo", *names))


def test_what_is_left_out_is_counted_and_said(tmp_path, capsys):
    zoo = fill(tmp_path / "zoo", "cat/0.png", "dog/1.PNG", "dog/2.jpeg", "dog/.3.png", ".git/4.png", "contact.png")
    (zoo / "dog" / "notes.txt").write_text("both good")
    (zoo / "labels.csv").write_text("file,label")
    (zoo / "empty").mkdir()
    os.mkfifo(zoo / "cat" / "5.png")
    with socket.socket(socket.AF_UNIX) as listening:
        os.chdir(zoo / "cat")  # a socket's path is short
        listening.bind("6.png")
        os.chdir("/")
        images = open_data(zoo)
    assert images.names == ["cat", "dog"] and shades(images) == [0, 1, 2]
    assert said(capsys) == [
        f"dit_lab: left out of {zoo}: 2 hidden, 2 no regular file, 1 beside the classes' folders, 2 no picture"
    ]


@pytest.mark.parametrize("name", ["N*", "N[1]", "N?", "a b", "Ä", "{zoo}", "it's", 'a"b'])
def test_a_folders_name_is_no_pattern(name, tmp_path):
    fill(tmp_path / "N1", "cat/0.png", "dog/1.png", "eel/2.png")
    table(tmp_path / "N1", "deep/train-00000-of-00001.parquet", [0, 1, 2])
    assert open_data(fill(tmp_path / name, f"{name}/0.png", f"N1/{name}.png")).names == sorted([name, "N1"])
    assert shades(open_data(table(tmp_path / f"{name} ", f"train {name}.parquet", [7]), labelled=False)) == [7]


def test_what_datasets_would_take_for_two_places_is_refused_where_it_reads(tmp_path):
    assert len(open_data(fill(tmp_path / "a::b", "c::d.png"), labelled=False)) == 1
    with pytest.raises(DataError, match="datasets takes the :: in .* for two places; give it another name"):
        open_data(table(tmp_path / "a::b", "train.parquet", [7]))


def test_links_are_followed_into_no_folder_twice(tmp_path, capsys):
    elsewhere = fill(tmp_path / "elsewhere", "a.png", "b.png")
    zoo = fill(tmp_path / "zoo", "cat/0.png")
    (zoo / "dog").symlink_to(elsewhere)
    (zoo / "cat" / "one.png").symlink_to(elsewhere / "b.png")
    for number in range(40):
        (zoo / "cat" / f"again{number}").symlink_to(zoo)
    (zoo / "cat" / "gone.png").symlink_to("nowhere.png")
    images = open_data(zoo)
    assert images.names == ["cat", "dog"] and images.labels.tolist() == [0, 0, 1, 1]
    assert said(capsys) == [f"dit_lab: left out of {zoo}: 1 no regular file, 40 linked twice"]


def test_a_name_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "zoo").mkdir()
    with open(os.fsencode(tmp_path / "zoo") + b"/\xff.png", "wb") as file:
        file.write(png())
    with pytest.raises(DataError, match="a file in .*zoo has a name that is no UTF-8"):
        open_data(tmp_path / "zoo", labelled=False)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(("labels", "names"), [(["eel", "ape"], ["ape", "eel"]), ([7, 3], ["3", "7"])])
def test_a_metadata_file_says_the_labels(suffix, labels, names, tmp_path, capsys):
    zoo, rows = fill(tmp_path / "zoo", "0.png", "in/1.png", "2.png"), {"file_name": ["in/1.png", "0.png"]}
    rows = datasets.Dataset.from_dict(rows | {"label": labels})
    {"csv": rows.to_csv, "jsonl": rows.to_json, "parquet": rows.to_parquet}[suffix](str(zoo / f"metadata.{suffix}"))
    images = open_data(zoo)
    assert shades(images) == [1, 0] and images.names == names and images.labels.tolist() == [1, 0]
    assert said(capsys) == [f"dit_lab: left out of {zoo}: 1 without a row in the metadata"]


@pytest.mark.parametrize("content", ["file_name,text\n0.png,grey", "", "\x00\xff", "label\n3"])
def test_metadata_that_says_no_labels_is_left_out(content, tmp_path, capsys):
    zoo = fill(tmp_path / "zoo", "cat/0.png", "dog/1.png")
    (zoo / "metadata.csv").write_text(content)
    assert open_data(zoo).names == ["cat", "dog"]
    assert said(capsys) == [f"dit_lab: left out of {zoo}: 1 no picture"]


@pytest.mark.parametrize("name", ["../out.png", "/etc/x.png", "gone.png", "file:///out.png"])
def test_metadata_names_only_pictures_in_the_folder(name, tmp_path):
    fill(tmp_path, "out.png", "zoo/0.png")
    (tmp_path / "zoo" / "metadata.csv").write_text(f"file_name,label\n0.png,a\n{name},b\n")
    with pytest.raises(DataError, match="the metadata names .*, which is no picture in the folder"):
        open_data(tmp_path / "zoo")


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"),
        ("data/train-00000-of-00001-0a1b2c.parquet", "data/test-00000-of-00001-0a1b2c.parquet"),
        ("train.parquet", "test.parquet"),
        ("plain_text/train/0000.parquet", "plain_text/test/0000.parquet"),
        ("digits_train.parquet", "digits-test.parquet"),
    ],
)
def test_tables_are_split_as_their_names_say(train, test, tmp_path, capsys):
    zoo = table(table(tmp_path / "zoo", train, [1, 2], label=["a", "b"]), test, [3], label=["b"])
    assert shades(open_data(zoo)) == [1, 2] and shades(open_data(zoo, split="test")) == [3]
    assert open_data(zoo, split="test").names == ["a", "b"] and not said(capsys)


def test_a_split_of_any_name_is_asked_for_by_it(tmp_path):
    zoo = table(table(tmp_path, "data/extra-00000-of-00001.parquet", [5]), "data/train-00000-of-00001.parquet", [6])
    assert shades(open_data(zoo, split="extra", labelled=False)) == [5]


def test_tables_whose_names_say_no_split_are_all_to_train_on(tmp_path, capsys):
    zoo = table(table(tmp_path / "zoo", "0000.parquet", [1]), "0001.parquet", [2])
    assert shades(open_data(zoo, labelled=False)) == [1, 2] and not said(capsys)
    fill(table(zoo, "test.parquet", [3]), "seen.png")
    assert shades(open_data(zoo, split="test", labelled=False)) == [3]
    assert said(capsys) == [f"dit_lab: left out of {zoo}: 1 of another kind, 2 that name no split"]


def test_several_sets_in_one_folder_are_refused(tmp_path):
    zoo = table(table(tmp_path / "zoo", "small/train-0.parquet", [1]), "large/train-0.parquet", [2])
    with pytest.raises(DataError, match="zoo holds several sets with a split train, in large and small; give"):
        open_data(zoo)


def test_arrow_and_tar_files_open_too(tmp_path):
    made = datasets.Dataset.from_dict({"image": [{"bytes": png(9), "path": None}], "label": [0]})
    datasets.DatasetDict(test=made.cast_column("image", datasets.Image())).save_to_disk(tmp_path / "saved")
    assert shades(open_data(tmp_path / "saved", split="test")) == [9]
    (tmp_path / "web").mkdir()
    with tarfile.open(tmp_path / "web" / "train-0.tar", "w") as tar:
        for name, content in ("a.png", png(8)), ("a.cls", b"3"):
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    assert shades(open_data(tmp_path / "web")) == [8] and open_data(tmp_path / "web").names == ["3"]


@pytest.mark.parametrize("name", ["notes.txt", "all.zip", "rows.csv", ".hidden.png"])
def test_a_folder_without_data_is_one_sentence(name, tmp_path):
    fill(tmp_path, f"zoo/{name}")
    with pytest.raises(DataError, match="zoo holds no pictures and no parquet, arrow or tar files"):
        open_data(tmp_path / "zoo")


@pytest.mark.parametrize("name", ["imagefolder", "csv", "json", "text", "parquet", "arrow", "webdataset"])
def test_a_kind_of_file_is_no_data_set_but_a_folder_of_that_name_is(name, tmp_path, monkeypatch):
    monkeypatch.chdir(fill(tmp_path, "cat/0.png", "dog/1.png"))
    with pytest.raises(DataError, match=f"there is no folder {name}, and {name} is a kind of file, no data set"):
        open_data(name)
    fill(tmp_path / name, "eel/0.png")
    assert open_data(name).names == ["eel"]


@pytest.mark.parametrize("lazy", [False, True])
def test_a_record_that_names_a_path_is_read_only_in_the_sets_own_folder(lazy, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "MEMORY_LIMIT", 0 if lazy else 2**30)
    zoo = fill(tmp_path / "zoo", "in/0.png", "in/1.png")
    named = [{"bytes": None, "path": path} for path in (str(zoo / "in" / "1.png"), "in/0.png")]
    assert shades(open_data(table(zoo, "train.parquet", named), labelled=False)) == [1, 0]


@pytest.mark.parametrize("outside", ["{zoo}/../out.png", "../out.png", "{zoo}/link.png", "/etc/x.png", "{zoo}2/0.png"])
def test_a_record_that_names_a_path_elsewhere_is_refused(outside, tmp_path):
    fill(tmp_path, "out.png", "zoo2/0.png")
    zoo = table(tmp_path / "zoo", "train.parquet", [0, {"bytes": None, "path": outside.format(zoo=tmp_path / "zoo")}])
    (zoo / "link.png").symlink_to(tmp_path / "out.png")
    with pytest.raises(DataError, match="^picture 1 is not in the data set, which only names .*outside its own folder"):
        open_data(zoo, labelled=False)


def test_of_a_hubs_set_only_files_that_came_with_it_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    own, other = (tmp_path / "hub" / f"datasets--a--{name}" / "blobs" / "0.png" for name in ("shapes", "shapes2"))
    for path in own, other:
        fill(path.parent, path.name)

    def hub(*paths):
        made = datasets.Dataset.from_dict({"image": list(map(str, paths))}).cast_column("image", datasets.Image())
        monkeypatch.setattr(datasets, "load_dataset", lambda _: datasets.DatasetDict(train=made))
        return open_data("a/shapes", labelled=False, split="train[1:]")

    assert len(hub(other, own, own)) == 2
    with pytest.raises(DataError, match="outside its own folder"):
        hub(own, own, other)


def test_a_record_that_names_no_regular_file_does_not_decode(tmp_path):
    zoo = table(tmp_path / "zoo", "train.parquet", [0, {"bytes": None, "path": "pipe.png"}])
    os.mkfifo(zoo / "pipe.png")
    with pytest.raises(DataError, match=r"picture 1 \(pipe.png\) does not decode \(FileNotFoundError\)"):
        open_data(zoo, labelled=False)


def test_a_file_name_cannot_break_a_sentence(tmp_path):
    hostile = {"bytes": b"no picture", "path": "\x1b[31m\n" + "x" * 10_000}
    with pytest.raises(DataError, match="^picture 0 .* does not decode") as caught:
        open_data(table(tmp_path / "zoo", "train.parquet", [hostile]), labelled=False)
    assert len(str(caught.value)) < 300 and str(caught.value).isprintable()
