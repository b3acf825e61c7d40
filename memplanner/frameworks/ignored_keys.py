"""Keys of each framework's config that do not bear on a training step's memory: what is logged, saved, scheduled."""

from typing import Final

AXOLOTL: Final = frozenset(
    """
    base_model_config revision_of_model tokenizer_config tokenizer_type processor_type tokenizer_use_fast
    tokenizer_legacy tokenizer_save_jinja_files trust_remote_code is_falcon_derived_model is_llama_derived_model
    is_mistral_derived_model is_qwen_derived_model datasets test_datasets shuffle_merged_datasets
    dataset_prepared_path dataset_processes dataset_keep_in_memory push_dataset_to_hub hub_model_id hub_strategy
    hf_use_auth_token val_set_size dataset_shard_num dataset_shard_idx chat_template chat_template_jinja
    default_system_message train_on_inputs lora_alpha lora_model_dir lora_out_dir peft_use_rslora lora_fan_in_fan_out
    num_epochs eval_batch_size evals_per_epoch eval_max_new_tokens eval_table_size eval_causal_lm_metrics
    saves_per_epoch save_first_step early_stopping_patience lr_scheduler lr_scheduler_kwargs cosine_min_lr_ratio
    learning_rate special_tokens tokens strict pad_to_sequence_len loss_watchdog_threshold loss_watchdog_patience
    auto_resume_from_checkpoints dataset_exact_deduplication eval_sample_packing sample_packing_eff_est
    sample_packing_bin_size sample_packing_group_size total_num_tokens min_sample_len excess_length_strategy
    use_tensorboard mean_resizing_embeddings gc_steps
    skip_prepare_dataset eot_tokens tokenizer_use_mistral_common eta_min cosine_constant_lr_ratio lr_quadratic_warmup
    adam_eps pretraining_dataset streaming streaming_multipack_buffer_size test_value curriculum_sampling
    sample_packing_sequentially do_causal_lm_eval
    """.split()
)
AXOLOTL_PREFIXES: Final = (
    *("wandb_", "mlflow_", "comet_", "swanlab_", "otel_"),
    *("use_wandb", "use_mlflow", "use_comet", "use_swanlab", "use_otel_metrics"),
)

LLAMA_FACTORY: Final = frozenset(
    """
    trust_remote_code adapter_name_or_path cache_dir use_fast_tokenizer split_special_tokens
    model_revision low_cpu_mem_usage rope_scaling hf_hub_token ms_hub_token om_hub_token print_param_status template
    dataset eval_dataset dataset_dir media_dir data_shared_file_system train_on_prompt mask_history streaming
    buffer_size mix_strategy interleave_probs preprocessing_batch_size preprocessing_num_workers max_samples
    eval_num_beams ignore_pad_token_for_loss val_size eval_on_each_dataset tool_format default_system enable_thinking
    tokenized_path lora_alpha use_rslora loraplus_lr_ratio loraplus_lr_embedding create_new_adapter
    include_effective_tokens_per_second compute_accuracy infer_backend use_swanlab quantization_type
    quantization_device_map pissa_iter pissa_convert
    """.split()
)
LLAMA_FACTORY_PREFIXES: Final = (
    *("galore_", "badam_", "apollo_", "swanlab_", "freeze_trainable", "ref_model", "ray_"),
    *("vllm_", "sglang_", "export_"),
)
"""The latter of inference and export, which its other commands read from the same file."""

TRAINER: Final = frozenset(
    """
    output_dir overwrite_output_dir do_train do_eval do_predict eval_strategy evaluation_strategy prediction_loss_only
    per_device_eval_batch_size eval_accumulation_steps eval_delay learning_rate weight_decay adam_beta1 adam_beta2
    adam_epsilon max_grad_norm num_train_epochs max_steps lr_scheduler_type lr_scheduler_kwargs warmup_ratio
    warmup_steps log_level log_level_replica log_on_each_node logging_dir logging_strategy logging_first_step
    logging_steps logging_nan_inf_filter save_strategy save_steps save_total_limit save_safetensors save_on_each_node
    save_only_model restore_callback_states_from_checkpoint enable_jit_checkpoint seed data_seed tf32 local_rank
    ddp_backend accelerator_config bf16_full_eval fp16_full_eval dataloader_in_order debug
    dataloader_drop_last eval_steps dataloader_num_workers dataloader_prefetch_factor past_index
    run_name disable_tqdm remove_unused_columns label_names load_best_model_at_end metric_for_best_model
    greater_is_better ignore_data_skip group_by_length length_column_name
    train_sampling_strategy report_to project trackio_space_id trackio_bucket_id trackio_static_space_id ddp_timeout
    ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph dataloader_pin_memory
    dataloader_persistent_workers skip_memory_metrics push_to_hub resume_from_checkpoint hub_model_id hub_strategy
    hub_token hub_private_repo hub_always_push hub_revision include_inputs_for_metrics include_for_metrics
    eval_do_concat_batches full_determinism include_tokens_per_second include_num_input_tokens_seen
    eval_on_start batch_eval_metrics eval_use_gather_object average_tokens_across_devices plot_loss overwrite_cache
    model_revision hub_model_revision trust_remote_code chat_template dataset_name dataset_config dataset_train_split
    dataset_test_split dataset_mixture dataset_mixer dataset_splits predict_with_generate
    dataset_num_proc dataset_text_field dataset_kwargs completion_only_loss assistant_only_loss eos_token pad_token
    """.split()
)
"""Fields of TrainingArguments (transformers 5) and SFTConfig."""

PEFT: Final = frozenset(
    """
    auto_mapping base_model_class inference_mode revision lora_alpha fan_in_fan_out use_rslora megatron_core
    megatron_config loftq_config peft_version runtime_config alpha_pattern eva_config corda_config
    qalora_group_size
    """.split()
)
