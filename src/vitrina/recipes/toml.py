"""TOML to a checked run and back; every mistake becomes one sentence that names the key."""

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from vitrina.errors import ConfigError
from vitrina.recipes.build import check_parts
from vitrina.recipes.config import DataConfig, RunConfig

FALLBACK, NONE = "FallbackConfig", "literal['none']"
"""How pydantic names the two forms that a fallback may have; the first is the one to complain about."""


def load(path: str | Path) -> RunConfig:
    """Read and check a configuration; relative paths in it are taken from its folder.

    Raises:
        ConfigError: the file is missing, not TOML, or a key is unknown or wrong.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist; give a TOML file, docs/configuration.md has one") from None
    except IsADirectoryError:
        raise ConfigError(f"{file} is a folder; give the TOML file in it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read ({error}); give a TOML file in UTF-8") from error
    return loads(text, name=str(file)).rooted(file.resolve().parent)


def loads(text: str, *, name: str = "the configuration") -> RunConfig:
    """Check a configuration given as text; `name` is named in errors.

    Raises:
        ConfigError: it is not TOML, or a key is unknown or wrong.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name} is not TOML: {error}") from error
    return check(values, name=name)


def check(values: Mapping[str, Any], *, name: str = "the configuration") -> RunConfig:
    """Check a configuration given as nested dicts.

    Raises:
        ConfigError: a key is unknown or wrong, a model or a parameter of a model does not exist.
    """
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(sentences(error, RunConfig, name)) from None
    check_parts(config, name=name)
    return config


def data_section(values: Mapping[str, Any]) -> DataConfig:
    """Check what stands under `[data]`, given as a dict.

    Raises:
        ConfigError: a key is unknown or wrong.
    """
    try:
        return DataConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(sentences(error, DataConfig, "data")) from None


def sentences(error: ValidationError, root: type[BaseModel], name: str) -> str:
    """What is wrong, one line a mistake: the key, the rule, the value and what is allowed."""
    told = [one for one in error.errors() if NONE not in one["loc"]]
    return "\n".join(f"{name}: {_sentence(one, root)}" for one in told)


def _sentence(one: ErrorDetails, root: type[BaseModel]) -> str:
    where = [part for part in one["loc"] if part != FALLBACK]
    key = key_name(where) or "the file"
    if one["type"] == "extra_forbidden":
        allowed = _keys_at(root, where[:-1])
        close = difflib.get_close_matches(str(where[-1]), allowed, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        return f"unknown key {key}{hint}; allowed there: {', '.join(allowed)}"
    if one["type"] == "missing":
        return f"{key} is missing; add it"
    if one["type"] in ("model_type", "dict_type"):
        example = ' like { kind = "MostPop" }, or "none"' if FALLBACK in one["loc"] else ""
        return f"{key} must be a table{example}, got {one['input']!r}"
    if one["type"] == "value_error":
        return f"{key} {one['ctx']['error']}"
    rule = one["msg"].removeprefix("Input ").removeprefix("should ").replace("should", "must")
    return f"{key} must {rule}, got {one['input']!r}"


def key_name(where: Sequence[int | str]) -> str:
    """`models[0].params.reg` out of ("models", 0, "params", "reg")."""
    name = ""
    for part in where:
        name += f"[{part}]" if isinstance(part, int) else f".{part}"
    return name.removeprefix(".")


def _keys_at(root: type[BaseModel], where: Sequence[int | str]) -> list[str]:
    """Keys of the section that a location leads to."""
    section = root
    for part in where:
        if isinstance(part, int) or part not in section.model_fields:
            continue
        section = _section(section.model_fields[part].annotation) or section
    return list(section.model_fields)


def _section(annotation: Any) -> type[BaseModel] | None:
    """The model class inside an annotation, as X in `list[X]` or `X | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if (found := _section(inner)) is not None:
            return found
    return None


def dumps(config: BaseModel | Mapping[str, Any]) -> str:
    """TOML of a configuration; keys without a value are left out, so that reading it back gives the same."""
    values = config.model_dump(exclude_none=True) if isinstance(config, BaseModel) else config
    lines: list[str] = []
    _write_table(values, (), lines)
    return "\n".join(lines).strip() + "\n"


def _write_table(table: Mapping[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    later: list[tuple[str, Any]] = []
    for key, value in table.items():
        if value is None or value in ("", [], {}):
            continue
        is_tables = isinstance(value, list) and bool(value) and all(isinstance(v, Mapping) for v in value)
        if (isinstance(value, Mapping) and _is_section(path, key)) or (is_tables and key != "policies"):
            later.append((key, value))
        else:
            lines.append(f"{_key(key)} = {_value(value)}")
    for key, value in later:
        name = ".".join(map(_key, (*path, key)))
        for inner in value if isinstance(value, list) else [value]:
            lines += ["", f"[[{name}]]" if isinstance(value, list) else f"[{name}]"]
            _write_table(inner, (*path, key), lines)


def _is_section(path: tuple[str, ...], key: str) -> bool:
    return not path or key == "columns"


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else json.dumps(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None)
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False)
