"""How the book is built: Sphinx with myst-nb, no code run, nothing that a reader's browser would ask a network for."""

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

project = "dit_lab: the course"
html_title = project
author = copyright = "the authors of dit_lab"
extensions = ["myst_nb"]
exclude_patterns = ["_build"]
nb_execution_mode = "off"  # outputs are those that the notebooks were saved with
nb_code_prompt_show = "Show {type}"
nb_code_prompt_hide = "Hide {type}"
myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3
html_theme = "sphinx_book_theme"
html_theme_options = {"use_download_button": False, "use_fullscreen_button": False, "home_page_in_toc": True}
html_copy_source = False
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_math_renderer = "mathml"


def inline(translator, node) -> None:
    """Mathematics in a line, as MathML: browsers set it themselves."""
    translator.body.append(convert(node.astext()))
    raise SkipNode


def display(translator, node) -> None:
    """Mathematics on a line of its own."""
    translator.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise SkipNode


def setup(app) -> None:
    """Register the renderer of mathematics."""
    app.add_html_math_renderer("mathml", (inline, None), (display, None))
