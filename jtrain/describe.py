"""A run in words: what it is made of, for the screen's header and for `check`."""

import importlib.metadata
from pathlib import Path

import jax
import numpy as np

from jtrain import mesh as meshes
from jtrain.config import chosen
from jtrain.io.progress import count_words, duration_words, sparkline
from jtrain.phases import starting_lr
from jtrain.run import Run
from jtrain.sharding import is_cut

LONG_RUN = 30 * 60  # seconds: from here on the smaller recipe is named early


def version() -> str:
    """jtrain's version."""
    try:
        return importlib.metadata.version("jtrain")
    except importlib.metadata.PackageNotFoundError:  # a checkout that was not installed
        return "(not installed)"


def header(run: Run, workdir: Path | None = None) -> list[str]:
    """The lines that begin a run's screen."""
    where = f" · {workdir}" if workdir else ""
    first = f"jtrain {version()} · jax {jax.__version__}{where}"
    return [first, *(f"  {name:<10}{text}" for name, text in described(run))]


def described(run: Run) -> list[tuple[str, str]]:
    """What a run is made of: (name, words)."""
    rows = [
        ("model", model(run)),
        ("data", data(run)),
        ("task", task(run)),
        ("devices", f"{meshes.describe(run.mesh)}{_cut(run)} · {run.config.precision} · data {_placement(run)}"),
        ("optimizer", optimizer(run)),
        ("schedule", schedule(run)),
        ("training", f"{run.config.train.total} = {run.clock.total:,} updates of {run.batch_size:,} examples"),
    ]
    if extras(run):
        rows.append(("extras", extras(run)))
    for number, phase in enumerate(run.phases[1:], 1):
        rows.append((f"phase {number}", f"{run.config.phases[number][1]} is trained from update {phase.start:,} on"))
    if run.config.transfer.init_from:
        rows.append(("start", f"weights of {run.config.transfer.init_from}"))
    if run.data.note:
        rows.append(("note", run.data.note))
    return rows


def model(run: Run) -> str:
    """Name and number of parameters."""
    frozen = sum(int(np.prod(_shape(run, path))) for path in run.optimizer.groups.frozen)
    text = f"{run.model_name} · {count_words(run.parameter_count)} parameters"
    return text + (f", {count_words(frozen)} of them frozen" if frozen else "")


def data(run: Run) -> str:
    """Splits, shape and classes."""
    sizes = " + ".join(f"{len(feed.examples):,} {name}" for name, feed in run.feeds.items())
    sample, _ = run.data.train.fetch(np.arange(1))
    shape = "×".join(map(str, sample.shape[1:])) or "scalar"
    words = {"class": "classes", "classes": "labels", "values": "target values", "tokens": "tokens"}[run.data.targets]
    number = run.data.num_outputs
    text = f"{run.data.name} · {sizes} · {shape} {sample.dtype}, {number} {words if number != 1 else words[:-1]}"
    return text + (f" · {run.config.augment}" if run.config.augment else "")


def task(run: Run) -> str:
    """What is learned, by which loss, and what is watched."""
    config = run.config
    loss = chosen("loss", config.loss.name, config.task.name)
    text = f"{config.task.name.replace('_', ' ')} · loss {loss} · watches {run.watch}"
    return text + (f" · evaluated on {config.tta} views" if config.tta else "")


def optimizer(run: Run) -> str:
    """Name, lr, decay, groups and clipping."""
    config = run.config.optimizer
    taken = "" if config.lr else " (its default)"
    if not config.lr and starting_lr(run.config, run.optimizer.core) < run.optimizer.core.default_lr:
        taken = f" (for fine-tuning; {config.name} from scratch takes {run.optimizer.core.default_lr:g})"
    if config.reference_batch:
        start = starting_lr(run.config, run.optimizer.core)
        taken += f" ({start:g} for batch {config.reference_batch}, scaled to {run.batch_size})"
    text = f"{config.name} · lr {run.optimizer.lr:g}{taken}"
    core, decayed = run.optimizer.core, len(run.optimizer.decayed)
    if core.weight_decay:
        arrays = len(jax.tree.leaves(run.shapes.params))
        text += f" · {core.decay} weight decay {core.weight_decay:g} on {decayed} of {arrays} arrays"
    else:
        text += " · no weight decay"
    if run.config.clip.name != "none":
        text += f" · clip {run.config.clip.name}"
    if len(run.config.groups) > 1:
        text += " · groups " + ", ".join(f"{p} {'frozen' if m is None else f'×{m:g}'}" for p, m in run.config.groups)
    return text


def schedule(run: Run, points: int = 40) -> str:
    """The schedule's name, ends and a sparkline of the lr over the run."""
    config, total = run.config.schedule, run.clock.total
    steps = np.unique(np.linspace(0, total - 1, points).astype(np.int64))
    lr = np.asarray(run.optimizer.schedules["lr"](steps), np.float64) * np.ones(len(steps))
    warmup = f"warm-up {config.warmup}, " if run.clock.boundary(config.warmup) else ""
    held = f", held for {config.every}" if run.clock.boundary(config.every) > 1 else ""
    return f"{warmup}{config.name}{held} · lr {lr[0]:.3g} → {lr.max():.3g} → {lr[-1]:.3g}  {sparkline(lr.tolist())}"


def forecast(run: Run, seconds: float, done: int) -> list[str]:
    """How long the rest of a long run takes at so many seconds a step, and the smaller recipe if its config names one;
    nothing for others."""
    if seconds * (run.clock.total - done) <= LONG_RUN:
        return []
    left = duration_words(seconds * (run.clock.total - done))
    hint = f"; a smaller recipe: --config={run.config.log.smaller}" if run.config.log.smaller else ""
    return [f"at {run.batch_size / seconds:,.0f} examples/s this run takes about {left} here{hint}"]


def extras(run: Run) -> str:
    """What is added to the plain step, '' where nothing is."""
    found, config, options = [], run.config, run.options
    if options.accumulate > 1:
        found.append(f"{options.accumulate} micro-batches an update")
    if config.train.steps_per_call > run.per_call:
        found.append("1 update a call, as streamed data and, on CPU, convolutions are not trained in a loop")
    if config.mesh.shards:
        found.append(f"{config.mesh.shards} virtual shards, the same bits on any number of devices that divides them")
    if config.train.remat != "none":
        found.append(f"computed again in the backward pass ({config.train.remat})")
    if options.lookahead:
        never = ", which this run does not reach" if options.lookahead > run.clock.total else ""
        found.append(f"lookahead every {options.lookahead} updates{never}, decay {options.ema_decay:g}")
    elif options.ema_decay:
        found.append(f"averaged parameters, decay {options.ema_decay:g}")
    if options.loss_scaling:
        found.append("dynamic loss scaling")
    if options.on_nan != "raise":
        found.append(f"{options.on_nan} what is not finite")
    if config.plateau.metric:
        found.append(f"lr × {config.plateau.factor:g} on a plateau of {config.plateau.metric}")
    if config.early_stopping.metric:
        found.append(f"stops early on {config.early_stopping.metric}")
    return " · ".join(found)


def _cut(run: Run) -> str:
    """How much of the parameters is cut over devices."""
    if run.mesh.shape[meshes.FSDP] == 1:
        return ""
    leaves = zip(jax.tree.leaves(run.shapes.params), jax.tree.leaves(run.phases[0].shardings.params), strict=True)
    numbers = sum(leaf.size for leaf, lies in leaves if is_cut(lies))
    return f" ({count_words(numbers)} of {count_words(run.parameter_count)} parameters cut)"


def _placement(run: Run) -> str:
    feed = run.feeds["train"]
    if feed.resident:
        return "on the device"
    return f"streamed, decoded by {feed.loaders} processes" if feed.loaders else "streamed"


def _shape(run: Run, path: str) -> tuple[int, ...]:
    node = run.shapes.params
    for part in path.split("/"):
        node = node[part]
    return node.shape
