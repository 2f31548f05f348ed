"""A training loop for images in the manner of Apex's own example."""

import argparse

import torch
from torch import nn

try:
    from apex import amp, optimizers
    from apex.parallel import DistributedDataParallel as DDP
    from apex.parallel import convert_syncbn_model
except ImportError:
    raise ImportError("Please install apex to run this example.") from None

parser = argparse.ArgumentParser()
parser.add_argument("--opt-level", type=str, default="O1")
parser.add_argument("--keep-batchnorm-fp32", type=str, default=None)
parser.add_argument("--loss-scale", type=str, default=None)
parser.add_argument("--sync_bn", action="store_true")
parser.add_argument("--distributed", action="store_true")
args = parser.parse_args()

torch.manual_seed(0)
torch.backends.cudnn.benchmark = True
assert torch.backends.cudnn.enabled, "Amp requires cudnn backend to be enabled."
model = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1),
    nn.BatchNorm2d(8),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(8, 4),
)
if args.sync_bn:
    model = convert_syncbn_model(model)
model = model.cuda()
optimizer = optimizers.FusedSGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
model, optimizer = amp.initialize(
    model,
    optimizer,
    opt_level=args.opt_level,
    keep_batchnorm_fp32=args.keep_batchnorm_fp32,
    loss_scale=args.loss_scale,
)
if args.distributed:
    import os

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", RANK="0", WORLD_SIZE="1")
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("nccl", store=store, rank=0, world_size=1)
    model = DDP(model, delay_allreduce=True)
criterion = nn.CrossEntropyLoss().cuda()
images = torch.randn(16, 3, 8, 8).cuda(non_blocking=True)
target = torch.randint(4, (16,)).cuda(non_blocking=True)
first = None
for step in range(20):
    loss = criterion(model(images), target)
    first = first or loss.item()
    optimizer.zero_grad()
    with amp.scale_loss(loss, optimizer) as scaled_loss:
        scaled_loss.backward()
    torch.nn.utils.clip_grad_norm_(amp.master_params(optimizer), 5.0)
    optimizer.step()
    torch.cuda.synchronize()
checkpoint = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
checkpoint["amp"] = amp.state_dict()
assert loss.item() < 0.9 * first, (first, loss.item())
if args.distributed:
    torch.distributed.destroy_process_group()
print("learned")
