"""Bad checkpoints get one clear sentence, nothing in a file ever runs, and a save that dies leaves a whole one."""

import argparse
import json
import os
import pickle
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from shared import ROOT, in_child

from dit_lab.checkpoints import CheckpointError, load, meta_dit, save
from dit_lab.checkpoints.own import json_of
from dit_lab.commands.convert import convert_command
from dit_lab.files import store
from dit_lab.models import build, preset

NOBODY = 65534
MB = 2**20
TENSORS = dict(
    dit_lab="model.safetensors", meta_dit="model.pt", diffusers="transformer/diffusion_pytorch_model.safetensors"
)


def tiny(**changes):
    torch.manual_seed(0)
    small = dict(dim=32, depth=2, heads=2, input_size=8, in_channels=1, num_classes=10)
    return build("DiT-nano/4", **small | changes)


@pytest.fixture(autouse=True)
def in_time():
    """Nothing here may wait for ever, say on a pipe that nobody writes to."""

    def give_up(*_):
        raise TimeoutError("this took more than a minute")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """One model in the three formats, a folder each; not to be written to."""
    folder = tmp_path_factory.mktemp("good")
    save(folder / "dit_lab", tiny(dim=96, heads=4), labels=list("abcdefghij"))
    convert_command(str(folder / "dit_lab"), folder / "meta_dit" / "model.pt", to="meta_dit")
    convert_command(str(folder / "dit_lab"), folder / "diffusers", to="diffusers")
    return folder


@pytest.fixture
def altered(good, tmp_path):
    """Copy a format's folder and change its tensors by a function; returns the folder."""

    def make(form: str, change) -> Path:
        folder = shutil.copytree(good / form, tmp_path / form, dirs_exist_ok=True)
        file = folder / TENSORS[form]
        tensors = torch.load(file) if file.suffix == ".pt" else load_file(file)
        change(tensors)
        if file.suffix == ".pt":
            torch.save(tensors, file)
        else:
            about = json.loads((folder / "config.json").read_text()) if form == "dit_lab" else {}
            store(file, tensors, about)
        return folder

    return make


def complaint(source, **options) -> str:
    """The one sentence, on one line, that `load` refuses a source with."""
    with pytest.raises(CheckpointError) as caught:
        load(source, **options)
    said = str(caught.value)
    assert said.isprintable() and len(said) < 1500
    return said


def memory(field: str) -> int:
    """A line of this process's /proc status, in bytes."""
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(field))


# What is no checkpoint


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "model", "config.json"])
@pytest.mark.parametrize(
    "content", [b"", b"hello " * 99, b"\x89PNG\r\n\x1a\n" + bytes(99), random.Random(0).randbytes(999)]
)
def test_a_file_of_something_else_is_told_so(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    said = complaint(path)
    assert str(path) in said and ("is not a checkpoint" in said or "JSON" in said)


def test_a_folder_without_a_checkpoint_is_told_so(tmp_path):
    assert complaint(tmp_path) == f"the folder {tmp_path} holds no checkpoint"
    for name in "a.pt", "b.pt":
        (tmp_path / name).touch()
    assert "several, so name one: a.pt, b.pt" in complaint(tmp_path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_that_torch_did_not_write_is_told_so(good, compression, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w", compression) as packed:
        packed.writestr("letter/hello.txt", "hello " * 99)
    assert "a.pt is a zip, but not one" in complaint(tmp_path / "a.pt")
    with (
        zipfile.ZipFile(good / "meta_dit/model.pt") as old,
        zipfile.ZipFile(tmp_path / "b.pt", "w", compression) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    if compression == zipfile.ZIP_STORED:
        assert load(tmp_path / "b.pt").config == load(good / "meta_dit").config
    else:
        assert "b.pt is a zip, but not one" in complaint(tmp_path / "b.pt")


@pytest.mark.parametrize(
    "content", [[1, 2], torch.zeros(3), {"a": 1, 5: 2}, {5: torch.zeros(3)}, {"model": 5}, {}, {"ema": {}}]
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_of_something_else_is_told_so(content, zipped, tmp_path):
    path = tmp_path / "a.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert str(path) in complaint(path)


@pytest.mark.parametrize("form", ["dit_lab", "meta_dit", "legacy", "diffusers"])
def test_a_file_cut_anywhere_is_told_to_be_no_whole_checkpoint(form, good, tmp_path):
    folder = shutil.copytree(good / form.replace("legacy", "meta_dit"), tmp_path / form)
    path = folder / TENSORS.get(form, "model.pt")
    if form == "legacy":
        torch.save(torch.load(path), path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    ends = [1, 2, 4, 8, 9, 10, 40, 200, 3000, len(whole) // 2, len(whole) - 300, len(whole) - 20, len(whole) - 1]
    for end in ends:
        path.write_bytes(whole[:end])
        said = complaint(folder)
        assert str(path) in said and ("truncated" in said or (end < 10 and "is not a checkpoint" in said)), (end, said)


# Code in a file


class Bait:
    """Unpickled by anything less careful, it leaves a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


HIDDEN = {
    "alone": lambda bait, tensors: bait,
    "as a tensor": lambda bait, tensors: {**tensors, "x_embedder.proj.weight": bait},
    "in a container": lambda bait, tensors: {**tensors, "more": [({"deep": [bait]},)]},
    "in the arguments": lambda bait, tensors: {"ema": tensors, "args": argparse.Namespace(model=bait)},
    "in the optimiser": lambda bait, tensors: {"ema": tensors, "opt": {"state": bait}},
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("hidden", HIDDEN)
def test_code_in_a_pickle_never_runs(hidden, zipped, good, tmp_path):
    path, marker = tmp_path / "a.pt", tmp_path / "it ran"
    content = HIDDEN[hidden](Bait(marker), torch.load(good / "meta_dit/model.pt"))
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    said = complaint(path)
    assert not marker.exists()
    assert f"{path} holds more than tensors (posix.system)" in said
    assert "weights_only" not in said and "allow" not in said  # no word on how to run it after all
    torch.load(path, weights_only=False)
    assert marker.exists(), "the bait is dead, so this test shows nothing"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_a_bare_pickle_never_runs(protocol, tmp_path):
    path, marker = tmp_path / "a.pt", tmp_path / "it ran"
    path.write_bytes(pickle.dumps(Bait(marker), protocol))
    assert str(path) in complaint(path) and not marker.exists()
    pickle.loads(path.read_bytes())
    assert marker.exists(), "the bait is dead, so this test shows nothing"


def test_a_pickled_model_object_is_refused(tmp_path):
    torch.save(tiny(), tmp_path / "a.pt")
    assert "holds more than tensors (dit_lab.models.dit.DiT)" in complaint(tmp_path / "a.pt")


# Tensors


@pytest.mark.parametrize("form", TENSORS)
def test_missing_tensors_are_named_up_to_five_and_counted(form, altered):
    gone = []

    def lose(tensors):
        gone.extend([name for name in tensors if "blocks.1." in name and "embedder" not in name][:7])
        for name in gone:
            del tensors[name]

    folder = altered(form, lose)
    said = complaint(folder)
    assert str(folder) in said and "missing: " in said and "and 2 more" in said
    assert sum(name in said for name in gone) == 5


@pytest.mark.parametrize("form", TENSORS)
def test_extra_tensors_are_named_up_to_five_and_counted(form, altered):
    extra = [f"lora.{number}" for number in range(8)]
    said = complaint(altered(form, lambda tensors: tensors.update({name: torch.zeros(2) for name in extra})))
    assert "not part of this model: " + ", ".join(extra[:5]) + " and 3 more" in said


@pytest.mark.parametrize("form", TENSORS)
def test_tensors_of_another_shape_are_named_with_both_shapes(form, altered):
    def bend(tensors):
        name = next(name for name in tensors if name.endswith("1.mlp.fc2.weight") or name.endswith("1.mlp.down.weight")
                    or name.endswith("1.ff.net.2.weight"))  # fmt: skip
        tensors[name] = torch.zeros(96, 383)

    assert "(96x383, not 96x384)" in complaint(altered(form, bend))


@pytest.mark.parametrize("bent", [torch.zeros(()), torch.zeros(0, 0, 0, 0)])
@pytest.mark.parametrize("form", TENSORS)
def test_any_tensor_of_any_shape_gets_a_sentence(form, bent, altered, good):
    file = good / form / TENSORS[form]
    for name in torch.load(file) if file.suffix == ".pt" else load_file(file):
        if "blocks.1" not in name:
            folder = altered(form, lambda tensors, name=name: tensors.update({name: bent.clone()}))
            assert str(folder) in complaint(folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn, torch.complex64])
@pytest.mark.parametrize("kept", [torch.float32, None])
def test_weights_that_are_no_floats_are_named(dtype, kept, altered):
    name = "blocks.1.mlp.fc1.weight"
    folder = altered("meta_dit", lambda tensors: tensors.update({name: tensors[name].to(dtype)}))
    assert f"not {name} ({dtype})" in complaint(folder, dtype=kept)


HOLLOW = {
    "sparse": lambda weight: weight.to_sparse(),
    "without numbers": lambda weight: weight.to("meta"),
    "few numbers repeated": lambda weight: torch.zeros(1).expand(1, 10**9, 96),
}


@pytest.mark.parametrize("kind", HOLLOW)
@pytest.mark.parametrize("name", ["pos_embed", "blocks.0.mlp.fc1.weight"])
def test_a_tensor_whose_numbers_are_not_in_the_file_is_refused(kind, name, altered, limited):
    folder = altered("meta_dit", lambda tensors: tensors.update({name: HOLLOW[kind](tensors[name])}))
    with limited(resource.RLIMIT_AS, memory("VmSize") + 1000 * MB):
        assert f"what is no tensor: {name}" in complaint(folder)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", TENSORS)
def test_nan_and_inf_are_told_by_name_and_loaded_only_on_demand(form, dtype, number, altered):
    def spoil(tensors):
        for name in tensors:
            tensors[name] = tensors[name].to(dtype)
        tensors[last := next(reversed(tensors))].view(-1)[-1] = number
        assert not tensors[last].isfinite().all()

    folder = altered(form, spoil)
    for kept in torch.float32, None:
        said = complaint(folder, dtype=kept)
        assert str(folder) in said and "NaN or Inf in " in said and "allow_nonfinite=True" in said
    loaded = load(folder, allow_nonfinite=True)
    broken = [name for name, tensor in loaded.model.state_dict().items() if not tensor.isfinite().all()]
    assert len(broken) == 1 and f"NaN or Inf in {broken[0]};" in said


# Configs


@pytest.fixture
def bare(good, tmp_path):
    """Our folder whose tensors say nothing of themselves, with a config.json of any text."""

    def make(text) -> Path:
        folder = tmp_path / "bare"
        folder.mkdir(exist_ok=True)
        save_file(load_file(good / "dit_lab/model.safetensors"), folder / "model.safetensors")
        (folder / "config.json").write_text(text if isinstance(text, str) else json.dumps(text))
        return folder

    return make


def ours(**changes) -> dict:
    """Our config.json with fields of the model changed."""
    about = json_of(tiny(dim=96, heads=4).config, None, None)
    return about | {"model": about["model"] | changes}


def test_the_changes_below_are_all_that_is_wrong(bare):
    assert load(bare(ours())).config == tiny(dim=96, heads=4).config


@pytest.mark.parametrize(
    "text", ["", "nope", "{", "[]", "3", "null", "[" * 10**5, '{"a":' * 10**5, '{"version": ' + "9" * 5000 + "}"]
)
def test_a_config_that_is_no_json_object_is_told_so(text, bare):
    said = complaint(folder := bare(text))
    assert str(folder / "config.json") in said and "JSON" in said


@pytest.mark.parametrize(
    "wrong",
    [dict(depth=1), dict(depth=3), dict(dim=64), dict(num_classes=11), dict(patch_size=2), dict(in_channels=2),
     dict(learned_variance=False), dict(mlp_ratio=2.0), dict(input_size=16), dict(block="adaln")],
)  # fmt: skip
def test_a_config_that_contradicts_the_tensors_is_told_so(wrong, bare):
    assert "its tensors do not fit its config." in complaint(bare(ours(**wrong)))


@pytest.mark.parametrize("wrong", [dict(heads=8), dict(depth=3), dict(prediction="v"), dict(num_classes=9)])
def test_a_config_that_contradicts_what_the_tensors_file_says_is_told_so(wrong, good, tmp_path):
    folder = shutil.copytree(good / "dit_lab", tmp_path / "model")
    (folder / "config.json").write_text(json.dumps(ours(**wrong)))
    assert "of different models" in complaint(folder)


HUGE = [10**9, 10**20, 10**400]
ABSURD = [{field: size} for field in ("depth", "dim", "heads", "input_size", "num_classes", "in_channels", "patch_size")
          for size in [*HUGE, -4, "8", None, []]] + [
    dict(depth=0), dict(heads=5), dict(heads=0), dict(dim=0), dict(input_size=4 * 10**6), dict(input_size=[8, 8, 8]),
    dict(patch_size=1, input_size=10**6), dict(mlp_ratio=10**400), dict(mlp_ratio=1e300), dict(mlp_ratio=float("nan")),
    dict(mlp_ratio="4"), dict(mlp_ratio=None), dict(block="sideways"), dict(block=[]), dict(block=None),
    dict(colour="red"), {"self": 1},
]  # fmt: skip


@pytest.mark.parametrize("wrong", ABSURD, ids=lambda wrong: str(wrong)[:30])
def test_absurd_values_get_a_sentence_soon_and_no_memory(wrong, bare, limited):
    folder = bare(ours(**wrong))
    with limited(resource.RLIMIT_AS, memory("VmSize") + 1000 * MB):
        assert str(folder) in complaint(folder)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (dict(version=2), "version 2 of the format, this dit_lab reads 1"),
        (dict(version=[]), "version"),
        (dict(labels=["a"]), "1 class names for 10 classes"),
        (dict(labels=5), "no list of class names"),
        (dict(codec=5), "codec should be a name, not 5"),
        (dict(model=None), "nothing says what model it is"),
        (dict(model=[3]), "nothing says what model it is"),
    ],
)
def test_wrong_fields_beside_the_model_are_told(wrong, told, bare):
    assert told in complaint(bare(ours() | wrong))


@pytest.mark.parametrize("words", ["[1]", "5", "null", "nope", '"run"', '{"run": 5}', '{"model": 5}', "[" * 10**5])
def test_a_tensors_file_that_says_nonsense_of_itself_is_told_so(words, good, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(load_file(good / "dit_lab/model.safetensors"), path, {"dit_lab": words})
    assert str(path) in complaint(path)


DIFFUSERS = [{field: size} for field in ("num_layers", "num_attention_heads", "attention_head_dim", "sample_size",
             "patch_size", "num_embeds_ada_norm", "in_channels") for size in [*HUGE, 0, "8", None, []]] + [
    dict(num_layers=1), dict(num_layers=3), dict(num_attention_heads=5), dict(num_embeds_ada_norm=11),
    dict(out_channels=1), dict(norm_type="layer_norm"), dict(_class_name="UNet2DModel"),
]  # fmt: skip


@pytest.mark.parametrize("wrong", DIFFUSERS, ids=lambda wrong: str(wrong)[:40])
def test_a_wrong_diffusers_config_gets_a_sentence_soon_and_no_memory(wrong, good, tmp_path, limited):
    folder = shutil.copytree(good / "diffusers", tmp_path / "model")
    path = folder / "transformer/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    with limited(resource.RLIMIT_AS, memory("VmSize") + 1000 * MB):
        assert str(folder) in complaint(folder)


@pytest.mark.parametrize("wrong", [dict(prediction_type="x"), dict(prediction_type=[]), dict(beta_schedule={})])
def test_a_wrong_diffusers_scheduler_gets_a_sentence(wrong, good, tmp_path):
    folder = shutil.copytree(good / "diffusers", tmp_path / "model")
    path = folder / "scheduler/scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    assert str(folder) in complaint(folder)


@pytest.mark.parametrize(
    "table", [None, [], {}, {"a": "../evil.safetensors"}, {"a": "/etc/passwd"}, {"a": 5}, {"a": ""}]
)
def test_an_index_that_names_files_elsewhere_or_none_is_refused(table, good, tmp_path):
    folder = shutil.copytree(good / "diffusers", tmp_path / "model")
    weights = folder / TENSORS["diffusers"]
    weights.rename(tmp_path / "evil.safetensors")
    weights.with_name(f"{weights.name}.index.json").write_text(json.dumps({"weight_map": table}))
    assert "index.json names" in complaint(folder)


# Places


@pytest.mark.parametrize("source", [None, 42, "", b"model", ["a"]])
def test_a_source_that_is_no_name_is_told_so(source):
    assert complaint(source) == f"a checkpoint is a zoo name, a path or a hub id, not {source!r}"


def test_an_unknown_zoo_name_gets_the_nearest():
    nearest = "(nearest: mnist, mnist_udit, mnist_adaln)"
    assert f"no file or folder 'mnits', and the zoo has no such model {nearest}" in complaint("mnits")


@pytest.mark.parametrize(
    "source", ["nowhere/at/all.pt", "./nowhere", "~nobody-of-this-name/x", "a\0b", "a\nb", "\x1b[31mred"]
)
def test_a_path_to_nothing_is_told_so(source):
    assert "there is no file or folder" in complaint(source)


def test_names_that_no_disk_takes_are_told_so():
    assert "could not be read: File name too long" in complaint("x" * 300)


def test_pipes_devices_and_broken_links_are_told_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "broken").symlink_to(tmp_path / "gone")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "neither a file nor a folder" in complaint(tmp_path / "pipe.pt")
    assert "neither a file nor a folder" in complaint("/dev/zero")
    assert "holds no checkpoint" in complaint(tmp_path)
    for link in "broken", "loop":
        assert "there is no file or folder" in complaint(tmp_path / link)


def test_a_name_from_a_file_cannot_write_over_the_terminal(altered):
    said = complaint(altered("meta_dit", lambda tensors: tensors.update({"\x1b[2J\n" + "x" * 10**5: torch.zeros(1)})))
    assert "not part of this model: \\x1b[2J\\nxxx" in said


@contextmanager
def unprivileged():
    """For a while, be a user whom permissions hold; root they do not."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.mark.parametrize("locked", ["model", "model/model.safetensors", "model/config.json"])
def test_no_permission_is_told(locked, good):
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to others already
        Path(place).chmod(0o755)
        folder = shutil.copytree(good / "dit_lab", Path(place) / "model")
        with unprivileged():
            load(folder)
        (Path(place) / locked).chmod(0)
        with unprivileged():
            said = complaint(folder)
        (Path(place) / locked).chmod(0o755)
    assert str(folder) in said and "could not be read: Permission denied" in said


# The command line


def spoiled(kind: str, folder: Path, good: Path) -> Path:
    """A bad checkpoint of some kind."""
    path = folder / "bad.pt"
    tensors = torch.load(good / "meta_dit/model.pt")
    if kind == "missing":
        tensors.popitem()
    elif kind == "nan":
        tensors["final_layer.linear.bias"][0] = float("nan")
    torch.save(Bait(folder / "it ran") if kind == "code" else tensors, path)
    if kind == "cut":
        os.truncate(path, 5000)
    elif kind == "text":
        path.write_text("hello")
    elif kind == "absent":
        path.unlink()
    return path


BAD = {
    "text": "is not a checkpoint", "cut": "truncated", "code": "holds more than tensors", "missing": "missing: ",
    "nan": "NaN or Inf in", "absent": "there is no file",
}  # fmt: skip


@pytest.mark.parametrize("form", TENSORS)
@pytest.mark.parametrize("kind", BAD)
def test_convert_refuses_in_one_sentence_and_leaves_nothing(kind, form, command, good, tmp_path):
    bad, out = spoiled(kind, tmp_path, good), tmp_path / "out" / "new.pt"
    code, _, said = command("convert", bad, out if form == "meta_dit" else out.parent, "--to", form)
    assert code == 2 and said.count("\n") == 1 and BAD[kind] in said and str(bad) in said
    assert not out.parent.exists() and not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("kind", BAD)
def test_sample_refuses_in_one_sentence_and_leaves_nothing(kind, command, good, tmp_path):
    bad, out = spoiled(kind, tmp_path, good), tmp_path / "out" / "a.png"
    code, _, said = command("sample", bad, "--labels", 1, "--out", out, "--device", "cpu")
    assert code == 2 and said.count("\n") == 1 and BAD[kind] in said and str(bad) in said
    assert not out.parent.exists()


def test_convert_of_a_bad_file_leaves_what_it_should_replace(command, good, tmp_path):
    bad, old = spoiled("nan", tmp_path, good), shutil.copytree(good / "dit_lab", tmp_path / "old")
    code, *_ = command("convert", bad, old, "--to", "dit_lab", "--overwrite")
    assert code == 2 and load(old).labels == list("abcdefghij")


def test_the_program_itself_exits_with_2_and_one_line(good, tmp_path):
    bad = spoiled("cut", tmp_path, good)
    line = [sys.executable, "-m", "dit_lab", "convert", str(bad), str(tmp_path / "out"), "--to", "dit_lab"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith(f"dit_lab: {bad} is truncated")
    assert done.stderr.count("\n") == 1 and not (tmp_path / "out").exists()


# Saves that fail or die


def whole(folder: Path) -> int:
    """Load a checkpoint and return which version it is: its depth, its labels and its weights all say so."""
    loaded = load(folder)
    version = int(loaded.labels[0])
    weights = {tensor.unique().tolist()[0] for tensor in loaded.model.parameters()}
    assert loaded.config.depth == version % 2 + 1 and weights == {float(version)}
    return version


def version(number: int):
    """A model that says its number in its depth and its weights."""
    model = tiny(depth=number % 2 + 1)
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, number)
    return model


@pytest.mark.parametrize("most", [0, 1000, 100_000])
def test_a_full_disk_is_told_and_the_old_checkpoint_stays(most, tmp_path, limited):
    save(tmp_path / "model", version(1), labels=["1"] * 10)
    there = sorted(path.name for path in tmp_path.rglob("*"))
    with limited(resource.RLIMIT_FSIZE, most), pytest.raises(OSError) as caught:
        save(tmp_path / "model", version(2), labels=["2"] * 10)
    assert str(tmp_path / "model") in str(caught.value) and "File too large" in str(caught.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == there
    assert whole(tmp_path / "model") == 1


@pytest.mark.parametrize("form", TENSORS)
def test_a_full_disk_while_converting_is_one_sentence_and_leaves_the_old_result(form, command, good, tmp_path, limited):
    out = tmp_path / "out" / "model.pt" if form == "meta_dit" else tmp_path / "out"
    convert = "convert", good / "dit_lab", out, "--to", form, "--overwrite"
    assert command(*convert)[0] == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with limited(resource.RLIMIT_FSIZE, 100_000):
        code, _, said = command(*convert)
    assert code == 2 and said.count("\n") == 1 and str(tmp_path / "out") in said
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def die_at_a_boundary(point: int):
    """Arrange for SIGKILL right before or after the n-th of the calls that change what is on the disk."""
    calls = iter(range(10**9))

    def deadly(real):
        def call(*arguments, **options):
            for now in range(2):
                if next(calls) == point:
                    os.kill(os.getpid(), signal.SIGKILL)
                if not now:
                    result = real(*arguments, **options)
            return result

        return call

    for owner, name in (os, "fsync"), (os, "replace"), (Path, "unlink"):
        setattr(owner, name, deadly(getattr(owner, name)))


def killed(folder: Path, number: int, point: int | None, seconds: float) -> bool:
    """Whether a forked process that saves further versions over `folder` was killed: at a point, or after a time."""
    models = {more: version(more) for more in range(number + 1, number + 3)}
    if (child := os.fork()) == 0:
        if point is not None:
            die_at_a_boundary(point)
        for more in list(models) if point is not None else list(models) * 1000:
            save(folder, models[more], labels=[str(more)] * 10)
        os._exit(0)
    if point is None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def killed_at_boundaries(folder: Path) -> list[int]:
    """Kill saves at each boundary in turn; the versions found after each."""
    save(folder, version(0), labels=["0"] * 10)
    found, point = [0], 0
    while killed(folder, found[-1], point, 0):
        found.append(whole(folder))
        point += 1
    return found


def killed_at_random(folder: Path, seed: int, rounds: int) -> list[int]:
    """Kill saves at random moments; the versions found after each. How long one takes is the machine's matter."""
    chance, took = random.Random(seed), []
    for _ in range(5):
        began = time.perf_counter()
        save(folder, version(0), labels=["0"] * 10)
        took.append(time.perf_counter() - began)
    found = [0]
    for _ in range(rounds):
        killed(folder, found[-1], None, chance.uniform(0.1, 3) * statistics.median(took))
        found.append(whole(folder))
    return found


def test_a_save_killed_between_any_two_writes_leaves_one_whole_checkpoint(tmp_path):
    found = in_child(killed_at_boundaries, tmp_path / "model")
    assert len(found) > 20 and len(set(found)) > 2


@pytest.mark.parametrize("seed", range(3))
def test_saves_killed_at_random_moments_leave_one_whole_checkpoint(seed, tmp_path):
    found = in_child(killed_at_random, tmp_path / "model", seed, 20)
    assert len(found) == 21 and len(set(found)) > 3


# Memory


def write_large(path: Path, dtype) -> None:
    """A model of 300 MB in fp32, in the format that the file's name says."""
    with torch.device("meta"):
        model = build(LARGE)
    model = model.to_empty(device="cpu").to(dtype)
    for tensor in model.state_dict().values():
        torch.nn.init.constant_(tensor, 0.5)
    if path.suffix == ".pt":
        torch.save(meta_dit.to_theirs(model.state_dict(), LARGE), path)
    else:
        store(path, model.state_dict(), json_of(LARGE, None, None))


LARGE = preset("DiT-L/2", depth=4, num_classes=10, in_channels=3)


def peak_of_loading(path: Path, dtype) -> tuple[float, int]:
    """(the most memory that loading took, pages of the file included; the weights' bytes)."""
    load("mnist")  # what the first load brings along is not this file's
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = memory("VmRSS")
    weights = load(path, dtype=dtype).model.state_dict().values()
    return memory("VmHWM") - before, sum(weight.nbytes for weight in weights)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_loading_peaks_under_1_3_times_the_weights(ending, dtype, tmp_path):
    path = tmp_path / f"model{ending}"
    try:
        in_child(write_large, path, dtype)
        peak, weights = in_child(peak_of_loading, path, torch.float32)
    finally:
        path.unlink()
    assert weights > 250 * MB and 0.9 < peak / weights < 1.3
