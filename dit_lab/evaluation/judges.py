"""Who reads pictures in a notebook: scikit-learn's digits at once, what the zoo's judges know as they were made.

A judge has seen real training pictures alone; how often it is right on those that it has not seen stands with it, for
what it says of samples is worth no more than that.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from einops.layers.torch import Rearrange
from torch import nn

from dit_lab.checkpoints.reading import read_safetensors
from dit_lab.data import open_data
from dit_lab.evaluation.features import JUDGES, Classifier, Seen, judge
from dit_lab.evaluation.reading import reading_of
from dit_lab.models import one_thread
from dit_lab.program import quoted

STEPS, BATCH, NOISE = 300, 256, 0.3  # 300 batches with some noise on them: 98 of 100 unseen digits, in about a second


@dataclass(frozen=True, eq=False)
class Judge:
    """A network that reads pictures, and its `accuracy` on `held_back` real ones that it was not trained on."""

    network: nn.Module
    accuracy: float
    held_back: int

    def read(self, x: torch.Tensor) -> torch.Tensor:
        """The class that each picture looks like: `x: b c h w in [-1, 1] -> b`."""
        return judge(self.network, x)[0]

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What it sees before it decides, for a Fréchet distance: `x: b c h w in [-1, 1] -> b 128`."""
        return judge(self.network, x)[1]

    def agreement(self, x: torch.Tensor, labels) -> float:
        """The share of pictures that look like the class asked for: `x: b c h w, labels: b`."""
        return (self.read(x).cpu() == torch.as_tensor(labels)).double().mean().item()

    def __str__(self) -> str:
        return f"a judge that reads {self.accuracy:.1%} of {self.held_back:,} real pictures it has not seen"


class DigitReader(nn.Module):
    """A small network for digits of 8 x 8 pixels: `x: b 1 8 8 in [-1, 1] -> logits: b 10`."""

    def __init__(self):
        super().__init__()
        widths = (64, 256), (256, Classifier.WIDTH)
        layers = [layer for width in widths for layer in (nn.Linear(*width), nn.ReLU())]
        self.see = nn.Sequential(Rearrange("b 1 h w -> b (h w)"), *layers)
        self.head = nn.Linear(Classifier.WIDTH, 10)

    def look(self, x) -> Seen:
        """What it sees, as any judge's network."""
        features = self.see(x)
        return Seen(features, self.head(features))

    def forward(self, x):
        return self.look(x).logits


@lru_cache(maxsize=4)
def digits_judge(seed: int = 0) -> Judge:
    """The judge of scikit-learn's digits, trained when it is first asked for; nobody's random numbers are disturbed."""
    train, test = (open_data("digits", split=split) for split in ("train", "test"))
    x, y = train.batch(range(len(train)))
    with torch.random.fork_rng([]), one_thread():
        torch.manual_seed(seed)
        network = DigitReader()
        optimiser = torch.optim.AdamW(network.parameters(), fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=5e-3, total_steps=STEPS)
        for _ in range(STEPS):
            some = torch.randint(len(x), (BATCH,))
            noisy = x[some] + NOISE * torch.randn(BATCH, 1, 8, 8)
            optimiser.zero_grad()
            F.cross_entropy(network(noisy), y[some], label_smoothing=0.05).backward()
            optimiser.step()
            schedule.step()
    network.requires_grad_(False).eval()
    seen, _ = judge(network, test.batch(range(len(test)))[0])
    return Judge(network, (seen == torch.from_numpy(test.labels)).double().mean().item(), len(test))


@lru_cache(maxsize=4)
def zoo_judge(name: str) -> Judge:
    """A judge that ships: `mnist28` and `mnist16` of MNIST's digits, 28 or 16 pixels a side, `cifar10`.

    Raises ValueError on another name.
    """
    there = {path.stem: path for path in sorted(JUDGES.glob("*.safetensors"))}
    if name not in there:
        raise ValueError(f"there is no judge {quoted(name)}; there are {', '.join(there)}")
    tensors, about = read_safetensors(there[name])
    channels, *size = about["shape"]
    network = Classifier(channels, tuple(size), len(about["classes"]))
    network.load_state_dict(tensors)
    reading = reading_of(about)
    return Judge(network.requires_grad_(False).eval(), reading.accuracy, reading.held_back)
