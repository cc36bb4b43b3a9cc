"""What is trained: layers, the conditioning blocks, DiT and U-DiT, presets, what they cost, and where they compute."""

from dit_lab.models.blocks import BLOCKS, Block
from dit_lab.models.compiling import check_compiler
from dit_lab.models.config import Config
from dit_lab.models.count import count
from dit_lab.models.devices import clocked, fastest, in_turns, one_thread, pick_device, uses_bf16
from dit_lab.models.dit import DiT, DiTConfig
from dit_lab.models.fast import COMPILE, DTYPES, PRECISION, fast
from dit_lab.models.presets import PRESETS, build, config_of, ladder, preset, taking
from dit_lab.models.products import attending_by_products
from dit_lab.models.udit import UDiT, UDiTConfig, fold

__all__ = [
    "BLOCKS", "Block", "COMPILE", "Config", "DTYPES", "DiT", "DiTConfig", "PRECISION", "PRESETS", "UDiT", "UDiTConfig",
    "attending_by_products", "build", "check_compiler", "clocked", "config_of", "count", "fast", "fastest", "fold",
    "in_turns", "ladder", "one_thread", "pick_device", "preset", "taking", "uses_bf16",
]  # fmt: skip
