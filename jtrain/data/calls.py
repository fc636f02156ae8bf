"""The text form of a row of parts, "pad_crop(4)|flip_lr": names with literal options, nothing evaluated."""

import ast
from collections.abc import Callable, Mapping
from typing import Any

from jtrain.errors import ConfigError
from jtrain.table import did_you_mean, options

Call = tuple[str, dict[str, Any]]  # (name, all options)
LONGEST = 1000  # characters of the text form


def read(text: str, table: Mapping[str, Callable[..., Any]], key: str, example: str) -> tuple[Call, ...]:
    """The parts that `text` names, in order, with all their options, defaults filled in; "" is none.

    Nothing is evaluated: names and literal values alone are read.

    Args:
      text: such as "pad_crop(4)|flip_lr" or "pad_crop(pad=4, mode='reflect')".
      table: name -> part; its keyword-only parameters are the options, in order.
      key: of the config, with which a message begins.
      example: a valid text, for the message.

    Raises:
      ConfigError: naming `key`, what is wrong and what is valid.
    """
    if not text.strip():
        return ()
    if len(text) > LONGEST:
        raise ConfigError(f"{key}: is {len(text)} characters long; at most {LONGEST}")
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f'{key}: cannot read {text!r}; write it like "{example}"') from error
    calls = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        calls.append(node.right)
        node = node.left
    return tuple(_call(call, text, table, key) for call in [node, *reversed(calls)])


def _call(node: ast.expr, text: str, table: Mapping[str, Callable[..., Any]], config_key: str) -> Call:
    """Name and checked options of one part."""
    call = node if isinstance(node, ast.Call) else ast.Call(func=node, args=[], keywords=[])
    if not isinstance(call.func, ast.Name):
        raise ConfigError(f"{config_key}: {_source(node, text)!r} is not an op; choose from {', '.join(sorted(table))}")
    name = call.func.id
    if name not in table:
        raise ConfigError(f"{config_key}: no such op {name!r}{did_you_mean(name, table)}")
    known = options(table[name])
    if len(call.args) > len(known):
        raise ConfigError(f"{config_key}: {name} takes {len(known)} options, {len(call.args)} are given")
    given = list(zip(known, call.args, strict=False)) + [(k.arg or "**", k.value) for k in call.keywords]
    values = {key: option.default for key, option in known.items()}
    seen = set()
    for key, value in given:
        if key not in known:
            raise ConfigError(f"{config_key}: {name} has no option {key!r}{did_you_mean(key, known)}")
        if key in seen:
            raise ConfigError(f"{config_key}: {name} is given {key!r} twice")
        seen.add(key)
        try:
            values[key] = known[key].check(ast.literal_eval(value))
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
            why = str(error) if _is_literal(value) else f"{_source(value, text)!r} is not a plain value"
            raise ConfigError(f"{config_key}: {name}: {key}: {why}") from error
    return name, values


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return False
    return True


def _source(node: ast.expr, text: str) -> str:
    return ast.get_source_segment(text.strip(), node) or text.strip()
