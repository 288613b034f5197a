"""Recipes and targets: every problem at once, with file, key and the nearest right name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgedistill.errors import RecipeError, TargetError
from edgedistill.recipe import Recipe, read_recipe
from edgedistill.target import Target, find_target, target_names

Write = Callable[..., Path]


def test_good_recipe_reads(recipe_file: Write) -> None:
    """A recipe of the documented form refused."""
    recipe = read_recipe(recipe_file())
    assert recipe.distill.losses == [{"kind": "soft_target", "weight": 1.0, "temperature": 2.0}]
    assert recipe.folder == recipe_file().parent


def test_unknown_key_offers_the_nearest(recipe_file: Write) -> None:
    """A misspelt key ignored in silence."""
    path = recipe_file(("learning_rate = 1e-3\nbelow_floor", "learnin_rate = 1e-3\nbelow_floor"))
    with pytest.raises(RecipeError) as error:
        read_recipe(path)
    assert str(error.value) == f'{path}: teacher.learnin_rate: unknown key. Did you mean "learning_rate"?'


def test_all_problems_at_once(recipe_file: Write) -> None:
    """One problem a run: fix, run, fix, run."""
    path = recipe_file(
        ("max_tokens = 32", 'max_tokens = "many"'), ('task = "classify"', 'task = "clasify"'), ("growth = 3", "growth = 0.5")
    )
    with pytest.raises(RecipeError) as error:
        read_recipe(path)
    lines = str(error.value).splitlines()
    assert lines[1:] == [
        '  task: there is no task called "clasify". Did you mean "classify"?',
        "  transfer.growth: input should be greater than or equal to 1, got 0.5.",
        "  student.max_tokens: input should be a valid integer, got 'many'.",
    ]


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (
            "steps         = 60",
            'steps = 60\nlosses = [{kind = "soft_tarket"}]',
            'distill.losses: there is no loss called "soft_tarket". Did you mean "soft_target"?',
        ),
        (
            "steps         = 60",
            'steps = 60\nlosses = [{kind = "soft_target", temprature = 1.0}]',
            'distill.losses: soft_target: temprature: unknown key. Did you mean "temperature"?',
        ),
        ("steps         = 60", "steps = 60\nlosses = [{weight = 1.0}]", "distill.losses: each loss needs its kind"),
        (
            'family     = "transformer"',
            'family = "transfomer"',
            'student: there is no student called "transfomer". Did you mean "transformer"?',
        ),
        ("accuracy_drop = 0.5", "accuracy_drop = 2", "budget.accuracy_drop: input should be less than 1, got 2"),
        ("accuracy_drop = 0.5", 'p90_ms = "20 ms"', "budget.p90_ms: input should be a valid number, got '20 ms'"),
        ('targets = ["laptop-x86"]', "targets = []", "compile.targets: list should have at least 1 item"),
        ('name = "tickets"', "", "name: missing. Write name = …"),
        ('label = "queue"', 'label = "queue"\ntraffic = {fil = "log.txt"}', 'data.traffic.fil: unknown key. Did you mean "file"?'),
        ('label = "queue"', 'label = "queue"\ntraffic = {file = "log.txt", split = "("}', "data.traffic.split: not a regular expression"),
        (
            'label = "queue"',
            'label = "queue"\ntraffic = [{file = "log.txt", pattern = "(?P<txt>.*)"}]',
            "data.traffic[0].pattern: the pattern needs a group called text",
        ),
        ('label = "queue"', 'label = "queue"\ntraffic = []', "data.traffic: list should have at least 1 item"),
        ('label = "queue"', 'label = "queue"\ntraffic = 3', "data.traffic: input should be"),
    ],
)
def test_each_mistake_has_its_sentence(recipe_file: Write, old: str, new: str, text: str) -> None:
    """A mistake answered with a traceback or with a sentence that names neither key nor cure."""
    with pytest.raises(RecipeError) as error:
        read_recipe(recipe_file((old, new)))
    assert text in str(error.value)
    assert error.value.exit_code == 2


def test_not_toml_and_not_there(tmp_path: Path) -> None:
    """A traceback for a file that is missing or is no TOML."""
    with pytest.raises(RecipeError, match=r"nothing\.toml: there is no such file"):
        read_recipe(tmp_path / "nothing.toml")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(RecipeError, match="not valid TOML"):
        read_recipe(tmp_path / "bad.toml")


@pytest.mark.parametrize("name", target_names())
def test_every_target_reads(name: str) -> None:
    """A target file with a mistake, or whose name is not its file's."""
    target = find_target(name)
    assert target.name == name
    here = ("local", "node", "browser")  # these are measured on this machine
    assert target.link.kind in here or "ot measured by us" in Path(f"targets/{name}.toml").read_text()


@pytest.mark.parametrize(
    ("new", "text"),
    [
        ("quotas = {typo = 0.1}", 'transfer: there is no slice "typo" to give a quota to. Did you mean "typos"?'),
        ("quotas = {typos = 0.7, digits = 0.5}", "transfer: the quotas add up to 1.2. Write shares that add up to 1 at most."),
        ("quotas = {typos = 0.0}", "transfer.quotas.typos: input should be greater than 0, got 0.0."),
        (
            "quotas = {vip = 0.1}",
            'transfer: the slice "vip" goes by a column, which grown texts do not have. Write a regular expression for it under [data.slices].',
        ),
        (
            "pool = 50",
            "transfer: pool says what to choose from, and nothing says how many to choose. Write calls = … under [teacher], or leave pool out.",
        ),
        ('choose = "best"', "transfer.choose: input should be 'active' or 'random', got 'best'."),
        ("held_out = 0.9", "transfer.held_out: input should be less than or equal to 0.5, got 0.9."),
    ],
)
def test_transfer_options_that_do_not_fit(recipe_file: Write, new: str, text: str) -> None:
    """A quota for a slice that nobody defined, met by nothing and missed by nobody; a pool that nothing chooses from."""
    path = recipe_file(
        ("growth = 3", f"growth = 3\n{new}"), ('label = "queue"', 'label = "queue"\nslices = {vip = {column = "tier", value = "1"}}')
    )
    with pytest.raises(RecipeError) as error:
        read_recipe(path)
    assert str(error.value) == f"{path}: {text}"


def test_calls_with_what_they_do_not_give(recipe_file: Write) -> None:
    """Teachers that are never asked, or an hour of calls before a loss finds that it has nothing to read."""
    calls = ("epochs        = 6", 'epochs = 6\ncalls = 100\nalso = [{model = "m", license = "mit"}]')
    with pytest.raises(RecipeError) as error:
        read_recipe(path := recipe_file(calls))
    assert str(error.value) == (f"{path}: teacher: a budget of calls is spent on one teacher. Leave calls out, or the teachers in also.")
    calls = ("epochs        = 6", "epochs = 6\ncalls = 100")
    with pytest.raises(RecipeError) as error:
        read_recipe(path := recipe_file(calls, ("steps         = 60", 'steps = 60\nlosses = [{kind = "distance_angle"}]')))
    assert str(error.value) == (
        f"{path}: distill: the loss distance_angle reads the teacher's vectors, and a call under teacher.calls gives logits alone. "
        "Leave calls out, or this loss."
    )


def test_a_budget_of_calls_makes_no_other_teacher(recipe_file: Write) -> None:
    """A teacher trained again because the number of calls was changed, or because this option came."""
    with_calls = read_recipe(recipe_file(("epochs        = 6", "epochs = 6\ncalls = 100"))).teacher
    without = read_recipe(recipe_file()).teacher
    assert with_calls.calls == 100 and "calls" not in without.model_dump()
    assert with_calls.model_copy(update={"calls": None}).model_dump() == without.model_dump()


def test_unknown_target_offers_the_nearest() -> None:
    """A misspelt target answered with a list of files."""
    with pytest.raises(TargetError) as error:
        find_target("laptop-x68", where="compile.targets")
    assert str(error.value) == 'compile.targets: there is no target called "laptop-x68". Did you mean "laptop-x86"?'


def test_target_with_unknown_scheme(tmp_path: Path) -> None:
    """A scheme that nothing implements, found an hour later."""
    text = Path("targets/laptop-x86.toml").read_text().replace('"onnx_int8_dynamic"', '"onnx_int8_dynamik"')
    (tmp_path / "t.toml").write_text(text)
    with pytest.raises(TargetError, match='there is no quantizer called "onnx_int8_dynamik". Did you mean "onnx_int8_dynamic"?'):
        find_target("t.toml", folder=tmp_path)


def test_recipe_budget_goes_over_the_targets() -> None:
    """A recipe's limit that drops the target's other limits."""
    from edgedistill.budget import Budget

    assert Budget(p90_ms=5).over(Budget(p90_ms=9, size_mb=1)) == Budget(p90_ms=5, size_mb=1)


def test_schemas_are_json_schemas() -> None:
    """A schema that editors cannot use: every key must carry its line of meaning or lead to a section."""
    for model in (Recipe, Target):
        schema = model.model_json_schema()
        assert schema["type"] == "object" and schema["additionalProperties"] is False
        for section in schema["$defs"].values():
            for name, field in section.get("properties", {}).items():
                assert "description" in field or section["title"] in {"SliceByColumn", "Link"}, f"{section['title']}.{name}"
