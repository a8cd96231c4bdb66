"""Messages for names that are not known."""

import pytest

from benchbench.core import errors

ZOO = ["nnunet", "slim_unetr", "swin_unetr", "unetr"]
HINT = "'bench list models' shows all"


def test_a_near_miss_is_answered_with_the_name_meant() -> None:
    assert errors.unknown("model", "slim-unet", ZOO, hint=HINT) == (
        "unknown model 'slim-unet': did you mean 'slim_unetr'? 'bench list models' shows all"
    )


FLAGS = ["--help", "--format", "--output", "--models", "-h", "-v"]


@pytest.mark.parametrize(
    ("given", "known", "meant"),
    [
        ("unter", ZOO, "unetr"),
        ("slim_unet", ZOO, "slim_unetr"),
        ("SlimUNETR", ZOO, "slim_unetr"),
        ("Slim-UNETR", ZOO, "slim_unetr"),
        ("swin-unter", ZOO, "swin_unetr"),
        ("nnunt", ZOO, "nnunet"),
        ("nnnunet", ZOO, "nnunet"),
        ("rnu", ["run", "audit"], "run"),
        ("--ouput", FLAGS, "--output"),
        ("--fromat", FLAGS, "--format"),
        ("--modles", FLAGS, "--models"),
        *((given, ZOO, None) for given in ("bundle", "resnet", "net", "tune", "model", "", "-", "swin")),
        *((given, FLAGS, None) for given in ("--in-channels", "--verbose", "--height")),
    ],
)
def test_a_slip_of_one_or_two_letters_is_answered_with_the_name_meant_and_nothing_else_is(given, known, meant) -> None:
    assert errors.nearest(given, known) == meant
    assert ("did you mean" in errors.unknown("name", given, known, hint=HINT)) == (meant is not None)


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
