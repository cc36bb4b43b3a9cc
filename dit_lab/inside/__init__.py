"""Looking in: one forward watched, a sampling run recorded and replayed, and what is computed from them.

`plots`, the figures of these, is a room of its own that is not opened with the wing: it takes Matplotlib.
"""

from dit_lab.inside.geometry import Box, token_at, token_box, token_under
from dit_lab.inside.recording import Recording, record
from dit_lab.inside.spectrum import Spectra, feature_spectra
from dit_lab.inside.trace import Seen, TraceError, watch
from dit_lab.inside.trajectory import Trajectory

__all__ = [
    "Box", "Recording", "Seen", "Spectra", "TraceError", "Trajectory", "feature_spectra", "record", "token_at",
    "token_box", "token_under", "watch",
]  # fmt: skip
