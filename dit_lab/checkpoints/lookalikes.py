"""What other models' checkpoints look like, so that a refusal can say what it was that somebody brought."""

# A part of a name that their tensors have and a DiT's never. The first two have all of a DiT's names besides.
LOOKS = {
    "a LightningDiT": ("mlp.w12.", "feat_rope."),  # SwiGLU and RoPE
    "a SiT trained with REPA": ("projectors.",),  # onto DINOv2's features, and the flow in another time than SiT's
    "a masked DiT (MDT, MaskDiT)": ("mask_token",),
    "a PixArt": ("caption_projection.", "y_embedder.y_embedding"),
    "a Stable Diffusion 3": ("joint_blocks.", "add_q_proj"),
    "a FLUX": ("double_blocks.", "single_transformer_blocks."),
    "a U-ViT": ("in_blocks.",),
    "a VAE": ("encoder.conv_in.", "decoder.conv_in.", "quant_conv."),
    "a U-Net": ("input_blocks.", "down_blocks."),
}


def look_of(tensors) -> tuple[str, str] | None:
    """(what these tensors are of, a name that shows it), None where they are nothing that is known here."""
    for what, parts in LOOKS.items():
        for name in tensors:
            if any(part in name for part in parts):
                return what, name
    return None
