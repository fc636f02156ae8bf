"""Models as pure functions, and how their parameters are drawn."""

from collections.abc import Callable

from flax import linen as nn

from jtrain.errors import ConfigError
from jtrain.models import autoencoder, cnn, fast_cnn, highway, mlp, recurrent, resnet, wide_resnet


def given(num_outputs: int) -> nn.Module:
    """Stands for a model that a program gives; none can be made by this name alone."""
    raise ConfigError("model.name: 'given' is a model of a program: jtrain.assemble(config, model=…)")


# name -> factory(num_outputs, *, options) of a Linen module
MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp.mlp,
    "cnn": cnn.cnn,
    "fast_cnn": fast_cnn.fast_cnn,
    "resnet": resnet.resnet,
    "wide_resnet": wide_resnet.wide_resnet,
    "highway": highway.highway,
    "lstm": recurrent.lstm,
    "gru": recurrent.gru,
    "autoencoder": autoencoder.autoencoder,
    "given": given,
}
