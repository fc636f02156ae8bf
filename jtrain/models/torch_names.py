"""Our arrays as torch names and lays them out, and back."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from jtrain.errors import ConfigError, DataError
from jtrain.models.prepare import NORMALIZE, RESCALE
from jtrain.tree import flatten

Tree = Any  # a nested dict whose leaves are arrays

COUNTER = "num_batches_tracked"  # of torch's batch norm, which ours does without

_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
_STATISTICS = {"mean": "running_mean", "var": "running_var", "kernel": "weight"}  # and filters that are not trained

_RESNET = {"stem": "conv1", "stem_norm": "bn1", "head": "fc"}
_RESNET_BLOCK = {
    "norm1": "bn1", "norm2": "bn2", "norm3": "bn3", "shortcut": "downsample.0", "shortcut_norm": "downsample.1",
}  # fmt: skip


def _dotted(module: str) -> str:
    return module.replace("/", ".")


def _resnet(module: str) -> str:
    """As torchvision.models.resnet calls it: stage2_block1/conv1 → layer2.0.conv1."""
    block = re.fullmatch(r"stage(\d+)_block(\d+)/(.+)", module)
    if block:
        stage, number, layer = block.groups()
        return f"layer{stage}.{int(number) - 1}.{_dotted(_RESNET_BLOCK.get(layer, layer))}"
    return _RESNET.get(module, _dotted(module))


# model -> how torch calls a module of ours; all others: with dots for slashes
_MODULES: dict[str, Callable[[str], str]] = {"resnet": _resnet}

# Layers of torch.nn.LSTM and GRU are no modules: 'lstm0/input/kernel' is 'lstm.weight_ih_l0'.
_RECURRENT = re.compile(r"(lstm|gru)(\d+)/(.+)")
_RECURRENT_TENSORS = {
    "input/kernel": ("weight_ih",), "recurrent/kernel": ("weight_hh",), "bias": ("bias_ih", "bias_hh"),
    "recurrent/bias": ("bias_hh",),
}  # fmt: skip


def torch_module_names(model_name: str, module_paths: Iterable[str]) -> dict[str, str]:
    """{our module: torch's}: `resnet` as torchvision's, others with dots for slashes.

    Args:
      model_name: as in the config.
      module_paths: such as 'stage1_block1/conv1'; '' is the model itself.
    """
    name = _MODULES.get(model_name, _dotted)
    return {module: name(module) for module in module_paths}


def split_path(path: str, modules: Iterable[str]) -> tuple[str, str]:
    """('params/', 'norm/scale') of 'params/norm/scale', ('model_state/batch_stats/', 'norm/mean') of a statistic.

    Args:
      path: of an array of the state.
      modules: outermost modules that have parameters: NNX keeps statistics under these, in no collection.
    """
    head, _, rest = path.partition("/")
    collection, _, inner = rest.partition("/")
    if head == "model_state" and inner and collection not in modules:
        return f"{head}/{collection}/", inner
    return f"{head}/", rest


def outermost(paths: Iterable[str]) -> frozenset[str]:
    """The outermost modules that have parameters, of paths such as 'params/head/kernel'."""
    return frozenset(path.split("/")[1] for path in paths if path.startswith("params/"))


def is_scaling(path: str) -> bool:
    """Whether a path of the state is of what brings raw inputs and outputs to scale, for which torch has no place."""
    return path.startswith((f"model_state/{NORMALIZE}/", f"model_state/{RESCALE}/"))


def tensor_names(model_name: str, path: str, modules: Iterable[str]) -> tuple[str, ...]:
    """The torch tensors of which our array at `path` is made (see `split_path`)."""
    prefix, rest = split_path(path, modules)
    recurrent = _recurrent(model_name, rest)
    if recurrent:
        cell, number, leaf = recurrent
        return tuple(f"{cell}.{name}_l{number}" for name in _RECURRENT_TENSORS[leaf])
    module, _, leaf = rest.rpartition("/")
    leaves = _STATISTICS if prefix.startswith("model_state/") else _LEAVES
    name = leaves.get(leaf, leaf)
    parent = torch_module_names(model_name, [module])[module]
    return (f"{parent}.{name}" if parent else name,)


def to_torch(model_name: str, params: Tree, model_state: Tree) -> dict[str, np.ndarray]:
    """Our weights under torch's names, in torch's layouts, so that `load_state_dict(strict=True)` takes them.

    Kernels [height, width, in, out] become [out, in, height, width], dense ones [in, out] become [out, in]; a batch
    norm gets a counter of 0, and an LSTM's or GRU's second bias is 0 where ours is the sum of both. What brings raw
    inputs and outputs to scale is left out. A dense layer that reads or makes a flattened map keeps jtrain's order
    of it, [height, width, channels], not torch's: see `flattened`.

    Args:
      model_name: as in the config.
      params: nested dict of arrays.
      model_state: nested dict of arrays.

    Raises:
      ConfigError: two arrays would have one name.
    """
    flat = flatten({"params": params, "model_state": model_state})
    modules = outermost(flat)
    tensors: dict[str, np.ndarray] = {}
    owner: dict[str, str] = {}
    for path, leaf in flat.items():
        if is_scaling(path):
            continue
        made = _to_tensors(model_name, path, np.asarray(leaf), modules)
        for name, tensor in made.items():
            if name in owner:
                both = f"{owner[name]} and {path}"
                raise ConfigError(f"model: {both} would both be {name!r} in torch; rename one of the layers")
            owner[name] = path
            tensors[name] = tensor
            if name.endswith("running_var"):
                tensors[name.removesuffix("running_var") + COUNTER] = np.zeros((), np.int64)
    return tensors


def from_torch(
    model_name: str, arrays: Mapping[str, np.ndarray], like: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """({our path: array in our layout}, names that nothing took): the reverse of `to_torch`.

    Shapes are not compared with ours. Kernels are taken for those of convolutions and dense layers: a transposed
    convolution or an attention of your own has another layout in torch.

    Args:
      model_name: as in the config.
      arrays: by torch's names; batch norms' counters are passed over.
      like: abstract arrays by path: 'params/…', 'model_state/…'.

    Raises:
      DataError: arrays that belong together differ in shape.
    """
    modules = outermost(like)
    found: dict[str, np.ndarray] = {}
    taken: set[str] = set()
    for path in like:
        names = tensor_names(model_name, path, modules)
        if is_scaling(path) or not all(name in arrays for name in names):
            continue
        parts = [arrays[name] for name in names]
        if len({part.shape for part in parts}) > 1:
            raise DataError(f"{' and '.join(names)} differ in shape, and belong together; the file is damaged")
        found[path] = _from_tensors(model_name, path, parts, modules)
        taken |= set(names)
    unused = [name for name in arrays if name not in taken and name.rpartition(".")[2] != COUNTER]
    return found, unused


def flattened(like: Mapping[str, Any]) -> list[str]:
    """Dense kernels that seem to read a flattened map, whose values torch orders [channels, height, width].

    That is: the number of inputs is no layer's number of outputs, but a multiple of a convolution's channels, or of
    the inputs' own. Such kernels keep their shape from torch to jtrain, but not their meaning.

    Args:
      like: arrays or abstract ones by path: 'params/…', 'model_state/…'.
    """
    shapes = {path: tuple(leaf.shape) for path, leaf in like.items()}
    kernels = {path: shape for path, shape in shapes.items() if path.endswith("/kernel") and len(shape) > 1}
    widths = {shape[-1] for path, shape in shapes.items() if path.endswith("/embedding")}
    widths |= {shape[0] for path, shape in kernels.items() if path.endswith("/recurrent/kernel")}
    channels = {shape[-1] for shape in kernels.values() if len(shape) > 2}
    channels |= {shape[-1] for path, shape in shapes.items() if path.startswith(f"model_state/{NORMALIZE}/") and shape}
    doubtful: set[str] = set()
    for path, shape in kernels.items():
        # An autoencoder makes again what it reads: that is no proof of a layer of that width.
        back = {other for other, shaped in kernels.items() if shaped == shape[::-1] and other != path}
        outputs = widths | {shaped[-1] for other, shaped in kernels.items() if other not in back}
        if (
            len(shape) == 2
            and shape[0] not in outputs
            and any(1 < c < shape[0] and shape[0] % c == 0 for c in channels)
        ):
            doubtful |= {path} | back
    return sorted(doubtful)


def _recurrent(model_name: str, rest: str) -> tuple[str, str, str] | None:
    """(cell, number, leaf) of an array of a recurrent layer of ours."""
    match = _RECURRENT.fullmatch(rest) if model_name in ("lstm", "gru") else None
    if match is None or match[3] not in _RECURRENT_TENSORS:
        return None
    return match[1], match[2], match[3]


def _to_tensors(model_name: str, path: str, array: np.ndarray, modules: Iterable[str]) -> dict[str, np.ndarray]:
    names = tensor_names(model_name, path, modules)
    cell, _, leaf = _recurrent(model_name, split_path(path, modules)[1]) or ("", "", "")
    if leaf == "recurrent/bias":  # of a GRU's r, z, n only n has a bias on this side; ours sums the others' two
        return {names[0]: np.concatenate([np.zeros(2 * len(array), array.dtype), array])}
    if leaf == "bias":
        return {names[0]: array} | ({names[1]: np.zeros_like(array)} if cell == "lstm" else {})
    return {names[0]: _kernel_to_torch(array) if path.endswith("/kernel") else array}


def _from_tensors(model_name: str, path: str, parts: list[np.ndarray], modules: Iterable[str]) -> np.ndarray:
    cell, _, leaf = _recurrent(model_name, split_path(path, modules)[1]) or ("", "", "")
    if leaf.endswith("bias") and parts[0].ndim == 1:  # others are told by their shape
        own = parts[-1].size // 3 * 2  # where n's begin
        if leaf == "recurrent/bias":
            return parts[0][own:]
        return parts[0] + (parts[1] if cell == "lstm" else np.where(np.arange(parts[1].size) < own, parts[1], 0))
    return _kernel_from_torch(parts[0]) if path.endswith("/kernel") else parts[0]


def _kernel_to_torch(kernel: np.ndarray) -> np.ndarray:
    """[…, in, out] -> [out, in, …]; one without two axes stays."""
    n = kernel.ndim
    return kernel.transpose(n - 1, n - 2, *range(n - 2)) if n > 1 else kernel


def _kernel_from_torch(weight: np.ndarray) -> np.ndarray:
    """[out, in, …] -> […, in, out]; one without two axes stays."""
    n = weight.ndim
    return weight.transpose(*range(2, n), 1, 0) if n > 1 else weight
