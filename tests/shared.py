"""What several test files build or start: a model with no closed gate, and work in a process of its own."""

import multiprocessing

import torch

from dit_lab.presets import build

# The server imports what is slow once; each child is a process of its own, forked from it.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["dit_lab.run", "sklearn.datasets", "torch._dynamo"])


def random_model(block="adaln_zero", **changes):
    """A small DiT with every parameter random, so that no gate is zero."""
    torch.manual_seed(0)
    shape = dict(input_size=(8, 12), in_channels=3, num_classes=5, depth=3) | changes
    model = build("DiT-nano/4", block=block, **shape).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


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
