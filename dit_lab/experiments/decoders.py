"""One VAE's latents through several decoders (the DiT paper's appendix): the same samples, decoded and judged by each.

They are the VAE's own, ones that are trained on from it by `train-vae --decoder-only`, whose encoder stays to the bit,
and given VAEs with the same encoder. Beside each: real test pictures that were encoded, as it rebuilds them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange

from dit_lab.commands.train_vae import VaeModel, train_vae_command
from dit_lab.data import Autoencoder, open_codec
from dit_lab.evaluation import draw
from dit_lab.experiments import plots
from dit_lab.experiments.experiment import finished
from dit_lab.experiments.judge import SPLITS, Judge
from dit_lab.experiments.page import Part, spelt, verdict
from dit_lab.experiments.papers import DIT_DECODERS
from dit_lab.experiments.plan import Kept, Plan, last_part
from dit_lab.files import write_json
from dit_lab.models import Config
from dit_lab.training import VaeOptions
from dit_lab.training.folder import can_resume

LOSSES = "l2", "l1"
CLAIM = (
    "The paper's claim (appendix): a decoder that was trained on does a little better ({figures}: FID of DiT-XL/2 at "
    "guidance 1.5 by the decoder), and the model stays ahead of all before it with any of them."
)


@dataclass(frozen=True)
class Decoder:
    """A decoder by its name in the results, where it comes from, and for how many steps it is trained on, if it is."""

    name: str
    source: str
    steps: int | None = None

    @property
    def made(self) -> dict:
        """What makes it this one, as JSON."""
        return {"vae": self.name} if self.steps is None else {"loss": self.source, "steps": self.steps}

    def open(self, plan: Plan, judge: Judge, out: Path) -> Autoencoder:
        """Its VAE. One that is to be trained on is, in `out`, or gone on with, by what models learn from."""
        if self.steps is None:
            return open_codec(None, self.source, channels=None)
        folder, options = out / f"decoder-{self.name}", VaeOptions(steps=self.steps, loss=self.source)
        model, resume = VaeModel(init=plan.vae, decoder_only=True), can_resume(folder)
        pictures = dict(data=plan.data, split=judge.splits[0], size=judge.size)
        train_vae_command(options, model, out=folder, device="cpu", resume=resume, **pictures)
        return open_codec(None, str(folder), channels=None)


def decoders_of(vae: str, others: Sequence[str], steps: int) -> list[Decoder]:
    """The VAE's own and the others: a loss that it is trained on with, or another VAE."""
    trained_on = lambda other: steps if other in LOSSES else None
    return [Decoder(last_part(vae), vae), *(Decoder(last_part(each), each, trained_on(each)) for each in others)]


def check_decoders(decoders: Sequence[Decoder]) -> None:
    """Raise ValueError, before any work, on two of one name, on no steps, and on one of other latents."""
    first, *others = decoders
    names = [each.name for each in decoders]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"there are two decoders named {twice[0]}; give each a name of its own")
    if any(each.steps is not None and each.steps < 1 for each in others):
        raise ValueError("decoder_steps must be at least 1")
    given = [each for each in others if each.steps is None]
    encoder = encoder_of(first) if given else None
    for each in given:
        if encoder_of(each) != encoder:
            raise ValueError(f"{each.source} has another encoder than {first.source}, so it decodes other latents")


def encoder_of(decoder: Decoder) -> str:
    """What tells the latents that it decodes from others."""
    return open_codec(None, decoder.source, channels=None).encoder_checksum


def decode_more(
    table: dict, decoders: Sequence[Decoder], name: str, config: Config, plan: Plan, judge: Judge, kept: Kept
) -> None:
    """Judge samples of one model by each decoder that the table lacks, seed by seed, and keep what came out.

    Raises ValueError where the table has one of the same name that was made otherwise.
    """
    rows, made = table.setdefault("decoders", []), {each.name: each.made for each in decoders}
    if changed := [row["decoder"] for row in rows if made.get(row["decoder"], row["made"]) != row["made"]]:
        raise ValueError(f"{kept.results} was made with another decoder {changed[0]}; give --results another name")
    there = {(row["decoder"], row["model"], row["seed"]) for row in rows}
    codecs: dict[str, Autoencoder] = {}
    for seed in plan.seeds:
        missing = [each for each in decoders if (each.name, name, seed) not in there]
        codecs |= {each.name: each.open(plan, judge, kept.out) for each in missing if each.name not in codecs}
        if missing:
            print(f"{name}, seed {seed}, decoded by {', '.join(each.name for each in missing)}", flush=True)
            model = finished(config, name, seed, plan, kept)
            used = {each.name: codecs[each.name] for each in missing}
            for decoder, figures in judged_by(used, model, plan, judge, rows).items():
                rows.append({"decoder": decoder, "made": made[decoder], "model": name, "seed": seed, **figures})
            write_json(kept.results, table)


def judged_by(codecs: dict[str, Autoencoder], model, plan: Plan, judge: Judge, rows: list[dict]) -> dict[str, dict]:
    """Figures of the same samples by each decoder, and of rebuilt test pictures, which `rows` may have already."""
    together = lambda latents: torch.cat([codec.decode(latents) for codec in codecs.values()], dim=1)
    drawn, labels = draw(model, plan.samples, plan.sample_steps, 1.0, together)
    found = {}
    for name, pictures in zip(codecs, rearrange(drawn, "n (k c) h w -> k n c h w", k=len(codecs)), strict=True):
        known = next((row for row in rows if row["decoder"] == name), None) or judge.of_rebuilt(codecs[name].decode)
        found[name] = {field: known[field] for field in ("rebuilt", "psnr")} | judge.seen(pictures, labels)
    return found


def decoded(table: dict, models: dict[str, list[dict]]) -> Part | None:
    """The same samples by each decoder, where several were judged; `models` are the runs, the largest last.

    Of a grid that has grown since, rows of what was its largest model before are left where they are.
    """
    rows = table.get("decoders", [])
    model = next((name for name in reversed(models) if any(row["model"] == name for row in rows)), None)
    rows = [row for row in rows if row["model"] == model]
    by_decoder = {
        name: [row for row in rows if row["decoder"] == name]
        for name in dict.fromkeys(each["decoder"] for each in rows)
    }
    if len(by_decoder) < 2:
        return None
    columns = ("psnr", ".2f"), ("rebuilt", ".1f"), ("frechet", ".1f"), ("agreement", ".0%")
    own = rows[0]["decoder"]
    lines = [
        f"| decoder | PSNR, rebuilt (dB) | Fréchet, rebuilt | Fréchet, samples of {model} | as asked |",
        "| --- " * 5 + "|",
    ]
    for name, mine in by_decoder.items():
        seeds = [mine[:1], mine[:1], mine, mine]  # the first two know of no seed
        figures = [spelt(runs, *column) for runs, column in zip(seeds, columns, strict=True)]
        lines.append(f"| {name} | {' | '.join(figures)} |")
    trained = [row["made"] for (row, *_) in by_decoder.values() if "loss" in row["made"]]
    commands = "; ".join(f"`{command_of(made, table['settings'])}`" for made in trained)
    made = f"{own} is the VAE's own; trained on from it, each with the same `--data`: {commands}." if trained else ""
    claim = CLAIM.format(figures=", ".join(f"{name} {fid:.2f}" for name, fid in DIT_DECODERS.items()))
    return Part(
        "One VAE's latents by several decoders", plots.decoders(by_decoder, model),
        "\n".join([*lines, "", made, "", f"{claim} {came(by_decoder, model, models)}"]),
    )  # fmt: skip


def command_of(made: dict, settings: dict) -> str:
    """What trains a decoder on, as the page says it."""
    size = "" if settings.get("size") is None else f" --size {settings['size']}"
    split = f" --split {settings[SPLITS][0]}" if SPLITS in settings else ""
    how = f"--init {settings['vae']} --decoder-only --loss {made['loss']} --steps {made['steps']}{split}{size}"
    return f"python -m dit_lab train-vae {how} --out runs/scaling/decoder-{made['loss']}"


def came(by_decoder: dict[str, list[dict]], model: str, models: dict[str, list[dict]]) -> str:
    """What came out of both halves of the claim."""
    mean = lambda rows: sum(row["frechet"] for row in rows) / len(rows)
    distances = {name: mean(rows) for name, rows in by_decoder.items()}
    (own, first), *others = by_decoder.items()
    same = {row["seed"]: row for row in first}
    said = lambda rows: verdict(rows, [same[row["seed"]] for row in rows], "frechet")
    apart = lambda name: f"({distances[name] - distances[own]:+.1f} of {distances[own]:.1f})"
    better = [f"{name} {said(rows)} {apart(name)}" for name, rows in others]
    floors = {name: rows[0]["rebuilt"] for name, rows in by_decoder.items()}
    order = "the same order" if sorted(floors, key=floors.get) == sorted(distances, key=distances.get) else "another"
    told = f"Here, of the first half: {', '.join(better)}; rebuilt real pictures put the decoders in {order}."
    rivals = {name: mean(runs) for name, runs in models.items() if name != model}
    if not rivals:
        return told
    next_one = min(rivals, key=rivals.get)
    ahead = "held" if max(distances.values()) < rivals[next_one] else "failed"
    return f"{told} That {model} stays ahead of {next_one} ({rivals[next_one]:.1f}) with any of them {ahead}."
