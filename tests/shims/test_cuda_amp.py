"""Mixed precision written for CUDA acts on the target."""

from __future__ import annotations

import warnings

import pytest
import torch

import torchdevice_mode
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


def test_a_dtype_that_the_target_lacks_is_replaced_with_a_warning():
    with (
        pytest.warns(TorchDeviceWarning, match="autocast-dtype"),
        torch.autocast("cuda", dtype=torch.float64),
    ):
        assert product_dtype() is torch.float16


def test_an_autocast_made_before_redirection_stays_off_and_says_so():
    with torchdevice_mode.native(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        early = torch.autocast("cuda")
    if early._enabled:
        pytest.skip("this torch has CUDA")
    with pytest.warns(TorchDeviceWarning, match="autocast-early"), early:
        assert product_dtype() is torch.float32


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
