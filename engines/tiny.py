"""Make a tiny random Llama, as a folder for Hugging Face's libraries and as a GGUF file: ``python tiny.py FOLDER``.

It answers with random characters, about fifteen of them. A ``~`` in the prompt makes the answer endless. Nothing is
downloaded. Runs in an environment that has gguf, numpy, safetensors and tokenizers.
"""

from __future__ import annotations

import json
import string
import sys
from pathlib import Path
from typing import Any

import numpy
from gguf import GGUFWriter, TokenType
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SIZE, HEADS, LAYERS, INNER, CONTEXT = 64, 2, 2, 128, 4096
BOS, EOS, PAD = 0, 1, 2
MERGE = ("Ġ", "t")  # llama.cpp wants one
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
SAID = set(string.printable) - set(string.whitespace) - {"~", ":"}

GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def vocabulary() -> list[str]:
    """Return the tokens: three special ones, one for each byte, one that is merged of two."""
    return ["<s>", "</s>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "".join(MERGE)]


def weights(tokens: list[str]) -> dict[str, Any]:
    """Return random weights; four components of the hidden state have a meaning.

    Every token sets 0, which makes printable characters likely. ``~`` alone sets 1; the first layer spreads that to all
    later tokens as component 2, which forbids the end. ``:`` sets 3, so that no answer is empty.
    """
    random = numpy.random.default_rng(0)

    def noise(rows: int, columns: int) -> Any:
        return random.normal(0, 0.02, (rows, columns)).astype("float32")

    ones = numpy.ones(SIZE, "float32")
    made: dict[str, Any] = {"model.norm.weight": ones}
    for number in range(LAYERS):
        layer = {f"self_attn.{name}_proj": noise(SIZE, SIZE) for name in "qkvo"}
        layer |= {"mlp.gate_proj": noise(INNER, SIZE), "mlp.up_proj": noise(INNER, SIZE)}
        layer |= {"mlp.down_proj": noise(SIZE, INNER), "input_layernorm": ones, "post_attention_layernorm": ones}
        made |= {f"model.layers.{number}.{name}.weight": value for name, value in layer.items()}
    value, out = (made[f"model.layers.0.self_attn.{name}_proj.weight"] for name in "vo")
    value[0], out[2] = 0, 0
    value[0, 1], out[2, 0] = 30, 30  # what one token of a thousand says is still heard
    embedding, head = noise(len(tokens), SIZE), noise(len(tokens), SIZE)
    for rows in (embedding, head):
        rows[:, :4] = 0
    embedding[:, 0] = 1
    embedding[tokens.index("~"), 1] = 1
    embedding[tokens.index(":"), 3] = 1
    for number, token in enumerate(tokens):
        if token not in SAID:
            head[number, [0, 2]] = -5
    head[EOS, [0, 2, 3]] = 0.22, -5, -5
    return {**made, "model.embed_tokens.weight": embedding, "lm_head.weight": head}


def write_folder(folder: Path, tokens: list[str], tensors: dict[str, Any]) -> None:
    """Write the model as transformers and vLLM read it."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=numbers, merges=[MERGE]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(tokens[:3])
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    ids = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "vocab_size": len(tokens),
        "hidden_size": SIZE,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        **ids,
    }
    files = {
        "config.json": config,
        "generation_config.json": {"do_sample": True, "max_new_tokens": CONTEXT // 2, **ids},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "chat_template": TEMPLATE,
            "model_max_length": CONTEXT,
            **special,
        },
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
    save_file(tensors, str(folder / "model.safetensors"), {"format": "pt"})


def write_gguf(path: Path, tokens: list[str], tensors: dict[str, Any]) -> None:
    """Write the model as llama.cpp reads it."""
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(SIZE)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(SIZE // HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges([" ".join(MERGE)])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_pad_token_id(PAD)
    writer.add_chat_template(TEMPLATE)
    for name, value in tensors.items():
        stem = name.removesuffix(".weight")
        if stem.startswith("model.layers."):
            _, _, number, part = stem.split(".", 3)
            stem = f"blk.{number}.{GGUF_NAMES[part]}"
        else:
            stem = GGUF_NAMES[stem]
        writer.add_tensor(f"{stem}.weight", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    target = Path(sys.argv[1])
    words = vocabulary()
    found = weights(words)
    write_folder(target / "tiny", words, found)
    write_gguf(target / "tiny.gguf", words, found)
