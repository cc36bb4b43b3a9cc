"""Rescaled guidance: against diffusers, in a walk, and in the file of a recorded run."""

import ast
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shared import random_model
from torch.testing import assert_close

from dit_lab.diffusion import Rescaled, generate, sample
from dit_lab.inside import TraceError, Trajectory, record
from dit_lab.inside.rerun import rerun

MODEL = random_model()
ASKED = dict(steps=4, cfg_scale=4.0, seed=3)
PIPELINE = "pipelines/stable_diffusion/pipeline_stable_diffusion.py"


def diffusers_rescaling():
    """Their function, out of a file that cannot be imported without another library."""
    tree = ast.parse((Path(find_spec("diffusers").origin).parent / PIPELINE).read_text(encoding="utf-8"))
    function = next(node for node in tree.body if getattr(node, "name", "") == "rescale_noise_cfg")
    names = {}
    exec(compile(ast.Module([function], []), PIPELINE, "exec"), names)
    return names["rescale_noise_cfg"]


@pytest.mark.parametrize("phi", [0.0, 0.3, 0.7, 1.0])
def test_the_mix_is_diffusers(phi):
    cond, uncond = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    theirs = diffusers_rescaling()(uncond + 4.0 * (cond - uncond), cond, guidance_rescale=phi)
    assert_close(Rescaled(phi)(cond, uncond, 4.0), theirs, rtol=1e-5, atol=1e-6)


def test_all_of_it_has_the_deviation_of_the_conditional_prediction_picture_by_picture():
    cond, uncond = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    mixed = Rescaled(1.0)(cond, uncond, 4.0)
    assert_close(mixed.std(dim=(1, 2, 3)), cond.std(dim=(1, 2, 3)))
    assert_close(Rescaled(1.0)(cond[1:2], uncond[1:2], 4.0), mixed[1:2])


def test_what_says_nothing_at_all_stays_so():
    assert torch.equal(Rescaled(0.7)(*torch.zeros(2, 1, 3, 4, 4), 4.0), torch.zeros(1, 3, 4, 4))


def test_a_walk_without_it_is_the_usual_one_and_with_it_another():
    usual = generate(MODEL, [1, 2], **ASKED)
    assert_close(generate(MODEL, [1, 2], guide=Rescaled(0.0), **ASKED), usual, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(generate(MODEL, [1, 2], guide=Rescaled(0.7), **ASKED), usual, atol=1e-2)


def test_a_recorded_run_says_so_is_kept_and_is_walked_again_to_the_bit(tmp_path):
    run = record(MODEL, [1], guide=Rescaled(0.7), **ASKED)
    run.save(tmp_path / "run.safetensors")
    again = Trajectory.load(tmp_path / "run.safetensors")
    assert again.options["guide"] == {"rescaled": 0.7}
    walked = rerun(again, MODEL)
    assert torch.equal(walked["sample"], run.sample) and torch.equal(walked["x0"], run.x0)
    with pytest.raises(TraceError, match="the mix is not a sum of its halves"):
        again.contributions(MODEL, 1, half="guided")
    assert again.contributions(MODEL, 1, half="cond").error < 1e-4


@pytest.mark.parametrize("guide", [{"rescaled": 2}, {"rescaled": "x"}, {"other": 1}, {}, [], {"rescaled": 1, "b": 2}])
def test_a_file_with_another_guide_is_refused(guide, tmp_path):
    path = tmp_path / "run.safetensors"
    record(MODEL, [1], **ASKED).save(path)
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["dit_lab"])
    about["options"]["guide"] = guide
    save_file(tensors, path, {"dit_lab": json.dumps(about)})
    with pytest.raises(TraceError, match="guid"):
        Trajectory.load(path)


@pytest.mark.parametrize("phi", [-0.1, 1.1, float("nan"), "much", None])
def test_a_share_that_is_none_is_refused(phi):
    with pytest.raises(ValueError, match="the share of guidance to rescale must be a number from 0 to 1"):
        Rescaled(phi)


def test_without_guidance_there_is_nothing_to_rescale():
    with pytest.raises(ValueError, match="at cfg_scale 1 only one is run"):
        sample(MODEL, [1], steps=4, guide=Rescaled())
