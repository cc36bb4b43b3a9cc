"""What judges the models of an experiment: real pictures, a classifier that saw half of them, and unseen losses."""

from collections.abc import Callable
from pathlib import Path

import torch
from einops import reduce

from dit_lab.commands.encode import encode_command
from dit_lab.data import Latents, open_codec, open_data
from dit_lab.data.pictures import say
from dit_lab.data.pixels import shown
from dit_lab.data.splits import HALVES, named_splits, whole
from dit_lab.diffusion import process_of
from dit_lab.evaluation import Classifier, agreement, draw, everything, frechet_distance, judge, judge_for
from dit_lab.evaluation.features import reading
from dit_lab.evaluation.measuring import singular
from dit_lab.evaluation.reading import Reading, mistrust
from dit_lab.experiments.plan import Plan

MEASURED = "train_to_test_frechet"
REBUILT = "rebuilt_to_test_frechet"
ACCURACY, HELD_BACK = "judge_accuracy", "judge_held_back"
SPLITS = "splits"  # where they are not train and test
TEST_IMAGES = 2_000


class Judge:
    """The real pictures of a plan, the classifier that saw their training part only, and what models learn from.

    That is `train` and `test`: the pictures themselves, or their latents, encoded once into `folder`. Raises
    ValueError, before a model is trained, where its figures would say nothing: on too few pictures for the covariance
    of what it sees in them, and on a classifier that does not read real ones.
    """

    def __init__(self, plan: Plan, size: int | None, folder: Path):
        self.plan, self.size = plan, size
        check_enough(plan.samples, "ask for more --samples")
        self.splits = splits_of(plan.data)
        self.pictures = [open_data(plan.data, split=split, size=size) for split in self.splits]
        train, test = self.pictures
        for split, images in zip(self.splits, self.pictures, strict=True):
            check_enough(len(images), f"give --data whose split {split} has more")
        check_trusted(plan.data, len(test.names), Reading())
        self.classifier, _ = judge_for(test, self.splits[1], lambda: train, folder)
        seen, self.real = judge(self.classifier, everything(test))
        self.reading = reading(self.classifier, seen, test)
        check_trusted(plan.data, len(test.names), self.reading)
        self.train, self.test, self.decode = *self.pictures, lambda samples: samples
        if plan.vae:
            self.train, self.test = (latents(plan, size, split, folder) for split in self.splits)
            self.decode = open_codec(None, plan.vae, channels=self.train.shape[0]).decode

    def about(self) -> dict[str, float | int]:
        """What a reader of its figures must know of it, as results keep it among their settings."""
        rebuilt = {REBUILT: self.distance_of_rebuilt()} if self.plan.vae else {}
        read = {ACCURACY: self.reading.accuracy, HELD_BACK: self.reading.held_back}
        halved = {SPLITS: list(self.splits)} if self.splits == HALVES else {}
        return {MEASURED: self.distance_of_real(), **rebuilt, **read, **halved}

    def distance_of_real(self) -> float:
        """The Fréchet distance between real training and test pictures, the floor of all others."""
        return frechet_distance(judge(self.classifier, everything(self.pictures[0]))[1], self.real)

    def distance_of_rebuilt(self) -> float:
        """The same between test pictures and what the VAE makes of them, the floor for models of latents."""
        return self.of_rebuilt(self.decode)["rebuilt"]

    def of_rebuilt(self, decode: Callable) -> dict[str, float]:
        """What a decoder makes of the test pictures' latents: its distance to them, and their mean PSNR in dB."""
        rebuilt, real = decode(self.test.batch(range(len(self.test)))[0]), everything(self.pictures[1])
        error = reduce((rebuilt - real).square(), "n c h w -> n", "mean") / 4  # of pixels in [0, 1]
        distance = frechet_distance(judge(self.classifier, rebuilt)[1], self.real)
        return {"rebuilt": distance, "psnr": -10 * error.clamp(min=1e-10).log10().mean().item()}

    def figures(self, model) -> dict[str, float]:
        """The losses on unseen pictures, and what samples look like."""
        return {**unseen_losses(model, self.test), **self.of_samples(model, self.plan.sample_steps)}

    def of_samples(self, model, steps: int) -> dict[str, float]:
        """What samples of so many steps look like; their noise is always the same."""
        return self.seen(*draw(model, self.plan.samples, steps, 1.0, self.decode))

    def seen(self, pictures: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        """What pictures (`n c h w` in [-1, 1]) look like that were to show the labels (`n`)."""
        classes, features = judge(self.classifier, pictures)
        return {"frechet": frechet_distance(features, self.real), "agreement": agreement(classes, labels)}


def splits_of(data: str) -> tuple[str, str]:
    """What models learn from and what they are judged by: `train` and `test`, or a single split in two, and it is said.

    The halves are those that `evaluate` takes. Raises DataError.
    """
    splits = named_splits(data)
    if splits is None or not whole(splits):
        return "train", "test"
    say(
        f"{shown(data)} has a single split: a tenth of its pictures, at random but always the same ones, is held back "
        "to judge by, and models learn from the rest"
    )
    return HALVES


def check_enough(count: int, advice: str) -> None:
    """Raise ValueError on too few pictures for a Fréchet distance, which would tell their number."""
    if reason := singular(count, Classifier.WIDTH):
        raise ValueError(f"{reason}; {advice}")


def check_trusted(data: str, classes: int, reading: Reading) -> None:
    """Raise ValueError where a classifier of so many classes that reads so much of real pictures is no judge."""
    if reason := mistrust(reading, classes):
        raise ValueError(f"models of {shown(data)} cannot be judged: {reason}")


def latents(plan: Plan, size: int | None, split: str, folder: Path) -> Latents:
    """A split of the plan's pictures through its VAE, kept in `folder`; what is there already is not encoded again."""
    out = folder / f"latents-{split}"
    encode_command(data=plan.data, vae=plan.vae, out=out, split=split, size=size)
    return open_data(out, split=split)


@torch.no_grad()
def unseen_losses(model, images) -> dict[str, float]:
    """The averaged model's losses on unseen pictures, at evenly spread timesteps and always the same noise.

    Of latents, their means.
    """
    model.eval()
    process = process_of(model.config)
    random = torch.Generator().manual_seed(0)
    x0, y = images.batch(range(min(TEST_IMAGES, len(images))))
    eps = torch.randn(x0.shape, generator=random)
    i = torch.linspace(0, len(process.timesteps) - 1, len(x0)).long()[torch.randperm(len(x0), generator=random)]
    batches = zip(*(part.split(100) for part in (x0, i, y, eps)), strict=True)
    parts = [process.losses(model, *batch) for batch in batches]
    return {f"test_{name}": torch.cat([getattr(part, name) for part in parts]).mean().item() for name in ("mse", "vb")}
