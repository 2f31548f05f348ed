"""Hugging Face accelerate in CUDA programs, against the same programs on plain torch's CPU.

Data and first weights come from NumPy, so that both runs have the same; order too, since a
generator on the accelerator shuffles in another order than the CPU's.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import torchdevice_mode
from torchdevice_mode import simulate

accelerate = pytest.importorskip("accelerate")

from accelerate import (  # noqa: E402
    Accelerator,
    cpu_offload,
    disk_offload,
    dispatch_model,
    infer_auto_device_map,
    init_empty_weights,
    load_checkpoint_and_dispatch,
    skip_first_batches,
)
from accelerate.utils import (  # noqa: E402
    GradScalerKwargs,
    find_executable_batch_size,
    get_balanced_memory,
    get_max_memory,
    release_memory,
    send_to_device,
    set_seed,
)
from installation import ROOT, Installation  # noqa: E402

from .hugging_face import (  # noqa: E402
    assert_same,
    clean_state,
    forget_state,
    numbers,
    plain,
    tolerance,
)


@pytest.fixture(autouse=True)
def accelerate_starts_anew():
    with clean_state():
        yield


def make_model() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3))
    for seed, parameter in enumerate(model.parameters()):
        with torch.no_grad():
            parameter.copy_(numbers(seed, *parameter.shape))
    return model


def make_loader(**options: Any) -> DataLoader:
    inputs = numbers(100, 24, 4)
    labels = torch.from_numpy(numpy.arange(24) % 3)
    return DataLoader(TensorDataset(inputs, labels), batch_size=4, **options)


def prepared(cpu: bool = False, **options: Any) -> tuple[Any, ...]:
    """What a training script has after `accelerator.prepare`."""
    # torch begins at 65536, which some of these gradients would not fit into: a step is skipped.
    scaler = GradScalerKwargs(init_scale=256.0)
    accelerator = Accelerator(
        cpu=cpu, gradient_accumulation_steps=2, kwargs_handlers=[scaler], **options
    )
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-6)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.9)
    loader = make_loader(pin_memory=not cpu)
    return accelerator, *accelerator.prepare(model, optimizer, loader, scheduler)


def train(parts: tuple[Any, ...], epochs: int = 2) -> dict[str, list[float]]:
    """The loop of accelerate's documentation; returns every number that comes out."""
    accelerator, model, optimizer, loader, scheduler = parts
    losses, norms, rates = [], [], []
    model.train()
    for _ in range(epochs):
        for inputs, labels in loader:
            assert inputs.device.type == labels.device.type == accelerator.device.type
            with accelerator.accumulate(model):
                with accelerator.autocast():
                    loss = nn.functional.cross_entropy(model(inputs), labels)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    norms.append(float(accelerator.clip_grad_norm_(model.parameters(), 1.0)))
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            losses.append(accelerator.gather(loss.detach()).mean().item())
            rates += scheduler.get_last_lr()
    weights = accelerator.get_state_dict(model)
    trained = {name: weight.flatten().tolist() for name, weight in weights.items()}
    return {"losses": losses, "norms": norms, "learning rates": rates} | trained


@pytest.mark.parametrize(
    ("precision", "close"),
    # On the CPU accelerate trains in float32 for "fp16"; the accelerator does what was asked.
    [("no", 1e-5), ("bf16", 1e-2), ("fp16", 5e-2)],
)
def test_the_training_loop_gives_the_numbers_of_plain_torch(precision, close, target):
    with torchdevice_mode.redirect():
        parts = prepared(mixed_precision=precision)
        result = train(parts)
        scaler = parts[0].scaler
    with plain():
        expected = train(prepared(cpu=True, mixed_precision=precision))
    assert len(result["norms"]) == 6
    assert result["losses"][-1] < result["losses"][0]
    assert_same(result, expected, **tolerance(target, close))
    assert (scaler is not None) == (precision == "fp16" and target.type != "cpu")


def test_the_accelerators_device_is_the_target(redirected, target):
    accelerator = Accelerator()
    assert accelerator.device.type == target.type
    assert torch.zeros(1, device=accelerator.device).device == target
    assert make_model().to(accelerator.device)[0].weight.device == target
    assert accelerator.num_processes == 1
    assert accelerator.is_main_process


@pytest.mark.simulated_mps
def test_a_step_whose_gradients_overflow_is_skipped(redirected):
    accelerator = Accelerator(mixed_precision="fp16")
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer = accelerator.prepare(model, optimizer)
    before = model[0].weight.tolist()
    for scale, skipped in ((1e6, True), (1e-3, False)):
        accelerator.backward(scale * model(numbers(0, 2, 4).cuda()).sum())
        optimizer.step()
        optimizer.zero_grad()
        assert accelerator.optimizer_step_was_skipped == skipped
        assert (model[0].weight.tolist() == before) == skipped
    assert accelerator.scaler.get_scale() == 2.0**15


@pytest.mark.parametrize("safe_serialization", [True, False])
def test_saved_state_is_restored_and_training_goes_on(
    redirected, target, tmp_path, safe_serialization
):
    parts = prepared()
    train(parts, epochs=1)
    parts[0].save_state(tmp_path, safe_serialization=safe_serialization)
    first = train(parts, epochs=1)
    again = train(parts, epochs=1)
    assert first["losses"] != again["losses"]

    parts[0].load_state(tmp_path)
    assert train(parts, epochs=1) == first

    # And by a program that starts anew.
    forget_state()
    fresh = prepared()
    fresh[0].load_state(tmp_path)
    assert_same(train(fresh, epochs=1), first, rtol=1e-5, atol=1e-6)


def test_what_is_saved_loads_in_plain_accelerate(redirected, target, tmp_path):
    parts = prepared()
    train(parts, epochs=1)
    parts[0].save_state(tmp_path / "state")
    parts[0].save_model(parts[1], tmp_path / "model")
    on = train(parts, epochs=1)
    with plain():
        fresh = prepared(cpu=True)
        fresh[0].load_state(tmp_path / "state")
        assert_same(train(fresh, epochs=1), on, rtol=1e-4, atol=1e-5)
        model = load_checkpoint_and_dispatch(make_model(), tmp_path / "model")
        assert model[0].weight.device.type == "cpu"


def test_random_states_are_part_of_saved_state(redirected, tmp_path):
    accelerator = Accelerator()
    set_seed(3)
    accelerator.save_state(tmp_path)
    drawn = [torch.rand(2, device="cuda").tolist(), numpy.random.rand()]
    accelerator.load_state(tmp_path)
    assert [torch.rand(2, device="cuda").tolist(), numpy.random.rand()] == drawn


@pytest.mark.parametrize("workers", [0, 2])
def test_a_prepared_loader_gives_every_sample_on_the_target(redirected, target, workers):
    loader = Accelerator().prepare(make_loader(shuffle=True, num_workers=workers, pin_memory=True))
    for _ in range(2):
        batches = [inputs for inputs, _ in loader]
        assert {batch.device for batch in batches} == {target}
        together = torch.cat(batches).cpu().sort(dim=0).values
        assert together.tolist() == numbers(100, 24, 4).sort(dim=0).values.tolist()
    assert len(list(skip_first_batches(loader, 4))) == 2


def test_tensors_are_sent_gathered_and_padded(redirected, target):
    accelerator = Accelerator()
    sent = send_to_device({"a": [numbers(0, 2)], "b": ("text", numbers(1, 2))}, "cuda")
    assert sent["a"][0].device == sent["b"][1].device == target
    for tensor in (
        accelerator.gather_for_metrics(sent["a"][0]),
        accelerator.reduce(sent["a"][0]),
        accelerator.pad_across_processes(sent["a"][0]),
    ):
        assert tensor.device == target
        assert tensor.tolist() == numbers(0, 2).tolist()


# --- out of memory --------------------------------------------------------------------------


@pytest.mark.simulated_mps
def test_the_batch_size_is_shrunk_until_it_fits(redirected):
    tried = []
    model = nn.Linear(2**12, 1).cuda()

    @find_executable_batch_size(starting_batch_size=512)
    def work(batch_size):
        tried.append(batch_size)
        inputs = torch.ones(batch_size, 2**12, device="cuda")
        model(inputs * 2).sum().backward()
        return batch_size

    with simulate.memory_limit(torch.cuda.memory_allocated() + 4 * 2**20):
        fitting = work()
    # One batch and its double are held at once: 32 KiB a row of 4 MiB.
    assert tried[0] == 512
    assert tried == sorted(tried, reverse=True)
    assert 96 <= fitting <= 128


@pytest.mark.simulated_mps
def test_a_batch_size_that_never_fits_is_accelerates_own_error(redirected):
    @find_executable_batch_size(starting_batch_size=4)
    def work(batch_size):
        torch.ones(batch_size, 2**20, device="cuda")

    with simulate.memory_limit(torch.cuda.memory_allocated() + 2**20):
        with pytest.raises(RuntimeError, match="No executable batch size found"):
            work()


def test_memory_is_released(redirected):
    accelerator = Accelerator()
    model = accelerator.prepare(make_model())
    (model,) = accelerator.free_memory(model)
    assert model is None
    assert release_memory(torch.ones(2, device="cuda")) == [None]


# --- models spread over devices -------------------------------------------------------------

MAPS: dict[str, dict[str, Any]] = {
    "index": {"": 0},
    "name": {"": "cuda:0"},
    "partly on the CPU": {"0": 0, "1": 0, "2": 0, "3": "cpu"},
}


@pytest.mark.parametrize("device_map", MAPS.values(), ids=MAPS)
def test_a_dispatched_model_computes_what_it_would_in_plain_torch(redirected, target, device_map):
    model = dispatch_model(make_model(), device_map=device_map)
    result = model(numbers(7, 2, 4))
    assert result.device == target
    with plain():
        expected = make_model()(numbers(7, 2, 4))
    torch.testing.assert_close(result.tolist(), expected.tolist(), rtol=1e-5, atol=1e-5)


def test_weights_that_are_offloaded_visit_the_target(redirected, target):
    model = cpu_offload(make_model(), execution_device=torch.device("cuda"))
    assert model[0].weight.device.type == "meta"
    result = model(numbers(7, 2, 4))
    assert result.device == target
    with plain():
        expected = make_model()(numbers(7, 2, 4))
    torch.testing.assert_close(result.tolist(), expected.tolist(), rtol=1e-5, atol=1e-5)


def test_weights_on_the_disk_visit_the_target(redirected, target, tmp_path):
    model = disk_offload(make_model(), tmp_path, execution_device=torch.device("cuda"))
    result = model(numbers(7, 2, 4))
    assert result.device == target
    with plain():
        expected = make_model()(numbers(7, 2, 4))
    torch.testing.assert_close(result.tolist(), expected.tolist(), rtol=1e-5, atol=1e-5)


def test_the_memory_of_the_target_is_counted_once(redirected):
    memory = get_max_memory()
    assert set(memory) - {"cpu"} == {0}
    # With one device accelerate keeps a tenth of it free.
    assert get_balanced_memory(make_model())[0] < memory[0]
    # What does not fit is left on the disk, not put on the same device under another name.
    model = nn.Sequential(*[nn.Linear(64, 64) for _ in range(8)])
    device_map = infer_auto_device_map(model, max_memory=get_max_memory({0: "60KB"}))
    assert set(device_map.values()) == {0, "disk"}


@pytest.mark.parametrize("device_map", ["auto", {"": 0}], ids=str)
def test_a_checkpoint_is_loaded_into_an_empty_model(redirected, target, tmp_path, device_map):
    Accelerator().save_model(make_model(), tmp_path)
    with init_empty_weights():
        model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    model = load_checkpoint_and_dispatch(model, tmp_path, device_map=device_map)
    assert {parameter.device for parameter in model.parameters()} == {target}
    assert model[0].weight.tolist() == numbers(0, 8, 4).tolist()


# --- accelerate's own programs ------------------------------------------------------------------

SHIPPED = Path(accelerate.__file__).parent / "test_utils" / "scripts"
# Those that need no second process. On a CPU accelerate trains in float32 where float16 is asked
# for, which the first of them does not expect of a machine with CUDA.
SCRIPTS = [
    pytest.param("test_script.py", marks=pytest.mark.simulated_mps),
    *("test_sync.py", "test_ops.py", "test_merge_weights.py", "test_cli.py"),
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_that_accelerate_ships_passes(redirected, tmp_path, monkeypatch, script):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script])
    runpy.run_path(str(SHIPPED / script), run_name="__main__")


PROGRAM = """
import json, sys
import numpy, torch
from accelerate import Accelerator

def numbers(seed, *shape):
    return torch.from_numpy(numpy.random.default_rng(seed).normal(size=shape).astype("float32"))

accelerator = Accelerator(gradient_accumulation_steps=2)
model = torch.nn.Linear(4, 3)
with torch.no_grad():
    model.weight.copy_(numbers(0, 3, 4)), model.bias.zero_()
optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, eps=1e-6)
data = torch.utils.data.TensorDataset(numbers(1, 16, 4), torch.arange(16) % 3)
loader = torch.utils.data.DataLoader(data, batch_size=4)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
losses = []
for inputs, labels in loader:
    with accelerator.accumulate(model):
        loss = torch.nn.functional.cross_entropy(model(inputs), labels)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    losses.append(loss.item())
told = {"losses": losses, "device": accelerator.device.type, "cuda": torch.cuda.is_available()}
told |= {"precision": accelerator.mixed_precision, "arguments": sys.argv[1:]}
print("told", json.dumps(told))
"""


def told_by(output: str) -> dict[str, Any]:
    (line,) = (line for line in output.splitlines() if line.startswith("told "))
    return json.loads(line.removeprefix("told "))


def test_accelerate_launches_a_program_in_a_redirected_process(
    target, tmp_path, monkeypatch, capfd
):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    installed = Installation(tmp_path / "python")
    installed.add_hook()
    variables = {"ACTIVATE_TORCH_DEVICE": "1", "PYTHONPATH": str(ROOT / "src")}
    if simulate.is_loaded():
        variables["TORCHDEVICE_SIMULATE"] = str(simulate.loaded_device())
    launch = ["-m", "accelerate.commands.launch", "--num_processes", "1"]
    launch += ["--mixed_precision", "bf16", str(program), "--rate", "1"]
    done = installed.execute(launch, **variables)
    assert done.returncode == 0, done.stderr
    result = told_by(done.stdout)
    assert result["device"] == target.type
    assert result["cuda"] is True
    assert result["precision"] == "bf16"
    assert result["arguments"] == ["--rate", "1"]

    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with plain():
        runpy.run_path(str(program), run_name="__main__")
    expected = told_by(capfd.readouterr().out)
    assert_same(result["losses"], expected["losses"], **tolerance(target, 2e-2))
