"""Transformers' `Trainer` as CUDA programs use it, against the same on plain torch's CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import torchdevice_mode
from torchdevice_mode import simulate

from .hugging_face import (
    FIRST_WORD,
    SENTENCES,
    VOCABULARY,
    assert_same,
    bert,
    clean_state,
    forget_state,
    llama,
    plain,
    tokenizer,
    tolerance,
    transformers,
    with_weights,
)


@pytest.fixture(autouse=True)
def accelerate_starts_anew():
    transformers.logging.set_verbosity_error()
    with clean_state():
        yield
    torch._dynamo.reset()


@pytest.fixture
def redirected():
    """Random numbers of both runs are the CPU's."""
    with torchdevice_mode.redirect(rng="cpu") as redirection:
        yield redirection


class Rows(torch.utils.data.Dataset):
    """Rows of words, the same in every run."""

    def __init__(self, count: int) -> None:
        words = numpy.random.default_rng(1).integers(FIRST_WORD, VOCABULARY, (count, 8))
        self.rows = [torch.from_numpy(row) for row in words]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


def make(folder: Path, model: Any = None, *, cpu: bool = False, **options: Any) -> Any:
    """A trainer as a script makes it; plain torch is told to use the CPU."""
    given: dict[str, Any] = {
        **{"output_dir": str(folder), "max_steps": 3, "learning_rate": 1e-2, "seed": 1},
        **{"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4},
        **{"logging_steps": 1, "report_to": [], "save_strategy": "no", "disable_tqdm": True},
        # Adam divides by the root of what may be zero but for rounding.
        **{"adam_epsilon": 1e-6, "use_cpu": cpu},
    }
    collator = options.pop("data_collator", None)
    train_dataset = options.pop("train_dataset", None) or Rows(12)
    metrics = options.pop("compute_metrics", None)
    return transformers.Trainer(
        model=llama() if model is None else model,
        args=transformers.TrainingArguments(**(given | options)),
        train_dataset=train_dataset,
        eval_dataset=Rows(6),
        data_collator=collator,
        compute_metrics=metrics,
    )


KEPT = ("loss", "grad_norm", "learning_rate", "eval_loss", "eval_correct")


def outcome(trainer: Any) -> dict[str, Any]:
    """Every number that a run logs, and the weights that it ends with."""
    history = [
        {name: float(value) for name, value in entry.items() if name in KEPT}
        for entry in trainer.state.log_history
    ]
    weights = {
        name: parameter.detach().float().cpu().flatten().tolist()
        for name, parameter in trainer.model.named_parameters()
    }
    return {"history": history, "weights": weights}


def train(*args: Any, **options: Any) -> dict[str, Any]:
    trainer = make(*args, **options)
    trainer.train()
    result = outcome(trainer)
    assert len([entry for entry in result["history"] if "loss" in entry]) == trainer.args.max_steps
    assert all(numpy.isfinite(list(entry.values())).all() for entry in result["history"])
    return result


ARGUMENTS: dict[str, dict[str, Any]] = {
    "float32": {},
    "steps that accumulate": {
        **{"gradient_accumulation_steps": 2, "max_grad_norm": 0.1},
        **{"lr_scheduler_type": "cosine", "warmup_steps": 1},
    },
    "a fused optimizer": {"optim": "adamw_torch_fused", "weight_decay": 0.1},
    "Adafactor": {"optim": "adafactor"},
    "recomputation": {"gradient_checkpointing": True},
    "workers and pinned memory": {"dataloader_num_workers": 2, "dataloader_pin_memory": True},
    "noise on the embeddings": {"neftune_noise_alpha": 5},
    "evaluation between": {"eval_strategy": "steps", "eval_steps": 2},
}


@pytest.mark.parametrize("options", ARGUMENTS.values(), ids=ARGUMENTS)
def test_training_gives_the_numbers_of_plain_torch(redirected, target, tmp_path, options):
    result = train(tmp_path, **options)
    with plain():
        expected = train(tmp_path, cpu=True, **options)
    assert_same(result, expected, **tolerance(target))


@pytest.mark.parametrize(("precision", "close"), [("fp16", 2e-2), ("bf16", 5e-2)])
def test_mixed_precision_acts_on_the_target(redirected, target, tmp_path, precision, close):
    trainer = make(tmp_path, **{precision: True})
    trainer.train()
    # Where the device is a CPU, accelerate trains in float32 for fp16.
    scales = precision == "fp16" and target.type != "cpu"
    assert (trainer.accelerator.scaler is not None) == scales
    with plain():
        expected = train(tmp_path, cpu=True, **({"bf16": True} if precision == "bf16" else {}))
    # Adam turns the sign of a gradient that is nearly nothing into a step: weights may differ.
    history = outcome(trainer)["history"]
    assert_same(history, expected["history"], **tolerance(target, close))


def test_dropout_draws_the_same_numbers(redirected, target, tmp_path):
    def model():
        return llama(attention_dropout=0.3)

    result = train(tmp_path, model())
    with plain():
        assert_same(result, train(tmp_path, model(), cpu=True), **tolerance(target))
        assert result["history"] != train(tmp_path, cpu=True)["history"]


def test_a_model_in_bfloat16_is_trained(redirected, target, tmp_path):
    result = train(tmp_path, llama().to(torch.bfloat16))
    with plain():
        expected = train(tmp_path, llama().to(torch.bfloat16), cpu=True)
    assert_same(result["history"], expected["history"], **tolerance(target, 5e-2))


def test_a_compiled_model_is_trained(redirected, target, tmp_path):
    options = {"torch_compile": True, "torch_compile_backend": "aot_eager", "max_steps": 2}
    result = train(tmp_path, llama(num_hidden_layers=1), **options)
    with plain():
        expected = train(tmp_path, llama(num_hidden_layers=1), cpu=True, max_steps=2)
    assert_same(result, expected, **tolerance(target) | {"atol": 1e-5, "rtol": 1e-4})


def test_the_device_is_the_target(redirected, target, tmp_path):
    trainer = make(tmp_path)
    assert trainer.args.device.type == target.type
    assert {parameter.device for parameter in trainer.model.parameters()} == {target}
    assert trainer.args.n_gpu == 1
    assert trainer.args.train_batch_size == 4


def test_memory_is_measured_on_the_target(redirected, tmp_path):
    trainer = make(tmp_path, skip_memory_metrics=False, torch_empty_cache_steps=1, max_steps=1)
    trainer.train()
    (entry,) = (
        entry for entry in trainer.state.log_history if "train_mem_gpu_peaked_delta" in entry
    )
    assert entry["train_mem_gpu_peaked_delta"] > 0


def test_evaluation_and_prediction_give_arrays(redirected, target, tmp_path):
    def correct(prediction):
        assert isinstance(prediction.predictions, numpy.ndarray)
        return {
            "correct": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())
        }

    def run(**options):
        trainer = make(tmp_path, compute_metrics=correct, **options)
        evaluated = trainer.evaluate()
        predicted = trainer.predict(Rows(6))
        numbers = {name: value for name, value in evaluated.items() if name in KEPT}
        return numbers | {"predictions": predicted.predictions.tolist()}

    result = run()
    with plain():
        assert_same(result, run(cpu=True), **tolerance(target))


def test_training_resumes_where_a_checkpoint_was_written(redirected, target, tmp_path):
    def model():
        return llama(attention_dropout=0.3)

    through = train(tmp_path, model(), save_strategy="steps", save_steps=2)
    forget_state()
    trainer = make(tmp_path, model())
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    # Weights, moments, the schedule, the order of rows and random states are what they were.
    assert_same(outcome(trainer)["weights"], through["weights"], rtol=1e-5, atol=1e-6)


@pytest.mark.simulated_mps
def test_the_scale_of_float16_is_part_of_a_checkpoint(redirected, tmp_path):
    through = train(tmp_path, fp16=True, save_strategy="steps", save_steps=2)
    forget_state()
    trainer = make(tmp_path, fp16=True)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert (tmp_path / "checkpoint-2" / "scaler.pt").exists()
    assert_same(outcome(trainer)["weights"], through["weights"], rtol=1e-4, atol=1e-5)


def test_a_checkpoint_is_resumed_by_plain_torch(redirected, target, tmp_path):
    through = train(tmp_path, save_strategy="steps", save_steps=2)
    with plain():
        trainer = make(tmp_path, cpu=True)
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
        assert_same(outcome(trainer)["weights"], through["weights"], rtol=1e-3, atol=1e-4)


def test_the_best_model_is_loaded_and_saved(redirected, target, tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps"}
    trainer = make(tmp_path, save_steps=1, load_best_model_at_end=True, **options)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    with plain():
        model = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "saved")
        for name, weight in model.state_dict().items():
            assert weight.tolist() == trainer.model.state_dict()[name].tolist(), name


@pytest.mark.simulated_mps
def test_the_batch_size_is_found(redirected, tmp_path):
    # Rows of a vocabulary that large need 4 MiB each, forward and backward a few times that.
    model = llama(vocab_size=2**15, num_hidden_layers=1)
    options = {"max_steps": 1, "optim": "sgd", "save_strategy": "no"}
    trainer = make(
        tmp_path, model, auto_find_batch_size=True, per_device_train_batch_size=8, **options
    )
    with simulate.memory_limit(torch.cuda.memory_allocated() + 2**24):
        trainer.train()
    assert trainer._train_batch_size < 8


def test_a_masked_model_is_trained_by_a_tokenizer_and_a_collator(redirected, target, tmp_path):
    def run(**options):
        words = tokenizer()
        rows = [{"input_ids": words(sentence)["input_ids"]} for sentence in SENTENCES * 4]
        collator = transformers.DataCollatorForLanguageModeling(words)
        model = bert("BertForMaskedLM")
        return train(tmp_path, model, train_dataset=rows, data_collator=collator, **options)

    result = run()
    with plain():
        assert_same(result, run(cpu=True), **tolerance(target))


def test_predictions_are_generated(redirected, target, tmp_path):
    def run(**options):
        config = transformers.T5Config(
            **{"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1},
            **{"num_heads": 2, "dropout_rate": 0.0, "decoder_start_token_id": 0},
        )
        model = with_weights(transformers.T5ForConditionalGeneration(config))
        arguments = transformers.Seq2SeqTrainingArguments(
            **{"output_dir": str(tmp_path), "max_steps": 2, "report_to": [], "disable_tqdm": True},
            **{"predict_with_generate": True, "generation_max_length": 6, "save_strategy": "no"},
            **options,
        )
        trainer = transformers.Seq2SeqTrainer(
            model=model, args=arguments, train_dataset=Rows(8), eval_dataset=Rows(4)
        )
        trainer.train()
        return trainer.predict(Rows(4)).predictions.tolist()

    result = run()
    with plain():
        assert result == run(use_cpu=True)
