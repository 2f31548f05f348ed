"""Transformers models as CUDA programs, against the same programs on plain torch's CPU.

A model is built, trained for a step and asked to generate, by code that names CUDA throughout.
The same is done without redirection, from the weights that the redirected program saved. Every
number must agree: exactly where the target is the CPU, to rounding elsewhere.
"""

from __future__ import annotations

import io
from typing import Any

import numpy
import pytest
import torch

import torchdevice_mode

from .architectures import ARCHITECTURES, IMAGE, VOCABULARY, Architecture

transformers = pytest.importorskip("transformers")

BATCH, LENGTH = 2, 12


def _tokens() -> torch.Tensor:
    # 0 to 2 are special tokens.
    return torch.randint(3, VOCABULARY, (BATCH, LENGTH), dtype=torch.long)


def _text() -> dict[str, torch.Tensor]:
    tokens = _tokens()
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens}


def _image() -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(BATCH, 3, IMAGE, IMAGE), "labels": torch.tensor([0, 2])}


def _image_text() -> dict[str, Any]:
    return {"input_ids": _tokens(), "pixel_values": _image()["pixel_values"], "return_loss": True}


def _sound() -> dict[str, torch.Tensor]:
    return {"input_values": torch.randn(BATCH, 800), "labels": _tokens()[:, :5]}


def _spectrogram() -> dict[str, torch.Tensor]:
    return {"input_features": torch.randn(BATCH, 8, 32), "labels": _tokens()}


# What each kind is fed, and the one input that `generate` starts from, if it can.
KINDS: dict[str, tuple[Any, str | None]] = {
    "causal": (_text, "input_ids"),
    "sequence-to-sequence": (_text, "input_ids"),
    "tokens": (_text, None),
    "image": (_image, None),
    "image-text": (_image_text, None),
    "sound": (_sound, None),
    "spectrogram": (_spectrogram, "input_features"),
}


def build(architecture: Architecture) -> torch.nn.Module:
    """The model with dropout off, whose random numbers differ from device to device."""
    model_class = getattr(transformers, architecture.model)
    config = model_class.config_class(**architecture.config)
    for part in (
        config,
        *(getattr(config, name, None) for name in ("text_config", "vision_config")),
    ):
        for name, value in list(vars(part).items()) if part is not None else ():
            if "drop" in name and isinstance(value, float):
                setattr(part, name, 0.0)
    torch.manual_seed(0)
    return model_class(config)


def cuda_program(architecture: Architecture, checkpoint: io.BytesIO) -> dict[str, Any]:
    """A CUDA program: builds, saves, trains a step, generates."""
    assert torch.cuda.is_available()
    device = torch.device("cuda")
    model = build(architecture).cuda()
    torch.save(model.state_dict(), checkpoint)

    make_inputs, start = KINDS[architecture.kind]
    torch.manual_seed(1)
    inputs = {
        name: value.pin_memory().to(device, non_blocking=True) if torch.is_tensor(value) else value
        for name, value in make_inputs().items()
    }
    assert all(parameter.is_cuda for parameter in model.parameters())
    assert all(value.device == device for value in inputs.values() if torch.is_tensor(value))
    return train(model, inputs, start)


def plain_program(architecture: Architecture, checkpoint: io.BytesIO) -> dict[str, Any]:
    """The same without a device."""
    model = build(architecture)
    checkpoint.seek(0)
    model.load_state_dict(torch.load(checkpoint, map_location="cpu"))
    make_inputs, start = KINDS[architecture.kind]
    torch.manual_seed(1)
    return train(model, make_inputs(), start)


def train(model: Any, inputs: dict[str, Any], start: str | None) -> dict[str, Any]:
    """One step of training, and greedy generation; returns every number that comes out."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-6)
    numpy.random.seed(0)  # masking of sound draws from it
    output = model(**inputs)
    output.loss.backward()
    numbers = {"loss": output.loss.detach()}
    for name in ("logits", "logits_per_image"):
        if getattr(output, name, None) is not None:
            numbers[name] = getattr(output, name).detach()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            numbers[f"gradient of {name}"] = parameter.grad.clone()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for name, parameter in model.named_parameters():
        numbers[f"{name} after the step"] = parameter.detach().clone()
    if start is not None:
        model.eval()
        with torch.no_grad():
            numbers["generated"] = model.generate(
                inputs[start], max_new_tokens=5, min_new_tokens=5, do_sample=False
            )
    return numbers


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda row: row.model)
def test_architecture_trains_and_generates_as_in_plain_torch(
    architecture: Architecture, target: torch.device
) -> None:
    checkpoint = io.BytesIO()
    with torchdevice_mode.redirect():
        redirected = cuda_program(architecture, checkpoint)
    plain = plain_program(architecture, checkpoint)

    assert redirected.keys() == plain.keys()
    exact = {"rtol": 0.0, "atol": 0.0} if target.type == "cpu" else {"rtol": 1e-4, "atol": 1e-5}
    for name, number in redirected.items():
        assert number.device.type == target.type, name
        torch.testing.assert_close(
            number.cpu(), plain[name], **exact, msg=lambda text, name=name: f"{name}: {text}"
        )
