"""A config is checked wherever it comes from, by type, range and size: what loads can be built and sampled."""

import json
import shutil
import time

import pytest
from safetensors.torch import load_file, save_file
from shared import random_model

from dit_lab.checkpoints import CheckpointError, load, save
from dit_lab.commands.convert import convert_command
from dit_lab.diffusion import sample
from dit_lab.models import DiTConfig, UDiTConfig, build, config_of
from dit_lab.models.config import MOST
from dit_lab.models.unfilled import unfilled


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """One model in our format and in diffusers', a folder each; not to be written to."""
    folder = tmp_path_factory.mktemp("configs")
    save(folder / "dit_lab", random_model(input_size=8))
    convert_command(str(folder / "dit_lab"), folder / "diffusers", to="diffusers")
    return folder


def sentence(call, *arguments, **options) -> str:
    """The one that a call is refused with, at once."""
    began = time.thread_time()
    with pytest.raises(ValueError) as caught:
        call(*arguments, **options)
    said = str(caught.value)
    assert said.isprintable() and len(said) <= 300 and time.thread_time() - began < 2, said
    return said


ODD = [None, True, "8", "x" * 10**5, [], {}, 0.5, float("nan"), -1, 10**9, 10**400]
WRONG = [(field, value) for field in ("depth", "dim", "heads", "in_channels", "patch_size") for value in [*ODD, 0]] + [
    *(("num_classes", value) for value in ODD),
    *(("input_size", value) for value in [*ODD, 0, [8], [8, 8, 8], [8, "8"]]),
    *(("mlp_ratio", value) for value in (None, True, "4", [], {}, float("nan"), float("inf"), -1, 0, 10**9, 10**400)),
    *((field, value) for field in ("learned_variance", "null_label") for value in (None, 1, "true", [], {})),
    *((field, value) for field in ("block", "prediction", "schedule") for value in (None, 5, [], {}, "x" * 101)),
]  # fmt: skip


def test_every_field_has_a_type_and_a_range_in_a_config_and_in_a_file(good, tmp_path):
    folder = tmp_path / "bare"
    folder.mkdir()
    save_file(load_file(good / "dit_lab/model.safetensors"), folder / "model.safetensors")
    about = json.loads((good / "dit_lab/config.json").read_text())
    for field, value in WRONG:
        assert field in sentence(build, "DiT-nano/4", **{field: value}), (field, value)
        (folder / "config.json").write_text(json.dumps(about | {"model": about["model"] | {field: value}}))
        assert str(folder) in sentence(load, folder), (field, value)


@pytest.mark.parametrize(
    "wrong",
    [dict(depths=value) for value in (None, 5, "111", {}, [1, 1], [1, 0, 1], [1, True, 1], [1, "1", 1], [10**9] * 3,
                                      [10**400, 1, 1], [1] * 99_999, [200] * 3, [1] * 41)]
    + [dict(downsample=[]), dict(downsample="x" * 10**5), dict(mlp={}), dict(cosine=1), dict(rope="yes"),
       dict(input_size=2**14), dict(dim=2**16)],
    ids=lambda wrong: str(wrong)[:40],
)  # fmt: skip
def test_every_field_of_a_u_dit_has_a_type_and_a_range(wrong):
    assert next(iter(wrong)) in sentence(build, "U-DiT-S", **wrong)


def test_what_no_memory_holds_is_refused_before_it_is_built(command):
    assert "depth must be a whole number of at most 512, not 1000000000" in sentence(DiTConfig, depth=10**9)
    assert "262144" in sentence(DiTConfig, input_size=2**11, patch_size=1)
    assert "position table" in sentence(DiTConfig, input_size=1024, patch_size=2)
    began = time.monotonic()
    code, _, said = command("train", "--data", "digits", "--depth", 10**9, "--out", "nowhere")
    assert code == 2 and said.count("\n") == 1 and "depth must be" in said and time.monotonic() - began < 10


@pytest.mark.parametrize(
    "config",
    [
        DiTConfig(depth=MOST["depth"], dim=64, heads=4, in_channels=MOST["in_channels"], num_classes=2**20),
        DiTConfig(depth=1, dim=2**16, heads=2**10, input_size=32, mlp_ratio=MOST["mlp_ratio"]),
        UDiTConfig(dim=16, heads=2, depths=(MOST["depth"] // 2 - 4, 1, 1, 1, 1)),
    ],
    ids=["deep", "wide", "u_dit"],
)  # fmt: skip
def test_all_that_is_allowed_is_laid_out_in_seconds_and_no_memory(config):
    began = time.thread_time()
    with unfilled():
        assert build(config).config == config
    assert time.thread_time() - began < 5  # two on a machine that does nothing else


@pytest.mark.parametrize(
    "wrong",
    [dict(prediction="nope"), dict(schedule="nope"), dict(prediction=""), dict(schedule="flow"), dict(schedule="sit"),
     dict(schedule="flow", learned_variance=False, prediction="nope")],
    ids=str,
)  # fmt: skip
def test_what_loads_can_be_sampled(wrong, good, tmp_path):
    folder = shutil.copytree(good / "dit_lab", tmp_path / "model")
    about = json.loads((folder / "config.json").read_text())
    about["model"] |= wrong
    (folder / "config.json").write_text(json.dumps(about))
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors", {"dit_lab": json.dumps(about)})
    try:
        model = load(folder).model
    except CheckpointError as error:
        assert str(folder) in str(error) and len(str(error)) <= 300
    else:
        next(sample(model, [0], steps=1))


def test_a_field_that_no_config_has_is_named_short():
    assert sentence(config_of, {"colour": 1, "self": 2}) == "a DiT config has no field colour, self"
    assert len(sentence(config_of, {"x" * 10**6: 1})) < 100
    assert "there is no architecture {'a': 1}" in sentence(config_of, {"architecture": {"a": 1}})


SAID = {
    "num_attention_heads": [3e9, "x", [], {}, None, True, 10**400, "x" * 10**5],
    "attention_head_dim": ["x", "x" * 10**5, [[]] * 10**4, {}, None, 0.5, 10**400, 3e9, True],
    "in_channels": [3e9, "x", [1], {}, None, 10**400],
    "num_layers": [3e9, "x", [], None, True, 10**9],
    "sample_size": [3e9, "x", [8], {}, None, 10**9, [2**14, 2**14]],
    "patch_size": ["x", [], None, 0, 0.5, 10**400],
    "num_embeds_ada_norm": [3e9, "x", [], None, -1],
    "_class_name": [None, 5, [], {}, "x" * 10**5],
    "norm_type": [None, 5, [], {}, "x" * 10**5],
}


@pytest.mark.parametrize("field", SAID)
def test_a_diffusers_config_of_wrong_values_gets_a_sentence_and_no_memory(field, good, tmp_path):
    folder = shutil.copytree(good / "diffusers", tmp_path / "model")
    path = folder / "transformer/config.json"
    about = json.loads(path.read_text())
    for value in SAID[field]:
        path.write_text(json.dumps(about | {field: value}))
        assert str(folder) in sentence(load, folder), value
    path.write_text(json.dumps(about | {"num_attention_heads": 3e9, "attention_head_dim": "x"}))
    assert "num_attention_heads" in sentence(load, folder)
    path.write_text(json.dumps({name: value for name, value in about.items() if name != field}))
    assert str(folder) in sentence(load, folder)


@pytest.mark.parametrize("labels", [5, "a", {"0": "a"}, [["x"] * 10**5] * 5, [{"a": [[[1]]]}] * 5, [10**400] * 5])
def test_class_names_of_any_kind_are_texts_or_refused(labels, good, tmp_path):
    folder = shutil.copytree(good / "dit_lab", tmp_path / "model")
    about = json.loads((folder / "config.json").read_text()) | {"labels": labels, "codec": None}
    (folder / "config.json").write_text(json.dumps(about))
    try:
        assert all(isinstance(label, str) and len(label) <= 1000 for label in load(folder).labels)
    except CheckpointError as error:
        assert str(folder) in str(error) and len(str(error)) <= 300


@pytest.mark.parametrize(
    "words", [{"run": 5}, {"run": []}, {"run": {"model": 5}}, {"run": None}, {"version": [[1]] * 999}]
)
def test_a_training_state_that_says_nonsense_of_its_run_is_refused(words, good, tmp_path):
    tensors = {f"ema.{name}": tensor for name, tensor in load_file(good / "dit_lab/model.safetensors").items()}
    save_file(tensors, tmp_path / "state.safetensors", {"dit_lab": json.dumps(words)})
    assert str(tmp_path) in sentence(load, tmp_path / "state.safetensors")
