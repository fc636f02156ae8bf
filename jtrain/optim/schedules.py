"""Learning rates as pure functions of the update number, equal inside jit and with NumPy.

Every schedule is `make(lr, total, **options) -> (step -> lr)`, in updates, usable alone:

    >>> import numpy as np
    >>> from jtrain.optim.schedules import cosine, hold, pieces, with_warmup
    >>> schedule = with_warmup(cosine(0.1, 900, floor=0.01), 100)
    >>> [round(float(schedule(k)), 6) for k in (0, 99, 100, 550, 1000)]
    [0.001, 0.1, 0.1, 0.0505, 0.001]
    >>> hold(cosine(0.1, 1000), 100)(np.array([0, 99, 100])).round(4).tolist()
    [0.1, 0.1, 0.0976]
    >>> pieces(0.1, 30, parts=(("linear", 10, {"start": 0.1, "end": 1.0}), ("constant", 20)))(np.array([0, 10]))
    array([0.01, 0.1 ])

In a config: `c.schedule.name = "cosine"; c.schedule.cosine.floor = 0.01; c.schedule.warmup = "5epochs"`.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from jtrain.durations import LONGEST, Timed, ToUpdates, check_time
from jtrain.errors import ConfigError
from jtrain.optim.cycles import cosine_annealing, cosine_restarts, cyclic, one_cycle
from jtrain.optim.decays import constant, cosine, exponential, inverse_time, linear, multistep, polynomial, step, wsd
from jtrain.optim.exact import Schedule, integers, share
from jtrain.table import at, did_you_mean, options

__all__ = ["SCHEDULES", "Schedule", "hold", "pieces", "with_warmup"]

FORM = "('cosine', '15epochs', {'floor': 0.01})"


def check_parts(parts: Any) -> None:
    """Raises ValueError unless `parts` is a tuple of (name, duration, options), as a config gives it."""
    if not isinstance(parts, tuple | list) or not parts:
        raise ValueError(f"must be a tuple of pieces such as ({FORM},), got {parts!r}")
    for index, part in enumerate(parts):
        try:
            _check_part(part)
        except ValueError as error:
            raise ValueError(f"[{index}]: {error}") from error


def parts_in_updates(parts: Any, key: str, updates: ToUpdates) -> tuple[tuple[str, int, dict[str, Any]], ...]:
    """`parts` with every duration in updates, and every option that was left out at its default."""
    converted = []
    for index, (name, duration, *rest) in enumerate(parts):
        given = rest[0] if rest else {}
        place = f"{key}[{index}]"
        made = {
            option: opt.in_updates(given.get(option, opt.default), f"{place}: {name}.{option}", updates)
            for option, opt in options(SCHEDULES[name]).items()
        }
        converted.append((name, updates(duration, place, zero=False), made))
    return tuple(converted)


def pieces(
    lr: float,
    total: int,
    *,
    parts: Annotated[tuple[Any, ...], Timed((("constant", "50%"), ("cosine", "50%")), check_parts, parts_in_updates)],
) -> Schedule:
    """Schedules in a row; as `torch.optim.lr_scheduler.SequentialLR`, but every piece counts from its own start.

    A piece gets lr as its peak and its own length as its total. The last one goes on after its end.

    Args:
      lr: the peak of every piece.
      total: updates of the schedule; its shape does not depend on them.
      parts: (name in SCHEDULES, updates, options) of each piece; the options may be left out. In a config every
        duration is text, `%` of the whole run, and options that are left out have their config defaults.

    Raises:
      ConfigError: for a name that is not in SCHEDULES, or options that a piece refuses.
    """
    del total
    made: list[tuple[int, Schedule]] = []
    start = 0
    for index, (name, length, *rest) in enumerate(parts):
        place = f"schedule.pieces.parts[{index}]"
        if name not in SCHEDULES or name == "pieces":
            raise ConfigError(f"{place}: {_no_piece(name)}")
        try:
            made.append((start, SCHEDULES[name](lr, length, **(rest[0] if rest else {}))))
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from error
        start += length

    def schedule(step: Any) -> Any:
        xp, step, _ = integers(step)
        value = made[0][1](step)
        for start, piece in made[1:]:
            if start <= LONGEST:  # a later one never begins, and does not fit the int32 step
                value = xp.where(step >= start, piece(xp.maximum(step - start, 0)), value)
        return value

    return schedule


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "step": step,
    "multistep": multistep,
    "exponential": exponential,
    "inverse_time": inverse_time,
    "linear": linear,
    "polynomial": polynomial,
    "cosine": cosine,
    "cosine_annealing": cosine_annealing,
    "cosine_restarts": cosine_restarts,
    "cyclic": cyclic,
    "one_cycle": one_cycle,
    "wsd": wsd,
    "pieces": pieces,
}


def hold(schedule: Schedule, every: int) -> Schedule:
    """The schedule looked at every `every` updates, and held between: k -> schedule(every · ⌊k / every⌋).

    As PyTorch users have it who call `scheduler.step()` once an epoch, here with all lengths in updates.

    Args:
      schedule: what is held.
      every: updates for which an lr stays; 0 or 1 gives the schedule itself.
    """
    if every <= 1:
        return schedule

    def held(step: Any) -> Any:
        _, step, _ = integers(step)
        return schedule(step - step % every)

    return held


def with_warmup(schedule: Schedule, warmup: int, start: float = 0.0) -> Schedule:
    """A straight rise to the schedule's first lr, then the schedule from its beginning.

    Update k < warmup uses schedule(0) · (start + (1 - start) · (k + 1) / warmup): with start 0 the first
    update has 1 / warmup of the lr, and update warmup - 1 all of it. Update k >= warmup uses schedule(k - warmup).

    Args:
      schedule: what follows the warm-up.
      warmup: updates of the rise; 0 gives the schedule itself.
      start: share of the lr that the rise starts from, 0 to 1.
    """
    if warmup == 0:
        return schedule
    peak = float(schedule(0))

    def warmed(step: Any) -> Any:
        xp, step, dtype = integers(step)
        done = xp.minimum(step, warmup - 1) + 1
        rise = peak * (start * share(warmup - done, warmup, dtype) + share(done, warmup, dtype))
        return xp.where(step < warmup, rise, schedule(xp.maximum(step - warmup, 0)))

    return warmed


def _check_part(part: Any) -> None:
    if not isinstance(part, tuple | list) or len(part) not in (2, 3):
        raise ValueError(f"must be (name, duration, options) such as {FORM}, got {part!r}")
    name, duration, *rest = part
    if not isinstance(name, str) or name not in SCHEDULES or name == "pieces":
        raise ValueError(_no_piece(name))
    check_time(duration)
    given = rest[0] if rest else {}
    if not isinstance(given, Mapping):
        raise ValueError(f"the options of {name} must be a dict such as {{'floor': 0.01}}, got {given!r}")
    known = options(SCHEDULES[name])
    for option, value in given.items():
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}{did_you_mean(str(option), known)}")
        try:
            known[option].check(value)
        except ValueError as error:
            raise ValueError(at(f"{name}.{option}", str(error))) from error


def _no_piece(name: Any) -> str:
    if name == "pieces":
        return "pieces cannot hold pieces; write them in one row"
    return f"no such schedule {name!r}{did_you_mean(str(name), [n for n in SCHEDULES if n != 'pieces'])}"
