"""What a model itself is given and cannot take: labels that it has no row for, and pictures without a side."""

import pytest
import torch
from shared import random_model, random_udit

from dit_lab.models import build

BOTH = pytest.mark.parametrize("make", [random_model, random_udit])


def inputs(count=2, side=8):
    return torch.zeros(count, 3, side, side), torch.zeros(count)


@BOTH
@pytest.mark.parametrize("wrong", [6, -1, 10**12])
@pytest.mark.parametrize("train", [True, False])
def test_labels_out_of_range_are_refused_in_a_sentence(make, wrong, train):
    with pytest.raises(ValueError, match=rf"labels must be from 0 to 5 \(the null label\), not {wrong}$"):
        make().train(train)(*inputs(), torch.tensor([0, wrong]))


@BOTH
def test_the_first_class_and_the_null_label_are_within(make):
    model = make()
    assert torch.equal(model(*inputs(), torch.tensor([5, 5])), model(*inputs()))
    assert model(*inputs(), torch.tensor([0, 4], dtype=torch.int32)).isfinite().all()


def test_a_model_without_classes_has_the_null_label_alone():
    with pytest.raises(ValueError, match="labels must be from 0 to 0"):
        random_model(num_classes=0)(*inputs(), torch.tensor([0, 1]))


@BOTH
def test_conditions_alone_are_checked_too(make):
    with pytest.raises(ValueError, match="labels must be from 0 to 5"):
        make().block_conditions(torch.zeros(1), torch.tensor([7]))


@BOTH
def test_nothing_is_read_where_it_would_cost_a_wait(make):
    """On another device than the CPU, of which meta is one without any values to read."""
    with torch.device("meta"):
        model = make() if make is random_udit else build("DiT-nano/4", in_channels=3, input_size=8, num_classes=5)
    x, t = inputs()
    assert model(x.to("meta"), t.to("meta"), torch.zeros(2, dtype=torch.long, device="meta")).shape[0] == 2


@BOTH
@pytest.mark.parametrize("shape", [(1, 3, 0, 8), (1, 3, 8, 0), (1, 3, 0, 0)])
def test_a_picture_with_a_side_of_nothing_is_refused(make, shape):
    with pytest.raises(ValueError, match=f"takes .*not .*{shape[2]}") as refusal:
        make()(torch.zeros(shape), torch.zeros(1))
    assert "\n" not in str(refusal.value)
