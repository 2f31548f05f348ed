"""Train a character-level transformer on a novel, on a CUDA GPU.

A small GPT: token and position embeddings, blocks of causal self-attention and an MLP, and a
linear head that predicts the next character. It trains with automatic mixed precision, keeps the
checkpoint that did best on the validation split, and ends by writing some text of its own.

    python train_char_transformer.py                       # train from scratch
    python train_char_transformer.py --resume out/best.pt  # go on from a checkpoint
"""

import argparse
import math
import random
import time
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

HERE = Path(__file__).resolve().parent

# torch.cuda.amp is what every version of torch knows; the newer ones would have it torch.amp.
warnings.filterwarnings("ignore", message=".*torch.cuda.amp", category=FutureWarning)


# ------------------------------------------------------------------------------------------ data


class CharWindows(Dataset):
    """Every window of ``block_size`` characters, with the same window one character later."""

    def __init__(self, ids, block_size):
        self.ids = ids
        self.block_size = block_size

    def __len__(self):
        return len(self.ids) - self.block_size

    def __getitem__(self, start):
        chunk = self.ids[start : start + self.block_size + 1].long()
        return chunk[:-1], chunk[1:]


def load_text(path):
    """Read the text; return its ids, split nine to one, and its alphabet."""
    text = Path(path).read_text(encoding="utf-8")
    chars = sorted(set(text))
    index = {c: i for i, c in enumerate(chars)}
    ids = torch.tensor([index[c] for c in text], dtype=torch.int16)
    split = int(0.9 * len(ids))
    return ids[:split], ids[split:], chars


def make_loader(ids, args, seed):
    return DataLoader(
        CharWindows(ids, args.block_size),
        batch_size=args.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=args.workers,
        pin_memory=True,
        persistent_workers=args.workers > 0,
        generator=torch.Generator().manual_seed(seed),
    )


def forever(loader):
    while True:
        yield from loader


# ----------------------------------------------------------------------------------------- model


class CausalSelfAttention(nn.Module):
    def __init__(self, width, heads, dropout):
        super().__init__()
        assert width % heads == 0
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.resid_dropout = nn.Dropout(dropout)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(
            q, k, v, dropout_p=self.dropout if self.training else 0.0, is_causal=True
        )
        y = y.transpose(1, 2).reshape(B, T, C)
        return self.resid_dropout(self.proj(y))


class Block(nn.Module):
    def __init__(self, width, heads, dropout):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = CausalSelfAttention(width, heads, dropout)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class CharTransformer(nn.Module):
    def __init__(self, vocab, block_size, layers, heads, width, dropout):
        super().__init__()
        self.block_size = block_size
        self.tok_emb = nn.Embedding(vocab, width)
        self.pos_emb = nn.Embedding(block_size, width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab, bias=False)
        self.head.weight = self.tok_emb.weight  # tied

        self.apply(self._init_weights)
        for name, p in self.named_parameters():
            if name.endswith(("proj.weight", "mlp.2.weight")):
                # The residual stream adds up 2 * layers of these: keep its variance.
                nn.init.normal_(p, mean=0.0, std=0.02 / math.sqrt(2 * layers))

    @staticmethod
    def _init_weights(module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, mean=0.0, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(self, idx, targets=None):
        pos = torch.arange(idx.size(1), device=idx.device)
        x = self.drop(self.tok_emb(idx) + self.pos_emb(pos))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.ln_f(x))
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))

    @torch.no_grad()
    def generate(self, idx, length, temperature, top_k, generator):
        for _ in range(length):
            logits, _ = self(idx[:, -self.block_size :])
            logits = logits[:, -1, :].float() / temperature
            kth = torch.topk(logits, min(top_k, logits.size(-1))).values[:, [-1]]
            logits[logits < kth] = -float("inf")
            next_id = torch.multinomial(F.softmax(logits, dim=-1), 1, generator=generator)
            idx = torch.cat([idx, next_id], dim=1)
        return idx


# -------------------------------------------------------------------------------------- training


def make_optimizer(model, args):
    """AdamW that decays the matrices and leaves biases and layer norms alone."""
    params = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in params if p.dim() >= 2], "weight_decay": args.weight_decay},
        {"params": [p for p in params if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95))


def learning_rate(step, args):
    """Linear warm-up, then a cosine down to a tenth."""
    if step < args.warmup:
        return args.lr * (step + 1) / args.warmup
    progress = min(1.0, (step - args.warmup) / max(1, args.steps - args.warmup))
    return args.lr * (0.1 + 0.45 * (1.0 + math.cos(math.pi * progress)))


@torch.no_grad()
def evaluate(model, batches, count, amp_dtype):
    model.eval()
    total = torch.zeros((), device="cuda")
    for _ in range(count):
        x, y = next(batches)
        x, y = x.cuda(non_blocking=True), y.cuda(non_blocking=True)
        with torch.cuda.amp.autocast(dtype=amp_dtype):
            _, loss = model(x, y)
        total += loss
    model.train()
    return (total / count).item()


def save_checkpoint(path, model, optimizer, scaler, step, best_val, chars, args):
    torch.save(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": scaler.state_dict(),
            "step": step,
            "best_val": best_val,
            "chars": chars,
            "config": vars(args),
            "rng_state": torch.get_rng_state(),
            "cuda_rng_state": torch.cuda.get_rng_state(),
        },
        path,
    )


def load_checkpoint(path, model, optimizer, scaler):
    checkpoint = torch.load(path, map_location="cuda")
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    scaler.load_state_dict(checkpoint["scaler"])
    torch.set_rng_state(checkpoint["rng_state"].cpu())
    torch.cuda.set_rng_state(checkpoint["cuda_rng_state"].cpu())
    return checkpoint


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=str(HERE / "data" / "persuasion.txt"))
    parser.add_argument("--out-dir", default="out", help="where the checkpoint goes")
    parser.add_argument("--resume", help="a checkpoint to go on from")
    parser.add_argument("--seed", type=int, default=1337)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--block-size", type=int, default=64)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--warmup", type=int, default=50)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--grad-clip", type=float, default=1.0)
    parser.add_argument("--amp-dtype", choices=["float16", "bfloat16"], help="default: the best")
    parser.add_argument("--eval-every", type=int, default=200)
    parser.add_argument("--eval-batches", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sample-length", type=int, default=400)
    parser.add_argument("--prompt", default="Anne ")
    return parser.parse_args()


def main():
    args = parse_args()
    assert torch.cuda.is_available(), "this program needs a CUDA GPU"
    device = torch.device("cuda")
    torch.cuda.set_device(0)
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    torch.cuda.manual_seed_all(args.seed)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = True
    if args.amp_dtype is None:
        args.amp_dtype = "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    amp_dtype = getattr(torch, args.amp_dtype)

    props = torch.cuda.get_device_properties(0)
    major, minor = torch.cuda.get_device_capability(0)
    print(
        f"GPU 0 of {torch.cuda.device_count()}: {torch.cuda.get_device_name(0)}, "
        f"capability {major}.{minor}, {props.total_memory / 2**30:.1f} GiB, "
        f"{props.multi_processor_count} multiprocessors"
    )

    train_ids, val_ids, chars = load_text(args.data)
    model = CharTransformer(
        len(chars), args.block_size, args.layers, args.heads, args.width, args.dropout
    ).cuda()
    optimizer = make_optimizer(model, args)
    scaler = torch.cuda.amp.GradScaler()
    print(
        f"{len(train_ids):,} characters to train on, {len(val_ids):,} to validate, "
        f"{len(chars)} symbols; {sum(p.numel() for p in model.parameters()):,} parameters; "
        f"autocast to {args.amp_dtype}"
    )

    start, best_val = 0, float("inf")
    if args.resume:
        checkpoint = load_checkpoint(args.resume, model, optimizer, scaler)
        start, best_val = checkpoint["step"], checkpoint["best_val"]
        print(f"resumed from {args.resume} at step {start}, validation loss {best_val:.3f}")
        del checkpoint
        torch.cuda.empty_cache()

    out_dir = Path(args.out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    best_path = out_dir / "best.pt"
    train_batches = forever(make_loader(train_ids, args, args.seed + start))
    val_batches = forever(make_loader(val_ids, args, args.seed))

    if start == 0:
        first = evaluate(model, val_batches, args.eval_batches, amp_dtype)
        print(f"step 0: validation loss {first:.3f} (guessing is {math.log(len(chars)):.3f})")

    torch.cuda.reset_peak_memory_stats()
    began = torch.cuda.Event(enable_timing=True)
    ended = torch.cuda.Event(enable_timing=True)
    clock = time.perf_counter()
    with tqdm(total=args.steps, initial=start, unit="step", mininterval=0.5) as bar:
        for step in range(start, args.steps):
            x, y = next(train_batches)
            x, y = x.cuda(non_blocking=True), y.cuda(non_blocking=True)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, args)

            began.record()
            with torch.cuda.amp.autocast(dtype=amp_dtype):
                _, loss = model(x, y)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), args.grad_clip)
            scaler.step(optimizer)
            scaler.update()
            ended.record()

            bar.update()
            if (step + 1) % 10 == 0:
                torch.cuda.synchronize()
                bar.set_postfix(loss=f"{loss.item():.3f}", ms=f"{began.elapsed_time(ended):.0f}")

            if (step + 1) % args.eval_every == 0 or step + 1 == args.steps:
                val = evaluate(model, val_batches, args.eval_batches, amp_dtype)
                bar.write(
                    f"step {step + 1}: training loss {loss.item():.3f}, validation loss {val:.3f}"
                )
                if val < best_val:
                    best_val = val
                    save_checkpoint(
                        best_path, model, optimizer, scaler, step + 1, best_val, chars, args
                    )

    torch.cuda.synchronize()
    print(
        f"trained in {time.perf_counter() - clock:.1f} s; GPU memory: "
        f"{torch.cuda.max_memory_allocated() / 2**20:.0f} MiB at the peak, "
        f"{torch.cuda.memory_allocated() / 2**20:.0f} MiB now"
    )

    if best_path.exists():
        checkpoint = load_checkpoint(best_path, model, optimizer, scaler)
        print(f"best: step {checkpoint['step']}, validation loss {checkpoint['best_val']:.3f}")
    model.eval()
    generator = torch.Generator(device="cuda").manual_seed(args.seed)
    index = {c: i for i, c in enumerate(chars)}
    prompt = torch.tensor([[index[c] for c in args.prompt]], device=device)
    with torch.cuda.amp.autocast(dtype=amp_dtype):
        sample = model.generate(prompt, args.sample_length, 0.8, 20, generator)
    print("-" * 72)
    print("".join(chars[i] for i in sample[0].tolist()))
    torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
