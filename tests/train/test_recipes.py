import pytest

pytest.importorskip("torch")

from edgepose.core.errors import UsageError
from edgepose.train.recipes import RECIPES, get_recipe


def test_every_recipe_names_a_model_and_a_skeleton():
    from edgepose.core.skeletons import SKELETONS
    from edgepose.models import MODELS

    for name, recipe in RECIPES.items():
        assert recipe.model in MODELS, name
        assert recipe.skeleton in SKELETONS, name


#: What each paper prints: optimiser, rate, epochs, milestones, batch, rotation, scale.
PUBLISHED = {
    "ditn_coco": ("adamw", 1e-3, 210, [130, 160], 32, 30, (0.65, 1.35)),
    "ditn_mpii": ("adamw", 1e-3, 210, [130, 160], 32, 30, (0.65, 1.35)),
    "sg_hrnet_coco": ("adam", 1e-3, 210, [170, 200], 32, 45, (0.65, 1.35)),
    "sg_hrnet_mpii": ("adam", 1e-3, 210, [170, 200], 32, 45, (0.65, 1.35)),
    "hsr_msnet_coco": ("adam", 1e-4, 140, [90, 120], 32, 40, (0.65, 1.35)),
    "hrnet_coco": ("adam", 1e-3, 210, [170, 200], 128, 45, (0.65, 1.35)),
    "simplebaseline_coco": ("adam", 1e-3, 140, [90, 120], 128, 40, (0.7, 1.3)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_schedules_are_the_published_ones(name):
    r = get_recipe(name)
    got = r.optimizer, r.lr, r.epochs, r.milestone_epochs, r.batch, r.rotation, (r.scale_low, r.scale_high)
    assert got == PUBLISHED[name]


def test_any_field_can_be_replaced_by_text():
    changes = {"epochs": "3", "lr": "0.5", "model": "hrnet_w48", "dynamic_weights": "true", "options": "cab=false,k=3"}
    recipe = get_recipe("ditn_coco", changes)
    assert (recipe.epochs, recipe.lr, recipe.model, recipe.dynamic_weights) == (3, 0.5, "hrnet_w48", True)
    assert recipe.model_options == {"cab": False, "k": 3}
    assert get_recipe("ditn_coco").epochs == 210


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("x", {}, "unknown recipe 'x': expected one of ditn_coco"),
        ("ditn_lsp", {"learning_rate": "1"}, "no field 'learning_rate': expected one of model"),
        ("ditn_lsp", {"epochs": "many"}, "'many' is not of type int"),
        ("ditn_lsp", {"dynamic_weights": "yes"}, "'yes' is not of type bool"),
        ("ditn_lsp", {"epochs": "0"}, "epochs must be at least 1, got 0"),
        ("ditn_lsp", {"lr": "nan"}, r"lr must be from 1e-12 to 1e\+30, got nan"),
        ("ditn_lsp", {"lr": "-1"}, "lr must be from 1e-12"),
        ("ditn_lsp", {"seed": "-1"}, "seed must be from 0"),
        ("ditn_lsp", {"sigma": "0"}, "sigma must be from 0.1"),
        ("ditn_lsp", {"clip": "-1"}, "clip must be from 0"),
        ("ditn_lsp", {"half_body": "7"}, "half_body must be from 0 to 1, got 7.0"),
        ("ditn_lsp", {"rotation": "nan"}, "rotation must be from 0 to 180, got nan"),
        ("ditn_lsp", {"scale_low": "2"}, "scale_low <= scale_high"),
        ("ditn_lsp", {"ema": "1"}, "ema must be from 0 to 0.999999, got 1.0"),
        ("ditn_lsp", {"loss": "l3"}, "loss must be one of mse, ohkm, .*, got 'l3'"),
        ("ditn_lsp", {"milestones": "10;20"}, "'10;20' are not epochs"),
        ("ditn_lsp", {"options": "cab=maybe"}, "'cab=maybe' are not such as"),
    ],
)
def test_wrong_recipes_are_refused(name, overrides, message):
    with pytest.raises(UsageError, match=message):
        get_recipe(name, overrides)
