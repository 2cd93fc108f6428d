"""Settings: each one explained, layers and their origins, and refusals that name the reason."""

import ast
import inspect

import pytest
from pydantic import ValidationError

from tunestone.config import AlgorithmName, TrainConfig, parse_assignment, read_toml, resolve
from tunestone.core.loss import ALGORITHMS
from tunestone.errors import ConfigError


def refusal(*assignments, layers=()):
    """What the refusal of these settings says."""
    with pytest.raises(ConfigError) as caught:
        resolve(layers=layers, assignments=assignments)
    assert caught.value.code == "config_error"
    return str(caught.value)


# --- the fields -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(TrainConfig.model_fields))
def test_every_field_is_explained(name):
    description = TrainConfig.model_fields[name].description
    assert description, f"{name} has no docstring under it"
    assert len(description) >= 30, description
    assert description.rstrip().endswith((".", ")")), description


def test_the_descriptions_are_the_docstrings_under_the_fields():
    # pydantic takes them from the source; a comment between field and docstring would lose one.
    body = ast.parse(inspect.getsource(TrainConfig)).body[0].body
    named = [n.target.id for n in body if isinstance(n, ast.AnnAssign)]
    assert named == list(TrainConfig.model_fields)
    strings = [n.value.value for n in body if isinstance(n, ast.Expr)][1:]  # after the class's own
    assert len(strings) == len(named)
    for name, text in zip(named, strings, strict=True):
        assert TrainConfig.model_fields[name].description == inspect.cleandoc(text)


def test_every_field_has_a_default_and_the_defaults_are_valid():
    assert not [n for n, field in TrainConfig.model_fields.items() if field.is_required()]
    config = TrainConfig()
    assert TrainConfig.model_validate(config.model_dump()) == config


def test_the_defaults_the_design_promises():
    config = TrainConfig()
    assert (config.algorithm, config.kl_coefficient, config.lora_rank) == ("dapo", 0.0, 32)
    assert (config.clip_low, config.clip_high, config.learning_rate) == (0.2, 0.28, 1e-4)
    assert (config.temperature, config.top_p, config.top_k) == (1.0, 1.0, 0)
    assert config.patience > 0  # early stopping is on


def test_a_config_cannot_be_changed():
    with pytest.raises(ValidationError, match="Instance is frozen"):
        TrainConfig().epochs = 2


def test_the_names_of_algorithms_are_those_there_are():
    assert list(ALGORITHMS) == list(AlgorithmName.__args__)


# --- layers and origins ---------------------------------------------------------------------


def test_later_layers_win_and_every_value_has_an_origin():
    layers = [
        ("recipe word_problems", {"epochs": 2, "group_size": 4, "seed": 1}),
        ("run.toml", {"epochs": 3, "group_size": 6}),
    ]
    config, origins = resolve(layers=layers, assignments=["epochs=4", "epochs=5"])
    assert (config.epochs, config.group_size, config.seed, config.batch_size) == (5, 6, 1, 16)
    assert origins["epochs"] == "--set epochs=5"
    assert origins["group_size"] == "run.toml"
    assert origins["seed"] == "recipe word_problems"
    assert origins["batch_size"] == "default"
    assert set(origins) == set(TrainConfig.model_fields)


def test_nothing_given_is_the_default():
    config, origins = resolve()
    assert config == TrainConfig()
    assert set(origins.values()) == {"default"}


# --- refusals -------------------------------------------------------------------------------


def test_an_unknown_key_is_refused_with_the_nearest_known_one():
    assert refusal("learning_rte=1e-4") == (
        "Unknown setting 'learning_rte' (--set learning_rte=1e-4). Did you mean 'learning_rate'? "
        "`tunestone config` lists all settings."
    )
    assert refusal(layers=[("run.toml", {"groupsize": 4})]) == (
        "Unknown setting 'groupsize' (run.toml). Did you mean 'group_size'? "
        "`tunestone config` lists all settings."
    )


def test_an_unknown_key_far_from_all_gets_no_guess():
    assert refusal("zzz=1") == (
        "Unknown setting 'zzz' (--set zzz=1). `tunestone config` lists all settings."
    )


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("epochs=0", "Input should be greater than or equal to 1."),
        ("epochs=51", "Input should be less than or equal to 50."),
        ("group_size=1", "Input should be greater than or equal to 2."),
        ("temperature=0", "Input should be greater than 0."),
        ("learning_rate=0.1", "Input should be less than or equal to 0.01."),
        ("top_p=1.5", "Input should be less than or equal to 1."),
        ("clip_low=1.0", "Input should be less than 1."),
        ("seed=4294967296", "Input should be less than 4294967296."),
        ("microbatch_tokens=63", "Input should be greater than or equal to 64."),
        ("epochs=1.5", "Input should be a valid integer, got a number with a fractional part."),
        ("learning_rate=nan", "Input should be a finite number."),
        ("model=3", "Input should be a valid string."),
    ],
)
def test_a_value_out_of_range_is_refused_with_key_origin_and_bound(assignment, message):
    key, _, value = assignment.partition("=")
    assert refusal(assignment) == f"{key} = {value} (--set {assignment}): {message}"


def test_a_refusal_names_the_layer_the_value_came_from():
    layers = [("recipe a", {"epochs": 2}), ("run.toml", {"batch_size": "many"})]
    assert refusal(layers=layers) == (
        "batch_size = 'many' (run.toml): Input should be a valid integer, unable to parse string "
        "as an integer."
    )


def test_all_wrong_values_are_named_at_once():
    text = refusal("epochs=0", "algorithm=ppo")
    assert "epochs = 0 (--set epochs=0)" in text
    assert "algorithm = 'ppo' (--set algorithm=ppo): Input should be 'dapo', 'grpo'" in text


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            {"refill_limit": 1, "kl_coefficient": 0.1},
            "refill_limit replaces groups without signal, but with kl_coefficient > 0 those groups "
            "do train. Set one of the two to 0.",
        ),
        (
            {"data": "a.jsonl", "validation": "a.jsonl"},
            "validation and data name the same file: the gain would be measured on what was "
            "trained. Leave validation empty or name another file.",
        ),
        (
            {"stop": ["END", ""]},
            "stop holds an empty string, which would end every completion at once.",
        ),
    ],
)
def test_impossible_combinations_are_refused_with_the_reason(settings, reason):
    assert refusal(layers=[("run.toml", settings)]) == reason


@pytest.mark.parametrize(
    "settings",
    [
        {"max_steps": 1},  # shorter than the warm-up by default
        {"max_steps": 5, "eval_every": 6},  # the last step is validated in any case
        {"refill_limit": 1, "kl_coefficient": 0.0},
        {"refill_limit": 0, "kl_coefficient": 0.1},
        {"data": "a.jsonl", "validation": "b.jsonl"},
        {"data": "", "validation": ""},
        {"stop": []},
    ],
)
def test_their_possible_neighbours_are_not(settings):
    config, _ = resolve(layers=[("run.toml", settings)])
    assert config.model_dump(include=set(settings)) == {
        key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()
    }


def test_testing_on_the_training_data_is_refused():
    assert "test and data name the same file" in refusal("data=a.jsonl", "test=a.jsonl")


def test_infinity_is_refused_since_it_cannot_be_written_as_json():
    assert "clip_high = inf" in refusal("clip_high=inf")


# --- assignments ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epochs=3", ("epochs", 3)),
        ("learning_rate=1e-5", ("learning_rate", 1e-5)),
        ("mask_truncated=true", ("mask_truncated", True)),
        ('model="a b"', ("model", "a b")),
        ("model=smollm2-135m", ("model", "smollm2-135m")),
        ("model=Qwen/Qwen3-0.6B", ("model", "Qwen/Qwen3-0.6B")),
        ("reward=my file.py:grade", ("reward", "my file.py:grade")),
        ("data=a=b.jsonl", ("data", "a=b.jsonl")),
        ("data=", ("data", "")),
        ('stop=["a", "b"]', ("stop", ["a", "b"])),
        (" epochs = 3 ", ("epochs", 3)),
    ],
)
def test_an_assignment_is_toml_or_a_bare_word(text, expected):
    key, value = parse_assignment(text)
    assert (key, value) == expected
    assert type(value) is type(expected[1])


@pytest.mark.parametrize("text", ["epochs", "=3", " = 3", ""])
def test_an_assignment_needs_a_key_and_an_equals_sign(text):
    with pytest.raises(ConfigError) as caught:
        parse_assignment(text)
    assert str(caught.value) == f"'--set {text}' is not of the form key=value."


def test_a_list_becomes_the_tuple_of_the_config():
    config, _ = resolve(assignments=['stop=["\\n\\n", "END"]'])
    assert config.stop == ("\n\n", "END")


# --- TOML files -----------------------------------------------------------------------------


def test_a_toml_file_is_read(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('model = "mädchen"\nstop = ["a"]\nepochs = 2\n', encoding="utf-8")
    assert read_toml(path) == {"model": "mädchen", "stop": ["a"], "epochs": 2}


def test_a_missing_toml_file_is_named(tmp_path):
    path = tmp_path / "none.toml"
    with pytest.raises(ConfigError) as caught:
        read_toml(path)
    assert str(caught.value) == f"There is no config file '{path}'."


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"epochs = = 2\n", "(at line 1, column 10)"),
        (b"epochs = 1\nepochs = 2\n", "line 2"),
        (b"model = '\xff'\n", "'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_a_broken_toml_file_is_refused_with_the_place(tmp_path, content, reason):
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_toml(path)
    assert str(caught.value).startswith(f"{path}: not a readable TOML file: ")
    assert reason in str(caught.value)


def test_a_folder_is_no_toml_file(tmp_path):
    with pytest.raises(ConfigError, match=r"not a readable TOML file: .*Is a directory"):
        read_toml(tmp_path)
