"""`python -m dit_lab.zoo.judge --data ylecun/mnist --out dit_lab/zoo/judges/mnist28.safetensors`: a judge to ship."""

from pathlib import Path

from dit_lab.data import open_data
from dit_lab.evaluation import everything, judge, train_classifier
from dit_lab.evaluation.features import keep, recipe_for
from dit_lab.evaluation.reading import reading_in
from dit_lab.files import make_folder, writable
from dit_lab.program import run


def judge_command(*, data: str, out: Path, size: int | None = None, epochs: int | None = None, seed: int = 0) -> None:
    """Train a small network on a data set's training pictures and write it, with its accuracy on the test pictures.

    Args:
        data: A data set with a train and a test split: a hub id or a local folder.
        out: The file to write; in dit_lab/zoo/judges it ships with the package.
        size: Crop pictures to their middle square and resize it to this side (default: as they are).
        epochs: Passes over the training pictures (default: 4 for grey ones, 8 for colour).
        seed: Fixes the first weights and the order.
    """
    writable(out)
    splits = {split: open_data(data, split=split, size=size) for split in ("train", "test")}
    train, test = splits.values()
    model = train_classifier(train, epochs=epochs, seed=seed)
    reading = reading_in(judge(model, everything(test))[0], test.labels_shown)
    make_folder(out.parent)
    about = {
        "data": data.rstrip("/").rpartition("/")[2], "shape": list(train.shape), "classes": train.names,
        "splits": {split: images.fingerprint for split, images in splits.items()}, **reading.known,
        "epochs": epochs or recipe_for(train.shape[0]).epochs, "seed": seed,
    }  # fmt: skip
    keep(out, model, about)
    print(f"{out}: {reading.accuracy:.2%} of {len(test):,} test pictures")


if __name__ == "__main__":
    run(judge_command, "dit_lab.zoo.judge")
