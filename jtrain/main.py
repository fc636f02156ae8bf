"""The command line: `python -m jtrain.main [VERB] --config=…`, the same as `jtrain [VERB] --config=…`."""

# What takes time to import is imported where it is used: until `run` has been called, a signal is a traceback.
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from jtrain.errors import ConfigError, JtrainError

VERBS = {
    "train": "trains; in a workdir that holds a part of the run, resumes (the default)",
    "check": "builds everything, takes one step, one evaluation, one save and restore; draws the schedule",
    "eval": "metrics of a workdir's state on a split",
    "predict": "class probabilities of a workdir's state, as .npz and .csv",
}
UNFIT = {
    "train": ("split", "at", "inputs", "out"),
    "check": ("split", "at", "inputs", "resume", "branch", "workdir"),
    "eval": ("resume", "branch", "inputs", "out"),
    "predict": ("resume", "branch"),
}
FLAGS = ("config", "workdir", "resume", "branch", "split", "at", "inputs", "out")

HELP = """jtrain [VERB] --config=CONFIG [--workdir=DIR] [--config.KEY=VALUE …]

verbs
{verbs}

flags
  --config=CONFIG        a shipped config (digits, cifar:small), a .py file (it is run), or a .json file (it is not)
  --config.KEY=VALUE     sets one option, for example --config.optimizer.lr=0.01
  --workdir=DIR          where the run's files are; default runs/<config>-<date-time>
  --resume=force         train: go on although the workdir was begun with another config or other data
  --branch=OLD[@WHICH]   train: begin the workdir with the latest state of the run in OLD (@best, @STEP)
  --split=SPLIT          eval, predict: train, val or test (default test)
  --at=WHICH             eval, predict: latest (default), best, or a step
  --inputs=FILE          predict: a .npy or .npz file of inputs, instead of a split
  --out=PATH             predict: writes PATH.npz and PATH.csv; default <workdir>/predictions-<split>;
                         a folder, such as out/: default names in it
  --help                 this text

shipped configs: {configs}
"""


def run() -> None:
    """The program: like `main`, and any moment is a good one to end it by a signal."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: else the next file to be opened would get this number, and what is printed
            os.open(os.devnull, os.O_RDWR)
    sys.exit(main(sys.argv[1:]))


def _leave(number: int, frame: FrameType | None) -> None:
    # No exception: raised inside an import it would be swallowed, or crash. Training has a handler of its own.
    try:
        os.write(2, f"jtrain: interrupted by {signal.Signals(number).name}\n".encode())
    finally:
        os._exit(128 + number)


def main(argv: Sequence[str]) -> int:
    """Runs one command and returns its exit code.

    0 done; 1 the answer is no; 2 command or config; 3 data or a file; 4 held by another; 70 an error of ours;
    128 + n after signal n.
    """
    try:
        return _run(list(argv))
    except JtrainError as error:
        print(f"jtrain: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("jtrain: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except Exception:
        import traceback

        traceback.print_exc()
        print("jtrain: this is an error of jtrain, please report it with the lines above", file=sys.stderr)
        return 70


def _run(argv: list[str]) -> int:
    if any(a in ("--help", "-help", "-h", "help") for a in argv):
        from jtrain.io.progress import Screen
        from jtrain.shipped import shipped

        verbs = "\n".join(f"  {name:<10}{text}" for name, text in VERBS.items())
        Screen().line(HELP.format(verbs=verbs, configs=", ".join(shipped())).rstrip("\n"))
        return 0
    overrides, rest = split_overrides(argv)
    values = _parse(rest)
    verb = values.pop("verb")
    for name in UNFIT[verb]:
        if values[name]:
            raise ConfigError(f"--{name}: is not for {verb}")
    if "" not in sys.path:
        sys.path.append("")  # the current folder, where `python -m` looks as well
    handler: Callable[[dict[str, str], dict[str, str]], int] = {
        "train": _train, "check": _check, "eval": _evaluate, "predict": _predict,
    }[verb]  # fmt: skip
    return handler(values, overrides)


def split_overrides(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """({dotted key: text} of `--config.key=value` and `--config.key value`, all other arguments).

    Raises:
      ConfigError: a key without a value, or with two.
    """
    overrides: dict[str, str] = {}
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        name = word.lstrip("-")
        if not word.startswith("-") or not name.startswith("config."):
            rest.append(word)
            continue
        key, equals, text = name.removeprefix("config.").partition("=")
        if not equals:
            text = next(words, "--")
            if text.startswith("--"):
                raise ConfigError(f"--config.{key}: needs a value: --config.{key}=…")
        if key in overrides:
            raise ConfigError(f"--config.{key}: is given twice, {overrides[key]!r} and {text!r}; give it once")
        overrides[key] = text
    return overrides, rest


def _parse(argv: list[str]) -> dict[str, str]:
    """{'verb': …} and every flag, '' where it is not given; paths with ~ resolved."""
    from absl import flags

    from jtrain.table import did_you_mean

    table = flags.FlagValues()
    for name in FLAGS:
        flags.DEFINE_multi_string(name, [], "see HELP", flag_values=table)
    try:
        _, *words = table(["jtrain", *argv])
    except flags.UnrecognizedFlagError as error:
        known = {f"--{name}": name for name in (*FLAGS, "help")}
        raise ConfigError(f"--{error.flagname}: no such flag{did_you_mean(f'--{error.flagname}', known)}") from error
    except flags.Error as error:
        raise ConfigError(f"{' '.join(str(error).split())} (see --help)") from error
    verb = words[0] if words else "train"
    if verb not in VERBS:
        raise ConfigError(f"{verb}: no such verb{did_you_mean(verb, VERBS)}")
    if len(words) > 1:
        raise ConfigError(f"{words[1]}: one verb at a time; an option is written --config.key=value")
    values = {"verb": verb}
    for name in FLAGS:
        given = table[name].value or []
        if len(given) > 1:
            raise ConfigError(f"--{name}: is given twice, {given[0]!r} and {given[1]!r}; give it once")
        if given == [""]:
            raise ConfigError(f"--{name}: is empty; give it a value, or leave it out")
        values[name] = given[0] if given else ""
    for name in ("config", "workdir", "inputs", "out"):
        values[name] = os.path.expanduser(values[name])
    if values["resume"] not in ("", "force"):
        raise ConfigError(f"--resume={values['resume']}: must be force")
    return values


def _setup() -> None:
    """A compile cache that belongs to this user alone (whoever writes it runs code)."""
    from jtrain.io.cache import use_compile_cache

    use_compile_cache()


def _load(values: dict[str, str], overrides: dict[str, str]) -> Any:
    """The config of a command, valid."""
    from pathlib import Path

    from jtrain import config as configs
    from jtrain import config_files
    from jtrain.shipped import shipped

    if values["config"]:
        config = config_files.load(values["config"])
    elif values["workdir"] and (path := Path(values["workdir"]) / "config.json").is_file():
        config = config_files.from_json(path)
    elif values["branch"]:
        from jtrain.session import parse_branch

        config = config_files.from_json(parse_branch(values["branch"])[0] / "config.json")
    elif values["workdir"]:
        raise ConfigError(f"--workdir={values['workdir']}: holds no run to resume; to begin one, add --config=…")
    else:
        names = ", ".join(shipped())
        raise ConfigError(f"--config: is missing; for example --config=digits (shipped: {names}; see --help)")
    for key, text in overrides.items():
        config_files.override(config, key, text)
    configs.validate(config)
    if config.data.name == "npz" and config.data.npz.path:  # a run can be resumed from any folder
        config.data.npz.path = str(Path(config.data.npz.path).expanduser().absolute())
    return config


def _train(values: dict[str, str], overrides: dict[str, str]) -> int:
    config = _load(values, overrides)
    _setup()
    import time
    from pathlib import Path

    from jtrain.assembly import assemble
    from jtrain.io.progress import Screen
    from jtrain.loop import train
    from jtrain.verbs.summary import summary

    workdir = Path(values["workdir"] or f"runs/{_name(values)}-{time.strftime('%Y%m%d-%H%M%S')}")
    screen, force = Screen(), values["resume"] == "force"
    result = train(assemble(config), workdir, screen=screen, force=force, branch=values["branch"])
    for line in summary(result):
        screen.line(line)
    return 0


def _name(values: dict[str, str]) -> str:
    """The config's name, for a folder: 'cifarsmall' of configs/cifar.py:small; a branch is named after its parent."""
    from pathlib import Path

    text, _, argument = values["config"].partition(":")
    return Path(text or values["branch"].rpartition("@")[0] or values["branch"]).stem + argument


def _check(values: dict[str, str], overrides: dict[str, str]) -> int:
    config = _load(values, overrides)
    _setup()
    from jtrain.assembly import assemble
    from jtrain.io.progress import Screen
    from jtrain.verbs.check import check

    screen = Screen()
    check(assemble(config), screen=screen, out=values["out"] or f"runs/check-{_name(values)}")
    screen.line("check passed")
    return 0


def _evaluate(values: dict[str, str], overrides: dict[str, str]) -> int:
    _need_workdir("eval", values)
    _setup()
    from jtrain.io.progress import Screen
    from jtrain.verbs.evaluate import evaluate

    evaluate(
        values["workdir"], split=values["split"] or "test", at=values["at"] or "latest", overrides=overrides,
        screen=Screen(),
    )  # fmt: skip
    return 0


def _predict(values: dict[str, str], overrides: dict[str, str]) -> int:
    _need_workdir("predict", values)
    if values["inputs"] and values["split"]:
        raise ConfigError("--split: is not for predict with --inputs")
    _setup()
    from jtrain.io.progress import Screen
    from jtrain.verbs.predict import default_name, inputs_of, predict

    split = values["split"] or "test"
    predict(
        values["workdir"], split=split, at=values["at"] or "latest", overrides=overrides, screen=Screen(),
        inputs=inputs_of(values["inputs"]) if values["inputs"] else None,
        out=values["out"] or os.path.join(values["workdir"], default_name(values["inputs"] or split)),
    )  # fmt: skip
    return 0


def _need_workdir(verb: str, values: dict[str, str]) -> None:
    if not values["workdir"]:
        raise ConfigError(f"--workdir: is needed by {verb}: the folder of a run")
    if values["config"]:
        raise ConfigError(f"--config: is not for {verb}; it reads the workdir's own config.json")


if __name__ == "__main__":
    run()
