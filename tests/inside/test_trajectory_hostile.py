"""A trajectory's file says its config, labels, options and timesteps; what is none of these gets one sentence, soon."""

import json
import os
import struct
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shared import random_model

from dit_lab.diffusion import generate
from dit_lab.inside import TraceError, Trajectory, record

LABELS = [1, 5]
DEEP = "[" * 5000 + "]" * 5000


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture
def saved(model, tmp_path):
    record(model, LABELS, steps=4, cfg_scale=2.0, seed=3).save(tmp_path / "run.safetensors")
    return tmp_path / "run.safetensors"


def rewritten(path, change):
    """Save a trajectory file again after `change(about)`, or with a text in its place."""
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["dit_lab"])
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    text = change if isinstance(change, str) else json.dumps(change(about) or about)
    save_file(tensors, path, {"dit_lab": text})


def refused(path) -> str:
    """The sentence that a file is refused with."""
    began = time.thread_time()
    with pytest.raises(TraceError) as caught:
        Trajectory.load(path)
    said = str(caught.value)
    assert time.thread_time() - began < 2
    assert str(path) in said and said.isprintable() and len(said) <= 300, said
    return said


ABSURD = [None, True, -1, 0.5, 10**9, 10**400, "5", "x" * 10**5, [], {}, [[1, 2]], {"a": 1}]
OPTIONS = {
    "sampler": [None, 5, "nope", ["ddim"], {}],
    "steps": [*ABSURD, 0, 3, 4.0],
    "cfg_scale": [None, "2", [], {}, float("nan"), float("inf"), 10**400],
    "cfg_channels": [0, -1, 4, 0.5, "3", [], {}],
    "cfg_interval": [5, "ab", [1], [2, 1], [1, "2"], {"a": 1, "b": 2}, [float("nan")] * 2],
    "eta": [None, -1, 2, "0", [], {}, float("nan"), 10**400],
    "seed": [*ABSURD[2:4], 10**400, "5", [], {}, True, ""],
    "size": [0, -8, 9, "8", [8], [8, 8, 8], {}, 10**400, [8, 10**9], True],
    "clip_x0": [5, "no", []],
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_that_sample_would_not_take_is_refused(name, saved):
    whole = saved.read_bytes()
    for value in OPTIONS[name]:
        if (name, value) in (("seed", 10**9), ("seed", -1)):  # a seed all the same
            continue
        saved.write_bytes(whole)
        rewritten(saved, lambda about, value=value: about["options"].update({name: value}))
        assert "damaged" in refused(saved), value


FIELDS = {
    "config": [None, 5, "DiT", [], [["depth", 3]], {"depth": 10**9}, {"architecture": []}, {"x" * 10**5: 1},
               {"self": 1}],
    "labels": [None, 5, "15", {}, {"1": 5}, [1, "5"], [1, True], [1, 0.5], [1, 10**400], [[1], [5]], []],
    "options": [None, 5, "ddim", [], {}, {"run": 5}],
    "t": [None, 5, "9630", {}, {"a": 1}, [999], [999, 666, 333, "0"], [999, 666, 333, -1], [999, 666, 333, 10**400],
          [999, 666, 333, float("nan")], [[999], [666], [333], [0]], ["x" * 10**5] * 4],
    "version": [None, 2, "1", [], 10**400, "x" * 10**5],
    "format": [None, 5, [], "dit_lab"],
}  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_of_another_kind_is_refused(name, saved):
    whole = saved.read_bytes()
    for value in FIELDS[name]:
        saved.write_bytes(whole)
        rewritten(saved, lambda about, value=value: about.update({name: value}))
        refused(saved)


@pytest.mark.parametrize(
    "change",
    [
        dict(prediction={}), dict(prediction="nope"), dict(prediction=5), dict(schedule=[]), dict(schedule="nope"),
        dict(schedule=["linear"]), dict(schedule="flow"), dict(depth=10**9), dict(depth=None), dict(dim=2**40),
        dict(dim=0), dict(heads=10**9), dict(num_classes=10**9), dict(in_channels=10**9), dict(patch_size=2**40),
        dict(mlp_ratio=10**400), dict(mlp_ratio=True), dict(block=[]), dict(block="x" * 10**5), dict(null_label=5),
        dict(input_size=[2**14, 2**14], patch_size=1), dict(colour="red"), dict(learned_variance="yes"),
    ],
    ids=lambda change: str(change)[:40],
)  # fmt: skip
def test_a_config_of_no_model_that_could_be_sampled_is_refused(change, saved):
    rewritten(saved, lambda about: about["config"].update(change))
    assert "damaged" in refused(saved)


@pytest.mark.parametrize(
    "text", ['{"run": 5}', "5", "null", "[]", '"x"', DEEP, "[" * 10**5, "{", '{"a": ' + "9" * 9999 + "}"]
)
def test_a_description_that_is_another_files_or_none_is_refused(text, saved):
    rewritten(saved, text)
    refused(saved)


def test_pipes_devices_and_folders_are_refused_and_never_waited_for(saved, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in tmp_path / "pipe", tmp_path, "/dev/zero":
        assert "is not a whole trajectory file" in refused(path)


def test_headers_without_end_and_tensors_without_numbers_are_refused(saved):
    saved.write_bytes(struct.pack("<Q", 2**60) + b"{}" + bytes(99))
    assert "its header would be" in refused(saved)
    save_file({f"{n}": torch.zeros(0) for n in range(5000)}, saved, {"dit_lab": '{"format": "dit_lab trajectory"}'})
    refused(saved)


def test_what_loads_is_sampled_again_with_its_own_options(model, saved):
    back = Trajectory.load(saved)
    assert torch.equal(generate(model, back.labels, **back.options), back.sample)
    assert back.features(model, 3).shape[0] == 3
