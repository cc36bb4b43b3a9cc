"""What is learnt from and what comes out: labelled pictures, their latents, and the codecs between the two."""

from dit_lab.data.codecs import Autoencoder, Pixels, codec_of, open_codec, picture_codec
from dit_lab.data.images import Images, open_data
from dit_lab.data.latents import Latents
from dit_lab.data.pictures import DataError, write_grid
from dit_lab.data.vaes import open_vae, zoo_vaes

__all__ = [
    "Autoencoder", "DataError", "Images", "Latents", "Pixels", "codec_of", "open_codec", "open_data", "open_vae",
    "picture_codec", "write_grid", "zoo_vaes",
]  # fmt: skip
