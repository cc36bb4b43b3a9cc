"""A recorded run opened for looking: with its model, its codec and its classes' names, as every panel is given it."""

import secrets
from collections import OrderedDict
from collections.abc import Callable, Generator

import torch

from dit_lab.data import Pixels
from dit_lab.data.previews import false_colours
from dit_lab.inside import Trajectory
from dit_lab.models import BLOCKS
from dit_lab.panels.asking import choice, whole
from dit_lab.panels.packing import atlas
from dit_lab.panels.words import SAMPLER_TITLES, shown_times, stage_words

REMEMBERED = 64  # answers that a run keeps
DECODED = 4  # samples of which it keeps all pictures: 50 of 256 x 256 take 38 MB
LITTLE = 1e11  # about the multiplications of a few seconds
NOISE_REACH = 3.0  # x_t and eps are drawn from -3 to 3: standard normal values hardly leave it


def is_latent(codec, channels: int) -> bool:
    """Whether what a model of so many channels denoises is no picture by itself."""
    return not isinstance(codec, Pixels) or channels not in (1, 3)


def noise_pictures(x: torch.Tensor, latent: bool) -> torch.Tensor:
    """x_t or eps in [-1, 1], `b c h w -> b 3 h w`: black is -3, white 3, of three channels each a colour of its own.

    Latents stay latents, for a VAE's decoder has never seen noise: a fixed mix of their channels, in false colours.
    """
    return false_colours(x) if latent else Pixels().decode(x.float().cpu() / NOISE_REACH)


class Opened:
    """A trajectory, the model that made it (None where only the recording is at hand), and a codec for its pictures.

    `labels` are the classes' names; `decoded` holds pictures of x0 that are there already, by sample: `s 3 h w`.
    `others` are checkpoints to compare with, by name: each a function that gives (model, codec, labels). `id` is how a
    browser says which run it speaks of.
    """

    def __init__(
        self, trajectory: Trajectory, model=None, codec=None, *, labels=None, source="", decoded=None, others=None
    ):
        self.trajectory, self.model, self.codec = trajectory, model, codec or Pixels()
        if model is not None:
            trajectory.check_model(model)
        self.config, self.labels, self.source = trajectory.config, list(labels or []), source
        self.id, self.others = secrets.token_hex(8), dict(others or {})
        self.decoded, self.remembered = dict(decoded or {}), OrderedDict()

    def run(self, *samples: int) -> dict:
        """What all panels share of the run, with the frames of some samples (none named: of the first)."""
        run, config, options = self.trajectory, self.config, self.trajectory.options
        return {
            "id": self.id, "source": self.source, "live": self.model is not None, "t": shown_times(run),
            "grid": list(run.grid), "size": list(run.x.shape[-2:]), "channels": config.in_channels,
            "stages": self.stages(), "depth": config.depth, "heads": config.heads, "block": config.block,
            "blockTitle": BLOCKS[config.block].title, "classes": config.num_classes,
            "labels": [self.label_name(label) for label in run.labels], "labelNumbers": list(run.labels),
            "halves": self.halves(), "guided": [run.guidance(step) is not None for step in range(len(run.t))],
            "options": options, "title": self.title(), "latent": self.latent,
            "frames": {str(sample): self.frames(sample) for sample in samples or (0,)},
        }  # fmt: skip

    @property
    def latent(self) -> bool:
        """Whether the model's channels are not a picture's."""
        return is_latent(self.codec, self.config.in_channels)

    @property
    def light(self) -> bool:
        """Whether a forward at every step is so little work that nobody need be asked before."""
        parameters = sum(p.numel() for p in self.model.parameters())
        return parameters * self.trajectory.tokens_of(0) * len(self.trajectory.t) < LITTLE

    def stages(self) -> list[dict]:
        """Every stage: its name, first block, what its blocks are called, its grid, and input pixels a token's side."""
        shapes = self.config.stages
        return [
            words | {"grid": list(self.trajectory.grid_of(words["first"])), "patch": shape.patch}
            for words, shape in zip(stage_words(self.config), shapes, strict=True)
        ]

    def halves(self) -> list[str]:
        """The halves of guidance that can be looked into."""
        return ["cond", "uncond"] if self.config.num_classes and self.config.null_label else ["cond"]

    def label_name(self, label: int) -> str:
        """What a label is called: its class, or that it is none."""
        if not self.config.num_classes:
            return ""
        if label == self.config.num_classes:
            return "no class"
        return self.labels[label] if label < len(self.labels) else str(label)

    def title(self) -> str:
        """What made the run, in a line."""
        options, names = self.trajectory.options, list(dict.fromkeys(map(self.label_name, self.trajectory.labels)))
        steps = len(self.trajectory.t)
        sampler = SAMPLER_TITLES.get(options["sampler"], options["sampler"])
        seed = "given noise" if options["seed"] is None else f"seed {options['seed']}"
        parts = [seed, f"{steps} step{'s' * (steps > 1)} of {sampler}"]
        if options["size"] is not None:
            parts.append("{} x {}".format(*self.trajectory.x.shape[-2:]))
        if self.config.num_classes:
            few = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
            told = few if names == ["no class"] else f"class {few}" if len(names) == 1 else f"classes {few}"
            parts = [told, *parts, f"guidance {options['cfg_scale']:g}"]
        return ", ".join(parts)

    def frames(self, sample: int) -> dict:
        """A sample's frames, an atlas a kind: x_t, predicted x0 and eps, with what their brightness means."""
        run = self.trajectory
        pictures = {
            "x": self.shown(run.x[:, sample]),
            "x0": self.pictures(sample),
            "eps": self.shown(run.eps[:, sample]),
        }
        return {kind: atlas(picture) for kind, picture in pictures.items()}

    def pictures(self, sample: int) -> torch.Tensor:
        """Predicted x0 at every step as pictures, `s 3 h w` in [-1, 1]; decoded once, and the last few samples kept."""
        for _ in self.decoding(sample):
            pass
        return self.decoded[sample]

    def decoding(self, sample: int):
        """Decode a sample's predicted x0, yielding how many steps are done; `pictures` has them afterwards."""
        if sample not in self.decoded:
            done = []
            for x0 in self.trajectory.x0[:, sample]:
                yield len(done)
                done.append(self.codec.decode(x0[None]))
            self.decoded[sample] = torch.cat(done)
            for other in list(self.decoded)[:-DECODED]:
                del self.decoded[other]

    def shown(self, x) -> torch.Tensor:
        """x_t or eps as pictures, `b c h w -> b 3 h w`: see `noise_pictures`."""
        return noise_pictures(x, self.latent)

    def asked(self, request: dict, *names: str) -> dict:
        """The places that a request names, checked: any of step, sample, patch, block, head and half.

        Raises ValueError with a sentence on one that is missing or not there, and where there is no model to ask.
        """
        if self.model is None:
            raise ValueError("Only the recording is open, not its model: load its checkpoint to look inside.")
        return self.placed(request, *names)

    def placed(self, request: dict, *names: str) -> dict:
        """The same, of what a recording alone can answer."""
        run, config = self.trajectory, self.config
        rows, columns = run.grid
        bounds = {
            "step": len(run.t), "sample": len(run.labels), "patch": rows * columns, "block": config.depth,
            "head": config.heads,
        }  # fmt: skip
        checked = {}
        for name in names:
            value = request.get(name)
            if name == "half":
                checked[name] = choice("Half", value, self.halves())
            else:
                checked[name] = whole(name.capitalize(), value, 0, bounds[name] - 1)
        return checked

    def once(self, key, make: Callable[[], dict]) -> dict:
        """What `make` gives, from memory where the same key was asked before; `key` is any value with a `repr`."""
        key = repr(key)
        if key not in self.remembered:
            self.remembered[key] = make()
            if len(self.remembered) > REMEMBERED:
                self.remembered.popitem(last=False)
        self.remembered.move_to_end(key)
        return self.remembered[key]

    def answering(self, key, walking: Callable[[], Generator]) -> dict | Generator:
        """An answer from memory as `once` has it, or the generator of one, which keeps what it comes to."""
        if repr(key) in self.remembered:
            return self.once(key, dict)

        def walk():
            found = yield from walking()
            return self.once(key, lambda: found)

        return walk()
