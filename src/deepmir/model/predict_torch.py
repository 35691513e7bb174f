"""Running the network by torch on a GPU, from the trainable form of the weights.

torch is an optional part: this module is imported only where a GPU is wanted.
"""

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from deepmir.errors import ConfigError, WeightsError
from deepmir.model.unet import UNet, build_network, spec_from_json
from deepmir.model.weights import Part, Weights
from deepmir.volume import FloatMap


class TorchNetwork:
    """One part of the network on a torch device, in float32."""

    def __init__(self, network: UNet, device: torch.device) -> None:
        self._network = network.to(device).eval()
        self._device = device

    @torch.inference_mode()
    def __call__(self, batch: FloatMap) -> FloatMap:
        """Logits (B, C_out, I, J, K) of a batch (B, C_in, I, J, K), float32."""
        logits = self._network(torch.from_numpy(np.ascontiguousarray(batch)).to(self._device))
        result: FloatMap = logits.float().cpu().numpy()
        return result


def open_torch_network(weights: Weights, part: Part) -> TorchNetwork | None:
    """Load one part of the network onto the GPU; None where torch finds none.

    Convolutions run in full float32 and by deterministic algorithms, so that the same input
    gives the same output.

    Raises
    ------
    WeightsError
        If the trainable form is missing or does not fit.
    """
    if not torch.cuda.is_available():
        return None
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    return TorchNetwork(load_network(weights, part), torch.device("cuda"))


def load_network(weights: Weights, part: Part) -> UNet:
    """Build one part of the network and fill in its released numbers, in float32.

    The file's header holds one network spec a part, as JSON, under the part's name; its
    tensors have the part's name as prefix.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, or does not fit its own spec.
    """
    path = weights.trainable_path
    prefix = f"{part}."
    try:
        with safe_open(path, framework="pt") as file:
            network = build_network(spec_from_json((file.metadata() or {})[part]))
            state = {
                key.removeprefix(prefix): file.get_tensor(key)
                for key in file.keys()  # noqa: SIM118 - not a mapping
                if key.startswith(prefix)
            }
        network.load_state_dict(
            {
                key: value.float() if value.is_floating_point() else value
                for key, value in state.items()
            }
        )
    except (OSError, KeyError, RuntimeError, SafetensorError, ConfigError) as error:
        raise WeightsError(
            f"{path} does not hold the {part} network ({error}); export the weights again"
        ) from error
    return network
