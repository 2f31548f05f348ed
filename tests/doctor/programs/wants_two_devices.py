# verdict: will fail at 9
"""Checks for more than a target gives."""

import torch


def main():
    devices = torch.cuda.device_count()
    assert devices >= 2, "needs two devices"


if __name__ == "__main__":
    main()
