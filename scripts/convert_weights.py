"""Pickled weights (.pth, .pt, .bin, .ckpt, .tar of torch.save) to .safetensors, which is all that quantlab reads.

    python scripts/convert_weights.py resnet20.th resnet20.safetensors                      # then
    model.weights=resnet20.safetensors python scripts/convert_weights.py checkpoint.pth.tar ema.safetensors --key
    state_dict_ema python scripts/convert_weights.py DIR/unet/diffusion_pytorch_model.bin
    DIR/unet/diffusion_pytorch_model.safetensors

The state dict is found in what the file holds; --key says which, if there are several. Nothing in the file is executed:
one that holds more than tensors and plain containers is refused.
"""

import argparse
import sys
from pathlib import Path

from quantlab.errors import RequestError
from quantlab.models.pickled_weights import convert


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "source", type=Path, help="the pickled file, or a .safetensors file of which --key takes a part"
    )
    parser.add_argument("target", type=Path, help="the .safetensors file to write")
    parser.add_argument(
        "--key", help="where in the file the state dict is, such as state_dict_ema; or the prefix of the names to take"
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
