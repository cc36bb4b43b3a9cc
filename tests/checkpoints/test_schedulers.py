"""A diffusers scheduler's config is honoured in every field that says what was trained, or refused in a sentence."""

import json
import shutil

import diffusers
import numpy as np
import pytest
import torch
from shared import drawn

from dit_lab.checkpoints import CheckpointError, load, save
from dit_lab.checkpoints.diffusers_schedulers import SCHEDULERS
from dit_lab.commands.convert import convert_command
from dit_lab.diffusion import process_of
from dit_lab.models import build

FIELDS = ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps", "trained_betas", "prediction_type")
FIELDS += ("rescale_betas_zero_snr", "use_flow_sigmas")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers", "ignore::DeprecationWarning:numpy")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """The folder of a small pipeline; not to be written to."""
    folder = tmp_path_factory.mktemp("pipeline")
    model = drawn(build("DiT-nano/2", dim=32, depth=1, heads=2, input_size=8, num_classes=10), 0)
    convert_command(str(save(folder / "own", model)), folder / "pipe", to="diffusers")
    return folder / "pipe"


@pytest.fixture
def scheduled(pipeline, tmp_path):
    """The pipeline with another scheduler's config."""

    def make(config: dict):
        folder = shutil.copytree(pipeline, tmp_path / "pipe", dirs_exist_ok=True)
        (folder / "scheduler/scheduler_config.json").write_text(json.dumps(config))
        return folder

    return make


def complaint(folder) -> str:
    """The one sentence that `load` refuses a folder with."""
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    said = str(caught.value)
    assert said.isprintable() and len(said.replace(str(folder), "")) < 300 and str(folder) in said
    return said


@pytest.mark.parametrize("name", SCHEDULERS)
def test_what_a_config_leaves_out_means_diffusers_own_default(name):
    scheduler = getattr(diffusers, f"{name}Scheduler")().config
    assert {field: scheduler[field] for field in FIELDS if field in scheduler} == {
        field: SCHEDULERS[name][field] for field in FIELDS if field in scheduler
    }


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_that_loads_has_our_alpha_bar(name, schedule, scheduled):
    options = dict(beta_schedule=schedule, beta_start=1e-4, beta_end=0.02)
    theirs = getattr(diffusers, f"{name}Scheduler")(**options)
    loaded = load(scheduled({"_class_name": f"{name}Scheduler", **options}))
    np.testing.assert_allclose(theirs.alphas_cumprod.numpy(), process_of(loaded.config).alpha_bar, rtol=2e-4, atol=1e-7)
    assert loaded.note == ""


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (dict(beta_start=0.00085), "beta_start 0.00085"),
        (dict(beta_end=0.012), "beta_end 0.012"),
        (dict(beta_start=0.00085, beta_end=0.012), "beta_start 0.00085, beta_end 0.012"),
        (dict(beta_schedule="scaled_linear"), "beta_schedule 'scaled_linear'"),
        (dict(num_train_timesteps=500), "num_train_timesteps 500"),
        (dict(num_train_timesteps=10**400), "num_train_timesteps"),
        (dict(num_train_timesteps="1000"), "num_train_timesteps '1000'"),
        (dict(trained_betas=[0.1] * 1000), "trained_betas [0.1, 0.1, "),
        (dict(rescale_betas_zero_snr=True), "rescale_betas_zero_snr True"),
        (dict(rescale_betas_zero_snr=True, beta_schedule="squaredcos_cap_v2"), "rescale_betas_zero_snr True"),
        (dict(prediction_type="flow_prediction"), "prediction_type 'flow_prediction'"),
        (dict(_class_name="DPMSolverMultistepScheduler", use_flow_sigmas=True), "use_flow_sigmas True"),
        (dict(beta_start=None), "beta_start None"),
        (dict(beta_end=True), "beta_end True"),
        (dict(_class_name="FlowMatchEulerDiscreteScheduler"), "a 'FlowMatchEulerDiscreteScheduler', not one"),
        (dict(_class_name="EDMEulerScheduler"), "a 'EDMEulerScheduler'"),
        (dict(_class_name=["DDIMScheduler"]), "['DDIMScheduler']"),
        (dict(_class_name="x" * 10**6), "its scheduler is a 'xxx"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_what_our_processes_do_not_have_is_refused_by_name(wrong, told, pipeline, scheduled):
    kept = json.loads((pipeline / "scheduler/scheduler_config.json").read_text())
    assert told in complaint(scheduled(kept | wrong))


@pytest.mark.parametrize("name", ["HeunDiscreteScheduler", "LCMScheduler"])
def test_a_class_whose_own_default_is_not_dits_is_refused_where_its_config_is_silent(name, scheduled):
    assert "beta_start 0.00085" in complaint(scheduled({"_class_name": name, "beta_schedule": "linear"}))


def test_betas_that_a_cosine_schedule_does_not_use_do_not_matter(scheduled):
    config = load(
        scheduled({"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2", "beta_end": 0.1})
    ).config
    assert (config.schedule, config.prediction) == ("cosine", "eps")


def test_a_transformer_without_a_scheduler_is_noted(pipeline):
    assert "no scheduler says what it was trained for" in load(pipeline / "transformer").note
    assert load(pipeline).note == ""


def test_a_flow_matching_scheduler_is_not_sampled_as_noise(scheduled, command, tmp_path):
    folder = scheduled({"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 1.0})
    code, _, said = command("sample", folder, "--labels", 1, "--out", tmp_path / "a.png", "--device", "cpu")
    assert code == 2 and said.count("\n") == 1 and not (tmp_path / "a.png").exists()
    assert torch.is_grad_enabled()
