"""The parts of a model by name: what each is, from what shape to what shape, at what cost, where in code and paper.

Names are those that `lab.part` has: "patchify", "blocks.3.attn", "final". Blocks of a stage are alike, so their parts
are kept once a stage, as "stages.0.attn".
"""

from functools import partial

import torch
from torch import nn

from dit_lab.models import BLOCKS, Block, Config, DiTConfig, build
from dit_lab.models.count import measure
from dit_lab.models.unfilled import unfilled
from dit_lab.panels.anatomy.code import code_of, runs, told_of
from dit_lab.panels.anatomy.patterns import numbered, patterns_of
from dit_lab.panels.anatomy.places import PLACES, TOLD, axes_of, helpers

CONDITION_TOKENS = 2


class Catalogue:
    """A config's model on the meta device, run once there for the shapes, and its parts read off it."""

    def __init__(self, config: Config):
        with unfilled():
            self.model = build(config).eval()
        self.config, self.shapes = config, {}
        self.walk()
        self.total, self.macs = measure(self.model, (config.in_channels, *config.size))

    @torch.no_grad()
    def walk(self) -> None:
        """One forward of one input without data, noting what each module was given and gave, in their order."""
        hooks = [module.register_forward_hook(partial(self.note, path)) for path, module in self.model.named_modules()]
        try:
            with torch.device("meta"):
                x = torch.empty(1, self.config.in_channels, *self.config.size)
                self.model(x, torch.zeros(1), torch.zeros(1, dtype=torch.long))
        finally:
            for hook in hooks:
                hook.remove()

    def note(self, path: str, module, inputs, output) -> None:
        """The hook on every module; of a shared one, the first call counts."""
        self.shapes.setdefault(path, (shapes_of(inputs), shapes_of(output)))

    def flow(self) -> list[str]:
        """The parts between input and output that are not blocks, in the order in which a picture goes through them."""
        if isinstance(self.config, DiTConfig):
            joins = BLOCKS[self.config.block].enter is not Block.enter
            return [
                "patchify",
                "positions",
                *["enter"] * joins,
                "blocks",
                *["exit"] * joins,
                "final",
                "out",
                "unpatchify",
            ]
        return ["stem", "blocks", "neck", "final", "out"]

    def parts(self) -> dict[str, dict]:
        """Every part that can be opened, by name."""
        own = self.of_dit() if isinstance(self.config, DiTConfig) else self.of_udit()
        return own | {"final": self.part("final", "final_norm"), "out": self.part("out", "out")} | self.of_blocks()

    def of_dit(self) -> dict[str, dict]:
        """Around the blocks of a DiT: patches in, positions, the condition, patches out."""
        model, config, (h, w) = self.model, self.config, self.config.grid
        n, p, kind = h * w, config.patch_size, BLOCKS[config.block]
        tokens, cond = [1, n, config.dim], [1, CONDITION_TOKENS, config.dim]
        longer = [1, n + CONDITION_TOKENS, config.dim]
        axes = dict(b=1, h=h, w=w, p=p, q=p, c=config.in_channels, d=config.dim, k=CONDITION_TOKENS)
        picture, wide = [1, config.in_channels, *config.size], [1, config.out_channels, *config.size]
        parts = {
            "patchify": self.part("patchify", "patch_embedding", type(model).patchify, axes, [picture], [tokens]),
            "positions": self.part("positions", None, type(model).positions_of, axes, [tokens], [tokens]),
            "time": self.part("time", "time_embedding"), "label": self.part("label", "label_embedding"),
            "conditioning": self.condition(["time_embedding", "label_embedding"], type(model).condition, [cond]),
            "unpatchify": self.part(
                "unpatchify", None, type(model).unpatchify, axes | {"c": config.out_channels},
                self.shapes["out"][1], [wide],
            ),
        }  # fmt: skip
        if kind.enter is not Block.enter:
            parts["enter"] = self.part("enter", None, kind.enter, axes, [tokens, cond], [longer])
            parts["exit"] = self.part("exit", None, kind.exit, axes, [longer, cond], [tokens])
        return parts

    def of_udit(self) -> dict[str, dict]:
        """Around the blocks of a U-DiT: its convolutions at the ends and between the stages, and the condition."""
        model, widths = self.model, [f"conditions.{level}" for level in range(self.config.levels)]
        parts = {"stem": self.part("stem", "stem"), "neck": self.part("neck", "neck")}
        for kind in ("down", "up", "merge"):
            for number in range(len(getattr(model, kind))):
                parts[f"{kind}.{number}"] = self.part(kind, f"{kind}.{number}")
        parts["conditioning"] = self.condition(widths, runs(model.conditions[0]), None)
        return parts

    def of_blocks(self) -> dict[str, dict]:
        """A block a stage, as "stages.0", and what it holds, as "stages.0.attn", in the order in which they run."""
        paths = {module: path for path, module in self.model.named_modules()}
        parts = {}
        for number, blocks in enumerate(self.config.stage_blocks.values()):
            block = self.model.blocks[blocks[0]]
            path = paths[block]
            names = [name for name, _ in block.named_children()]
            order = [name for name in self.shapes if name.rpartition(".")[0] == path]
            names.sort(key=lambda name: order.index(f"{path}.{name}") if f"{path}.{name}" in order else len(order))
            parts[f"stages.{number}"] = self.part("block", path) | {"holds": names}
            for name in names:
                parts[f"stages.{number}.{name}"] = self.part(name, f"{path}.{name}")
        return parts

    def condition(self, paths: list[str], function, after: list | None) -> dict:
        """Time and label made into the condition's two tokens, of one width or of several."""
        modules = [self.model.get_submodule(path) for path in paths]
        shapes = [shape for path in paths for shape in self.shapes[path][1]]
        part = self.part("conditioning", None, function, {}, [[1], [1]], after or shapes)
        part["trained"] = sum(parameters(module) for module in modules)
        part["macs"] = sum(self.macs.get(path, 0) for path in paths)
        part["share"] = self.share(part["macs"])
        part["children"] = [self.child(path, self.model.get_submodule(path)) for path in paths]
        return part

    def part(self, kind: str, path: str | None, function=None, axes=None, before=None, after=None) -> dict:
        """One part: in words, shapes, einops, numbers, code and paper. `path` None: it has no module of its own."""
        module = None if path is None else self.model.get_submodule(path)
        children = {} if module is None else dict(module.named_children())
        thing, macs = function or runs(module), self.macs.get(path, 0)
        given, gave = self.shapes.get(path, ([], []))
        axes = axes_of(module, given, gave) if axes is None else axes
        title, told = TOLD.get(kind, (kind, ""))
        written = [numbered(pattern, axes) for pattern in patterns_of(thing)]
        if module is not None and function is None:  # what it calls to come in, itself, and to go out again
            calls = [numbered(each, more) for call, more in helpers(module) for each in patterns_of(call)]
            written = [*calls[:1], *written, *calls[1:]]
        fixed = self.model.positions.numel() if kind == "positions" else 0
        return {
            "title": title, "told": told, "doc": told_of(function or type(module)),
            "kind": type(module).__name__ if module is not None else thing.__qualname__,
            "before": before or given, "after": after or gave, "patterns": written,
            "trained": parameters(module) if module is not None else 0, "fixed": fixed, "macs": macs,
            "share": self.share(macs), "code": code_of(thing), "paper": PLACES[self.config.architecture].get(kind),
            "children": [self.child(f"{path}.{name}", child) for name, child in children.items()],
        }  # fmt: skip

    def child(self, path: str, module: nn.Module) -> dict:
        """A row of what a part is made of."""
        before, after = self.shapes.get(path, ([], []))
        name = path if path.startswith("conditions.") else path.rpartition(".")[2]
        return {
            "name": name, "kind": type(module).__name__, "before": before, "after": after,
            "trained": parameters(module), "macs": self.work(path, module),
        }  # fmt: skip

    def work(self, path: str, module: nn.Module) -> int:
        """Multiply-accumulates of a module; of one that is not called itself, such as a list, those within."""
        if path in self.macs:
            return self.macs[path]
        return sum(self.work(f"{path}.{name}", child) for name, child in module.named_children())

    def share(self, macs: int) -> float:
        """Of the whole model's multiply-accumulates."""
        return macs / max(self.total, 1)


def shapes_of(values) -> list[list[int]]:
    """The shapes of the tensors among what a module was given or gave."""
    values = [values] if isinstance(values, torch.Tensor) else values
    return [list(value.shape) for value in values if isinstance(value, torch.Tensor)] if values else []


def parameters(module: nn.Module) -> int:
    """How many numbers of it are trained."""
    return sum(parameter.numel() for parameter in module.parameters())
