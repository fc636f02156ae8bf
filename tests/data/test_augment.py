import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtrain.data.augment import AUGMENTATIONS, MIXES, build, build_mix, check_inputs, mixes, parse
from jtrain.data.ops.colour_ops import RGB_ONLY
from jtrain.errors import ConfigError
from jtrain.table import options

NUMPY_MODE = {"constant": "constant", "reflect": "reflect", "edge": "edge"}
ALL = ["pad_crop(2)", "pad_crop(2, 'reflect')", "pad_crop(2, mode='edge')", "flip_lr", "pad_crop(1)|flip_lr"]


def images(batch=16, height=6, width=5, channels=2, dtype=np.uint8) -> jax.Array:
    values = np.random.default_rng(0).integers(1, 250, (batch, height, width, channels))
    return jnp.asarray(values.astype(dtype))


@pytest.mark.parametrize("text", ALL)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, jnp.bfloat16])
def test_shape_and_dtype_are_kept(text, dtype):
    before = images(dtype=dtype)
    after = jax.jit(build(text))(before, jax.random.key(0))
    assert after.shape == before.shape
    assert after.dtype == before.dtype


@pytest.mark.parametrize("text", ALL)
def test_draw_of_an_example_does_not_depend_on_the_batch_size(text):
    whole = images(batch=16)
    augment = jax.jit(build(text))
    key = jax.random.key(3)
    expected = np.asarray(augment(whole, key))
    for size in (1, 5):
        assert np.array_equal(augment(whole[:size], key), expected[:size])


@pytest.mark.parametrize("text", ALL)
def test_compiled_equals_eager_and_another_key_differs(text):
    augment = build(text)
    first = np.asarray(augment(images(), jax.random.key(0)))
    assert np.array_equal(jax.jit(augment)(images(), jax.random.key(0)), first)
    assert not np.array_equal(augment(images(), jax.random.key(1)), first)


@pytest.mark.parametrize("mode", NUMPY_MODE)
def test_pad_crop_cuts_a_window_of_the_padded_image_and_each_equally_often(mode):
    pad, batch = 2, 2000
    one = images(1)
    many = jnp.tile(one, (batch, 1, 1, 1))
    out = np.asarray(jax.jit(build(f"pad_crop({pad}, mode={mode!r})"))(many, jax.random.key(1)))
    height, width = one.shape[1:3]
    padded = np.pad(np.asarray(one[0]), ((pad, pad), (pad, pad), (0, 0)), mode=NUMPY_MODE[mode])
    side = 2 * pad + 1
    windows = {
        padded[top : top + height, left : left + width].tobytes(): (top, left)
        for top in range(side)
        for left in range(side)
    }
    counts = np.zeros((side, side))
    for image in out:
        counts[windows[image.tobytes()]] += 1  # a KeyError is an image that is no window
    expected = batch / side**2
    assert ((counts - expected) ** 2 / expected).sum() < 60  # chi-square, 24 degrees of freedom: p < 1e-4


def test_flip_mirrors_about_half_of_the_images():
    before = np.asarray(images(400))
    after = np.asarray(build("flip_lr")(jnp.asarray(before), jax.random.key(0)))
    mirrored = np.array([np.array_equal(a, b[:, ::-1]) for a, b in zip(after, before, strict=True)])
    same = np.array([np.array_equal(a, b) for a, b in zip(after, before, strict=True)])
    assert (mirrored ^ same).all()
    assert 150 < mirrored.sum() < 250


def test_equal_ops_in_a_row_draw_independently():
    before = np.asarray(images(64))
    after = np.asarray(build("flip_lr|flip_lr")(jnp.asarray(before), jax.random.key(0)))
    same = sum(np.array_equal(a, b) for a, b in zip(after, before, strict=True))
    assert 16 < same < 48  # one draw for both would give all 64 back


def test_empty_text_is_no_op():
    assert parse("") == parse("  ") == ()
    assert np.array_equal(build("")(images(), jax.random.key(0)), images())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pad_crop(4)|flip_lr", (("pad_crop", {"pad": 4, "mode": "constant"}), ("flip_lr", {}))),
        ("pad_crop(pad=2, mode='reflect')", (("pad_crop", {"pad": 2, "mode": "reflect"}),)),
        (" flip_lr() | pad_crop ", (("flip_lr", {}), ("pad_crop", {"pad": 4, "mode": "constant"}))),
        (
            "pad_crop(1)|pad_crop(2)|pad_crop(3)",
            tuple(("pad_crop", {"pad": pad, "mode": "constant"}) for pad in (1, 2, 3)),
        ),
        ("pad_crop(3, 'edge')", (("pad_crop", {"pad": 3, "mode": "edge"}),)),
    ],
)
def test_text_is_read_in_order_with_all_options(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pad_crp(4)", "no such op 'pad_crp'; did you mean 'pad_crop'"),
        ("pad_crop(pda=4)", "no option 'pda'; did you mean 'pad'"),
        ("pad_crop(0)", "pad: must be at least 1"),
        ("pad_crop(-1)", "pad: must be at least 1"),
        ("pad_crop(4.0)", "pad: must be a whole number"),
        ("pad_crop(True)", "pad: must be a whole number"),
        ("pad_crop(mode='reflct')", "mode: no such choice 'reflct'; did you mean 'reflect'"),
        ("pad_crop(4, pad=4)", "given 'pad' twice"),
        ("flip_lr(1)", "takes 0 options, 1 are given"),
        ("pad_crop(**{'pad': 4})", "no option"),
        ("pad_crop(*[4])", "is not a plain value"),
        ("pad_crop(4)|", "cannot read"),
        ("pad_crop(4", "cannot read"),
        ("pad_crop(4), flip_lr", "is not an op"),
        ("pad_crop(4) & flip_lr", "is not an op"),
        ("os.system('true')", "is not an op"),
        ("__import__('os')", "no such op '__import__'"),
        ("pad_crop(open('x'))", "open.*is not a plain value"),
        ("flip_lr|4", "'4' is not an op"),
        ("flip_lr" + "|flip_lr" * 500, "characters long"),
        ("(" * 900, "cannot read"),
        ("flip_lr\0", "cannot read"),
    ],
)
def test_wrong_text_is_one_line_that_names_the_key(text, words):
    with pytest.raises(ConfigError, match=words) as caught:
        parse(text)
    assert str(caught.value).startswith("augment: ")
    assert "\n" not in str(caught.value)


def test_reading_evaluates_nothing(tmp_path):
    target = tmp_path / "made"
    with pytest.raises(ConfigError):
        parse(f"pad_crop(open({str(target)!r}, 'w'))")
    assert not target.exists()


def test_inputs_that_are_no_images_are_refused():
    with pytest.raises(ConfigError, match=r"augment: pad_crop needs images \[height, width, channels\].* \[64\]"):
        check_inputs("pad_crop(4)", (64,))
    with pytest.raises(ConfigError, match="flip_lr needs images"):
        check_inputs("flip_lr", (8, 8))
    check_inputs("", (64,))
    check_inputs("pad_crop(32)|flip_lr", (32, 32, 3))


def test_mirrored_border_must_be_smaller_than_the_image():
    check_inputs("pad_crop(7, 'reflect')", (8, 9, 1))
    with pytest.raises(ConfigError, match="pad must be below 8"):
        check_inputs("pad_crop(8, 'reflect')", (8, 9, 1))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_op_keeps_shape_and_dtype_and_draws_by_key_and_place_alone(name):
    op = jax.jit(build(name))
    whole = images(16, 9, 8, 3)
    first, other = (np.asarray(op(whole, jax.random.key(seed))) for seed in (0, 1))
    assert first.shape == whole.shape
    assert first.dtype == np.uint8
    assert not np.array_equal(first, other)
    assert np.array_equal(op(whole[:5], jax.random.key(0)), first[:5])
    assert np.array_equal(op(whole.at[0].set(0), jax.random.key(0))[1:], first[1:])  # whatever the others are


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_op_takes_floats_and_one_channel(name):
    values = images(16, 9, 8, 3 if name in RGB_ONLY else 1, np.float32) / 255
    result = np.asarray(jax.jit(build(name))(values, jax.random.key(0)))
    assert result.shape == values.shape
    assert result.dtype == np.float32
    assert 0.01 < np.abs(result - values).max() < 2


@pytest.mark.parametrize("name", [name for name, op in AUGMENTATIONS.items() if "p" in options(op)])
def test_an_op_happens_to_the_share_that_is_asked_for_and_leaves_the_others_to_the_bit(name):
    before = np.asarray(images(256, 6, 6, 3, np.float32))
    after = np.asarray(jax.jit(build(f"{name}(p=0.25)"))(before, jax.random.key(0)))
    changed = (after != before).any(axis=(1, 2, 3)).sum()
    assert 38 < changed < 92  # 64 expected, four standard deviations


@pytest.mark.parametrize("name", [*AUGMENTATIONS, *MIXES])
def test_every_op_with_arithmetic_refuses_whole_numbers_that_are_no_pixels(name):
    tokens = jnp.zeros((2, 8, 8, 3), jnp.int32)
    if name in ("pad_crop", "flip_lr", "flip_ud", "cutmix"):
        return  # they move values, whatever these are
    run = build(name) if name in AUGMENTATIONS else lambda x, k: build_mix(name)(x, jnp.ones((2, 3)), jnp.ones(2), k)
    with pytest.raises(ConfigError, match=r"uint8 or floats, the inputs are int32"):
        jax.eval_shape(run, tokens, jax.random.key(0))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_op_works_with_its_defaults_on_a_sharded_batch(name):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    whole = images(16, 9, 8, 3)
    expected = np.asarray(jax.jit(build(name))(whole, jax.random.key(0)))  # compiled above
    placed = jax.device_put(whole, sharding)
    assert np.array_equal(jax.jit(build(name))(placed, jax.random.key(0)), expected)


def test_mixing_is_named_once_and_last():
    assert parse("flip_lr|mixup(0.3)")[-1] == ("mixup", {"alpha": 0.3})
    assert mixes("flip_lr|mixup")
    assert mixes("cutmix(1)")
    assert not mixes("flip_lr")
    assert not mixes("")
    with pytest.raises(ConfigError, match=r"^augment: mixup and cutmix both mix the batch; name one of them$"):
        parse("mixup|cutmix")
    with pytest.raises(ConfigError, match=r"^augment: mixup must come last"):
        parse("mixup|flip_lr")
    with pytest.raises(ConfigError, match=r"^augment: no such op 'mixpu'; did you mean 'mixup'\?$"):
        parse("mixpu")


def test_image_ops_and_mixing_are_built_apart_and_draw_as_they_would_alone():
    key, whole = jax.random.key(4), images(8)
    assert np.array_equal(build("flip_lr|mixup")(whole, key), build("flip_lr")(whole, key))
    assert np.array_equal(build("mixup")(whole, key), whole)
    assert build_mix("flip_lr") is None
    assert build_mix("") is None
    given = whole.astype(jnp.float32), jnp.eye(8), jnp.ones(8)
    mixed, targets = build_mix("flip_lr|mixup(0.5)")(*given, key)
    expected = MIXES["mixup"](*given, jax.random.fold_in(key, 1), alpha=0.5)
    assert np.array_equal(mixed, expected[0])
    assert np.array_equal(targets, expected[1])


@pytest.mark.parametrize("name", RGB_ONLY)
def test_ops_of_colours_need_three_channels(name):
    check_inputs(name, (8, 8, 3))
    with pytest.raises(ConfigError, match=rf"augment: {name} needs images of 3 channels .* \[8, 8, 1\]"):
        check_inputs(f"flip_lr|{name}", (8, 8, 1))


def test_mixup_takes_any_inputs_and_cutmix_images():
    check_inputs("mixup", (64,))
    with pytest.raises(ConfigError, match=r"augment: cutmix needs images"):
        check_inputs("cutmix", (64,))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("resized_crop(scale=(0.5, 0.2))", "scale: must be .low, high. with 0 < low <= high <= 1"),
        ("resized_crop(scale=(0.5,))", "scale: must be .low, high."),
        ("resized_crop(scale=0.5)", "scale: must be a tuple"),
        ("erase(ratio=(0, 1))", "ratio: must be .low, high. with 0 < low"),
        ("rotate(200)", "degrees: must be at least 0 and at most 180"),
        ("rotate(15, p=1.5)", "p: must be at least 0 and at most 1"),
        ("cutout(0)", "size: must be at least 1"),
        ("cutout(4, fill='maen')", "did you mean 'mean'"),
        ("hue(0.6)", "amount: must be at least 0 and at most 0.5"),
        ("randaugment(2, 31)", "magnitude: must be at least 0 and at most 30"),
        ("mixup(0)", "alpha: must be above 0"),
    ],
)
def test_wrong_options_are_one_line_that_says_what_is_valid(text, words):
    with pytest.raises(ConfigError, match=words) as caught:
        parse(text)
    assert str(caught.value).startswith("augment: ")


def test_draws_and_images_of_every_op_are_stored_before_the_next_reads_them():
    """On CPU a chain would otherwise take ten times as long as its ops: see `jtrain.data.ops.pixels.apart`."""
    compiled = jax.jit(build("rotate|hue")).lower(images(8, 9, 8, 3), jax.random.key(0)).compile()
    assert compiled.as_text().count(" conditional(") == 4  # the draws of each op, and its images
