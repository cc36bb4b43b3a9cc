"""Released U-DiT files open strictly and are written back bit for bit; what the format cannot hold is told."""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as parse
from safetensors.torch import save as dump
from shared import ROOT, assert_same, drawn

from dit_lab.checkpoints import CheckpointError, Told, load, meta_dit, save, udit
from dit_lab.checkpoints.own import json_of
from dit_lab.models import UDiTConfig, build, fold, preset

SHAPE = dict(dim=16, heads=4, depths=(1, 2, 1, 1, 1), in_channels=4, num_classes=10, input_size=32)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# One block of the first level in a released file, as the original's own model lists it: names and shapes at a width of
# 16, 4 heads and a ratio of 2.
BLOCK = {
    f"encoder_level_1.0.{name}": shape
    for pair in (1, 2)
    for name, shape in {
        f"attn{pair}.logit_scale": (4, 1, 1),
        f"attn{pair}.to_qkv.weight": (48, 16),
        f"attn{pair}.to_qkv.bias": (48,),
        f"attn{pair}.to_out.weight": (16, 16, 1, 1),
        f"attn{pair}.to_out.bias": (16,),
        f"attn{pair}.downsampler.layer.weight": (16, 1, 5, 5),
        f"attn{pair}.downsampler.layer.bias": (16,),
        f"mlp{pair}.project_in.0.weight": (16, 16, 1, 1),
        f"mlp{pair}.project_in.0.bias": (16,),
        f"mlp{pair}.project_in.1.weight": (32, 16, 1, 1),
        f"mlp{pair}.project_in.1.bias": (32,),
        f"mlp{pair}.dwconv.0.weight": (32, 1, 5, 5),
        f"mlp{pair}.dwconv.0.bias": (32,),
        f"mlp{pair}.dwconv.1.weight": (32, 1, 3, 3),
        f"mlp{pair}.dwconv.1.bias": (32,),
        f"mlp{pair}.dwconv.2.weight": (32, 1, 1, 1),
        f"mlp{pair}.dwconv.2.bias": (32,),
        f"mlp{pair}.project_out.0.weight": (16, 32, 1, 1),
        f"mlp{pair}.project_out.0.bias": (16,),
        f"mlp{pair}.project_out.1.weight": (16, 16, 1, 1),
        f"mlp{pair}.project_out.1.bias": (16,),
        f"adaLN_modulation{pair}.1.weight": (96, 16),
        f"adaLN_modulation{pair}.1.bias": (96,),
    }.items()
}
# All that is not in a block, for 4 channels, 10 classes and a learned variance.
REST = {
    "x_embedder.proj.weight": (16, 4, 3, 3),
    "x_embedder.proj.bias": (16,),
    **{f"y_embedder_{level}.embedding_table.weight": (11, dim) for level, dim in ((1, 16), (2, 32), (3, 64))},
    **{f"t_embedder_{level}.mlp.0.weight": (dim, 256) for level, dim in ((1, 16), (2, 32), (3, 64))},
    **{f"t_embedder_{level}.mlp.0.bias": (dim,) for level, dim in ((1, 16), (2, 32), (3, 64))},
    **{f"t_embedder_{level}.mlp.2.weight": (dim, dim) for level, dim in ((1, 16), (2, 32), (3, 64))},
    **{f"t_embedder_{level}.mlp.2.bias": (dim,) for level, dim in ((1, 16), (2, 32), (3, 64))},
    "down1_2.body.0.weight": (8, 16, 3, 3),
    "down2_3.body.0.weight": (16, 32, 3, 3),
    "up3_2.body.0.weight": (128, 64, 3, 3),
    "reduce_chan_level2.weight": (32, 64, 1, 1),
    "reduce_chan_level2.bias": (32,),
    "up2_1.body.0.weight": (64, 32, 3, 3),
    "reduce_chan_level1.weight": (32, 32, 1, 1),
    "reduce_chan_level1.bias": (32,),
    "output.weight": (32, 32, 3, 3),
    "output.bias": (32,),
    "final_layer.out_proj.weight": (8, 32, 3, 3),
    "final_layer.out_proj.bias": (8,),
    "final_layer.adaLN_modulation.1.weight": (64, 32),
    "final_layer.adaLN_modulation.1.bias": (64,),
}


def tiny(seed=0, **changes):
    """A small U-DiT, none of whose weights are zero."""
    model = build("U-DiT-S", **SHAPE | changes).eval()
    return drawn(model, seed)


def released(seed=0, **changes) -> dict:
    """The tensors of a small file in the released format."""
    model = tiny(seed, **changes)
    return udit.to_theirs(model.state_dict(), model.config)


def assert_holds(model, tensors: dict):
    """The model's tensors are a released file's."""
    assert_same(udit.to_theirs(model.state_dict(), model.config), tensors)


def complaint(source, **options) -> str:
    """The one sentence, on one line, that `load` refuses a source with."""
    with pytest.raises(CheckpointError) as caught:
        load(source, **options)
    said = str(caught.value)
    assert said.isprintable() and len(said) < 1500 and said.startswith(str(source))
    return said


def silenced(path: Path) -> None:
    """Take from a file of ours what it says of itself; its tensors are read as bytes, not mapped."""
    path.write_bytes(dump(parse(path.read_bytes())))


# --- the table of names


def test_the_names_and_shapes_are_the_released_files():
    shapes = {name: tuple(tensor.shape) for name, tensor in released().items()}
    first, others = ("encoder_level_1.0.",), ("encoder_level_2.", "latent.", "decoder_level_2.", "decoder_level_1.")
    assert {name: shape for name, shape in shapes.items() if name.startswith(first)} == BLOCK
    assert {name: shape for name, shape in shapes.items() if not name.startswith(first + others)} == REST
    for block, dim in dict(zip([*(f"encoder_level_2.{n}." for n in (0, 1)), "latent.0.", "decoder_level_2.0.",
                                "decoder_level_1.0."], (32, 32, 64, 32, 32), strict=True)).items():  # fmt: skip
        there = {name.removeprefix(block): shape for name, shape in shapes.items() if name.startswith(block)}
        assert there.keys() == {name.removeprefix(first[0]) for name in BLOCK}
        assert there["adaLN_modulation2.1.weight"] == (6 * dim, dim)
    assert len(shapes) == 6 * len(BLOCK) + len(REST)


def test_the_two_pairs_of_a_block_are_two_blocks_of_ours_in_their_order():
    theirs, ours = released(), dict(tiny().encoder[1].blocks.named_parameters())
    for n, (block, pair) in enumerate([(0, 1), (0, 2), (1, 1), (1, 2)]):
        scale = theirs[f"encoder_level_2.{block}.attn{pair}.logit_scale"]
        assert torch.equal(ours[f"{n}.attn.log_scale"], scale)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("changes", [{}, dict(learned_variance=False, num_classes=0, in_channels=1, mlp_ratio=3)])
def test_the_two_directions_undo_each_other(changes, dtype):
    model = tiny(**changes).to(dtype)
    theirs = udit.to_theirs(model.state_dict(), model.config)
    assert_same(udit.to_ours(theirs, model.config), model.state_dict())
    assert_same(udit.to_theirs(udit.to_ours(theirs, model.config), model.config), theirs)


# --- files


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_flat_file_gives_its_tensors(zipped, tmp_path):
    torch.save(released(), tmp_path / "U-DiT.pt", _use_new_zipfile_serialization=zipped)
    loaded = load(tmp_path / "U-DiT.pt")
    assert_holds(loaded.model, released())
    assert loaded.config == loaded.model.config == preset("U-DiT-S", **SHAPE)
    assert not loaded.model.training and loaded.labels == list("0123456789")


@pytest.mark.parametrize("weights", [None, "ema", "model"])
def test_a_trained_file_gives_the_average_unless_asked_otherwise(weights, tmp_path):
    parts = {"model": released(seed=1), "ema": released(seed=2)}
    args = argparse.Namespace(model="U-DiT-S", vae="mse")
    torch.save(parts | {"opt": {"state": {}}, "args": args}, tmp_path / "0400000.pt")
    loaded = load(tmp_path / "0400000.pt", **({"weights": weights} if weights else {}))
    assert_holds(loaded.model, parts[weights or "ema"])
    assert loaded.codec_hint == "stabilityai/sd-vae-ft-mse"


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("flat", [True, False])
def test_wrappers_in_tensor_names_are_stripped(prefix, flat, tmp_path):
    wrapped = {prefix + name: tensor for name, tensor in released().items()}
    torch.save(wrapped if flat else {"model": wrapped, "ema": wrapped}, tmp_path / "U-DiT.pt")
    assert_holds(load(tmp_path / "U-DiT.pt").model, released())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weights_become_fp32_or_keep_the_files_dtype(dtype, tmp_path):
    torch.save({name: tensor.to(dtype) for name, tensor in released().items()}, tmp_path / "U-DiT.pt")
    for asked, got in (None, dtype), (torch.float32, torch.float32):
        model = load(tmp_path / "U-DiT.pt", dtype=asked).model
        assert {tensor.dtype for tensor in model.state_dict().values()} == {got}
        with torch.no_grad():
            assert model(torch.randn(1, 4, 8, 8, dtype=got), torch.tensor([5])).dtype == got


# --- what the tensors say


@pytest.mark.parametrize("name", ["U-DiT-S", "U-DiT-B", "U-DiT-L"])
def test_the_papers_three_are_recognised_by_their_tensors(name):
    with torch.device("meta"):
        model = build(name)
    tensors = udit.to_theirs(model.state_dict(), model.config)
    assert udit.matches(tensors) and udit.config_of(tensors, Told(), {}) == preset(name)


@pytest.mark.parametrize(
    "changes",
    [
        dict(learned_variance=False),
        dict(num_classes=0),
        dict(in_channels=3, num_classes=101),
        dict(dim=8, heads=2),
        dict(mlp_ratio=2.5),
        dict(depths=(1, 1, 12, 1, 1)),
    ],
    ids=str,
)
def test_other_configs_are_read_from_the_tensors(changes):
    with torch.device("meta"):
        model = build("U-DiT-S", **SHAPE | changes)
    assert udit.config_of(udit.to_theirs(model.state_dict(), model.config), Told(), {}) == model.config


@pytest.mark.parametrize(
    ("changes", "first", "codec"),
    [
        (dict(num_classes=1000), "tench", "stabilityai/sd-vae-ft-ema"),
        (dict(num_classes=10), "0", "stabilityai/sd-vae-ft-ema"),
        (dict(num_classes=1000, in_channels=3), "0", "pixels"),
    ],
    ids=str,
)
def test_a_file_names_imagenets_classes_and_the_vae_of_the_original_scripts(changes, first, codec, tmp_path):
    torch.save(released(**changes), tmp_path / "U-DiT.pt")
    loaded = load(tmp_path / "U-DiT.pt")
    assert loaded.labels[0] == first and len(loaded.labels) == changes["num_classes"] and loaded.codec_hint == codec


def test_heads_are_in_the_tensors_and_others_are_refused(tmp_path):
    torch.save(released(), tmp_path / "U-DiT.pt")
    assert load(tmp_path / "U-DiT.pt", heads=4).config.heads == 4
    assert "it says of itself heads 4, not 8; leave heads out" in complaint(tmp_path / "U-DiT.pt", heads=8)


# --- bad files


def altered(tmp_path, change) -> Path:
    """A released file, its tensors changed by a function; of the older kind, which is read faster."""
    tensors = released()
    change(tensors)
    torch.save(tensors, tmp_path / "bad.pt", _use_new_zipfile_serialization=False)
    return tmp_path / "bad.pt"


NAME = "latent.0.mlp2.project_out.0.weight"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda tensors: tensors.pop(NAME), f"missing: {NAME}"),
        (lambda tensors: tensors.pop("encoder_level_1.0.attn1.logit_scale"), "missing: encoder_level_1.0.attn1.logit"),
        (lambda tensors: tensors.pop("latent.0.attn1.logit_scale"), "'latent.0.attn1.logit_scale' is missing"),
        (lambda tensors: tensors.pop("final_layer.out_proj.weight"), "its tensors are no DiT's"),
        (lambda tensors: tensors.update({"lora.1": torch.zeros(2)}), "not part of this model: lora.1"),
        (lambda tensors: tensors.update({NAME: tensors[NAME][..., 0, 0]}), "(64x128, not 64x128x1x1)"),
        (lambda tensors: tensors.update({"latent.3.x": torch.zeros(2)}), "missing: latent.1.attn1.logit_scale"),
        (lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("latent")], "is missing"),
        (lambda tensors: [tensors.pop(name) for name in list(tensors) if "encoder_level_2.0" in name], "missing: "),
        (lambda tensors: [tensors.pop(n) for n in list(tensors) if n.startswith("encoder_level_2")], "make no U-DiT"),
        (lambda tensors: tensors[NAME].view(-1)[-1:].fill_(float("nan")), "NaN or Inf in middle.blocks.1.mlp.down"),
        (lambda tensors: tensors.update({NAME: tensors[NAME].to(torch.int8)}), f"not {NAME} (torch.int8)"),
        (lambda tensors: tensors.update({NAME: tensors[NAME].to_sparse()}), f"what is no tensor: {NAME}"),
    ],
)
def test_a_file_that_is_not_exactly_a_models_is_told_why(change, told, tmp_path):
    assert told in complaint(altered(tmp_path, change))


@pytest.mark.parametrize(
    "bent", [torch.zeros(()), torch.zeros(0, 0, 0, 0), torch.zeros(10**9, 0)], ids=lambda t: t.shape
)
def test_any_tensor_of_any_shape_gets_a_sentence(bent, tmp_path):
    read = ["x_embedder.proj.weight", "latent.0.attn1.logit_scale", "latent.0.mlp1.project_in.1.weight"]
    for name in [*read, "y_embedder_1.embedding_table.weight", "final_layer.out_proj.weight", NAME]:
        complaint(altered(tmp_path, lambda tensors, name=name: tensors.update({name: bent.clone()})))


def test_a_file_cut_anywhere_is_told_to_be_truncated(tmp_path):
    torch.save(released(), tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    for end in 40, 3000, len(whole) // 2, len(whole) - 20, len(whole) - 1:
        (tmp_path / "cut.pt").write_bytes(whole[:end])
        assert "truncated" in complaint(tmp_path / "cut.pt")


class Bait:
    """Unpickled by anything less careful, it leaves a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.parametrize("part", ["args", "opt", "ema"])
def test_code_in_a_file_never_runs(part, tmp_path):
    path, marker = tmp_path / "a.pt", tmp_path / "it ran"
    content = {"ema": released(), "opt": {}, "args": {}} | {part: {"more": Bait(marker)}}
    torch.save(content, path)
    assert "holds more than tensors" in complaint(path) and not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the bait is dead, so this test shows nothing"


# --- our own format


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(block="adaln"),
        dict(block="cross_attention"),
        dict(downsample="kv", cosine=False, rope=False, mlp="plain"),
        dict(mlp="depthwise", depths=(1, 1, 1), input_size=(8, 12), num_classes=0),
    ],
    ids=str,
)
def test_what_was_saved_comes_back_exactly_from_the_tensors_file_alone_too(changes, tmp_path):
    model = tiny(**changes)
    folder = save(tmp_path / "m", model, codec_hint="a/vae")
    bare = shutil.copy(folder / "model.safetensors", tmp_path / "renamed.safetensors")
    for source in folder, bare:
        loaded = load(source)
        assert (loaded.config, loaded.codec_hint) == (model.config, "a/vae")
        assert_same(loaded.model.state_dict(), model.state_dict())
    x, t = torch.randn(2, 4, *model.config.size), torch.tensor([3, 900])
    with torch.no_grad():
        assert torch.equal(loaded.model(x, t), model(x, t))


def test_a_folded_model_is_saved_and_loaded_as_what_it_is(tmp_path):
    model = fold(tiny())
    loaded = load(save(tmp_path / "m", model))
    assert loaded.config.mlp == "depthwise"
    assert_same(loaded.model.state_dict(), model.state_dict())


def dit():
    """A small DiT."""
    return build("DiT-nano/2", dim=16, heads=4, depth=1, input_size=8, num_classes=10)


def test_the_config_of_one_architecture_beside_the_tensors_of_the_other_is_refused(tmp_path):
    for name, model, other in ("u", tiny(), dit().config), ("d", dit(), tiny().config):
        folder = save(tmp_path / name, model)
        (folder / "config.json").write_text(json.dumps(json_of(other, None, None)))
        assert "its config.json and what the tensors' file says of itself are of different models" in complaint(folder)
        silenced(folder / "model.safetensors")
        assert "its tensors do not fit its config. missing: " in complaint(folder)


def test_a_json_of_the_other_architecture_beside_a_foreign_file_is_refused(tmp_path):
    torch.save(released(), tmp_path / "u.pt")
    (tmp_path / "u.json").write_text(json.dumps(json_of(dit().config, None, None)))
    assert "format holds U-DiTs only, this model is a DiT" in complaint(tmp_path / "u.pt")
    torch.save(meta_dit.to_theirs(dit().state_dict(), dit().config), tmp_path / "d.pt")
    (tmp_path / "d.json").write_text(json.dumps(json_of(tiny().config, None, None)))
    assert "format holds DiTs only, this model is a U-DiT" in complaint(tmp_path / "d.pt")


HUGE = [10**9, 10**20, 10**400]
ABSURD = [{field: size} for field in ("dim", "heads", "input_size", "num_classes", "in_channels")
          for size in [*HUGE, -4, "8", None, []]] + [
    *({"depths": [size, 1, 1, 1, 1]} for size in [*HUGE, -4, "8", None, [], 0, 1.5, True]),
    dict(depths=None), dict(depths=5), dict(depths="11111"), dict(depths=[]), dict(depths=[1, 1]),
    dict(depths=[1] * 101, input_size=2**60), dict(depths=[1] * 10**5), dict(depths=[0] * 10**5),
    dict(depths=[1] * 10**5, input_size=2**400), dict(dim=2**61, heads=1), dict(heads=5), dict(input_size=12),
    dict(mlp_ratio=1e300), dict(mlp_ratio=10**400), dict(mlp_ratio=float("nan")), dict(mlp_ratio="2"),
    dict(downsample="up"), dict(downsample=[]), dict(mlp={}), dict(mlp="deep"), dict(cosine=1), dict(rope=None),
    dict(block="in_context"), dict(block="sideways"), dict(architecture="U-Net"), dict(architecture=[]),
    dict(architecture="x" * 10**6), dict(depth=3), dict(patch_size=2), dict(cosine=False), dict(mlp="depthwise"),
]  # fmt: skip


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Our folder whose tensors say nothing of themselves."""
    folder = save(tmp_path_factory.mktemp("bare") / "m", tiny())
    silenced(folder / "model.safetensors")
    return folder


def ours(**changes) -> dict:
    """Our config.json with fields of the model changed."""
    about = json_of(preset("U-DiT-S", **SHAPE), None, None)
    return about | {"model": about["model"] | changes}


def test_the_changes_below_are_all_that_is_wrong(bare):
    (bare / "config.json").write_text(json.dumps(ours()))
    assert load(bare).config == UDiTConfig(**SHAPE)


@pytest.mark.parametrize("wrong", ABSURD, ids=lambda wrong: str(wrong)[:40])
def test_absurd_values_get_a_sentence_soon_and_no_memory(wrong, bare, limited):
    (bare / "config.json").write_text(json.dumps(ours(**wrong)))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    with limited(resource.RLIMIT_AS, used + 1000 * 2**20):
        complaint(bare)


def test_loading_imports_no_compiler(tmp_path):
    folder = save(tmp_path / "m", tiny())
    ask = f"import sys, dit_lab; dit_lab.load({str(folder)!r}); sys.exit('torch._dynamo' in sys.modules)"
    subprocess.run([sys.executable, "-c", ask], cwd=ROOT, check=True)


# --- converting


def test_ours_comes_back_exactly_with_what_the_tensors_cannot_say(command, tmp_path):
    model = tiny(input_size=(8, 16), prediction="v", schedule="cosine")
    source = save(tmp_path / "ours", model, labels=list("abcdefghij"), codec_hint="pixels")
    code, said, _ = command("convert", source, tmp_path / "new/U-DiT.pt", "--to", "udit")
    count = sum(parameter.numel() for parameter in model.parameters())
    assert code == 0 and f"U-DiT.pt: udit, {count:,} parameters" in said
    assert command("convert", tmp_path / "new", tmp_path / "back", "--to", "dit_lab")[0] == 0
    back = load(tmp_path / "back")
    assert (back.config, back.labels, back.codec_hint) == (model.config, list("abcdefghij"), "pixels")
    assert_same(back.model.state_dict(), model.state_dict())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_released_file_comes_back_exactly(dtype, command, tmp_path):
    tensors = {name: tensor.to(dtype) for name, tensor in released().items()}
    torch.save({"ema": tensors, "args": argparse.Namespace()}, tmp_path / "U-DiT.pt")
    assert command("convert", tmp_path / "U-DiT.pt", tmp_path / "there", "--to", "dit_lab")[0] == 0
    assert command("convert", tmp_path / "there", tmp_path / "back.pt", "--to", "udit")[0] == 0
    assert_same(torch.load(tmp_path / "back.pt", weights_only=True), tensors)
    assert load(tmp_path / "there").codec_hint == "stabilityai/sd-vae-ft-ema"
    # Onto itself: its tensors are mapped from the very file that is replaced.
    assert command("convert", tmp_path / "back.pt", tmp_path / "back.pt", "--to", "udit", "--overwrite")[0] == 0
    assert_same(torch.load(tmp_path / "back.pt", weights_only=True), tensors)


def test_folding_converts_to_a_smaller_model_that_computes_the_same(command, tmp_path):
    torch.save(released(), tmp_path / "U-DiT.pt")
    assert command("convert", tmp_path / "U-DiT.pt", tmp_path / "folded", "--to", "dit_lab", "--fold")[0] == 0
    loaded, whole = load(tmp_path / "folded"), load(tmp_path / "U-DiT.pt")
    assert loaded.config.mlp == "depthwise" and loaded.labels == whole.labels and loaded.codec_hint == whole.codec_hint
    assert_same(loaded.model.state_dict(), fold(tiny()).state_dict())
    x, t, y = torch.randn(2, 4, 8, 8), torch.tensor([3, 900]), torch.tensor([0, 10])
    with torch.no_grad():
        assert torch.allclose(loaded.model(x, t, y), whole.model(x, t, y), rtol=1e-4, atol=1e-5)


REFUSED = [
    (lambda: tiny(), "meta_dit", [], "the original's format holds DiTs only, this model is a U-DiT"),
    (lambda: tiny(), "diffusers", [], "diffusers' format holds DiTs only, this model is a U-DiT"),
    (dit, "udit", [], "format holds U-DiTs only, this model is a DiT"),
    (dit, "dit_lab", ["--fold"], "nothing to fold"),
    (lambda: fold(tiny()), "dit_lab", ["--fold"], "nothing to fold"),
    (lambda: tiny(), "udit", ["--fold"], "this model has mlp depthwise"),
    (lambda: fold(tiny()), "udit", [], "this model has mlp depthwise"),
    (lambda: tiny(block="adaln"), "udit", [], "this model has block adaln"),
    (lambda: tiny(depths=(1, 1, 1)), "udit", [], "this model has 2 resolutions"),
    (lambda: tiny(downsample="kv"), "udit", [], "this model has downsample kv"),
    (lambda: tiny(cosine=False, rope=False), "udit", [], "this model has cosine False, rope False"),
]


@pytest.mark.parametrize(("make", "to", "options", "told"), REFUSED)
def test_what_a_format_cannot_hold_is_refused_and_nothing_is_written(make, to, options, told, command, tmp_path):
    source = save(tmp_path / "a", make())
    out = tmp_path / "new" / ("b.pt" if to in ("meta_dit", "udit") else "b")
    code, _, said = command("convert", source, out, "--to", to, *options)
    assert code == 2 and told in said and said.count("\n") == 1 and "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("out", "told"),
    [
        ("out", "give a name that ends in .pt"),
        ("folder.pt", "is a folder; udit wants a file"),
        ("notes.pt", "notes.json is there already"),
        ("there.pt", "there.pt is there already"),
    ],
)
def test_a_destination_that_does_not_fit_is_told_and_left_alone(out, told, command, tmp_path):
    source = save(tmp_path / "a", tiny())
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / "there.pt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    code, _, said = command("convert", source, tmp_path / out, "--to", "udit")
    assert code == 2 and told in said and said.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "there.pt").read_text() == "mine"
