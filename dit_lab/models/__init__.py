"""What is trained: layers, the conditioning blocks, DiT and U-DiT, the presets that name them, and what they cost."""
