import subprocess
import sys
from pathlib import Path

import pytest

from vitrina.candidates import CANDIDATES
from vitrina.errors import ConfigError
from vitrina.policies import CapPer, Unseen
from vitrina.recipes import RECIPES, build, check, dumps, load, loads, spaces
from vitrina.recipes.config import ModelConfig, PipelineConfig, PolicyConfig

ROOT = Path(__file__).resolve().parents[2]
SMALL = '[data]\npath = "log.parquet"\n'


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        loads(SMALL + text, name="my.toml")
    return str(caught.value)


def test_only_data_is_needed_and_everything_else_has_a_default():
    run = loads(SMALL)
    assert run.data.path == "log.parquet"
    assert run.split.protocol == "time"
    assert run.evaluate.repeats == ["count", "new_only"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "[split]\nlast_day = 3\n",
            ["my.toml: unknown key split.last_day", "did you mean 'last_days'?", "gap_days"],
        ),
        (
            "[splits]\nlast_days = 3\n",
            ["unknown key splits", "did you mean 'split'?", "data, split, evaluate"],
        ),
        ("[split]\nlast_days = -3\n", ["split.last_days must be greater than 0", "got -3"]),
        ("[split]\nlast_days = 3\nquantile = 0.9\n", ["split takes one of", "got last_days and quantile"]),
        (
            '[split]\nprotocol = "random"\n',
            ["split.protocol", "'time', 'leave_one_out' or 'last_n_per_user'", "'random'"],
        ),
        (
            '[split]\nprotocol = "leave_one_out"\nlast_days = 3\n',
            ["last_days", "no meaning", "'leave_one_out'"],
        ),
        ('[evaluate]\nk = "ten"\n', ["evaluate.k must be a valid integer", "got 'ten'"]),
        ('[evaluate]\nmetrics = ["ndgc@10"]\n', ["evaluate: ", "no metric 'ndgc@10'", "ndcg"]),
        ('[[models]]\nname = "x"\n', ["models[0] needs either kind", "sources"]),
        (
            '[[models]]\nkind = "ItemKnn"\n',
            ["models[0]: there is no model 'ItemKnn'", "did you mean 'ItemKNN'?", "MostPop"],
        ),
        (
            '[[models]]\nkind = "ItemKNN"\nparams = { neighbors = 3 }\n',
            ["models[0]: ItemKNN has no parameter 'neighbors'", "did you mean 'n_neighbors'?"],
        ),
        (
            '[[models]]\nkind = "ItemKNN"\nparams = { n_neighbors = "many" }\n',
            ["models[0]: ItemKNN.n_neighbors must be a valid integer", "got 'many'"],
        ),
        (
            '[[models]]\nkind = "SASRec"\nparams = { seed = -1 }\n',
            ["models[0]: SASRec.seed must be a whole number in [0, 2^63), got -1"],
        ),
        (
            '[[models]]\nkind = "Ease"\nparams = { reg = -1.0 }\n',
            ["models[0]", "Ease.reg must be > 0", "-1.0"],
        ),
        (
            '[[models]]\nname = "two"\n[[models.sources]]\nkind = "Eas"\n',
            ["models[0].sources[0]: there is no model 'Eas'", "'Ease'"],
        ),
        ('[[models]]\nkind = "Ease"\n[[models]]\nkind = "Ease"\n', ["'Ease' more than once"]),
        (
            '[pipeline]\npolicies = [{ kind = "Cap" }]\n',
            ["pipeline.policies[0]: there is no policy 'Cap'", "CapPer"],
        ),
        (
            '[pipeline]\npolicies = [{ kind = "CapPer", column = "brand", cap = 0 }]\n',
            ["pipeline.policies[0]: CapPer.cap must be >= 1, got 0"],
        ),
        ('[pipeline]\nfallback = "some"\n', ["pipeline.fallback must be a table", 'or "none"', "'some'"]),
        (
            '[[models]]\nkind = "Ease"\n[serve]\nmodel = "ItemKNN"\n',
            ["serve.model 'ItemKNN' is not among", "Ease"],
        ),
        (
            '[split]\nprotocol = "leave_one_out"\nwindows = 2\n',
            ["split has windows = 2, which has no meaning with protocol 'leave_one_out'"],
        ),
        ("[split]\nwindows = 0\n", ["split.windows must be greater than or equal to 1", "got 0"]),
        ("[serve]\nport = 99999\n", ["serve.port must be less than or equal to 65535", "99999"]),
    ],
)
def test_a_mistake_is_one_sentence_with_the_key_the_value_and_what_is_allowed(text, parts):
    sentence = refused(text)
    for part in parts:
        assert part in sentence
    assert "\n" not in sentence
    assert "pydantic" not in sentence


def test_every_mistake_is_told_at_once():
    sentence = refused('[split]\nlast_day = 3\n[evaluate]\nk = "ten"\n')
    assert len(sentence.splitlines()) == 2


def test_a_log_is_either_a_path_or_a_data_set():
    with pytest.raises(ConfigError, match="data needs either path"):
        loads("[data]\n")
    with pytest.raises(ConfigError, match="data needs either path"):
        loads('[data]\npath = "a"\ndataset = "online-retail"\n')
    with pytest.raises(ConfigError, match="data is missing"):
        loads("")


def test_what_is_not_toml_and_what_is_not_there_is_said(tmp_path):
    with pytest.raises(ConfigError, match=r"my.toml is not TOML: .*end of document"):
        loads("data = ", name="my.toml")
    with pytest.raises(ConfigError, match=r"nothing.toml does not exist"):
        load(tmp_path / "nothing.toml")
    with pytest.raises(ConfigError, match="is a folder"):
        load(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'out = "\xe9"')
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "latin.toml")


def test_relative_paths_are_taken_from_the_folder_of_the_file(tmp_path):
    (tmp_path / "my.toml").write_text(
        'out = "here"\n[data]\npath = "log.parquet"\nitems = "/abs/items.csv"\n'
    )
    run = load(tmp_path / "my.toml")
    assert run.data.path == str(tmp_path / "log.parquet")
    assert run.data.items == "/abs/items.csv"
    assert run.out == str(tmp_path / "here")
    (tmp_path / "cloud.toml").write_text('[data]\npath = "s3://bucket/log.parquet"\n')
    assert load(tmp_path / "cloud.toml").data.path == "s3://bucket/log.parquet"


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_configuration_survives_being_written_and_read(name):
    run = RECIPES[name]()
    assert loads(dumps(run)) == run
    assert check(run.model_dump()) == run


def test_odd_keys_and_values_survive_too():
    run = check(
        {
            "data": {"path": 'with "quotes" and \\ and é.parquet', "columns": {"user_id": "Customer ID"}},
            "models": [
                {
                    "name": "two of them",
                    "sources": [
                        {"kind": "MostPop", "weight": 0.5},
                        {"kind": "Random", "params": {"seed": 3}},
                    ],
                    "policies": [{"kind": "Block", "item_ids": ["a b", "c"]}],
                    "fallback": "none",
                }
            ],
        }
    )
    assert loads(dumps(run)) == run


def test_a_model_of_two_sources_becomes_a_pipeline_with_the_shared_policies_first():
    model = ModelConfig.model_validate(
        {
            "name": "both",
            "sources": [{"kind": "OwnHistory", "weight": 2.0, "k": 7}, {"kind": "ItemKNN", "budget_ms": 5.0}],
            "policies": [{"kind": "CapPer", "column": "brand", "cap": 2}],
        }
    )
    shared = PipelineConfig(policies=[PolicyConfig.model_validate({"kind": "Unseen", "within_days": 3.0})])
    made = build.pipeline(model, shared, hide_seen=True)
    assert [(s.name, s.k, s.weight, s.budget_ms) for s in made.sources] == [
        ("OwnHistory", 7, 2.0, None),
        ("ItemKNN", 200, 1.0, 5.0),
    ]
    assert list(made.policies) == [Unseen(within_days=3.0), CapPer(column="brand", cap=2)]
    assert type(made.fallback).__name__ == "MostPop"


def test_seen_items_are_hidden_only_where_asked_and_only_once():
    model = ModelConfig(kind="MostPop", fallback="none")
    assert list(build.pipeline(model, PipelineConfig(), hide_seen=True).policies) == [Unseen()]
    assert list(build.pipeline(model, PipelineConfig(), hide_seen=False).policies) == []
    assert build.pipeline(model, PipelineConfig(), hide_seen=False).fallback is None


def test_a_seed_reaches_models_with_randomness_unless_they_set_their_own():
    shared = PipelineConfig(fallback="none")
    free, fixed = ModelConfig(kind="Random"), ModelConfig(kind="Random", params={"seed": 5})
    assert build.is_random(free)
    assert not build.is_random(fixed)
    assert not build.is_random(ModelConfig(kind="MostPop"))
    assert build.pipeline(free, shared, hide_seen=False, seed=9).sources[0].generator.seed == 9
    assert build.pipeline(fixed, shared, hide_seen=False, seed=9).sources[0].generator.seed == 5


@pytest.mark.parametrize("kind", list(spaces.SPACES))
def test_every_search_space_names_parameters_that_the_model_accepts(kind):
    class Corners:
        """Asks for one end of every range."""

        def __init__(self, high: bool) -> None:
            self.high = high

        def suggest_float(self, name, low, high, *, log=False):
            return high if self.high else low

        def suggest_int(self, name, low, high, *, log=False):
            return high if self.high else low

        def suggest_categorical(self, name, choices):
            return choices[-1] if self.high else choices[0]

    for high in (False, True):
        params = spaces.suggest(Corners(high), spaces.SPACES[kind])
        build.generator(kind, params)


@pytest.mark.parametrize("kind", list(spaces.SPACES))
def test_the_defaults_of_a_model_lie_inside_its_search_space(kind):
    values = build.parameter_values(kind, {})
    outside = [name for name, part in spaces.SPACES[kind].items() if not spaces.inside(values[name], part)]
    assert not outside


def test_a_search_space_belongs_to_a_model_that_exists():
    assert set(spaces.SPACES) <= set(CANDIDATES)


def test_the_page_on_configuration_is_what_the_code_says():
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "config_docs.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_the_example_on_the_page_is_accepted():
    page = (ROOT / "docs" / "configuration.md").read_text()
    example = page.split("```toml\n")[1].split("```")[0]
    run = loads(example)
    assert len(run.models) == 3


def test_histories_of_a_long_log_lie_on_disk_and_are_the_same(tmp_path, monkeypatch):
    import numpy as np
    import polars as pl

    from vitrina.log import EventLog
    from vitrina.recipes import data
    from vitrina.recipes.config import SplitConfig

    rng = np.random.default_rng(0)
    ts = pl.Series(1_735_689_600 + rng.integers(0, 10**6, 500)).cast(pl.Int64)
    frame = pl.DataFrame({"user_id": rng.integers(0, 30, 500), "item_id": rng.integers(0, 40, 500), "ts": ts})
    log = EventLog.from_frame(frame, time_unit="s")
    made, about = data.make_split(log, SplitConfig()), data.Data("a log", log, None, None, "ours", ())
    memory = data.training_histories(about, made, tmp_path)
    assert not any(tmp_path.iterdir())
    monkeypatch.setattr(data, "ROWS_IN_MEMORY", 10)
    disk = data.training_histories(about, made, tmp_path)
    assert any((tmp_path / "histories").iterdir())
    for name in ("offsets", "item_ix", "ts", "event"):
        np.testing.assert_array_equal(getattr(memory, name), getattr(disk, name))
    assert memory.items == disk.items
