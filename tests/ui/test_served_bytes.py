"""What a served checkpoint says it takes of memory, by which the app decides which to let go."""

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from shared import random_model

from dit_lab.models import fast
from dit_lab.models.packed import PackedLinear, packs
from dit_lab.ui.served import Served


def served_of(model):
    return Served("any", SimpleNamespace(model=model, config=model.config, labels=None), None, torch.device("cpu"))


def test_weights_that_twins_share_are_counted_once():
    model = random_model()
    served = served_of(model)
    own = sum(4 * parameter.numel() for parameter in model.parameters())
    served.running |= {"one": fast(model, precision="fp32"), "two": fast(model, precision="fp32")}
    assert all(twin is not model for twin in (served.running["one"], served.running["two"]))
    assert served.bytes == own
    served.running["copy"] = deepcopy(model)
    assert served.bytes == 2 * own


@pytest.mark.skipif(not packs(torch.bfloat16), reason="this machine does not compute in bf16")
def test_weights_that_are_laid_out_for_a_cpu_are_counted_beside_those_they_were_made_of():
    model = random_model()
    served = served_of(model)
    own = sum(4 * parameter.numel() for parameter in model.parameters())
    assert served.bytes == own
    quick = served.fast("bf16")
    packed = [module for module in quick.modules() if isinstance(module, PackedLinear)]
    twice = sum(2 * module.weight.numel() for module in packed)
    places = {parameter.data_ptr() for parameter in model.parameters()}
    once = sum(p.numel() * p.element_size() for p in quick.parameters() if p.data_ptr() not in places)
    assert packed and served.bytes == own + once + twice
