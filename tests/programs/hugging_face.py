"""What the tests of Hugging Face's libraries share: tiny models, a tokenizer, and a clean start.

Nothing is downloaded. Weights come from NumPy, so that every run has the same.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import torchdevice_mode

transformers = pytest.importorskip("transformers")
accelerate = pytest.importorskip("accelerate")
tokenizers = pytest.importorskip("tokenizers")

SENTENCES = (
    "the cat sat on the mat",
    "a dog ate my home work",
    "we like red and green trees",
)
SPECIAL = ("[PAD]", "[UNK]", "[BOS]", "[EOS]", "[MASK]", "[CLS]", "[SEP]")
VOCABULARY = 32
FIRST_WORD = len(SPECIAL)


def forget_state() -> None:
    """accelerate keeps one state for the process, with the device that it found first."""
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


@contextlib.contextmanager
def clean_state() -> Iterator[None]:
    """accelerate begins anew, and what it wrote into the environment is taken back."""
    forget_state()
    variables = dict(os.environ)
    yield
    forget_state()
    os.environ.clear()
    os.environ.update(variables)


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Without redirection, where accelerate is to find only the CPU."""
    forget_state()
    with torchdevice_mode.native():
        yield
    forget_state()


def tokenizer() -> Any:
    """Words to numbers, trained on the sentences above."""
    trained = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token="[UNK]"))
    trained.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    trainer = tokenizers.trainers.WordLevelTrainer(special_tokens=list(SPECIAL))
    trained.train_from_iterator(SENTENCES, trainer)
    names = {f"{token.strip('[]').lower()}_token": token for token in SPECIAL}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=trained, padding_side="left", **names
    )


def numbers(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(numpy.random.default_rng(seed).normal(size=shape).astype("float32"))


def with_weights(model: Any) -> Any:
    """The model with weights that do not depend on where it was made."""
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            parameter.copy_(0.3 * numbers(seed, *parameter.shape))
    return model


_SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
_SIZES |= {"vocab_size": VOCABULARY, "max_position_embeddings": 64}


def llama(**options: Any) -> Any:
    ends = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "num_hidden_layers": 2}
    config = transformers.LlamaConfig(**(_SIZES | ends | options))
    return with_weights(transformers.LlamaForCausalLM(config))


def bert(name: str, **options: Any) -> Any:
    without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = transformers.BertConfig(**(_SIZES | without | {"num_hidden_layers": 1} | options))
    return with_weights(getattr(transformers, name)(config))


def saved(model: Any, folder: Path, **options: Any) -> str:
    """The folder with the model and the tokenizer, as a hub would give it."""
    model.save_pretrained(folder, **options)
    tokenizer().save_pretrained(folder)
    return str(folder)


def assert_same(result: Any, expected: Any, *, rtol: float, atol: float, at: str = "") -> None:
    """Compare what programs return: numbers in lists and dictionaries."""
    assert type(result) is type(expected), at
    if isinstance(result, dict):
        assert result.keys() == expected.keys(), at
        for name, value in result.items():
            assert_same(value, expected[name], rtol=rtol, atol=atol, at=f"{at}.{name}")
    elif isinstance(result, list):
        assert len(result) == len(expected), at
        for position, values in enumerate(zip(result, expected, strict=True)):
            assert_same(*values, rtol=rtol, atol=atol, at=f"{at}[{position}]")
    elif isinstance(result, float):
        close = numpy.isclose(result, expected, rtol=rtol, atol=atol, equal_nan=False)
        assert close, f"{at}: {result} is not {expected}"
    else:
        assert result == expected, at


def tolerance(target: torch.device, elsewhere: float = 1e-4) -> dict[str, float]:
    """Exact where the target is the CPU, and to rounding elsewhere."""
    if target.type == "cpu":
        return {"rtol": 0.0, "atol": 0.0}
    return {"rtol": elsewhere, "atol": elsewhere / 10}
