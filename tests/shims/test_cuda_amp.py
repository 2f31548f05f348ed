"""Mixed precision written for CUDA acts on the target."""

from __future__ import annotations

import pickle
import threading
import warnings

import pytest
import torch
import torch.utils.checkpoint

import torchdevice_mode
from torchdevice_mode._shims import amp
from torchdevice_mode.errors import TorchDeviceWarning

pytestmark = pytest.mark.usefixtures("redirected")


def product_dtype() -> torch.dtype:
    x = torch.ones(4, 4, device="cuda")
    return (x @ x).dtype


def old_autocast(**options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.cuda.amp.autocast(**options)


SPELLINGS = {
    "torch.autocast": lambda **o: torch.autocast("cuda", **o),
    "keyword": lambda **o: torch.autocast(device_type="cuda", **o),
    "torch.amp.autocast": lambda **o: torch.amp.autocast("cuda", **o),
    "torch.cuda.amp.autocast": old_autocast,
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, torch.float16),
        ({"dtype": torch.float16}, torch.float16),
        ({"dtype": torch.bfloat16}, torch.bfloat16),
        ({"dtype": torch.float32}, torch.float32),
        ({"enabled": False}, torch.float32),
    ],
)
def test_autocast_computes_in_its_dtype(spelling, options, expected):
    with SPELLINGS[spelling](**options):
        assert product_dtype() is expected
    assert product_dtype() is torch.float32


@pytest.mark.off_cuda
def test_what_torch_itself_asks_of_autocast_is_no_request_of_the_program():
    def counted():
        entries = torchdevice_mode.report().entries
        return sum(e.count for e in entries if e.kind == "redirection" and e.asked == "cuda")

    attention = torch.nn.MultiheadAttention(4, 2, batch_first=True, device="cuda").eval()
    x = torch.ones(1, 3, 4, device="cuda")
    before = counted()
    with torch.no_grad():
        attention(x, x, x)
    assert counted() == before
    torch.is_autocast_enabled("cuda")
    assert counted() == before + 1


def test_autocast_can_be_asked():
    assert torch.is_autocast_enabled() is torch.is_autocast_enabled("cuda") is False
    assert torch.get_autocast_dtype("cuda") is torch.float16
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert torch.is_autocast_enabled() is torch.is_autocast_enabled("cuda") is True
        assert torch.get_autocast_dtype("cuda") is torch.bfloat16
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert torch.get_autocast_gpu_dtype() is torch.bfloat16
        with torch.autocast("cuda", enabled=False):
            assert torch.is_autocast_enabled() is False
            assert product_dtype() is torch.float32
        assert product_dtype() is torch.bfloat16
    assert torch.amp.is_autocast_available("cuda") is True


def test_autocast_can_be_set_by_function(target):
    before = torch.get_autocast_dtype(target.type)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", True)
    try:
        assert product_dtype() is torch.bfloat16
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.set_autocast_dtype("cuda", torch.float16)
        torch._C.set_autocast_dtype(target.type, before)
    assert product_dtype() is torch.float32


def test_autocast_decorates():
    @torch.autocast("cuda", dtype=torch.bfloat16)
    def compute():
        return product_dtype()

    assert compute() is torch.bfloat16
    assert compute() is torch.bfloat16


@pytest.mark.off_cuda
def test_a_dtype_that_the_target_lacks_is_replaced_with_a_warning():
    with (
        pytest.warns(TorchDeviceWarning, match="autocast-dtype"),
        torch.autocast("cuda", dtype=torch.float64),
    ):
        assert product_dtype() is torch.float16


@pytest.mark.off_cuda
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=["slow", "lacking"])
def test_an_autocast_that_is_switched_off_warns_of_no_dtype(dtype, monkeypatch):
    monkeypatch.setattr(amp, "_float16_is_emulated", lambda: True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", TorchDeviceWarning)
        with torch.autocast("cuda", dtype=dtype, enabled=False):
            assert product_dtype() is torch.float32


ON = True
OFF = False
with torchdevice_mode.native(), warnings.catch_warnings():
    warnings.simplefilter("ignore")

    @torch.autocast("cuda")
    def plainly():
        return product_dtype()

    @torch.autocast(device_type="cuda", dtype=torch.bfloat16)
    def with_dtype():
        return product_dtype()

    @torch.autocast("cuda", torch.bfloat16, True)
    def by_position():
        return product_dtype()

    @torch.amp.autocast("cuda", enabled=False)
    def switched_off():
        return product_dtype()

    @torch.autocast("cuda", enabled=OFF)
    def switched_off_by_name():
        return product_dtype()

    @torch.autocast("cuda", enabled=ON)
    def switched_on_by_name():
        return product_dtype()

    @torch.cuda.amp.autocast()
    def old_spelling():
        return product_dtype()

    @torch.cuda.amp.autocast(False)
    def old_spelling_switched_off():
        return product_dtype()

    @torch.no_grad()
    @torch.cuda.amp.autocast(dtype=torch.bfloat16)
    def below_another_decorator():
        return product_dtype()

    class Early(torch.autograd.Function):
        @staticmethod
        @torch.cuda.amp.custom_fwd(cast_inputs=torch.float32)
        def forward(ctx, x):
            seen["forward"] = x.dtype, torch.is_autocast_enabled()
            return x * 2

        @staticmethod
        @torch.cuda.amp.custom_bwd
        def backward(ctx, gradient):
            seen["backward"] = torch.is_autocast_enabled()
            return gradient * 2

    class EarlyWithoutCast(torch.autograd.Function):
        @staticmethod
        @torch.amp.custom_fwd(device_type="cuda")
        def forward(ctx, x):
            seen["forward"] = x.dtype, torch.is_autocast_enabled()
            return x @ x

        @staticmethod
        @torch.amp.custom_bwd(device_type="cuda")
        def backward(ctx, gradient):
            seen["backward"] = torch.is_autocast_enabled()
            return gradient


seen: dict[str, object] = {}
EARLY = [
    (plainly, torch.float16),
    (with_dtype, torch.bfloat16),
    (by_position, torch.bfloat16),
    (switched_off, torch.float32),
    (switched_off_by_name, torch.float32),
    (switched_on_by_name, torch.float16),
    (old_spelling, torch.float16),
    (old_spelling_switched_off, torch.float32),
    (below_another_decorator, torch.bfloat16),
]


@pytest.mark.parametrize(("function", "expected"), EARLY, ids=lambda p: getattr(p, "__name__", ""))
def test_a_decorator_made_before_redirection_does_what_it_says(function, expected):
    for _ in range(2):
        assert function() is expected
        assert product_dtype() is torch.float32
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert function() is expected
        assert product_dtype() is torch.bfloat16
    assert not torch.is_autocast_enabled("cuda")


def test_a_decorator_made_before_redirection_is_plain_torchs_after_it():
    plainly()
    with torchdevice_mode.native():
        x = torch.ones(4, 4)
        assert torch.autocast("cuda", enabled=False)(lambda: (x @ x).dtype)() is torch.float32


def test_custom_functions_made_before_redirection_follow_autocast():
    x = torch.ones(2, 2, device="cuda", requires_grad=True)
    with torch.autocast("cuda"):
        Early.apply(x @ x).sum().backward()
    assert seen == {"forward": (torch.float32, False), "backward": False}
    with torch.autocast("cuda"):
        half = EarlyWithoutCast.apply(x)
        half.sum().backward()
    assert half.dtype is torch.float16
    assert seen == {"forward": (torch.float32, True), "backward": True}
    EarlyWithoutCast.apply(x).sum().backward()
    assert seen == {"forward": (torch.float32, False), "backward": False}


def test_an_autocast_made_before_redirection_that_says_nothing_stays_off():
    with torchdevice_mode.native(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        early = torch.autocast("cuda")
    if early._enabled:
        pytest.skip("this torch has CUDA")
    with pytest.warns(TorchDeviceWarning, match="autocast-early"), early:
        assert product_dtype() is torch.float32


def test_regions_nest_and_end_with_an_exception():
    dtypes = []
    with torch.autocast("cuda"):
        with pytest.raises(KeyError), torch.autocast("cuda", dtype=torch.bfloat16):
            dtypes.append(product_dtype())
            with torch.autocast("cuda", enabled=False):
                dtypes.append(product_dtype())
            raise KeyError
        dtypes.append(product_dtype())
    dtypes.append(product_dtype())
    assert dtypes == [torch.bfloat16, torch.float32, torch.float16, torch.float32]


def test_a_device_with_an_index_is_taken_as_in_torch():
    with torch.autocast("cuda:0"):
        assert torch.is_autocast_enabled("cuda:0") is torch.is_autocast_enabled() is True
        assert product_dtype() is torch.float16
    assert torch.amp.GradScaler("cuda:0").scale(torch.ones(1, device="cuda")).item() == 65536


def test_the_cache_is_as_in_torch():
    assert torch.is_autocast_cache_enabled() is True
    for asked, expected in ((True, True), (False, False), (None, True)):
        with torch.autocast("cuda", cache_enabled=asked):
            assert torch.is_autocast_cache_enabled() is expected
    torch.clear_autocast_cache()


@pytest.mark.parametrize(
    "switch",
    [
        lambda on: torch.set_autocast_enabled(on),
        lambda on: torch.set_autocast_enabled("cuda", on),
        lambda on: torch.set_autocast_enabled("cuda", enabled=on),
        lambda on: torch.set_autocast_enabled(device_type="cuda", enabled=on),
    ],
    ids=["old", "position", "mixed", "keywords"],
)
def test_autocast_can_be_switched_by_function(switch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        switch(True)
        try:
            assert torch.is_autocast_enabled(device_type="cuda") is True
            assert product_dtype() is torch.float16
        finally:
            switch(False)
    assert torch.is_autocast_enabled() is False
    assert product_dtype() is torch.float32


def test_the_dtype_for_cuda_can_be_set_beforehand(target):
    before = torch._C.get_autocast_dtype(target.type)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for set_dtype in (
            torch.set_autocast_gpu_dtype,
            lambda dtype: torch.set_autocast_dtype("cuda", dtype),
        ):
            set_dtype(torch.bfloat16)
            try:
                with torch.autocast("cuda"):
                    assert product_dtype() is torch.bfloat16
            finally:
                set_dtype(torch.float16)
    assert torch._C.get_autocast_dtype(target.type) is before


def test_a_thread_begins_without_autocast():
    found = []
    with torch.autocast("cuda"):
        worker = threading.Thread(target=lambda: found.append(product_dtype()))
        worker.start()
        worker.join()
    assert found == [torch.float32]


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputation_is_made_in_the_same_dtype(reentrant):
    dtypes = []

    def block(x):
        product = x @ x
        dtypes.append(product.dtype)
        return product

    x = torch.ones(4, 4, device="cuda", requires_grad=True)
    with torch.utils.checkpoint.set_checkpoint_early_stop(False):
        with torch.autocast("cuda"):
            y = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=reentrant)
        y.sum().backward()
    assert dtypes == [torch.float16] * 2
    assert x.grad.dtype is torch.float32


def test_code_under_autocast_compiles():
    def compute(x):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            first = x @ x
        with torch.amp.autocast(device_type="cuda"):
            if torch.is_autocast_enabled("cuda"):
                return first, x @ x, torch.get_autocast_dtype("cuda")
        return None

    compiled = torch.compile(compute, backend="eager", fullgraph=True)
    first, second, dtype = compiled(torch.ones(4, 4, device="cuda"))
    assert (first.dtype, second.dtype, dtype) == (torch.bfloat16, torch.float16, torch.float16)
    torch._dynamo.reset()


def test_a_bad_device_type_fails_as_in_torch():
    with pytest.raises(ValueError, match="Expected `device_type` of type `str`"):
        torch.autocast(torch.device("cuda"))
    with pytest.raises(RuntimeError):
        torch.autocast("cudaa")


def make_scaler(spelling: str, **options) -> torch.amp.GradScaler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return {
            "default": lambda: torch.amp.GradScaler(**options),
            "device": lambda: torch.amp.GradScaler("cuda", **options),
            "keyword": lambda: torch.GradScaler(device="cuda", **options),
            "old": lambda: torch.cuda.amp.GradScaler(**options),
        }[spelling]()


@pytest.mark.parametrize("spelling", ["default", "device", "keyword", "old"])
@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.AdamW])
def test_the_scale_grows_and_an_overflow_skips_the_step(spelling, optimizer_class):
    scaler = make_scaler(spelling, init_scale=8.0, growth_interval=2)
    assert scaler.is_enabled()
    model = torch.nn.Linear(4, 1).cuda()
    optimizer = optimizer_class(model.parameters(), lr=0.1)
    scales, changed = [], []
    for factor in (1.0, 1.0, float("inf"), 1.0):
        optimizer.zero_grad()
        with torch.autocast("cuda"):
            loss = model(torch.ones(2, 4, device="cuda")).sum() * factor
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        before = model.weight.detach().clone()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
        changed.append(not torch.equal(before, model.weight))
    assert scales == [8.0, 16.0, 8.0, 8.0]
    assert changed == [True, True, False, True]


def train_scaled(device: str, *, factors, clip: bool, resume: bool, **options):
    """A training loop with two optimizers; all numbers that one can see of the scaler."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.rand(3, generator=generator).to(device).requires_grad_() for _ in range(2)]
    optimizers = [torch.optim.SGD(weights[:1], 0.1), torch.optim.AdamW(weights[1:], 0.1)]
    scaler = torch.amp.GradScaler(device, init_scale=2.0**10, growth_interval=2, **options)
    record = [scaler.state_dict(), scaler.get_scale(), scaler.is_enabled()]
    for factor in factors:
        losses = [(w * w).sum() * factor for w in weights]
        for optimizer, loss in zip(optimizers, losses, strict=True):
            optimizer.zero_grad()
            scaler.scale(loss).backward()
        record += [w.grad.tolist() for w in weights]
        if clip:
            scaler.unscale_(optimizers[0])
            record.append(torch.nn.utils.clip_grad_norm_(weights[:1], 0.5).item())
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
        record += [scaler.get_scale(), scaler._get_growth_tracker(), scaler.state_dict()]
        record += [w.tolist() for w in weights]
        if resume:
            scaler, state = torch.amp.GradScaler(device, **options), scaler.state_dict()
            scaler.load_state_dict(state)
    if not scaler.is_enabled():
        return record
    if not resume:
        scaler.update(new_scale=3.0)
    record += [scaler.get_growth_factor(), scaler.get_backoff_factor(), scaler.get_scale()]
    return record


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"growth_factor": 4.0, "backoff_factor": 0.125}, {"enabled": False}], ids=str
)
@pytest.mark.parametrize(
    "factors",
    [(1.0,) * 6, (1.0, float("inf"), 1.0, float("nan"), float("inf"), 1.0, 1.0, 1.0)],
    ids=["finite", "overflowing"],
)
def test_a_scaler_has_the_numbers_of_the_cpus_own(factors, options, resume, clip):
    if options.get("enabled") is False and resume:
        pytest.skip("there is no state to load")
    if options.get("enabled") is False:
        factors = (1.0,) * 6
    case = {"factors": factors, "clip": clip, "resume": resume, **options}
    with torchdevice_mode.native():
        expected = train_scaled("cpu", **case)
    found = train_scaled("cuda", **case)
    assert repr(found) == repr(expected)


MISUSES = {
    "unscaled twice": (RuntimeError, "has already been called on this optimizer"),
    "stepped twice": (RuntimeError, "has already been called since the last update"),
    "unscaled after step": (RuntimeError, "is being called after step"),
    "updated first": (AssertionError, "No inf checks were recorded"),
    "bad factor": (AssertionError, "The backoff factor must be < 1.0"),
    "half gradients": (ValueError, "Attempting to unscale FP16 gradients"),
}


@pytest.mark.parametrize("misuse", MISUSES)
def test_a_scaler_refuses_what_cudas_refuses(misuse):
    scaler = torch.amp.GradScaler("cuda")
    dtype = torch.float16 if misuse == "half gradients" else torch.float32
    weight = torch.ones(2, device="cuda", dtype=dtype, requires_grad=True)
    optimizer = torch.optim.SGD([weight], 0.1)
    scaler.scale(weight.sum()).backward()
    error, text = MISUSES[misuse]
    with pytest.raises(error, match=text):
        if misuse == "unscaled twice":
            scaler.unscale_(optimizer)
            scaler.unscale_(optimizer)
        elif misuse == "stepped twice":
            scaler.step(optimizer)
            scaler.step(optimizer)
        elif misuse == "unscaled after step":
            scaler.step(optimizer)
            scaler.unscale_(optimizer)
        elif misuse == "updated first":
            scaler.update()
        elif misuse == "half gradients":
            scaler.unscale_(optimizer)
        else:
            torch.amp.GradScaler("cuda", backoff_factor=2.0)


def test_a_scaler_scales_containers_and_is_pickled():
    scaler = make_scaler("device", init_scale=4.0)
    one, (two,) = scaler.scale([torch.ones(1, device="cuda"), (torch.ones(2, device="cuda"),)])
    assert one.tolist() + two.tolist() == [4.0] * 3
    assert pickle.loads(pickle.dumps(scaler)).get_scale() == 4.0
    assert isinstance(make_scaler("old"), torch.amp.GradScaler)


def test_a_scalers_state_can_be_saved_and_loaded():
    scaler = make_scaler("device", init_scale=4.0)
    scaler.scale(torch.ones(1, device="cuda"))
    other = make_scaler("device")
    other.load_state_dict(scaler.state_dict())
    assert other.get_scale() == 4.0


def test_custom_functions_follow_autocast():
    seen = {}

    class Double(torch.autograd.Function):
        @staticmethod
        @torch.amp.custom_fwd(device_type="cuda", cast_inputs=torch.float32)
        def forward(ctx, x):
            seen["forward"] = x.dtype, torch.is_autocast_enabled("cuda")
            return x * 2

        @staticmethod
        @torch.amp.custom_bwd(device_type="cuda")
        def backward(ctx, gradient):
            seen["backward"] = torch.is_autocast_enabled("cuda")
            return gradient * 2

    x = torch.ones(2, 2, device="cuda", requires_grad=True)
    with torch.autocast("cuda"):
        half = x @ x
        assert half.dtype is torch.float16
        Double.apply(half).sum().backward()
    assert seen == {"forward": (torch.float32, False), "backward": False}


def test_torchscript_still_knows_autocasts_functions():
    def compute(x):
        if torch.is_autocast_enabled():
            return x + 1
        with torch.autocast("cuda"):
            return x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.jit.script(compute)(torch.ones(1)).tolist() == [1.0]
        with torchdevice_mode.native():
            assert torch.jit.script(compute)(torch.ones(1)).tolist() == [1.0]
