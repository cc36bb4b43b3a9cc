"""The papers' own tables as data: DiT's (arXiv 2212.09748) and U-DiT's (arXiv 2405.02730), beside which ours are seen.

The papers' "Gflops" are multiply-accumulates (MACs) of one forward, batch 1, at 32 x 32 x 4 latents (256 x 256 pixels).
FIDs are without guidance, after 400,000 training steps, where nothing else is said.
"""

from typing import NamedTuple


class Reported(NamedTuple):
    """What a paper reports of a model: GMACs, millions of parameters (None: not said), and FID after 400k steps."""

    gmacs: float
    params: float | None
    fid: float


class Headline(NamedTuple):
    """A figure that a paper leads with: the model, pixels a side, guidance scale (1.0: none), and FID."""

    model: str
    pixels: int
    cfg_scale: float
    fid: float


# DiT, tables 1 and 4, figure 2: twelve models of four sizes and three patch sizes, adaLN-Zero, by their preset.
DIT = {
    "DiT-S/8": Reported(0.36, 33, 153.60), "DiT-S/4": Reported(1.41, 33, 100.41),
    "DiT-S/2": Reported(6.06, 33, 68.40),
    "DiT-B/8": Reported(1.42, 131, 122.74), "DiT-B/4": Reported(5.56, 130, 68.38),
    "DiT-B/2": Reported(23.01, 130, 43.47),
    "DiT-L/8": Reported(5.01, 459, 118.87), "DiT-L/4": Reported(19.70, 458, 45.64),
    "DiT-L/2": Reported(80.71, 458, 23.33),
    "DiT-XL/8": Reported(7.39, 676, 106.41), "DiT-XL/4": Reported(29.05, 675, 43.01),
    "DiT-XL/2": Reported(118.64, 675, 19.47),
}  # fmt: skip
# DiT, table 4 and figure 5: DiT-XL/2 with each of the four blocks, by the block's name.
DIT_BLOCKS = {
    "in_context": Reported(119.37, 449, 35.24), "cross_attention": Reported(137.62, 598, 26.14),
    "adaln": Reported(118.56, 600, 25.21), "adaln_zero": Reported(118.64, 675, 19.47),
}  # fmt: skip
# DiT, figure 8: Pearson's correlation of log GMACs with FID over the twelve models, and what 512 x 512 costs XL/2.
DIT_CORRELATION, DIT_GMACS_512 = -0.93, 524.60
# DiT: XL/2 trained far longer, at 256 x 256 for seven million steps.
DIT_HEADLINES = (
    Headline("DiT-XL/2", 256, 1.0, 9.62), Headline("DiT-XL/2", 256, 1.25, 3.22), Headline("DiT-XL/2", 256, 1.5, 2.27),
    Headline("DiT-XL/2", 512, 1.5, 3.04),
)  # fmt: skip
# U-DiT: its three models, folded for inference, and the two larger ones at guidance 1.5.
UDIT = {
    "U-DiT-S": Reported(6.04, 52.05, 31.51), "U-DiT-B": Reported(22.22, 204.43, 16.64),
    "U-DiT-L": Reported(85.00, 810.19, 10.08),
}  # fmt: skip
UDIT_HEADLINES = Headline("U-DiT-B", 256, 1.5, 4.26), Headline("U-DiT-L", 256, 1.5, 3.37)
# U-DiT's toy experiment (section 3) and ablation (section 5.4): GMACs where they are said, and FID, by our preset.
UDIT_LADDER = {
    "toy/isotropic": (1.41, 97.85), "toy/unet": (1.40, 93.48), "toy/kv": (0.91, 94.38), "toy/token": (0.90, 89.43),
    "toy/cosine": (None, 86.96), "toy/rope": (None, 84.64), "toy/depthwise": (None, 79.30),
    "toy/reparameterised": (None, 75.71),
}  # fmt: skip
# U-DiT's ablation begins at a slimmer U-Net; and its ways to downsample tokens, each with what came before.
UDIT_SLIM_FID = 107.00
UDIT_DOWNSAMPLERS = {"pixel unshuffle": 96.15, "+ depthwise convolution": 89.87, "+ shortcut": 89.43}
# DiT, section 5 and figure 10: two models after 400k steps by their sampling steps, and FID of 10,000 pictures.
DIT_SAMPLING = {("DiT-L/2", 1000): 25.9, ("DiT-XL/2", 128): 23.7}
# DiT, appendix: FID of XL/2 at guidance 1.5 by the decoder, Stable Diffusion's own and two that were trained on.
DIT_DECODERS = {"original": 2.46, "ft-MSE": 2.30, "ft-EMA": 2.27}
