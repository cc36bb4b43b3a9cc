"""Judging samples of small images: a classifier of our own, and the Fréchet distance between its features.

The Fréchet distance is FID's formula (arXiv 1706.08500, section 3) on this classifier's 128 features instead of
Inception's 2048: numbers compare with each other, never with published FIDs.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from einops.layers.torch import Rearrange
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm.auto import tqdm

from dit_lab.files import atomic
from dit_lab.sampling import generate

BATCH = 100


class Classifier(nn.Module):
    """A small convolutional classifier: `x: b c h w in [-1, 1] -> logits: b classes`; h and w multiples of 4."""

    def __init__(self, channels: int, size: tuple[int, int], num_classes: int):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            Rearrange("b c h w -> b (c h w)"), nn.Linear(64 * size[0] * size[1] // 16, 128), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(128, num_classes)

    def forward(self, x):
        return self.head(self.features(x))


def train_classifier(images, *, epochs: int = 4, batch_size: int = 128, seed: int = 0) -> Classifier:
    """Fit a `Classifier` to real images (an `Images`), with Adam, a falling learning rate and small random shifts."""
    torch.manual_seed(seed)
    channels, *size = images.shape
    model = Classifier(channels, tuple(size), len(images.names))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches = [b for _ in range(epochs) for b in torch.randperm(len(images)).split(batch_size)]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=2e-3, total_steps=len(batches))
    for indices in tqdm(batches, desc="classifier", unit="batch", mininterval=1):
        x, y = images.batch(indices.numpy())
        rows, columns = (int(torch.randint(-(side // 14), side // 14 + 1, ())) for side in size)
        loss = F.cross_entropy(model(x.roll((rows, columns), dims=(-2, -1))), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def judge(model: Classifier, x: torch.Tensor, batch_size: int = 500):
    """What the classifier sees: `x: b c h w -> (predicted classes: b, features: b 128)`."""
    features = torch.cat([model.features(part) for part in x.split(batch_size)])
    return model.head(features).argmax(-1), features


def frechet_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """||mu_a - mu_b||^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of two sets of features `n d`, in float64."""
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    # The eigenvalues of S_a S_b are real and not negative; rounding makes some of them slightly either.
    root_trace = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt().sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * root_trace
    return distance.item()


def classifier_for(train, path: Path) -> Classifier:
    """The classifier kept at `path`, trained on real images (an `Images`) the first time."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as partial:
            save_file({k: v.half() for k, v in train_classifier(train).state_dict().items()}, partial)
    channels, *size = train.shape
    model = Classifier(channels, tuple(size), len(train.names))
    model.load_state_dict(load_file(path))
    return model.eval()


def draw(model, count: int, steps: int, cfg_scale: float):
    """`count` samples with the labels 0, 1, 2 … in turn, batch k from seed k: `-> (b c h w, b)`."""
    labels = torch.arange(count) % model.config.num_classes
    batches = tqdm(labels.split(BATCH), desc=f"{count} samples", unit="batch", mininterval=1)
    drawn = [generate(model, y.tolist(), steps=steps, cfg_scale=cfg_scale, seed=k) for k, y in enumerate(batches)]
    return torch.cat(drawn).clamp(-1, 1), labels


def everything(images) -> torch.Tensor:
    """All pictures of a data set (an `Images`): `-> n c h w` in [-1, 1]."""
    return images.batch(range(len(images)))[0]


def agreement(seen, asked) -> float:
    """The share of samples in which the classifier sees the label that was asked for."""
    return (seen == asked).double().mean().item()
