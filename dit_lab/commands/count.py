"""`python -m dit_lab count`: parameters and multiply-accumulates of a preset, part by part."""

from dit_lab.models import count


def count_command(
    model: str,
    /,
    *,
    block: str | None = None,
    input_size: int | tuple[int, int] | None = None,
    in_channels: int | None = None,
    num_classes: int | None = None,
    mlp_ratio: float | None = None,
    learned_variance: bool | None = None,
) -> None:
    """Print the parameters and multiply-accumulates (GMACs; papers call them Gflops) of a preset, part by part.

    Args:
        model: a preset's name, such as DiT-XL/2.
        block: how conditioning enters, such as cross_attention.
        input_size: side, or rows and columns, of the input in latent or image pixels.
        in_channels: channels of the input, 4 for the usual latents.
        num_classes: number of classes, 0 for an unconditional model.
        mlp_ratio: width of the MLP over that of the model.
        learned_variance: whether the output holds a variance too.
    """
    options = dict(
        block=block,
        input_size=input_size,
        in_channels=in_channels,
        num_classes=num_classes,
        mlp_ratio=mlp_ratio,
        learned_variance=learned_variance,
    )
    print(count(model, **{name: value for name, value in options.items() if value is not None}))
