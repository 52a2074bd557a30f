"""Every SGLang symbol this package calls, subclasses or hooks: one table, checked at launch.

SGLang's plugin loader logs and swallows exceptions, so a moved symbol would leave a server that
decodes plainly and says nothing. `missing()` tells what moved, in seconds and without a GPU.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Symbol:
    """One SGLang symbol: dotted path, its parameters in order (None: not a function), and why."""

    path: str
    parameters: tuple[str, ...] | None
    why: str


def _symbol(path: str, parameters: str | None, why: str, package: str = "sglang.srt") -> Symbol:
    names = None if parameters is None else tuple(parameters.split())
    return Symbol(f"{package}.{path}", names, why)


# Needed before a launch is known to want LED: the flags and the registration calls.
LAUNCH = (
    _symbol(
        "plugins.hook_registry.HookRegistry.register",
        "target hook hook_type source",
        "installs every hook below",
    ),
    _symbol("plugins.hook_registry.HookRegistry.apply_hooks", "", "applies them"),
    _symbol("plugins.hook_registry.HookRegistry._patched", None, "tells which were applied"),
    _symbol("plugins.hook_registry.HookType", None, "kind of a hook"),
    _symbol("plugins.hook_registry.HookSource", None, "whose hooks they are"),
    _symbol("plugins.load_plugins", "", "loads this package"),
    _symbol("launch_server.run_server", "server_args", "starts the server", package="sglang"),
    _symbol("server_args.prepare_server_args", "argv", "reads the command line"),
    _symbol(
        "utils.common.kill_process_tree",
        "parent_pid include_parent skip_pid wait_timeout",
        "ends the server's processes",
    ),
    _symbol("server_args.ServerArgs.add_cli_args", "parser", "adds --sampler and --led-*"),
    _symbol("server_args.ServerArgs.from_cli_args", "args", "reads them"),
    _symbol(
        "arg_groups.resolution_hooks.register_resolution_hook",
        "name",
        "validates the launch and declares what LED needs",
    ),
    _symbol(
        "arg_groups.overrides.declare_resolution",
        "server_args source fields",
        "declares the sampling backend and the captured layers",
    ),
    _symbol("arg_groups.overrides.resolving_view", "server_args", "reads resolved flags"),
    _symbol(
        "arg_groups.model_override_base.model_config_of",
        "server_args",
        "architecture and layers of the model",
    ),
    _symbol("layers.sampler.register_sampler_backend", "backend factory", "makes `led` a backend"),
    _symbol("layers.sampler._CUSTOM_SAMPLER_FACTORIES", None, "tells whether it is one already"),
    _symbol(
        "utils.hf_transformers.get_tokenizer",
        "tokenizer_name args tokenizer_mode trust_remote_code tokenizer_revision "
        "tokenizer_backend kwargs",
        "ids of the think delimiters",
    ),
)

SERVING = (
    _symbol("layers.sampler.Sampler.__init__", "self", "base class of LED's sampler"),
    _symbol(
        "layers.sampler.Sampler.forward",
        "self logits_output sampling_info return_logprob top_logprobs_nums token_ids_logprobs "
        "positions logprob_logits",
        "one sampling step",
    ),
    _symbol(
        "layers.sampler.Sampler._preprocess_logits",
        "self logits sampling_info",
        "the final logits, custom logit processors applied",
    ),
    _symbol(
        "layers.sampler.Sampler._sample_from_probs",
        "self probs sampling_info positions simple_sampling_case",
        "the engine's pick, inside the built-in backend",
    ),
    _symbol(
        "layers.sampler.Sampler._sync_token_ids_across_tp",
        "self batch_next_token_ids sampling_info",
        "LED's tokens take their place before ranks are synchronised",
    ),
    _symbol(
        "layers.logprob_processor.OutputLogprobProcessor.compute_logprobs",
        "self logprobs top_logprobs_nums token_ids_logprobs batch_next_token_ids",
        "log-probabilities of LED's tokens, not of the engine's",
    ),
    _symbol(
        "layers.logits_processor.LogitsProcessor._compute_lm_head",
        "self hidden_states lm_head embedding_bias out",
        "LM heads without a plain weight",
    ),
    _symbol(
        "layers.logits_processor.LogitsProcessor.forward",
        "self input_ids hidden_states lm_head logits_metadata aux_hidden_states "
        "hidden_states_before_norm",
        "takes the captured layers of models without a setter",
    ),
    _symbol(
        "layers.layer_boundary.stage.StageBoundary._prepare_attention",
        "self hidden_states stream forward_batch capture_gathered post_residual_addition "
        "quant_format capture read_context",
        "hands a layer's input to LED, in models without a setter",
    ),
    _symbol(
        "layers.layer_boundary.stage.StageBoundary.capture_output",
        "self hidden_states forward_batch skip_empty",
        "the same where a layer may have no attention",
    ),
    _symbol("utils.common.is_pin_memory_available", "device", "uploads that do not block"),
    _symbol("runtime_context.get_device", "", "the server's random seed"),
    _symbol("runtime_context.get_platform", "", "the built-in sampling backend"),
    _symbol("runtime_context.get_exec", "", "resolved execution settings"),
    _symbol("runtime_context.get_parallel", "", "ranks and groups"),
    _symbol("runtime_context.get_server_args", "", "the settings stashed at launch"),
    _symbol(
        "model_executor.model_runner_components.attention_backend_setup."
        "configure_aux_hidden_state_capture",
        "model eagle_use_aux_hidden_state eagle_aux_hidden_state_layer_ids "
        "dflash_use_aux_hidden_state dflash_target_layer_ids is_dspark",
        "turns the residual-stream capture on",
    ),
    _symbol(
        "model_executor.model_runner.ModelRunner.init_attention_backends",
        "self",
        "installs soft inputs before CUDA graphs are captured",
    ),
    _symbol(
        "model_executor.model_runner.ModelRunner.sample",
        "self logits_output forward_batch",
        "methods that change the logits, before penalties",
    ),
    _symbol(
        "model_executor.model_runner.ModelRunner.get_aux_hidden_states_width",
        "self",
        "one buffer for the captured layers of all decode graphs",
    ),
    _symbol(
        "model_executor.model_runner.ModelRunner.prewarm_sampling",
        "self",
        "binds the sampler to the loaded model, verifies the hooks",
    ),
    _symbol(
        "model_executor.forward_batch_info.ForwardBatch.init_new",
        "batch model_runner capture_hidden_mode return_hidden_states_before_norm "
        "extend_position_info spec_mrope_positions kv_loc_plan write_cols",
        "request slots and prompts of a step",
    ),
    _symbol(
        "sampling.sampling_batch_info.SamplingBatchInfo.adjusted_from_schedule_batch",
        "self batch vocab_size",
        "per-row LED parameters of new requests",
    ),
    _symbol(
        "sampling.sampling_batch_info.SamplingBatchInfo.adjusted_filter_batch",
        "self keep_indices keep_indices_device",
        "rows leave the batch",
    ),
    _symbol(
        "sampling.sampling_batch_info.SamplingBatchInfo.adjusted_merge_batch",
        "self other",
        "rows join the batch",
    ),
    _symbol(
        "sampling.sampling_batch_info.SamplingBatchInfo.copy_for_forward",
        "self",
        "the overlap scheduler's copy",
    ),
    _symbol(
        "sampling.sampling_params.SamplingParams.verify",
        "self vocab_size",
        "refuses bad requests with HTTP 400",
    ),
    _symbol("sampling.sampling_params.TOP_K_ALL", None, "a request without top_k"),
    _symbol(
        "layers.vocab_parallel_embedding.VocabParallelEmbedding._embed_local_shard",
        "self input_",
        "soft inputs in place of a token's embedding",
    ),
    _symbol(
        "managers.schedule_batch.Req._compute_max_prefix_len",
        "self input_len",
        "soft requests reuse cached prompts, never answers",
    ),
    _symbol(
        "managers.scheduler.Scheduler._create_generation_req",
        "self recv_req args kwargs",
        "second check, and the request's parsed parameters",
    ),
    _symbol(
        "managers.schedule_batch.Req.set_finish_with_abort",
        "self error_msg status_code err_type",
        "ends a request that the second check refuses",
    ),
    _symbol(
        "entrypoints.http_server.ORJSONRequest.json",
        "self",
        "refuses misplaced keys with HTTP 400 before a stream is opened",
    ),
    # By their functions, as some of their URLs can be configured.
    *(
        _symbol(f"entrypoints.http_server.{name}", None, "its body may hold custom_params")
        for name in (
            "generate_request",
            "openai_v1_completions",
            "openai_v1_chat_completions",
            "sagemaker_chat_completions",
            "vertex_generate",
            "v1_responses_request",
            "anthropic_v1_messages",
            "ollama_chat",
            "ollama_generate",
        )
    ),
    _symbol(
        "entrypoints.openai.serving_transcription.OpenAIServingTranscription.create_transcription",
        "self audio_data model language response_format temperature stream raw_request "
        "timestamp_granularities",
        "refuses what a transcription would drop",
    ),
    _symbol(
        "entrypoints.ollama.serving.OllamaServing.handle_chat",
        "self request raw_request",
        "refuses before a stream is opened",
    ),
    _symbol(
        "entrypoints.ollama.serving.OllamaServing.handle_generate",
        "self request raw_request",
        "the same",
    ),
    _symbol(
        "entrypoints.ollama.serving.OllamaServing._convert_options_to_sampling_params",
        "self options",
        "what is to be checked there",
    ),
    _symbol("entrypoints.api_contract.generate_contract_error", "body", "types of a body"),
    _symbol("sampling.sampling_params.SamplingParams.normalize", "self tokenizer", "the same"),
    _symbol(
        "managers.tokenizer_manager.TokenizerManager.generate_request",
        "self obj request",
        "hands custom_params on where SGLang drops them",
    ),
    _symbol(
        "managers.tokenizer_manager.TokenizerManager._validate_one_request",
        "self obj input_ids",
        "refuses what would end the scheduler",
    ),
    _symbol("managers.io_struct.PositionalEmbeds", None, "told from what a body can hold"),
    _symbol(
        "sampling.custom_logit_processor.CustomLogitProcessor.from_str",
        "json_str",
        "tells whether a custom logit processor loads",
    ),
    _symbol(
        "managers.tokenizer_manager.TokenizerManager._create_tokenized_object",
        "self obj input_text input_ids input_embeds mm_inputs token_type_ids",
        "refuses prompts of embeddings where the phase must be read",
    ),
    _symbol(
        "managers.tokenizer_manager.TokenizerManager._send_one_request",
        "self tokenized_obj",
        "gives each of n samples its own seed",
    ),
    _symbol(
        "managers.tokenizer_manager.TokenizerManager.update_request_meta_info",
        "self meta_info state customized_info index finish_reason",
        "statistics in meta_info",
    ),
    _symbol(
        "observability.metrics_collector.SchedulerMetricsCollector.__init__",
        "self labels server_args enable_lora enable_hierarchical_cache enable_streaming_session",
        "the labels of SGLang's metrics",
    ),
    _symbol(
        "managers.scheduler_components.internal_state.SchedulerInternalStateController."
        "get_internal_state",
        "self recv_req",
        "statistics in /server_info",
    ),
    _symbol(
        "managers.scheduler_components.batch_result_processor.SchedulerBatchResultProcessor."
        "consume_auxiliary_output",
        "batch output output_starts",
        "hands per-token statistics to the scheduler",
    ),
    _symbol(
        "environ.Envs.SGLANG_HTTP_SERVER_APP_PATH", None, "loads plugins in extra HTTP workers"
    ),
    _symbol("environ.Envs.SGLANG_RUST_SERVER", None, "another front end, which is refused"),
)

# The CPU platform's attention.
ON_CPU = (
    _symbol(
        "layers.attention.attention_registry.register_attention_backend",
        "name",
        "puts the batched attention in place of torch_native",
    ),
    _symbol(
        "layers.attention.torch_native_backend.TorchNativeAttnBackend._run_sdpa_forward_decode",
        "self query output k_cache v_cache req_to_token req_pool_indices seq_lens encoder_lens "
        "scaling enable_gqa causal is_cross_attn sliding_window_size",
        "attention of a decode batch",
    ),
    _symbol(
        "layers.attention.torch_native_backend.TorchNativeAttnBackend._run_sdpa_forward_extend",
        "self query output k_cache v_cache req_to_token req_pool_indices seq_lens "
        "extend_prefix_lens extend_seq_lens encoder_lens scaling enable_gqa causal is_cross_attn "
        "sliding_window_size",
        "attention of a prefill",
    ),
    _symbol(
        "layers.attention.base_attn_backend.AttentionBackend.init_forward_metadata",
        "self forward_batch",
        "marks the start of a forward pass",
    ),
)

TOUCHED = LAUNCH + SERVING + ON_CPU


def sglang_version() -> str:
    """Installed version of SGLang, or "not installed"."""
    try:
        return importlib.metadata.version("sglang")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def problem(symbol: Symbol) -> str | None:
    """What is wrong with a symbol in the installed SGLang, or None."""
    try:
        found = pkgutil.resolve_name(symbol.path)
    except (ImportError, AttributeError):
        return "is missing"
    if symbol.parameters is None:
        return None
    # follows __wrapped__, so a hooked function still shows its own parameters
    names = tuple(inspect.signature(found).parameters)
    if names != symbol.parameters:
        return f"takes ({', '.join(names)}) instead of ({', '.join(symbol.parameters)})"
    return None


def missing(symbols: Iterable[Symbol]) -> list[str]:
    """One line per symbol that is gone or has changed, naming it."""
    return [f"{s.path} {what}" for s in symbols if (what := problem(s)) is not None]


def complaint(problems: list[str]) -> str:
    """The one sentence with which a launch ends."""
    return (
        f"led-sglang cannot run on the installed SGLang {sglang_version()}: "
        + "; ".join(problems)
        + " (install sglang>=0.5.23,<0.5.24)"
    )
