"""Messages for names that are not known."""

import pytest

from benchbench.core import errors

ZOO = ["nnunet", "slim_unetr", "swin_unetr", "unetr"]
HINT = "'bench list models' shows all"


def test_a_near_miss_is_answered_with_the_name_meant() -> None:
    assert errors.unknown("model", "slim-unet", ZOO, hint=HINT) == (
        "unknown model 'slim-unet': did you mean 'slim_unetr'? 'bench list models' shows all"
    )


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("unter", "unetr"),
        ("slim_unet", "slim_unetr"),
        ("SlimUNETR", "slim_unetr"),
        ("swin-unter", "swin_unetr"),
        ("nnunt", "nnunet"),
        ("nnnunet", "nnunet"),
    ],
)
def test_a_slip_of_one_or_two_letters_is_answered_with_the_name_meant(given: str, meant: str) -> None:
    assert errors.nearest(given, ZOO) == meant


@pytest.mark.parametrize("given", ["bundle", "resnet", "net", "tune", "model", "", "-", "swin"])
def test_a_name_of_something_else_is_not_taken_for_a_slip(given: str) -> None:
    assert errors.nearest(given, ZOO) is None
    assert "did you mean" not in errors.unknown("model", given, ZOO, hint=HINT)


@pytest.mark.parametrize("given", ["--in-channels", "--verbose", "--height"])
def test_a_flag_of_something_else_is_not_taken_for_help(given: str) -> None:
    assert errors.nearest(given, ["--help", "--format", "--out", "-h", "-v"]) is None


def test_a_flag_with_two_letters_swapped_is_answered_with_the_flag_meant() -> None:
    assert errors.nearest("--ouput", ["--help", "--output", "--format"]) == "--output"
    assert errors.nearest("--fromat", ["--help", "--output", "--format"]) == "--format"


def test_a_name_like_no_other_is_answered_with_where_to_look() -> None:
    many = [f"{name}{i}" for name in ZOO for i in range(4)]
    assert errors.unknown("model", "qqq", many, hint=HINT) == "unknown model 'qqq'; 'bench list models' shows all"


def test_a_few_names_are_all_given_before_where_to_look() -> None:
    found = errors.unknown("model", "qqq", ["b", "a"], hint=HINT)
    assert found == "unknown model 'qqq'; known: a, b; 'bench list models' shows all"


def test_without_a_place_to_look_every_name_is_given() -> None:
    assert errors.unknown("device", "qpu", ["cuda", "gaudi"]) == "unknown device 'qpu'; known: cuda, gaudi"


def test_with_nothing_known_the_message_still_names_what_was_asked() -> None:
    assert errors.unknown("data set", "x", []) == "unknown data set 'x'"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError, 2),
        (errors.ShapeError, 2),
        (errors.CardError, 2),
        (errors.DeviceError, 2),
        (errors.DataError, 2),
        (errors.StoreError, 2),
        (errors.CheckpointError, 2),
        (errors.UnsupportedError, 3),
        (errors.NotMeasuredError, 3),
    ],
)
def test_exit_codes_tell_wrong_use_from_what_could_not_be_measured(error: type[errors.BenchError], code: int) -> None:
    assert error("...").exit_code == code


def test_wrong_use_is_a_value_error_for_those_who_use_the_python_functions() -> None:
    with pytest.raises(ValueError, match="too small"):
        raise errors.ShapeError("too small")


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("bundle", ["unetr", "vnet", "unet3d"], None),
        ("--in-channels", ["--help", "--models", "--device"], None),
        ("rnu", ["run", "audit"], "run"),
        ("Slim-UNETR", ["slim_unetr", "unetr"], "slim_unetr"),
        ("--modles", ["--models", "--help"], "--models"),
        ("", ["a"], None),
    ],
)
def test_a_name_is_advised_only_if_it_is_near(name, known, meant):
    told = errors.unknown("name", name, known, hint="see --help")
    assert (f"did you mean {meant!r}" in told) if meant else ("did you mean" not in told)
