from dataclasses import asdict

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


#: What the codes of HRNet, SimpleBaseline, HSR-MSNet and DITN share; each recipe below names what it changes.
COMMON = {
    "skeleton": "coco17",
    "options": "",
    "height": 256,
    "width": 192,
    "schedule": "steps",  # a tenth at each milestone: LR_FACTOR 0.1
    "optimizer": "adam",
    "lr": 0.001,
    "weight_decay": 0.0,  # HRNet's and SimpleBaseline's files name one, but their code gives Adam none
    "clip": 0.0,
    "ema": 0.0,
    "loss": "mse",
    "dynamic_weights": False,
    "sigma": 2.0,
    "half_body": 0.0,
    "close_up": 0.0,
    "colour": 0.0,
}
MPII = {"skeleton": "mpii16", "height": 256, "width": 256}
#: leoxiaobin/deep-high-resolution-net.pytorch, experiments/coco/hrnet/w32_256x192_adam_lr1e-3.yaml (4 GPUs of 32).
HRNET = {
    **COMMON,
    "model": "hrnet_w32",
    "epochs": 210,
    "milestones": "170,200",
    "batch": 128,
    "rotation": 45.0,
    "scale": 0.35,
    "half_body": 0.3,
}
#: The same, experiments/mpii/hrnet/w32_256x256_adam_lr1e-3.yaml, where PROB_HALF_BODY is -1.
HRNET_MPII = {**HRNET, **MPII, "rotation": 30.0, "scale": 0.25, "half_body": 0.0}
#: microsoft/human-pose-estimation.pytorch, experiments/coco/resnet50/256x192_d256x3_adam_lr1e-3.yaml; the batch is the
#: paper's (four GPUs of 32).
SIMPLEBASELINE = {
    **COMMON,
    "model": "simplebaseline_r50",
    "epochs": 140,
    "milestones": "90,120",
    "batch": 128,
    "rotation": 40.0,
    "scale": 0.3,
}
#: The same, experiments/mpii/resnet50/256x256_d256x3_adam_lr1e-3.yaml.
SIMPLEBASELINE_MPII = {**SIMPLEBASELINE, **MPII, "rotation": 30.0, "scale": 0.25}
#: Shiyijie66/HSR-MSNet, experiments/coco/hsr-msnet59/256x192_d256x3_adam_lr1e-3.yaml, and hsrnet59 likewise.
HSR_MSNET = {**SIMPLEBASELINE, "model": "hsr_msnet_59", "batch": 32, "weight_decay": 0.0001}
#: The same, 384x288_d256x3_adam_lr1e-3.yaml.
HSR_MSNET_LARGE = {**HSR_MSNET, "height": 384, "width": 288, "sigma": 3.0, "epochs": 160, "milestones": "110,140"}
#: DITN, Electronics 2023, 12, 695, section 4.1.2 and equations 6 to 10 (gamma 2, lambda 0.1).
DITN = {
    **COMMON,
    "model": "ditn_hrnet_w32",
    "optimizer": "adamw",
    "weight_decay": 0.0001,
    "epochs": 210,
    "milestones": "130,160",
    "batch": 32,
    "rotation": 30.0,
    "scale": 0.35,
    "loss": "ditn",
    "gamma": 2.0,
    "bone_weight": 0.1,
}
#: SG-HRNet, Traitement du Signal 2024, 41(5), section 4.3; radius of Table 3's best, weight of equation 7, dynamic
#: weights of equations 8 to 10.
SG_HRNET = {
    **COMMON,
    "model": "sg_hrnet_w32",
    "epochs": 210,
    "milestones": "170,200",
    "batch": 32,
    "rotation": 45.0,
    "scale": 0.35,
    "loss": "sg_hrnet",
    "segmentation_radius": 5.0,
    "segmentation_weight": 0.002,
    "dynamic_weights": True,
}
#: No publication: this project's own choice for LSP's 10,000 pictures.
DITN_LITE_LSP = {
    **DITN,
    "model": "ditn_lite",
    "skeleton": "lsp14",
    "epochs": 100,
    "batch": 8,
    "lr": 0.002,
    "weight_decay": 0.01,
    "schedule": "cycle",
    "ema": 0.998,
    "scale": 0.25,
    "close_up": 0.05,
    "colour": 0.2,
}
PUBLISHED = {
    "ditn_coco": DITN,
    "ditn_mpii": {**DITN, **MPII},
    "ditn_lsp": {**DITN, "skeleton": "lsp14", "schedule": "cycle", "colour": 0.2},
    "ditn_lite_lsp": DITN_LITE_LSP,
    "ditn_lite_lsp_int8": {**DITN_LITE_LSP, "epochs": 3, "lr": 0.00005, "ema": 0.0, "precision": "fp32"},
    "sg_hrnet_coco": SG_HRNET,
    "sg_hrnet_mpii": {**SG_HRNET, **MPII},
    "hsrnet_coco": {**HSR_MSNET, "model": "hsrnet_59"},
    "hsrnet_coco_384x288": {**HSR_MSNET_LARGE, "model": "hsrnet_59"},
    "hsr_msnet_coco": HSR_MSNET,
    "hsr_msnet_coco_384x288": HSR_MSNET_LARGE,
    "hrnet_coco": HRNET,
    "hrnet_mpii": HRNET_MPII,
    "simplebaseline_coco": SIMPLEBASELINE,
    "simplebaseline_mpii": SIMPLEBASELINE_MPII,
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_number_is_the_published_one(name):
    recipe = asdict(get_recipe(name))
    assert {key: recipe[key] for key in PUBLISHED[name]} == PUBLISHED[name]


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
        ("ditn_lsp", {"scale": "1"}, "scale must be from 0 to 0.99, got 1.0"),
        ("ditn_lsp", {"close_up": "-1"}, "close_up must be from 0 to 1, got -1.0"),
        ("ditn_lsp", {"ema": "1"}, "ema must be from 0 to 0.999999, got 1.0"),
        ("ditn_lsp", {"loss": "l3"}, "loss must be one of mse, ohkm, .*, got 'l3'"),
        ("ditn_lsp", {"milestones": "10;20"}, "'10;20' are not epochs"),
        ("ditn_lsp", {"options": "cab=maybe"}, "'cab=maybe' are not such as"),
    ],
)
def test_wrong_recipes_are_refused(name, overrides, message):
    with pytest.raises(UsageError, match=message):
        get_recipe(name, overrides)
