# verdict: runs with notes
"""Types, float64 and files."""

import io

import torch

torch.set_default_dtype(torch.float32)
x = torch.randn(3).type(torch.cuda.FloatTensor)
y = x.double() + torch.ones(3, dtype=torch.float64, device="cuda")
file = io.BytesIO()
torch.save({"y": y, "x": x}, file)
for place in ("cuda:0", "cpu", None, lambda storage, location: storage):
    file.seek(0)
    torch.load(file, map_location=place)
assert torch.cuda.LongTensor([1, 2]).sum().item() == 3
if y.device.type == "cuda":
    raise AssertionError("the type of a device is the target's")
