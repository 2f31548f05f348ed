"""Transformers architectures, tiny: one row each, built from its configuration, no download.

A row names a model class and the configuration that makes it small. `kind` says what the model
is fed and whether it can generate.
"""

from __future__ import annotations

from typing import Any, NamedTuple

VOCABULARY = 99
IMAGE = 32


class Architecture(NamedTuple):
    """One model class and how to make it small.

    Attributes:
        model: Name of the class in `transformers`.
        kind: Key of `_PROGRAMS` in the test: what it is fed.
        config: Arguments of its configuration.
    """

    model: str
    kind: str
    config: dict[str, Any]


_TOKENS = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_SMALL = {
    **_TOKENS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
_GROUPED = {**_SMALL, "num_key_value_heads": 2, "head_dim": 8}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_GPT = {**_TOKENS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_SEQ2SEQ = {
    **_TOKENS,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
_T5 = {
    **_TOKENS,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
_VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": IMAGE,
    "patch_size": 8,
    "num_labels": 3,
}
_SPEECH = {
    **_SMALL,
    "conv_dim": (16, 16),
    "conv_stride": (5, 4),
    "conv_kernel": (10, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_length": 2,
    "mask_time_prob": 0.2,
}


def _causal(model: str, config: dict[str, Any] = _SMALL, **more: Any) -> Architecture:
    return Architecture(model, "causal", {**config, **more})


def _sequence(model: str, config: dict[str, Any] = _SEQ2SEQ, **more: Any) -> Architecture:
    return Architecture(model, "sequence-to-sequence", {**config, **more})


def _masked(model: str, config: dict[str, Any] = _SMALL, **more: Any) -> Architecture:
    return Architecture(model, "tokens", {**config, **more})


def _image(model: str, config: dict[str, Any] = _VISION, **more: Any) -> Architecture:
    return Architecture(model, "image", {**config, **more})


ARCHITECTURES: tuple[Architecture, ...] = (
    # decoders
    _causal("GPT2LMHeadModel", _GPT),
    _causal(
        "GPTNeoForCausalLM", num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]]
    ),
    _causal("GPTNeoXForCausalLM"),
    _causal("GPTJForCausalLM", _GPT, rotary_dim=4),
    _causal("GPTBigCodeForCausalLM", _GPT),
    _causal("CodeGenForCausalLM", _GPT, rotary_dim=4),
    _causal("OPTForCausalLM", ffn_dim=64, word_embed_proj_dim=32),
    _causal("BloomForCausalLM", n_layer=2, n_head=4),
    _causal("FalconForCausalLM"),
    _causal("MptForCausalLM", _TOKENS, d_model=32, n_layers=2, n_heads=4, max_seq_len=64),
    _causal("LlamaForCausalLM", _GROUPED),
    _causal("MistralForCausalLM", _GROUPED, sliding_window=8),
    _causal("Qwen2ForCausalLM", _GROUPED),
    _causal("Qwen3ForCausalLM", _GROUPED),
    _causal("GemmaForCausalLM", _GROUPED),
    _causal("Gemma2ForCausalLM", _GROUPED, sliding_window=8),
    _causal("Gemma3ForCausalLM", _GROUPED, sliding_window=8),
    _causal("PhiForCausalLM"),
    _causal("Phi3ForCausalLM", _GROUPED),
    _causal("Starcoder2ForCausalLM", _GROUPED),
    _causal("StableLmForCausalLM", _GROUPED),
    _causal("OlmoForCausalLM", _GROUPED),
    _causal("Olmo2ForCausalLM", _GROUPED),
    _causal("CohereForCausalLM", _GROUPED),
    _causal("GraniteForCausalLM", _GROUPED),
    _causal("PersimmonForCausalLM"),
    _causal("XGLMForCausalLM", _TOKENS, d_model=32, num_layers=2, attention_heads=4, ffn_dim=64),
    # mixtures of experts
    _causal("MixtralForCausalLM", _GROUPED, num_local_experts=4),
    _causal("Qwen2MoeForCausalLM", _GROUPED, **_EXPERTS, shared_expert_intermediate_size=32),
    _causal("GptOssForCausalLM", _GROUPED, num_local_experts=4, sliding_window=8),
    _causal(
        "DeepseekV3ForCausalLM",
        _SMALL,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        moe_intermediate_size=32,
        first_k_dense_replace=1,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
        num_key_value_heads=4,
    ),
    # state spaces and recurrences
    _causal("MambaForCausalLM", state_size=4),
    _causal(
        "Mamba2ForCausalLM",
        state_size=4,
        num_heads=8,
        head_dim=8,
        expand=2,
        n_groups=2,
        chunk_size=8,
    ),
    _causal("FalconMambaForCausalLM", state_size=4),
    _causal(
        "JambaForCausalLM",
        _GROUPED,
        num_experts=4,
        mamba_d_state=4,
        attn_layer_period=2,
        attn_layer_offset=1,
        use_mamba_kernels=False,
    ),
    _causal(
        "RecurrentGemmaForCausalLM",
        _GROUPED,
        num_hidden_layers=3,
        lru_width=32,
        attention_window_size=8,
    ),
    # transformers' own `generate` fails for it on any MPS device, redirected or not.
    _causal("RwkvForCausalLM", attention_hidden_size=32, context_length=64)._replace(kind="tokens"),
    # encoders and decoders
    _sequence("T5ForConditionalGeneration", _T5),
    _sequence("MT5ForConditionalGeneration", _T5),
    _sequence("BartForConditionalGeneration"),
    _sequence("MBartForConditionalGeneration"),
    _sequence("PegasusForConditionalGeneration"),
    _sequence("MarianMTModel"),
    _sequence("M2M100ForConditionalGeneration"),
    _sequence("BlenderbotForConditionalGeneration"),
    _sequence(
        "LEDForConditionalGeneration",
        attention_window=4,
        max_encoder_position_embeddings=64,
        max_decoder_position_embeddings=64,
    ),
    _sequence(
        "ProphetNetForConditionalGeneration",
        _TOKENS,
        hidden_size=32,
        encoder_ffn_dim=64,
        num_encoder_layers=2,
        num_encoder_attention_heads=4,
        decoder_ffn_dim=64,
        num_decoder_layers=2,
        num_decoder_attention_heads=4,
        decoder_start_token_id=2,
        max_position_embeddings=64,
    ),
    # encoders
    _masked("BertForMaskedLM"),
    _masked("RobertaForMaskedLM"),
    _masked("DistilBertForMaskedLM", _TOKENS, dim=32, n_layers=2, n_heads=4, hidden_dim=64),
    _masked("ElectraForMaskedLM", embedding_size=16),
    _masked("AlbertForMaskedLM", embedding_size=16),
    _masked("DebertaForMaskedLM", relative_attention=True, pos_att_type=["p2c", "c2p"]),
    _masked("DebertaV2ForMaskedLM", relative_attention=True, pos_att_type=["p2c", "c2p"]),
    _masked("LongformerForMaskedLM", attention_window=4),
    _masked(
        "FunnelForMaskedLM", _TOKENS, d_model=32, block_sizes=[1, 1], n_head=4, d_head=8, d_inner=64
    ),
    _masked("MobileBertForMaskedLM", embedding_size=32, intra_bottleneck_size=32),
    _masked("ModernBertForMaskedLM"),
    _masked("XLNetLMHeadModel", _TOKENS, d_model=32, n_layer=2, n_head=4, d_inner=64),
    _masked("XLMRobertaForMaskedLM"),
    _masked("CamembertForMaskedLM"),
    _masked("MegatronBertForMaskedLM"),
    _masked("RoFormerForMaskedLM", embedding_size=32),
    _masked("NystromformerForMaskedLM", num_landmarks=4, segment_means_seq_len=12),
    _masked("SqueezeBertForMaskedLM", q_groups=2, k_groups=2, v_groups=2, embedding_size=32),
    _masked("BigBirdForMaskedLM", attention_type="original_full"),
    _masked("MPNetForMaskedLM"),
    _masked("EsmForMaskedLM", mask_token_id=3),
    # vision
    _image("ViTForImageClassification"),
    _image("DeiTForImageClassification"),
    _image("BeitForImageClassification"),
    _image("Dinov2ForImageClassification"),
    _image(
        "SwinForImageClassification",
        {"num_labels": 3},
        image_size=IMAGE,
        patch_size=4,
        embed_dim=16,
        depths=[1, 1],
        num_heads=[2, 2],
        window_size=4,
    ),
    _image(
        "ConvNextForImageClassification",
        {"num_labels": 3},
        hidden_sizes=[8, 8],
        depths=[1, 1],
        num_stages=2,
    ),
    _image(
        "ResNetForImageClassification",
        {"num_labels": 3},
        embedding_size=8,
        hidden_sizes=[8, 8],
        depths=[1, 1],
    ),
    _image(
        "MobileNetV2ForImageClassification",
        {"num_labels": 3},
        image_size=IMAGE,
        depth_multiplier=0.25,
    ),
    _image(
        "ConvNextV2ForImageClassification",
        {"num_labels": 3},
        hidden_sizes=[8, 8],
        depths=[1, 1],
        num_stages=2,
    ),
    _image(
        "RegNetForImageClassification",
        {"num_labels": 3},
        embedding_size=8,
        hidden_sizes=[8, 8],
        depths=[1, 1],
        groups_width=4,
    ),
    _image(
        "PoolFormerForImageClassification",
        {"num_labels": 3},
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
    ),
    _image(
        "SegformerForImageClassification",
        {"num_labels": 3},
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=8,
    ),
    _image(
        "MobileViTForImageClassification",
        {"num_labels": 3},
        image_size=IMAGE,
        hidden_sizes=[8, 8, 8],
        neck_hidden_sizes=[4, 4, 8, 8, 8, 8, 8],
        num_attention_heads=2,
    ),
    _image(
        "EfficientNetForImageClassification",
        {"num_labels": 3},
        image_size=IMAGE,
        width_coefficient=0.25,
        depth_coefficient=0.25,
        hidden_dim=320,
    ),
    # pictures and text, sound
    Architecture(
        "CLIPModel",
        "image-text",
        {"text_config": _SMALL, "vision_config": _VISION, "projection_dim": 16},
    ),
    Architecture("Wav2Vec2ForCTC", "sound", {**_SPEECH, "ctc_loss_reduction": "mean"}),
    Architecture("HubertForCTC", "sound", {**_SPEECH, "ctc_loss_reduction": "mean"}),
    Architecture(
        "WhisperForConditionalGeneration",
        "spectrogram",
        {
            **_SEQ2SEQ,
            "num_mel_bins": 8,
            "max_source_positions": 16,
            "max_target_positions": 32,
            "suppress_tokens": None,
            "begin_suppress_tokens": None,
        },
    ),
)
