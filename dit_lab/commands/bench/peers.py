"""DiT-S/2 and B/2 here against diffusers' DiTTransformer2DModel, and U-DiT-S, folded, against DiT-S/2.

U-DiT-S has the same MACs as DiT-S/2.
"""

from collections.abc import Callable
from functools import partial

import torch

from dit_lab.commands.bench.timing import alternate, stirred
from dit_lab.models import DiTConfig, build, fold, preset, uses_bf16


def bench_peers(models: tuple[str, ...], batch: int, rounds: int, place, told: str) -> None:
    """The table of presets; `told` is what is said of the bench. Raises ValueError on one that is no DiT."""
    configs = [preset(name) for name in models]
    if others := [name for name, config in zip(models, configs, strict=True) if not isinstance(config, DiTConfig)]:
        raise ValueError(f"diffusers has no {', '.join(others)}; name DiTs, U-DiT-S is timed against DiT-S/2 anyway")
    print(told)
    print(f"{'':36}{'diffusers':>12}{'dit_lab':>12}{'ratio':>8}")
    for name, config in zip(models, configs, strict=True):
        ours, theirs = pair(config, place)
        inputs = (torch.randn(batch, 4, 32, 32), torch.randint(1000, (batch,)), torch.randint(1000, (batch,)))
        x, t, y = (tensor.to(place) for tensor in inputs)
        reference = lambda x=x, t=t, y=y, model=theirs: model(x, timestep=t, class_labels=y).sample
        mine = lambda x=x, t=t, y=y, model=ours: model(x, t, y)
        report(f"{name} forward, fp32", *alternate(no_grad(reference), no_grad(mine), rounds, place))
        steps = training(reference, theirs), training(mine, ours)
        report(f"{name} training step, fp32", *alternate(*steps, rounds, place))
        if uses_bf16("auto", place):
            fast = autocast(mine, place)
            error = relative_error(no_grad(fast)(), no_grad(mine)())
            times = alternate(no_grad(reference), no_grad(fast), rounds, place)
            report(f"{name} forward, ours bf16 (error {error:.1e})", *times)
    bench_udit(batch, rounds, place)
    if not uses_bf16("auto", place):
        print("this machine has no bf16 instructions: bf16 was not timed")


def bench_udit(batch: int, rounds: int, place) -> None:
    """One line: a forward of the folded U-DiT-S and of DiT-S/2, and how many times the second the first takes."""
    dit, udit = (stirred(build(name)).to(place).eval() for name in ("DiT-S/2", "U-DiT-S"))
    x, t, y = torch.randn(batch, 4, 32, 32), torch.randint(1000, (batch,)), torch.randint(1000, (batch,))
    calls = [no_grad(partial(model, x.to(place), t.to(place), y.to(place))) for model in (dit, fold(udit))]
    theirs, ours = alternate(*calls, rounds, place)
    print(f"{'':36}{'DiT-S/2':>12}{'U-DiT-S':>12}{'time':>8}")
    print(f"{'U-DiT-S folded forward, fp32':36}{theirs * 1e3:9.0f} ms{ours * 1e3:9.0f} ms{ours / theirs:7.2f}x")


def pair(config: DiTConfig, device):
    """Our model and diffusers' of the same size, both with random weights that are nowhere zero."""
    from diffusers import DiTTransformer2DModel

    theirs = DiTTransformer2DModel(
        num_attention_heads=config.heads, attention_head_dim=config.dim // config.heads, num_layers=config.depth,
        patch_size=config.patch_size, sample_size=32, in_channels=4, out_channels=8, num_embeds_ada_norm=1000,
    )  # fmt: skip
    return tuple(stirred(model).to(device).eval() for model in (build(config), theirs))


def no_grad(call: Callable) -> Callable:
    """`call` without recording for the backward pass."""
    return torch.no_grad()(lambda: call())


def training(call: Callable, model) -> Callable:
    """One step of AdamW on the mean square of what `call` gives."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0)

    def step():
        optimiser.zero_grad()
        call().square().mean().backward()
        optimiser.step()

    return step


def autocast(call: Callable, device) -> Callable:
    """`call` in bf16 where that is safe."""
    return lambda: torch.autocast(device.type, torch.bfloat16)(call)()


def relative_error(x, reference) -> float:
    """||x - reference|| / ||reference||."""
    return ((x.float() - reference).norm() / reference.norm()).item()


def report(what: str, theirs: float, ours: float) -> None:
    """One line of the table; a ratio above 1 means that ours is faster."""
    print(f"{what:36}{theirs * 1e3:9.0f} ms{ours * 1e3:9.0f} ms{theirs / ours:7.2f}x")
