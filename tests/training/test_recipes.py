"""Recipes: the ones that come along are sound, mistakes are named."""

import pytest

from deepmir.errors import ConfigError
from deepmir.training.recipes import (
    parse_recipe,
    read_recipe,
    recipe_as_json,
    recipe_from_json,
    recipe_names,
)

TEXT = """
name = "mine"
part = "findings"
[network]
in_channels = 8
out_channels = 4
filters = [2, 3]
strides = [[1, 1, 1], [2, 2, 1]]
kernels = [[3, 3, 3], [3, 3, 3]]
norm = "batch"
[optimisation]
steps = 5
batch_size = 2
learning_rate = 0.1
"""


def test_the_released_recipes_come_along():
    assert recipe_names() == ("release-anatomy", "release-findings", "release-findings-hard")


@pytest.mark.parametrize(
    ("name", "part", "multiple", "channels"),
    [
        ("release-anatomy", "anatomy", (32, 32, 32), (6, 19)),
        ("release-findings", "findings", (8, 8, 4), (8, 4)),
        ("release-findings-hard", "findings", (8, 8, 4), (8, 4)),
    ],
)
def test_the_released_recipes_fit_the_contracts(name, part, multiple, channels):
    recipe = read_recipe(name)
    assert (recipe.name, recipe.part, recipe.network.multiple) == (name, part, multiple)
    assert (recipe.network.in_channels, recipe.network.out_channels) == channels
    assert not {13, 14, 15, 16} & set(recipe.train_heads)
    assert recipe.validation_heads == (13, 14)


@pytest.mark.parametrize("name", ["release-anatomy", "release-findings", "release-findings-hard"])
def test_shares_of_contrasts_sum_to_1(name):
    recipe = read_recipe(name)
    for sampling in (recipe.anatomy, recipe.findings):
        assert sum(share for _, share in sampling.subsets) == pytest.approx(1)


def test_a_recipe_survives_json():
    recipe = parse_recipe(TEXT, origin="here")
    assert recipe_from_json(recipe_as_json(recipe)) == recipe


def test_a_recipe_is_read_from_a_file(tmp_path):
    (tmp_path / "mine.toml").write_text(TEXT)
    assert read_recipe(tmp_path / "mine.toml").optimisation.steps == 5


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps = 5", "steps = 5\ncolour = 1", "unknown setting optimisation.colour"),
        ("steps = 5", "steps = 0", "optimisation.steps = 0"),
        ("steps = 5", "steps = ", "not TOML"),
        ('norm = "batch"', 'norm = "none"', "network.norm"),
        ('part = "findings"', 'part = "findings"\ntrain_heads = [1, 13]', r"\[13\] both train"),
    ],
)
def test_mistakes_are_named(old, new, message):
    with pytest.raises(ConfigError, match=f"here.*{message}"):
        parse_recipe(TEXT.replace(old, new), origin="here")


def test_a_missing_recipe_names_those_there_are():
    with pytest.raises(ConfigError, match="release-anatomy, release-findings"):
        read_recipe("release-everything")


def test_a_stored_recipe_of_another_version_is_refused():
    with pytest.raises(ConfigError, match="stored recipe"):
        recipe_from_json('{"name": "x"}')
