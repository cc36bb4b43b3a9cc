"""What several test files build or start: a model with no closed gate, and work in a process of its own."""

import multiprocessing
import os
import socket
from pathlib import Path

import torch

from dit_lab.models import build

ROOT = Path(__file__).parents[1]  # of the repository
PATIENCE = 120_000  # milliseconds that a page is waited for: wide enough for a machine with other work to do

# The server imports what is slow once; each child is a process of its own, forked from it.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["dit_lab.commands.train", "sklearn.datasets", "torch._dynamo"])


def random_model(block="adaln_zero", **changes):
    """A small DiT with every parameter random, so that no gate is zero."""
    return stirred(
        "DiT-nano/4", **dict(block=block, input_size=(8, 12), in_channels=3, num_classes=5, depth=3) | changes
    )


def random_udit(block="adaln_zero", **changes):
    """The same of a U-DiT: three stages on 8 x 12, 4 x 6 and 8 x 12 tokens."""
    shape = dict(input_size=(8, 12), in_channels=3, num_classes=5, dim=16, heads=2, depths=(1, 1, 1))
    return stirred("U-DiT-S", **dict(block=block, **shape) | changes)


def stirred(preset, **changes):
    """A model in eval mode with random parameters."""
    torch.manual_seed(0)
    model = build(preset, **changes).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def tiny_vae(seed=0, channels=4):
    """A small random AutoencoderKL, f = 2, whose latents have so many channels."""
    from diffusers import AutoencoderKL  # here, not above: it takes seconds

    torch.manual_seed(seed)
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 8], norm_num_groups=4, layers_per_block=1, latent_channels=channels,
    )  # fmt: skip


def drawn(model, seed: int):
    """The model, each parameter drawn from a generator of its own, so that equal seeds give equal tensors."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.1)
    return model


def assert_same(ours: dict, theirs: dict):
    """The same tensors by name, dtype and every bit."""
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype and torch.equal(ours[name], tensor), name


def in_child(function, *arguments):
    """What a function returns in a process of its own."""
    here, there = processes.Pipe()
    process = processes.Process(target=answer, args=(there, function, arguments))
    process.start()
    there.close()
    try:
        return here.recv()
    finally:
        process.join()


def answer(there, function, arguments):
    torch.set_num_threads(1)  # so that it may fork on
    there.send(function(*arguments))


def launch(count: int, function, *arguments) -> list:
    """What a function returns in each of `count` processes that a launcher would have started together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes, started = [processes.Pipe() for _ in range(count)], []
    for rank, (_, there) in enumerate(pipes):
        process = processes.Process(target=member, args=(there, rank, count, port, function, arguments))
        process.start()
        there.close()
        started.append(process)
    try:
        return [here.recv() for here, _ in pipes]
    finally:
        for process in started:
            process.join()


def member(there, rank, count, port, function, arguments):
    """One of several processes: what torchrun sets, then the function."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ |= {name: str(value) for name, value in (address | {"RANK": rank, "LOCAL_RANK": rank}).items()}
    answer(there, function, arguments)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
