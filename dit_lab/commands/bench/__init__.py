"""`python -m dit_lab bench`: models against diffusers'; `bench inside`: what each look into a run costs.

Two calls that are compared take turns in one process, and the table gives medians and their ratio, so that a machine
that slows down slows both.
"""

from typing import Literal

import torch

from dit_lab.commands.bench.inside import bench_inside
from dit_lab.commands.bench.peers import bench_peers
from dit_lab.commands.bench.timing import WARM_UP
from dit_lab.models import pick_device


def bench_command(
    what: Literal["models", "inside"] = "models",
    /,
    *,
    models: tuple[str, ...] = (),
    batch: int = 8,
    rounds: int = 7,
    device: str = "cpu",
) -> None:
    """Time a forward and a training step of models against diffusers', or the looks inside a run against the run.

    Args:
        what: models, in fp32 and, where the machine computes it, in bf16; or inside, each look beside its bound.
        models: Presets to time, with random weights (default: DiT-S/2 and DiT-B/2; inside: DiT-S/2 and the zoo's
            mnist, there checkpoints may be named too).
        batch: Latents a call; a look inside is at one sample.
        rounds: Turns that each side takes; the first two warm up and are not counted.
        device: cpu or cuda.
    """
    if batch < 1 or rounds <= WARM_UP:
        raise ValueError(f"a bench needs a batch of at least 1 and {WARM_UP + 1} rounds, not {batch} and {rounds}")
    place = pick_device(device)
    size = "one sample" if what == "inside" else f"batch {batch}"
    told = f"{size}, {rounds} rounds, {torch.get_num_threads()} threads, torch {torch.__version__}, {device}"
    if what == "inside":
        bench_inside(models or ("DiT-S/2", "mnist"), rounds, place, told)
    else:
        bench_peers(models or ("DiT-S/2", "DiT-B/2"), batch, rounds, place, told)
