"""Transformers' Trainer with an optimizer of bitsandbytes, chosen by its name."""

import tempfile

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

config = LlamaConfig(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
)
torch.manual_seed(0)
examples = [{"input_ids": torch.arange(8), "labels": torch.arange(8)} for _ in range(8)]
with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder,
        optim="paged_adamw_8bit",
        max_steps=3,
        learning_rate=1e-2,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = Trainer(LlamaForCausalLM(config), arguments, train_dataset=examples)
    first = trainer.evaluate(examples)["eval_loss"]
    trainer.train()
    assert trainer.evaluate(examples)["eval_loss"] < first
print("learned")
