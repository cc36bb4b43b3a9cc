"""What is learnt from and what comes out: labelled pictures, their latents, and the codecs between the two."""
