"""One process or many: accelerate launches and joins them, torch replicates the model (DDP) or shards it (FSDP).

`accelerate launch --multi_gpu --num_processes 2 -m dit_lab train …` starts them, on CPUs too; without `--multi_gpu` it
starts one where a machine has a single GPU or none. Alone, everything here is the identity.
"""

import os
from contextlib import contextmanager, nullcontext
from datetime import timedelta

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from dit_lab.models import pick_device

# One may download or decode a data set, or judge samples, while the others wait. A launcher stops those of a dead one.
PATIENCE = timedelta(days=7)


class Alone:
    """A process that no launcher started, by the names of accelerate's PartialState."""

    process_index, num_processes, is_main_process = 0, 1, True

    def wait_for_everyone(self) -> None:
        """There is nobody to wait for."""

    def main_process_first(self):
        """It is the main process."""
        return nullcontext()


def processes():
    """Which process this is of how many, and how they wait: accelerate's PartialState, where they were launched."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return Alone()  # the core trains where accelerate is not installed, and need not wait for its import
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


def device_of(crew, name: str) -> torch.device:
    """Where one of several processes (`parallel.processes`) computes. Raises ValueError, as `pick_device` does.

    A launcher gives each its device; asked for another kind, nobody would see that the wish was not granted.
    """
    asked = pick_device(name)
    if crew.num_processes == 1:
        return asked
    if name != "auto" and asked.type != crew.device.type:
        raise ValueError(
            f"the launcher gives each process its device, here {crew.device.type}: leave out --device {name}, "
            "or for CPUs say accelerate launch --cpu"
        )
    return crew.device


def share_out(model: nn.Module, shard: bool) -> nn.Module:
    """The model as the processes train it together: replicated, or sharded block by block."""
    crew = processes()
    if crew.num_processes == 1:
        return model
    if not shard:
        return DistributedDataParallel(model, device_ids=None if crew.device.type == "cpu" else [crew.device])
    from torch.distributed.device_mesh import init_device_mesh  # these two take seconds, which one process can spare
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(crew.device.type, (crew.num_processes,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    # Also after a forward without a backward, such as a preview's: the next one must not meet those weights again.
    return fully_shard(model, mesh=mesh, reshard_after_forward=True)


def bare(model: nn.Module) -> nn.Module:
    """The model without the wrapper that replicates it."""
    return model.module if isinstance(model, DistributedDataParallel) else model


@contextmanager
def unshared(model: nn.Module):
    """Backward passes inside leave their gradients here; the next one outside shares them all."""
    if isinstance(model, DistributedDataParallel):
        with model.no_sync():
            yield
    elif hasattr(model, "set_requires_gradient_sync"):  # sharded
        model.set_requires_gradient_sync(False)
        yield
        model.set_requires_gradient_sync(True)
    else:
        yield


def sharded(tensor: torch.Tensor) -> bool:
    """Whether it is a DTensor, of which every process holds a part."""
    return hasattr(tensor, "full_tensor")


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of a sharded tensor; any other as it is."""
    return tensor.to_local() if sharded(tensor) else tensor


def complete(tensor: torch.Tensor) -> torch.Tensor:
    """All of a sharded tensor, for which every process must ask; any other as it is."""
    return tensor.full_tensor() if sharded(tensor) else tensor


def gathered(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Complete tensors on the main process, those that were sharded on the CPU; on the others, which must ask, none."""
    main, kept = processes().is_main_process, {}
    for name, tensor in tensors.items():
        whole = complete(tensor)
        if main:
            kept[name] = whole.cpu() if sharded(tensor) else whole
    return kept


def laid_out(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A complete tensor on the device of `like`, sharded as it is."""
    tensor = tensor.to(like.device)
    if not sharded(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def mean(values: torch.Tensor) -> torch.Tensor:
    """The mean over the processes."""
    crew = processes()
    if crew.num_processes > 1:
        distributed.all_reduce(values)
        values = values / crew.num_processes
    return values


def anywhere(flag: bool) -> bool:
    """Whether any process says so: all get the same answer, so that all stop at the same step."""
    crew = processes()
    return flag if crew.num_processes == 1 else mean(torch.tensor(float(flag), device=crew.device)).item() > 0
