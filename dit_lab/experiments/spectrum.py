"""`python -m dit_lab experiment spectrum`: U-DiT's low-frequency finding (section 3.1), on checkpoints of one's own."""

import sys
from pathlib import Path

import torch

from dit_lab.checkpoints import load
from dit_lab.experiments.experiment import folder_of
from dit_lab.experiments.ladder import Ladder
from dit_lab.experiments.page import save_figure
from dit_lab.files import make_folder, writable, write_json
from dit_lab.inside import feature_spectra, plots, record

RUNGS = ("toy/unet", "toy/isotropic")


def spectrum_command(
    checkpoints: tuple[str, ...] = (),
    /,
    *,
    ladder: Path = Path("runs/udit_ladder"),
    seed: int = 0,
    samples: int = 8,
    steps: int = 11,
    results: Path = Path("docs/results/udit_spectrum.json"),
) -> None:
    """How coarse the features after each block are, by timestep, as JSON and a figure; each model on its own run.

    Args:
        checkpoints: Zoo names, folders, files or hub ids (default: the ladder's U-shaped and its isotropic rung).
        ladder: Where the ladder's runs are.
        seed: Which of them.
        samples: Pictures that the power is the mean over, of the classes in turn.
        steps: DDIM steps, each of them looked at.
        results: The JSON to write; the figure goes beside it.
    """
    writable(results, results.with_suffix(".png"))
    spectra = {}
    for name, source in sources(checkpoints, ladder, seed).items():
        loaded = load(source)
        if loaded.note:
            print(f"dit_lab: {loaded.note}", file=sys.stderr)
        model = loaded.model
        labels = torch.arange(samples) % max(model.config.num_classes, 1)
        spectra[name] = feature_spectra(record(model, labels, steps=steps), model)
    make_folder(results.parent)
    save_figure(plots.spectrum(spectra), results.with_suffix(".png"))
    write_json(results, {name: seen.as_json() for name, seen in spectra.items()})
    print(f"{results}, {results.with_suffix('.png')}: the spectra of {', '.join(spectra)}")


def sources(checkpoints: tuple[str, ...], ladder: Path, seed: int) -> dict[str, str]:
    """The checkpoints that are looked at, by what the figure calls them. Raises ValueError where rungs are missing."""
    if checkpoints:
        return {source: source for source in checkpoints}
    rungs = {name: folder_of(ladder, name, seed) for name in RUNGS}
    if missing := [folder for folder in rungs.values() if not folder.is_dir()]:
        raise ValueError(
            f"there is no {missing[0]}: train the rungs with {Ladder.command()}, say with --ladder where they are, "
            "or name checkpoints"
        )
    return {name: str(folder) for name, folder in rungs.items()}
