"""Inception, as FID and its relatives use it (arXiv 1706.08500): torch-fidelity's network with weights you fetched.

torch-fidelity asks for torchvision as soon as it is imported, though its Inception does without. Modules of it are
therefore imported here without the package's own `__init__`; torchmetrics, which looks for it too, likewise.
"""

import hashlib
import io
import sys
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import torch

from dit_lab.checkpoints import CheckpointError
from dit_lab.checkpoints.reading import read
from dit_lab.evaluation.features import Network, Seen, spatial_of

FILE = "weights-inception-2015-12-05-6726825d.pth"
SAME_FILE = "pt_inception-2015-12-05-6726825d.pth"  # pytorch-fid's name for it
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"
FEATURES = 2048
MIXED_6 = "Mixed_6d"  # what TensorFlow's graph calls mixed_6


def inception(path: Path | None, device) -> Network:
    """Inception with the weights in `path`, or in torch's cache of downloads. Raises ValueError where a part lacks.

    What it gives are its 2048 features, its logits without bias, as the Inception score takes them, and the spatial
    features of sFID as ADM has it: 7 channels of the first convolution of `mixed_6`, after its ReLU, at 17 x 17 places.
    """
    path = weights_file(path)
    with without_init("torch_fidelity"):
        try:
            module = import_module("torch_fidelity.feature_extractor_inceptionv3")
        except ImportError as error:
            raise ValueError(
                "Inception needs the package torch-fidelity: python -m pip install --no-deps 'torch-fidelity>=0.4' "
                "(what it would bring along is not needed); or judge with --features small"
            ) from error
    # The network would unpickle the file as it is, and run what it says: it gets a copy of the bare tensors instead.
    copied = io.BytesIO()
    torch.save(bare_tensors(path), copied)
    copied.seek(0)
    outputs = [str(FEATURES), "logits_unbiased"]
    try:
        network = module.FeatureExtractorInceptionV3("inception", outputs, feature_extractor_weights_path=copied)
    except RuntimeError as error:
        raise ValueError(f"{path} does not hold Inception's weights, the file of {URL}") from error
    network, maps = network.to(device), []
    getattr(network, MIXED_6).branch1x1.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()[:8]  # the released file's is in its name
    about = {"network": "inception", "weights": path.name, "sha256": checksum}
    return Network(lambda pixels: Seen(*network(pixels.to(device)), spatial_of(maps.pop())), FEATURES, about)


def weights_file(path: Path | None) -> Path:
    """The file with Inception's weights. Raises ValueError that says what to fetch from where."""
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    places = [cache / FILE, cache / SAME_FILE] if path is None else [path]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ValueError(
            f"Inception's weights are not at {places[0]}: fetch {URL} (91 MB) and put it there, "
            "or say with --inception where it is; or judge with --features small"
        )
    return found


def bare_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a PyTorch file; nothing in it is run. Raises ValueError."""
    try:
        return read(path, "model")[0]
    except CheckpointError as error:
        raise ValueError(f"{path} does not hold Inception's weights, the file of {URL}") from error


@contextmanager
def without_init(package: str):
    """Within it, a package's modules are imported without its `__init__`; after it, the package is as it was."""
    spec = None if package in sys.modules else find_spec(package)
    if spec is None:  # not there, or imported already
        yield
        return
    hollow = ModuleType(package)
    hollow.__path__, hollow.__spec__ = list(spec.submodule_search_locations), spec
    sys.modules[package] = hollow
    try:
        yield
    finally:
        del sys.modules[package]
