"""Recipes: the ones that come along are sound, mistakes are named."""

import pytest

from deepmir.errors import ConfigError
from deepmir.labels import Finding
from deepmir.model.unet import paper_spec
from deepmir.training.recipes import (
    parse_recipe,
    read_recipe,
    recipe_as_json,
    recipe_from_json,
    recipe_names,
    with_slices,
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


def test_these_recipes_come_along():
    assert set(recipe_names()) >= {
        "fine-tune", "paper-multi", "paper-single", "release-anatomy", "release-anatomy-gpu",
        "release-findings", "release-findings-gpu", "release-findings-hard",
    }  # fmt: skip


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_that_comes_along_is_sound(name):
    recipe = read_recipe(name)
    assert recipe.name == name
    assert recipe_from_json(recipe_as_json(recipe)) == recipe


@pytest.mark.parametrize(("name", "findings"), [("paper-single", 1), ("paper-multi", 2)])
def test_the_papers_recipes_are_as_published(name, findings):
    recipe = read_recipe(name)
    network, optimisation, slices = recipe.network, recipe.optimisation, recipe.slices
    assert network == paper_spec(in_channels=3, out_channels=2 * findings - 1)
    assert (optimisation.epochs, optimisation.batch_size) == (30, 8)
    assert (optimisation.learning_rate, optimisation.decay) == (1e-3, "constant")
    assert (optimisation.weight_decay, optimisation.ema_decay, optimisation.warmup_steps) == (
        0,
        0,
        0,
    )
    assert (slices.size, slices.largest_turn_deg, slices.largest_shift) == (256, 178, 45)
    assert recipe.schedule.best_by == "loss"
    assert len(slices.findings) == findings


SLICES = """
name = "slices"
part = "slices"
[network]
in_channels = 3
out_channels = 3
filters = [2, 3]
strides = [[1, 1, 1], [2, 2, 1]]
kernels = [[3, 3, 1], [3, 3, 1]]
norm = "batch"
dimensions = 2
[optimisation]
epochs = 5
batch_size = 2
learning_rate = 0.1
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("dimensions = 2", "", "set network.dimensions = 2"),
        ("in_channels = 3", "in_channels = 2", "in_channels is 2 for the inputs"),
        ("out_channels = 3", "out_channels = 1", "out_channels is 1, wanted 3"),
        ("epochs = 5", "", "either optimisation.steps or optimisation.epochs"),
        ("epochs = 5", "epochs = 5\nsteps = 5", "either optimisation.steps or"),
        ("[optim", "supervised_levels = 1\n[optim", "the slices part has one output"),
        ("[optim", "[slices]\nsize = 255\n[optim", "slices.size is 255, wanted a multiple of 2"),
        ("[optim", "[slices]\ninputs = ['CT']\n[optim", r"slices.inputs.0 = 'CT'"),
        ("[optim", "[slices]\ncolour = 1\n[optim", "unknown setting slices.colour"),
    ],
)
def test_mistakes_in_recipes_of_slices_are_named(old, new, message):
    assert parse_recipe(SLICES, origin="here").optimisation.epochs == 5
    with pytest.raises(ConfigError, match=f"here.*{message}"):
        parse_recipe(SLICES.replace(old, new), origin="here")


def test_inputs_and_findings_of_a_recipe_of_slices_can_be_others():
    recipe = with_slices(read_recipe("paper-multi"), inputs=("swi",), findings=("IRON",))
    assert (recipe.network.in_channels, recipe.network.out_channels) == (1, 1)
    assert recipe.slices.classes == (Finding.IRON,)
    with pytest.raises(ConfigError, match=r"slices\.findings"):
        with_slices(read_recipe("paper-multi"), inputs=("swi",), findings=("TUMOUR",))


@pytest.mark.parametrize(
    ("name", "part", "multiple", "channels"),
    [
        ("release-anatomy", "anatomy", (32, 32, 32), (6, 19)),
        ("release-nuclei", "nuclei", (8, 8, 8), (10, 5)),
        ("release-findings", "findings", (8, 8, 4), (8, 4)),
        ("release-findings-hard", "findings", (8, 8, 4), (8, 4)),
        ("release-anatomy-gpu", "anatomy", (32, 32, 32), (6, 19)),
        ("release-findings-gpu", "findings", (8, 8, 4), (8, 4)),
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
        ("steps = 5", "epochs = 5", "the findings part draws at random and has no epochs"),
        ('norm = "batch"', 'norm = "none"', "network.norm"),
        ('part = "findings"', 'part = "findings"\ntrain_heads = [1, 13]', r"\[13\] both train"),
    ],
)
def test_mistakes_are_named(old, new, message):
    with pytest.raises(ConfigError, match=f"here.*{message}"):
        parse_recipe(TEXT.replace(old, new), origin="here")


def test_a_stored_recipe_of_another_version_is_refused():
    with pytest.raises(ConfigError, match="stored recipe"):
        recipe_from_json('{"name": "x"}')


@pytest.mark.parametrize(
    ("name", "words"),
    [("release", "release-anatomy or release-anatomy-gpu or"), ("mine", "give a TOML file")],
)
def test_an_unknown_recipe_is_refused_with_what_there_is(name, words):
    with pytest.raises(ConfigError, match=f"no recipe {name}.*{words}.*paper-multi"):
        read_recipe(name)
