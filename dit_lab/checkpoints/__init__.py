"""Any file to a model and back: our format, the originals' and diffusers', each a file of tables; no file is run."""

from dit_lab.checkpoints.loading import Loaded, load
from dit_lab.checkpoints.mapping import map_tensors
from dit_lab.checkpoints.meta_run import MetaRun, open_run
from dit_lab.checkpoints.own import save
from dit_lab.checkpoints.places import zoo
from dit_lab.checkpoints.reading import CheckpointError
from dit_lab.checkpoints.told import Told

__all__ = ["CheckpointError", "Loaded", "MetaRun", "Told", "load", "map_tensors", "open_run", "save", "zoo"]
