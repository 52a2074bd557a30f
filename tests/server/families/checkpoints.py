"""Checkpoints as they are published: names transformers does not know, and drafting layers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

_CONFIGURATION = """\
from transformers import {base}


class Block(dict):
    def __getattr__(self, name):
        if name in self:
            return self[name]
        raise AttributeError(name)


class {name}({base}):
    model_type = "{model_type}"

    def __init__(self, block_configs=(), **values):
        super().__init__(**values)
        self.block_configs = [
            Block({{part: Block(values) for part, values in block.items()}})
            for block in block_configs
        ]
"""


def mimo(source: Path, target: Path) -> None:
    """MiMo-7B: Qwen2's layers under a name of its own, and drafting layers beside them."""
    shutil.copytree(source, target)
    _rename(target, "MiMoConfig", "Qwen2Config", "mimo", "MiMoForCausalLM")
    _edit(target, num_nextn_predict_layers=1)
    _add_tensors(target, _copies_of_last_layer(target, "model.mtp_layers.0."))


def nemotron_nas(source: Path, target: Path) -> None:
    """Nemotron Super: Llama's layers, some without attention or MLP (zero in `source`)."""
    shutil.copytree(source, target)
    _rename(target, "DeciLMConfig", "LlamaConfig", "nemotron-nas", "DeciLMForCausalLM")
    tensors = load_file(target / "model.safetensors")
    blocks = []
    for layer in range(json.loads((target / "config.json").read_text())["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        parts = {"self_attn.": "o_proj", "mlp.": "down_proj"}
        absent = [p for p, out in parts.items() if not tensors[f"{prefix}{p}{out}.weight"].any()]
        norms = {"self_attn.": "input_layernorm.", "mlp.": "post_attention_layernorm."}
        gone = tuple(prefix + name for p in absent for name in (p, norms[p]))
        tensors = {name: t for name, t in tensors.items() if not gone or not name.startswith(gone)}
        blocks.append(
            {
                "attention": {"no_op": "self_attn." in absent, "n_heads_in_group": 2},
                "ffn": {"no_op": "mlp." in absent, "ffn_mult": 6.0},
            }
        )
    _edit(target, block_configs=blocks)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


def ernie(source: Path, target: Path) -> None:
    """ERNIE 4.5 under the name of SGLang's own model class; transformers writes another."""
    shutil.copytree(source, target)
    _edit(target, architectures=["Ernie4_5_ForCausalLM"])


def under_the_name(
    name: str, base: str, model_type: str, architecture: str
) -> Callable[[Path, Path], None]:
    """Known layers under a model type of their own; the arguments are `_rename`'s."""

    def served(source: Path, target: Path) -> None:
        shutil.copytree(source, target)
        _rename(target, name, base, model_type, architecture)

    return served


def with_keys(without: tuple[str, ...] = (), **keys: Any) -> Callable[[Path, Path], None]:
    """A configuration with keys of the published ones, which transformers takes for granted.

    Args:
        without: keys that the published ones do not have.
        keys: of the text model, where a vision model has one.
    """

    def served(source: Path, target: Path) -> None:
        shutil.copytree(source, target)
        file = target / "config.json"
        config = json.loads(file.read_text())
        text = config.get("text_config", config)
        for key in without:
            del text[key]
        text.update(keys)
        file.write_text(json.dumps(config, indent=2))

    return served


def nemotron_h(source: Path, target: Path) -> None:
    """Nemotron H: the kinds of its layers are published as letters."""
    shutil.copytree(source, target)
    config = json.loads((source / "config.json").read_text())
    for key in ("layer_types", "layers_block_type", "mtp_layers_block_type"):
        config.pop(key, None)
    (target / "config.json").write_text(json.dumps(config))
    _edit(target, hybrid_override_pattern="M*-M", mamba_n_groups=config["n_groups"])


def step3p5(source: Path, target: Path) -> None:
    """Step-3.5-Flash: the text model of Step-3.7, with the keys that were published for it."""
    shutil.copytree(source, target)
    config = json.loads((source / "config.json").read_text())["text_config"]
    kinds, layers = config["layer_types"], range(config["num_hidden_layers"])
    ropes = [config["rope_parameters"][kind] for kind in kinds]
    sparse = [i for i in layers if config["mlp_layer_types"][i] == "sparse"]
    for key in ("rope_parameters", "per_layer_config", "mlp_layer_types"):
        del config[key]
    config |= {
        "num_attention_groups": config["num_key_value_heads"],
        "attention_other_setting": {
            "num_attention_heads": config["num_sliding_attention_heads"],
            "num_attention_groups": config["num_key_value_heads"],
        },
        "rope_theta": [rope["rope_theta"] for rope in ropes],
        "partial_rotary_factors": [rope["partial_rotary_factor"] for rope in ropes],
        "moe_layers_enum": ",".join(map(str, sparse)),
        "moe_num_experts": config["n_routed_experts"],
        "moe_top_k": config["num_experts_per_tok"],
        "share_expert_dims": config["share_expert_dim"],
        "use_moe_router_bias": True,
        "need_fp32_gate": True,
        "use_head_wise_attn_gate": True,
        "swiglu_limits": [0.0 for _ in layers],
        "swiglu_limits_shared": [0.0 for _ in layers],
    }
    (target / "config.json").write_text(json.dumps(config))
    _rename(target, "Step3p5Config", "PretrainedConfig", "step3p5", "Step3p5ForCausalLM")
    file = target / "model.safetensors"
    tensors = {name: t for name, t in load_file(file).items() if not name.startswith("vi")}
    save_file(tensors, file, metadata={"format": "pt"})


def bailing_moe_v2(source: Path, target: Path) -> None:
    """Ling and Ring 2: GLM-4.5's layers under other names, without norms of queries and keys."""
    shutil.copytree(source, target)
    _rename(
        target, "BailingMoeV2Config", "Glm4MoeConfig", "bailing_moe_v2", "BailingMoeV2ForCausalLM"
    )
    config = json.loads((target / "config.json").read_text())
    _edit(
        target,
        num_experts=config["n_routed_experts"],
        num_shared_experts=config["n_shared_experts"],
        moe_router_enable_expert_bias=True,
        score_function="sigmoid",
        use_bias=False,
        use_qkv_bias=True,
        rotary_dim=config["head_dim"] // 2,
        embedding_dropout=0.0,
    )
    file = target / "model.safetensors"
    tensors = load_file(file)
    for name in [name for name in tensors if ".q_proj." in name]:
        parts = [tensors.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        tensors[name.replace(".q_proj.", ".query_key_value.")] = torch.cat(parts)
    names = {
        "model.embed_tokens.": "model.word_embeddings.",
        ".self_attn.o_proj.": ".attention.dense.",
        ".self_attn.q_norm.": ".attention.query_layernorm.",
        ".self_attn.k_norm.": ".attention.key_layernorm.",
        ".self_attn.": ".attention.",
        ".gate.e_score_correction_bias": ".gate.expert_bias",
    }
    renamed = {}
    for name, tensor in tensors.items():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        renamed[name] = tensor
    save_file(renamed, file, metadata={"format": "pt"})


def qwen3_vl_moe(source: Path, target: Path) -> None:
    """Qwen3-VL-MoE: experts are published as [experts, inputs, outputs]."""
    shutil.copytree(source, target)
    file = target / "model.safetensors"
    tensors = {
        name: tensor.transpose(1, 2).contiguous() if ".experts." in name else tensor
        for name, tensor in load_file(file).items()
    }
    save_file(tensors, file, metadata={"format": "pt"})


def mimo_v2(source: Path, target: Path) -> None:
    """MiMo-V2-Flash: sliding layers have keys of their own.

    SGLang's sliding layers see one token more than transformers': the window served is one less.
    """
    shutil.copytree(source, target)
    config = json.loads((source / "config.json").read_text())
    ropes = config.pop("rope_parameters")
    full, sliding = ropes["full_attention"], ropes["sliding_attention"]
    kinds = config.pop("layer_types")
    sparse = config.pop("mlp_layer_types")
    window = config.pop("sliding_window") - 1
    (target / "config.json").write_text(json.dumps(config))
    _rename(target, "MiMoV2FlashConfig", "Qwen2Config", "mimo_v2_flash", "MiMoV2FlashForCausalLM")
    _edit(
        target,
        rope_theta=full["rope_theta"],
        swa_rope_theta=sliding["rope_theta"],
        partial_rotary_factor=full["partial_rotary_factor"],
        hybrid_layer_pattern=[int(kind == "sliding_attention") for kind in kinds],
        moe_layer_freq=[int(kind == "sparse") for kind in sparse],
        sliding_window_size=window,
        swa_num_attention_heads=config["num_attention_heads"],
        swa_num_key_value_heads=2 * config["num_key_value_heads"],
        swa_head_dim=config["head_dim"],
        swa_v_head_dim=config["v_head_dim"],
        add_swa_attention_sink_bias=True,
        add_full_attention_sink_bias=False,
        layernorm_epsilon=config["rms_norm_eps"],
        topk_method="noaux_tc",
        scoring_func="sigmoid",
    )


def with_drafting_layer(source: Path, target: Path) -> None:
    """A drafting layer numbered behind the decoder layers, as DeepSeek-V3 and GLM-4.5 have it."""
    shutil.copytree(source, target)
    layers = json.loads((target / "config.json").read_text())["num_hidden_layers"]
    _edit(target, num_nextn_predict_layers=1)
    _add_tensors(target, _copies_of_last_layer(target, f"model.layers.{layers}."))


def _rename(folder: Path, name: str, base: str, model_type: str, architecture: str) -> None:
    module = f"configuration_{model_type.replace('-', '_')}"
    code = _CONFIGURATION.format(base=base, name=name, model_type=model_type)
    (folder / f"{module}.py").write_text(code)
    _edit(
        folder,
        model_type=model_type,
        architectures=[architecture],
        auto_map={"AutoConfig": f"{module}.{name}"},
    )


def _edit(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes, indent=2))


def _copies_of_last_layer(folder: Path, prefix: str) -> Iterator[tuple[str, Tensor]]:
    config = json.loads((folder / "config.json").read_text())
    last = f"model.layers.{config['num_hidden_layers'] - 1}."
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name.startswith(last):
            yield prefix + name.removeprefix(last), tensor


def _add_tensors(folder: Path, tensors: Iterator[tuple[str, Tensor]]) -> None:
    file = folder / "model.safetensors"
    save_file({**load_file(file), **dict(tensors)}, file, metadata={"format": "pt"})
