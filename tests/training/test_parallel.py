"""Several processes train as one does: the same losses, states that any number continues, and one end for all."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from shared import ROOT, launch
from torch.testing import assert_close

from dit_lab.commands.train import follow
from dit_lab.data import open_data
from dit_lab.models import build
from dit_lab.training import TrainOptions, device_of, train
from dit_lab.training.batches import parts

OPTIONS = TrainOptions(
    steps=6, batch_size=8, lr=2e-3, ema_decay=(0.9, 0.5), clip=0.5, precision="fp32", save_every=3, sample_every=6
)
EVERY_WAY = {
    "replicated": (2, {}),
    "sharded": (2, dict(shard=True)),
    "in two passes": (1, dict(accumulate=2)),
    "replicated, in two passes": (2, dict(accumulate=2)),
    "sharded, in two passes": (2, dict(shard=True, accumulate=2)),
    "recomputed": (1, dict(checkpointing=True)),
    "sharded and recomputed": (2, dict(shard=True, checkpointing=True)),
}


def model(preset="DiT-nano/4", **changes):
    torch.manual_seed(0)
    shape = dict(input_size=8, in_channels=1, num_classes=10, dim=16, heads=2)
    return build(preset, **shape | (dict(depth=2) if preset == "DiT-nano/4" else dict(depths=(1, 1, 1))) | changes)


def run(out, options, resume=False, stop=None, preset="DiT-nano/4"):
    """In a process: train, and return the losses of every step; `stop` ends the run early, as a caller may."""
    torch.set_num_threads(1)
    losses = []
    steps = train(model(preset), open_data("digits"), options, out=out, resume=resume)
    for step in steps:
        losses.append([step.loss, step.mse, step.vb, step.gradient_norm])
        if step.step == stop:
            steps.close()
    return losses


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    return out, run(out, OPTIONS)


def assert_same_run(ours, theirs):
    """States and checkpoints alike to 1e-5, and the same files."""
    assert sorted(path.relative_to(ours) for path in ours.rglob("*")) == sorted(
        path.relative_to(theirs) for path in theirs.rglob("*")
    )
    for name in "state.safetensors", "model.safetensors", "ema-0.5/model.safetensors":
        mine, other = load_file(ours / name), load_file(theirs / name)
        assert mine.keys() == other.keys()
        for key, tensor in other.items():
            assert_close(mine[key], tensor, rtol=1e-5, atol=1e-5, msg=key)


@pytest.mark.parametrize("way", EVERY_WAY)
def test_every_way_to_share_the_work_follows_the_same_losses(way, alone, tmp_path):
    count, changes = EVERY_WAY[way]
    whole, losses = alone
    all_losses = launch(count, run, tmp_path, replace(OPTIONS, **changes))
    for ours in all_losses:
        assert_close(torch.tensor(ours), torch.tensor(losses), rtol=1e-5, atol=1e-5)
    assert all_losses[0] == all_losses[-1]
    assert_same_run(tmp_path, whole)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("first, then", [((2, True), (1, False)), ((1, False), (2, True)), ((2, False), (2, True))])
def test_a_run_continues_in_any_other_number_of_processes(first, then, alone, tmp_path):
    whole, losses = alone
    (count, shard), before = first, []
    before = launch(count, run, tmp_path, replace(OPTIONS, shard=shard), False, 3)[0]
    (count, shard) = then
    after = launch(count, run, tmp_path, replace(OPTIONS, shard=shard), True)[0]
    assert_close(torch.tensor(before + after), torch.tensor(losses), rtol=1e-5, atol=1e-5)
    assert_same_run(tmp_path, whole)


def test_a_udit_is_replicated_and_sharded_too(tmp_path):
    options = replace(OPTIONS, steps=3, sample_every=0)
    losses = run(tmp_path / "alone", options, preset="U-DiT-tiny")
    for shard in False, True:
        sharing = replace(options, shard=shard, checkpointing=shard)
        ours = launch(2, run, tmp_path / str(shard), sharing, False, None, "U-DiT-tiny")[0]
        assert_close(torch.tensor(ours), torch.tensor(losses), rtol=1e-5, atol=1e-5)


def test_a_batch_is_cut_into_parts_that_together_are_all_of_it():
    options = TrainOptions(batch_size=12, accumulate=2)
    taken = [part for rank in range(3) for part in parts(options, rank, 3)]
    assert [list(range(12))[part] for part in taken] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
    with pytest.raises(ValueError, match="batch_size 12 cannot be shared by 4 processes in 2 passes each; .* of 8"):
        parts(options, 0, 4)


def signalled(out, options):
    """Train until told to stop; the first process tells itself, once, after a few steps."""
    torch.set_num_threads(1)
    steps = train(model(), open_data("digits"), options, out=out)

    def watched():
        for step in steps:
            if step.step == 4 and os.environ["RANK"] == "0":
                os.kill(os.getpid(), signal.SIGTERM)
            yield step

    return follow(watched(), options.steps)


def test_a_signal_to_one_process_stops_all_at_the_same_step_and_saves(tmp_path):
    assert (
        launch(2, signalled, tmp_path, replace(OPTIONS, steps=10**6, save_every=10**6, sample_every=0))
        == [signal.SIGTERM] * 2
    )
    assert json.loads((tmp_path / "config.json").read_text())["trained_steps"] == 4


def test_when_a_process_dies_all_stop_with_its_error(tmp_path):
    """As a launcher runs it: torchrun is what `accelerate launch` calls for several processes."""
    script = tmp_path / "dies.py"
    script.write_text(
        "import os, torch\n"
        "torch.set_num_threads(1)\n"
        "from dit_lab.data.images import Images, open_data\n"
        "from dit_lab.training.options import TrainOptions\n"
        "from dit_lab.models.presets import build\n"
        "from dit_lab.training.train import train\n"
        "class Broken(Images):\n"
        "    def batch(self, *asked):\n"
        "        broken.append(1)\n"
        "        if len(broken) == 5 and os.environ['RANK'] == '1':\n"
        "            raise OSError('picture 7 is gone')\n"
        "        return super().batch(*asked)\n"
        "broken, digits = [], open_data('digits')\n"
        "images = Broken(digits.pixels, digits.labels, digits.names)\n"
        "model = build('DiT-nano/4', input_size=8, in_channels=1, num_classes=10, dim=16, depth=1, heads=2)\n"
        "for step in train(model, images, TrainOptions(steps=10**6, batch_size=4), out='run'):\n"
        "    pass\n"
    )
    begun, root = time.monotonic(), str(ROOT)
    ended = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)],
        cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ended.returncode != 0 and "picture 7 is gone" in ended.stderr
    assert time.monotonic() - begun < 240


def test_a_launcher_gives_each_process_its_device_and_another_kind_is_refused():
    second = SimpleNamespace(num_processes=2, device=torch.device("cuda", 1))
    assert device_of(second, "auto") == torch.device("cuda", 1)
    with pytest.raises(ValueError, match="leave out --device cpu"):
        device_of(second, "cpu")
    assert device_of(SimpleNamespace(num_processes=1, device=None), "cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="no device 'abacus'"):
        device_of(second, "abacus")
