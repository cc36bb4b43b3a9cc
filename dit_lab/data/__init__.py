"""What is learnt from and what comes out: labelled pictures, their latents, and the codecs between the two."""

from dit_lab.data.classes import class_numbers, named_classes
from dit_lab.data.codecs import Autoencoder, Pixels, codec_of, open_codec, picture_codec
from dit_lab.data.encoding import encoded
from dit_lab.data.images import Images, open_data
from dit_lab.data.latents import Latents
from dit_lab.data.pictures import DataError, write_grid
from dit_lab.data.pixels import CROPS
from dit_lab.data.splits import judged_splits
from dit_lab.data.vaes import open_vae, zoo_vaes

__all__ = [
    "CROPS", "Autoencoder", "DataError", "Images", "Latents", "Pixels", "class_numbers", "codec_of", "encoded",
    "judged_splits", "named_classes", "open_codec", "open_data", "open_vae", "picture_codec", "write_grid", "zoo_vaes",
]  # fmt: skip
