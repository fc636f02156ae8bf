"""Models as pure functions, and how their parameters are drawn."""

from collections.abc import Callable

from flax import linen as nn

from jtrain.models import cnn, mlp, resnet

# name -> factory(num_outputs, *, options) of a Linen module
MODELS: dict[str, Callable[..., nn.Module]] = {"mlp": mlp.mlp, "cnn": cnn.cnn, "resnet": resnet.resnet}
