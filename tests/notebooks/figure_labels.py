"""What a figure lacks to be read by itself; runs in a notebook's kernel, where every picture that is drawn is noted."""

from matplotlib.backend_bases import FigureCanvasBase

LACKING: list[str] = []


def note_all() -> None:
    """From now on, note what is lacking in every figure that becomes a picture."""
    draw = FigureCanvasBase.print_figure

    def noting(canvas, *arguments, **options):
        LACKING.extend(lacking(canvas.figure))
        return draw(canvas, *arguments, **options)

    FigureCanvasBase.print_figure = noting


def lacking(figure) -> list[str]:
    """What a figure lacks, a sentence each: a title, or the label of an axis that has ticks."""
    axes = [axis for axis in figure.get_axes() if axis.get_visible() and axis.axison]
    figures = [figure, *figure.subfigs]
    told = []
    titles = [*(axis.get_title(loc) for axis in axes for loc in ("left", "center", "right")), *map(suptitle, figures)]
    if axes and not any(titles):
        told.append("a figure without a title")
    for axis in axes:
        name = axis.get_title() or next(filter(None, titles), "")
        if hasattr(axis, "_colorbar"):
            if not (axis.get_xlabel() or axis.get_ylabel()):
                told.append(f"a colour bar without a label, beside {name!r}")
            continue
        for side in ("x", "y"):
            if ticked(axis, side) and not labelled(axis, side):
                told.append(f"the {side} axis of {name!r} has ticks and no label")
    return told


def suptitle(figure) -> str:
    """The title above all axes of a figure."""
    return figure.get_suptitle()


def ticked(axis, side: str) -> bool:
    """Whether an axis is to be read on that side: it has ticks with text."""
    ticks = getattr(axis, f"{side}axis")
    return ticks.get_visible() and any(tick.get_text() for tick in getattr(axis, f"get_{side}ticklabels")())


def labelled(axis, side: str) -> bool:
    """Whether an axis has a label on that side: its own, that of one that shares it, or the figure's."""
    shared = getattr(axis, f"get_shared_{side}_axes")().get_siblings(axis)
    own = any(getattr(each, f"get_{side}label")() for each in shared)
    return own or any(getattr(each, f"get_sup{side}label")() for each in (axis.figure, axis.get_figure(root=True)))
