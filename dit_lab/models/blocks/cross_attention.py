"""Cross-attention conditioning: image tokens attend to the condition tokens, as in latent diffusion models."""

from dit_lab.models.blocks.base import Block
from dit_lab.models.layers import CrossAttention, LayerNorm


class CrossAttentionBlock(Block):
    """Self-attention, then attention to the condition, then the MLP: `x: b n d, cond: b k d -> b n d`.

    About 15 % more MACs than the others at XL/2 (137.6 G), FID 26.14 at 400k steps (figure 5).
    """

    name = "cross_attention"
    title = "cross-attention"
    readers = ("cross.kv",)

    def __init__(self, dim, heads, attn, mlp):
        super().__init__(dim, heads, attn, mlp)
        self.norm_attn = LayerNorm(dim, affine=True)
        self.norm_cross = LayerNorm(dim, affine=True)
        self.norm_mlp = LayerNorm(dim, affine=True)
        self.cross = CrossAttention(dim, heads)

    def forward(self, x, cond):
        x = x + self.attn(self.norm_attn(x))
        x = x + self.cross(self.norm_cross(x), cond)
        return x + self.mlp(self.norm_mlp(x))
