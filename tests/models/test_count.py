"""The counter against the papers' tables, and against what can be worked out by hand."""

import pytest
import torch
from torch import nn

from dit_lab.commands.count import count_command
from dit_lab.models import build, count, ladder, preset
from dit_lab.models.count import ELSEWHERE, Row
from dit_lab.models.layers import Attention

# Table 1 of the DiT paper: "Gflops" (which are GMACs) as printed, and millions of parameters.
TABLE_1 = {
    "DiT-S/8": ("0.36", 33),
    "DiT-S/4": ("1.41", 33),
    "DiT-S/2": ("6.06", 33),
    "DiT-B/8": ("1.42", 131),
    "DiT-B/4": ("5.56", 130),
    "DiT-B/2": ("23.01", 130),
    "DiT-L/8": ("5.01", 459),
    "DiT-L/4": ("19.70", 458),
    "DiT-L/2": ("80.71", 458),
    "DiT-XL/8": ("7.39", 676),
    "DiT-XL/4": ("29.05", 675),
    "DiT-XL/2": ("118.64", 675),
}

# XL/2 by block: GMACs and millions of parameters, as the paper has them and as recomputed without the fixed table.
BLOCKS_PAPER = {
    "in_context": ("119.37", "449"),
    "cross_attention": ("137.62", "598"),
    "adaln": ("118.56", "600"),
    "adaln_zero": ("118.64", "675"),
}
BLOCKS_RECOMPUTED = {
    "in_context": ("119.35", "449.2"),
    "cross_attention": ("137.60", "598.0"),
    "adaln": ("118.55", "600.5"),
    "adaln_zero": ("118.62", "674.8"),
}

# U-DiT: parameters unfolded and folded, exactly, and the paper's GMACs, which are those of the folded model.
U_DITS = {
    "U-DiT-S": (58_896_568, 52_045_240, 6.04),
    "U-DiT-B": (231_251_304, 204_425_064, 22.22),
    "U-DiT-L": (916_335_304, 810_188_488, 85.00),
}
LADDER = {"toy/isotropic": 1.41, "toy/unet": 1.40, "toy/kv": 0.91, "toy/token": 0.90}


def agrees(macs: int, printed: str, relative: float = 0.003) -> bool:
    """Within 0.3 % of a printed number of GMACs, or within half a unit of its last place where that is wider."""
    half_a_place = 0.5 * 10.0 ** -len(printed.partition(".")[2])
    return abs(macs / 1e9 - float(printed)) <= max(relative * float(printed), half_a_place)


def rounds_to(number: int, printed: str) -> bool:
    """Whether a number, in millions, rounds to what is printed."""
    return f"{number / 1e6:.{len(printed.partition('.')[2])}f}" == printed


@pytest.mark.parametrize("name", TABLE_1)
def test_every_size_and_patch_has_the_papers_macs_and_parameters(name):
    gmacs, millions = TABLE_1[name]
    counted = count(name)
    assert agrees(counted.macs, gmacs), f"{counted.macs / 1e9:.4f} GMACs, the paper has {gmacs}"
    # The paper leaves the fixed position table out: with it B/2 would be 130.51 M, printed as 131.
    assert rounds_to(counted.trained, str(millions)), f"{counted.trained} trained, the paper has {millions} M"


@pytest.mark.parametrize("block", BLOCKS_PAPER)
def test_every_block_of_xl_2_has_the_papers_and_the_recomputed_numbers(block):
    counted = count("DiT-XL/2", block=block)
    gmacs, millions = BLOCKS_PAPER[block]
    assert agrees(counted.macs, gmacs)
    assert rounds_to(counted.trained, millions)
    gmacs, millions = BLOCKS_RECOMPUTED[block]
    assert agrees(counted.macs, gmacs, relative=0)
    assert rounds_to(counted.trained, millions)


def test_xl_2_has_exactly_the_known_number_of_parameters():
    counted = count("DiT-XL/2")
    assert counted.params == 675_129_632
    assert counted.trained == 674_834_720
    assert counted["positions"].fixed == counted.fixed == 256 * 1152


def test_xl_2_at_512_has_the_papers_macs():
    counted = count("DiT-XL/2", input_size=64)
    assert agrees(counted.macs, "524.60"), f"{counted.macs / 1e9:.4f} GMACs"
    assert counted.trained == 674_834_720


@pytest.mark.parametrize("name", U_DITS)
def test_every_udit_has_the_known_parameters_and_folded_the_papers_macs(name):
    unfolded, folded, gmacs = U_DITS[name]
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in build(name).parameters()) == unfolded
    counted = count(name, mlp="depthwise")
    assert counted.params == counted.trained == folded
    assert counted.macs / 1e9 == pytest.approx(gmacs, rel=0.005)


@pytest.mark.parametrize("name", LADDER)
def test_the_ladder_has_the_papers_macs(name):
    assert count(ladder()[name]).macs / 1e9 == pytest.approx(LADDER[name], rel=0.02)


def udit_macs_by_hand(config):
    """A folded U-DiT's multiply-accumulates, added up from its widths and grids."""
    (h, w), dim, levels = config.size, config.dim, len(config.depths) // 2 + 1
    widths = [dim * 2**level for level in range(levels)]
    total = 9 * config.in_channels * dim * h * w + sum(256 * d + d * d for d in widths)
    stages = [*range(levels), *reversed(range(levels - 1))]
    for number, (level, depth) in enumerate(zip(stages, config.depths, strict=True)):
        d, n = dim * 2 ** (level if number < levels else max(level, 1)), (h >> level) * (w >> level)
        # Projections of 3d and d, an MLP of ratio 2; a 5x5 kernel a channel; q k^T and its product with v on a quarter.
        pair = n * (4 * d * d + 4 * d * d) + n * 25 * (d + 2 * d) + 2 * n * (n // 4) * d + 6 * d * d
        total += 2 * depth * pair
        if number < levels - 1:
            total += 9 * n * d * (d // 2)
        elif number < len(stages) - 1:
            above, skip = dim * 2 ** max(level - 1, 1), dim * 2 ** (level - 1)
            total += 9 * n * d * 2 * d + 4 * n * (d // 2 + skip) * above
    last = dim * 2
    return total + h * w * 9 * last * (last + config.out_channels) + 2 * last * last


@pytest.mark.parametrize("changes", [{}, dict(input_size=(16, 24), in_channels=3, depths=(1, 3, 2))], ids=str)
def test_a_folded_udit_counts_what_adds_up_by_hand(changes):
    config = preset("U-DiT-tiny", mlp="depthwise", **changes)
    assert count(config).macs == udit_macs_by_hand(config)


@pytest.mark.parametrize("block", [block for block in BLOCKS_PAPER if block != "in_context"])
def test_the_rows_of_a_udit_add_up_to_it(block):
    model = build("U-DiT-tiny", block=block, input_size=8)
    counted = count(model)
    assert counted.trained == sum(p.numel() for p in model.parameters()) and counted.fixed == 0
    assert ELSEWHERE not in {row.part for row in counted.rows}


def test_a_model_can_be_counted_at_another_size_than_its_own():
    assert count("DiT-nano/4", shape=(4, 64, 32)).macs == count("DiT-nano/4", input_size=(64, 32)).macs


def test_attention_counts_its_four_projections_and_its_two_products():
    counted, n, d = count("DiT-S/2"), 256, 384
    assert counted["blocks.*.attn"].macs == 12 * (4 * n * d * d + 2 * n * n * d)
    assert counted["blocks.*.mlp"].macs == 12 * (8 * n * d * d)
    assert counted["blocks.*.modulation"].macs == 12 * (6 * d * d)
    assert counted["blocks.*.attn"].trained == 12 * (4 * d * d + 4 * d)
    assert counted["blocks.*.attn"].copies == 12


@pytest.mark.parametrize("block", BLOCKS_PAPER)
def test_the_rows_add_up_to_the_model(block):
    model = build("DiT-nano/4", block=block, input_size=16)
    counted = count(model)
    assert counted.trained == sum(p.numel() for p in model.parameters())
    assert counted.fixed == sum(buffer.numel() for buffer in model.buffers())
    assert ELSEWHERE not in {row.part for row in counted.rows}


def test_a_name_a_config_and_a_built_model_count_the_same():
    config = preset("DiT-nano/4", num_classes=10)
    assert count("DiT-nano/4", num_classes=10).rows == count(config).rows == count(build(config)).rows
    assert count(preset("DiT-nano/4"), num_classes=10).rows == count(config).rows


def test_counting_leaves_a_built_model_as_it_was():
    model = build("DiT-nano/4").to(torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert count(model).macs == count("DiT-nano/4").macs
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}


def test_counting_makes_no_tensor_with_data_in_it():
    made = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            made.extend(t for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, torch.Tensor))
            return out

    with Watch():
        count("DiT-XL/2", depth=2)
    assert made and {tensor.device.type for tensor in made} == {"meta"}


class Foreign(nn.Module):
    """A model with the contract alone: a stem, loose attention blocks, and a product of its own."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.levels = nn.ModuleList(nn.ModuleList([nn.Linear(8, 8, bias=False)]) for _ in range(2))
        self.mixer = nn.Parameter(torch.ones(8, 8))
        self.attn = Attention(8, 2)

    def forward(self, x, t, y):
        x = self.stem(x).flatten(2).mT
        for level in self.levels:
            x = level[0](x)
        return self.attn(x @ self.mixer) + t[:, None, None] + y[:, None, None]


def test_any_module_with_the_contract_can_be_counted():
    counted = count(Foreign(), shape=(3, 4, 4))
    assert counted["stem"].macs == 16 * 8 * 3 * 9
    assert counted["levels.*.*"] == Row("levels.*.*", copies=2, trained=128, fixed=0, macs=2 * 16 * 64)
    assert counted["mixer"].trained == 64 and counted["mixer"].macs == 0
    assert counted[ELSEWHERE].macs == 16 * 64
    assert counted["attn"].macs == 4 * 16 * 64 + 2 * 16 * 16 * 8


def test_a_module_without_a_config_needs_a_shape():
    with pytest.raises(ValueError, match="give shape="):
        count(Foreign())


def test_a_built_model_takes_no_changes():
    with pytest.raises(ValueError, match="num_classes"):
        count(build("DiT-nano/8"), num_classes=3)


def test_an_unknown_preset_block_or_part_is_named():
    with pytest.raises(ValueError, match="DiT-XL/2"):
        count("DiT-XXL/2")
    with pytest.raises(ValueError, match="adaln_zero"):
        count("DiT-nano/8", block="film")
    with pytest.raises(KeyError, match="patch_embedding"):
        count("DiT-nano/8")["nose"]


def test_the_printed_table_is_aligned_and_says_both_words(capsys):
    count_command("DiT-XL/2", block="cross_attention")
    printed = capsys.readouterr().out
    assert "GMACs" in printed and "Gflops" in printed and "137.60" in printed
    table = [line for line in printed.splitlines() if line.startswith(("part ", "blocks.", "total "))]
    assert len({len(line) for line in table}) == 1
    assert any(line.startswith("blocks.*.cross ") for line in table)


@pytest.mark.parametrize(
    ("options", "size"),
    [(["--input-size", "16"], "4 x 16 x 16"), (["--input-size", "16", "32", "--num-classes", "0"], "4 x 16 x 32")],
)
def test_the_command_line_takes_a_side_or_rows_and_columns(options, size, capsys):
    tyro = pytest.importorskip("tyro")
    tyro.cli(count_command, args=["DiT-nano/8", *options])
    assert size in capsys.readouterr().out


def test_counting_prints_nothing_and_takes_a_shape_of_any_kind(capsys):
    listed = count("DiT-nano/8", shape=[4, 16, 8])
    assert listed == count("DiT-nano/8", shape=(4, 16, 8)) and listed.shape == (4, 16, 8)
    assert capsys.readouterr() == ("", "")


def test_a_table_is_headed_by_what_was_counted_and_ends_in_one_total():
    lines = str(count("DiT-nano/8", num_classes=3)).splitlines()
    assert lines[0] == "DiT-nano/8, num_classes=3, one input of 4 x 32 x 32"
    assert next(line for line in lines if line.startswith("total ")).split()[1] == "1"
    assert str(count(build("DiT-nano/8"))).startswith("DiT, one input of 4 x 32 x 32\n")
