"""Every option of a run: the choices among parts, and the fields that belong to no part."""

import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from jtrain.coach.diagnose import VERDICTS
from jtrain.coach.lint import check_silence
from jtrain.data.augment import parse as parse_augment
from jtrain.data.sources import SOURCES
from jtrain.data.views import parse_views
from jtrain.io.profile import check_window
from jtrain.io.services import check_address
from jtrain.losses import LOSSES
from jtrain.models import MODELS
from jtrain.models.initializers import INITIALIZERS
from jtrain.optim.chain import CLIPS
from jtrain.optim.groups import NO_DECAY, check_phases, check_rules
from jtrain.optim.optimizers import OPTIMIZERS
from jtrain.optim.plateau import EarlyStopping, Plateau, watching
from jtrain.optim.schedules import SCHEDULES
from jtrain.precision import PRECISIONS
from jtrain.remat import Remat
from jtrain.sharding import check_axes
from jtrain.shards import check_shards
from jtrain.study_options import study_fields
from jtrain.table import Count, Natural, Positive, Range, Share, Size, Time
from jtrain.tasks import TASKS

# A choice is a section with a `name`; every entry of its table has a sub-tree of options beside it,
# and `options` is free for a part of yours ("module:Name").
CHOICES: dict[str, tuple[str, Mapping[str, Callable[..., Any]]]] = {
    "task": ("classification", TASKS),
    "data": ("digits", SOURCES),
    "model": ("mlp", MODELS),
    "init": ("model", INITIALIZERS),
    "loss": ("auto", LOSSES),
    "optimizer": ("adamw", OPTIMIZERS),
    "schedule": ("cosine", SCHEDULES),
    "clip": ("none", CLIPS),
}
FREE = "options"
AUTO = "auto"  # loss.name: the one that the task takes by itself


def _one_of(table: Mapping[str, Any]) -> Any:
    return Literal[tuple(table)]  # type: ignore[misc]


def _check_pairs(pairs: Any) -> None:
    """Raises ValueError unless `pairs` is a tuple of (pattern, replacement)."""
    for index, pair in enumerate(pairs):
        if not isinstance(pair, tuple) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise ValueError(f"[{index}]: must be a pair of pattern and replacement, got {pair!r}")


# Everything that is not an option of a part: (type and range, default).
FIELDS: dict[str, tuple[Any, Any]] = {
    "seed": (Annotated[int, Range(0, 2**32 - 1)], 0),
    "precision": (_one_of(PRECISIONS), "float32"),
    "data.validation": (Annotated[float, Range(0, 1, below=True)], 0.1),
    "data.placement": (Literal["auto", "resident", "streamed"], "auto"),
    "data.examples": (Natural, 0),
    "data.normalize": (bool, True),
    "data.mean": (tuple[float, ...], ()),
    "data.std": (tuple[Positive, ...], ()),
    "data.whiten": (Annotated[int, Range(0, 16)], 0),
    "data.whiten_eps": (Positive, 5e-4),
    "data.broken": (Natural, 0),
    "data.workers": (Annotated[int, Range(-1, 1024)], -1),
    "augment": (Annotated[str, parse_augment], ""),
    "tta": (Annotated[str, functools.partial(parse_views, key="tta")], ""),
    "metrics": (tuple[str, ...], ()),
    "transfer.init_from": (str, ""),
    "transfer.rename": (Annotated[tuple, _check_pairs], ()),
    "transfer.reinit": (tuple[str, ...], ()),
    "transfer.coverage": (Share, 1.0),
    "transfer.layout": (Literal["auto", "flax", "torch"], "auto"),
    "phases": (Annotated[tuple, check_phases], ()),
    "init.params": (tuple[str, ...], (r"(.*/)?kernel",)),
    "optimizer.lr": (Annotated[float, Range(0, 1000)], 0.0),
    "optimizer.no_decay": (tuple[str, ...], NO_DECAY),
    "schedule.warmup": (Annotated[str, Time("0", zero=True)], "0"),
    "schedule.every": (Annotated[str, Time("0", zero=True)], "0"),
    "groups": (Annotated[tuple, check_rules], ((".*", 1.0),)),
    "optimizer.reference_batch": (Annotated[int, Range(0, 2**31 - 1)], 0),
    "optimizer.batch_scaling": (Literal["auto", "linear", "sqrt"], "auto"),
    "lr_scale": (Annotated[float, Range(0, 1e6, above=True)], 1.0),
    "train.total": (Annotated[str, Time("20epochs")], "20epochs"),
    "train.batch_size": (Count, 128),
    "train.eval_every": (Annotated[str, Time("1epochs")], "1epochs"),
    "train.accumulate": (Annotated[int, Range(1, 2**16)], 1),
    "train.remat": (Remat, "none"),
    "train.steps_per_call": (Annotated[int, Range(0, 100)], 0),  # numbers are read every 100 updates
    "train.on_nan": (Literal["raise", "skip", "rollback"], "raise"),
    "train.on_nan_limit": (Count, 10),
    "train.rollback_scale": (Annotated[float, Range(0, 1, above=True, below=True)], 0.5),
    "ema.kind": (Literal["moving", "schedule_free", "lookahead"], "moving"),
    "ema.every": (Annotated[int, Range(1, 2**16)], 5),
    "ema.decay": (Annotated[float, Range(0, 1, below=True)], 0.0),
    **{f"plateau.{key}": value for key, value in watching(Plateau).items()},
    **{f"early_stopping.{key}": value for key, value in watching(EarlyStopping).items()},
    "checkpoint.every": (Annotated[str, Time("10%")], "10%"),
    "checkpoint.keep": (Annotated[int, Range(1, 1000)], 2),
    "mesh.devices": (Annotated[int, Range(0, 2**20)], 0),
    "mesh.fsdp": (Size, 1),
    "mesh.rules": (Annotated[tuple, check_axes], ()),
    "mesh.shards": (Annotated[int, Range(0, 2**20), check_shards], 0),
    "mesh.heartbeat": (Annotated[float, Range(3, 3600)], 10.0),
    "mesh.start_timeout": (Annotated[float, Range(1, 86400)], 300.0),
    "mesh.step_timeout": (Annotated[float, Range(10, 86400)], 600.0),
    "log.every": (Annotated[str, Time("50steps")], "50steps"),
    "log.tensorboard": (bool, False),
    "log.smaller": (str, ""),
    "log.report": (bool, True),
    "log.wandb": (str, ""),
    "log.mlflow": (Annotated[str, check_address], ""),
    "log.profile": (Annotated[str, check_window], ""),
    "log.peak_flops": (Annotated[float, Range(0, 1e18)], 0.0),
    "lint.silence": (Annotated[tuple[str, ...], check_silence], ()),
    "diagnose.mode": (Literal["off", "report", "act"], "report"),
    "diagnose.silence": (tuple[_one_of(VERDICTS), ...], ()),  # type: ignore[misc]
    "diagnose.attempts": (Annotated[int, Range(0, 10)], 2),
    "diagnose.line_probe": (bool, True),
    "diagnose.noise_every": (Annotated[str, Time("0", zero=True)], "0"),
    **study_fields(),
}

# Options that say nothing unless another one is set so.
NEEDS: dict[str, tuple[str, Callable[[Any], bool], str]] = {
    "train.on_nan_limit": ("train.on_nan", lambda v: v != "raise", "'skip' or 'rollback'"),
    "train.rollback_scale": ("train.on_nan", lambda v: v == "rollback", "'rollback'"),
    "optimizer.batch_scaling": ("optimizer.reference_batch", bool, "above 0"),
    "mesh.rules": ("mesh.fsdp", lambda v: v > 1, "above 1"),
    "mesh.shards": ("mesh.fsdp", lambda v: v == 1, "1: virtual shards need whole parameters"),
    "ema.kind": ("ema.decay", bool, "above 0, such as 0.9"),
    "ema.every": ("ema.kind", lambda v: v == "lookahead", "'lookahead'"),
    "init.params": ("init.name", lambda v: v != "model", "the name of an initializer"),
    "data.mean": ("data.normalize", bool, "True"),
    "data.std": ("data.mean", bool, "as many numbers"),
    "data.whiten_eps": ("data.whiten", bool, "above 0, the side of the patches that are whitened"),
    **{
        f"transfer.{name}": ("transfer.init_from", bool, "a workdir, a checkpoint or a .safetensors file")
        for name in ("rename", "reinit", "coverage", "layout")
    },
}
