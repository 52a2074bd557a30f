"""Every SGLang symbol this package calls, subclasses or hooks: one table, checked at launch.

SGLang's plugin loader logs and swallows exceptions, so a moved symbol would leave a server that
decodes plainly and says nothing. `missing()` tells what moved, in seconds and without a GPU.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import pkgutil
import re
from collections.abc import Iterable
from dataclasses import dataclass

# Problems that one sentence can hold.
_SAID = 3


@dataclass(frozen=True)
class Symbol:
    """One SGLang symbol: dotted path, its parameters in order (None: not a function), and why."""

    path: str
    parameters: tuple[str, ...] | None
    why: str


def _table(text: str) -> tuple[Symbol, ...]:
    """Symbols written as `name(parameters): why`, under the module or class that holds them.

    A name without parentheses is no function; a line that is indented further goes on.
    """
    symbols, holder = [], ""
    for line in re.sub(r"\n {3,}", " ", text.strip()).splitlines():
        if not line.startswith(" "):
            holder = line
            continue
        entry = re.fullmatch(r"  (\w+)(?:\((.*)\))?: (.+)", line)
        assert entry is not None, line
        name, parameters, why = entry.groups()
        names = None if parameters is None else tuple(re.findall(r"\w+", parameters))
        symbols.append(Symbol(f"{holder}.{name}", names, why))
    return tuple(symbols)


# Needed before a launch is known to want LED: the flags and the registration calls.
LAUNCH = _table("""
sglang.srt.plugins.hook_registry.HookRegistry
  register(target, hook, hook_type, source): installs every hook below
  apply_hooks(): applies them
  _patched: tells which were applied
  _apply_target(target, hooks): applies those that another plugin's came before
sglang.srt.plugins.hook_registry
  HookType: kind of a hook
  HookSource: whose hooks they are
  _propagate_patch(original, wrapped, source_module): goes through all modules for each hook; one
      look at them serves all
sglang.srt.plugins
  load_plugins(): loads this package
sglang.launch_server
  run_server(server_args): starts the server
sglang.srt.server_args
  prepare_server_args(argv): reads the command line
sglang.srt.utils.common
  kill_process_tree(parent_pid, include_parent, skip_pid, wait_timeout): ends the server's
      processes
sglang.srt.utils.watchdog.SubprocessWatchdog
  _check_processes(self): takes processes that are ended for a crash
sglang.srt.server_args.ServerArgs
  add_cli_args(parser): adds --sampler and --led-*
  from_cli_args(args): reads them
  resolve_once(self): its errors are shown as a sentence
  check_server_args(self): the same
sglang.srt.arg_groups.resolution_hooks
  register_resolution_hook(name): validates the launch and declares what LED needs
sglang.srt.arg_groups.overrides
  declare_resolution(server_args, source, fields): declares the sampling backend and the captured
      layers
  resolving_view(server_args): reads resolved flags
sglang.srt.arg_groups.model_override_base
  model_config_of(server_args): architecture and layers of the model
sglang.srt.layers.sampler
  register_sampler_backend(backend, factory): makes `led` a backend
  _CUSTOM_SAMPLER_FACTORIES: tells whether it is one already
sglang.srt.utils.hf_transformers
  get_config(model, trust_remote_code, revision, model_override_args, model_config_parser,
      kwargs): a draft model's vocabulary
  get_hf_text_config(config): the same
  get_tokenizer(tokenizer_name, args, tokenizer_mode, trust_remote_code, tokenizer_revision,
      tokenizer_backend, kwargs): ids of the think delimiters
""")

# HTTP endpoints stand by their functions, as some of their URLs can be configured.
SERVING = _table("""
sglang.srt.layers.sampler.Sampler
  __init__(self): base class of LED's sampler
  forward(self, logits_output, sampling_info, return_logprob, top_logprobs_nums,
      token_ids_logprobs, positions, logprob_logits): one sampling step
  _preprocess_logits(self, logits, sampling_info): the final logits, custom logit processors
      applied
  _sample_from_probs(self, probs, sampling_info, positions, simple_sampling_case): the engine's
      pick, inside the built-in backend
  _sync_token_ids_across_tp(self, batch_next_token_ids, sampling_info): LED's tokens take their
      place before ranks are synchronised
sglang.srt.layers.sampler
  SYNC_TOKEN_IDS_ACROSS_TP: whether ranks agree on their tokens once they have sampled
sglang.kernels.ops.sampling
  softmax(logits, temperatures): posteriors at the nodes of a draft
sglang.kernels.ops.sampling.renorm
  top_p_renorm_prob: top_p of rows with a seed, without a sort
sglang.srt.layers.logprob_processor.OutputLogprobProcessor
  compute_logprobs(self, logprobs, top_logprobs_nums, token_ids_logprobs, batch_next_token_ids):
      log-probabilities of LED's tokens, not of the engine's
sglang.srt.layers.logprob_processor
  compute_spec_logprobs(batch, logits_output, predict, accept_index, chain_stride): the same for
      accepted drafts
sglang.srt.layers.logits_processor
  should_apply_lm_head_quant_method(lm_head, quant_method): LM heads that are called, not read
  SamplingMaskStatus: whether a sampling mask holds
sglang.srt.layers.logits_processor.LogitsProcessor
  _compute_lm_head(self, hidden_states, lm_head, embedding_bias, out): LM heads without a plain
      weight
  _get_logits(self, hidden_states, lm_head, logits_metadata, embedding_bias, use_logits_buffer):
      the logits that the self-check holds LED's against
  forward(self, input_ids, hidden_states, lm_head, logits_metadata, aux_hidden_states,
      hidden_states_before_norm): takes the captured layers of models without a setter
sglang.srt.layers.layer_boundary.stage.StageBoundary
  _prepare_attention(self, hidden_states, stream, forward_batch, capture_gathered,
      post_residual_addition, quant_format, capture, read_context): hands a layer's input to LED,
      in models without a setter
  capture_output(self, hidden_states, forward_batch, skip_empty): the same where a layer may have
      no attention
sglang.srt.utils.common
  is_pin_memory_available(device): uploads that do not block
  require_mlp_sync(): whether ranks must agree on a batch before it runs
  require_mlp_tp_gather(moe_a2a_backend): the same
sglang.srt.runtime_context
  get_device(): the server's random seed
  get_platform(): the built-in sampling backend
  get_exec(): resolved execution settings
  get_parallel(): ranks and groups
  get_server_args(): the settings stashed at launch
  get_disagg(): the server's part in a prefill/decode pair
  get_model(): whether weights are loaded later
  get_schedule(): the size of a page
  get_spec(): how many nodes a draft has
sglang.srt.distributed.parallel_state.GroupCoordinator
  _all_gather_into_tensor(self, output, input): the step's one collective
  all_gather_object(self, obj): what ranks settle at launch
sglang.srt.layers.dp_attention
  is_dp_attention_enabled(): which ranks sample the same rows
sglang.srt.distributed.utils
  get_pp_indices(num_hidden_layers, pp_rank, pp_size): the layers of the last pipeline stage
sglang.srt.model_loader.utils
  get_model_architecture(model_config): whether a model can be divided into pipeline stages
sglang.srt.sampling.sampling_observer_pp.PipelineParallelAuxiliaryOutput
  to_pp_tensors(self): statistics leave the last pipeline stage
sglang.srt.sampling.sampling_observer_pp.PipelineParallelSamplingObserver
  from_pp_tensors(self, tensors): and arrive on the first
sglang.srt.model_executor.model_runner_components.attention_backend_setup
  configure_aux_hidden_state_capture(model, eagle_use_aux_hidden_state,
      eagle_aux_hidden_state_layer_ids, dflash_use_aux_hidden_state, dflash_target_layer_ids,
      is_dspark): turns the residual-stream capture on
sglang.srt.model_loader.utils
  get_model_architecture(model_config): whether SGLang has a class for an unknown architecture
sglang.srt.model_executor.model_runner_components.cuda_graph_setup
  capture_prefill_graph(model_runner, eager_runner, force_for_draft_worker): proves the captured
      layers before the first graph
sglang.srt.managers.schedule_batch.ScheduleBatch
  init_new(reqs, req_to_token_pool, token_to_kv_pool_allocator, tree_cache, model_config,
      enable_overlap, spec_algorithm, chunked_req, dllm_config): the short prefills of that proof
  prepare_for_extend(self): the same
sglang.srt.managers.scheduler_components.dp_attn
  prepare_mlp_sync_batch_raw(local_batch, model_runner, get_idle_batch, disable_cuda_graph,
      require_mlp_tp_gather, disable_overlap_schedule, offload_tags, draft_require_mlp_tp_gather,
      dwdp, sync_wait_carry): the same, where ranks attend to requests of their own
sglang.srt.mem_cache.memory_pool.ReqToTokenPool
  clear(self): gives back what they used
sglang.srt.model_executor.model_runner_components.spec_aux_hidden_state
  resolve_spec_aux_hidden_state_config(server_args, model_config, spec_algorithm,
      is_draft_worker): the same under speculative decoding
sglang.srt.mem_cache.allocation_sizing
  get_req_to_token_extra_context_len(): room in a request's row of KV slots
  get_alloc_reserve_per_decode(): for what speculation reserves
sglang.srt.speculative.eagle_utils
  eagle_sample(verify_input, batch, logits_output, grammar_mask, uno_target_max_top_k,
      watermark_state, watermark_full_mask): LED's own token at every node of a draft
  verify_tree_greedy_func(predicts, accept_index, accept_token_num, candidates, retrieve_index,
      retrieve_next_token, retrieve_next_sibling, target_predict, topk): how far drafts hold them
sglang.srt.model_executor.model_runner_components.weight_updater.WeightUpdater
  update_weights_from_tensor(self, named_tensors, load_format): tensors that fit no parameter
  update_weights_from_disk(self, model_path, load_format, weight_name_filter,
      recapture_cuda_graph): the same, and that LED still reads the model's head
  end_weight_update(self, run_post_load): LED still reads the model's head
sglang.srt.lora.lora_manager.LoRAManager
  load_lora_weights(self, lora_ref): an adapter that does not fit is refused
  load_lora_weights_from_tensors(self, lora_ref, tensors): the same
  init_memory_pool(self): the same, of those that the launch names
sglang.srt.lora.mem_pool.LoRAMemoryPool
  load_lora_weight_to_buffer(self, uid, buffer_id, lora_adapter, lora_modules,
      lora_embed_tokens_module, lora_lm_head_module): tried over buffers without memory
sglang.srt.model_executor.model_runner.ModelRunner
  init_torch_distributed(self): compares the settings of all nodes, before the model is loaded
  load_model(self): what a checkpoint lacks, and models that cannot be divided into pipeline stages,
      end the launch with a sentence
  sampling_observer: takes in the statistics of the last pipeline stage
  init_attention_backends(self): installs soft inputs before CUDA graphs are captured
  _forward_raw(self, forward_batch, pp_proxy_tensors, reinit_attn_backend, split_forward_count): a
      short prefill that nothing counts
  get_pp_proxy_topk_size(self): what the last pipeline stage takes for it beside two streams
  sample(self, logits_output, forward_batch): methods that change the logits, before penalties
  forward(self, forward_batch, skip_attn_backend_init, pp_proxy_tensors, reinit_attn_backend,
      split_forward_count): parts captured streams from what a drafter waits for
  get_aux_hidden_states_width(self): one buffer for the captured layers of all decode graphs
  prewarm_sampling(self): binds the sampler to the loaded model, verifies the hooks
sglang.srt.model_executor.forward_batch_info
  CaptureHiddenMode: keeps the captured streams where no drafter reads them
  PPProxyTensors: what the last pipeline stage is given in a short prefill of its own
sglang.srt.model_executor.forward_batch_info.ForwardBatch
  init_new(batch, model_runner, capture_hidden_mode, return_hidden_states_before_norm,
      extend_position_info, spec_mrope_positions, kv_loc_plan, write_cols): request slots and
      prompts of a step
sglang.srt.sampling.sampling_batch_info.SamplingBatchInfo
  apply_logits_bias(self, logits): a grammar that leaves no token must not stop the sampler
  adjusted_from_schedule_batch(self, batch, vocab_size): per-row LED parameters of new requests
  adjusted_filter_batch(self, keep_indices, keep_indices_device): rows leave the batch
  adjusted_merge_batch(self, other): rows join the batch
  copy_for_forward(self): the overlap scheduler's copy
sglang.srt.sampling.sampling_params.SamplingParams
  verify(self, vocab_size): refuses bad requests with HTTP 400
  normalize(self, tokenizer): the same for Ollama's options, and for expressions in stop_regex
sglang.srt.sampling.sampling_params
  TOP_K_ALL: a request without top_k
sglang.srt.layers.vocab_parallel_embedding.VocabParallelEmbedding
  _embed_local_shard(self, input_): soft inputs in place of a token's embedding
sglang.srt.managers.schedule_batch.Req
  _compute_max_prefix_len(self, input_len): soft requests reuse cached prompts, never answers
  _check_str_based_finish(self, new_accepted_len): limits the time of a stop_regex
  update_finish_state(self, new_accepted_len): stops inside a draft
  set_finish_with_abort(self, error_msg, status_code, err_type): ends a request that the second
      check refuses
  build_rebootstrap_payload(self): asks a prefill server for a cache once more
sglang.srt.managers.schedule_batch
  FINISH_ABORT: how a request ends that cannot go on
sglang.srt.managers.scheduler.Scheduler
  _create_generation_req(self, recv_req, args, kwargs): second check, and the request's parsed
      parameters
sglang.srt.entrypoints.http_server.ORJSONRequest
  json(self): refuses misplaced keys with HTTP 400 before a stream is opened
sglang.srt.entrypoints.http_server
  get_global_state(): finds the requests that still run after Ctrl-C, whether it has started, and
      the model's name
  app: gets a header and the routes that list models
  available_models(): what it lists without them
  retrieve_model(model): what it tells of a model
  load_lora_adapter: its body names an adapter
  load_lora_adapter_from_tensors: its body names an adapter
  generate_request: its body may hold custom_params
  openai_v1_completions: its body may hold custom_params
  openai_v1_chat_completions: its body may hold custom_params
  sagemaker_chat_completions: its body may hold custom_params
  vertex_generate: its body may hold custom_params
  v1_responses_request: its body may hold custom_params
  anthropic_v1_messages: its body may hold custom_params
  ollama_chat: its body may hold custom_params
  ollama_generate: its body may hold custom_params
sglang.srt.entrypoints.grpc_bridge
  _BadOpenAIRequest: a refusal of its own
sglang.srt.entrypoints.grpc_bridge.RuntimeHandle
  _get_openai_request_class(self, serving_key): refuses misplaced keys there, and reads names
sglang.srt.entrypoints.openai.serving_base.OpenAIServingBase
  _parse_model_parameter(self, model): a model's name may end in a sampler's
sglang.srt.entrypoints.openai.serving_transcription.OpenAIServingTranscription
  create_transcription(self, audio_data, model, language, response_format, temperature, stream,
      raw_request, timestamp_granularities): refuses what a transcription would drop
sglang.srt.entrypoints.ollama.serving.OllamaServing
  handle_chat(self, request, raw_request): refuses before a stream is opened
  handle_generate(self, request, raw_request): the same
  _convert_options_to_sampling_params(self, options): what is to be checked there
  get_tags(self): lists the samplers' names
sglang.srt.entrypoints.api_contract
  generate_contract_error(body): types of a body
sglang.srt.managers.tokenizer_manager.TokenizerManager
  generate_request(self, obj, request): hands custom_params on where SGLang drops them
  _validate_one_request(self, obj, input_ids): refuses what would end the scheduler
  _create_tokenized_object(self, obj, input_text, input_ids, input_embeds, mm_inputs,
      token_type_ids): refuses prompts of embeddings where the phase must be read
  _send_one_request(self, tokenized_obj): gives each of n samples its own seed
  _wait_one_response(self, obj, request): names the sampler in meta_info
  abort_request(self, rid, abort_all): ends the requests that still run after Ctrl-C
  update_request_meta_info(self, meta_info, state, customized_info, index, finish_reason):
      statistics in meta_info
sglang.srt.lora.lora_registry.LoRARegistry
  get_all_adapters(self): names that are adapters
sglang.srt.managers.io_struct
  PositionalEmbeds: told from what a body can hold
sglang.srt.managers.io_struct.GenerateReqInput
  normalize_batch_and_arguments(self): refuses lists that do not fit the prompts
sglang.srt.sampling.custom_logit_processor.CustomLogitProcessor
  from_str(json_str): tells whether a custom logit processor loads
sglang.srt.observability.metrics_collector.SchedulerMetricsCollector
  __init__(self, labels, server_args, enable_lora, enable_hierarchical_cache,
      enable_streaming_session): the labels of SGLang's metrics
sglang.srt.managers.scheduler_components.internal_state.SchedulerInternalStateController
  get_internal_state(self, recv_req): statistics in /server_info
sglang.srt.managers.scheduler_components.batch_result_processor.SchedulerBatchResultProcessor
  _apply_prefill_grammar(self, req, next_token_id, already_advanced): says why a grammar ended an
      answer
  _accept_grammar_tokens(self, req, tokens): the same
  process_batch_result_prebuilt(self, batch): requests that come from a prefill server
  consume_auxiliary_output(batch, output, output_starts): hands per-token statistics to the
      scheduler
sglang.srt.disaggregation.common.conn
  PrefillServerInfo: what a decode server learns of a prefill server, LED's settings included
sglang.srt.disaggregation.common.conn.CommonKVReceiver
  init(self, prefill_dp_rank): refuses requests of a prefill server with other settings
sglang.srt.disaggregation.base
  KVPoll: how a refused request ends
sglang.srt.disaggregation.utils.MetadataBuffers
  __init__(self, size, hidden_size, hidden_states_dtype, max_sampling_mask_tokens,
      max_top_logprobs_num, custom_mem_pool, output_dsa_topk_indices_dim, kv_checksum_enabled): one
      buffer more, for the first token's statistics
  get_buf_infos(self): where it is
  set_buf(self, req): writes them
sglang.srt.disaggregation.prefill.SchedulerDisaggregationPrefillMixin
  process_batch_result_disagg_prefill(self, batch, result): counts before it sends
  send_kv_chunk(self, req, last_chunk, end_idx): what it sends
  optimistic_release_and_requeue(self, req): a first token is thrown away
sglang.srt.disaggregation.decode.DecodeTransferQueue
  _commit_transfer_to_req(self, decode_req): reads the statistics where the token is taken over
sglang.srt.environ.Envs
  SGLANG_HTTP_SERVER_APP_PATH: loads plugins in extra HTTP workers
  SGLANG_RUST_SERVER: another front end, which is refused
""")

# The CPU platform's attention, what a pair needs there, and what stands there for speculation's
# kernels.
ON_CPU = _table("""
sglang.srt.disaggregation.mooncake.conn.MooncakeKVSender
  supports_host_tensor_indices: page-locked memory, which the platform has none of
sglang.srt.arg_groups.speculative_hook
  _disable_overlap_schedule_for_cpu(server_args): the overlap scheduler stays on
sglang.srt.mem_cache.allocation
  assign_req_to_token_pool_func(req_pool_indices, req_to_token, start_offset, end_offset,
      out_cache_loc, batch_size): KV slots of a draft
sglang.srt.mem_cache.memory_pool.MHATokenToKVPool
  _init_kv_copy_and_warmup(self): moves accepted keys and values
sglang.srt.speculative.spec_utils
  fill_front_out_cache_loc_func(num_front, out_cache_loc, front_out_cache_loc): where to
  fill_accept_out_cache_loc_func(accept_index, out_cache_loc, accept_out_cache_loc, size): from
      where
sglang.srt.managers.overlap_utils
  gather_spec_extras(indices, topk_p_buf, topk_index_buf, output_tokens_buf, hidden_states_buf):
      what a drafter goes on from
sglang.srt.speculative.draft_utils.DraftBackendFactory
  create_decode_backend(self): attention of a draft's steps
  create_draft_extend_backend(self): reads committed tokens into a draft model
sglang.srt.speculative.eagle_worker_common
  assign_draft_cache_locs_contiguous_func(req_pool_indices, req_to_token, seq_lens, out_cache_loc,
      topk, num_cols, positions, mrope): KV slots of a draft model's steps
  fill_bonus_tokens_func(accept_tokens, accept_lens, bonus_tokens, accept_stride, batch_size): the
      next root
sglang.srt.speculative.spec_utils
  _select_top_k_tokens_later(i, topk_p, topk_index, hidden_states, scores, topk): the branches of a
      draft, which it compiles
sglang.srt.speculative.eagle_utils
  build_tree_kernel_efficient_func(parent_list, top_scores_index, seq_lens, tree_mask, positions,
      retrieve_index, retrieve_next_token, retrieve_next_sibling, topk, spec_steps,
      num_verify_tokens, tree_mask_mode): links of a draft model's trees
  tree_speculative_sampling_target_only: the engine's verification
  top_k_renorm_prob: its filters
  top_p_renorm_prob: the same
sglang.srt.layers.attention.attention_registry
  register_attention_backend(name): puts the batched attention in place of torch_native
sglang.srt.layers.attention.torch_native_backend.TorchNativeAttnBackend
  _run_sdpa_forward_decode(self, query, output, k_cache, v_cache, req_to_token, req_pool_indices,
      seq_lens, encoder_lens, scaling, enable_gqa, causal, is_cross_attn, sliding_window_size):
      attention of a decode batch
  _run_sdpa_forward_extend(self, query, output, k_cache, v_cache, req_to_token, req_pool_indices,
      seq_lens, extend_prefix_lens, extend_seq_lens, encoder_lens, scaling, enable_gqa, causal,
      is_cross_attn, sliding_window_size): attention of a prefill
sglang.srt.layers.attention.base_attn_backend.AttentionBackend
  init_forward_metadata(self, forward_batch): marks the start of a forward pass
""")

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
        owner = pkgutil.resolve_name(symbol.path.rpartition(".")[0])
    except (ImportError, AttributeError):
        return "is missing"
    # What a class would inherit in its place is another thing.
    if isinstance(owner, type) and symbol.path.rpartition(".")[2] not in vars(owner):
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
    """The one sentence with which a launch ends; of many problems it holds the first few."""
    more = len(problems) - _SAID
    return (
        f"led-sglang cannot run on the installed SGLang {sglang_version()}: "
        + "; ".join(problems[:_SAID])
        + (f"; and {more} more, which `led-sglang doctor` lists" if more > 0 else "")
        + " (install sglang>=0.5.23,<0.5.24)"
    )
