"""The glossary: every term that a panel speaks of, in one sentence, with its equation and where it is from."""

import json

from dit_lab.files import json_object
from dit_lab.panels.panel import asset

# key -> {term, text, equation, source}; a page marks a word by `data-term="key"`.
TERMS: dict[str, dict[str, str]] = json_object(asset("glossary.json"))
PLACE = "const TERMS = {};"


def glossary_script() -> str:
    """The ES module that explains terms, `explain(root)`, with the terms in it."""
    return asset("glossary.js").replace(PLACE, f"const TERMS = {json.dumps(TERMS)};")
