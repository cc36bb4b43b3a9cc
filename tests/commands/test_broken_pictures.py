"""NaN or Inf in a picture is an error of `sample` and of the app, and nothing is written; eta is said to be vain."""

import pytest
import torch
from shared import stirred

from dit_lab.checkpoints import Told, save

BROKEN = "holds NaN or Inf: the model diverged, or the guidance is too strong"


def grey(**changes):
    return stirred("DiT-nano/4", in_channels=1, input_size=8, num_classes=3, depth=1, dim=16, heads=2, **changes)


@pytest.fixture
def checkpoint(tmp_path):
    """A small whole one, and a function that puts a number into the last bias of another."""

    def broken(number):
        model = grey()
        with torch.no_grad():
            model.out.bias[0] = number
        return save(tmp_path / "broken", model, labels=list("abc"), codec_hint="pixels")

    return broken


@pytest.mark.parametrize("number, guidance", [(3e38, 1), (0.1, 1e39)])
def test_sample_refuses_pictures_that_are_none_and_writes_nothing(command, checkpoint, tmp_path, number, guidance):
    out = tmp_path / "new" / "out.png"
    code, printed, complaint = command(
        "sample", checkpoint(number), "--labels", 1, "--out", out, "--trace", tmp_path / "t.safetensors",
        "--steps", 2, "--device", "cpu", "--cfg-scale", guidance,
    )  # fmt: skip
    assert code == 2 and printed == "" and f"dit_lab: a picture {BROKEN}" in complaint.splitlines()
    assert not out.parent.exists() and not (tmp_path / "t.safetensors").exists()


def test_sample_says_that_eta_is_of_one_sampler(command, checkpoint, tmp_path):
    code, _, complaint = command(
        "sample", checkpoint(0.0), "--labels", 1, "--out", tmp_path / "o.png", "--sampler", "heun", "--eta", 0.5
    )
    assert code == 2 and complaint == "dit_lab: eta is ddim's alone, heun has none: leave it at 0, or take ddim\n"


def test_the_app_refuses_more_steps_than_latents_can_be_walked_in_with_a_sentence(tmp_path):
    from dit_lab.ui import Checkpoints, Workbench

    model = stirred("DiT-nano/4", input_size=8, num_classes=3, depth=1, dim=16, heads=2, schedule="cosine")
    folder = save(tmp_path / "latent", model, labels=list("abc"))
    workbench = Workbench(Checkpoints({"latent": str(folder)}, Told(), None, torch.device("cpu")))
    ask = lambda op, **more: workbench.call({"op": op, "session": "0" * 32, **more})
    first = workbench.first()["about"]["defaults"]
    told = ask("start", settings=first | {"sampler": "ddim", "steps": 1000})
    if "ok" in told:
        job = told["ok"]["job"]
        while (told := ask("poll", job=job, seen=0)).get("ok", {}).get("state") in ("queued", "running"):
            pass
    assert "steps must be a whole number from 1 to 996, not 1000" in str(told)


@pytest.mark.parametrize("channels, clipped", [(1, True), (3, False)])
def test_the_command_clips_pixels_and_no_latents_and_the_trace_says_which(command, tmp_path, channels, clipped):
    from dit_lab.inside import Trajectory

    model = stirred("DiT-nano/4", in_channels=channels, input_size=8, num_classes=3, depth=1, dim=16, heads=2,
                    schedule="cosine")  # fmt: skip
    source = save(tmp_path / "m", model, labels=list("abc"), codec_hint="pixels" if clipped else None)
    traced = tmp_path / "t.safetensors"
    command("sample", source, "--labels", 1, "--out", tmp_path / "o.png", "--trace", traced, "--steps", 3)
    trajectory = Trajectory.load(traced)
    assert trajectory.options["clip_x0"] is clipped and trajectory.t[0] == (999 if clipped else 995)
