"""Pickled weights (.pth, .pt, .bin, .ckpt, .tar of torch.save) to .safetensors, the only format that quantlab reads.

    python scripts/convert_weights.py resnet20.th resnet20.safetensors        # then model.weights=resnet20.safetensors
    python scripts/convert_weights.py checkpoint.pth.tar ema.safetensors --key state_dict_ema
    python scripts/convert_weights.py DIR/diffusion_pytorch_model.bin DIR/diffusion_pytorch_model.safetensors

The state dict is searched in the file; --key selects one of several. Nothing in the file is executed: files with
anything but tensors and plain containers are refused.
"""

import argparse
import sys
from pathlib import Path

from quantlab.errors import RequestError
from quantlab.models.pickled_weights import convert


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "source", type=Path, help="the pickled file, or a .safetensors file from which --key selects a part"
    )
    parser.add_argument("target", type=Path, help="the .safetensors file to write")
    parser.add_argument(
        "--key", help="the state dict's place in the file, such as state_dict_ema; or a prefix of names"
    )
    options = parser.parse_args()
    try:
        print("\n".join(convert(options.source.expanduser(), options.target.expanduser(), options.key)))
    except RequestError as error:
        print(f"convert_weights: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
