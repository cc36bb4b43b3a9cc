"""What a network's prediction is a sum of: the names of its parts, and the places where one forward shows them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from torch import nn

from dit_lab.diffusion.checks import OWN
from dit_lab.inside.run import Run
from dit_lab.inside.trace import TraceError, branches, hook, modulation_of
from dit_lab.models import DiT, UDiT
from dit_lab.models.layers import ModulatedNorm, Modulation, PlainNorm
from dit_lab.program import quoted

SAID = dict(
    attn="attention", attn_bias="attention bias", cross="cross-attention", cross_bias="cross-attention bias",
    mlp="MLP", bias_between="biases between stages", shift="shift of the last norm", bias="bias of the last linear",
    x_t="x_t itself",
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One summand: its `kind`, and the `block` and `head` (from 0) where it has them; `str` says it for people.

    "patches" are the embedded patches (or U-DiT's stem) with their bias, "positions" their table; "attn" and "cross"
    are a head each, without the output projection's bias, which is "attn_bias" and "cross_bias"; "mlp" is with its
    bias. "bias_between" are those of U-DiT's merges and neck, "shift" is the last norm's, "bias" the last linear's.
    "x_t" is what x0 or eps takes of x_t beside the network's output.
    """

    kind: str
    block: int | None = None
    head: int | None = None

    def __str__(self):
        if self.kind == "attn" and self.head is not None:
            return f"block {self.block} head {self.head}"
        said = SAID.get(self.kind, self.kind)
        where = "" if self.block is None else f"block {self.block} "
        return where + said + ("" if self.head is None else f" head {self.head}")


def parts_of(model: DiT | UDiT) -> list[Part]:
    """The parts of a model's prediction in the order of every `part` axis. Raises TraceError where it cannot be split.

    It can where each attention of a block ends in a linear `out`, and the last norm is one of the two that we have.
    """
    parts = [Part("patches")] + ([] if isinstance(model, UDiT) else [Part("positions")])
    for number, block in enumerate(model.blocks):
        for name, branch in branches(block).items():
            if name != "mlp":
                parts += [Part(name, number, head) for head in range(heads_of(number, name, branch))]
            parts.append(Part(name if name == "mlp" else f"{name}_bias", number))
    if not isinstance(model.final_norm, ModulatedNorm | PlainNorm):
        norm = quoted(type(model.final_norm).__name__)
        raise TraceError(f"the last norm is a {norm}, no ModulatedNorm or PlainNorm, so the output has no known parts")
    between = [Part("bias_between")] if isinstance(model, UDiT) else []
    return [*parts, *between, Part("shift"), Part("bias"), Part("x_t")]


def heads_of(number: int, name: str, branch: nn.Module) -> int:
    """How many heads an attention has. Raises TraceError unless they meet in a linear layer called `out`."""
    if not isinstance(getattr(branch, "out", None), nn.Linear) or not isinstance(getattr(branch, "heads", None), int):
        told = f"the {name} of block {number} has no `heads` that meet in a linear layer called `out`"
        raise TraceError(f"{told}, so its output is not split into heads")
    return branch.heads


def check_eager(model: nn.Module) -> None:
    """Raise TraceError on a compiled model, which runs past the hooks that look inside."""
    if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None:
        raise TraceError(
            "this model is compiled, and looking inside takes hooks that compiled code runs past: give the model that "
            "torch.compile was given (its _orig_mod), or load it again and do not compile it"
        )


def halves(run: Run, step: int, half: str) -> tuple[list[str], Callable]:
    """The passes that a look at the output takes, and what makes one of theirs: `mix(c..., c...)`, or the only one.

    Raises TraceError on another half, and where "guided" is asked of a step that was taken without guidance.
    """
    if half not in ("cond", "uncond", "guided"):
        raise TraceError(f'half must be "cond", "uncond" or "guided" (their mix), not {quoted(half)}')
    guidance = run.guidance(step)
    if half == "guided" and guidance is None:
        raise TraceError(f'step {step} of this run was taken without guidance, so there is no mix: take half "cond"')
    if half == "guided" and isinstance(run.options["guide"], dict):
        raise TraceError(
            'this run\'s guidance was rescaled, so the mix is not a sum of its halves: take "cond" or "uncond"'
        )
    if half == "guided" and run.options["guide"] == OWN:
        raise TraceError(
            "this run was guided by a function of its maker's, which is not kept, so the mix is not known: take half "
            '"cond" or "uncond"'
        )
    return (["cond", "uncond"], guidance.mix) if half == "guided" else ([half], lambda only: only)


@contextmanager
def noting(model: DiT | UDiT) -> Iterator[dict]:
    """Note what passes where parts begin and end, in the last forward inside the `with` block; the hooks go with it.

    `number, name` is what the `out` of an attention is given, or what an MLP gives, and `number, "gates"` a block's
    modulation by the names of its parts. "embedded" is the embedding's output, "last" what the last norm is given, x
    and cond, and "modulation" its shift and scale. Raises TraceError on exit where nothing passed.
    """
    noted, places = {}, list(places_of(model))
    with ExitStack() as hooks:
        for key, module, before in places:
            hooks.enter_context(hook(module, partial(note, noted, key), before=before))
        yield noted
    for key, *_ in places:
        if key not in noted:
            where = f'"{key}"' if isinstance(key, str) else "the {1} of block {0}".format(*key)
            raise TraceError(
                f"nothing passed {where}, so the output is not split: run the model itself, not compiled, all of its "
                "blocks' branches in use"
            )


def places_of(model: DiT | UDiT) -> Iterator[tuple]:
    """The key of a place, its module, and whether what the module is given is noted, not what it makes."""
    yield "embedded", model.stem if isinstance(model, UDiT) else model.patch_embedding, False
    yield "last", model.final_norm, True
    if isinstance(model.final_norm, ModulatedNorm):
        yield "modulation", model.final_norm.modulation, False
    for number, block in enumerate(model.blocks):
        for name, branch in branches(block).items():
            yield (number, name), branch if name == "mlp" else branch.out, name != "mlp"
        if modulator := modulation_of(block):
            yield (number, "gates"), modulator, False


def note(noted: dict, key, module, inputs, *output) -> None:
    """The hook, or without an output the pre-hook: a tensor, several, or a modulation's vectors by name."""
    passed = output[0] if output else inputs if len(inputs) > 1 else inputs[0]
    noted[key] = dict(zip(module.parts, passed, strict=True)) if isinstance(module, Modulation) else passed


def row(noted, number: int):
    """What was noted of one row of the batch: `b ... -> 1 ...`, also in tuples and dicts."""
    if isinstance(noted, dict):
        return {key: row(each, number) for key, each in noted.items()}
    if isinstance(noted, tuple):
        return tuple(row(each, number) for each in noted)
    return noted[number : number + 1]
