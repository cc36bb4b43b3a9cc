"""Open the app on the zoo, or with `--checkpoint SOURCE` on any checkpoint that `dit_lab.load` takes."""

import argparse
import sys

from dit_lab.checkpoints import load
from dit_lab.checkpoints.places import zoo
from dit_lab.commands.train import pick_device
from dit_lab.data.codecs import codec_of

FIRST = "mnist"


def main() -> None:
    """Load, build, launch; a checkpoint that cannot be opened is one sentence on standard error and exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", help="zoo name, folder, file or hub id (default: all of the zoo, a page each)")
    parser.add_argument("--vae", help="folder or hub id of a diffusers VAE, to decode latents with")
    parser.add_argument("--device", default="auto", help="where the model runs: cpu, cuda, mps, or auto")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; others can reach 0.0.0.0")
    parser.add_argument("--port", type=int, help="port to listen on (default: the first free one from 7860)")
    options = parser.parse_args()
    if options.port is not None and not 0 < options.port < 2**16:
        parser.error(f"the port must be a number from 1 to 65535, not {options.port}")
    try:
        device = pick_device(options.device)
        sources = [options.checkpoint] if options.checkpoint else [FIRST, *sorted(zoo().keys() - {FIRST})]
        models = [load(source, device=device) for source in sources]
        codecs = [codec_of(model, options.vae, device) for model in models]
        # Gradio takes seconds to import: what cannot be loaded is said before.
        from dit_lab.ui import build_app, launch_options

        first, *others = zip(models, codecs, strict=True)
        app = build_app(*first, others)
        app.launch(server_name=options.host, server_port=options.port, **launch_options())
    except (ValueError, OSError, RuntimeError) as error:
        print(f"app.py: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
