"""`check`: builds everything and goes once through the whole path, so that a long run does not fail late."""

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtrain import config as configs
from jtrain import mesh as meshes
from jtrain import metrics, tree
from jtrain.coach.lint import lint
from jtrain.data import augment
from jtrain.data.ops.alternate import Visit
from jtrain.describe import header
from jtrain.errors import DataError, Interrupted, NonFiniteError
from jtrain.facts import facts_of_run
from jtrain.failure import culprit
from jtrain.gradient import prepared
from jtrain.io.checkpoint import Checkpoints
from jtrain.io.plots import schedule
from jtrain.io.progress import Screen
from jtrain.io.sheet import sheet
from jtrain.run import Run
from jtrain.signals import Signals
from jtrain.state import TrainState, to_flat
from jtrain.supervise import Supervisor
from jtrain.verbs.evaluate import tell_news


def check(run: Run, *, screen: Screen | None = None, out: str | Path | None = None) -> dict[str, float]:
    """Takes one step, one evaluation batch, one save and restore, and draws the schedule and augmented examples.

    Args:
      run: from `jtrain.assemble`; not to be used afterwards.
      screen: where to show what the config comes to.
      out: folder for schedule.png and augment.png; None writes nothing that stays.

    Returns:
      The first batch's metrics, before any update.

    Raises:
      NonFiniteError: the first loss or gradient is not finite.
      DataError: a checkpoint does not come back as it was, or the picture cannot be written.
    """
    screen = screen or Screen.quiet()
    with contextlib.closing(run):
        found = _check(run, screen)
        if out is not None:
            screen.line(f"schedule       {draw_schedule(run, Path(out))}")
            if path := draw_augment(run, Path(out)):
                screen.line(f"augmentation   {path}")
    return found


def draw_schedule(run: Run, folder: Path, points: int = 2000) -> Path:
    """Draws the lr of every group over the run's updates as `folder`/schedule.png."""
    steps = np.unique(np.linspace(0, run.clock.total - 1, points).astype(np.int64))
    lrs = {
        name: (steps.tolist(), (np.asarray(lr(steps)) * run.config.lr_scale).tolist())
        for name, lr in {k: v for phase in run.phases for k, v in phase.optimizer.schedules.items()}.items()
        if name != "lr" or len(run.optimizer.schedules) == 1
    }
    path = _made(folder) / "schedule.png"
    marks = {f"end of warm-up ({warmup} updates)": warmup} if (warmup := _warmup(run)) else {}
    marks |= {f"phase {i} ({phase.start} updates)": phase.start for i, phase in enumerate(run.phases) if i}
    schedule(lrs, path, title=f"{run.config.schedule.name}, {run.clock.total} updates", marks=marks)
    return path


def draw_augment(run: Run, folder: Path, examples: int = 8, draws: int = 6) -> Path | None:
    """Draws training images beside what the step makes of them as `folder`/augment.png; None where nothing does."""
    config, task = run.config, run.task
    inputs, targets = run.data.train.fetch(np.arange(min(examples, len(run.data.train))))
    if inputs.ndim != 4 or inputs.shape[-1] not in (1, 3) or not (config.augment or task.pretext):
        return None
    changes = augment.build(config.augment) if config.augment else None
    mix = augment.build_mix(config.augment)
    batch: Any = {"inputs": inputs, "targets": targets, "weight": np.ones(len(inputs), np.float32)}
    once, rows = jax.random.key(config.seed), jnp.arange(len(inputs), dtype=jnp.int32)

    @jax.jit
    def made(key: jax.Array, epoch: jax.Array) -> jax.Array:
        visit = Visit(once, rows, jnp.full(len(rows), epoch))
        return prepared(batch, key, task=task, augment=changes, mix=mix, visit=visit)["inputs"]

    path = _made(folder) / "augment.png"
    keys = jax.random.split(jax.random.key(config.seed), draws)
    sheet(
        inputs,
        [np.asarray(made(key, np.int32(epoch))) for epoch, key in enumerate(keys)],
        path,
        title=config.augment or config.task.name,
    )
    return path


def _warmup(run: Run) -> int:
    return run.clock.boundary(run.config.schedule.warmup)


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--out: {folder} cannot be made: {error.strerror}") from error
    return folder


def _check(run: Run, screen: Screen) -> dict[str, float]:
    Supervisor.of(run)  # refuses metrics that the run does not have
    for line in header(run):
        screen.line(line)
    for finding in lint(facts_of_run(run), tuple(run.config.lint.silence)):
        screen.line(finding.line())
    start = run.starting()
    for line in (*options(run), *parameters(run), *(start.report.lines() if start else [])):
        screen.line(line)
    state, found = _steps(run, screen)
    split = "val" if "val" in run.feeds else "train"
    data, rows = next(iter(run.feeds[split].eval_batches(run.batch_size)))
    jax.block_until_ready(run.eval_step(state.params, state.model_state, data, rows))
    outputs = jax.block_until_ready(run.predict_step(state.params, state.model_state, data, rows))
    screen.line(f"one evaluation of a batch of {split}: predictions {list(outputs.shape)} {outputs.dtype}")
    tell_news(run, screen)
    with Signals(active=True) as signals, tempfile.TemporaryDirectory() as folder:  # which must not be left behind
        saved = _save_and_restore(run, to_flat(state), Path(folder))
    if signals.received:
        raise Interrupted(f"check was interrupted by signal {signals.received}", signals.received)
    screen.line(f"one checkpoint {saved / 2**20:,.1f} MiB, saved, restored, equal")
    return found


def _steps(run: Run, screen: Screen) -> tuple[TrainState, dict[str, float]]:
    """One step in every phase: (the state after them, the first one's metrics)."""
    state = run.init_state()
    first: dict[str, float] = {}
    given = run.give(0)
    for number, phase in enumerate(run.phases):
        state = phase.begin(state) if number else state
        jitted: Any = phase.train_steps
        step = jitted.lower(state, *given).compile()  # one program serves its costs and the step
        where = f" in phase {number}" if len(run.phases) > 1 else ""
        for line in costs(run, step, where) if number else [*forward(run), *costs(run, step, where)]:
            screen.line(line)
        state, sums = step(state, *given)
        sums = dict(jax.device_get(sums))
        if sums.pop("non_finite")[0, 0]:
            why = culprit(run, state, 0)
            raise NonFiniteError(f"the first update{where}: {why}; look at the data, or try clip.name=norm")
        totals: metrics.Totals = {}
        metrics.add_to(totals, {name: pair[:1] for name, pair in sums.items()})
        found = metrics.means(totals, run.task.metrics)
        first = first or found
        guess = f" (guessing gives {run.task.guess():.4f})" if run.task.guess is not None else ""
        line = f"one step       loss {found['loss']:.4f}{guess}, gradient norm {found['grad_norm']:.3g}"
        screen.line(f"{line}{where}")
    return state, first


def options(run: Run) -> list[str]:
    """One line for every part, with the options that are in force."""
    lines = ["parts"]
    for section in configs.CHOICES:
        _, given = configs.choice(run.config, section)
        words = ", ".join(f"{key}={value!r}" for key, value in given.items())
        name = configs.chosen(section, run.config[section].name, run.config.task.name)
        lines.append(f"  {section:<10}{name}({words})")
    return lines


def parameters(run: Run) -> list[str]:
    """One line for every parameter array: path, shape, lr multiplier, decay."""
    lines = ["parameters"]
    for path, leaf in tree.flatten(run.shapes.params).items():
        shape = "×".join(map(str, leaf.shape)) or "scalar"
        lines.append(f"  {path:<36} {shape:>16}  {_training(run, path)}")
    return lines


def _training(run: Run, path: str) -> str:
    """How a parameter is trained: its lr multiplier, whether it decays, and from when on."""
    phases = [phase for phase in run.phases if path in phase.optimizer.groups.labels]
    if not phases:
        return "frozen"
    groups = phases[0].optimizer.groups
    words = f"lr ×{groups.multipliers[groups.labels[path]]:g}"
    words += ", decays" if path in phases[0].optimizer.decayed else ""
    return words + (f", from update {phases[0].start:,} on" if phases[0].start else "")


def forward(run: Run) -> list[str]:
    """Parameters in all, and what the compiler says that a prediction costs."""
    sample, _ = run.data.train.fetch(np.arange(1))
    example = run.shapes.params, run.shapes.model_state, jax.ShapeDtypeStruct(sample.shape, sample.dtype)
    lowered = jax.jit(lambda *given: run.model.apply(*given, key=None, train=False)[0]).lower(*example)
    lines = [
        f"model          {run.parameter_count:,} parameters, outputs {list(lowered.out_info.shape[1:])} an example"
    ]
    flops = _flops(lowered.compile())
    if flops:
        lines.append(f"FLOPs          {flops:,.0f} an example of the forward pass, as the compiler counts")
    return lines


def costs(run: Run, step: jax.stages.Compiled, where: str = "") -> list[str]:
    """What the compiler says that the step costs."""
    lines, flops, memory = [], _flops(step), step.memory_analysis()
    if flops:
        share = " on each device" if run.mesh.size > 1 else ""  # of an example that several compute together
        lines.append(f"FLOPs          {flops / run.batch_size:,.0f} an example of the training step{share}{where}")
    if memory is not None:
        total = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        lines.append(
            f"memory         {total / 2**20:,.1f} MiB a device for the step{where}: state, data, what is between"
        )
    return lines


def _flops(compiled: jax.stages.Compiled) -> float:
    """0 where the compiler does not say."""
    return float((compiled.cost_analysis() or {}).get("flops", 0.0))


def _save_and_restore(run: Run, flat: dict[str, jax.Array], folder: Path) -> int:
    checkpoints = Checkpoints(folder, keep=1, event=lambda kind, text: None)
    checkpoints.save(1, flat, {}, best_step=None, block=True)
    restored = checkpoints.restore(1, lambda step: to_flat(run.phases[-1].shapes))
    checkpoints.close()
    assert restored is not None
    for path, leaf in flat.items():
        np.testing.assert_array_equal(restored.state[path], np.asarray(leaf), err_msg=path)
    shardings = to_flat(run.phases[-1].shardings)
    meshes.place(restored.state, {path: shardings[path] for path in restored.state})
    return sum(leaf.nbytes for leaf in restored.state.values())
