"""How training went, and whether samples are copies of what was trained on."""

from functools import partial

import torch

from dit_lab.checkpoints.places import zoo as shipped
from dit_lab.diffusion import loss_by_timestep
from dit_lab.experiments.kept import log_of
from dit_lab.experiments.sights.base import Sight, Zoo
from dit_lab.inside import memorised
from dit_lab.inside.plots import loss_by_timestep_plot, loss_curve, neighbours_table

UNSEEN = 2000  # test pictures that are compared with
ASKED = 0, 3, 7, 9
JUDGED, TIMES = 50, (10, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 999)  # test pictures, and their noise


def training(zoo: Zoo) -> Sight:
    """The losses of the training of a model that ships."""
    log, run = log_of(shipped()["mnist"]), zoo.run("mnist", *range(10))
    noise = run.x[0]
    with torch.no_grad():
        said = zoo.untrained("mnist")(noise, torch.full((10,), run.t[0]), torch.arange(10))
    return Sight(
        "How training went",
        f"`mnist`, {log[-1]['step']} steps",
        partial(loss_curve, log),
        "Two falling curves over the training steps, the mean squared error and the variational bound",
        f"The mean squared error of the predicted noise is {log[0]['mse']:.2f} over the first {log[0]['step']} steps "
        f"and {log[-1]['mse']:.3f} over the last.",
        f"The model before training predicts {said.abs().max():.0f} everywhere, and so errs by all of the noise: in "
        f"ten pictures of it {noise.square().mean():.2f}.",
    )


def errors(zoo: Zoo) -> Sight:
    """How well each noise level is predicted, before and after training."""
    x0, y = zoo.test.batch(range(JUDGED))
    models = {"trained": zoo.model("mnist"), "before training": zoo.untrained("mnist")}
    rows = {name: loss_by_timestep(model, x0, y, TIMES, seeds=(0, 1)) for name, model in models.items()}
    trained, before = (values.mean(0) for values in rows.values())
    return Sight(
        "Which noise is hard to see?",
        f"`mnist`, {JUDGED} test pictures at {len(TIMES)} timesteps",
        partial(loss_by_timestep_plot, rows, TIMES, what="mean squared error of eps"),
        "Two curves of the error of predicted noise over timesteps, one falling, one level",
        f"The mean squared error of eps is {trained[0]:.2f} at t = {TIMES[0]}, where there is next to none, and "
        f"{trained[-1]:.1g} at t = {TIMES[-1]}, where all is noise.",
        f"Before training it is {before.mean():.2f} on average, and {before.min():.2f} at least.",
    )


def neighbours(zoo: Zoo) -> Sight:
    """Samples beside their nearest training pictures, with a real one and a copy among them."""
    run = zoo.run("mnist", *range(10))
    unseen, label = zoo.test.batch([0])
    copied, its_label = zoo.train.batch([0])
    samples = torch.cat([run.sample[list(ASKED)], unseen, copied])
    labels = torch.cat([torch.tensor(ASKED), label, its_label])
    some = range(1, min(1 + UNSEEN, len(zoo.test)))
    found = memorised(samples, zoo.train, [zoo.test.batch(some)], labels=labels)
    shares = [f"{share:.0%}" for share in found.share]
    return Sight(
        "Are they copies?",
        f"`mnist`, a {', a '.join(map(str, ASKED))}",
        partial(neighbours_table, samples, found),
        "Six digits, each beside its three nearest training pictures, and a histogram of how near test pictures come",
        f"Samples 0 to {len(ASKED) - 1} are drawn by the model; of the test pictures of their class "
        f"{', '.join(shares[: len(ASKED)])} are nearer to their nearest training picture than these are.",
        f"Of sample {len(ASKED)}, a real test picture, it is {shares[-2]}; of sample {len(ASKED) + 1}, a training "
        f"picture put in as a copy, {shares[-1]}.",
    )


LEARNT = training, errors, neighbours
