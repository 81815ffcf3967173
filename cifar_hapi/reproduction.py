"""The command that trains a run's recipe again."""

from __future__ import annotations

import json
import shlex
from typing import Any

from cifar_hapi.recipe import Recipe, differing_keys, recipe_names, value_at
from cifar_hapi.run import Run

_OWN_OPTIONS = {"epochs": "--epochs", "batch_size": "--batch-size", "seed": "--seed", "data.source": "--data"}
_NOT_BARE = ("true", "false", "nan", "inf", "none")


def train_command(run: Run) -> str:
    """`cifar-hapi train ...`, for a shell: the nearest built-in recipe, and all in which the run's differs from it."""
    wanted = run.recipe.with_overrides({"data.source": run.data.name})
    bases = [Recipe.load(name) for name in recipe_names()]
    # Of the same name if there is one: it is what was most likely asked for.
    base = min(bases, key=lambda each: (each.name != wanted.name, len(_changes(each, wanted))))
    words = ["cifar-hapi", "train", base.name]
    for key, value in _changes(base, wanted).items():
        plain = str(value) if isinstance(value, str) else toml_value(value)
        words += [_OWN_OPTIONS[key], plain] if key in _OWN_OPTIONS else ["--set", f"{key}={_override(key, value)}"]
    return shlex.join([*words, "--device", str(run.manifest.get("device", "auto"))])


def _changes(base: Recipe, wanted: Recipe) -> dict[str, Any]:
    """Dotted keys, and what overrides them in `base`."""
    goal, values = wanted.to_dict(), {}
    for key in differing_keys(base, wanted):
        section = key.partition(".")[0]
        value = None if goal[section] is None else value_at(goal, key)
        if not isinstance(value, dict) and key != "description":
            values[section if goal[section] is None else key] = value
    for key in reversed(list(values)):  # such as keys of a section that has their defaults as soon as another is set
        fewer = {each: value for each, value in values.items() if each != key}
        values = fewer if not differing_keys(base.with_overrides(fewer), base.with_overrides(values)) else values
    return values


def _override(key: str, value: Any) -> str:
    """As `--set` takes it: a bare word where that is read as the same, which is easier to type than a quoted one."""
    bare = isinstance(value, str) and value.replace("_", "").isalpha() and value not in _NOT_BARE
    return str(value) if bare and value.isascii() else "none" if value is None else toml_value(value)


def toml_value(value: Any) -> str:
    """A string, number, truth value, list or table as TOML, in one line; what is None in a table is left out."""
    if isinstance(value, dict):
        pairs = (f"{key} = {toml_value(each)}" for key, each in value.items() if each is not None)
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, str):  # JSON's escapes are TOML's, which wants one more: for delete
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)
