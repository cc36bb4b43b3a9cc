"""Weights are found in the containers and under the prefixes that trainers put them in; what is no DiT is named."""

import argparse

import pytest
import torch
from safetensors.torch import save_file
from shared import assert_same, drawn, random_model

from dit_lab.checkpoints import CheckpointError, load, meta_dit, own
from dit_lab.models import build


def theirs(seed=0) -> dict:
    """The tensors of a small original file."""
    model = drawn(build("DiT-nano/2", depth=1, input_size=8, num_classes=10), seed)
    return meta_dit.to_theirs(model.state_dict(), model.config)


def under(prefix: str, tensors: dict) -> dict:
    """The tensors with something before their names."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def inside(word: str, tensors: dict) -> dict:
    """The tensors with something in the middle of their blocks' names."""
    return {name.replace("blocks.0.", f"blocks.0.{word}."): tensor for name, tensor in tensors.items()}


def complaint(content, path, **options) -> str:
    """The one sentence that a file of `content` is refused with."""
    torch.save(content, path)
    with pytest.raises(CheckpointError) as caught:
        load(path, **options)
    said = str(caught.value)
    assert said.isprintable() and len(said.replace(str(path), "")) < 300
    return said


TRAINED, AVERAGE = theirs(1), theirs(2)
OTHERS = {"epoch": 3, "global_step": 7, "optimizer_states": [{"state": {}, "lr": 1e-4}], "loss": 0.5}
LIGHTNING = {"pytorch-lightning_version": "2.1", "callbacks": {}, "hyper_parameters": {"num_classes": 11}}
VAE = under("vae.", {"encoder.conv_in.weight": torch.zeros(2), "decoder.conv_out.bias": torch.zeros(2)})


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": TRAINED},
        {"state_dict": under("model.", TRAINED)},
        {"state_dict": under("net.", TRAINED) | VAE},
        {"state_dict": under("model._orig_mod.", TRAINED) | under("ema_model._orig_mod.", AVERAGE)},
        {"model_state_dict": under("module.", TRAINED)},
        {"net": TRAINED, "ema": AVERAGE},
        {"model": {"state_dict": under("_orig_mod.module.", TRAINED)}, "ema_state_dict": under("module.", AVERAGE)},
        {
            "module": TRAINED,
            "ema": {"step": torch.tensor(3), "initted": torch.tensor(True)} | under("ema_model.", AVERAGE),
        },
        {"ema": under("ema_model.", AVERAGE) | under("online_model.", TRAINED)},
        under("model.net.module._orig_mod.", TRAINED),
        under("module.", inside("_orig_mod", TRAINED)),
        under("model.", TRAINED) | under("ema_model.", AVERAGE),
        inside("_checkpoint_wrapped_module", TRAINED),
        TRAINED,
    ],
    ids=range(14),
)
@pytest.mark.parametrize("beside", [{}, OTHERS, OTHERS | LIGHTNING], ids=["alone", "others", "lightning"])
def test_weights_are_found_wherever_trainers_put_them_the_average_first(content, beside, tmp_path):
    path = tmp_path / "DiT.ckpt"
    torch.save(content | beside, path)
    has_average = any(tensor is AVERAGE["pos_embed"] for tensor in flat(content))
    for weights in ("ema", "model"):
        loaded = load(path, weights=weights)
        expected = AVERAGE if has_average and weights == "ema" else TRAINED
        assert_same(meta_dit.to_theirs(loaded.model.state_dict(), loaded.config), expected)
        assert loaded.weights in ({weights} if has_average and weights == "ema" else {"model", None})
        assert loaded.config.null_label != ("hyper_parameters" in beside)


def flat(content):
    """The tensors in nested dicts."""
    for value in content.values():
        yield from flat(value) if isinstance(value, dict) else [value]


def test_wrapped_names_in_safetensors_are_unwrapped_too(tmp_path):
    save_file(under("model.", TRAINED) | under("ema_model.", AVERAGE), tmp_path / "DiT.safetensors")
    for weights, expected in ("ema", AVERAGE), ("model", TRAINED):
        loaded = load(tmp_path / "DiT.safetensors", weights=weights)
        assert_same(meta_dit.to_theirs(loaded.model.state_dict(), loaded.config), expected)


def test_a_model_of_ours_is_found_in_a_trainers_file(tmp_path):
    from dit_lab.checkpoints.own import json_of
    from dit_lab.files import write_json

    model = random_model()
    torch.save({"state_dict": under("net.", model.state_dict())}, tmp_path / "a.ckpt")
    write_json(tmp_path / "a.json", json_of(model.config, None, None))
    loaded = load(tmp_path / "a.ckpt")
    assert own.matches(model.state_dict()) and loaded.config == model.config
    assert_same(loaded.model.state_dict(), model.state_dict())


def test_averages_alone_are_no_trained_weights(tmp_path):
    for content in {"ema_state_dict": AVERAGE}, {"state_dict": under("ema_model.", AVERAGE)}, under("ema.", AVERAGE):
        assert "holds averaged weights (ema) only" in complaint(content, tmp_path / "a.pt", weights="model")
        assert load(tmp_path / "a.pt").weights == "ema"


@pytest.mark.parametrize(
    "content", [{"model": TRAINED, "net": AVERAGE}, TRAINED | under("module.", AVERAGE)], ids=["containers", "names"]
)
def test_of_two_models_none_is_chosen(content, tmp_path):
    assert "holds several models, under " in complaint(content, tmp_path / "a.pt")


def test_two_tensors_of_one_name_are_refused(tmp_path):
    double = TRAINED | inside("_orig_mod", AVERAGE)
    assert "not part of this model: blocks.0._orig_mod." in complaint(double, tmp_path / "a.pt")


def test_what_stands_among_the_models_own_names_is_refused(tmp_path):
    strange = under("model.", TRAINED | {"blocks.0.lora.weight": torch.zeros(2)}) | VAE
    said = complaint({"state_dict": strange}, tmp_path / "a.pt")
    assert said.endswith("not part of this model: blocks.0.lora.weight")


def test_code_beside_wrapped_weights_never_runs(tmp_path):
    content = {"state_dict": under("model.", TRAINED), "hyper_parameters": argparse.ArgumentParser}
    assert "holds more than tensors (argparse.ArgumentParser)" in complaint(content, tmp_path / "a.pt")


def test_containers_that_hold_themselves_are_looked_into_once(tmp_path):
    loop = {"epoch": 1}
    for word in ("model", "ema", "net", "state_dict", "module", "network"):
        loop[word] = loop
    said = complaint({"model": loop, "net": loop}, tmp_path / "a.pt")
    assert "its tensors are no DiT's" in said or "containers" in said


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["blocks.0.mlp.w12.weight", "feat_rope.freqs_cos"], "a LightningDiT (blocks.0.mlp.w12.weight)"),
        (["feat_rope.freqs_cos"], "a LightningDiT"),
        (["projectors.0.0.weight", "projectors.0.4.bias"], "a SiT trained with REPA (projectors.0.0.weight)"),
        (["mask_token"], "a masked DiT"),
    ],
)
def test_a_relative_of_dits_that_has_all_its_names_is_told_by_the_others(names, what, tmp_path):
    content = {"ema": TRAINED | {name: torch.zeros(2) for name in names}}
    assert f"its tensors are those of {what}" in complaint(content, tmp_path / "SiT-XL-2.pt")


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["encoder.conv_in.weight", "encoder.down_blocks.0.resnets.0.conv1.weight"], "a VAE"),
        (["model.diffusion_model.input_blocks.0.0.weight"], "a U-Net"),
        (["down_blocks.0.resnets.0.conv1.weight", "conv_in.weight"], "a U-Net"),
        (["joint_blocks.0.x_block.attn.qkv.weight"], "a Stable Diffusion 3"),
        (["double_blocks.0.img_attn.qkv.weight"], "a FLUX"),
        (["in_blocks.0.norm1.weight", "mid_block.attn.qkv.weight"], "a U-ViT"),
    ],
)
def test_other_models_are_called_by_their_names(names, what, tmp_path):
    content = {"state_dict": {name: torch.zeros(2) for name in names}}
    assert f"its tensors are those of {what}" in complaint(content, tmp_path / "a.ckpt")
