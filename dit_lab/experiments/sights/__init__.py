"""What the gallery shows, in the order of its page: section by section, each sight a small function of the zoo."""

from dit_lab.experiments.sights.attention import ATTENTION
from dit_lab.experiments.sights.base import Sight, Zoo
from dit_lab.experiments.sights.causes import CAUSES
from dit_lab.experiments.sights.learnt import LEARNT
from dit_lab.experiments.sights.parts import PARTS
from dit_lab.experiments.sights.path import PATH
from dit_lab.experiments.sights.tokens import TOKENS

SECTIONS = {
    "The way from noise to picture": PATH,
    "Attention": ATTENTION,
    "Tokens": TOKENS,
    "What each part gives": PARTS,
    "What if it were gone": CAUSES,
    "Training": LEARNT,
}

__all__ = ["SECTIONS", "Sight", "Zoo"]
