"""Five typed endpoints for programs, of `gradio_client` and as MCP tools: each takes plain values and gives JSON."""

import gradio as gr

from dit_lab.inside.plots import as_pictures
from dit_lab.models import PRESETS
from dit_lab.models import count as count_model
from dit_lab.panels.asking import choice
from dit_lab.panels.packing import data_uri
from dit_lab.ui.sampling import sampling
from dit_lab.ui.settings import defaults
from dit_lab.ui.workbench import Workbench

MOST_PARTS, MOST_AT_ONCE = 12, 4


class Endpoints:
    """What programs may ask of a workbench; the public methods are the endpoints, by their names."""

    def __init__(self, workbench: Workbench):
        self._workbench = workbench

    def sample(
        self, checkpoint: str, label: int, seed: int = 0, steps: int | None = None, guidance: float = 2.0
    ) -> dict:
        """Draw a picture of a class with a checkpoint of this app.

        Args:
            checkpoint: A name that list_checkpoints gives.
            label: The class's number.
            seed: Fixes the noise.
            steps: Denoising steps, 1 to 1000; left out, the sampler and steps that the page begins with.
            guidance: Scale of classifier-free guidance; 1 is none.

        Returns:
            picture: a data URI; title: what made it.
        """

        def work():
            opened = yield from self._run(checkpoint, label, seed, steps, guidance)
            picture = as_pictures(opened.pictures(0)[-1:])[0]
            return {"picture": data_uri(picture, max(picture.shape[:2])), "title": opened.title()}

        return self._finished(work)

    def attention(
        self, checkpoint: str, label: int, step: int, patch: int, block: int, seed: int = 0, steps: int | None = None,
        guidance: float = 2.0,
    ) -> dict:  # fmt: skip
        """Where a patch looks, in every head of a block, at a step of a run.

        Args:
            checkpoint: A name that list_checkpoints gives.
            label: The class's number.
            step: From 0, the noisiest.
            patch: A patch of the finest grid, row by row from 0.
            block: From 0, the first.
            seed: Fixes the noise.
            steps: Denoising steps of the run, as sample has them.
            guidance: Scale of classifier-free guidance.

        Returns:
            weights: one list a head, a weight a token of the block's grid; grid: its rows and columns.
        """

        def work():
            opened = yield from self._run(checkpoint, label, seed, steps, guidance)
            opened.asked({"step": step, "patch": patch, "block": block}, "step", "patch", "block")
            run = opened.trajectory
            stage, blocks = next(each for each in opened.config.stage_blocks.items() if block in each[1])
            rows = run.patch_rows(opened.model, step, patch)[stage][block - blocks.start]
            return {"weights": rows.tolist(), "grid": list(run.grid_of(block)), "title": opened.title()}

        return self._finished(work)

    def contributions(
        self, checkpoint: str, label: int, step: int, seed: int = 0, steps: int | None = None, guidance: float = 2.0
    ) -> dict:
        """Which parts of the network made the predicted picture at a step: the largest, by root mean square.

        Args:
            checkpoint: A name that list_checkpoints gives.
            label: The class's number.
            step: From 0, the noisiest.
            seed: Fixes the noise.
            steps: Denoising steps of the run, as sample has them.
            guidance: Scale of classifier-free guidance.

        Returns:
            parts: name and size of each, largest first; error: how far all parts are from adding up, relatively.
        """

        def work():
            opened = yield from self._run(checkpoint, label, seed, steps, guidance)
            opened.asked({"step": step}, "step")
            found = opened.trajectory.contributions(opened.model, step)
            sizes = found.x0.square().mean(dim=(1, 2, 3)).sqrt()
            best = sizes.argsort(descending=True)[:MOST_PARTS].tolist()
            parts = [{"part": str(found.parts[i]), "size": sizes[i].item()} for i in best]
            return {"parts": parts, "error": found.error, "title": opened.title()}

        return self._finished(work)

    def list_checkpoints(self) -> list[str]:
        """The names of the checkpoints that this app serves."""
        return list(self._workbench.checkpoints.sources)

    def count(self, preset: str) -> dict:
        """Parameters and multiply-accumulates of a model of the papers, for one picture.

        Args:
            preset: Its name, such as DiT-XL/2 or U-DiT-S.

        Returns:
            parameters, trained ones, and macs.
        """
        try:
            table = count_model(choice("Preset", preset, PRESETS))
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return {"parameters": table.params, "trained": table.trained, "macs": table.macs}

    def _finished(self, work):
        """What work comes to, in the model's thread, after whatever goes before it. Raises gr.Error with a sentence."""
        try:
            return self._workbench.finished(work)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from None

    def _run(self, checkpoint, label, seed, steps, guidance):
        """A run with a page's defaults, but for what is given; as a generator."""
        served = self._workbench.checkpoints.get(checkpoint)
        first = defaults(served.config, checkpoint, served.loaded.qualities)
        given = {"labels": [label], "seed": seed, "cfg_scale": guidance} | ({} if steps is None else {"steps": steps})
        return (yield from sampling(self._workbench.checkpoints, first | given, {}))


def add_endpoints(workbench: Workbench) -> None:
    """Put the endpoints into the app that is being built."""
    asked = Endpoints(workbench)
    few = {"concurrency_id": "model", "concurrency_limit": MOST_AT_ONCE}  # so that pages find room in the model's queue
    for endpoint, limits in (
        (asked.sample, few), (asked.attention, few), (asked.contributions, few), (asked.list_checkpoints, {}),
        (asked.count, {}),
    ):  # fmt: skip
        gr.api(endpoint, api_name=endpoint.__name__, **limits)
