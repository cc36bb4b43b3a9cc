"""Conversion changes no number: diffusers computes what we compute, and every way there and back is exact."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from safetensors.torch import load_file
from shared import assert_same, drawn, tiny_vae

from dit_lab.checkpoints import CheckpointError, diffusers_dit, diffusers_schedulers, load, meta_dit, save
from dit_lab.checkpoints.meta_dit import labels_of
from dit_lab.commands.convert import WRITERS, convert_command
from dit_lab.data import open_codec
from dit_lab.diffusion import Diffusion, generate, objective
from dit_lab.models import BLOCKS, build

OTHERS = [block for block in BLOCKS if block != "adaln_zero"]
FOR_A_DIT = [to for to in WRITERS if to != "udit"]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def tiny(seed=0, **changes):
    """A small model, none of whose weights are zero."""
    shape = dict(dim=32, depth=2, heads=2, input_size=8, num_classes=10)
    model = build("DiT-nano/2", **shape | changes).eval()
    return drawn(model, seed)


def corrected(transformer):
    """diffusers' model with the original's two numbers: no frequency shift, and 1e-6 in the second norm."""
    for block in transformer.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
        block.norm3.eps = 1e-6
    return transformer.eval()


def outputs(ours, theirs, seed=0):
    """What the two say of the same inputs, the null label and both ends of time among them."""
    config = ours.config
    x = torch.randn(4, config.in_channels, *config.size, generator=torch.Generator().manual_seed(seed))
    t, y = torch.tensor([0, 1, 500, 999]), torch.tensor([0, config.num_classes - 1, 3, config.num_classes])
    with torch.no_grad():
        return ours(x, t, y), theirs(x, timestep=t, class_labels=y).sample


def error(ours, theirs):
    """How far apart, relative to the second."""
    return float((ours - theirs).norm() / theirs.norm())


def assert_same_checkpoint(ours, theirs):
    """Two `Loaded` with the same content."""
    assert (ours.config, ours.labels, ours.codec_hint) == (theirs.config, theirs.labels, theirs.codec_hint)
    assert_same(ours.model.state_dict(), theirs.model.state_dict())


# --- diffusers as an independent implementation

CONFIGS = [
    dict(),
    dict(learned_variance=False),
    dict(patch_size=1, in_channels=3),
    dict(patch_size=4, input_size=16, num_classes=1000),
    dict(dim=48, heads=6, depth=1, num_classes=1000, learned_variance=False),
]


@pytest.mark.parametrize("changes", CONFIGS, ids=str)
def test_diffusers_computes_what_we_compute_once_its_two_numbers_are_the_originals(changes, tmp_path):
    model = tiny(**changes)
    convert_command(str(save(tmp_path / "ours", model)), tmp_path / "pipe", to="diffusers")
    theirs, report = DiTTransformer2DModel.from_pretrained(tmp_path / "pipe/transformer", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert error(*outputs(model, theirs.eval())) > 1e-4  # what is corrected below is really there
    assert error(*outputs(model, corrected(theirs))) < 1e-5


@pytest.mark.parametrize("changes", [dict(), dict(patch_size=4, in_channels=3, out_channels=3)], ids=str)
def test_we_compute_what_diffusers_computes_from_its_own_files(changes, tmp_path):
    torch.manual_seed(0)
    shape = dict(num_attention_heads=2, attention_head_dim=16, num_layers=2, sample_size=8, num_embeds_ada_norm=10)
    theirs = DiTTransformer2DModel(**shape | dict(out_channels=8) | changes)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.1)
    for block in theirs.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(theirs.transformer_blocks[0].norm1.emb.state_dict())
    theirs.save_pretrained(tmp_path)
    assert error(*outputs(load(tmp_path).model, corrected(theirs))) < 1e-5


def from_original(tensors: dict, depth: int) -> dict:
    """An original checkpoint's tensors under diffusers' names, written from the formats' descriptions."""
    block = {"adaLN_modulation.1": "norm1.linear", "attn.proj": "attn1.to_out.0"}
    block |= {"mlp.fc1": "ff.net.0.proj", "mlp.fc2": "ff.net.2"}
    ends = {"x_embedder.proj": "pos_embed.proj", "final_layer.linear": "proj_out_2"}
    ends["final_layer.adaLN_modulation.1"] = "proj_out_1"
    theirs = {f"{new}.{kind}": tensors[f"{old}.{kind}"] for old, new in ends.items() for kind in ("weight", "bias")}
    for n in range(depth):
        new = f"transformer_blocks.{n}"
        embed = f"{new}.norm1.emb"
        theirs[f"{embed}.class_embedder.embedding_table.weight"] = tensors["y_embedder.embedding_table.weight"]
        for kind in "weight", "bias":
            theirs |= {f"{new}.{to}.{kind}": tensors[f"blocks.{n}.{name}.{kind}"] for name, to in block.items()}
            parts = tensors[f"blocks.{n}.attn.qkv.{kind}"].chunk(3)
            theirs |= {f"{new}.attn1.to_{name}.{kind}": part for name, part in zip("qkv", parts, strict=True)}
            for layer, number in ("linear_1", 0), ("linear_2", 2):
                theirs[f"{embed}.timestep_embedder.{layer}.{kind}"] = tensors[f"t_embedder.mlp.{number}.{kind}"]
    return theirs


@pytest.mark.parametrize("changes", CONFIGS, ids=str)
def test_an_original_file_gives_what_diffusers_gives_from_the_same_tensors(changes, tmp_path):
    model = tiny(**changes)
    convert_command(str(save(tmp_path / "ours", model)), tmp_path / "DiT.pt", to="meta_dit")
    (tmp_path / "DiT.json").unlink()  # an original file has nothing beside it
    tensors, config = torch.load(tmp_path / "DiT.pt", weights_only=True), model.config
    theirs = DiTTransformer2DModel(
        num_attention_heads=config.heads, attention_head_dim=config.dim // config.heads, num_layers=config.depth,
        in_channels=config.in_channels, out_channels=config.out_channels, sample_size=config.size[0],
        patch_size=config.patch_size, num_embeds_ada_norm=config.num_classes,
    )  # fmt: skip
    theirs.load_state_dict(from_original(tensors, config.depth))
    assert torch.allclose(theirs.pos_embed.pos_embed, tensors["pos_embed"], atol=1e-6)
    ours = load(tmp_path / "DiT.pt", heads=config.heads)
    assert ours.config == config
    assert error(*outputs(ours.model, corrected(theirs))) < 1e-5


# --- the pipeline


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """The folder of a tiny random VAE."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vae")
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, scaling_factor=0.18215,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """The folder of a tiny latent model of 1,000 classes: DiTPipeline's null label is 1000."""
    model = tiny(num_classes=1000, depth=1)
    return save(tmp_path_factory.mktemp("imagenet") / "m", model, labels=labels_of(model.config))


def opened(folder, **parts):
    """The pipeline in a folder, corrected and quiet."""
    pipe = DiTPipeline.from_pretrained(folder, **parts)
    corrected(pipe.transformer)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def at_timesteps(timesteps, config) -> Diffusion:
    """Our process at timesteps (rising) that another library chose."""
    full = Diffusion.named(config.schedule, config.prediction)
    kept = np.asarray(timesteps)
    alpha_bar = full.alpha_bar[kept]
    return Diffusion(1 - alpha_bar / np.append(1.0, alpha_bar[:-1]), kept, config.prediction)


def images(pipe, loaded, vae, steps, scale, **options):
    """The pictures of the pipeline and ours from the same seed, in [0, 1]."""
    labels, seed = [207, 3], 5
    theirs = pipe(labels, scale, torch.Generator().manual_seed(seed), steps, output_type="pt").images
    latents = generate(loaded.model, labels, cfg_scale=scale, seed=seed, sampler="ddim", steps=steps, **options)
    return (open_codec(None, vae=str(vae), channels=4).decode(latents) / 2 + 0.5).clamp(0, 1), theirs


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_the_pipeline_draws_our_picture(scale, imagenet, vae, tmp_path):
    convert_command(str(imagenet), tmp_path / "pipe", to="diffusers", vae=str(vae))
    pipe, loaded = opened(tmp_path / "pipe"), load(imagenet)
    pipe.scheduler.set_timesteps(10)
    ours, theirs = images(
        pipe, loaded, vae, 10, scale, process=at_timesteps(pipe.scheduler.timesteps.tolist()[::-1], loaded.config)
    )
    assert theirs.shape == (2, 3, 16, 16) and theirs.std() > 0.01
    assert error(ours, theirs) < 1e-4
    assert pipe.labels["golden retriever"] == 207


def test_the_pipeline_draws_our_picture_in_one_step_without_help(imagenet, vae, tmp_path):
    convert_command(str(imagenet), tmp_path / "pipe", to="diffusers", vae=str(vae))
    assert error(*images(opened(tmp_path / "pipe"), load(imagenet), vae, 1, 4.0)) < 1e-4


@pytest.mark.parametrize("steps", [1, 10, 50, 250, 1000])
def test_the_pipelines_scheduler_steps_from_pure_noise_to_the_clean_image(steps):
    """diffusers' DDIM goes down by 1000 // steps in alpha_bar, whatever timestep the network is told next.

    In 1 and in 1000 steps these timesteps are ours; in others ours are 999 / (steps - 1) apart, with the ends.
    """
    config = {
        name: value for name, value in diffusers_schedulers.scheduler_json(tiny().config).items() if name[0] != "_"
    }
    scheduler = DDIMScheduler(**config)
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.tolist()
    assert timesteps[0] == 999 and timesteps[-1] - 1000 // steps == -1
    assert all(now - 1000 // steps == following for now, following in zip(timesteps, timesteps[1:], strict=False))
    assert (timesteps == Diffusion.named().respaced(steps).timesteps[::-1].tolist()) == (steps in (1, 1000))


# Not eps on the cosine schedule: there the pipeline begins where x0 cannot be read, and we begin where it can.
@pytest.mark.parametrize(
    ("schedule", "prediction"),
    [("linear", "eps"), ("linear", "x0"), ("linear", "v"), ("cosine", "x0"), ("cosine", "v")],
)
def test_the_scheduler_steps_as_we_do_for_every_schedule_and_prediction(schedule, prediction, vae, tmp_path):
    model = tiny(depth=1, schedule=schedule, prediction=prediction, num_classes=1000)
    source = str(save(tmp_path / "m", model))
    convert_command(source, tmp_path / "pipe", to="diffusers", vae=str(vae))
    pipe = opened(tmp_path / "pipe")
    pipe.scheduler.set_timesteps(5)
    process = at_timesteps(pipe.scheduler.timesteps.tolist()[::-1], model.config)
    assert error(*images(pipe, load(source), vae, 5, 1.0, process=process)) < 1e-4


def test_without_a_vae_the_pipeline_takes_one_when_it_is_opened(imagenet, vae, tmp_path):
    convert_command(str(imagenet), tmp_path / "pipe", to="diffusers")
    assert not (tmp_path / "pipe/vae").exists()
    pipe = opened(tmp_path / "pipe", vae=AutoencoderKL.from_pretrained(vae))
    assert pipe([1], 1.0, num_inference_steps=1, output_type="np").images.shape == (1, 16, 16, 3)


def test_a_pipeline_names_its_vae_and_its_classes_when_it_is_loaded(imagenet, vae, tmp_path):
    convert_command(str(imagenet), tmp_path / "pipe", to="diffusers", vae=str(vae))
    loaded = load(tmp_path / "pipe")
    assert loaded.codec_hint == str(tmp_path / "pipe/vae") and loaded.labels == load(imagenet).labels
    assert open_codec(loaded.codec_hint, channels=loaded.config.in_channels).note == ""
    DiTPipeline.from_pretrained(tmp_path / "pipe").save_pretrained(tmp_path / "again")  # as diffusers writes it
    assert_same(load(tmp_path / "again").model.state_dict(), load(imagenet).model.state_dict())
    assert load(tmp_path / "again").config == loaded.config


# --- there and back


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("via", ["meta_dit", "diffusers"])
@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(learned_variance=False, in_channels=1, patch_size=4),
        dict(prediction="v", schedule="cosine", in_channels=3),
    ],
    ids=str,
)
def test_ours_comes_back_exactly(changes, via, dtype, tmp_path):
    names = [f"a {number}, or so" for number in range(10)]
    codec = "stabilityai/sd-vae-ft-mse" if "in_channels" not in changes else "pixels"
    source = save(tmp_path / "ours", tiny(**changes), labels=names, codec_hint=codec, dtype=dtype)
    there, back = tmp_path / ("there.pt" if via == "meta_dit" else "there"), tmp_path / "back"
    convert_command(str(source), there, to=via)
    convert_command(str(there), back, to="dit_lab")
    assert_same_checkpoint(load(back, dtype=None), load(source, dtype=None))
    assert {tensor.dtype for tensor in load_file(back / "model.safetensors").values()} == {dtype}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("via", ["dit_lab", "diffusers"])
def test_an_original_file_comes_back_exactly(via, dtype, tmp_path):
    model = tiny(dim=96, heads=4).to(dtype)
    tensors = meta_dit.to_theirs(model.state_dict(), model.config)
    torch.save(tensors, tmp_path / "DiT.pt")
    convert_command(str(tmp_path / "DiT.pt"), tmp_path / "there", to=via)
    convert_command(str(tmp_path / "there"), tmp_path / "back.pt", to="meta_dit")
    assert_same(torch.load(tmp_path / "back.pt", weights_only=True), tensors)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", [meta_dit, diffusers_dit])
def test_a_formats_two_directions_undo_each_other(form, dtype):
    model = tiny().to(dtype)
    theirs = form.to_theirs(model.state_dict(), model.config)
    assert_same(form.to_ours(theirs, model.config), model.state_dict())
    assert_same(form.to_theirs(form.to_ours(theirs, model.config), model.config), theirs)


@pytest.mark.parametrize(
    "changes", [*({"block": block} for block in BLOCKS), dict(num_classes=0), dict(input_size=(4, 8))], ids=str
)
def test_our_own_format_converts_every_model_to_itself(changes, tmp_path):
    source = save(tmp_path / "a", tiny(**changes), codec_hint="a/vae")
    convert_command(str(source), tmp_path / "b", to="dit_lab")
    assert_same_checkpoint(load(tmp_path / "b"), load(source))


@pytest.mark.parametrize("changes", [dict(num_classes=0), dict(input_size=(4, 8)), dict(mlp_ratio=2)], ids=str)
def test_the_originals_format_holds_what_its_names_can_say(changes, tmp_path):
    source = save(tmp_path / "a", tiny(**changes), codec_hint="stabilityai/sd-vae-ft-mse")
    convert_command(str(source), tmp_path / "b.pt", to="meta_dit")
    assert_same_checkpoint(load(tmp_path / "b.pt"), load(source))
    (tmp_path / "b.json").unlink()
    assert_same_checkpoint(load(tmp_path / "b.pt", heads=2), load(source))


# --- what a format cannot hold


@pytest.mark.parametrize(
    ("to", "changes", "reason"),
    [
        *(("meta_dit", dict(block=block), f"adaLN-Zero blocks only, this model has {block}") for block in OTHERS),
        *(("diffusers", dict(block=block), "has adaLN-Zero blocks only") for block in OTHERS),
        ("diffusers", dict(input_size=(4, 8)), "takes square inputs only"),
        ("diffusers", dict(num_classes=0), "needs at least one class"),
        ("diffusers", dict(mlp_ratio=2), "has an MLP ratio of 4"),
    ],
    ids=str,
)
def test_what_a_format_cannot_hold_is_refused_and_nothing_is_written(to, changes, reason, tmp_path):
    source = save(tmp_path / "a", tiny(**changes))
    with pytest.raises(CheckpointError, match=reason) as refusal:
        convert_command(str(source), tmp_path / ("new/b.pt" if to == "meta_dit" else "new/b"), to=to)
    assert "\n" not in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_position_table_of_its_own_does_not_get_lost_in_diffusers(tmp_path):
    model = tiny()
    model.positions += 0.1
    source = save(tmp_path / "a", model)
    with pytest.raises(CheckpointError, match="position table"):
        convert_command(str(source), tmp_path / "b", to="diffusers")
    assert not (tmp_path / "b").exists()
    convert_command(str(source), tmp_path / "b.pt", to="meta_dit")
    assert_same_checkpoint(load(tmp_path / "b.pt"), load(source))


def test_embedders_that_differ_between_blocks_are_refused(tmp_path):
    convert_command(str(save(tmp_path / "ours", tiny())), tmp_path / "pipe", to="diffusers")
    theirs = DiTTransformer2DModel.from_pretrained(tmp_path / "pipe/transformer")
    with torch.no_grad():
        theirs.transformer_blocks[1].norm1.emb.class_embedder.embedding_table.weight[3, 4] += 1
    theirs.save_pretrained(tmp_path / "tuned")
    told = "class_embedder.embedding_table.weight of block 1 differs from block 0's"
    with pytest.raises(CheckpointError, match=f"tuned.*{told}"):
        load(tmp_path / "tuned")
    with pytest.raises(CheckpointError, match=told):
        convert_command(str(tmp_path / "tuned"), tmp_path / "b.pt", to="meta_dit")
    assert not list(tmp_path.glob("b.*"))


# --- the command


@pytest.fixture
def convert(command):
    """Run `dit_lab convert` here; returns its exit code, what it printed and what it complained."""
    return partial(command, "convert")


@pytest.fixture
def source(tmp_path):
    return save(tmp_path / "source", tiny(), labels=list("abcdefghij"), codec_hint="pixels")


def snapshot(folder):
    """Every file below a folder and what is in it."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("to", FOR_A_DIT)
def test_the_command_says_what_it_wrote(to, convert, source, tmp_path):
    out = tmp_path / ("out.pt" if to == "meta_dit" else "out")
    code, said, complaint = convert(source, out, "--to", to)
    count = sum(parameter.numel() for parameter in tiny().parameters())
    assert code == 0 and f"{out}: {to}, {count:,} parameters" in said and complaint == ""
    assert ("leave its guidance_scale at 1" in said) == (to == "diffusers")
    assert_same(load(out).model.state_dict(), tiny().state_dict())


@pytest.mark.parametrize("to", FOR_A_DIT)
def test_what_is_there_is_replaced_only_when_asked(to, convert, source, tmp_path):
    out = tmp_path / ("out.pt" if to == "meta_dit" else "out")
    convert(save(tmp_path / "other", tiny(seed=1)), out, "--to", to)
    before = snapshot(tmp_path)
    code, _, complaint = convert(source, out, "--to", to)
    assert code == 2 and "is there already; choose another name or add --overwrite" in complaint
    assert complaint.count("\n") == 1 and snapshot(tmp_path) == before
    code, _, complaint = convert(source, out, "--to", to, "--overwrite")
    assert code == 0, complaint
    assert_same(load(out).model.state_dict(), tiny().state_dict())


@pytest.mark.parametrize(
    ("out", "to", "told"),
    [
        ("out", "meta_dit", "give a name that ends in .pt"),
        ("folder.pt", "meta_dit", "is a folder; meta_dit wants a file"),
        ("file", "dit_lab", "is a file; dit_lab wants a folder"),
        ("file", "diffusers", "is a file; diffusers wants a folder"),
        ("notes.pt", "meta_dit", "notes.json is there already"),
        ("source", "diffusers", r"holds something else (model.safetensors)"),
        ("pipe", "dit_lab", "holds something else (model_index.json)"),
        ("run", "dit_lab", "holds something else (state.safetensors)"),
        ("pipe/transformer", "dit_lab", "holds something else (diffusion_pytorch_model.safetensors)"),
    ],
)
def test_a_destination_that_does_not_fit_is_told_and_left_alone(out, to, told, convert, source, tmp_path):
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/state.safetensors").write_text("a run")
    convert(source, tmp_path / "pipe", "--to", "diffusers")
    before = snapshot(tmp_path)
    overwrite = ["--overwrite"] if "there already" not in told else []
    code, _, complaint = convert(source, tmp_path / out, "--to", to, *overwrite)
    assert code == 2 and told in complaint and complaint.count("\n") == 1
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["nowhere", "--to", "dit_lab"], "there is no file or folder 'nowhere'"),
        (["{source}", "--to", "diffusers", "--vae", "{source}"], "could not open the VAE"),
        (["{grey}", "--to", "diffusers", "--vae", "{vae}"], "its latents have 4 channels, the model's 1"),
        (["{nan}", "--to", "diffusers"], "NaN or Inf in out.bias"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_refused_conversion_leaves_nothing(options, told, convert, source, vae, tmp_path):
    broken = tiny()
    broken.out.bias.data[0] = float("nan")
    places = dict(source=source, vae=vae, nan=save(tmp_path / "nan", broken))
    places["grey"] = save(tmp_path / "grey", tiny(in_channels=1))
    before = snapshot(tmp_path)
    first, *rest = [option.format(**places) for option in options]
    code, _, complaint = convert(first, tmp_path / "new/out", *rest)
    assert code == 2 and told in complaint and complaint.count("\n") == 1 and "Traceback" not in complaint
    assert snapshot(tmp_path) == before and not (tmp_path / "new").exists()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("to", FOR_A_DIT)
def test_the_dtype_is_the_one_asked_for(to, dtype, convert, source, tmp_path):
    out = tmp_path / ("out.pt" if to == "meta_dit" else "out")
    assert convert(source, out, "--to", to, "--dtype", dtype)[0] == 0
    wanted = {name: tensor.to(getattr(torch, dtype)) for name, tensor in tiny().state_dict().items()}
    assert_same(load(out, dtype=None).model.state_dict(), wanted)


@pytest.mark.parametrize("to", FOR_A_DIT)
def test_a_checkpoint_can_be_converted_onto_itself(to, convert, source, tmp_path):
    """Its tensors are mapped from the very file that is replaced."""
    out = tmp_path / ("out.pt" if to == "meta_dit" else "out")
    convert(source, out, "--to", to)
    assert convert(out, out, "--to", to, "--overwrite")[0] == 0
    assert_same(load(out).model.state_dict(), tiny().state_dict())


def test_the_weights_are_the_ones_asked_for(convert, tmp_path):
    parts = {}
    for seed, part in enumerate(["model", "ema"]):
        model = tiny(seed=seed, dim=96, heads=4)
        parts[part] = meta_dit.to_theirs(model.state_dict(), model.config)
    torch.save(parts, tmp_path / "both.pt")
    for part in parts:
        assert convert(tmp_path / "both.pt", tmp_path / f"{part}.pt", "--to", "meta_dit", "--weights", part)[0] == 0
        assert_same(torch.load(tmp_path / f"{part}.pt", weights_only=True), parts[part])


def test_heads_are_asked_for_when_a_width_does_not_say(convert, tmp_path):
    model = tiny(dim=40, heads=5)
    torch.save(meta_dit.to_theirs(model.state_dict(), model.config), tmp_path / "DiT.pt")
    code, _, complaint = convert(tmp_path / "DiT.pt", tmp_path / "out", "--to", "dit_lab")
    assert code == 2 and "say how many heads it has" in complaint and not (tmp_path / "out").exists()
    assert convert(tmp_path / "DiT.pt", tmp_path / "out", "--to", "dit_lab", "--heads", 5)[0] == 0
    assert load(tmp_path / "out").config == model.config


def test_our_config_and_the_originals_sidecar_name_the_vae_asked_for(convert, source, tmp_path):
    convert(source, tmp_path / "ours", "--to", "dit_lab", "--vae", "a/vae")
    convert(source, tmp_path / "DiT.pt", "--to", "meta_dit", "--vae", "a/vae")
    assert load(tmp_path / "ours").codec_hint == load(tmp_path / "DiT.pt").codec_hint == "a/vae"
    assert json.loads((tmp_path / "DiT.json").read_text())["labels"] == list("abcdefghij")


def test_weights_with_nan_are_converted_only_when_asked(convert, tmp_path):
    model = tiny()
    model.out.bias.data[0] = float("nan")
    source = save(tmp_path / "nan", model)
    assert convert(source, tmp_path / "out", "--to", "dit_lab")[0] == 2
    assert convert(source, tmp_path / "out", "--to", "dit_lab", "--allow-nonfinite")[0] == 0
    assert load(tmp_path / "out", allow_nonfinite=True).model.out.bias.isnan().sum() == 1


def test_a_sharded_pipeline_is_replaced_whole(convert, imagenet, vae, tmp_path):
    """Shards that stayed would be what diffusers opens; the VAE comes from the folder that is written to."""
    pipe = tmp_path / "pipe"
    convert(save(tmp_path / "other", tiny(seed=1, num_classes=1000)), pipe, "--to", "diffusers", "--vae", vae)
    shutil.rmtree(pipe / "transformer")
    DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, num_layers=1, out_channels=8, sample_size=8
    ).save_pretrained(pipe / "transformer", max_shard_size="60KB")
    decoder = AutoencoderKL.from_pretrained(vae).state_dict()
    code, _, complaint = convert(imagenet, pipe, "--to", "diffusers", "--vae", pipe, "--overwrite")
    assert code == 0, complaint
    opened = DiTPipeline.from_pretrained(pipe)
    assert_same(opened.vae.state_dict(), decoder)
    assert torch.equal(opened.transformer.proj_out_2.weight, load(imagenet).model.out.weight)


@pytest.mark.parametrize("trained_for", [objective("flow"), objective(prediction="velocity")])
def test_an_objective_that_diffusers_does_not_know_is_refused_before_anything_is_written(trained_for, tmp_path):
    save(tmp_path / "flow", tiny(**trained_for))
    with pytest.raises(CheckpointError, match="DiTPipeline takes linear, cosine schedules and eps, x0, v predictions"):
        convert_command(str(tmp_path / "flow"), tmp_path / "pipeline", to="diffusers")
    assert not (tmp_path / "pipeline").exists()


@pytest.mark.parametrize("more", [dict(shift_factor=0.5), dict(latents_mean=[0.1] * 4, latents_std=[2.0] * 4)])
def test_a_vae_whose_numbers_the_pipeline_does_not_read_is_refused(more, imagenet, tmp_path):
    """DiTPipeline multiplies by the scaling factor and nothing else: its pictures would be wrong without a word."""
    vae = tiny_vae()
    vae.register_to_config(**more)
    vae.save_pretrained(tmp_path / "vae")
    with pytest.raises(CheckpointError, match=f"DiTPipeline does not read a VAE's {', '.join(more)}; leave --vae out"):
        convert_command(str(imagenet), tmp_path / "pipeline", to="diffusers", vae=str(tmp_path / "vae"))
    assert not (tmp_path / "pipeline").exists()
