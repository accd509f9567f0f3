"""The networks that are tried, each with its smallest input."""

from __future__ import annotations

from compress.core.registry import UnknownName

#: Pixels of a side for torchvision's networks that do not take 32.
TORCHVISION_PIXELS = {
    "alexnet": 64,
    "inception_v3": 75,
    "maxvit_t": 224,
    "squeezenet1_0": 64,
    "squeezenet1_1": 64,
    "swin_b": 64,
    "swin_s": 64,
    "swin_t": 64,
    "swin_v2_b": 64,
    "swin_v2_s": 64,
    "swin_v2_t": 64,
    "vit_b_32": 64,
    "vit_h_14": 28,
    "vit_l_32": 64,
}

#: A choice from the families of timm, and pixels of a side.
TIMM = {
    "resnet10t": 32,
    "resnet26d": 32,
    "resnet50": 32,
    "resnext26ts": 64,
    "seresnet50": 32,
    "skresnet18": 32,
    "resnest14d": 32,
    "res2net50_26w_4s": 32,
    "ecaresnet26t": 64,
    "cspresnet50": 64,
    "cspdarknet53": 64,
    "darknet53": 64,
    "dla34": 64,
    "densenet121": 32,
    "dpn48b": 64,
    "ese_vovnet19b_dw": 64,
    "hrnet_w18_small": 64,
    "inception_v4": 96,
    "xception41": 64,
    "repvgg_a0": 32,
    "vgg11_bn": 32,
    "regnetx_002": 32,
    "regnety_002": 32,
    "rexnet_100": 32,
    "mobilenetv3_large_100": 32,
    "mobilenetv4_conv_small": 32,
    "efficientnet_lite0": 32,
    "efficientnet_b0": 32,
    "tf_efficientnetv2_b0": 32,
    "mixnet_s": 32,
    "mnasnet_100": 32,
    "fbnetc_100": 32,
    "ghostnet_100": 32,
    "hardcorenas_a": 32,
    "lcnet_050": 32,
    "tinynet_a": 32,
    "mobileone_s0": 32,
    "hgnetv2_b0": 32,
    "selecsls42b": 64,
    "convnext_atto": 32,
    "convnextv2_atto": 32,
    "convmixer_768_32": 32,
    "inception_next_tiny": 64,
    "poolformer_s12": 64,
    "caformer_s18": 64,
    "starnet_s1": 32,
    "edgenext_xx_small": 64,
    "mobilevit_xxs": 64,
    "efficientvit_b0": 64,
    "fastvit_t8": 64,
    "vit_tiny_patch16_224": 32,
    "deit_tiny_patch16_224": 32,
    "deit3_small_patch16_224": 32,
    "beit_base_patch16_224": 32,
    "cait_xxs24_224": 32,
    "swin_tiny_patch4_window7_224": 64,
    "swinv2_tiny_window8_256": 64,
    "mixer_s32_224": 64,
    "resmlp_12_224": 32,
    "gmlp_ti16_224": 32,
    "levit_128s": 64,
    "pvt_v2_b0": 64,
    "twins_pcpvt_small": 64,
    "xcit_nano_12_p16_224": 64,
}

SETS = ("torchvision", "timm")


def networks(name: str) -> list[tuple[str, int]]:
    """Return (builder, pixels) of each network of a set, as "torchvision:resnet18".

    Raises:
        ValueError: No such set, or the package is not installed.
    """
    if name == "timm":
        return [(f"timm:{arch}", pixels) for arch, pixels in TIMM.items()]
    if name != "torchvision":
        raise UnknownName.among("set of networks", name, SETS)
    try:
        from torchvision import models
    except ModuleNotFoundError as error:
        raise ValueError("torchvision is not installed: install secateur[vision].") from error
    return [(f"torchvision:{arch}", TORCHVISION_PIXELS.get(arch, 32)) for arch in models.list_models(module=models)]
