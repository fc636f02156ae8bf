"""Augmentation on the device, inside the step: ops written as one string, "pad_crop(4)|flip_lr|mixup(0.2)".

An image op is `op(images [batch, height, width, channels], key, *, options)`; it keeps shape and dtype. The draw of
example i depends on (key, i) alone, so neither on the batch size nor on the devices. Images are uint8 of 0 to 255,
computed in float32, rounded and clipped; or floats, which are computed in float32 and clipped only where an op says so.
An op may also ask which examples these are, and in which epoch: see `jtrain.data.ops.alternate`. A last op may mix
the batch, targets too: see `jtrain.data.ops.mix`.
"""

import functools
from collections.abc import Callable

import jax

from jtrain.data.calls import Call, read
from jtrain.data.ops.alternate import Visit, flip_alternating
from jtrain.data.ops.colour_ops import RGB_ONLY, brightness, contrast, gray, hue, noise, saturation
from jtrain.data.ops.draws import fold_in
from jtrain.data.ops.geometry_ops import resized_crop, rotate, shear, translate
from jtrain.data.ops.image_ops import cutout, erase, flip_lr, flip_ud, pad_crop
from jtrain.data.ops.mix import cutmix, mixup
from jtrain.data.ops.moves import Move, crop, joined, mirror, moved, turn
from jtrain.data.ops.pixels import apart
from jtrain.data.ops.randaugment import randaugment
from jtrain.errors import ConfigError

Augment = Callable[..., jax.Array]  # (images, key, visit=None) -> images
Mix = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]

AUGMENTATIONS: dict[str, Callable[..., jax.Array]] = {
    "pad_crop": pad_crop,
    "resized_crop": resized_crop,
    "flip_lr": flip_lr,
    "flip_ud": flip_ud,
    "rotate": rotate,
    "translate": translate,
    "shear": shear,
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
    "gray": gray,
    "noise": noise,
    "cutout": cutout,
    "erase": erase,
    "randaugment": randaugment,
}
# The ops above that move whole pixels: of those in a row one move is made.
MOVES: dict[str, Callable[..., Move]] = {"pad_crop": crop, "flip_lr": mirror, "flip_ud": turn}
# op(images, visit, *, options)
VISITING: dict[str, Callable[..., jax.Array]] = {"flip_alternating": flip_alternating}
MIXES: dict[str, Callable[..., tuple[jax.Array, jax.Array]]] = {"mixup": mixup, "cutmix": cutmix}


def parse(text: str, key: str = "augment") -> tuple[Call, ...]:
    """The ops of a string such as "pad_crop(4)|flip_lr" or "rotate(15, fill='mean')|mixup", all options filled in.

    Nothing is evaluated: names and literal values alone are read. "" is no op.

    Raises:
      ConfigError: naming `key`, what is wrong and what is valid; also for two mixing ops, or one that is not last, and
        for two ops that mirror left to right where one of them does so in turn.
    """
    ops = read(text, AUGMENTATIONS | VISITING | MIXES, key, "pad_crop(4)|flip_lr")
    if sum(name in VISITING for name, _ in ops) > 1:
        raise ConfigError(f"{key}: two ops that mirror in turn undo each other; name one of them")
    names = {name for name, _ in ops}
    if {"flip_alternating", "flip_lr"} <= names:
        raise ConfigError(
            f"{key}: flip_lr mirrors by chance what flip_alternating has mirrored in turn, and so undoes it; "
            "name one of them"
        )
    mixing = [name for name, _ in ops if name in MIXES]
    if len(mixing) > 1:
        raise ConfigError(f"{key}: {' and '.join(mixing)} both mix the batch; name one of them")
    if mixing and ops[-1][0] not in MIXES:
        raise ConfigError(f"{key}: {mixing[0]} must come last: it mixes examples that are done")
    return ops


def build(text: str) -> Augment:
    """(images, key, visit) -> images, the image ops alone, in order; op i draws from `fold_in(key, i)`.

    The visit says which examples these are, and may be None unless `visits(text)`; else that raises ConfigError.
    """
    groups = _groups(parse(text))

    def augment(images: jax.Array, key: jax.Array, visit: Visit | None = None) -> jax.Array:
        for group in groups:
            position, (name, given) = group[0]
            if name in VISITING:
                images = VISITING[name](images, _own_visit(name, visit, position), **given)
                continue
            op_key = fold_in(key, position)
            if name in MOVES:
                moves = [MOVES[name](fold_in(key, p), len(images), **given) for p, (name, given) in group]
                op = functools.partial(moved, move=functools.reduce(joined, moves), key=op_key)
                images = apart(op, op_key, images)
            else:
                images = apart(functools.partial(AUGMENTATIONS[name], **given), op_key, images, op_key)
        return images

    return augment


def _groups(ops: tuple[Call, ...]) -> list[list[tuple[int, Call]]]:
    """The image ops with their positions; together those in a row that are one move: mirrors, and a crop at most."""
    groups: list[list[tuple[int, Call]]] = []
    for position, op in enumerate(ops):
        last = [name for _, (name, _) in groups[-1]] if groups else []
        crops = (*last, op[0]).count("pad_crop")
        if last and last[-1] in MOVES and op[0] in MOVES and crops < 2:
            groups[-1].append((position, op))
        elif op[0] not in MIXES:
            groups.append([(position, op)])
    return groups


def build_mix(text: str) -> Mix | None:
    """(inputs [batch, …], float targets [batch, …], weight [batch], key) -> (inputs, targets), or None: no op mixes.

    The op draws from `fold_in(key, its position)`, so that one key may serve `build` and this alike.
    """
    ops = parse(text)
    if not ops or ops[-1][0] not in MIXES:
        return None
    position, (name, given) = len(ops) - 1, ops[-1]

    def mix(inputs: jax.Array, targets: jax.Array, weight: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        return MIXES[name](inputs, targets, weight, jax.random.fold_in(key, position), **given)

    return mix


def visits(text: str) -> bool:
    """Whether the string names an op that must know which examples a batch holds."""
    return any(name in VISITING for name, _ in parse(text))


def mixes(text: str) -> bool:
    """Whether the string names an op that mixes examples, and so needs float targets."""
    return any(name in MIXES for name, _ in parse(text))


def check_inputs(text: str, input_shape: tuple[int, ...], key: str = "augment") -> None:
    """Checks that the ops suit examples of shape `input_shape` (without the batch).

    Raises:
      ConfigError: they are no images, not RGB for an op of colours, or too small for the op's padding.
    """
    for name, given in parse(text):
        if name != "mixup" and len(input_shape) != 3:
            raise ConfigError(
                f"{key}: {name} needs images [height, width, channels], the inputs are {list(input_shape)}"
            )
        if name in RGB_ONLY and input_shape[-1] != 3:
            raise ConfigError(
                f"{key}: {name} needs images of 3 channels (red, green, blue), the inputs are {list(input_shape)}"
            )
        side = max(input_shape[:2]) if len(input_shape) == 3 else 0
        for option, most in (("pad", side), ("size", 2 * side - 1)):
            if name in ("pad_crop", "cutout") and given.get(option, 0) > most:
                raise ConfigError(
                    f"{key}: {name} with {option} {given[option]} leaves nothing of images {list(input_shape)}; "
                    f"{option} must be at most {most}"
                )
        if given.get("mode") == "reflect" and given["pad"] >= min(input_shape[:2]):
            raise ConfigError(
                f"{key}: {name} cannot mirror {given['pad']} pixels of images {list(input_shape)}; "
                f"pad must be below {min(input_shape[:2])}"
            )


def _own_visit(name: str, visit: Visit | None, position: int) -> Visit:
    """The visit with a key of the op's own."""
    if visit is None:
        raise ConfigError(f"augment: {name} goes by example and epoch, which nothing but `augment` of a run is told")
    return visit._replace(key=jax.random.fold_in(visit.key, position))
