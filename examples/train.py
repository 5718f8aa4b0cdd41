"""Trains a small Swin to tell the direction of stripes in noise.

python examples/train.py [--steps 40] [--seed 0]
"""

from __future__ import annotations

import argparse
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archdsl

SIDE = 64


def batch(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images [size, 3, SIDE, SIDE] of stripes in noise, and the direction of each: 0..3 times 45 degrees."""
    directions = torch.randint(4, (size,), generator=generator)
    angle, phase = directions * math.pi / 4, 2 * math.pi * torch.rand(size, generator=generator)
    at = torch.arange(SIDE)
    along = at[:, None] * angle.sin()[:, None, None] + at * angle.cos()[:, None, None]
    stripes = torch.sin(along * 2 * math.pi / 6 + phase[:, None, None])
    return stripes[:, None] + torch.randn(size, 3, SIDE, SIDE, generator=generator), directions


def optimizer(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    """AdamW that leaves vectors and position tables undecayed, as the module's `no_weight_decay` asks."""
    keep = model.no_weight_decay()
    plain = [p for name, p in model.named_parameters() if p.ndim > 1 and name not in keep]
    undecayed = [p for name, p in model.named_parameters() if p.ndim <= 1 or name in keep]
    groups = [{"params": plain, "weight_decay": 0.05}, {"params": undecayed, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate)


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains a small Swin on synthetic images.")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed)

    # Any parameter of the arch can be given another value; `input` is what the module is built for.
    model = archdsl.load("swin_t", input=(3, SIDE, SIDE), dim=24, depths=(1, 1, 2, 1), window=4, dpr=0.1, classes=4)
    steps = optimizer(model, 2e-3)
    model.train()
    for step in range(arguments.steps):
        images, directions = batch(32, generator)
        loss = F.cross_entropy(model(images), directions)
        steps.zero_grad()
        loss.backward()
        steps.step()
        if step % 10 == 0:
            print(f"step {step:3d}  loss {loss.item():.3f}")

    model.eval()
    images, directions = batch(256, generator)
    with torch.inference_mode():
        right = (model(images).argmax(1) == directions).float().mean().item()
    print(f"right after {arguments.steps} steps: {right:.0%}, by chance 25%")


if __name__ == "__main__":
    main()
