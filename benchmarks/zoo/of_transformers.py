"""transformers: encoders, decoders, both, vision, audio and mixtures of experts, all of a few small layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from . import _torchvision_operators
from .case import Case

_VOCABULARY = 99
_TEXT = {
    "vocab_size": _VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "use_cache": False,
}  # fmt: skip
_GROUPED = {**_TEXT, "num_key_value_heads": 2, "head_dim": 8}
_EXPERTS = {**_GROUPED, "moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
_GPT = {
    "vocab_size": _VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4,
    "bos_token_id": 1, "eos_token_id": 2, "use_cache": False,
}  # fmt: skip
_BART = {
    "vocab_size": _VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "use_cache": False,
}  # fmt: skip
_T5 = {
    "vocab_size": _VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4,
    "decoder_start_token_id": 0, "use_cache": False,
}  # fmt: skip
_VISION = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 32,
    "patch_size": 8, "num_labels": 3,
}  # fmt: skip
_STAGES = {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2, "num_labels": 3}
_SPEECH = {
    "vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "conv_dim": (16, 16), "conv_stride": (5, 4), "conv_kernel": (10, 8), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "apply_spec_augment": False,
}  # fmt: skip


def _ids(batch: int, length: int = 12) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, _VOCABULARY, (batch, length))
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _unmasked(batch: int) -> dict[str, torch.Tensor]:
    return {"input_ids": _ids(batch)["input_ids"]}


def _both(batch: int) -> dict[str, torch.Tensor]:
    return {**_ids(batch), "decoder_input_ids": torch.randint(3, _VOCABULARY, (batch, 7))}


def _pixels(batch: int, size: int = 32) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(batch, 3, size, size)}


def _text_and_pixels(batch: int) -> dict[str, torch.Tensor]:
    return {**_ids(batch), **_pixels(batch)}


def _wave(batch: int) -> dict[str, torch.Tensor]:
    return {"input_values": torch.randn(batch, 800)}


def _boxes(batch: int) -> dict[str, torch.Tensor]:
    corner = torch.randint(0, 50, (batch, 12, 2))
    return {**_ids(batch), "bbox": torch.cat((corner, corner + 10), dim=-1)}


def _whisper(batch: int) -> dict[str, torch.Tensor]:
    return {
        "input_features": torch.randn(batch, 8, 32),
        "decoder_input_ids": torch.randint(3, _VOCABULARY, (batch, 5)),
    }


def _filterbank(batch: int) -> dict[str, torch.Tensor]:
    return {"input_features": torch.randn(batch, 32, 8), "decoder_input_ids": torch.randint(3, 99, (batch, 5))}


def _series(batch: int) -> dict[str, torch.Tensor]:
    return {"past_values": torch.randn(batch, 32, 3)}


# kind: (name, model, config, its settings, sample)
_ENTRIES: dict[str, list[tuple[str, str, str, dict[str, Any], Callable]]] = {
    "encoder": [
        ("bert", "BertForMaskedLM", "BertConfig", _TEXT, _ids),
        ("roberta", "RobertaForSequenceClassification", "RobertaConfig", _TEXT, _ids),
        ("distilbert", "DistilBertForMaskedLM", "DistilBertConfig",
         {"vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}, _ids),
        ("albert", "AlbertForMaskedLM", "AlbertConfig", {**_TEXT, "embedding_size": 16}, _ids),
        ("electra", "ElectraForPreTraining", "ElectraConfig", {**_TEXT, "embedding_size": 16}, _ids),
        ("deberta_v2", "DebertaV2ForMaskedLM", "DebertaV2Config",
         {**_TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}, _ids),
        ("mpnet", "MPNetForMaskedLM", "MPNetConfig", _TEXT, _ids),
        ("modernbert", "ModernBertForMaskedLM", "ModernBertConfig",
         {**_TEXT, "cls_token_id": 1, "sep_token_id": 2, "local_attention": 8}, _ids),
        ("roformer", "RoFormerForMaskedLM", "RoFormerConfig", {**_TEXT, "embedding_size": 32}, _ids),
        ("squeezebert", "SqueezeBertForMaskedLM", "SqueezeBertConfig", {**_TEXT, "embedding_size": 32}, _ids),
        ("mobilebert", "MobileBertForMaskedLM", "MobileBertConfig",
         {**_TEXT, "embedding_size": 16, "intra_bottleneck_size": 16, "num_feedforward_networks": 2}, _ids),
        ("convbert", "ConvBertForMaskedLM", "ConvBertConfig", {**_TEXT, "embedding_size": 32}, _ids),
        ("fnet", "FNetForMaskedLM", "FNetConfig", _TEXT, _unmasked),
        ("funnel", "FunnelForMaskedLM", "FunnelConfig",
         {"vocab_size": 99, "block_sizes": [1, 1], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64}, _ids),
        ("longformer", "LongformerForMaskedLM", "LongformerConfig", {**_TEXT, "attention_window": 4}, _ids),
        ("big_bird", "BigBirdForMaskedLM", "BigBirdConfig", {**_TEXT, "attention_type": "original_full"}, _ids),
        ("esm", "EsmForMaskedLM", "EsmConfig", {**_TEXT, "position_embedding_type": "rotary"}, _ids),
        ("layoutlm", "LayoutLMForMaskedLM", "LayoutLMConfig", _TEXT, _boxes),
    ],
    "decoder": [
        ("gpt2", "GPT2LMHeadModel", "GPT2Config", _GPT, _ids),
        ("gptj", "GPTJForCausalLM", "GPTJConfig", _GPT, _ids),
        ("codegen", "CodeGenForCausalLM", "CodeGenConfig", _GPT, _ids),
        ("gpt_neo", "GPTNeoForCausalLM", "GPTNeoConfig",
         {**_TEXT, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]}, _ids),
        ("gpt_neox", "GPTNeoXForCausalLM", "GPTNeoXConfig", _TEXT, _ids),
        ("llama", "LlamaForCausalLM", "LlamaConfig", _GROUPED, _ids),
        ("mistral", "MistralForCausalLM", "MistralConfig", {**_GROUPED, "sliding_window": 8}, _ids),
        ("gemma2", "Gemma2ForCausalLM", "Gemma2Config", {**_GROUPED, "sliding_window": 8}, _ids),
        ("gemma3", "Gemma3ForCausalLM", "Gemma3TextConfig", {**_GROUPED, "sliding_window": 8}, _ids),
        ("qwen2", "Qwen2ForCausalLM", "Qwen2Config", {**_GROUPED, "tie_word_embeddings": True}, _ids),
        ("qwen3", "Qwen3ForCausalLM", "Qwen3Config", _GROUPED, _ids),
        ("phi", "PhiForCausalLM", "PhiConfig", _TEXT, _ids),
        ("phi3", "Phi3ForCausalLM", "Phi3Config", _GROUPED, _ids),
        ("falcon", "FalconForCausalLM", "FalconConfig", _TEXT, _ids),
        ("bloom", "BloomForCausalLM", "BloomConfig", {**_TEXT, "n_layer": 2, "n_head": 4}, _ids),
        ("mpt", "MptForCausalLM", "MptConfig",
         {"vocab_size": 99, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64, "use_cache": False}, _ids),
        ("opt", "OPTForCausalLM", "OPTConfig", {**_TEXT, "ffn_dim": 64, "word_embed_proj_dim": 32}, _ids),
        ("stablelm", "StableLmForCausalLM", "StableLmConfig", _GROUPED, _ids),
        ("starcoder2", "Starcoder2ForCausalLM", "Starcoder2Config", _GROUPED, _ids),
        ("olmo2", "Olmo2ForCausalLM", "Olmo2Config", _GROUPED, _ids),
        ("cohere", "CohereForCausalLM", "CohereConfig", _GROUPED, _ids),
        ("granite", "GraniteForCausalLM", "GraniteConfig", _GROUPED, _ids),
        ("xlnet", "XLNetLMHeadModel", "XLNetConfig",
         {"vocab_size": 99, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}, _ids),
        ("mamba", "MambaForCausalLM", "MambaConfig",
         {**_TEXT, "state_size": 4, "time_step_rank": 4}, _unmasked),
        ("recurrent_gemma", "RecurrentGemmaForCausalLM", "RecurrentGemmaConfig",
         {**_GROUPED, "lru_width": 32, "attention_window_size": 8, "num_hidden_layers": 3}, _ids),
    ],
    "encoder-decoder": [
        ("t5", "T5ForConditionalGeneration", "T5Config", _T5, _both),
        ("mt5", "MT5ForConditionalGeneration", "MT5Config", {**_T5, "tie_word_embeddings": False}, _both),
        ("longt5", "LongT5ForConditionalGeneration", "LongT5Config", {**_T5, "local_radius": 4}, _both),
        ("bart", "BartForConditionalGeneration", "BartConfig", _BART, _both),
        ("mbart", "MBartForConditionalGeneration", "MBartConfig", _BART, _both),
        ("pegasus", "PegasusForConditionalGeneration", "PegasusConfig", _BART, _both),
        ("marian", "MarianMTModel", "MarianConfig", _BART, _both),
        ("m2m_100", "M2M100ForConditionalGeneration", "M2M100Config", _BART, _both),
        ("blenderbot", "BlenderbotForConditionalGeneration", "BlenderbotConfig", _BART, _both),
        ("led", "LEDForConditionalGeneration", "LEDConfig",
         {**_BART, "attention_window": 4, "max_encoder_position_embeddings": 64,
          "max_decoder_position_embeddings": 64}, _both),
    ],
    "mixture of experts": [
        ("mixtral", "MixtralForCausalLM", "MixtralConfig", {**_GROUPED, "num_local_experts": 4}, _ids),
        ("qwen2_moe", "Qwen2MoeForCausalLM", "Qwen2MoeConfig",
         {**_EXPERTS, "shared_expert_intermediate_size": 32}, _ids),
        ("qwen3_moe", "Qwen3MoeForCausalLM", "Qwen3MoeConfig", _EXPERTS, _ids),
        ("olmoe", "OlmoeForCausalLM", "OlmoeConfig", {**_EXPERTS, "intermediate_size": 16}, _ids),
        ("phimoe", "PhimoeForCausalLM", "PhimoeConfig", {**_GROUPED, "num_local_experts": 4}, _ids),
        ("granitemoe", "GraniteMoeForCausalLM", "GraniteMoeConfig", {**_GROUPED, "num_local_experts": 4}, _ids),
        ("deepseek_v3", "DeepseekV3ForCausalLM", "DeepseekV3Config",
         {**_TEXT, "num_key_value_heads": 4, "moe_intermediate_size": 16, "n_routed_experts": 4, "n_group": 2,
          "topk_group": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "kv_lora_rank": 8, "q_lora_rank": 8,
          "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8}, _ids),
        ("gpt_oss", "GptOssForCausalLM", "GptOssConfig",
         {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8}, _ids),
        ("switch_transformers", "SwitchTransformersForConditionalGeneration", "SwitchTransformersConfig",
         {**_T5, "num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1}, _both),
    ],
    "vision": [
        ("vit", "ViTForImageClassification", "ViTConfig", _VISION, _pixels),
        ("deit", "DeiTForImageClassification", "DeiTConfig", _VISION, _pixels),
        ("beit", "BeitForImageClassification", "BeitConfig",
         {**_VISION, "use_relative_position_bias": True, "out_indices": [1, 2], "use_auxiliary_head": False}, _pixels),
        ("dinov2", "Dinov2ForImageClassification", "Dinov2Config", _VISION, _pixels),
        ("yolos", "YolosForObjectDetection", "YolosConfig",
         {**_VISION, "image_size": [32, 32], "num_detection_tokens": 4}, _pixels),
        ("swin", "SwinForImageClassification", "SwinConfig",
         {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4],
          "window_size": 4, "num_labels": 3}, _pixels),
        ("convnext", "ConvNextForImageClassification", "ConvNextConfig", _STAGES, _pixels),
        ("resnet", "ResNetForImageClassification", "ResNetConfig",
         {**_STAGES, "embedding_size": 16, "layer_type": "basic"}, _pixels),
        ("poolformer", "PoolFormerForImageClassification", "PoolFormerConfig",
         {"hidden_sizes": [16, 32, 32, 32], "depths": [1, 1, 1, 1], "num_labels": 3}, _pixels),
        ("segformer", "SegformerForSemanticSegmentation", "SegformerConfig",
         {"hidden_sizes": [16, 32, 32, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 2],
          "decoder_hidden_size": 16, "num_labels": 3}, partial(_pixels, size=64)),
        ("mobilevit", "MobileViTForImageClassification", "MobileViTConfig",
         {"image_size": 64, "hidden_sizes": [16, 16, 16], "neck_hidden_sizes": [8, 8, 8, 16, 16, 16, 32],
          "num_labels": 3}, partial(_pixels, size=64)),
        ("pvt_v2", "PvtV2ForImageClassification", "PvtV2Config",
         {"image_size": 32, "hidden_sizes": [16, 16, 16, 32], "depths": [1, 1, 1, 1],
          "num_attention_heads": [1, 2, 2, 2], "num_labels": 3}, _pixels),
        ("clip", "CLIPModel", "CLIPConfig",
         {"text_config": _TEXT, "vision_config": _VISION, "projection_dim": 16}, _text_and_pixels),
        ("siglip", "SiglipModel", "SiglipConfig",
         {"text_config": _TEXT, "vision_config": _VISION}, _text_and_pixels),
        ("vilt", "ViltModel", "ViltConfig", {**_TEXT, **_VISION, "max_image_length": -1}, _text_and_pixels),
    ],
    "audio": [
        ("wav2vec2", "Wav2Vec2ForCTC", "Wav2Vec2Config", _SPEECH, _wave),
        ("wav2vec2_conformer", "Wav2Vec2ConformerForCTC", "Wav2Vec2ConformerConfig", _SPEECH, _wave),
        ("hubert", "HubertForCTC", "HubertConfig", _SPEECH, _wave),
        ("wavlm", "WavLMForCTC", "WavLMConfig", _SPEECH, _wave),
        ("whisper", "WhisperForConditionalGeneration", "WhisperConfig",
         {**_BART, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 64}, _whisper),
        ("speech_to_text", "Speech2TextForConditionalGeneration", "Speech2TextConfig",
         {**_BART, "input_feat_per_channel": 8, "conv_channels": 16, "max_source_positions": 64,
          "max_target_positions": 64}, _filterbank),
        ("audio_spectrogram_transformer", "ASTForAudioClassification", "ASTConfig",
         {**_VISION, "patch_size": 8, "max_length": 32, "num_mel_bins": 16},
         lambda batch: {"input_values": torch.randn(batch, 32, 16)}),
        ("encodec", "EncodecModel", "EncodecConfig",
         {"num_filters": 4, "hidden_size": 16, "codebook_dim": 16, "codebook_size": 16, "upsampling_ratios": [4, 2]},
         lambda batch: {"input_values": torch.randn(batch, 1, 320)}),
    ],
    "series": [
        ("patchtst", "PatchTSTForPrediction", "PatchTSTConfig",
         {"num_input_channels": 3, "context_length": 32, "patch_length": 8, "patch_stride": 8, "prediction_length": 4,
          "d_model": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 32}, _series),
        ("patchtsmixer", "PatchTSMixerForPrediction", "PatchTSMixerConfig",
         {"num_input_channels": 3, "context_length": 32, "patch_length": 8, "patch_stride": 8, "prediction_length": 4,
          "d_model": 16, "num_layers": 2}, _series),
    ],
}  # fmt: skip


def cases() -> list[Case]:
    by_hand = _torchvision_operators.define()  # transformers imports torchvision
    import transformers

    if by_hand:
        _torchvision_operators.complete()

    def build(model: str, config: str, settings: dict[str, Any]) -> torch.nn.Module:
        return getattr(transformers, model)(getattr(transformers, config)(**settings))

    return [
        Case("transformers", kind, name, partial(build, model, config, settings), sample)
        for kind, entries in _ENTRIES.items()
        for name, model, config, settings, sample in entries
    ]
