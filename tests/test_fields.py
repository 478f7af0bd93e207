"""What a field says of itself is all that the checks, the command line and the documentation know."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from rearec.cli.command import Common, command
from rearec.cli.options import options_of, unset_options, with_options
from rearec.errors import UserError
from rearec.fields import check_options, checked_values, documented, is_code, setting, settings


@documented
@dataclass(frozen=True)
class Recipe:
    """How a cake is made."""

    eggs: int = setting("How many.", default=3, panel="Dough", at_least=1)
    heat: float = setting("Of the oven.", default=180.0, panel="Oven", flags="--degrees", above=0, below=300)
    sugar: float = setting("In grams.", default=0.0, panel="Dough", at_least=0, methods=("sweet",))
    form: Literal["round", "square"] = setting(
        "What it is baked in.", default="round", more="Both are greased.", panel="Dough"
    )
    glazed: bool = setting("With sugar on top.", default=False, backbones=("sponge",))
    cream: str = setting("What is on top.", default="none", choices=Literal["none", "vanilla"], code=True)
    name: str | None = setting("What it is called.")
    seed: int = setting(at_least=0, below=2**63, default=0)

    def __post_init__(self) -> None:
        checked_values(self)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"eggs": 0}, "eggs: got 0, expected an integer, 1 or more"),
        ({"eggs": 2.0}, "eggs: got 2.0, expected an integer, 1 or more"),
        ({"eggs": True}, "eggs: got True, expected an integer, 1 or more"),
        ({"heat": 300}, "heat: got 300, expected a number between 0 and 300"),
        ({"heat": math.nan}, "heat: got nan, expected a number between 0 and 300"),
        ({"sugar": math.inf}, "sugar: got inf, expected a finite number, 0 or more"),
        ({"sugar": None}, "sugar: got None, expected a finite number, 0 or more"),
        ({"form": "heart"}, "form: got 'heart', expected one of round, square"),
        ({"cream": "mint"}, "cream: got 'mint', expected one of none, vanilla or module:factory"),
        ({"cream": "my.kitchen:"}, "cream: got 'my.kitchen:', expected one of none, vanilla or module:factory"),
        ({"glazed": 1}, "glazed: got 1, expected true or false"),
        ({"name": ""}, "name: got '', expected text"),
        ({"seed": 2**63}, f"seed: got {2**63}, expected an integer in [0, 2**63)"),
    ],
)
def test_a_wrong_value_is_told_from_the_type_and_the_range(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        Recipe(**changes)
    assert str(caught.value) == expected


def test_options_are_checked_by_their_names_on_the_command_line() -> None:
    @dataclass(frozen=True)
    class Options:
        heat: float | None = setting("Of the oven.", flags="--degrees", at_least=0)
        form: Literal["round", "square"] | None = setting("What it is baked in.")

    check_options(Options())
    for options, expected in (
        (Options(heat=-1.0), "--degrees must be at least 0, got -1.0"),
        (Options(heat=math.nan), "--degrees must be a finite number, got nan"),
        (Options(form="heart"), "unknown form 'heart'; known are round, square"),  # type: ignore[arg-type]
    ):
        with pytest.raises(UserError) as caught:
            check_options(options)
        assert str(caught.value) == expected


def test_the_docstring_goes_on_with_the_fields() -> None:
    assert Recipe.__doc__ is not None and Recipe.__doc__.startswith("How a cake is made.\n")
    assert "form: What it is baked in. Both are greased. Default: 'round'." in Recipe.__doc__


def test_who_reads_a_setting() -> None:
    known = settings(Recipe)
    assert known["sugar"].not_read_by("sponge", "salty") == "salty"
    assert known["glazed"].not_read_by("crust", "sweet") == "crust"
    assert known["glazed"].not_read_by("sponge", "salty") is None
    assert known["sugar"].not_read_by("sponge", None) is None
    assert known["eggs"].not_read_by("crust", "salty") is None
    # what is the user's own may read everything
    assert known["sugar"].not_read_by("sponge", "my.recipes:sour") is None
    assert known["glazed"].not_read_by("own", "own") is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("kitchen:mint", True),
        ("my.kitchen:Creams.mint", True),
        ("küche:crème", True),
        ("kitchen", False),
        ("my kitchen:mint", False),
        ("kitchen:", False),
        (":mint", False),
        ("C:\\kitchen", False),
        ("kitchen.:mint", False),
        ("kitchen:1", False),
        (3, False),
    ],
)
def test_what_is_a_name_of_code(name: Any, expected: bool) -> None:
    assert is_code(name) is expected


def make_app(seen: list[Any]) -> typer.Typer:
    app = typer.Typer()

    @app.command()
    @with_options(recipe=options_of(Recipe), panels=("Oven", "Dough"))
    @command
    def bake(recipe: dict[str, Any], guests: int = 4, common: Common = Common(threads=2)) -> None:
        seen.append((Recipe(**recipe), guests, common))

    @app.command()
    @with_options(changes=unset_options(Recipe, {"eggs": "as usual"}))
    @command
    def change(changes: dict[str, Any], common: Common = Common()) -> None:
        seen.append(changes)

    return app


def test_a_command_gets_an_option_for_each_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rearec.cli.command.set_threads", lambda threads: None)
    seen: list[Any] = []
    app, run = make_app(seen), CliRunner().invoke
    assert run(app, ["bake", "--degrees", "200", "--form", "square", "--glazed", "--seed", "5"]).exit_code == 0
    assert run(app, ["change", "--eggs", "2"]).exit_code == 0 and run(app, ["change"]).exit_code == 0
    baked, *changes = seen
    # A field without a help is no option: --seed is the common one.
    assert baked == (Recipe(heat=200.0, form="square", glazed=True), 4, Common(seed=5, threads=2))
    assert changes == [{"eggs": 2}, {"eggs": None}]
    refused = run(app, ["bake", "--eggs", "0"])
    assert refused.exit_code == 2 and "--eggs" in refused.output and len(seen) == 3
    assert run(app, ["bake", "--cream", "my.kitchen:mint"]).exit_code == 0
    assert seen.pop()[0].cream == "my.kitchen:mint"
    refused = run(app, ["bake", "--cream", "mint"], env={"COLUMNS": "200"})
    assert refused.exit_code == 2 and "expected one of none, vanilla or module:factory of your own" in refused.output


def test_help_has_the_panels_in_the_order_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    text = CliRunner().invoke(make_app([]), ["bake", "--help"], env={"COLUMNS": "120"}).output
    assert text.index(" Options ") < text.index(" Oven ") < text.index(" Dough ")
    assert "[default: 180.0]" in text and "<round|square>" in text
    assert "as usual" in CliRunner().invoke(make_app([]), ["change", "--help"], env={"COLUMNS": "120"}).output
