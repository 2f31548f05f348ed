"""Lightning's `Trainer(accelerator="gpu", devices=1)` and `Fabric`, against plain torch's CPU."""

from __future__ import annotations

import logging
import platform
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import torchdevice_mode

lightning = pytest.importorskip("lightning")

from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator  # noqa: E402
from lightning.pytorch.callbacks import (  # noqa: E402
    DeviceStatsMonitor,
    EarlyStopping,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger  # noqa: E402
from lightning.pytorch.plugins.precision import MixedPrecision  # noqa: E402

from .hugging_face import assert_same, numbers, tolerance  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Model(lightning.LightningModule):
    """A small classifier, as Lightning's documentation writes one."""

    def __init__(self, rate: float = 1e-2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3))
        with torch.no_grad():
            for seed, parameter in enumerate(self.parameters()):
                parameter.copy_(numbers(seed, *parameter.shape))
        self.register_buffer("seen", torch.zeros(1))
        self.losses: list[float] = []
        self.devices: set[torch.device] = set()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layers(inputs)

    def _loss(self, batch: Any) -> torch.Tensor:
        inputs, labels = batch
        self.devices |= {inputs.device, labels.device, self.device}
        return nn.functional.cross_entropy(self(inputs), labels)

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        loss = self._loss(batch)
        self.log("train_loss", loss)
        self.seen += len(batch[0])
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("validation_loss", self._loss(batch))

    def test_step(self, batch: Any, index: int) -> None:
        self.log("correct", (self(batch[0]).argmax(-1) == batch[1]).float().mean())

    def predict_step(self, batch: Any, index: int) -> torch.Tensor:
        return self(batch[0])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.rate, eps=1e-6)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.9)]


class Manual(Model):
    """The same, that calls backward and its optimizer itself."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, index: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = self._loss(batch)
        self.manual_backward(loss)
        optimizer.step()
        self.losses.append(loss.item())


def loader(**options: Any) -> DataLoader:
    labels = torch.from_numpy(numpy.arange(24) % 3)
    return DataLoader(TensorDataset(numbers(100, 24, 4), labels), batch_size=4, **options)


def make_trainer(folder: Path, **options: Any) -> Any:
    without = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    given = dict.fromkeys(without, False) | {"accelerator": "gpu", "devices": 1, "max_epochs": 2}
    return lightning.Trainer(**(given | {"default_root_dir": folder} | options))


ON_CPU = {"accelerator": "cpu", "devices": 1}


def outcome(model: Model, trainer: Any) -> dict[str, Any]:
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    weights = {name: value.cpu().flatten().tolist() for name, value in model.state_dict().items()}
    return {"losses": model.losses, "metrics": metrics, "weights": weights}


def fit(
    folder: Path, make: Any = Model, loading: Any = None, callback: Any = None, **options: Any
) -> dict[str, Any]:
    if callback is not None:
        options["callbacks"] = [callback()]
    model, trainer = make(), make_trainer(folder, **options)
    trainer.fit(model, loader(**(loading or {})), loader())
    (device,) = model.devices
    assert (device.type == "cpu") == (trainer.strategy.root_device.type == "cpu")
    return outcome(model, trainer)


@pytest.mark.parametrize(
    "asked",
    [
        {"accelerator": "gpu", "devices": 1},
        {"accelerator": "cuda", "devices": [0]},
        {"accelerator": "auto", "devices": "auto"},
        {"accelerator": "gpu", "devices": -1},
    ],
    ids=str,
)
def test_each_spelling_of_a_gpu_gets_the_target(redirected, target, tmp_path, asked):
    model, trainer = Model(), make_trainer(tmp_path, fast_dev_run=True, **asked)
    assert isinstance(trainer.accelerator, CUDAAccelerator)
    assert trainer.num_devices == 1
    assert trainer.strategy.root_device == target
    trainer.fit(model, loader(), loader())
    assert model.devices == {target}


OPTIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"precision": "bf16-mixed"},
    "weights in bfloat16": {"precision": "bf16-true"},
    "float64, which MPS lacks": {"precision": "64-true"},
    "batches that accumulate": {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5},
    "workers and pinned memory": {"loading": {"num_workers": 2, "pin_memory": True}},
    "manual optimization": {"make": Manual},
    "stopping early": {"callback": lambda: EarlyStopping("validation_loss")},
    "averaged weights": {"callback": lambda: StochasticWeightAveraging(1e-2), "max_epochs": 3},
    "a profiler": {"profiler": "simple"},
    "no nondeterminism": {"deterministic": "warn"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_training_gives_the_numbers_of_plain_torch(target, tmp_path, options):
    with torchdevice_mode.redirect():
        result = fit(tmp_path, **options)
    with torchdevice_mode.native():
        expected = fit(tmp_path, **(options | ON_CPU))
    torch.use_deterministic_algorithms(False)
    assert len(result["losses"]) >= 12
    reduced = "bf16" in str(options.get("precision"))
    assert_same(result, expected, **tolerance(target, 5e-2 if reduced else 1e-4))


def test_float16_is_scaled_and_gives_the_numbers_of_plain_torch(target, tmp_path):
    with torchdevice_mode.redirect():
        # torch begins at 65536, which some gradients would not fit into: a step is skipped.
        scaler = torch.amp.GradScaler("cuda", init_scale=256.0)
        plugin = MixedPrecision("16-mixed", "cuda", scaler)
        result = fit(tmp_path, plugins=[plugin])
    with torchdevice_mode.native():
        expected = fit(tmp_path, **ON_CPU)
    assert scaler.is_enabled() and scaler.get_scale() == 256.0
    assert_same(result, expected, rtol=5e-2, atol=5e-3)


@pytest.mark.simulated_mps
def test_a_mac_is_found_by_lightning_itself(redirected, target, tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    # Lightning remembers the answer for the process.
    found = lightning.fabric.accelerators.MPSAccelerator
    monkeypatch.setattr(found, "is_available", staticmethod(found.is_available.__wrapped__))
    for accelerator, kind in (("gpu", MPSAccelerator), ("cuda", CUDAAccelerator)):
        model = Model()
        trainer = make_trainer(tmp_path, accelerator=accelerator, precision="16-mixed")
        assert isinstance(trainer.accelerator, kind)
        trainer.fit(model, loader(), loader())
        assert model.devices == {target}


def test_validation_test_and_prediction_give_the_numbers_of_plain_torch(target, tmp_path):
    def run(**options: Any) -> dict[str, Any]:
        model, trainer = Model(), make_trainer(tmp_path, **options)
        return {
            "validated": trainer.validate(model, loader(), verbose=False),
            "tested": trainer.test(model, loader(), verbose=False),
            "predicted": torch.cat(trainer.predict(model, loader())).cpu().tolist(),
        }

    with torchdevice_mode.redirect():
        result = run()
    with torchdevice_mode.native():
        assert_same(result, run(**ON_CPU), **tolerance(target))


def test_training_resumes_where_a_checkpoint_was_written(target, tmp_path):
    def checkpoints() -> dict[str, Any]:
        keep = ModelCheckpoint(tmp_path, save_last=True, monitor="validation_loss")
        return {"callbacks": [keep], "enable_checkpointing": True}

    with torchdevice_mode.redirect():
        through = fit(tmp_path / "through", max_epochs=2)
        fit(tmp_path, max_epochs=1, **checkpoints())
        model, trainer = Model(), make_trainer(tmp_path, max_epochs=2)
        trainer.fit(model, loader(), loader(), ckpt_path=tmp_path / "last.ckpt")
        assert_same(outcome(model, trainer)["weights"], through["weights"], rtol=1e-5, atol=1e-6)
        loaded = Model.load_from_checkpoint(tmp_path / "last.ckpt", map_location="cuda")
        assert loaded.device == target
    with torchdevice_mode.native():
        model, trainer = Model(), make_trainer(tmp_path, max_epochs=2, **ON_CPU)
        trainer.fit(model, loader(), loader(), ckpt_path=tmp_path / "last.ckpt")
        assert_same(outcome(model, trainer)["weights"], through["weights"], rtol=1e-3, atol=1e-4)


def test_statistics_of_the_device_are_cudas(redirected, tmp_path):
    logger = CSVLogger(tmp_path)
    fit(tmp_path, callbacks=[DeviceStatsMonitor()], logger=logger, log_every_n_steps=1)
    logged = Path(logger.log_dir, "metrics.csv").read_text().splitlines()[0]
    assert "allocated_bytes.all.peak" in logged


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_fabric_gives_the_numbers_of_plain_torch(target, tmp_path, precision):
    def run(accelerator: str) -> list[float]:
        fabric = lightning.Fabric(accelerator=accelerator, devices=1, precision=precision)
        fabric.launch()
        with fabric.init_module():
            model = Model()
        assert model.device.type == fabric.device.type
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-6)
        model, optimizer = fabric.setup(model, optimizer)
        losses = []
        for inputs, labels in fabric.setup_dataloaders(loader()):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), labels)
            fabric.backward(loss)
            fabric.clip_gradients(model, optimizer, max_norm=1.0)
            optimizer.step()
            losses.append(loss.item())
        fabric.save(tmp_path / "state.ckpt", {"model": model})
        fabric.load(tmp_path / "state.ckpt", {"model": model})
        return losses

    with torchdevice_mode.redirect():
        result = run("cuda")
    with torchdevice_mode.native():
        reduced = precision != "32-true"
        assert_same(result, run("cpu"), **tolerance(target, 5e-2 if reduced else 1e-4))


def test_lightning_is_itself_without_redirection(target):
    with torchdevice_mode.redirect():
        CUDAAccelerator().setup_device(torch.device("cuda", 0))
    if target.type != "cuda":
        with pytest.raises(Exception, match="Device should be GPU, got"):
            CUDAAccelerator().setup_device(target)
