"""What a program can see of the simulated device, beside its operators."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import warnings

import numpy as np
import pytest
import torch

import torchdevice_mode
from torchdevice_mode import TorchDeviceWarning, _log, simulate

pytestmark = pytest.mark.simulated_mps

DEVICE = torch.device("mps", 0)


def ones(*size: int, **options: object) -> torch.Tensor:
    return torch.ones(*size, device=DEVICE, **options)


# --- counters ----------------------------------------------------------------------------------

SYNC = {"synchronizations": 1}
NOTHING: dict[str, int] = {}
COUNTED = {
    # what is done with four floats x on the device, and what it counts beside operators
    "item": (lambda x: x[0].item(), SYNC),
    "float": (lambda x: float(x[0]), SYNC),
    "bool": (lambda x: bool(x[0]), SYNC),
    "if": (lambda x: 1 if x[0] else 2, SYNC),
    "nonzero": (lambda x: x.nonzero(), {**SYNC, "allocations": 1, "frees": 1}),
    "mask": (lambda x: x[x > 0], {**SYNC, "allocations": 2, "frees": 2}),
    "mask, written": (
        lambda x: x.__setitem__(x > 5, x[:0]),
        {**SYNC, "allocations": 1, "frees": 1},
    ),
    "places": (
        lambda x: x[[0, 1]],
        {"copies_to_device": 1, "bytes_to_device": 16, "allocations": 2, "frees": 2},
    ),
    "equal": (lambda x: torch.equal(x, x), SYNC),
    "cpu": (
        lambda x: x.cpu(),
        {**SYNC, "copies_from_device": 1, "bytes_from_device": 16},
    ),
    "tolist": (
        lambda x: x.tolist(),
        {**SYNC, "copies_from_device": 1, "bytes_from_device": 16},
    ),
    "from_cpu": (
        lambda x: torch.ones(4).to(DEVICE),
        {"copies_to_device": 1, "bytes_to_device": 16, "allocations": 1, "frees": 1},
    ),
    "tensor": (
        lambda x: torch.tensor([1.0, 2.0], device=DEVICE),
        {"copies_to_device": 1, "bytes_to_device": 8, "allocations": 1, "frees": 1},
    ),
    "copy_": (lambda x: x.copy_(torch.ones(4)), {"copies_to_device": 1, "bytes_to_device": 16}),
    "clone": (lambda x: x.clone(), {"copies_on_device": 1, "allocations": 1, "frees": 1}),
    "half": (lambda x: x.half(), {"copies_on_device": 1, "allocations": 1, "frees": 1}),
    "to where it is": (lambda x: x.to(DEVICE), NOTHING),
    "view": (lambda x: x.view(2, 2)[0], NOTHING),
    "in place": (lambda x: x.add_(1), NOTHING),
    "new": (lambda x: torch.zeros(4, device=DEVICE), {"allocations": 1, "frees": 1}),
    "synchronize": (lambda x: torch.mps.synchronize(), SYNC),
    "accelerator.synchronize": (lambda x: torch.accelerator.synchronize(), SYNC),
    "shape": (lambda x: (x.shape, x.device, x.dtype, len(x)), NOTHING),
}


@pytest.mark.parametrize("use, expected", COUNTED.values(), ids=COUNTED)
def test_use_is_counted(use, expected):
    x = ones(4)
    gc.collect()
    with simulate.counting() as counts:
        use(x)
    counted = {name: getattr(counts, name) for name in simulate.Counters.__dataclass_fields__}
    del counted["operators"]
    assert {name: value for name, value in counted.items() if value} == expected


def test_printing_copies_once():
    with simulate.counting() as counts:
        assert repr(ones(2)) == "tensor([1., 1.], device='mps:0')"
    assert counts.copies_from_device == 1


def test_counting_stands_still_after_its_block():
    with simulate.counting() as outer:
        with simulate.counting() as inner:
            ones(2).relu().tolist()
            assert inner.operators == 2
        ones(2).tolist()
    ones(2).tolist()
    assert (inner.synchronizations, outer.synchronizations) == (1, 2)
    with pytest.raises(AttributeError):
        inner.sandwiches


def test_counters_are_frozen_and_subtract():
    earlier = simulate.counters()
    ones(2)
    difference = simulate.counters() - earlier
    assert (difference.allocations, difference.frees) == (1, 1)
    with pytest.raises(AttributeError):
        difference.frees = 0


# --- random numbers ----------------------------------------------------------------------------


def draw(generator: torch.Generator | None = None) -> list[float]:
    return torch.rand(3, device=DEVICE, generator=generator).tolist()


SEEDINGS = {
    "torch": torch.manual_seed,
    "mps": torch.mps.manual_seed,
    "generator": lambda seed: torch.mps._get_default_mps_generator().manual_seed(seed),
}


@pytest.mark.parametrize("seeding", SEEDINGS.values(), ids=SEEDINGS)
def test_seed_repeats_numbers(seeding):
    seeding(7)
    first, second = draw(), draw()
    seeding(7)
    assert [draw(), draw()] == [first, second]
    assert first != second


def test_state_of_the_default_generator_can_be_kept():
    state = torch.mps.get_rng_state()
    assert (state.dtype, state.device.type) == (torch.uint8, "cpu")
    first = draw()
    torch.mps.set_rng_state(state)
    assert draw() == first


def test_default_generator_is_another_than_the_cpus():
    torch.mps.manual_seed(1)
    state = torch.get_rng_state()
    draw()
    torch.nn.functional.dropout(ones(9))
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_follows_the_devices_seed():
    def dropped() -> list[float]:
        torch.mps.manual_seed(3)
        return torch.nn.functional.dropout(ones(64)).tolist()

    assert dropped() == dropped()
    assert 0 < sum(dropped()) < 128


def test_generator_has_seed_state_and_copies():
    generator = torch.Generator("mps").manual_seed(5)
    assert (generator.device.type, generator.initial_seed()) == ("mps", 5)
    state, twin = generator.get_state(), generator.clone_state()
    first = draw(generator)
    assert draw(twin) == first
    generator.set_state(state)
    assert draw(generator) == first
    assert generator.seed() == generator.initial_seed()
    restored = pickle.loads(pickle.dumps(twin))
    assert (restored.device.type, draw(restored)) == ("mps", draw(twin))


def test_generator_of_another_device_is_refused():
    with pytest.raises(RuntimeError, match="Expected a 'mps' device type for generator"):
        draw(torch.Generator())


def test_fork_rng_restores():
    torch.mps.manual_seed(1)
    first = draw()
    torch.mps.manual_seed(1)
    with torch.random.fork_rng(devices=[0], device_type="mps"):
        draw()
    assert draw() == first


# --- torch.mps and torch.accelerator -----------------------------------------------------------

ANSWERS = {
    "is_available": (lambda: torch.mps.is_available(), True),
    "device_count": (lambda: torch.mps.device_count(), 1),
    "backends.is_available": (lambda: torch.backends.mps.is_available(), True),
    "backends.is_built": (lambda: torch.backends.mps.is_built(), True),
    "backends.macos": (lambda: torch.backends.mps.is_macos_or_newer(14, 0), True),
    "get_name": (lambda: torch.backends.mps.get_name(), "Simulated MPS"),
    "get_core_count": (lambda: torch.backends.mps.get_core_count(), 8),
    "is_capturing": (lambda: torch.mps.profiler.is_capturing_metal(), False),
    "is_capture_enabled": (lambda: torch.mps.profiler.is_metal_capture_enabled(), False),
    "current_accelerator": (lambda: torch.accelerator.current_accelerator(), torch.device("mps")),
    "accelerator.device_count": (lambda: torch.accelerator.device_count(), 1),
    "current_device_index": (lambda: torch.accelerator.current_device_index(), 0),
    "stream": (lambda: torch.accelerator.current_stream().device, DEVICE),
    "new stream": (lambda: torch.Stream("mps").device, DEVICE),
    "other index": (lambda: torch.ones(1, device="mps:1").device, DEVICE),
    "cuda": (lambda: torch.cuda.is_available(), False),
    "is_mps": (lambda: ones(1).is_mps, True),
    "type": (lambda: ones(1).type(), "torch.mps.FloatTensor"),
    "is_pinned": (lambda: torch.ones(1).is_pinned(), False),
}


@pytest.mark.parametrize("ask, answer", ANSWERS.values(), ids=ANSWERS)
def test_question_is_answered_as_on_a_mac(ask, answer):
    assert ask() == answer


def test_dtypes_of_the_device_are_metals():
    supported = torch.accelerator.get_device_capability()["supported_dtypes"]
    assert {torch.float32, torch.float16, torch.bfloat16, torch.complex64} <= supported
    assert not supported & {torch.float64, torch.complex128, torch.quint8}


def test_memory_is_accounted_for_with_its_peak():
    gc.collect()
    torch.accelerator.reset_peak_memory_stats()
    before = torch.mps.current_allocated_memory()
    x = torch.empty(1000, device=DEVICE)
    y = torch.empty(2000, device=DEVICE)
    del y
    assert torch.mps.current_allocated_memory() == before + 4000
    assert torch.accelerator.memory_allocated() == before + 4000
    assert torch.accelerator.max_memory_allocated() == before + 12000
    assert torch.mps.driver_allocated_memory() >= before + 12000
    torch.mps.empty_cache()
    assert torch.mps.driver_allocated_memory() == before + 4000
    torch.accelerator.reset_peak_memory_stats()
    assert torch.accelerator.max_memory_allocated() == before + 4000
    assert torch.accelerator.memory_stats()["allocated_bytes.all.current"] == before + 4000
    del x
    assert torch.mps.current_allocated_memory() == before


def events(kind: type, **options: object) -> tuple[object, object]:
    place = () if kind is torch.mps.Event else ("mps",)
    return kind(*place, **options), kind(*place, **options)


@pytest.mark.parametrize("kind", [torch.mps.Event, torch.Event])
def test_events_measure_time(kind):
    start, end = events(kind, enable_timing=True)
    start.record()
    ones(100).sum().item()
    end.record()
    end.synchronize()
    assert start.query() and end.query()
    first = start.elapsed_time(end)
    assert 0 < first < 10_000
    assert start.elapsed_time(end) == first


NO_TIMING = "Events were not created with argument 'enable_timing=True'"


@pytest.mark.parametrize(
    "enable_timing, record, said",
    [
        (False, "se", NO_TIMING),
        (True, "", NO_TIMING),
        (True, "s", NO_TIMING),
        (True, "es", "was not recorded after start event"),
    ],
    ids=["not timed", "not recorded", "end not recorded", "wrong order"],
)
def test_events_that_cannot_tell_the_time_say_so(enable_timing, record, said):
    start, end = events(torch.mps.Event, enable_timing=enable_timing)
    assert not start.query()
    for which in record:
        (start if which == "s" else end).record()
    with pytest.raises(RuntimeError, match=said):
        start.elapsed_time(end)


# --- views, storage and `out=` -----------------------------------------------------------------


def test_views_share_memory_and_follow_writes():
    x = torch.arange(6.0, device=DEVICE)
    part, table = x[2:4], x.view(2, 3).t()
    part.fill_(9)
    table[0].zero_()
    assert x.tolist() == [0, 1, 9, 0, 4, 5]
    assert part.data_ptr() == x.data_ptr() + 8
    assert table._base is x and part.is_set_to(x[2:4])
    assert part.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()


def test_empty_out_is_resized_in_place():
    out = torch.empty(0, device=DEVICE)
    storage = out.untyped_storage()
    result = torch.add(torch.arange(3.0, device=DEVICE), 1, out=out)
    assert result is out
    assert (out.tolist(), storage.nbytes()) == ([1, 2, 3], 12)


def test_out_of_another_size_warns_as_torch_does():
    with pytest.warns(UserWarning, match="An output with one or more elements was resized"):
        torch.add(ones(3), 1, out=torch.empty(2, device=DEVICE))


def rows(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return x[mask]


def columns(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return x[:, mask]


def written(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, mask] = 0.0
    return y


# TorchScript's lists of indices have a type object of their own.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("use", [rows, columns, written])
def test_torchscript_indexes_by_a_mask(use):
    x = torch.arange(9.0).view(3, 3)
    mask = torch.tensor([True, False, True])
    found = torch.jit.script(use)(x.to(DEVICE), mask.to(DEVICE))
    assert found.device == DEVICE
    assert torch.equal(found.to("cpu"), use(x, mask))


def test_storage_is_the_devices():
    storage = torch.arange(2, dtype=torch.uint8, device=DEVICE).untyped_storage()
    assert (storage.device, storage.nbytes(), storage.tolist()) == (DEVICE, 2, [0, 1])
    assert storage.clone().device == DEVICE
    assert storage.cpu().device.type == "cpu"


STORAGES = {
    "size": (lambda: torch.UntypedStorage(3, device="mps"), 3),
    "device": (lambda: torch.UntypedStorage(3, device=DEVICE), 3),
    "bytes": (lambda: torch.UntypedStorage([1, 2], device="mps"), 2),
    "none": (lambda: torch.UntypedStorage(device="mps"), 0),
}


@pytest.mark.parametrize("make, size", STORAGES.values(), ids=STORAGES)
def test_storage_can_be_made(make, size):
    storage = make()
    assert (type(storage), storage.device, storage.nbytes()) == (torch.UntypedStorage, DEVICE, size)


def test_storage_made_of_bytes_has_them_and_others_are_as_ever():
    assert torch.UntypedStorage([1, 2], device="mps").tolist() == [1, 2]
    assert torch.UntypedStorage(2).device.type == "cpu"
    with pytest.raises(RuntimeError, match="was of type str instead of int"):
        torch.UntypedStorage("two", device="mps")


# --- copies, files, other libraries ------------------------------------------------------------


def saved_and_loaded(value: object, **options: object) -> object:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, **options)


@pytest.mark.parametrize("weights_only", [True, False])
@pytest.mark.parametrize(
    "device, location, expected",
    [
        ("mps", None, "mps"),
        ("mps", "cpu", "cpu"),
        ("mps", "mps", "mps"),
        ("cpu", "mps", "mps"),
        ("cpu", torch.device("mps", 0), "mps"),
        ("cpu", {"cpu": "mps"}, "mps"),
        ("mps", {"mps": "cpu"}, "cpu"),
        ("mps", lambda storage, location: storage.cpu(), "cpu"),
        ("cpu", None, "cpu"),
    ],
)
def test_load_places_where_it_is_told(device, location, expected, weights_only):
    x = torch.arange(4.0, device=device)
    loaded = saved_and_loaded([x, x[1:]], map_location=location, weights_only=weights_only)
    assert [part.device.type for part in loaded] == [expected] * 2
    assert [part.tolist() for part in loaded] == [[0, 1, 2, 3], [1, 2, 3]]
    assert loaded[1].data_ptr() == loaded[0].data_ptr() + 4


def test_module_moves_saves_and_loads():
    model = torch.nn.Linear(2, 3)
    expected = copy.deepcopy(model.state_dict())
    moved = model.to("mps")
    state = saved_and_loaded(moved.state_dict(), map_location="cpu")
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert moved.load_state_dict(state)
    assert {parameter.device for parameter in moved.parameters()} == {DEVICE}


COPIES = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "clone": lambda value: value.clone(),
}


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_copy_is_on_the_device(make):
    x = torch.arange(3.0, device=DEVICE)
    made = make(x)
    assert (made.device, made.tolist()) == (DEVICE, [0, 1, 2])


def test_deepcopy_keeps_aliases_and_gradients():
    x = ones(2).requires_grad_()
    (x * 3).sum().backward()
    first, second = copy.deepcopy([x, x])
    assert first is second
    assert (first.grad.tolist(), first.requires_grad) == ([3, 3], True)


NO_NUMPY = (
    "can't convert mps:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host "
    "memory first."
)


@pytest.mark.parametrize(
    "use", [torch.Tensor.numpy, np.asarray, np.array], ids=["numpy", "asarray", "array"]
)
def test_numpy_is_refused_with_torchs_words(use):
    with pytest.raises(TypeError) as raised:
        use(ones(2))
    assert str(raised.value) == NO_NUMPY


def test_dlpack_is_metals_and_shares_memory():
    x = ones(2)
    assert [int(part) for part in x.__dlpack_device__()] == [8, 0]  # kDLMetal
    shared = torch.from_dlpack(x)
    shared.add_(1)
    assert (shared.device, x.tolist()) == (DEVICE, [2, 2])


# --- autocast and training ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, expected",
    [({}, torch.float16), ({"dtype": torch.bfloat16}, torch.bfloat16)]
    + [({"enabled": False}, torch.float32)],
)
def test_autocast_computes_in_its_dtype(options, expected):
    with torch.autocast("mps", **options):
        assert (ones(2, 2) @ ones(2, 2)).dtype == expected
        assert torch.softmax(ones(2), 0).dtype == torch.float32
        assert torch.is_autocast_enabled("mps") == (expected != torch.float32)
    assert (ones(2, 2) @ ones(2, 2)).dtype == torch.float32


def test_autocast_refuses_float32_as_torch_does():
    with pytest.warns(UserWarning, match="MPS Autocast only supports dtypes of"):
        torch.autocast("mps", dtype=torch.float32)


def make_model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.LayerNorm(8), torch.nn.Linear(8, 2)
    )


def train(model, device, run=None, steps: int = 3) -> list[float]:
    """Losses of a few steps; `run` is the model as it is called."""
    model.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    losses = []
    for step in range(steps):
        x = torch.linspace(0, 1 + step, 12).reshape(3, 4).to(device)
        optimizer.zero_grad()
        loss = (run or model)(x).pow(2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_training_gives_the_cpus_numbers():
    assert train(make_model(), "mps") == pytest.approx(train(make_model(), "cpu"))


def test_grad_scaler_scales_and_skips():
    model = torch.nn.Linear(2, 1).to("mps")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("mps", init_scale=1024.0)
    weight = model.weight.detach().clone()
    scaler.scale(model(ones(1, 2) * float("inf")).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(model.weight, weight)
    assert scaler.get_scale() == 512.0


def test_backward_runs_in_a_thread_of_its_own():
    import threading

    seen = []
    x = ones(2).requires_grad_()
    x.register_hook(lambda gradient: seen.append(threading.get_ident()))
    (x * 2).sum().backward()
    assert seen and seen[0] != threading.get_ident()


# --- torch.compile -----------------------------------------------------------------------------


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    _log.forget_warnings()
    yield
    torch._dynamo.reset()
    _log.forget_warnings()


def ours(caught: list[warnings.WarningMessage]) -> list[warnings.WarningMessage]:
    return [entry for entry in caught if issubclass(entry.category, TorchDeviceWarning)]


@pytest.mark.parametrize("how", ["torch.compile", "Module.compile"])
def test_compiled_training_equals_eager_and_warns_once(fresh_compiler, how):
    model = make_model()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if how == "torch.compile":
            compiled = torch.compile(model, mode="reduce-overhead")
        else:
            compiled = model.compile()
        losses = train(model, "mps", compiled)
        torch.compile(lambda x: x.sin())(ones(2))
    assert losses == pytest.approx(train(make_model(), "cpu"))
    said = ours(caught)
    assert [entry.message.slug for entry in said] == ["simulated-compile"]
    assert said[0].filename == __file__


def test_compiled_factory_without_inputs_runs(fresh_compiler):
    @torch.compile(fullgraph=True)
    def make(n: int) -> torch.Tensor:
        return torch.zeros(n, device="mps") + 1

    with pytest.warns(TorchDeviceWarning, match=r"\[simulated-compile\]"):
        assert make(3).tolist() == [1, 1, 1]


def test_compiled_program_misses_what_the_device_misses(fresh_compiler):
    compiled = torch.compile(lambda x: torch.special.ndtri(x))
    with pytest.warns(TorchDeviceWarning):
        compiled(ones(2))
    with simulate.missing_operators(["special_ndtri"]), pytest.raises(NotImplementedError):
        compiled(ones(2))


def test_other_devices_and_backends_compile_as_ever(fresh_compiler, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "torch._inductor.compile_fx.compile_fx",
        lambda model, inputs, **options: asked.append(model) or model,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert torch.compile(lambda x: x + 1)(torch.ones(2)).tolist() == [2, 2]
        assert torch.compile(lambda x: x + 2, backend="eager")(ones(2)).tolist() == [3, 3]
    assert len(asked) == 1
    assert not ours(caught)


def test_cuda_program_compiles_under_redirection(fresh_compiler):
    model = make_model()
    with torchdevice_mode.redirect(), pytest.warns(TorchDeviceWarning, match="simulated-compile"):
        losses = train(model, "cuda", torch.compile(model))
        assert next(model.parameters()).device == DEVICE
    assert losses == pytest.approx(train(make_model(), "cpu"))
