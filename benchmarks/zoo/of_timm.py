"""timm: one model, or a few, of every family of image models it has."""

from __future__ import annotations

from functools import partial

import torch

from . import _torchvision_operators
from .case import Case

# name, or name:size of the image where it cannot be 64
_CONVOLUTIONAL = """
    botnet26t_256:256 halonet26t:256 lambda_resnet26t:256 bat_resnext26ts:256 gcresnext26ts gernet_s repvgg_a0
    mobileone_s0 convmixer_768_32 convnext_atto convnext_atto_rms convnextv2_atto csatv2 darknet53 cs3darknet_s
    cspnext_tiny densenet121 dla34 dla60x_c dpn48b edgenext_xx_small efficientnet_b0 tf_efficientnet_b0
    efficientnet_lite0 mixnet_s tinynet_e fasternet_t0 fastvit_t8 focalnet_tiny_srf ghostnet_050 ghostnetv2_100
    ghostnetv3_050 hardcorenas_a hgnetv2_b0 hrnet_w18_small inception_next_atto inception_v4:96 lcnetv2_small
    mambaout_femto poolformer_s12 mobilenetv3_small_050 lcnet_035 mobilenetv4_conv_small nf_regnet_b0 eca_nfnet_l0
    rdnet_tiny regnety_002 regnetz_b16 repghostnet_050 repvit_m0_9 res2net50_14w_8s resnest14d resnet10t seresnet18
    ecaresnet26t resnetblur18 resnetv2_50 resnetv2_50x1_bit resnetv2_50d_gn resnetv2_50d_evos rexnet_100 selecsls42
    legacy_seresnet18 skresnet18 starnet_s050 tresnet_m ese_vovnet19b_slim_dw xception41
"""
_ATTENTION = """
    cpubone_nano davit_tiny efficientformer_l1:224 efficientvim_m1 efficientvit_b0 efficientvit_m0 iformer_t
    lowformer_b0 caformer_s18 mobilevit_xxs mobilevitv2_050 mvitv2_tiny nextvit_small pvt_v2_b0 sam2_hiera_tiny
    sequencer2d_s shvit_s1 swiftformer_xs tiny_vit_5m_224 twins_svt_small xcit_nano_12_p16_224
    test_vit crossvit_tiny_240
"""
# those that are made for one size of image
_SIZED = """
    beit_base_patch16_224 cait_xxs24_224 coat_tiny coat_lite_tiny convit_tiny deit_tiny_distilled_patch16_224
    deit3_small_patch16_224 efficientformerv2_s0 eva02_tiny_patch14_224 gcvit_xxtiny hiera_tiny_224 levit_128s
    coatnet_nano_rw_224 maxvit_rmlp_pico_rw_256 mixer_s32_224 resmlp_12_224 gmlp_ti16_224 nest_tiny pit_ti_224
    swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224 tnt_s_patch16_224 visformer_tiny
    vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 test_vit_relpos vitamin_small_224 volo_d1_224
    vit_wee_patch16_reg1_gap_256
"""
_SHALLOW = {"beit_base_patch16_224": {"depth": 2, "embed_dim": 96, "num_heads": 3}}


def cases() -> list[Case]:
    by_hand = _torchvision_operators.define()  # timm imports torchvision
    import timm

    if by_hand:
        _torchvision_operators.complete()
    found = []
    for kind, names in (("convolutional", _CONVOLUTIONAL), ("attention", _ATTENTION), ("attention", _SIZED)):
        for entry in names.split():
            name, _, size = entry.partition(":")
            size = int(size or 64)
            options = {"num_classes": 5, **_SHALLOW.get(name, {})}
            if names is _SIZED:
                options["img_size"] = size
            found.append(Case("timm", kind, name, partial(timm.create_model, name, **options), partial(_images, size)))
    return found


def _images(size: int, batch: int) -> torch.Tensor:
    return torch.randn(batch, 3, size, size)
