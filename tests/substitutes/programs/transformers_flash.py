"""Transformers with attn_implementation="flash_attention_2", as on a CUDA machine."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import is_flash_attn_2_available

assert is_flash_attn_2_available()
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    dtype=torch.bfloat16,
)
losses, tokens = [], []
for implementation in ("eager", "flash_attention_2"):
    torch.manual_seed(0)
    config._attn_implementation = implementation
    model = LlamaForCausalLM._from_config(config, attn_implementation=implementation)
    model = model.to("cuda", torch.bfloat16)
    assert model.config._attn_implementation == implementation
    ids = torch.randint(1, 64, (2, 12), device="cuda")
    mask = torch.ones_like(ids)
    mask[0, 8:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    loss = model(ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    losses.append(loss.item())
    prompt = ids[1:, :5]
    made = model.generate(
        prompt, max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=None
    )
    tokens.append(made[0].tolist())
assert abs(losses[0] - losses[1]) < 0.02, losses
assert tokens[0][:5] == tokens[1][:5] and len(tokens[1]) == 9
print("same")
