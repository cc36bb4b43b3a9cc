"""Views of a model as compiled code: what a compiler needs of each kind of device.

A CPU's compiler takes every block by itself. It is asked to take weights as constants, too late for PyTorch 2.13, which
has read the code by then and has them as inputs (docs/results/bench-log.md, "What is missing still").
On a GPU one block's code does for all of them, and a CUDA graph launches all kernels of a forward at once.
"""

import shutil
import sys
import warnings
from os import environ

import torch
from torch import nn

from dit_lab.program import quoted

MOST = 64  # shapes that one process compiles for


def check_compiler(device: torch.device) -> None:
    """Raise ValueError where PyTorch would find no C++ compiler at the first step, for want of which a CPU cannot."""
    if device.type == "cpu" and shutil.which(compiler()) is None:
        raise ValueError(
            f"--compile needs a C++ compiler, and {quoted(compiler())} is not here: install one, or name yours in the "
            "environment variable CXX, or leave --compile out"
        )


def can_compile(device: torch.device) -> bool:
    """Whether compiling may be tried where nobody asked for it: on a GPU by CUDA, and where a CPU has a compiler."""
    return device.type == "cuda" or device.type == "cpu" and shutil.which(compiler()) is not None


def compiler() -> str:
    """The C++ compiler that PyTorch would look for."""
    return environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")


def compiled(view: nn.Module, device: torch.device):
    """`view`, as a function of the same arguments; compiled in place, at the first call and for its shape."""
    warnings.filterwarnings("ignore", ".*code generation for complex operators")  # RoPE's, left to plain code
    # Of one function's code, which all models of a kind share: beyond it PyTorch would run them as they are, unsaid.
    torch._dynamo.config.recompile_limit = max(MOST, torch._dynamo.config.recompile_limit)
    if device.type != "cuda":
        view.compile(dynamic=False, options={"freezing": device.type == "cpu"})
        return view
    for module in view.modules():
        if hasattr(module, "mine"):  # which part is a block's own would make its code a block's own
            module.mine = torch.compiler.disable(module.mine)
    for block in view.blocks:
        block.compile(dynamic=False)
    return Graphed(view)


class Graphed:
    """A function of tensors on a GPU, `x, t` and a tensor or several by name, whose kernels are launched as one graph.

    The graph is recorded at the first call, and again at one of other shapes.
    """

    def __init__(self, call):
        self.call, self.shapes = call, None

    def __call__(self, x, t, given):
        inputs = [x, t, *(given.values() if isinstance(given, dict) else [given])]
        if self.shapes != (shapes := [(tensor.shape, tensor.dtype) for tensor in inputs]):
            self.record(inputs, given)
            self.shapes = shapes
        for held, tensor in zip(self.inputs, inputs, strict=True):
            held.copy_(tensor)
        self.graph.replay()
        return self.output.clone()  # which lies where the next one will

    def record(self, inputs: list[torch.Tensor], given) -> None:
        """Run a few times on a stream of its own, as CUDA asks for, then once to note the kernels."""
        self.inputs = [tensor.clone() for tensor in inputs]
        x, t, *rest = self.inputs
        given = dict(zip(given, rest, strict=True)) if isinstance(given, dict) else rest[0]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.call(x, t, given)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output = self.call(x, t, given)
