"""A checkpoint of latent-diffusion (Rombach et al. 2022), pickled, as a pipeline in diffusers' format, which
`model=pipeline` takes: LDM-4 of CelebA-HQ, FFHQ, bedrooms and ImageNet.

    python scripts/convert_latent_diffusion.py model.ckpt config.yaml DIR     # then model.path=DIR

config.yaml is the one that lies beside the checkpoint. The average of the weights is taken, where there is one. Nothing
in the file is executed.
"""

import argparse
import sys
from pathlib import Path

from quantlab.errors import RequestError
from quantlab.models.latent_diffusion import convert


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the checkpoint, model.ckpt")
    parser.add_argument("config", type=Path, help="its config, config.yaml")
    parser.add_argument("target", type=Path, help="the directory to write")
    options = parser.parse_args()
    try:
        print("\n".join(convert(*(path.expanduser() for path in (options.source, options.config, options.target)))))
    except RequestError as error:
        print(f"convert_latent_diffusion: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
