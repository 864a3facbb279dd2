"""Options of a run as a record, as flags and as run.cfg."""

import dataclasses

import pytest

from tfx_finetune.core import flagfile
from tfx_finetune.core.config import Phase, Run
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.options import iter_options, replace_options, validate


def parse(*arguments):
    return flagfile.parse_flags(["train", *arguments], Run())


def test_flags_set_nested_options():
    """Every option is a flag with its dotted name."""
    run, rest = parse(
        "--data=photos", "--finetune.epochs=3", "--nocache.enabled", "--frozen.learning_rate=1e-4", "a.jpg"
    )
    assert (run.data, run.finetune.epochs, run.cache.enabled, run.frozen.learning_rate) == ("photos", 3, False, 1e-4)
    assert rest == ["a.jpg"]
    assert run.finetune.learning_rate == Run().finetune.learning_rate


def test_written_options_are_read_back(tmp_path):
    """run.cfg reproduces the run; values may have any characters."""
    run = Run(data="my photos/ä #1", seed=7, exports="tflite(quantize='int8')", frozen=Phase(epochs=2, unfreeze="0.5"))
    flagfile.write_flagfile(run, tmp_path / "run.cfg", "a comment\nof two lines")
    assert parse(f"--flagfile={tmp_path / 'run.cfg'}")[0] == run


def test_command_line_wins_over_the_file_before_it(tmp_path):
    """With `--flagfile=x.cfg --finetune.epochs=3`, the last flag wins."""
    (tmp_path / "x.cfg").write_text("# comment\n--finetune.epochs=9\n--seed=4\n")
    run, _ = parse(f"--flagfile={tmp_path / 'x.cfg'}", "--finetune.epochs=3")
    assert (run.finetune.epochs, run.seed) == (3, 4)


def test_configs_are_in_the_package(tmp_path, monkeypatch):
    """`--flagfile=configs/mnist.cfg` works in every folder; a file with this path in the folder wins."""
    monkeypatch.chdir(tmp_path)
    assert parse("--flagfile=configs/mnist.cfg")[0].data == "idx(package='mnist')"
    with pytest.raises(UserError):
        parse("--flagfile=mnist.cfg")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mnist.cfg").write_text("--data=photos")
    assert parse("--flagfile=configs/mnist.cfg")[0].data == "photos"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--dta=x", "Did you mean --data?"),
        ("--finetune.epoch=3", "Did you mean --finetune.epochs?"),
        ("--finetune.epochs=many", "invalid literal"),
        ("--flagfile=/nowhere/x.cfg", "flagfile"),
    ],
)
def test_errors_in_flags(argument, message):
    """An unknown flag, an invalid value and a missing flag file are errors."""
    with pytest.raises(UserError) as error:
        parse(argument)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"finetune.epochs": -1}, "--finetune.epochs is out of range: -1. Expected: at least 0."),
        ({"split.test": 2.0}, "Expected: 0.01 to 0.9."),
        ({"image.resize": "squash"}, "Expected: pad, crop, stretch."),
        ({"seed": "x"}, "--seed has the wrong type: 'x'. Expected: int."),
        ({"verify.max_drop": float("nan")}, "out of range"),
    ],
)
def test_invalid_values(values, message):
    """Options of the Python API are checked like flags."""
    with pytest.raises(UserError) as error:
        validate(replace_options(Run(), values))
    assert message in str(error.value)


def test_every_option_is_explained():
    """--helpfull has a line for each flag, and no flag's name begins with another one and a dot."""
    names = [name for name, _, _ in iter_options(Run())]
    assert all(item.metadata["help"] for _, item, _ in iter_options(Run()))
    plain = {name for name in names if "." not in name}
    assert not {name.partition(".")[0] for name in names if "." in name} & plain
    assert "--finetune.epochs=5" in flagfile.format_usage("doc", Run(), full=True)
    assert "--frozen. --finetune.  Options of one training phase: epochs=20|5" in (flagfile.format_usage("doc", Run()))


def test_configuration_is_frozen():
    """No code changes an option during a run; derived values are in the plan."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Run().seed = 1


def test_a_preset_sets_the_phases_and_flags_change_them(tmp_path):
    """Other flags win over the preset, and run.cfg reproduces the phases."""
    run, _ = flagfile.parse_flags(["train", "--preset=fast", "--frozen.epochs=3"], Run())
    assert (run.frozen.epochs, run.frozen.augmented_views, run.finetune.epochs) == (3, 1, 0)
    assert Run(preset="fast", frozen=Phase(epochs=3)).finetune.epochs == 0
    assert Run().finetune == Run(preset="balanced").finetune != Run(preset="best").finetune
    flagfile.write_flagfile(run, tmp_path / "run.cfg")
    assert flagfile.parse_flags(["train", f"--flagfile={tmp_path / 'run.cfg'}"], Run())[0] == run
