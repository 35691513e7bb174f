"""The tiny network, opened."""

import pytest

from deepmir.model.weights import Weights, load_weights


@pytest.fixture
def weights(tiny_weights) -> Weights:
    """Weights of the hand-made network."""
    return load_weights(tiny_weights)
