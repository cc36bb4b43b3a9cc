"""The defaults of a run: the paper's values by name, and what differs from them by intent."""

from dataclasses import asdict

import torch

from dit_lab.diffusion import process_of
from dit_lab.models import build, preset
from dit_lab.training import TrainOptions
from dit_lab.training.options import FREE
from dit_lab.training.state import TrainState

# Section 4 of the paper, and the script that goes with it.
PAPER = dict(
    lr=1e-4, warmup=0, lr_decay="constant", weight_decay=0.0, betas=(0.9, 0.999), ema_decay=0.9999, label_dropout=0.1,
    times="uniform", min_snr=None,
)  # fmt: skip
# One machine instead of many, digits as well as photographs, and short runs as well as long ones. The paper: batches of
# 256, flipped; fp32; gradients as they are, and an average of one decay from its first step.
OURS = dict(batch_size=64, mirror=False, precision="auto", clip=1.0, ema_warmup=True, seed=0)
RUN = dict(steps=10_000, save_every=1000, sample_every=0, tracker=(), accumulate=1, checkpointing=False, compile=False,
           shard=False)  # fmt: skip


def test_the_defaults_are_the_papers_values_but_for_those_that_are_ours():
    assert asdict(TrainOptions()) == PAPER | OURS | RUN


def test_what_may_change_in_a_run_is_how_long_how_often_and_on_what():
    assert {*FREE} == {*RUN}


def test_a_fresh_state_is_the_papers_too():
    state = TrainState.fresh(build("DiT-nano/8", dim=16, depth=1, heads=2, num_classes=3), TrainOptions().lr)
    [group] = state.optimiser.param_groups
    assert isinstance(state.optimiser, torch.optim.AdamW)
    assert [group[name] for name in ("lr", "betas", "weight_decay", "eps")] == [1e-4, (0.9, 0.999), 0, 1e-8]
    assert [*state.averages] == [0.9999] and state.step == 0 and state.ema_warmup and not state.precision
    by_hand = TrainState(state.model, state.averages, state.optimiser)
    assert by_hand.ema_warmup and (by_hand.step, by_hand.recent, by_hand.precision) == (0, [], "")


def test_the_papers_model_is_trained_for_noise_and_its_variance_over_a_thousand_linear_steps():
    config = preset("DiT-XL/2")
    assert (config.prediction, config.schedule, config.learned_variance, config.block) == (
        "eps", "linear", True, "adaln_zero",
    )  # fmt: skip
    assert (config.depth, config.dim, config.heads, config.mlp_ratio) == (28, 1152, 16, 4.0)
    assert (config.input_size, config.in_channels, config.num_classes, config.null_label) == (32, 4, 1000, True)
    process = process_of(config)
    assert len(process.timesteps) == 1000
