"""What the model would say if it stopped after a block: the "logit lens" (nostalgebraist, 2020), read as pictures."""

import torch
from einops import rearrange

from dit_lab.inside.onward import Onward, batches, widest
from dit_lab.inside.parts import check_eager, halves
from dit_lab.inside.run import Run
from dit_lab.inside.trace import place, watch
from dit_lab.models import DiT, UDiT


@torch.no_grad()
def lens(run: Run, model, step, *, sample=0, half=None) -> torch.Tensor:
    """The x0 that the model would predict if it stopped after each block, from one forward: `-> block c h w`.

    The last norm and the last linear are applied there; in a U-DiT all between, the later blocks alone being left out,
    which costs as much as one or two forwards more. The last entry is what was recorded, up to the replay's rounding:
    by itself `half` is the mix of both where the step was guided, and x0 is clipped to [-1, 1] where the run's was.
    "cond", "uncond" or "guided" ask for one. Raises TraceError on a half, step or sample that is not there.
    """
    check_eager(model)
    run.check_model(model)
    place("sample", sample, len(run.labels))
    if half is None:
        half = "cond" if run.guidance(step) is None else "guided"
    passes, mix = halves(run, step, half)
    inputs, conds = run.joined(model, step, sample, passes), []
    note = model.final_norm.register_forward_pre_hook(lambda module, given: conds.append(given[1]))
    with note, watch(model, attention=None, modulation=False) as seen:
        model(*inputs)
    said = after_stages if isinstance(model, UDiT) else after_blocks
    outputs = said(model, [seen.features[block] for block in range(len(model.blocks))], conds[-1], run.x.shape[-2:])
    outputs = outputs[:, :, : model.config.in_channels].to("cpu", torch.promote_types(outputs.dtype, torch.float32))
    x, i = run.x[step, sample : sample + 1].to(outputs), torch.tensor([len(run.t) - 1 - step])
    return run.process.denoised(mix(*outputs), x, i, clip=run.options["clip_x0"])[0]


def after_blocks(model: DiT, features: list[torch.Tensor], cond, size) -> torch.Tensor:
    """A DiT's output after each block, `features: b m d` each, all in one call: `-> b block c h w`."""
    # To the last norm and linear every token is alone, so those of all blocks are one long sequence.
    x = torch.cat([model.blocks[-1].exit(x, cond) for x in features], dim=1)
    p, x = model.config.patch_size, model.out(model.final_norm(x, cond))
    laid = dict(block=len(features), h=size[0] // p, p=p, q=p)
    return rearrange(x, "b (block h w) (p q c) -> b block c (h p) (w q)", **laid)


def after_stages(model: UDiT, features: list[torch.Tensor], cond, size) -> torch.Tensor:
    """A U-DiT's output after each block with all later ones left out, `features: b n d` each: `-> b block c h w`."""
    onward, count = Onward(model), len(cond)
    skips, outputs = [], []
    for stage, blocks in enumerate(model.config.stage_blocks.values()):
        rows = model.config.grid_of(blocks[0], size)[0]
        x = rearrange(features[blocks.start : blocks.stop], "block b (h w) d -> block b d h w", h=rows)
        for some in batches(x, count * widest(model, size)):
            y = onward(stage, rearrange(some, "block b d h w -> (block b) d h w"), skips)
            y = model.final_norm(rearrange(y, "(block b) d h w -> b (block h w) d", b=count), cond)
            y = model.out(rearrange(y, "b (block h w) d -> (block b) d h w", block=len(some), h=size[0]))
            outputs.append(rearrange(y, "(block b) c h w -> b block c h w", b=count))
        if stage < len(onward.down):
            skips.append(x[-1])
    return torch.cat(outputs, dim=1)
