"""What the tests of figures share: a figure drawn, and whether it is whole."""

from itertools import combinations

from matplotlib.backends.backend_agg import FigureCanvasAgg

CLOSE = 1.0  # pixels by which two texts may touch


def whole(figure, captioned=True):
    """Draw a figure, assert that it is titled, not cut off, and no text lies on another, and return its used axes.

    Those with a caption are also narrow enough to be read at 900 pixels; some older ones have neither.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    assert figure.get_suptitle()
    assert not captioned or figure.get_supxlabel() and figure.get_figwidth() * figure.dpi <= 1000
    drawn, (width, height) = figure.get_tightbbox(canvas.get_renderer()), figure.get_size_inches()
    assert drawn.x0 >= 0 and drawn.y0 >= 0 and drawn.x1 <= width and drawn.y1 <= height, drawn
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts_of(figure)]
    for (one, first), (two, second) in combinations(boxes, 2):
        across = min(first.x1, second.x1) - max(first.x0, second.x0)
        down = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert across <= CLOSE or down <= CLOSE, f"{one!r} lies on {two!r}"
    return [axis for axis in figure.axes if axis.images or axis.lines]


def texts_of(figure):
    """Titles, names of axes and ticks that can be seen: all that must not lie on each other."""
    texts = [text for text in (figure._suptitle, figure._supxlabel) if text is not None]
    for axis in figure.axes:
        texts.append(axis.title)
        if not axis.axison:
            continue
        for each in axis.xaxis, axis.yaxis:
            low, high = sorted(each.get_view_interval())
            inside = [tick for tick in each.get_major_ticks() if low <= tick.get_loc() <= high]
            texts += [each.label, *(label for tick in inside for label in (tick.label1, tick.label2))]
    return [text for text in texts if text.get_visible() and text.get_text().strip()]
