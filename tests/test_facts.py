"""Facts of configs and runs, and what lint says of them from end to end."""

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers import blobs, put, tiny

import jtrain
from jtrain import config_files
from jtrain.assembly import assemble
from jtrain.coach.lint import RULES, lint
from jtrain.errors import ConfigError
from jtrain.facts import facts_of, facts_of_run
from jtrain.io.progress import Screen
from jtrain.metrics import Metric
from jtrain.tasks import labelled
from jtrain.verbs.lint import lint as lint_verb

HERE = ["digits", "diabetes", "charlm", "digits_pretrain", "digits_pretrain:rotation", "digits_finetune"]
ELSEWHERE = {  # shipped config -> training examples of data that are not here, or take time to make
    "cifar": 50_000, "cifar:small": 50_000, "cifar_fast": 50_000, "cifar_fast:sgd": 50_000, "cifar_fast:small": 50_000,
    "imagenet": 1_281_167, "cifar:shapes": 20_000, "imagenet:step": 1_281_167, "folder": 5_000,
    "cifar_transfer": 50_000, "cifar_transfer:resnet18.safetensors": 50_000, "digits_finetune:runs/pretrained": 1_438,
    "digits_pretrain:denoising": 1_438,
}  # fmt: skip
# What is worth knowing of them.
INFOS = {
    "diabetes": ["validation-small"], "cifar:shapes": ["warmup-long"], "cifar_fast:sgd": ["warmup-long"],
}  # fmt: skip


def digits(**fields):
    return put(config_files.load("digits"), mesh__devices=1, **fields)


def run_of(data=None, model=None, **fields):
    return assemble(tiny(**fields), data=data or blobs(), model=model)


def rules(facts):
    return {found.rule: found.level for found in lint(facts)}


@pytest.mark.parametrize("name", HERE)
def test_shipped_config_is_clean(name, tmp_path):
    c = config_files.load(name)
    c.mesh.devices = 1
    if name == "charlm":
        (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 4000)
        c.data.text.path = str(tmp_path / "text.txt")
    found = rules(facts_of_run(assemble(c)))
    assert found == dict.fromkeys(INFOS.get(name, ()), "info")


@pytest.mark.parametrize("name", ELSEWHERE)
def test_shipped_config_whose_data_are_elsewhere_is_clean(name):
    config = config_files.load(name)
    assert rules(facts_of(config, ELSEWHERE[name])) == dict.fromkeys(INFOS.get(name, ()), "info")
    assert "warning" not in rules(facts_of(config)).values()


@pytest.mark.parametrize(
    ("fields", "rule", "level"),
    [
        ({"optimizer__lr": 0.1}, "lr-high", "warning"),
        ({"optimizer__lr": 1e-4, "lr_scale": 0.01}, "lr-low", "warning"),
        ({"optimizer__name": "adam", "optimizer__adam__weight_decay": 1e-3}, "decay-coupled", "warning"),
        ({"schedule__name": "step"}, "schedule-length", "warning"),  # every 30 epochs, of 20
        ({"schedule__name": "exponential"}, "schedule-end", "warning"),
        ({"schedule__warmup": "0.04epochs"}, "rounds-to-zero", "warning"),
        ({"plateau__metric": "val/loss"}, "plateau-idle", "warning"),  # patience 10, and 10 evaluations
        ({"augment": "flip_lr"}, "augment-changes-target", "warning"),
        ({"data__normalize": False, "model__cnn__norm": "none"}, "raw-pixels", "warning"),
        ({"train__batch_size": 64, "train__accumulate": 32}, "norm-of-few", "warning"),
        ({"groups": ((".*", 0.0),)}, "frozen-all", "warning"),
        ({"groups": (("head/.*", 1.0), (".*", None))}, "frozen-random", "info"),
        ({"model__cnn__conv_dropout": 0.5}, "dropout-convolution", "warning"),
        ({"ema__decay": 0.9999}, "average-long", "info"),
        ({"data__validation": 0.02}, "validation-small", "info"),
    ],
)
def test_override_of_digits_is_scolded(fields, rule, level):
    assert rules(facts_of_run(assemble(digits(**fields))))[rule] == level


def test_config_alone_and_run_tell_the_same_of_lr_and_time():
    c = digits(optimizer__reference_batch=32, lr_scale=0.5, schedule__name="multistep", schedule__every="1epochs")
    alone, run = facts_of(c, 1_438), facts_of_run(assemble(c))
    for name in (
        "lr",
        "peak",
        "end",
        "summed_lr",
        "spans",
        "warmup",
        "total",
        "evaluations",
        "rounded",
        "train",
        "val",
    ):
        assert getattr(alone, name) == getattr(run, name), name
    assert run.lr == pytest.approx(3e-3 * 2**0.5 * 0.5)
    assert (run.total, run.evaluations) == (405, 11)


def test_without_the_length_of_an_epoch_shares_are_known_where_units_agree():
    c = digits(schedule__name="multistep")
    assert facts_of(c).total is None
    assert facts_of(c).warmup == pytest.approx(0.05, abs=1e-3)
    assert facts_of(c).spans == pytest.approx(facts_of(c, 1_438).spans, abs=1e-2)
    c.schedule.warmup = "20steps"
    assert facts_of(c).spans is None
    c.train.total = "400steps"
    assert (facts_of(c).total, facts_of(c).warmup) == (400, 0.05)


def test_lr_of_groups_is_that_of_most_parameters():
    many = run_of(groups=((".*bias", 64.0), (".*", 0.5)), schedule__name="constant")
    assert facts_of_run(many).lr == pytest.approx(0.01 * 0.5)
    assert facts_of(many.config).lr == pytest.approx(0.01 * 0.5)
    assert facts_of(tiny(groups=(("dense0/.*", 1.0), ("head/.*", 2.0)))).lr is None
    assert facts_of(tiny(groups=(("head/.*", 2.0), (".*", None)))).lr == pytest.approx(0.02)


def test_fine_tuning_counts_only_what_was_loaded():
    fields = {"transfer__init_from": "runs/x", "transfer__reinit": ("head/.*",), "optimizer__lr": 1e-2}
    assert facts_of_run(run_of(**fields)).loaded_lr == pytest.approx(1e-2)
    for more in (
        {"groups": (("head/.*", 1.0), (".*", None))},
        {"phases": (("0", "head/.*"),)},
        {"optimizer__lr": 1e-4},
    ):
        run = run_of(**(fields | more))
        assert facts_of_run(run).loaded_lr <= 1e-4
        assert facts_of(run.config).loaded_lr == facts_of_run(run).loaded_lr
        assert "fine-tuning-lr" not in rules(facts_of_run(run))
    assert rules(facts_of_run(run_of(**fields)))["fine-tuning-lr"] == "warning"


class Ending(nn.Module):
    """A small net whose outputs go through `end`."""

    end: str
    outputs: int = 3

    @nn.compact
    def __call__(self, inputs, *, train):
        x = nn.Dense(self.outputs)(nn.relu(nn.Dense(4)(inputs)))
        return {
            "softmax": nn.softmax, "sigmoid": nn.sigmoid, "tanh": jnp.tanh, "relu": nn.relu, "": lambda x: x,
            "log_softmax": nn.log_softmax, "gelu": nn.gelu, "swish": nn.swish,
            "by hand": lambda x: jnp.exp(x) / jnp.exp(x).sum(axis=-1, keepdims=True),
            "twice": lambda x: jax.jit(jnp.ravel)(jax.jit(jnp.ravel)(nn.softmax(x))).reshape(x.shape),
        }[self.end](x)  # fmt: skip


@pytest.mark.parametrize(
    ("end", "seen"),
    [
        ("softmax", "softmax"), ("by hand", "softmax"), ("twice", "softmax"), ("sigmoid", "sigmoid"), ("tanh", "tanh"),
        ("relu", "relu"), ("", ""), ("log_softmax", ""), ("gelu", ""), ("swish", ""),
    ],
)  # fmt: skip
def test_activation_behind_the_last_layer_is_seen_in_a_model_of_your_own(end, seen):
    facts = facts_of_run(run_of(model=Ending(end)))
    assert facts.ends_in == seen
    assert ("output-activation" in rules(facts)) == bool(seen)


@pytest.mark.parametrize("end", ["sigmoid", ""])
def test_activation_of_a_regression_is_seen_behind_its_rescaling(end):
    inputs, classes = blobs()["train"]
    run = run_of((inputs, classes + 0.5 * inputs[:, 0]), Ending(end, 1), task__name="regression")
    assert facts_of_run(run).ends_in == end


class Memory(nn.Module):
    """A recurrent net that drops: 'hidden' values between steps, its 'inputs', 'same' hidden values at all steps, or
    the sums of a stack of 'layers'."""

    drops: str

    @nn.compact
    def __call__(self, inputs, *, train):
        dense, drop = nn.Dense(4), nn.Dropout(0.5, deterministic=not train)
        if self.drops == "layers":

            def block(module, x, kernel):
                return x + nn.Dropout(0.5, deterministic=not train)(jnp.tanh(x @ kernel)), None

            scan = nn.scan(block, variable_broadcast="params", split_rngs={"params": False, "dropout": True})
            kernels = self.param("kernels", nn.initializers.normal(), (3, 4, 4))
            return nn.Dense(3)(scan(self, dense(inputs), kernels)[0])
        mask = drop(jnp.ones((1, 4)))

        class Cell(nn.Module):
            drops: str

            @nn.compact
            def __call__(self, carry, x):
                own = nn.Dropout(0.5, deterministic=not train)
                carry = own(carry) if self.drops == "hidden" else carry * mask if self.drops == "same" else carry
                x = own(x) if self.drops == "inputs" else x
                gate = nn.sigmoid(nn.Dense(4, use_bias=False)(x))
                carry = gate * carry + (1 - gate) * jnp.tanh(nn.Dense(4, use_bias=False)(carry))
                return carry, carry

        scan = nn.scan(
            Cell, variable_broadcast="params", split_rngs={"params": False, "dropout": True}, in_axes=1, out_axes=1
        )
        carry, _ = scan(self.drops)(jnp.zeros((len(inputs), 4)), inputs[:, :, None])
        return nn.Dense(3)(carry)


@pytest.mark.parametrize("drops", ["hidden", "inputs", "same", "layers"])
def test_dropout_between_steps_is_told_from_dropout_elsewhere(drops):
    facts = facts_of_run(run_of(model=Memory(drops)))
    assert facts.drops_memory == (drops == "hidden")


def test_splits_that_share_their_examples_are_seen():
    data = blobs()
    apart = facts_of_run(run_of(data | {"val": tuple(a[:20] + 0 for a in data["train"])}))
    assert (apart.test_is_val, apart.test_in_train) == (False, 0.0)
    same = facts_of_run(run_of(data | {"val": data["test"]}))
    assert rules(same)["test-chooses"] == "warning"
    leaked = facts_of_run(
        run_of({"train": data["train"], "test": tuple(a[:20] for a in data["train"])}, data__validation=0.0)
    )
    assert rules(leaked)["test-in-train"] == "warning"


def test_rows_that_repeat_by_nature_are_no_leak():
    rng = np.random.default_rng(0)
    inputs, targets = rng.integers(0, 2, (96, 3)).astype(np.float32), np.arange(96, dtype=np.int32) % 3
    facts = facts_of_run(run_of({"train": (inputs[:72], targets[:72]), "test": (inputs[72:], targets[72:])}))
    assert facts.test_in_train is None


def test_targets_are_looked_at():
    inputs, classes = blobs()["train"]
    assert rules(facts_of_run(run_of((inputs, 0 * classes))))["single-class"] == "warning"
    assert rules(facts_of_run(run_of((inputs, 2 * classes))))["empty-classes"] == "warning"

    def numbers(targets):
        return rules(facts_of_run(run_of((inputs, targets.astype(np.float32)), task__name="regression")))

    assert numbers(np.stack([inputs[:, 0], 0 * inputs[:, 0]], axis=1))["constant-targets"] == "warning"
    assert numbers(classes)["classes-as-numbers"] == "info"
    unit = (inputs[:, 0] - inputs[:, 0].min()) / np.ptp(inputs[:, 0])
    assert "constant-targets" not in numbers(unit)


def test_a_metric_of_your_own_that_improves_the_wrong_way_is_seen():
    run = run_of()
    assert facts_of_run(run).directions == {"accuracy": True}
    metrics = run.task.metrics | {"accuracy": dataclasses.replace(run.task.metrics["accuracy"], higher_is_better=False)}
    wrong = dataclasses.replace(run, task=dataclasses.replace(run.task, metrics=metrics))
    assert rules(facts_of_run(wrong))["metric-direction"] == "warning"
    assert isinstance(metrics["accuracy"], Metric)


def test_every_metric_of_ours_improves_as_its_name_says():
    from jtrain.metrics import METRICS

    directions = {name: metric.higher_is_better for name, metric in METRICS.items() if name != "confusion"}
    assert RULES["metric-direction"].said(dataclasses.replace(facts_of(tiny()), directions=directions)) == []
    assert labelled.classification is not None


def test_parts_of_your_own_are_judged_by_what_is_known(monkeypatch):
    c = tiny()
    c.optimizer.name = "jtrain.optim.optimizers:adam"
    c.optimizer.options.weight_decay = 1e-3
    facts = facts_of_run(assemble(c, data=blobs()))
    assert (facts.family, facts.decay, facts.decay_set) == ("adam", "coupled", False)
    assert set(rules(facts)) <= {"decay-coupled", "validation-small"}


def test_patterns_of_an_optimizer_need_no_parameters():
    c = tiny()
    c.optimizer.name = "muon"
    c.optimizer.muon.adam = ("head/.*", "stem/.*")
    assert facts_of(c).lr == pytest.approx(0.01)


def test_verb_shows_what_it_found_and_how_to_silence_it():
    shown = io.StringIO()
    found = lint_verb(digits(optimizer__lr=0.1, schedule__warmup="20%"), screen=Screen(shown, live=False))
    assert [each.rule for each in found] == ["lr-high", "warmup-long"]
    lines = shown.getvalue().splitlines()
    assert lines[0].startswith("lint warning [lr-high] optimizer.lr: 0.1 is above what adamw takes at batch 64")
    assert lines[1].strip().startswith("why: ")
    assert lines[2].strip() == """silence: --config.lint.silence='("lr-high",)'"""
    assert lines[-1] == f"lint: 1 warning, 1 info, of {len(RULES)} rules"


def test_verb_is_silent_where_it_is_told_so_and_where_all_is_well():
    shown = io.StringIO()
    assert lint_verb(digits(optimizer__lr=0.1, lint__silence=("lr-high",)), screen=Screen(shown, live=False)) == []
    assert shown.getvalue() == f"lint: nothing to say ({len(RULES) - 1} rules)\n"
    assert lint_verb(assemble(digits())) == []


def test_verb_judges_the_config_alone_where_its_data_are_not_here(tmp_path):
    c = jtrain.load("cifar:small")
    c.data.tfds.data_dir = str(tmp_path)
    c.optimizer.lr = 30.0
    shown = io.StringIO()
    assert [each.rule for each in lint_verb(c, screen=Screen(shown, live=False))] == ["lr-high"]
    assert shown.getvalue().startswith(
        "lint: of the config alone, without its data: data.tfds: 'cifar10' is not prepared"
    )


def test_a_config_that_is_wrong_is_refused():
    with pytest.raises(ConfigError, match="model"):
        lint_verb(tiny(model__name="nonsense"))
