"""What the argument classes' annotations do not say: the ranges of numbers, by their meaning, and the enumerations.

Each row: a JSON schema, and the keys whose `type`, `enum` and limits it replaces or adds. `CLASS.key` is for one class.
Sources: the checks in TRL's and transformers' `__post_init__`, trainers and docstrings, read at the pinned versions.
"""

from __future__ import annotations

from typing import Any

COUNT = {"minimum": 1}
SHARE = {"minimum": 0, "maximum": 1}
NOT_NEGATIVE = {"minimum": 0}
POSITIVE = {"exclusiveMinimum": 0}
STEPS = [{"type": "integer", "minimum": 1}, {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}]
"""Every so many steps, or after this share of all."""

_ROWS: tuple[tuple[dict[str, Any], str], ...] = (
    (COUNT, "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps num_iterations"),
    (COUNT, "steps_per_generation generation_batch_size eval_accumulation_steps torch_empty_cache_steps"),
    (COUNT, "save_total_limit dataloader_prefetch_factor ddp_bucket_cap_mb ddp_timeout ref_model_sync_steps"),
    (COUNT, "vllm_tensor_parallel_size vllm_max_model_length max_length num_generations_eval"),
    (COUNT, "max_tool_calling_iterations"),
    ({"type": "integer", "minimum": 1}, "max_completion_length"),
    ({"type": "integer", "minimum": 2}, "num_generations"),
    ({"anyOf": [{"enum": [-1]}, {"type": "integer", "minimum": 1}]}, "max_steps"),
    ({"anyOf": [{"enum": ["auto"]}, {"type": ["integer", "null"], "minimum": 1}]}, "GRPOConfig.pad_to_multiple_of"),
    ({"minimum": 1, "maximum": 65535}, "vllm_server_port vllm_group_port"),
    (NOT_NEGATIVE, "learning_rate weight_decay warmup_steps max_grad_norm neftune_noise_alpha eval_delay top_k beta"),
    (NOT_NEGATIVE, "dataloader_num_workers num_completions_to_print epsilon epsilon_high entropy_coef entropy_target"),
    (NOT_NEGATIVE, "entropy_coef_min entropy_coef_max entropy_coef_delta router_aux_loss_coef"),
    (NOT_NEGATIVE, "center_rewards_coefficient vespo_k_pos vespo_lambda_pos vespo_k_neg vespo_lambda_neg"),
    (NOT_NEGATIVE, "vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min vllm_importance_sampling_cap"),
    (POSITIVE, "num_train_epochs adam_epsilon temperature repetition_penalty"),
    ({"anyOf": STEPS}, "logging_steps save_steps"),
    ({"anyOf": [*STEPS, {"type": "null"}]}, "eval_steps"),
    (POSITIVE, "delta sapo_temperature_neg sapo_temperature_pos vllm_server_timeout off_policy_mask_threshold"),
    ({"minimum": 0, "exclusiveMaximum": 1}, "adam_beta1 adam_beta2 label_smoothing_factor"),
    (SHARE, "min_p ref_model_mixup_alpha"),
    ({"exclusiveMinimum": 0, "maximum": 1}, "top_p top_entropy_quantile vllm_gpu_memory_utilization"),
    ({"enum": ["group", "batch", "none"], "type": "boolean"}, "scale_rewards"),
    (
        {"enum": ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"], "type": []},
        "GRPOConfig.loss_type",
    ),
    ({"enum": ["nll", "dft"], "type": []}, "SFTConfig.loss_type"),
    ({"enum": ["token", "sequence"], "type": []}, "importance_sampling_level"),
    ({"enum": ["sum_then_normalize", "normalize_then_sum"], "type": []}, "multi_objective_aggregation"),
    ({"enum": ["server", "colocate"], "type": []}, "vllm_mode"),
    ({"enum": ["vllm", "transformers"], "type": []}, "vllm_model_impl"),
    (
        {"enum": ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"], "type": []},
        "vllm_importance_sampling_mode",
    ),
    ({"enum": ["all", "non_padding", "no"], "type": "boolean"}, "include_num_input_tokens_seen"),
    ({"type": ["object", "null"]}, "lr_scheduler_kwargs gradient_checkpointing_kwargs"),
    ({"type": ["object", "null"]}, "generation_kwargs chat_template_kwargs dataset_kwargs liger_kernel_config"),
)  # fmt: skip
RANGES = {key: schema for schema, keys in _ROWS for key in keys.split()}
