"""Judging samples of small images: a classifier of our own, and the Fréchet distance between its features.

The Fréchet distance is FID's formula (arXiv 1706.08500, section 3) on this classifier's 128 features instead of
Inception's 2048: numbers compare with each other, never with published FIDs.
"""

import torch
import torch.nn.functional as F
from einops.layers.torch import Rearrange
from torch import nn
from tqdm.auto import tqdm


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
