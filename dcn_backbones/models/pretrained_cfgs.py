"""Where the models' weights come from: the ones inside this package, and timm's, converted while loading."""

import json
from dataclasses import replace
from pathlib import Path

from timm.models import PretrainedCfg, get_pretrained_cfg

EMBEDDED_WEIGHTS = Path(__file__).parent.parent / "weights"

# timm's tags for each backbone. The first is its best recipe under a licence for any use; then comes a plain
# recipe like the papers' (torchvision's; for ResNeXt, where that is missing, GluonCV's is both); the ones of
# Facebook (`fb_`) are better still, under a non-commercial licence.
_WARM_TAGS = {
    "resnet18": ("a1_in1k", "tv_in1k", "gluon_in1k", "fb_swsl_ig1b_ft_in1k"),
    "resnet50": ("a1_in1k", "tv_in1k", "gluon_in1k", "fb_swsl_ig1b_ft_in1k"),
    "resnet101": ("a1h_in1k", "tv_in1k", "gluon_in1k", "a1_in1k"),
    "resnext101_32x4d": ("gluon_in1k", "fb_ssl_yfcc100m_ft_in1k", "fb_swsl_ig1b_ft_in1k"),
}


def zoo_cfgs(embedded_weights: Path = EMBEDDED_WEIGHTS) -> dict[str, PretrainedCfg]:
    """Every ``<model>.<tag>`` of the zoo with its configuration; a model's first tag is its default.

    Args:
        embedded_weights: Folder of folders named ``<model>.<tag>``, each in timm's ``local-dir:`` layout.
    """
    return {**_embedded_cfgs(embedded_weights), **_warm_cfgs()}


def _embedded_cfgs(folder: Path) -> dict[str, PretrainedCfg]:
    weights = sorted(folder.glob("dcnv*.*/model.safetensors"))
    return {file.parent.name: _embedded_cfg(file) for file in weights}


def _embedded_cfg(weights: Path) -> PretrainedCfg:
    config = json.loads(weights.with_name("config.json").read_text(encoding="utf-8"))
    fields = dict(config["pretrained_cfg"], file=str(weights))
    for name in ("num_classes", "label_names", "label_descriptions"):  # timm keeps these one level up
        if name in config:
            fields[name] = config[name]
    return PretrainedCfg(**fields)


def _warm_cfgs() -> dict[str, PretrainedCfg]:
    return {
        f"{generation}_{backbone}.warm_{tag}": _warm_cfg(f"{backbone}.{tag}")
        for generation in ("dcnv1", "dcnv2")
        for backbone, tags in _WARM_TAGS.items()
        for tag in tags
    }


def _warm_cfg(source: str) -> PretrainedCfg:
    """timm's own configuration of ``<backbone>.<tag>``, its preprocessing and licence with it."""
    return replace(
        get_pretrained_cfg(source),
        url=None,  # the Hub's file only: one source of the weights, in safetensors
        hf_hub_id=f"timm/{source}",
        architecture=None,  # timm fills in the name of the model that registers it
        tag=None,
        description=f"Starting point, not a trained deformable network: computes what {source} computes.",
    )
