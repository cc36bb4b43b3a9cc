"""Checkpoints: `load` any, `save` ours; our own format, and one foreign format a file, each a table of names."""

from dit_lab.checkpoints.loading import Loaded, load
from dit_lab.checkpoints.own import save
from dit_lab.checkpoints.reading import CheckpointError

__all__ = ["CheckpointError", "Loaded", "load", "save"]
