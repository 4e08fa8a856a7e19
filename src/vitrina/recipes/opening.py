"""What a command line names: a TOML file or a run by name, and of its models some."""

from collections.abc import Sequence
from pathlib import Path

from vitrina.candidates import CANDIDATES
from vitrina.errors import ConfigError
from vitrina.recipes.build import check_parts
from vitrina.recipes.config import ModelConfig, RunConfig
from vitrina.recipes.models import RECIPES, classical_models
from vitrina.recipes.toml import load


def open_run(given: str | Path, models: Sequence[str] = ()) -> RunConfig:
    """The run of a TOML file, or a run by name; a file of that name goes before it.

    Args:
        given: path of the file, or a key of `RECIPES`.
        models: what is asked for. A run by name that has no model of such a name takes the class of that name
            with its defaults; a TOML file is taken as it is.

    Raises:
        ConfigError: there is neither such a file nor such a run, the file is wrong, or a model is no class.
    """
    file = Path(given)
    if str(given) not in RECIPES or file.is_file():
        if not file.exists():
            raise ConfigError(
                f"{file} does not exist; give a TOML file, docs/configuration.md has one, or a run by name: "
                f"{', '.join(RECIPES)}"
            )
        return load(file)
    config = RECIPES[str(given)]()
    known = [model.label for model in config.models]
    wanted = [name for name in dict.fromkeys(models) if name not in known]
    for name in wanted:
        if name not in CANDIDATES:
            raise ConfigError(
                f"{given} has no model {name!r} and there is no such class; it has: {', '.join(known)}; "
                f"classes are: {', '.join(CANDIDATES)}"
            )
    added = [ModelConfig(kind=name) for name in wanted]
    config = config.model_copy(update={"models": [*config.models, *added]})
    check_parts(config, name=str(given))
    return config


def with_models(config: RunConfig, names: Sequence[str]) -> RunConfig:
    """The same run with those of its models that are named, in that order; with none named, all.

    Raises:
        ConfigError: it has no such model.
    """
    if not names:
        return config
    known = {model.label: model for model in config.models or classical_models()}
    for name in names:
        if name not in known:
            raise ConfigError(f"no model {name!r} in the configuration; it has: {', '.join(known)}")
    return config.model_copy(update={"models": [known[name] for name in dict.fromkeys(names)]})
