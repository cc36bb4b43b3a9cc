"""What the page asks of the model: sample with live previews, and look into a finished run. No components here."""

import html
import math
import secrets
import time
from typing import NamedTuple

import gradio as gr
import torch

from dit_lab.data import Autoencoder, Pixels
from dit_lab.diffusion import check_finite
from dit_lab.inside import Recording, Trajectory, token_under
from dit_lab.inside.plots import NOISE_REACH, as_pictures
from dit_lab.models import BLOCKS
from dit_lab.models.grid_layers import FACTOR
from dit_lab.ui.controls import SAMPLER_TITLES, defaults, read, whole
from dit_lab.ui.pictures import atlas, data_uri, pack
from dit_lab.ui.words import facts, shown_times, stage_words

PREVIEW_SECONDS = 0.1
# A run is recorded before the page opens where a forward takes about so many multiplications, and all of it so long.
OPENING_MACS = 5e8
OPENING_SECONDS = 2.0
OPENING_STEPS = 10  # at least; a slower model opens with fewer steps than the controls say


class Kept(NamedTuple):
    """A finished run as the session keeps it; `run` is how the browser says which run it speaks of."""

    run: str
    trajectory: Trajectory


class Studio:
    """A loaded checkpoint and its codec, behind the page's events. Its methods raise gr.Error with a sentence."""

    def __init__(self, loaded, codec):
        self.model, self.config, self.codec = loaded.model, loaded.config, codec
        self.labels = [str(label) for label in loaded.labels or []]
        self.source, self.note = str(loaded.source), loaded.note

    def opening(self) -> tuple[Kept | None, dict | None, dict | None, dict | None]:
        """A run to open the page with, and what its panels show; Nones where it fails or keeps the reader waiting."""
        try:
            return self.first_run()
        except gr.Error:  # the page opens all the same; whoever presses Sample is told
            return None, None, None, None

    def first_run(self) -> tuple[Kept | None, dict | None, dict | None, dict | None]:
        """What `opening` gives. Raises gr.Error where the model makes no pictures."""
        nothing, first = (None, None, None, None), defaults(self.config)
        if self.macs() > OPENING_MACS or isinstance(self.codec, Autoencoder):
            return nothing
        for _ in range(2):  # what a step takes once the first has warmed the machine up
            begun = time.monotonic()
            list(self.sample(**first | {"steps": 1}))
        began, taken = time.monotonic(), time.monotonic() - begun
        steps = min(first["steps"], int(OPENING_SECONDS / taken))
        if steps < min(OPENING_STEPS, first["steps"]):
            return nothing
        for kept, trajectory, modulation in self.sample(**first | {"steps": steps}):  # noqa: B007
            if time.monotonic() - began > 2 * OPENING_SECONDS:
                return nothing
        rows, columns = self.config.grid
        step = 3 * (len(kept.trajectory.t) - 1) // 4
        request = {"run": kept.run, "step": step, "patch": (rows // 2) * columns + columns // 2}
        return kept, trajectory | {"step": step}, modulation, self.rows(kept, request)

    def macs(self) -> int:
        """About the multiplications of a forward: each block's parameters at each of its tokens."""
        parameters = [sum(p.numel() for p in block.parameters()) for block in self.model.blocks]
        return sum(count * math.prod(self.config.grid_of(block)) for block, count in enumerate(parameters))

    def sample(self, label, seed, steps, sampler, cfg_scale, size=None):
        """Yield (run to keep, trajectory panel, modulation panel): previews as they come, then the finished run."""
        try:
            labels, options = read(self.config, label, seed, steps, sampler, cfg_scale, size)
            # Latents have no bounds that a clipped x0 could keep.
            recording = Recording(
                self.model, labels, **options, clip_x0=None if isinstance(self.codec, Pixels) else False
            )
        except ValueError as error:
            raise problem(error) from None
        run, decoded, shown = secrets.token_hex(8), [], -math.inf
        try:
            for step in recording:
                # Decoded as they come, so that the preview is the frame, and no wait follows the last step.
                decoded.append(self.codec.decode(step.x0.cpu()))
                check_finite("the picture", step.x0, step.previous, decoded[-1])
                if time.monotonic() - shown > PREVIEW_SECONDS:
                    shown = time.monotonic()
                    preview = self.preview(step, decoded[-1]) | {"run": run, "steps": options["steps"]}
                    yield gr.skip(), preview, gr.skip()
            kept = Kept(run, recording.trajectory)
            yield kept, self.frames(kept, torch.cat(decoded)), self.modulation(kept)
        except (ValueError, RuntimeError) as error:
            yield gr.skip(), {"kind": "stopped"}, gr.skip()
            raise problem(error) from error

    def preview(self, step, x0) -> dict:
        """One step on its way: the three pictures, and which step it is."""
        images = {"x": self.picture(step.x.cpu()), "x0": x0, "eps": self.picture(step.eps.cpu() / NOISE_REACH)}
        uris = {name: data_uri(as_pictures(image)[0], max(image.shape[-2:])) for name, image in images.items()}
        return {"kind": "preview", "pictures": uris, "step": step.index, "t": round(step.t, 1)}

    def frames(self, kept: Kept, x0: torch.Tensor) -> dict:
        """The finished run: one atlas each of x_t, predicted x0 and eps, one frame a step."""
        trajectory = kept.trajectory
        images = {
            "x": self.picture(trajectory.x[:, 0]),
            "x0": x0,
            "eps": self.picture(trajectory.eps[:, 0] / NOISE_REACH),
        }
        return {
            "kind": "trajectory", "run": kept.run, "t": shown_times(trajectory), "grid": list(trajectory.grid),
            "atlases": {name: atlas(image) for name, image in images.items()},
            "title": self.title(trajectory),
        }  # fmt: skip

    def picture(self, x):
        """x_t or eps, `b c h w -> b 3 h w`: latents stay latents, for a VAE's decoder has never seen noise."""
        return Pixels().decode(x)

    def title(self, trajectory: Trajectory) -> str:
        """What made a run, in a line."""
        label, options = trajectory.labels[0], trajectory.options
        name = "no class" if label == self.config.num_classes else self.labels[label]
        parts = [f"seed {options['seed']}", f"{options['steps']} steps of {SAMPLER_TITLES[options['sampler']]}"]
        if options["size"] is not None:
            parts.append("{} x {}".format(*trajectory.x.shape[-2:]))
        if self.config.num_classes:
            parts = [f"class {name}", *parts, f"guidance {options['cfg_scale']:g}"]
        return ", ".join(parts)

    def modulation(self, kept: Kept) -> dict:
        """The heat maps of block x step by part, or the reason why there are none."""
        block = BLOCKS[self.config.block]
        stages = stage_words(self.config)
        about = {"run": kept.run, "t": shown_times(kept.trajectory), "stages": stages, "parts": {}, "reason": ""}
        if not block.modulated:
            reason = f"Nothing to show: in {block.title} blocks the condition enters without shift, scale or gate."
            return about | {"reason": reason}
        norms = kept.trajectory.modulation_norms(self.model)
        return about | {"parts": {part: pack(norm) for part, norm in norms.items()}}

    def attend(self, kept: Kept | None, event: gr.EventData) -> dict:
        """A clicked patch's attention, for the attention panel; `event` carries {run, step, patch} from the browser."""
        try:
            return self.rows(kept, getattr(event, "_data", None))
        except ValueError as error:
            raise problem(error) from None

    def rows(self, kept: Kept | None, request) -> dict:
        """A patch's attention in every stage, from one replay. Raises ValueError on a bad request."""
        request = request if isinstance(request, dict) else {}
        if kept is None or request.get("run") != kept.run:
            raise ValueError("This run is no longer kept. Press Sample to make it again.")
        trajectory = kept.trajectory
        step = whole("Step", request.get("step"), 0, len(trajectory.t) - 1)
        patch = whole("Patch", request.get("patch"), 0, math.prod(trajectory.grid) - 1)
        return {
            "run": kept.run, "step": step, "patch": patch,
            "t": shown_times(trajectory)[step], "steps": len(trajectory.t),
            "stages": self.stages(trajectory, step, patch), "guided": trajectory.options["cfg_scale"] != 1,
        }  # fmt: skip

    def stages(self, trajectory: Trajectory, step: int, patch: int) -> list[dict]:
        """Stage by stage: its grid, the token on it that the patch lies under, and that token's rows.

        Of `stride` rows and columns a token sees one: 2 where attention runs on interleaved grids, else 1.
        """
        stride = FACTOR if getattr(self.config, "downsample", None) == "token" else 1
        rows, shapes, stages = trajectory.patch_rows(self.model, step, patch), self.config.stages, []
        for words, shape in zip(stage_words(self.config), shapes, strict=True):
            grid = trajectory.grid_of(words["first"])
            query = token_under(patch, trajectory.grid, shapes[0].patch, grid, shape.patch)
            packed = {"grid": list(grid), "query": query, "stride": stride, "rows": pack(rows[shape.name])}
            stages.append(words | packed)
        return stages

    def about(self) -> dict:
        """The header: what is loaded, in a few short facts."""
        parameters = sum(p.numel() for p in self.model.parameters())
        latent = not isinstance(self.codec, Pixels)
        known = {"Checkpoint": self.source} | facts(self.config, parameters, latent=latent)
        told = [{"name": name, "text": text} for name, text in known.items()]
        return {"facts": told, "note": notes(self.note, self.codec.note)}


def notes(*sentences: str) -> str:
    """Notes for the header, one after the other."""
    return " ".join(f"{text[:1].upper()}{text[1:].rstrip('.')}." for text in sentences if text)


def problem(error: Exception) -> gr.Error:
    """An error as a message in the page: the sentence alone, nothing in it read as HTML."""
    return gr.Error(html.escape(str(error)), title="That did not work", print_exception=False)
