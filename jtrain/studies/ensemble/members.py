"""The members of an ensemble: their weights, trained here or read from workdirs, and what they predict."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtrain import config as configs
from jtrain import config_files, tree
from jtrain import mesh as meshes
from jtrain.data import views
from jtrain.data.examples import ArrayExamples
from jtrain.data.feed import Feed, Given
from jtrain.errors import ConfigError, DataError
from jtrain.evaluation import make_predict_step
from jtrain.gradient import select
from jtrain.run import Run
from jtrain.state import TrainState, to_flat
from jtrain.weights_source import evaluated, read_checkpoint

WORKDIRS = "study.ensemble.workdirs"
# What data are the same whatever these say; and what a member may have been trained with otherwise.
_SAME_DATA = ("path", "data_dir", "cache", "placement", "workers", "broken", "validation", "examples")
_OWN_DATA = ("normalize", "mean", "std", "whiten", "whiten_eps")
_ANOTHER_MODEL = ("model.", "task.", "precision")  # what predictions are made with, beside weights and views


@dataclasses.dataclass(frozen=True)
class Weights:
    """What predictions of one model are made with.

    Attributes:
      arrays: by path, 'params/…' (the averaged ones where there are any) and 'model_state/…'.
      last: the parameters without the average, by path; empty where there is none.
    """

    arrays: Mapping[str, np.ndarray]
    last: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, flat: Mapping[str, Any]) -> "Weights":
        """Of a state by path."""
        host = {path: np.asarray(leaf) for path, leaf in flat.items() if path.startswith(("params", "model_", "ema"))}
        arrays, averaged = evaluated(host)
        return cls(arrays, {path: leaf for path, leaf in host.items() if averaged and path.startswith("params/")})

    @classmethod
    def of_state(cls, state: TrainState) -> "Weights":
        """Of a state on the device."""
        return cls.of(to_flat(state))


class Predictor:
    """Predictions by view with weights of one model, through one compiled step.

    Args:
      run: whose model and task it is.
      pretext: see inputs as the task's evaluation does, which may make several of one (rotation).
    """

    def __init__(self, run: Run, *, pretext: bool) -> None:
        self.run = run
        see = views.build_views(run.config.tta)
        count = len(_shapes_of(see, run))
        constrain = meshes.make_constrain(run.mesh)
        steps = [
            make_predict_step(model=run.model, task=run.task, views=_one(see, number), constrain=lambda batch: batch)
            for number in range(count)
        ]

        def step(params: Any, model_state: Any, data: Any, rows: Any) -> jax.Array:
            batch = select(data, rows, constrain)
            if pretext and run.task.pretext is not None:
                batch = run.task.pretext(batch, None)
            return jnp.stack([each(params, model_state, batch, None) for each in steps], axis=1)

        self._step = jax.jit(step, out_shardings=meshes.replicated(run.mesh))

    def __call__(self, arrays: Mapping[str, np.ndarray], batches: Iterable[Given]) -> np.ndarray:
        """Predictions [views, examples, …] float32 in the order of `batches`, padding at the end included.

        Args:
          arrays: by path, as `Weights.arrays`.
          batches: (data, rows) of a feed.
        """
        flat = to_flat(self.run.phases[0].shardings)
        placed = tree.unflatten({path: meshes.place(array, flat[path], copy=True) for path, array in arrays.items()})
        params, model_state = placed["params"], placed.get("model_state", {})
        parts = [np.asarray(self._step(params, model_state, data, rows)) for data, rows in batches]
        return np.moveaxis(np.concatenate(parts), 1, 0).astype(np.float32)


def _one(see: views.Views, number: int) -> views.Views:
    return lambda images: [see(images)[number]]


def _shapes_of(see: views.Views, run: Run) -> list[Any]:
    sample, _ = run.data.train.fetch(np.arange(1))
    return jax.eval_shape(see, jax.ShapeDtypeStruct(sample.shape, sample.dtype))


def judged_by(run: Run, split: str) -> tuple[np.ndarray, np.ndarray]:
    """(targets [examples, …], whether each counts [examples]) of a split as the task's evaluation sees it: padding and
    records that cannot be read do not count."""

    def step(data: Any, rows: Any) -> Any:
        batch = select(data, rows, lambda batch: batch)
        batch = run.task.pretext(batch, None) if run.task.pretext is not None else batch
        return batch["targets"], batch["weight"] > 0

    compiled = jax.jit(step, out_shardings=meshes.replicated(run.mesh))
    parts = [jax.device_get(compiled(*given)) for given in run.feeds[split].eval_batches(run.batch_size)]
    return np.concatenate([targets for targets, _ in parts]), np.concatenate([counts for _, counts in parts])


@contextlib.contextmanager
def feed_of(run: Run, inputs: np.ndarray) -> Iterator[Feed]:
    """A feed of inputs [n, …] of the training data's shape and type."""
    sample, _ = run.data.train.fetch(np.arange(1))
    if inputs.shape[1:] != sample.shape[1:] or inputs.dtype != sample.dtype:
        raise ConfigError(
            f"inputs: must be [n, {', '.join(map(str, sample.shape[1:]))}] {sample.dtype} as in training, "
            f"got {list(inputs.shape)} {inputs.dtype}"
        )
    examples = ArrayExamples(inputs, np.zeros(len(inputs), np.int32))
    feed = Feed(examples, run.mesh, resident=False, check=lambda *fetched: None)
    with contextlib.closing(feed):
        yield feed


def place_of(text: str) -> tuple[Path, str]:
    """(workdir, which checkpoint) of 'runs/w', 'runs/w@best' or 'runs/w@400'."""
    name, sign, at = text.rpartition("@")
    if not sign or Path(text).expanduser().is_dir():
        name, at = text, "latest"
    return Path(name).expanduser().absolute(), at


def open_member(run: Run, text: str, split: str) -> tuple[Run, Weights, int]:
    """(run, weights, update) of a trained workdir, fit to be judged by a split of `run`'s data, with its views.

    Args:
      run: whose data and, where it was given one by a program, whose model the member has.
      text: 'runs/w', 'runs/w@best' or 'runs/w@400'.
      split: of `run`'s data.

    Raises:
      ConfigError: it has another task, other outputs or other data, was trained on examples of `split`, or names code
        that `run`'s config does not.
      DataError: there is no such run or checkpoint, or it is damaged.
    """
    workdir, at = place_of(text)
    path = workdir / "config.json"
    if not path.is_file():
        raise DataError(f"{WORKDIRS}: {workdir} holds no run (no config.json)")
    config = config_files.from_json(path)
    differing = config_files.changes(config, run.config)
    _check_same(workdir, differing, split)
    for section in configs.CHOICES:
        name = config[section].name
        if ":" in name and name != run.config[section].name:
            raise ConfigError(f"{WORKDIRS}: {workdir} names code, {section}.name={name!r}, which --config does not")
    restored = read_checkpoint(workdir, at, key=WORKDIRS, event=lambda kind, passed: None)
    own = restored.control.get("data") or {}
    told = ("outputs", "names", split) if split == "test" else tuple(run.fingerprint)
    for key in told:
        if own.get(key) != run.fingerprint.get(key):
            raise ConfigError(
                f"{WORKDIRS}: {workdir} was trained on other data ({key} {own.get(key)}, here "
                f"{run.fingerprint.get(key)}); members must have the same task, outputs and {split} examples"
            )
    own_views = configs.changed(config, mesh=run.config.mesh, tta=run.config.tta)  # all see what the study says
    member = run if same_model(differing) else run.again(own_views, run.data)
    weights = Weights.of(restored.state)
    check_weights(member, weights.arrays, str(workdir))
    return member, weights, restored.step


def peeked(run: Run, workdirs: Sequence[str]) -> str:
    """What of the training of members has looked at the validation split, in words; "" for nothing.

    Args:
      run: of the study.
      workdirs: trained ones in its place; those that are no more are passed over.
    """
    found, trained = set(), [run.config]
    if workdirs:
        places = [place_of(text) for text in workdirs]
        found = {"@best" for _, at in places if at == "best"}
        paths = [folder / "config.json" for folder, _ in places]
        trained = [config_files.from_json(path) for path in paths if path.is_file()]
    for config in trained:
        found |= {key for key in ("early_stopping", "plateau") if config[key].metric}
    return " and ".join(sorted(found))


def same_model(differing: Mapping[str, tuple[Any, Any]]) -> bool:
    """Whether two configs that differ so predict by one program, whatever their weights."""
    return not any(key.startswith(_ANOTHER_MODEL) or key.rpartition(".")[2] in _OWN_DATA for key in differing)


def _check_same(workdir: Path, differing: Mapping[str, tuple[Any, Any]], split: str) -> None:
    """Raises ConfigError where a member's config means another task or other data than the study's."""
    for key, (old, new) in differing.items():
        section, _, option = key.partition(".")
        last = option.rpartition(".")[2]
        other = section == "data" and last not in (*_SAME_DATA, *_OWN_DATA)
        if split != "test":  # what it was trained on must not be what it is judged by
            other = other or key == "seed" or last in ("validation", "examples")
        if key == "task.name" or other:
            why = "" if split == "test" else "; there is no test split, and its training examples may be among these"
            raise ConfigError(
                f"{WORKDIRS}: {workdir} has {key} {old!r}, the config {new!r}; members must have the same task, "
                f"outputs and {split} examples{why}"
            )


def check_weights(run: Run, arrays: Mapping[str, np.ndarray], words: str) -> None:
    """Raises DataError where weights are not those of a run's model."""
    wanted = {path: leaf.shape for path, leaf in to_flat(run.shapes).items() if path.startswith(("params/", "model_"))}
    found = {path: array.shape for path, array in arrays.items()}
    for path in sorted(wanted.keys() | found.keys()):
        if wanted.get(path) != found.get(path):
            raise DataError(
                f"{words}: its weights are not those of {run.model_name}: {path} is {found.get(path, 'missing')}, "
                f"must be {wanted.get(path, 'absent')}"
            )
