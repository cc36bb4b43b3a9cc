"""`python app.py`: open the app on the zoo, or on any checkpoint that `dit_lab.load` takes."""

from dit_lab.program import run

FIRST = "mnist"


def app(
    *,
    checkpoint: str | None = None,
    vae: str | None = None,
    device: str = "auto",
    host: str = "127.0.0.1",
    port: int | None = None,
) -> None:
    """Open the app on the zoo, or with --checkpoint on any checkpoint that `dit_lab.load` takes.

    Args:
        checkpoint: Zoo name, folder, file or hub id (default: all of the zoo, a page each).
        vae: Folder or hub id of a diffusers VAE, to decode latents with.
        device: Where the model runs: cpu, cuda, mps, or auto.
        host: Address to listen on; others can reach 0.0.0.0.
        port: Port to listen on (default: the first free one from 7860).
    """
    if port is not None and not 0 < port < 2**16:
        raise ValueError(f"the port must be a number from 1 to 65535, not {port}")
    from dit_lab.checkpoints import load, zoo
    from dit_lab.data import codec_of
    from dit_lab.models import pick_device

    place = pick_device(device)
    sources = [checkpoint] if checkpoint else [FIRST, *sorted(zoo().keys() - {FIRST})]
    models = [load(source, device=place) for source in sources]
    codecs = [codec_of(model, vae, place) for model in models]
    # Gradio takes seconds to import: what cannot be loaded is said before.
    from dit_lab.ui import build_app, launch_options

    first, *others = zip(models, codecs, strict=True)
    page = build_app(*first, others)
    page.launch(server_name=host, server_port=port, **launch_options())


if __name__ == "__main__":
    run(app, "app.py")
