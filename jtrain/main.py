"""The command line: `python -m jtrain.main [VERB] --config=…`, the same as `jtrain [VERB] --config=…`."""

# What takes time to import is imported where it is used: until `run` has been called, a signal is a traceback.
import difflib
import gc
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from jtrain.errors import ConfigError, JtrainError

VERBS = {
    "train": "trains; in a workdir that holds a part of the run, resumes (the default)",
    "check": "takes one step, one evaluation, one save and restore; draws the schedule and augmented examples",
    "eval": "metrics of a workdir's state on a split",
    "predict": "what a workdir's state says of a split or of inputs of yours, as .npz and .csv",
    "export": "a workdir's state as a program that runs without jtrain, or its weights under torch's names",
    "lint": "looks the config over for what the training notes warn of (exit code 1 where there is a warning)",
    "diagnose": "reads the loss curve of a workdir or of a .csv: what is wrong, and what to do",
    "report": "a workdir as one page of HTML; of several, a comparison (jtrain report runs/*)",
    "ladder": "study: which learning rate? the same run at rungs of ×3, until the best is among them",
    "lr_find": "study: which learning rate? one sweep from low to high; a range, or no answer",
    "inits": "study: which initialization? and do activations and gradients keep their size at the start",
    "batch_size": "study: which batch size? the largest that fits, and where a larger one no longer pays",
    "overfit": "study: can a few examples be learnt by heart? if not, the suspect (exit code 1)",
    "kfold": "study: cross-validation; mean ± sd, and a prediction of every example by a model that never saw it",
    "ensemble": "study: what do several runs gain together, by three rules and by averaging their weights",
    "data_size": "study: what would more data bring, and which examples look mislabelled or duplicated",
    "search": "study: searches any options (c.study.search.space) with Optuna; several workers may share it",
    "act": "study: trains, and acts on what diagnose says, in no more updates; what --config.diagnose.mode=act does",
    "autopilot": "study: from data and model to a trained model and its report: lint, overfit, ladder, train, act",
}
STUDIES = tuple(name for name, text in VERBS.items() if text.startswith("study: "))
MANY = ("coordinator", "processes", "process")
FLAGS = (
    "config", "workdir", "resume", "branch", "profile", "split", "at", "inputs", "rule", "format", "out", *MANY,
)  # fmt: skip
FIT = {
    "train": ("config", "workdir", "resume", "branch", "profile", *MANY),
    "check": ("config", "out"),
    "eval": ("config", "workdir", "split", "at", *MANY),
    "predict": ("config", "workdir", "split", "at", "inputs", "rule", "out", *MANY),
    "export": ("config", "workdir", "at", "format", "out"),
    "lint": ("config", "workdir"),
    "diagnose": ("workdir", "out"),
    "report": ("workdir", "at", "out"),
    **dict.fromkeys(STUDIES, ("config", "workdir")),
}
ALIKE = 0.75  # from which on a flag is taken for another that is mistyped
PATHS_AFTER = ("diagnose", "report")  # verbs behind which paths may stand

HELP = """jtrain [VERB] --config=CONFIG [--workdir=DIR] [--config.KEY=VALUE …]

verbs
{verbs}

flags
  --config=CONFIG        a shipped config (digits, cifar:small), a .py file (it is run), or a .json file (it is not)
  --config.KEY=VALUE     sets one option, for example --config.optimizer.lr=0.01
  --workdir=DIR          where the files of a run or study are; default runs/<config>-<date-time>
  --resume=force         train: go on although the workdir was begun with another config or other data
  --profile=A:B          train: a profile of updates A to B, into <workdir>/profile (the same as --config.log.profile)
  --branch=OLD[@WHICH]   train: begin the workdir with the latest state of the run in OLD (@best, @STEP)
  --split=SPLIT          eval, predict: train, val or test (default test)
  --at=WHICH             eval, predict, export, report: latest (default), best, or a step
  --inputs=FILE          predict: a .npy or .npz file of inputs, instead of a split
  --rule=RULE            predict with the folder of an ensemble: mean (default), vote, average_then_vote, median
  --out=PATH             predict: writes PATH.npz and PATH.csv; default <workdir>/predictions-<split>;
                         export: the folder or file; check: a folder for its pictures; report: the page;
                         diagnose: the picture; a folder, such as out/: default names in it
  --format=FORMAT        export: stablehlo (default: program and weights, to run with jax alone) or safetensors
  --coordinator=HOST:PORT --processes=N --process=I
                         train, eval, predict: this is process I of N, and process 0 listens there; found by itself
                         under SLURM, Open MPI, Kubernetes and on TPU pods (docs/pods.md)
  --trust                run parts "module:Name" that a .json file or a workdir's config.json names
  --help                 this text

shipped configs: {configs}
"""


def run() -> None:
    """The program: like `main`, and any moment is a good one to end it by a signal."""
    gc.set_threshold(200_000, 20, 50)  # imports and tracing make few cycles, and a start takes a tenth less time
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

    0 done; 1 the answer is no; 2 command or config; 3 data or a file; 4 held by another, or a process was lost; 70 an
    error of ours;
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
        if studies := [word for word in argv if word in STUDIES]:
            return _help_study(studies[0])
        from jtrain.io.progress import Screen
        from jtrain.shipped import shipped

        verbs = "\n".join(f"  {name:<12}{text}" for name, text in VERBS.items())
        Screen().line(HELP.format(verbs=verbs, configs=", ".join(shipped())).rstrip("\n"))
        return 0
    overrides, rest = split_overrides(argv)
    values = _parse(rest)
    verb = values.pop("verb")
    for name in FLAGS:
        if values[name] and name not in FIT[verb]:
            raise ConfigError(f"--{name}: is not for {verb}")
    from jtrain.commands import COMMANDS

    return COMMANDS[verb](values, overrides) or 0


def _help_study(name: str) -> int:
    """Prints what a study answers, and its options."""
    from jtrain.io.progress import Screen
    from jtrain.study_options import told_options

    lines = [f"jtrain {name} --config=CONFIG [--workdir=DIR] [--config.KEY=VALUE …]", "", VERBS[name], "", "options"]
    lines += [
        f"  --config.study.{name}.{option}={default}\n      {text}" for option, default, text in told_options(name)
    ]
    Screen().line("\n".join([*lines, "", f"more: docs/studies/{name}.md"]))
    return 0


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
    flags.DEFINE_boolean("trust", False, "see HELP", flag_values=table)
    try:
        _, *words = table(["jtrain", *argv])
    except flags.UnrecognizedFlagError as error:
        name = error.flagname.partition("=")[0]
        verb = next((word for word in argv if word in VERBS), "train")
        if near := difflib.get_close_matches(name, (*FIT[verb], "trust", "help"), n=1, cutoff=ALIKE):
            raise ConfigError(f"--{error.flagname}: no such flag; did you mean '--{near[0]}'?") from error
        from jtrain.config import schema  # takes seconds

        known = [f"--{name}" for name in (*FLAGS, "trust", "help")]
        if options := [key for key in schema() if key == name or key.endswith(f".{name}")]:
            meant = [key for key in options if set(key.split(".")) & set(argv)] or options  # of the study that is typed
            known = [f"--config.{key}=…" for key in meant[:3]]
            raise ConfigError(f"--{name}: no such flag; an option is written {' or '.join(known)}") from error
        raise ConfigError(f"--{error.flagname}: no such flag{did_you_mean(f'--{error.flagname}', known)}") from error
    except flags.Error as error:
        raise ConfigError(f"{' '.join(str(error).split())} (see --help)") from error
    verb = words[0] if words else "train"
    if verb not in VERBS:
        raise ConfigError(f"{verb}: no such verb{did_you_mean(verb, VERBS)}")
    if len(words) > 1 and verb not in PATHS_AFTER:
        folder = f"a folder is given as --workdir={words[1]}"
        hint = folder if os.path.isdir(words[1]) else "one verb at a time"
        raise ConfigError(f"{words[1]}: {hint}; an option is written --config.key=value")
    values = {"verb": verb, "paths": "\n".join(words[1:]), "trust": "yes" if table["trust"].value else ""}
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


if __name__ == "__main__":
    run()
