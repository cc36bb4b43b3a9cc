"""What judges the models of an experiment: real pictures, a classifier that saw half of them, and unseen losses."""

from pathlib import Path

import torch

from dit_lab.commands.encode import encode_command
from dit_lab.data import Latents, open_codec, open_data
from dit_lab.diffusion import process_of
from dit_lab.evaluation import agreement, draw, everything, frechet_distance, judge, judge_for
from dit_lab.experiments.plan import Plan

MEASURED = "train_to_test_frechet"
REBUILT = "rebuilt_to_test_frechet"
TEST_IMAGES = 2_000


class Judge:
    """The real pictures of a plan, the classifier that saw their training part only, and what models learn from.

    That is `train` and `test`: the pictures themselves, or their latents, encoded once into `folder`.
    """

    def __init__(self, plan: Plan, size: int | None, folder: Path):
        self.plan = plan
        self.pictures = [open_data(plan.data, split=split, size=size) for split in ("train", "test")]
        train, test = self.pictures
        self.classifier, _ = judge_for(test, "test", lambda: train, folder)
        self.train, self.test, self.decode = *self.pictures, lambda samples: samples
        if plan.vae:
            self.train, self.test = (latents(plan, size, split, folder) for split in ("train", "test"))
            self.decode = open_codec(None, plan.vae, channels=self.train.shape[0]).decode
        self.real = judge(self.classifier, everything(self.pictures[1]))[1]

    def distance_of_real(self) -> float:
        """The Fréchet distance between real training and test pictures, the floor of all others."""
        return frechet_distance(judge(self.classifier, everything(self.pictures[0]))[1], self.real)

    def distance_of_rebuilt(self) -> float:
        """The same between test pictures and what the VAE makes of them, the floor for models of latents."""
        rebuilt = self.decode(self.test.batch(range(len(self.test)))[0])
        return frechet_distance(judge(self.classifier, rebuilt)[1], self.real)

    def figures(self, model) -> dict[str, float]:
        """The losses on unseen pictures, and what samples look like."""
        drawn, labels = draw(model, self.plan.samples, self.plan.sample_steps, 1.0, self.decode)
        seen, features = judge(self.classifier, drawn)
        distance = frechet_distance(features, self.real)
        return {**unseen_losses(model, self.test), "frechet": distance, "agreement": agreement(seen, labels)}


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
