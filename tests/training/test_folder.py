"""The folder of a run: what of it is cleared, kept and refused, and that nothing in its files is believed unchecked."""

import json
import os
import re
import shutil
import stat

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shared import stirred

from dit_lab.checkpoints import load, save
from dit_lab.data import open_data
from dit_lab.training import TrainOptions, train
from dit_lab.training.folder import BEGUN, LOG, begun, log, trim
from dit_lab.training.state import TrainState

OPTIONS = TrainOptions(steps=2, batch_size=4, ema_decay=(0.9, 0.5), save_every=1)
SHAPE = dict(in_channels=1, input_size=8, num_classes=10, depth=1, dim=16, heads=2)
ROOM = ".{}.0123456789ab.partial"  # as a killed process leaves it beside a file


def model():
    return stirred("DiT-nano/4", **SHAPE).train()


def run(out, steps=2, resume=False, **changes):
    options = TrainOptions(**dict(steps=steps, batch_size=4, ema_decay=(0.9, 0.5), save_every=1) | changes)
    return list(train(model(), open_data("digits"), options, out=out, resume=resume))


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "ended"
    run(out)
    return out


@pytest.fixture
def copy(ended, tmp_path):
    return shutil.copytree(ended, tmp_path / "run")


def leave(folder, name):
    """What a killed process leaves of a file in a folder."""
    room = folder / ROOM.format(name)
    room.mkdir(parents=True)
    (room / name).write_text("half")
    return room


def test_a_run_clears_what_it_left_itself_by_full_name_and_nothing_else_below_its_folder(copy):
    ours = [leave(copy, name) for name in ("state.safetensors", "model.safetensors", "config.json", LOG, BEGUN)]
    ours += [leave(copy / "ema-0.5", "model.safetensors"), leave(copy / "samples", "step-0000001.png")]
    theirs = [leave(copy / "x", "model.safetensors"), leave(copy, "thesis.txt"), leave(copy / "samples", "mine.png")]
    theirs += [leave(copy / "ema-0.25", "model.safetensors"), leave(copy / "x" / "ema-0.5", "config.json")]
    files = [copy / ".notes.partial", copy / "x" / ".model.safetensors.0123456789ab.partial" / "more"]
    for path in files:
        path.write_text("mine")
    run(copy, 3, resume=True)
    assert not any(path.exists() for path in ours)
    assert all(path.is_dir() for path in theirs) and all(path.read_text() == "mine" for path in files)


def test_a_run_above_a_running_one_leaves_the_file_that_it_is_writing(tmp_path):
    """`--out runs`, while a run in `runs/x` writes its state."""
    inner = train(model(), open_data("digits"), OPTIONS, out=tmp_path / "x")
    next(inner)
    state = leave(tmp_path / "x", "state.safetensors")
    run(tmp_path)
    assert state.is_dir()
    inner.close()


def rewritten(path, change):
    """A state whose JSON is changed by a function, or is a text."""
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["dit_lab"])
    text = change if isinstance(change, str) else json.dumps(change(about))
    save_file(load_file(path), path, {"dit_lab": text})


WRONG = {
    "run 5": lambda about: about | {"run": 5},
    "run of lists": lambda about: about | {"run": {"option": [["seed", 0]]}},
    "no run": lambda about: {"step": 1, "recent": []},
    "step of letters": lambda about: about | {"step": "5"},
    "step beyond any": lambda about: about | {"step": 10**400},
    "step below 0": lambda about: about | {"step": -1},
    "step true": lambda about: about | {"step": True},
    "step 1.5": lambda about: about | {"step": 1.5},
    "recent a dict": lambda about: about | {"recent": {"loss": 1}},
    "recent of numbers": lambda about: about | {"recent": [1.0]},
    "recent of words": lambda about: about | {"recent": [{"loss": "x"}]},
    "recent of huge numbers": lambda about: about | {"recent": [{"loss": 10**400}]},
    "recent without end": lambda about: about | {"recent": [{}] * 20_000},
    "a list": "[]",
    "no JSON": "{",
    "deep": "[" * 100_000,
    "deep objects": '{"run": ' * 50_000 + "1" + "}" * 50_000,
    "long number": '{"step": ' + "9" * 5000 + "}",
}


@pytest.mark.parametrize("change", WRONG.values(), ids=list(WRONG))
def test_a_state_whose_description_is_none_is_refused_in_a_sentence_and_left_alone(change, copy):
    rewritten(copy / "state.safetensors", change)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="state.safetensors is not a training state that can be continued") as caught:
        run(copy, 3, resume=True)
    assert len(str(caught.value)) <= 300 and str(caught.value).isprintable()
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def with_tensor(path, name, tensor):
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    save_file(tensors | {name: tensor}, path, about)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("model.out.bias", torch.zeros(1)),  # which would spread over all
        ("ema.out.bias", torch.zeros(1)),
        ("optimiser.exp_avg.out.bias", torch.zeros(3)),
        ("optimiser.exp_avg_sq.out.bias", torch.zeros(())),
        ("optimiser.step.out.bias", torch.zeros(2)),
        ("model.out.bias", torch.zeros(32, dtype=torch.int64)),
    ],
)
def test_a_state_with_a_tensor_of_another_shape_or_kind_is_refused_by_its_name(name, tensor, copy):
    with_tensor(copy / "state.safetensors", name, tensor)
    told = f"is not a training state that can be continued from: its {re.escape(name)} should be torch.float32 of "
    with pytest.raises(ValueError, match=told):
        run(copy, 3, resume=True)


def test_figures_of_steps_that_have_other_names_are_left_out_of_the_mean(tmp_path):
    state = TrainState.fresh(model(), 1e-3)
    state.step, state.recent = 3, [{"of_old": 7.0, "loss": 1.0}, {"loss": 2.0, "mse": 4.0}]
    assert log(tmp_path, state) == {"loss": 1.5, "mse": 4.0} and state.recent == []


def test_values_that_differ_are_quoted_shortly_and_few_of_many_are_named(copy):
    def other(about):
        about["run"]["option"] = dict.fromkeys(about["run"]["option"], "\x1b[31m" + "x" * 10**5)
        return about

    rewritten(copy / "state.safetensors", other)
    with pytest.raises(ValueError, match=r"was started with option .* and \d+ more; only how long") as caught:
        run(copy, 3, resume=True)
    assert len(str(caught.value)) - len(str(copy)) <= 300 and str(caught.value).isprintable()


@pytest.mark.parametrize(
    "content",
    [b'{"run": 5}', b'{"run": [["seed", 0]]}', b"[]", b"5", b"null", b"{", b"\xff", b"[" * 10**5, b"9" * 5000],
    ids=lambda content: content[:22].decode(errors="replace"),
)
def test_a_beginning_that_says_nothing_is_refused_in_a_sentence(content, tmp_path):
    (tmp_path / BEGUN).write_bytes(content)
    told = f"{tmp_path / BEGUN} does not say what a run was started with; choose another folder"
    with pytest.raises(ValueError, match=re.escape(told)) as caught:
        begun(tmp_path)
    assert len(str(caught.value)) - len(str(tmp_path)) <= 200
    with pytest.raises(ValueError, match=re.escape(told)):
        run(tmp_path, resume=True)
    assert (tmp_path / BEGUN).read_bytes() == content


def test_a_resumed_run_writes_its_log_on_from_whatever_lines_are_there(copy):
    whole = (copy / LOG).read_bytes()
    strange = [b'{"step": "1"}', b'{"step": null}', b"[1]", b"5", b"\xff\xfe", b"[" * 10**5, b'{"step": 1e999}', b"{"]
    (copy / LOG).write_bytes(b"\n".join([*strange, b""]) + whole + b'{"step": 9, "loss": 1}\n{"step": 1')
    run(copy, 3, resume=True)
    steps = [json.loads(line)["step"] for line in (copy / LOG).read_bytes().splitlines()]
    assert steps == [2, 3] and (copy / LOG).read_bytes().startswith(whole)


def test_a_log_that_is_a_link_stays_one_when_it_is_trimmed(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "log").write_text('{"step": 1}\n{"step": 2}\n')
    (tmp_path / "log.jsonl").symlink_to("far/log")
    trim(tmp_path / "log.jsonl", 1)
    assert (tmp_path / "log.jsonl").is_symlink() and (tmp_path / "far" / "log").read_text() == '{"step": 1}\n'


@pytest.mark.parametrize("name", ["state.safetensors", "model.safetensors", "config.json", LOG])
def test_what_cannot_be_written_is_said_before_any_step(name, copy):
    (copy / name).chmod(0o444)
    with pytest.raises(OSError, match=f"could not write {re.escape(str(copy / name))}: it is read-only"):
        train(model(), open_data("digits"), OPTIONS, out=copy, resume=True)
    (copy / name).chmod(0o644)
    if name not in ("state.safetensors", "model.safetensors"):
        (copy / name).unlink(), os.mkfifo(copy / name)
        with pytest.raises(OSError, match="it is a pipe; give a file's name"):
            train(model(), open_data("digits"), OPTIONS, out=copy, resume=True)


def test_a_checkpoint_is_saved_through_links_and_keeps_its_files_modes(tmp_path):
    (tmp_path / "far").mkdir(), (tmp_path / "near").mkdir()
    for name in "model.safetensors", "config.json":
        (tmp_path / "near" / name).symlink_to(tmp_path / "far" / name)
    for depth in 1, 2:
        save(tmp_path / "near", stirred("DiT-nano/4", **SHAPE | {"depth": depth}), codec_hint="pixels")
        assert all(path.is_symlink() for path in (tmp_path / "near").iterdir())
        assert load(tmp_path / "near").config.depth == load(tmp_path / "far").config.depth == depth
        for path in (tmp_path / "far").iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == (0o644 if depth == 1 else 0o600)
            path.chmod(0o600)
