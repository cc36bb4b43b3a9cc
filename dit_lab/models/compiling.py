"""Views of a model as compiled code: what a compiler needs of each kind of device.

A CPU's compiler takes every block by itself. Where little is computed it writes the products too, of weights that it
has as constants; of much the ones of PyTorch's libraries are faster (docs/results/bench-log.md).
On a GPU one block's code does for all of them, and a CUDA graph launches all kernels of a forward at once.
"""

import logging
import shutil
import sys
import warnings
from contextlib import contextmanager, suppress
from hashlib import sha256
from os import environ

import torch
from torch import nn

from dit_lab.program import quoted

MOST = 64  # shapes that one process compiles for
# Numbers between two blocks, up to which a library's product takes longer to be called than to be computed.
FEW = 24 * 2**10
# Asks for products that are written for weights of these very numbers, and for calls that are not made from Python.
AS_CONSTANTS = {
    "freezing": True, "max_autotune": True, "max_autotune_gemm_backends": "CPP", "cpp_wrapper": True,
}  # fmt: skip


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
    logging.getLogger("torch._inductor.ir").addFilter(no_shim)  # the same of code that is called from C++
    # Of one function's code, which all models of a kind share: beyond it PyTorch would run them as they are, unsaid.
    torch._dynamo.config.recompile_limit = max(MOST, torch._dynamo.config.recompile_limit)
    if device.type != "cuda":
        view.compile(dynamic=False)
        return Written(view) if device.type == "cpu" else view
    for module in view.modules():
        if hasattr(module, "mine"):  # which part is a block's own would make its code a block's own
            module.mine = torch.compiler.disable(module.mine)
    for block in view.blocks:
        block.compile(dynamic=False)
    return Graphed(view)


def no_shim(record: logging.LogRecord) -> bool:
    """Whether a compiler's message is to be seen: not that an operator is left to plain code."""
    return "missing a c-shim implementation" not in record.getMessage()


class Written:
    """A function of tensors on a CPU, `x, t` and a tensor or several by name: code that is written at its first call.

    It is written again at a call of other shapes. Where `few` numbers are computed, in fp32, the code has the weights
    as constants, so that a change of these is not seen by it; unless the compiler cannot write it so.
    """

    def __init__(self, call: nn.Module):
        self.call, self.shapes = call, []

    def __call__(self, x, t, given):
        if (shapes := shapes_of(tensors_of(x, t, given))) in self.shapes:
            return self.call(x, t, given)
        self.shapes.append(shapes)
        if few(self.call, x):
            with suppress(RuntimeError), weights_as_constants(self.call):  # as where it has no products for this CPU
                return self.call(x, t, given)
        return self.call(x, t, given)


def few(view: nn.Module, x: torch.Tensor) -> bool:
    """Whether a forward of `x: b c h w` in fp32 computes so little that calling its products is most of their time."""
    b, _, h, w = x.shape
    most = max(b * (h // stage.patch) * (w // stage.patch) * stage.dim for stage in view.config.stages)
    return most <= FEW and all(weight.dtype == torch.float32 for weight in view.parameters())


@contextmanager
def weights_as_constants(view: nn.Module):
    """Where a CPU's compiler reads `view` meanwhile, without gradients, the code has its weights as constants.

    It has to be known before the code is read: as an option of `compile` PyTorch 2.13 hears of it too late. And of
    constants it notes shapes alone when it keeps code on disk, with these very weights in it: another model of that
    shape would be given them. So what it keeps is marked with what the weights are.
    """
    from torch._inductor import config  # a second to import, which only who compiles waits for

    laid_out = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # it would lay the weights out in a way that cannot be kept on disk
    try:
        with config.patch(AS_CONSTANTS), torch.compiler.config.patch(cache_key_tag=fingerprint(view)):
            yield
    finally:
        torch.backends.mkldnn.enabled = laid_out


def fingerprint(view: nn.Module) -> str:
    """What tells the numbers that a CPU's model has from any other model's."""
    found = sha256()
    for tensor in (*view.parameters(), *view.buffers()):
        found.update(tensor.detach().contiguous().numpy())
    return found.hexdigest()


def tensors_of(x, t, given) -> list[torch.Tensor]:
    """All that a view is called with, one after the other."""
    return [x, t, *(given.values() if isinstance(given, dict) else [given])]


def shapes_of(tensors: list[torch.Tensor]) -> list[tuple[torch.Size, torch.dtype]]:
    """What code is compiled for, of each tensor."""
    return [(tensor.shape, tensor.dtype) for tensor in tensors]


class Graphed:
    """A function of tensors on a GPU, `x, t` and a tensor or several by name, whose kernels are launched as one graph.

    The graph is recorded at the first call, and again at one of other shapes.
    """

    def __init__(self, call):
        self.call, self.shapes = call, None

    def __call__(self, x, t, given):
        inputs = tensors_of(x, t, given)
        if self.shapes != (shapes := shapes_of(inputs)):
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
