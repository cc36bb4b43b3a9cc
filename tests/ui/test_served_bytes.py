"""What a served checkpoint says it takes of memory, by which the app decides which to let go."""

from types import SimpleNamespace

import pytest
import torch
from shared import random_model

from dit_lab.models.packed import PackedLinear, packs
from dit_lab.ui.served import Served


@pytest.mark.skipif(not packs(torch.bfloat16), reason="this machine does not compute in bf16")
def test_weights_that_are_laid_out_for_a_cpu_are_counted_beside_those_they_were_made_of():
    model = random_model()
    served = Served("any", SimpleNamespace(model=model, config=model.config, labels=None), None, torch.device("cpu"))
    own = sum(4 * parameter.numel() for parameter in model.parameters())
    assert served.bytes == own
    quick = served.fast("bf16")
    packed = [module for module in quick.modules() if isinstance(module, PackedLinear)]
    twice = sum(2 * module.weight.numel() for module in packed)
    once = sum(parameter.numel() * parameter.element_size() for parameter in quick.parameters())
    assert packed and served.bytes == own + once + twice
