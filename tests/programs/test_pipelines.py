"""Transformers' `from_pretrained(device_map=...)`, `generate` and `pipeline`, as CUDA programs.

Each program runs redirected and on plain torch's CPU; what it returns must be the same.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import torchdevice_mode

from .hugging_face import (
    FIRST_WORD,
    SENTENCES,
    assert_same,
    bert,
    clean_state,
    llama,
    plain,
    saved,
    tokenizer,
    tolerance,
    transformers,
)


@pytest.fixture(autouse=True)
def accelerate_starts_anew():
    transformers.logging.set_verbosity_error()
    with clean_state():
        yield


def compare(
    program: Callable[[Path, bool], Any], folder: Path, target: torch.device, close: float = 1e-4
) -> None:
    """Run a program, which is told whether there is CUDA, redirected and in plain torch."""
    with torchdevice_mode.redirect(rng="cpu"):
        result = program(folder, True)
    with plain():
        expected = program(folder, False)
    assert_same(result, expected, **tolerance(target, close))


def load(folder: Path, **options: Any) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(saved(llama(), folder), **options)


def prompt(model: Any) -> torch.Tensor:
    return torch.arange(FIRST_WORD, FIRST_WORD + 6)[None].to(model.device)


def answers(model: Any, inputs: torch.Tensor | None = None, **options: Any) -> dict[str, Any]:
    inputs = prompt(model) if inputs is None else inputs
    model.generation_config.eos_token_id = None
    with torch.no_grad():
        logits = model(inputs).logits.float().cpu().flatten().tolist()
    options = {"max_new_tokens": 6, "do_sample": False} | options
    return {"logits": logits, "generated": model.generate(inputs, **options).tolist()}


# --- where a model is loaded to -----------------------------------------------------------------

SPREAD = {
    **{"model.embed_tokens": 0, "model.layers.0": 0, "model.rotary_emb": 0},
    **{"model.layers.1": "cpu", "model.norm": "disk", "lm_head": "disk"},
}
MAPS = {
    "auto": "auto",
    "balanced": "balanced",
    "sequential": "sequential",
    "name": "cuda",
    "name and index": "cuda:0",
    "index": 0,
    "dictionary": {"": 0},
    "device": torch.device("cuda", 0),
}


@pytest.mark.parametrize("device_map", MAPS.values(), ids=MAPS)
def test_a_device_map_leads_to_the_target(target, tmp_path, device_map):
    def program(folder: Path, cuda: bool) -> Any:
        model = load(folder, device_map=device_map if cuda else "cpu")
        if cuda:
            assert {parameter.device for parameter in model.parameters()} == {target}
        return answers(model)

    compare(program, tmp_path, target)


def test_a_model_is_spread_over_the_target_the_cpu_and_the_disk(target, tmp_path):
    def program(folder: Path, cuda: bool) -> Any:
        model = load(
            folder, device_map=SPREAD if cuda else "cpu", offload_folder=folder / "offloaded"
        )
        return answers(model)

    compare(program, tmp_path, target)


def test_inputs_on_the_cpu_reach_a_dispatched_model(target, tmp_path):
    def program(folder: Path, cuda: bool) -> Any:
        model = load(folder, device_map="auto" if cuda else "cpu")
        return answers(model, torch.arange(FIRST_WORD, FIRST_WORD + 6)[None])

    compare(program, tmp_path, target)


def test_a_default_device_holds_while_a_model_is_loaded(target, tmp_path):
    def program(folder: Path, cuda: bool) -> Any:
        with torch.device("cuda" if cuda else "cpu"):
            model = load(folder)
        assert not cuda or model.device == target
        return answers(model)

    compare(program, tmp_path, target)


@pytest.mark.parametrize("size", ["5KB", "1GB"])
def test_shards_are_loaded(target, tmp_path, size):
    def program(folder: Path, cuda: bool) -> Any:
        saved(llama(), folder, max_shard_size=size)
        device_map = "cuda" if cuda else "cpu"
        return answers(
            transformers.AutoModelForCausalLM.from_pretrained(folder, device_map=device_map)
        )

    compare(program, tmp_path, target)


def test_a_file_of_torch_is_loaded(target, tmp_path):
    def program(folder: Path, cuda: bool) -> Any:
        device = "cuda" if cuda else "cpu"
        model = llama().to(device)
        model.config.save_pretrained(folder)
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        return answers(transformers.AutoModelForCausalLM.from_pretrained(folder, device_map=device))

    compare(program, tmp_path, target)


@pytest.mark.parametrize(
    ("kept", "asked", "got"),
    [
        (torch.bfloat16, "auto", torch.bfloat16),
        (torch.float32, torch.float16, torch.float16),
        (torch.float32, "auto", torch.float32),
    ],
    ids=str,
)
def test_the_dtype_is_the_one_asked_for(target, tmp_path, kept, asked, got):
    def program(folder: Path, cuda: bool) -> Any:
        saved(llama().to(kept), folder)
        device_map = "cuda" if cuda else "cpu"
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=asked, device_map=device_map
        )
        assert {parameter.dtype for parameter in model.parameters()} == {got}
        return {"logits": answers(model)["logits"]}

    compare(program, tmp_path, target, 2e-1 if got.itemsize == 2 else 1e-4)


# --- generation ---------------------------------------------------------------------------------

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"do_sample": True, "top_k": 10, "top_p": 0.9, "temperature": 0.7},
    "beams": {"num_beams": 3, "repetition_penalty": 1.2, "no_repeat_ngram_size": 2},
    "without a cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "several sequences": {"do_sample": True, "num_return_sequences": 3},
}


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_each_way_to_generate_gives_the_same_words(target, tmp_path, options):
    def program(folder: Path, cuda: bool) -> Any:
        model = load(folder, device_map="cuda" if cuda else "cpu")
        transformers.set_seed(0)
        return answers(model, **options)

    compare(program, tmp_path, target)


def test_an_offloaded_cache_gives_the_words_of_the_usual_one(redirected, tmp_path):
    # It has streams of its own, and does not run in plain torch without CUDA.
    model = load(tmp_path, device_map="cuda")
    offloaded = answers(model, cache_implementation="offloaded")
    assert offloaded["generated"] == answers(model)["generated"]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("heads", [2, 1])
def test_each_attention_gives_the_same_words(target, tmp_path, attention, heads):
    def program(folder: Path, cuda: bool) -> Any:
        saved(llama(num_key_value_heads=heads), folder)
        device_map = "cuda" if cuda else "cpu"
        return answers(
            transformers.AutoModelForCausalLM.from_pretrained(
                folder, device_map=device_map, attn_implementation=attention
            )
        )

    compare(program, tmp_path, target)


def test_words_arrive_one_by_one_from_a_thread(target, tmp_path):
    def program(folder: Path, cuda: bool) -> Any:
        model, words = load(folder, device_map="cuda" if cuda else "cpu"), tokenizer()
        streamer = transformers.TextIteratorStreamer(words)
        inputs = words("the cat sat", return_tensors="pt").to(model.device)
        given = {**inputs, "streamer": streamer, "max_new_tokens": 5, "do_sample": False}
        thread = threading.Thread(target=model.generate, kwargs=given)
        thread.start()
        text = list(streamer)
        thread.join()
        return text

    compare(program, tmp_path, target)


# --- pipelines ----------------------------------------------------------------------------------

SAID = list(SENTENCES[:2])
WORDS = {"max_new_tokens": 5, "do_sample": False}
ENTAILS = {"id2label": {0: "entailment", 1: "neutral", 2: "contradiction"}}
ENTAILS |= {"label2id": {name: number for number, name in ENTAILS["id2label"].items()}}
PIPELINES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "text-generation": (llama, lambda pipe: pipe("the cat sat", **WORDS)),
    "text-classification": (
        lambda: bert("BertForSequenceClassification", num_labels=3),
        lambda pipe: pipe(SAID, batch_size=2, top_k=None),
    ),
    "token-classification": (
        lambda: bert("BertForTokenClassification", num_labels=3),
        lambda pipe: [[found["entity"], float(found["score"])] for found in pipe(SAID[0])],
    ),
    "fill-mask": (lambda: bert("BertForMaskedLM"), lambda pipe: pipe("the [MASK] sat")),
    "feature-extraction": (lambda: bert("BertModel"), lambda pipe: pipe("the cat")),
    "zero-shot-classification": (
        lambda: bert("BertForSequenceClassification", **ENTAILS),
        lambda pipe: pipe(SAID[0], candidate_labels=["cat", "dog"]),
    ),
}


@pytest.mark.parametrize("task", PIPELINES)
def test_a_pipeline_gives_what_it_gives_in_plain_torch(target, tmp_path, task):
    make, ask = PIPELINES[task]

    def program(folder: Path, cuda: bool) -> Any:
        pipe = transformers.pipeline(task, model=saved(make(), folder), device=0 if cuda else -1)
        assert not cuda or pipe.model.device == pipe.device == target
        return ask(pipe)

    compare(program, tmp_path, target)


@pytest.mark.parametrize(
    "asked",
    [
        {"device": "cuda"},
        {"device": "cuda:0"},
        {"device": torch.device("cuda")},
        {"device_map": "auto"},
        {},
    ],
    ids=str,
)
def test_each_spelling_gives_a_pipeline_on_the_target(redirected, target, tmp_path, asked):
    pipe = transformers.pipeline("text-generation", model=saved(llama(), tmp_path), **asked)
    assert pipe.model.device == target
    assert pipe(SAID, batch_size=2, **WORDS)


# --- what needs CUDA itself ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "options"),
    [
        ("flash_attn", lambda: {"attn_implementation": "flash_attention_2"}),
        (
            "bitsandbytes",
            lambda: {"quantization_config": transformers.BitsAndBytesConfig(load_in_4bit=True)},
        ),
    ],
)
def test_a_package_for_cuda_alone_is_asked_for_by_name(redirected, tmp_path, package, options):
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    said = "FlashAttention2" if package == "flash_attn" else package
    with pytest.raises(ImportError, match=said):
        load(tmp_path, device_map="cuda", **options())
