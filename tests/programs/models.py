"""Ten small training programs, as CUDA code has them: the device is the only parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["PROGRAMS"]

STEPS = 5
Losses = Iterator[float]


def cnn_with_batch_norm(device: str) -> Losses:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(8 * 8 * 8, 10),
    ).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    for _ in range(STEPS):
        x = torch.randn(8, 3, 16, 16, device=device)
        y = torch.randint(10, (8,), device=device)
        loss = F.cross_entropy(model(x), y, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()
    model.eval()
    with torch.no_grad():
        yield model(torch.ones(1, 3, 16, 16, device=device)).sum().item()


class Block(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(outer)
        self.second = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outer)
        self.short = nn.Conv2d(inner, outer, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.second(F.relu(self.norm(self.first(x)))))
        return F.relu(y + self.short(x))


def resnet(device: str) -> Losses:
    body = [Block(4, 8, 2), Block(8, 8, 1), Block(8, 16, 2)]
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, 1, 1), *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)
    ).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=STEPS)
    for _ in range(STEPS):
        x, y = torch.rand(6, 3, 12, 12).to(device), torch.randint(5, (6,)).to(device)
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield loss.item()


def lstm(device: str) -> Losses:
    embed = nn.Embedding(20, 8, padding_idx=0).to(device)
    recur = nn.LSTM(8, 12, num_layers=2, dropout=0.3, batch_first=True, bidirectional=True)
    head = nn.Linear(24, 20)
    recur, head = recur.to(device), head.to(device)
    parameters = [*embed.parameters(), *recur.parameters(), *head.parameters()]
    optimizer = torch.optim.RMSprop(parameters, lr=1e-2)
    for _ in range(STEPS):
        text = torch.randint(1, 20, (4, 7), device=device)
        lengths = torch.tensor([7, 6, 4, 2])
        packed = nn.utils.rnn.pack_padded_sequence(embed(text), lengths, batch_first=True)
        out, _ = nn.utils.rnn.pad_packed_sequence(recur(packed)[0], batch_first=True)
        loss = F.cross_entropy(head(out).transpose(1, 2), text, ignore_index=0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


def transformer(device: str) -> Losses:
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.1, batch_first=True, activation="gelu")
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).to(device)
    embed = nn.Embedding(30, 16).to(device)
    position = nn.Parameter(torch.randn(10, 16, device=device) * 0.02)
    optimizer = torch.optim.Adam([*model.parameters(), *embed.parameters(), position], lr=1e-3)
    mask = nn.Transformer.generate_square_subsequent_mask(10, device=device)
    for _ in range(STEPS):
        text = torch.randint(30, (4, 11), device=device)
        hidden = model(embed(text[:, :-1]) + position, mask=mask, is_causal=True)
        loss = F.cross_entropy((hidden @ embed.weight.T).flatten(0, 1), text[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


def vae(device: str) -> Losses:
    encode = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 6)).to(device)
    decode = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 12)).to(device)
    optimizer = torch.optim.Adam([*encode.parameters(), *decode.parameters()], lr=1e-2)
    for _ in range(STEPS):
        x = torch.rand(8, 12, device=device)
        mean, log_var = encode(x).chunk(2, dim=1)
        z = mean + torch.randn_like(mean) * (0.5 * log_var).exp()
        prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
        posterior = torch.distributions.Normal(mean, (0.5 * log_var).exp())
        divergence = torch.distributions.kl_divergence(posterior, prior).sum(1).mean()
        loss = F.binary_cross_entropy_with_logits(decode(z), x) + 0.1 * divergence
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


def gan(device: str) -> Losses:
    generator = nn.Sequential(nn.Linear(4, 16), nn.LeakyReLU(0.2), nn.Linear(16, 8)).to(device)
    critic = nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1)).to(device)
    for_generator = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
    for_critic = torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.5, 0.999))
    for _ in range(STEPS):
        real = torch.randn(8, 8, device=device)
        fake = generator(torch.randn(8, 4, device=device))
        mixed = torch.rand(8, 1, device=device)
        between = (mixed * real + (1 - mixed) * fake.detach()).requires_grad_()
        (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        penalty = (slope.norm(2, dim=1) - 1).pow(2).mean()
        loss = critic(fake.detach()).mean() - critic(real).mean() + 10 * penalty
        for_critic.zero_grad()
        loss.backward()
        for_critic.step()
        yield loss.item()
        loss = -critic(fake).mean()
        for_generator.zero_grad()
        loss.backward()
        for_generator.step()
        yield loss.item()


def gnn(device: str) -> Losses:
    first, second = nn.Linear(6, 8).to(device), nn.Linear(8, 3).to(device)
    optimizer = torch.optim.Adagrad([*first.parameters(), *second.parameters()], lr=1e-2)
    source = torch.randint(12, (40,), device=device)
    target = torch.randint(12, (40,), device=device)
    features = torch.randn(12, 6, device=device)
    labels = torch.randint(3, (12,), device=device)
    seen = torch.rand(12, device=device) < 0.7
    seen[0] = True
    degree = torch.zeros(12, device=device).scatter_add_(0, target, torch.ones_like(target).float())

    def spread(x: torch.Tensor) -> torch.Tensor:
        gathered = torch.zeros_like(x).index_add_(0, target, x[source])
        return gathered / degree.clamp(min=1).unsqueeze(1)

    for _ in range(STEPS):
        hidden = F.dropout(F.elu(first(spread(features))), 0.3)
        loss = F.nll_loss(F.log_softmax(second(spread(hidden)), 1)[seen], labels[seen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 16))
        self.down = nn.Conv2d(1, 8, 3, 2, 1)
        self.middle = nn.Conv2d(8, 16, 3, 1, 1)
        self.norm = nn.GroupNorm(4, 16)
        self.up = nn.ConvTranspose2d(16, 8, 4, 2, 1)
        self.out = nn.Conv2d(9, 1, 3, 1, 1)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        rates = torch.exp(torch.arange(4, device=x.device) * -1.0)
        angles = t[:, None].float() * rates[None]
        time = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        y = F.silu(self.norm(self.middle(self.down(x)) + time[:, :, None, None]))
        y = F.interpolate(self.up(y), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return self.out(torch.cat([x, y], dim=1))


def diffusion(device: str) -> Losses:
    model = UNet().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    betas = torch.linspace(1e-4, 0.02, 50).to(device)
    kept = torch.cumprod(1 - betas, dim=0)
    average = torch.optim.swa_utils.AveragedModel(model)
    for _ in range(STEPS):
        x = torch.randn(4, 1, 8, 8, device=device)
        t = torch.randint(0, 50, (4,), device=device)
        noise = torch.randn_like(x)
        a = kept[t].view(-1, 1, 1, 1)
        loss = F.mse_loss(model(a.sqrt() * x + (1 - a).sqrt() * noise, t), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(model)
        yield loss.item()


def contrastive(device: str) -> Losses:
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 8)).to(device)
    scale = nn.Parameter(torch.tensor(2.0, device=device))
    optimizer = torch.optim.NAdam([*model.parameters(), scale], lr=1e-2)
    for _ in range(STEPS):
        x = torch.randn(6, 10, device=device)
        views = torch.cat([x + 0.1 * torch.randn_like(x), x + 0.1 * torch.randn_like(x)])
        z = F.normalize(model(views), dim=1)
        likeness = (z @ z.T) * scale.exp()
        likeness = likeness.masked_fill(torch.eye(12, dtype=torch.bool, device=device), -1e9)
        partner = torch.arange(12, device=device).roll(6)
        chosen = likeness.gather(1, partner[:, None]).squeeze(1)
        loss = (torch.logsumexp(likeness, dim=1) - chosen).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        hardest = likeness.detach().topk(2, dim=1).indices.sort(dim=1).values
        yield loss.item()
        yield float(hardest.sum())


def lbfgs_regression(device: str) -> Losses:
    truth = torch.tensor([[1.5], [-2.0], [0.5]], device=device)
    x = torch.randn(32, 3, device=device)
    y = x @ truth + 0.01 * torch.randn(32, 1, device=device)
    model = nn.Linear(3, 1).to(device)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        return loss

    for _ in range(STEPS):
        yield optimizer.step(closure).item()


PROGRAMS: dict[str, Callable[[str], Losses]] = {
    program.__name__: program
    for program in (
        cnn_with_batch_norm,
        resnet,
        lstm,
        transformer,
        vae,
        gan,
        gnn,
        diffusion,
        contrastive,
        lbfgs_regression,
    )
}
