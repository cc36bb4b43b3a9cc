"""The page offers what a model can do: sizes and classes, guidance only where there is a null label, and its notes."""

import subprocess
import sys
from dataclasses import replace

import gradio as gr
import pytest
import torch
from shared import ROOT, drawn

from dit_lab.checkpoints import Loaded, load, meta_dit
from dit_lab.data import Pixels
from dit_lab.models import build
from dit_lab.ui.controls import class_choices, controls, defaults, read
from dit_lab.ui.studio import Studio

SMALL = dict(dim=32, depth=1, heads=2, input_size=8, in_channels=1, num_classes=3)


def studio(**changes):
    """A studio on a small random model."""
    model = drawn(build("DiT-nano/4", **SMALL | changes), 0).eval()
    return Studio(Loaded(model, model.config, list("abc"), "pixels", "tiny"), Pixels())


def laid_out(config):
    with gr.Blocks():
        return controls(config, list("abc"))


def test_a_model_without_a_null_label_offers_its_classes_alone_and_no_guidance():
    config = build("DiT-nano/4", **SMALL, null_label=False).config
    assert class_choices(config, list("abc")) == [("a (0)", 0), ("b (1)", 1), ("c (2)", 2)]
    there = laid_out(config)
    assert there.label.visible and not there.cfg_scale.visible and "null label" not in there.label.info
    with pytest.raises(ValueError, match="Class must be a whole number from 0 to 2"):
        read(config, 3, "0", 4, "ddim", 1.0)
    assert read(config, 2, "0", 4, "ddim", 9.0)[1]["cfg_scale"] == 1.0
    of = studio(null_label=False)
    kept = list(of.sample(**defaults(of.config) | {"steps": 2}))[-1][0]
    assert kept.trajectory.options["cfg_scale"] == 1.0 and of.rows(kept, {"run": kept.run, "step": 0, "patch": 0})


def test_a_square_model_draws_another_size_that_is_looked_into():
    of = studio()
    assert laid_out(of.config).size.visible and laid_out(of.config).size.value == 8
    kept, frames, _ = list(of.sample(1, "0", 2, "ddim", 2.0, 16))[-1]
    assert kept.trajectory.x.shape[-2:] == (16, 16) and frames["grid"] == [4, 4] and "16 x 16" in frames["title"]
    assert of.rows(kept, {"run": kept.run, "step": 1, "patch": 15})["stages"][0]["grid"] == [4, 4]
    assert "8 x 8" not in list(of.sample(1, "0", 2, "ddim", 2.0, 8))[-1][1]["title"]


@pytest.mark.parametrize("size", [0, -4, 33, 10**400, float("nan"), "16", True, 9])
def test_a_size_that_cannot_be_is_a_sentence(size):
    with pytest.raises(gr.Error) as caught:
        list(studio().sample(1, "0", 2, "ddim", 2.0, size))
    assert "must be" in caught.value.message and len(caught.value.message) < 120


def test_a_model_of_oblong_inputs_has_no_side_to_choose():
    config = build("DiT-nano/4", **SMALL | dict(input_size=(8, 12))).config
    assert not laid_out(config).size.visible and defaults(config)["size"] is None
    assert "size" not in read(config, 1, "0", 4, "ddim", 1.0, 99)[1]


def test_the_header_says_what_was_taken_for_granted(tmp_path):
    model = build("DiT-nano/2", depth=1, input_size=8, num_classes=10)
    torch.save(meta_dit.to_theirs(drawn(model, 0).state_dict(), model.config), tmp_path / "a.pt")
    loaded = load(tmp_path / "a.pt")
    note = Studio(loaded, Pixels()).about()["note"]
    assert "Its label table of 11 rows is taken for 10 classes" in note and "taken for a DiT's" in note
    assert note.endswith("(--trained-as sit).")
    assert Studio(loaded, Pixels("The VAE is another.")).about()["note"] == f"{note} The VAE is another."
    assert Studio(replace(loaded, note=""), Pixels()).about()["note"] == ""


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--trained-as", "sit"], "name the --checkpoint that trained_as is said of"),
        (["--checkpoint", "mnist", "--trained-as", "sit"], "it says of itself trained_as dit, not 'sit'"),
    ],
)
def test_the_app_takes_what_is_told_of_its_checkpoint(options, told):
    done = subprocess.run([sys.executable, "app.py", *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1
