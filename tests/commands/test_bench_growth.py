"""How cost grows: the exponents are theory's where theory is exact, and the bench writes what it measured."""

import json

import pytest
import torch

from dit_lab.commands.bench import bench_command, growing
from dit_lab.commands.bench.growing import Point, exponent, exponents, forward, kept_for_backward, model_of

ALONE = torch.device("cpu")


@pytest.mark.parametrize("power", [0.0, 1.0, 1.5, 2.0])
def test_the_exponent_of_a_power_law_is_its_power(power):
    sizes = [2, 4, 8, 32]
    assert exponent(sizes, [3 * size**power for size in sizes]) == pytest.approx(power)


def test_work_grows_as_the_paper_says_it_does():
    """12 n d^2 for the products with weights and 2 n^2 d for attention, in each of the blocks."""
    work = lambda **change: forward(growing.BASE | {"tokens": 64, "width": 128, "depth": 2} | change, ALONE)[1]
    blocks = lambda n, d: 12 * n * d**2 + 2 * n**2 * d
    more = [work(depth=depth) for depth in (2, 3, 4)]
    assert more[2] - more[1] == more[1] - more[0] == blocks(64, 128) + 6 * 128**2  # and adaLN-Zero's modulation
    assert work(batch=3) == 3 * work()
    assert work(tokens=256, depth=3) - work(tokens=256) == blocks(256, 128) + 6 * 128**2


def test_what_a_forward_keeps_is_in_proportion_to_tokens_and_batch_and_holds_no_attention_map():
    kept = lambda **change: forward(growing.BASE | {"width": 64, "depth": 2} | change, ALONE)[2]
    assert kept(batch=4) == pytest.approx(4 * kept(), rel=0.01)
    few, many = kept(tokens=256), kept(tokens=1024)
    assert many == pytest.approx(4 * few, rel=0.01)
    assert many - 4 * few < 4 * 1024**2  # a single map of a single head would be more


def test_what_is_kept_is_counted_once_and_without_the_weights():
    model = torch.nn.Linear(8, 8)
    x = torch.randn(4, 8, requires_grad=True)
    assert kept_for_backward(lambda_model(model), x) == x.nbytes  # of a product its input; the weights are the model's


def lambda_model(layer):
    """A layer called twice on the same input, whose parameters are known."""

    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x) + self.layer(x)

    return Twice()


def test_a_model_has_as_many_tokens_as_are_asked_for():
    assert model_of(64, 128, 2).positions.shape[-2] == 64


def test_all_axes_are_measured_told_and_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(growing, "BASE", dict(tokens=16, width=64, depth=1, batch=1))
    small = {"tokens": (4, 16), "width": (64, 128), "depth": (1, 2), "batch": (1, 2), "steps": (1, 2)}
    monkeypatch.setattr(growing, "AXES", small)
    bench_command("growth", rounds=3, out=tmp_path)
    out = capsys.readouterr().out
    points = [Point(**line) for line in json.loads((tmp_path / "bench-growth.json").read_text())["lines"]]
    assert [(point.axis, point.at) for point in points] == [(axis, at) for axis, sizes in small.items() for at in sizes]
    assert all(0 < point.low <= point.seconds <= point.high and point.macs > 0 < point.kept for point in points)
    fitted, page = exponents(points), (tmp_path / "bench-growth.md").read_text()
    for axis in small:
        assert f"{axis}^{fitted[axis]['seconds']:.2f}" in page and f"{axis}^{fitted[axis]['seconds']:.2f}" in out
    assert fitted["steps"]["macs"] == pytest.approx(1) and fitted["batch"]["macs"] == pytest.approx(1)
    assert (tmp_path / "bench-growth.png").stat().st_size > 10_000
