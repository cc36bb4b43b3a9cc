"""Every format that `load` takes gives the model that is in it; what `save` writes comes back exactly."""

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
import torch
from diffusers import DiTTransformer2DModel
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from safetensors import safe_open
from safetensors.torch import load_file
from shared import ROOT, assert_same

from dit_lab.checkpoints import CheckpointError, Told, load, meta_dit, save
from dit_lab.data import open_data
from dit_lab.models import BLOCKS, presets
from dit_lab.training import TrainOptions, train

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
PAPER = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}


def original_shapes(dim=96, depth=1, p=2, channels=4, classes=10, size=8, learned=True, ratio=4) -> dict:
    """Names and shapes of the tensors in an original checkpoint, written from the format's description."""
    linears = {"t_embedder.mlp.0": (dim, 256), "t_embedder.mlp.2": (dim, dim)}
    for n in range(depth):
        block = {"attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim), "adaLN_modulation.1": (6 * dim, dim)}
        block |= {"mlp.fc1": (ratio * dim, dim), "mlp.fc2": (dim, ratio * dim)}
        linears |= {f"blocks.{n}.{name}": shape for name, shape in block.items()}
    out = p * p * channels * (2 if learned else 1)
    linears |= {"final_layer.adaLN_modulation.1": (2 * dim, dim), "final_layer.linear": (out, dim)}
    linears |= {"x_embedder.proj": (dim, channels, p, p)}
    shapes = {f"{name}.weight": shape for name, shape in linears.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linears.items()}
    rows, columns = size if isinstance(size, tuple) else (size, size)
    shapes["pos_embed"] = (1, rows // p * (columns // p), dim)
    return shapes | {"y_embedder.embedding_table.weight": (classes + 1, dim)}


def positions(dim, size, p):
    """The fixed table, from an implementation that is not ours."""
    rows, columns = size if isinstance(size, tuple) else (size, size)
    side = max(rows, columns) // p
    table = get_2d_sincos_pos_embed(dim, side, base_size=side, output_type="np").reshape(side, side, dim)
    return torch.tensor(np.asarray(table[: rows // p, : columns // p])).float().reshape(1, -1, dim)


def original(seed=0, **shape) -> dict:
    """The tensors of a small original checkpoint, none of them zero."""
    random = torch.Generator().manual_seed(seed)
    tensors = {n: torch.randn(s, generator=random) * 0.1 for n, s in original_shapes(**shape).items()}
    return tensors | {"pos_embed": positions(shape.get("dim", 96), shape.get("size", 8), shape.get("p", 2))}


def tiny(model="DiT-nano/2", seed=0, **changes):
    """A small model, none of whose weights are zero."""
    model = presets.build(model, **{"depth": 1, "input_size": 8, "num_classes": 10} | changes)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.1)
    return model.eval()


def output(model, seed=0):
    """What a model says of two fixed noisy inputs, in its own dtype."""
    config, dtype = model.config, next(model.parameters()).dtype
    x = torch.randn(2, config.in_channels, *config.size, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model(x.to(dtype), torch.tensor([3, 900]), torch.tensor([0, config.num_classes]))


def assert_holds(model, tensors: dict):
    """The model's tensors are an original checkpoint's."""
    assert_same(meta_dit.to_theirs(model.state_dict(), model.config), tensors)


# --- the zoo, and our own format


def test_a_zoo_name_wins_over_a_folder_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("mnist", tiny())
    zoo, here = load("mnist"), load("./mnist")
    assert zoo.labels == list("0123456789") and zoo.codec_hint == "pixels"
    assert zoo.config.in_channels == 1 and here.config.in_channels == 4


@pytest.mark.parametrize(
    "changes",
    [
        *({"block": block} for block in BLOCKS),
        dict(num_classes=0),
        dict(input_size=(4, 8), in_channels=3),
        dict(learned_variance=False, prediction="v", schedule="cosine"),
        dict(prediction="x0", mlp_ratio=2.5, model="DiT-nano/4"),
    ],
    ids=str,
)
def test_what_was_saved_comes_back_exactly(changes, tmp_path):
    model = tiny(**changes)
    loaded = load(save(tmp_path / "model", model, codec_hint="a/vae"))
    assert loaded.config == model.config and loaded.codec_hint == "a/vae"
    assert loaded.labels == [str(number) for number in range(model.config.num_classes)]
    assert_same(loaded.model.state_dict(), model.state_dict())
    assert torch.equal(output(loaded.model), output(model))


def test_our_bare_file_is_enough_without_the_config_beside_it(tmp_path):
    model, names = tiny(), [f"thing {n}" for n in range(10)]
    folder = save(tmp_path / "model", model, labels=names, codec_hint="pixels")
    bare = shutil.copy(folder / "model.safetensors", tmp_path / "renamed.safetensors")
    for source in folder, folder / "model.safetensors", bare:
        loaded = load(source)
        assert (loaded.config, loaded.labels, loaded.codec_hint) == (model.config, names, "pixels")
        assert loaded.source == str(source)
        assert_same(loaded.model.state_dict(), model.state_dict())


def test_a_file_of_ours_opens_whatever_the_length_of_its_header(tmp_path):
    """Its first bytes are that length, and some lengths look like the first bytes of a pickle or of a zip archive."""
    model, lengths = tiny(dim=4, heads=1), set()
    for spaces in range(0, 264, 8):
        folder = save(tmp_path / "m", model, codec_hint=" " * spaces)
        lengths.add((folder / "model.safetensors").read_bytes()[0])
        loaded = load(shutil.copy(folder / "model.safetensors", tmp_path / "alone.safetensors"))
        assert loaded.config == model.config and loaded.codec_hint == " " * spaces
    assert 0x80 in lengths and 0x50 in lengths


def test_where_a_file_has_its_tensors_changes_no_bit_of_what_the_model_says(tmp_path):
    """Products of matrices that begin elsewhere than at a processor's line of 64 bytes may be added up otherwise."""
    model = tiny(num_classes=3)
    for spaces in range(0, 64, 8):
        loaded = load(save(tmp_path / "m", model, codec_hint=" " * spaces)).model
        assert all(tensor.data_ptr() % 64 == 0 for tensor in loaded.state_dict().values())
        assert torch.equal(output(loaded), output(model))


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_the_files_are_plain_safetensors_and_the_documented_json(dtype, tmp_path):
    model, names = tiny(in_channels=1), list("abcdefghij")
    folder = save(tmp_path / "m", model, labels=names, codec_hint="pixels", dtype=dtype, extra={"recipe": "none"})
    about = json.loads((folder / "config.json").read_text())
    fields = {name: value for name, value in asdict(model.config).items() if name != "null_label"}  # where it has one
    assert about == {
        "format": "dit_lab",
        "version": 1,
        "model": {"architecture": "DiT", **fields},
        "labels": names,
        "codec": "pixels",
        "recipe": "none",
    }
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["dit_lab"]) == about
    assert_same(load_file(folder / "model.safetensors"), {name: t.to(dtype) for name, t in model.state_dict().items()})
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_a_loaded_model_can_be_saved_over_its_own_file(tmp_path):
    model = tiny()
    folder = save(tmp_path / "m", model)
    save(folder, load(folder).model)
    assert_same(load(folder).model.state_dict(), model.state_dict())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder, trained weights) of a real training run of two steps."""
    folder, model = tmp_path_factory.mktemp("run") / "run", tiny(in_channels=1)
    options = TrainOptions(steps=2, batch_size=4, warmup=0, ema_decay=0.5)
    list(train(model, open_data("digits"), options, out=folder))
    return folder, {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("place", [".", "state.safetensors", "moved"])
def test_a_training_run_gives_its_average_or_its_trained_weights(place, run, tmp_path):
    folder, trained = run
    source = folder / place
    if place == "moved":
        source = shutil.copy(folder / "state.safetensors", tmp_path / "elsewhere.safetensors")
    average, last = load(source), load(source, weights="model")
    assert (average.weights, last.weights) == ("ema", "model") and "ema_decay" not in last.made
    assert_same(last.model.state_dict(), trained)
    assert average.config == last.config and average.labels == list("0123456789")
    tensors = load_file(folder / "state.safetensors")
    assert_same(average.model.state_dict(), {name: tensors[f"ema.{name}"] for name in trained})
    assert not torch.equal(average.model.out.weight, last.model.out.weight)


# --- the original's files


def test_a_flat_original_file_gives_its_tensors(tmp_path):
    tensors = original()
    torch.save(tensors, tmp_path / "DiT.pt")
    loaded = load(tmp_path / "DiT.pt")
    assert_holds(loaded.model, tensors)
    assert (loaded.config.dim, loaded.config.depth, loaded.config.heads) == (96, 1, 4)


@pytest.mark.parametrize("made", [argparse.Namespace, dict])
@pytest.mark.parametrize("weights", [None, "ema", "model"])
def test_a_trained_original_file_gives_the_average_unless_asked_otherwise(weights, made, tmp_path):
    parts = {"model": original(seed=1, dim=32), "ema": original(seed=2, dim=32)}
    optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
    args = made(model="DiT-nano/2", vae="ema", num_classes=10, results_dir="r")
    torch.save(parts | {"opt": optimiser.state_dict(), "args": args}, tmp_path / "0050000.pt")
    loaded = load(tmp_path / "0050000.pt", heads=4, **({"weights": weights} if weights else {}))
    assert_holds(loaded.model, parts[weights or "ema"])
    assert loaded.codec_hint == "stabilityai/sd-vae-ft-ema"


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("flat", [True, False])
def test_wrappers_in_tensor_names_are_stripped(prefix, flat, tmp_path):
    tensors = original()
    wrapped = {prefix + name: tensor for name, tensor in tensors.items()}
    torch.save(wrapped if flat else {"model": wrapped, "ema": wrapped}, tmp_path / "DiT.pt")
    assert_holds(load(tmp_path / "DiT.pt").model, tensors)


def test_a_legacy_torch_file_opens(tmp_path):
    tensors = original()
    torch.save(tensors, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert_holds(load(tmp_path / "old.pt").model, tensors)


def test_the_originals_tensors_open_from_safetensors_too(tmp_path):
    from safetensors.torch import save_file

    save_file(original(), tmp_path / "DiT.safetensors")
    assert_holds(load(tmp_path / "DiT.safetensors").model, original())


def test_a_folder_with_one_file_is_that_file(tmp_path):
    torch.save(original(), tmp_path / "DiT.pt")
    assert_holds(load(tmp_path).model, original())


def test_heads_say_what_an_unknown_width_cannot(tmp_path):
    torch.save(original(dim=40), tmp_path / "DiT.pt")
    assert load(tmp_path / "DiT.pt", heads=5).config.heads == 5


# --- the config in the tensors


def inferred(**shape):
    """The config that meta_dit reads from shapes and the position table alone; the other tensors take no memory."""
    tensors = {name: torch.zeros(1).expand(size) for name, size in original_shapes(**shape).items()}
    tensors["pos_embed"] = positions(shape["dim"], shape["size"], shape["p"])
    return meta_dit.config_of(tensors, Told(), {}), sum(tensor.numel() for tensor in tensors.values())


@pytest.mark.parametrize("patch", [2, 4, 8])
@pytest.mark.parametrize("size", PAPER)
def test_the_papers_twelve_are_recognised_by_their_tensors(size, patch):
    depth, dim, heads = PAPER[size]
    config, count = inferred(depth=depth, dim=dim, p=patch, size=32, classes=1000)
    assert config == presets.preset(f"DiT-{size}/{patch}")
    assert (config.depth, config.dim, config.heads, config.patch_size) == (depth, dim, heads, patch)
    if (size, patch) == ("XL", 2):
        assert count == 675_129_632


@pytest.mark.parametrize(
    ("shape", "fields"),
    [
        (dict(learned=False), dict(learned_variance=False)),
        (dict(classes=0), dict(num_classes=0)),
        (dict(classes=101, channels=3), dict(num_classes=101, in_channels=3)),
        (dict(channels=1, size=28, p=4), dict(in_channels=1, input_size=28, patch_size=4)),
        (dict(size=64), dict(input_size=64)),
        (dict(size=(8, 32)), dict(input_size=(8, 32))),
        (dict(size=(32, 8), p=4), dict(input_size=(32, 8), patch_size=4)),
        (dict(size=(16, 24)), dict(input_size=(16, 24))),
        (dict(ratio=2), dict(mlp_ratio=2)),
        (dict(depth=13), dict(depth=13)),
    ],
    ids=str,
)
def test_other_configs_are_read_from_the_tensors(shape, fields):
    config, _ = inferred(**dict(dim=96, depth=1, p=2, channels=4, classes=1000, size=32) | shape)
    assert config == presets.preset("DiT-nano/2", **{"depth": 1, "input_size": 32} | fields)


# --- labels and codec


@pytest.mark.parametrize(
    ("shape", "args", "codec"),
    [
        (dict(channels=4), {}, "stabilityai/sd-vae-ft-mse"),
        (dict(channels=4), {"vae": "mse"}, "stabilityai/sd-vae-ft-mse"),
        (dict(channels=4), {"vae": "ema"}, "stabilityai/sd-vae-ft-ema"),
        (dict(channels=3), {}, "pixels"),
        (dict(channels=1), {}, "pixels"),
        (dict(channels=2), {}, None),
    ],
)
def test_an_original_file_says_what_its_channels_are(shape, args, codec, tmp_path):
    torch.save({"ema": original(**shape), "args": argparse.Namespace(**args)}, tmp_path / "DiT.pt")
    assert load(tmp_path / "DiT.pt").codec_hint == codec


@pytest.mark.parametrize(
    ("shape", "first"),
    [
        (dict(classes=1000), "tench"),
        (dict(classes=1000, channels=3), "0"),
        (dict(classes=10), "0"),
    ],
    ids=str,
)
def test_only_a_latent_model_of_1000_classes_gets_imagenets_names(shape, first, tmp_path):
    torch.save(original(**shape), tmp_path / "DiT.pt")
    labels = load(tmp_path / "DiT.pt").labels
    assert labels[0] == first and len(labels) == shape["classes"] and all(isinstance(label, str) for label in labels)
    if first != "0":
        assert labels[207] == "golden retriever" and labels[999].startswith("toilet")
    else:
        assert labels[-1] == str(shape["classes"] - 1)


# --- diffusers' folders


def transformer(**changes):
    """A small transformer of diffusers', all its blocks with the same embedders, none of its weights zero."""
    torch.manual_seed(0)
    shape = dict(num_attention_heads=2, attention_head_dim=16, num_layers=2, sample_size=8, num_embeds_ada_norm=10)
    model = DiTTransformer2DModel(**shape | dict(out_channels=8) | changes)
    for block in model.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(model.transformer_blocks[0].norm1.emb.state_dict())
    return model


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("shard", ["1GB", "60KB"], ids=["whole", "sharded"])
def test_a_bare_transformer_of_diffusers_opens(safe, shard, tmp_path):
    theirs = transformer()
    theirs.save_pretrained(tmp_path, safe_serialization=safe, max_shard_size=shard)
    assert len(list(tmp_path.glob("*.index.json"))) == (shard == "60KB")
    loaded = load(tmp_path)
    assert loaded.config == presets.preset("DiT-nano/2", dim=32, depth=2, heads=2, input_size=8, num_classes=10)
    tensors = theirs.state_dict()
    for n in range(2):
        parts = [tensors[f"transformer_blocks.{n}.attn1.to_{name}.weight"] for name in "qkv"]
        assert torch.equal(loaded.model.blocks[n].attn.qkv.weight, torch.cat(parts))
        up = tensors[f"transformer_blocks.{n}.ff.net.0.proj.weight"]
        assert torch.equal(loaded.model.blocks[n].mlp.up.weight, up)
    assert torch.equal(loaded.model.out.weight, tensors["proj_out_2.weight"])
    assert torch.equal(loaded.model.positions, theirs.pos_embed.pos_embed[0])


def test_the_weights_file_of_a_diffusers_folder_opens_by_itself(tmp_path):
    transformer(out_channels=None).save_pretrained(tmp_path)
    config = load(tmp_path / "diffusion_pytorch_model.safetensors").config
    assert config.depth == 2 and not config.learned_variance


def test_the_older_class_name_of_diffusers_is_known(tmp_path):
    transformer(num_embeds_ada_norm=1000).save_pretrained(tmp_path)
    written = tmp_path / "config.json"
    written.write_text(written.read_text().replace("DiTTransformer2DModel", "Transformer2DModel"))
    loaded = load(tmp_path)
    assert loaded.labels[0] == "tench" and loaded.codec_hint == "stabilityai/sd-vae-ft-mse"


# --- what comes out of `load`


def write(kind, path, dtype):
    """A small checkpoint of a kind in a dtype."""
    if kind == "own":
        return save(path, tiny(), dtype=dtype)
    if kind == "original":
        path = path.with_suffix(".pt")
        torch.save({name: tensor.to(dtype) for name, tensor in original().items()}, path)
    else:
        transformer().to(dtype).save_pretrained(path)
    return path


@pytest.mark.parametrize("kind", ["own", "original", "diffusers"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weights_become_fp32_or_keep_the_files_dtype(kind, dtype, tmp_path):
    path = write(kind, tmp_path / "m", dtype)
    for asked, got in (None, dtype), (torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16):
        model = load(path, dtype=asked).model
        assert {tensor.dtype for tensor in model.state_dict().values()} == {got}
        assert output(model).dtype == got  # a single tensor of another dtype would not run
    assert_same(load(path).model.state_dict(), load(path, dtype=torch.float32).model.state_dict())


@pytest.mark.parametrize("kind", ["own", "original", "diffusers"])
def test_a_loaded_model_is_in_eval_mode_and_can_be_trained_on(kind, tmp_path):
    path = write(kind, tmp_path / "m", torch.float32)
    files = lambda: [file.read_bytes() for file in sorted(tmp_path.rglob("*")) if file.is_file()]
    before, loaded = files(), load(path)
    model = loaded.model
    assert not any(module.training for module in model.modules())
    assert loaded.config == model.config and loaded.source == str(path)
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in model.parameters())
    assert "positions" not in dict(model.named_parameters())
    weights = model.out.weight.detach().clone()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(2, 4, 8, 8), torch.tensor([1, 2]), torch.tensor([0, 1])).square().mean().backward()
    optimiser.step()
    assert not torch.equal(model.out.weight, weights)
    assert files() == before  # the weights are mapped from the file, and training must not write through


def test_loading_and_folding_import_no_compiler():
    """`torch._dynamo` alone takes longer to import than a small checkpoint to load."""
    ask = (
        "import sys, dit_lab; dit_lab.fold(dit_lab.load('mnist_udit').model); sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", ask], cwd=ROOT, check=True)


def test_averaged_weights_are_never_taken_for_those_as_trained(tmp_path):
    average = save(tmp_path / "average", tiny(), extra={"ema_decay": 0.99, "trained_steps": 5})
    assert (load(average).weights, load(average).made) == ("ema", {"ema_decay": 0.99, "trained_steps": 5})
    with pytest.raises(CheckpointError, match="holds averaged weights"):
        load(average, weights="model")
    with pytest.raises(CheckpointError, match="holds averaged weights"):
        load("mnist", weights="model")
    silent = save(tmp_path / "silent", tiny())
    assert load(silent, weights="model").weights is load(silent).weights is None


def test_what_is_known_of_the_training_stays_with_a_converted_checkpoint(tmp_path, command):
    made = {"ema_decay": 0.99, "trained_steps": 5, "encoder_checksum": "0123"}
    save(tmp_path / "average", tiny(), extra=made)
    for name, form in ("ours", "dit_lab"), ("theirs.pt", "meta_dit"):
        code, _, complaint = command("convert", tmp_path / "average", tmp_path / name, "--to", form)
        assert code == 0, complaint
        assert (load(tmp_path / name).weights, load(tmp_path / name).made) == ("ema", made)
