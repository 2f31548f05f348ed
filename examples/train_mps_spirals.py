"""Tell three spirals apart: a small program as people write it for a Mac, for MPS alone.

    python train_mps_spirals.py --steps 300

It needs nothing but torch.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import nn


def spirals(points: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Points on three arms that wind around each other, and the number of each one's arm."""
    arm = torch.randint(3, (points,), generator=generator, device="mps")
    radius = torch.rand(points, generator=generator, device="mps")
    angle = radius * 1.5 * math.pi + arm * 2 * math.pi / 3
    x = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
    return x + 0.01 * torch.randn(points, 2, generator=generator, device="mps"), arm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    if not torch.backends.mps.is_available():
        raise SystemExit("This program needs a Mac with an Apple GPU.")
    print(f"training on {torch.backends.mps.get_name()}")
    torch.mps.manual_seed(options.seed)
    generator = torch.Generator("mps").manual_seed(options.seed)

    model = nn.Sequential(
        nn.Linear(2, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 3)
    ).to("mps")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    before, after = torch.mps.Event(enable_timing=True), torch.mps.Event(enable_timing=True)

    before.record()
    for step in range(options.steps):
        x, arm = spirals(options.batch_size, generator)
        with torch.autocast("mps", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(model(x).float(), arm)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0 or step == options.steps - 1:
            print(f"step {step}: loss {loss.item():.3f}")
    after.record()
    torch.mps.synchronize()

    with torch.no_grad():
        x, arm = spirals(4096, generator)
        right = (model(x).argmax(1) == arm).float().mean().item()
    print(f"{before.elapsed_time(after) / options.steps:.2f} ms a step")
    print(f"{torch.mps.current_allocated_memory() / 2**20:.1f} MiB allocated")
    print(f"accuracy {right:.3f}")
    torch.save(model.state_dict(), "spirals.pt")
    model.load_state_dict(torch.load("spirals.pt", map_location="mps"))
    torch.mps.empty_cache()


if __name__ == "__main__":
    main()
