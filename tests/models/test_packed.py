"""Packed attention is attention: in chunks of heads and pictures, of every shape, and looked into as any other."""

import pytest
import torch
from shared import random_model, random_udit

from dit_lab.inside import record
from dit_lab.models import attending_by_products, fast, fold
from dit_lab.models import packed as packed_file
from dit_lab.models import products as products_file
from dit_lab.models.layers import Attend
from dit_lab.models.packed import PackedGridAttention, pack, packs
from dit_lab.models.products import PackedAttend, products, trained

EACH = 12 * 12 * 4  # bytes of a head's map of `parts`, of which there are 12
BF16 = pytest.mark.skipif(not packs(torch.bfloat16), reason="this machine does not compute in bf16")


@pytest.fixture(autouse=True)
def of_any_size(monkeypatch):
    """Maps as small as these are made too."""
    monkeypatch.setattr(products_file, "LEAST_BYTES", 0)


def parts(batch=3, heads=4, queries=12, keys=12, e=8, dtype=torch.float32):
    """Queries, keys and values as views of one product's output, the way blocks hand them over: `b head n e`."""
    torch.manual_seed(0)
    shapes = [(batch, count, heads, e) for count in (queries, keys, keys)]
    return [torch.randn(shape, dtype=dtype).transpose(1, 2) for shape in shapes]


def error(x, reference):
    return ((x.float() - reference).norm() / reference.norm()).item()


# One head of one picture at a time, a few of them, some that leave a rest, whole pictures, everything at once.
@pytest.mark.parametrize("maps", [0.5, 1, 3, 4, 5, 8, 100])
@pytest.mark.parametrize("shape", [{}, dict(keys=2), dict(batch=1, heads=1), dict(queries=1, keys=1), dict(batch=7)])
def test_packed_attention_is_attention_however_it_is_cut(shape, maps, monkeypatch):
    q, k, v = parts(**shape)
    monkeypatch.setattr(products_file, "CACHE_BYTES", int(maps * q.shape[2] * k.shape[2] * q.element_size()))
    assert error(PackedAttend(Attend())(q, k, v), Attend()(q, k, v)) < 1e-6


@pytest.mark.parametrize("maps, calls", [(0.5, 12), (1, 12), (2, 6), (3, 6), (4, 3), (7, 3), (8, 2), (12, 1), (100, 1)])
def test_as_many_heads_attend_at_once_as_the_cache_holds_the_maps_of(maps, calls, monkeypatch):
    made = []
    monkeypatch.setattr(products_file, "CACHE_BYTES", int(maps * EACH))
    monkeypatch.setattr(products_file, "products", lambda *given: made.append(given) or products(*given))
    PackedAttend(Attend())(*parts())
    assert len(made) == calls and all(len(q) * q.shape[1] <= max(maps, 1) for q, _, _ in made)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_it_is_off_by_less_than_a_hundredth(dtype):
    q, k, v = parts(queries=64, keys=64, e=16, dtype=dtype)
    found = PackedAttend(Attend())(q, k, v)
    assert found.dtype == dtype and error(found, Attend()(q.float(), k.float(), v.float())) < 0.01


def test_it_is_laid_out_as_the_next_product_takes_it():
    found = PackedAttend(Attend())(*parts())
    assert found.shape == (3, 4, 12, 8) and found.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("least, most", [(0, EACH - 1), (12 * EACH + 1, EACH), (12 * EACH, EACH)])
def test_maps_too_large_or_too_small_to_be_worth_it_are_left_to_the_fused_kernel(least, most, monkeypatch):
    made = []
    monkeypatch.setattr(products_file, "MOST_BYTES", most)
    monkeypatch.setattr(products_file, "LEAST_BYTES", least)
    monkeypatch.setattr(products_file, "products", lambda *given: made.append(given) or products(*given))
    q, k, v = parts()
    assert error(PackedAttend(Attend())(q, k, v), Attend()(q, k, v)) < 1e-6
    assert bool(made) is (least <= 12 * EACH and most >= EACH)


@pytest.mark.parametrize("amx", [True, False])
def test_attention_is_packed_where_the_fused_kernel_is_the_slower_one(amx, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_tile": amx})
    assert type(pack(Attend())) is (Attend if amx else PackedAttend)


@BF16
@pytest.mark.parametrize("cut", [1, 2**30])
@torch.no_grad()
def test_a_udits_queries_and_keys_are_the_same_however_many_pictures_are_turned_at_once(cut, monkeypatch):
    model = random_udit()
    attention = fold(model).blocks[0].attn
    packed = PackedGridAttention(attention)
    attention.grid.enter(8, 8)
    torch.manual_seed(0)
    x = torch.randn(5, 16, 2 * attention.width * attention.heads)
    monkeypatch.setattr(packed_file, "CACHE_BYTES", cut)
    assert torch.equal(packed.compared(x, 2), attention.compared(x, 2))
    keys = x[..., : attention.width * attention.heads]
    assert torch.equal(packed.compared(keys, 2, keys=True), attention.compared(keys, 2, keys=True))


@BF16
@pytest.mark.parametrize("model", [random_model("adaln_zero"), random_udit()], ids=["dit", "u-dit"])
def test_maps_of_a_fast_models_run_are_those_of_the_model(model, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_tile": False, "avx512_bf16": True})
    quick = fast(model, precision="bf16")
    assert any(isinstance(module, PackedAttend) for module in quick.modules())
    run, exact = (record(each, [1, 2], steps=2, seed=0) for each in (quick, fold(model)))
    for block in range(len(quick.blocks)):
        assert error(run.attention(quick, 1, block=block), exact.attention(fold(model), 1, block=block)) < 0.02


def gradients(attend, *parts):
    """Of a sum with weights that differ, by queries, keys and values."""
    parts = [part.detach().requires_grad_() for part in parts]
    found = attend(*parts).float()
    (found * torch.linspace(-1, 1, found.numel()).view(found.shape)).sum().backward()
    return [part.grad.float() for part in parts]


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("maps", [0.5, 4, 8, 9, 100])
def test_trained_attention_has_attentions_gradient_however_it_is_cut(maps, autocast, monkeypatch):
    shape = dict(batch=5, queries=32, keys=24, e=16)
    monkeypatch.setattr(products_file, "CACHE_BYTES", int(maps * 32 * 24 * 2))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = gradients(trained, *parts(**shape, dtype=torch.bfloat16))
        assert trained(*parts(**shape, dtype=torch.bfloat16)).dtype == torch.bfloat16
    exact = gradients(Attend(), *(part.float() for part in parts(**shape, dtype=torch.bfloat16)))
    assert all(error(one, other) < 0.01 for one, other in zip(found, exact, strict=True))


@pytest.mark.parametrize("maps, calls", [(0.5, 3), (7, 3), (8, 2), (11, 2), (12, 1), (100, 1)])
def test_in_training_as_many_pictures_attend_at_once_and_without_autocast(maps, calls, monkeypatch):
    made, half = [], torch.bfloat16
    monkeypatch.setattr(products_file, "CACHE_BYTES", int(maps * EACH / 2))
    monkeypatch.setattr(products_file, "MOST_KEPT_BYTES", 12 * EACH // 2)
    note = lambda *given: made.append(torch.is_autocast_enabled("cpu")) or products(*given)
    monkeypatch.setattr(products_file, "products", note)
    with torch.autocast("cpu", half):
        trained(*parts(dtype=half))
    assert made == [False] * calls


@pytest.mark.parametrize("dtype, most", [(torch.float32, 2**26), (torch.bfloat16, 3 * 4 * 12 * 12 * 2 - 1)])
def test_in_fp32_and_of_maps_too_large_to_keep_trained_attention_is_the_fused_kernel(dtype, most, monkeypatch):
    def never(*_):
        raise AssertionError("a map was made")

    monkeypatch.setattr(products_file, "products", never)
    monkeypatch.setattr(products_file, "MOST_KEPT_BYTES", most)
    q, k, v = parts(dtype=dtype)
    assert torch.equal(trained(q, k, v), Attend()(q, k, v))


@pytest.mark.parametrize("amx", [True, False])
def test_a_model_trains_by_products_where_the_fused_kernel_is_the_slower_one(amx, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_tile": amx})
    model = random_model("cross_attention")
    attends = [module for module in model.modules() if isinstance(module, Attend)]
    with attending_by_products(model):
        assert all((attend.forward is trained) is not amx for attend in attends)
        with attending_by_products(model):  # another run of it, that ends first
            pass
    assert not any("forward" in vars(attend) for attend in attends)
