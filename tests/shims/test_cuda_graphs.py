"""torch.cuda: graphs capture a block and replay it on the same tensors."""

from __future__ import annotations

import inspect
import re
import threading
import warnings

import pytest
import torch
from torch import nn

import torchdevice_mode

pytestmark = pytest.mark.usefixtures("redirected")


def captured(work, **options):
    """A graph of `work()`, and what it returned."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, **options):
        out = work()
    return graph, out


# --- whole networks -----------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, capturable=True),
    "AdamW foreach": lambda p: torch.optim.AdamW(p, lr=0.01, capturable=True, foreach=True),
    "Adam fused": lambda p: torch.optim.Adam(p, lr=0.01, capturable=True, fused=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, capturable=True),
}
NETWORKS = {
    "linear": lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(inplace=True), nn.Linear(16, 4)),
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 2, 2)),
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(16, 4),
    ),
    "dropout": lambda: nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.Linear(16, 4)),
    "attention": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 4)),
        nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True),
        nn.Flatten(),
        nn.Linear(8, 4),
    ),
    "lstm": lambda: _Last(nn.LSTM(4, 4, batch_first=True)),
}


class _Last(nn.Module):
    def __init__(self, recurrent):
        super().__init__()
        self.recurrent = recurrent

    def forward(self, x):
        return self.recurrent(x.unflatten(1, (2, 4)))[0][:, -1]


def batches():
    torch.manual_seed(1)
    return [
        (torch.randn(5, 8, device="cuda"), torch.randint(0, 4, (5,), device="cuda"))
        for _ in range(4)
    ]


class Training:
    """A network, and one step of its training."""

    def __init__(self, network="linear", optimizer="SGD"):
        torch.manual_seed(0)
        self.network = NETWORKS[network]().cuda()
        self.optimizer = OPTIMIZERS[optimizer](self.network.parameters())

    def step(self, x, target):
        self.optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(self.network(x), target)
        loss.backward()
        self.optimizer.step()
        return loss

    def state(self):
        tensors = [*self.network.parameters(), *self.network.buffers()]
        return [tensor.detach().clone() for tensor in tensors]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("network", "optimizer"),
    [(network, "momentum") for network in NETWORKS] + [("linear", name) for name in OPTIMIZERS],
)
def test_a_captured_step_trains_as_the_eager_loop(network, optimizer):
    if optimizer == "Adam fused" and torch.ones(1, device="cuda").device.type == "mps":
        pytest.skip("the simulated device has no fused kernels")
    data = batches()

    eager = Training(network, optimizer)
    for _ in range(3):
        eager.step(*data[0])
    torch.manual_seed(7)
    losses = [eager.step(*batch).detach() for batch in data]

    graphed = Training(network, optimizer)
    x, target = (tensor.clone() for tensor in data[0])
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            graphed.step(x, target)
    torch.cuda.current_stream().wait_stream(side)
    torch.manual_seed(7)
    graph, loss = captured(lambda: graphed.step(x, target))
    replayed = []
    for batch in data:
        x.copy_(batch[0])
        target.copy_(batch[1])
        graph.replay()
        replayed.append(loss.detach().clone())

    assert_same(replayed, losses)
    assert_same(graphed.state(), eager.state())


def test_a_capture_changes_nothing_by_itself():
    training = Training("convolution", "momentum")
    x, target = batches()[0]
    training.step(x, target)
    before, random = training.state(), torch.cuda.get_rng_state()
    captured(lambda: (training.step(x, target), torch.rand(3, device="cuda")))
    assert_same(training.state(), before)
    assert torch.equal(torch.cuda.get_rng_state(), random)


def test_a_scaled_step_in_autocast_trains_as_the_eager_loop():
    data = batches()

    def prepare():
        training = Training("linear", "Adam")
        scaler = torch.amp.GradScaler("cuda", init_scale=4.0)

        def forward_and_backward(x, target):
            training.optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
                loss = nn.functional.cross_entropy(training.network(x), target)
            scaler.scale(loss).backward()
            return loss

        def update():
            scaler.step(training.optimizer)
            scaler.update()

        return training, forward_and_backward, update

    eager, run, update = prepare()
    for x, target in data:
        run(x, target)
        update()

    graphed, run, update = prepare()
    x, target = (tensor.clone() for tensor in data[0])
    graph, _ = captured(lambda: run(x, target))
    for batch in data:
        x.copy_(batch[0])
        target.copy_(batch[1])
        graph.replay()
        update()
    assert_same(graphed.state(), eager.state())


# --- what is replayed ---------------------------------------------------------------------------


def sparse_product():
    indices = torch.tensor([[0, 1, 2], [1, 0, 2]])
    matrix = torch.sparse_coo_tensor(indices, torch.ones(3), (3, 3)).to("cuda")
    return lambda x: torch.sparse.mm(matrix, x)


def write_through_view(x):
    y = x.clone()
    y[1:].mul_(3)
    y.t()[0].add_(1)
    return y


def into_out(x):
    out = torch.empty(0, device="cuda")
    torch.add(x, x, out=out)
    return out * 2


def loop(x):
    total = torch.zeros_like(x)
    for part in x.split(1):
        total += part
    return total


WORK = {
    "arithmetic": lambda x: (x + 1) * 2 - x.sin(),
    "in place": lambda x: (x * 2).relu_().add_(1),
    "a view as result": lambda x: (x * 2).t()[1:],
    "chunks": lambda x: torch.cat((x * 2).chunk(3)[::-1]),
    "split": lambda x: torch.stack([part * number for number, part in enumerate(x.split(1))]),
    "a write through a view": write_through_view,
    "out=": into_out,
    "expanded": lambda x: x.sum(0, keepdim=True).expand(3, 3) + x,
    "a loop": loop,
    "unbound": lambda x: sum((x * 2).unbind(1)),
    "complex": lambda x: torch.view_as_real(torch.fft.fft(x).conj() * (1 + 2j)),
    "linear algebra": lambda x: torch.linalg.inv_ex(x @ x.T + torch.eye(3, device="cuda"))[0],
    "sort": lambda x: torch.sort(x, dim=1, descending=True)[0],
    "a gather": lambda x: x.gather(1, x.argsort(1)),
    "a masked fill": lambda x: x.masked_fill(x > 0, 0.0),
    "where": lambda x: torch.where(x > 0, x, -x),
    "an index": lambda x: x[torch.tensor([2, 0], device="cuda")],
    "a constant": lambda x: x + torch.tensor([1.0, 2.0, 3.0], device="cuda"),
    "repeats of known size": lambda x: x.repeat_interleave(
        torch.tensor([1, 2, 1], device="cuda"), dim=0, output_size=4
    ),
    "sparse": lambda x: sparse_product()(x),
    "no grad": torch.no_grad()(lambda x: x @ x),
    "inference": torch.inference_mode()(lambda x: nn.functional.linear(x, x).view(9) + 1),
    "several": lambda x: torch.stack(torch.meshgrid(x[0], x[1], indexing="ij")),
    "gradient": lambda x: torch.func.grad(lambda y: (y**3).sum())(x),
}


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
def test_a_replay_computes_anew_where_the_results_are(work):
    torch.manual_seed(0)
    x = torch.randn(3, 3, device="cuda")
    try:
        work(x)
    except NotImplementedError as error:
        pytest.skip(f"the target has no such operator: {error}")
    sparse = sparse_product()  # made outside, as CUDA needs it
    graph, out = captured(lambda: sparse(x) if work is WORK["sparse"] else work(x))
    address = out.data_ptr()
    for _ in range(3):
        x.copy_(torch.randn(3, 3, device="cuda"))
        graph.replay()
        torch.testing.assert_close(out, work(x.clone()))
        assert out.data_ptr() == address


def test_what_a_block_writes_outside_is_written_at_each_replay():
    total = torch.zeros(3, device="cuda")
    graph, _ = captured(lambda: total.add_(1))
    assert total.tolist() == [0, 0, 0]
    for _ in range(4):
        graph.replay()
    assert total.tolist() == [4, 4, 4]


def test_a_replay_draws_new_random_numbers():
    torch.cuda.manual_seed(3)
    expected = [torch.rand(4, device="cuda") for _ in range(3)]
    torch.cuda.manual_seed(3)
    graph, out = captured(lambda: torch.rand(4, device="cuda"))
    drawn = []
    for _ in range(3):
        graph.replay()
        drawn.append(out.clone())
    assert_same(drawn, expected)


def test_a_registered_generator_goes_on_where_it_was():
    generator = torch.Generator("cuda")
    expected = torch.rand(4, device="cuda", generator=generator.manual_seed(5))
    generator.manual_seed(5)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        out = torch.rand(4, device="cuda", generator=generator)
    graph.replay()
    assert torch.equal(out, expected)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_recomputation_in_a_replay_drops_out_what_the_forward_did(use_reentrant):
    x = torch.randn(4, 6, device="cuda")
    weight = torch.randn(6, 6, device="cuda", requires_grad=True)

    def work(x):
        return nn.functional.dropout(x @ weight, 0.5).sin()

    def step():
        # Reentrant checkpoints want an input with a gradient.
        inputs = x.detach().requires_grad_()
        kept = torch.utils.checkpoint.checkpoint(work, inputs, use_reentrant=use_reentrant)
        return torch.autograd.grad(kept.sum(), weight)[0]

    def reentrant_step():
        weight.grad = None
        inputs = x.detach().requires_grad_()
        torch.utils.checkpoint.checkpoint(work, inputs, use_reentrant=True).sum().backward()
        return weight.grad

    run = reentrant_step if use_reentrant else step
    torch.manual_seed(2)
    expected = [run().clone() for _ in range(3)]
    torch.manual_seed(2)
    graph, gradient = captured(run)
    found = []
    for _ in range(3):
        graph.replay()
        found.append(gradient.clone())
    assert_same(found, expected)


@pytest.mark.parametrize("name", ["manual_seed", "manual_seed_all", "seed", "seed_all"])
def test_a_captured_block_cannot_seed(name):
    arguments = (1,) if "manual" in name else ()
    x = torch.zeros(1, device="cuda")
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        x.add_(1)
        with pytest.raises(RuntimeError, match="during CUDA graph capture"):
            getattr(torch.cuda, name)(*arguments)


def test_the_dispatch_mode_and_a_capture_go_together():
    with torchdevice_mode.redirect(dispatch="always"):
        graph, out = captured(lambda: torch.ops.aten.full([3], 2.0, device="cuda:1") * 2)
        out.zero_()
        graph.replay()
        assert out.tolist() == [4, 4, 4]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_a_scripted_function_is_captured():
    @torch.jit.script
    def scripted(x: torch.Tensor):
        return x + torch.ones([3], device=torch.device("cuda:0"))

    x = torch.zeros(3, device="cuda")
    graph, out = captured(lambda: scripted(x))
    x.fill_(4)
    graph.replay()
    assert out.tolist() == [5, 5, 5]


def test_a_custom_function_is_captured_with_its_backward():
    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, gradient):
            (x,) = ctx.saved_tensors
            return gradient * 3 * x**2

    x = torch.ones(2, device="cuda", requires_grad=True)
    graph, gradient = captured(lambda: torch.autograd.grad(Cube.apply(x).sum(), x)[0])
    x.data.fill_(2)
    graph.replay()
    assert gradient.tolist() == [12, 12]


def test_gradients_accumulate_over_replays():
    weight = torch.ones(2, device="cuda", requires_grad=True)
    weight.grad = torch.zeros(2, device="cuda")
    graph, _ = captured(lambda: (weight * 3).sum().backward())
    assert weight.grad.tolist() == [0, 0]
    for _ in range(2):
        graph.replay()
    assert weight.grad.tolist() == [6, 6]


def test_sparse_gradients_are_captured():
    table = nn.Embedding(5, 2, sparse=True, device="cuda")
    which = torch.tensor([1, 1, 3], device="cuda")
    graph, gradient = captured(
        lambda: torch.autograd.grad((table(which) * 2).sum(), table.weight)[0]
    )
    which.copy_(torch.tensor([0, 4, 4]))
    graph.replay()
    assert gradient.to_dense().sum(1).tolist() == [4, 0, 0, 0, 8]


def test_a_copy_from_the_host_is_replayed():
    host, x = torch.ones(3), torch.zeros(3, device="cuda")
    graph, _ = captured(lambda: x.copy_(host, non_blocking=True))
    host.fill_(7)
    graph.replay()
    assert x.tolist() == [7, 7, 7]


def test_a_replay_reads_the_memory_that_was_captured():
    weight = nn.Parameter(torch.ones(2, device="cuda"))
    memory = weight.data
    graph, out = captured(lambda: weight * 2)
    weight.data = torch.full((2,), 9.0, device="cuda")
    memory.fill_(3)
    graph.replay()
    assert out.tolist() == [6, 6]


def test_a_replay_is_not_seen_by_autograd():
    x = torch.ones(2, device="cuda", requires_grad=True)
    graph, out = captured(lambda: x.detach() * 2)
    product = (x * out).sum()
    graph.replay()
    product.backward()
    assert x.grad.tolist() == [2, 2]


def test_a_replay_is_the_same_in_autocast_and_inference():
    x = torch.randn(8, 8, device="cuda")
    graph, out = captured(lambda: x @ x)
    expected = x @ x
    for block in (torch.autocast("cuda", torch.bfloat16), torch.inference_mode(), torch.no_grad()):
        out.zero_()
        with block:
            graph.replay()
        assert torch.equal(out, expected) and out.dtype == torch.float32


def test_a_replay_in_another_thread_and_after_the_redirection_works():
    x = torch.ones(3, device="cuda")
    graph, out = captured(lambda: x + 1)
    x.fill_(4)
    thread = threading.Thread(target=graph.replay)
    thread.start()
    thread.join()
    assert out.tolist() == [5, 5, 5]
    x.fill_(5)
    with torchdevice_mode.native():
        graph.replay()
    assert out.tolist() == [6, 6, 6]


def test_graphs_share_a_pool():
    x = torch.ones(3, device="cuda")
    pool = torch.cuda.graph_pool_handle()
    first, y = captured(lambda: x + 1, pool=pool)
    second, z = captured(lambda: y * 2, pool=first.pool())
    third, _ = captured(lambda: x * 2)
    assert first.pool() == second.pool() == pool != third.pool()
    for value in (1.0, 5.0):
        x.fill_(value)
        first.replay()
        second.replay()
        assert z.tolist() == [(value + 1) * 2] * 3


def test_work_of_a_stream_that_takes_part_is_captured():
    x = torch.ones(3, device="cuda")
    side = torch.cuda.Stream()

    def work():
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            assert torch.cuda.is_current_stream_capturing() and side.is_capturing()
            y = x + 1
        torch.cuda.current_stream().wait_stream(side)
        return y

    graph, y = captured(work)
    x.fill_(2)
    graph.replay()
    assert y.tolist() == [3, 3, 3]


def test_work_of_another_stream_is_done_at_once():
    total = torch.zeros(1, device="cuda")
    side = torch.cuda.Stream()

    def work():
        with torch.cuda.stream(side):
            total.add_(1)
        return torch.ones(1, device="cuda")

    graph, _ = captured(work)
    graph.replay()
    assert total.item() == 1


def test_compiled_code_is_captured():
    compiled = torch.compile(lambda x: (x.sin() + 1) * 2, backend="aot_eager")
    x = torch.ones(3, device="cuda")
    compiled(x)
    graph, out = captured(lambda: compiled(x))
    x.fill_(2)
    graph.replay()
    torch.testing.assert_close(out, (x.sin() + 1) * 2)


def test_a_tensor_subclass_is_captured_by_what_it_calls():
    from torch.testing._internal.two_tensor import TwoTensor

    one, other = torch.ones(2, device="cuda"), torch.ones(2, device="cuda")
    both = TwoTensor(one, other)
    graph, out = captured(lambda: both * 2)
    one.fill_(5)
    graph.replay()
    assert out.a.tolist() == [10, 10] and out.b.tolist() == [2, 2]


def test_an_external_event_is_recorded_at_each_replay():
    start, end = (torch.cuda.Event(enable_timing=True, external=True) for _ in range(2))

    def work():
        start.record()
        torch.ones(3, device="cuda").add_(1)
        end.record()

    graph, _ = captured(work)
    graph.replay()
    first = start.elapsed_time(end)
    graph.replay()
    assert start.elapsed_time(end) != first


# --- make_graphed_callables ---------------------------------------------------------------------


def test_graphed_parts_of_a_network_train_as_the_eager_ones():
    data = batches()

    def train(graph):
        torch.manual_seed(0)
        first, second = nn.Linear(8, 16).cuda(), nn.Linear(16, 4).cuda()
        optimizer = torch.optim.SGD([*first.parameters(), *second.parameters()], lr=0.1)
        if graph:
            x = torch.randn(5, 8, device="cuda")
            hidden = torch.randn(5, 16, device="cuda", requires_grad=True)
            first, second = torch.cuda.make_graphed_callables((first, second), ((x,), (hidden,)))
        losses = []
        for x, target in data:
            optimizer.zero_grad(set_to_none=True)
            hidden = first(x)
            # Control flow between the graphed parts, as in torch's notes.
            hidden = hidden.relu() if hidden.sum().item() > 0 else hidden.tanh()
            loss = nn.functional.cross_entropy(second(hidden), target)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return losses

    assert_same(train(graph=True), train(graph=False))


def test_a_graphed_module_runs_as_it_was_in_the_other_mode():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).cuda().train()
    x = torch.randn(3, 4, device="cuda")
    graphed = torch.cuda.make_graphed_callables(module, (x,))
    assert graphed is module
    first, second = graphed(x).clone(), graphed(x).clone()
    assert not torch.equal(first, second)
    graphed.eval()
    assert torch.equal(graphed(x), module[0](x))


def test_a_graphed_function_gives_gradients():
    x = torch.randn(3, device="cuda", requires_grad=True)
    graphed = torch.cuda.make_graphed_callables(lambda x: {"square": x**2}, (x,))
    y = torch.randn(3, device="cuda", requires_grad=True)
    graphed(y)["square"].sum().backward()
    torch.testing.assert_close(y.grad, 2 * y.detach())


def test_a_graphed_module_in_autocast_wants_no_cache():
    module = nn.Linear(4, 4).cuda()
    x = torch.randn(3, 4, device="cuda")
    with (
        torch.autocast("cuda", torch.bfloat16),
        pytest.raises(RuntimeError, match="does not support the autocast caching"),
    ):
        torch.cuda.make_graphed_callables(module, (x,))
    with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
        expected = module(x)
        graphed = torch.cuda.make_graphed_callables(module, (x,))
        out = graphed(x)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, expected)
    out.float().sum().backward()
    assert module.weight.grad.dtype == torch.float32


def test_an_unused_input_is_allowed_where_asked_for():
    def ignoring(x, y):
        return x * 2

    inputs = tuple(torch.randn(3, device="cuda", requires_grad=True) for _ in range(2))
    with pytest.raises(RuntimeError, match="to not have been used"):
        torch.cuda.make_graphed_callables(ignoring, inputs)
    graphed = torch.cuda.make_graphed_callables(
        ignoring, inputs, num_warmup_iters=1, allow_unused_input=True
    )
    graphed(*inputs).sum().backward()
    assert inputs[0].grad.tolist() == [2, 2, 2] and inputs[1].grad is None


def test_a_module_with_hooks_cannot_be_graphed():
    module = nn.Linear(2, 2).cuda()
    module.register_forward_hook(lambda *args: None)
    with pytest.raises(AssertionError, match="must not have hooks"):
        torch.cuda.make_graphed_callables(module, (torch.ones(1, 2, device="cuda"),))


# --- what cannot be captured --------------------------------------------------------------------


def boolean_index(x):
    x[x > 0] = torch.ones(2, device="cuda")


REFUSED = {
    "item": (lambda x: x.sum().item(), "_local_scalar_dense"),
    "a condition": (lambda x: bool(x.sum() > 0), "_local_scalar_dense"),
    "cpu": (lambda x: x.cpu(), "Tensor.cpu"),
    "numpy": (lambda x: x.detach().numpy(), "Tensor.numpy"),
    "tolist": (lambda x: x.tolist(), "Tensor.tolist"),
    "print": (lambda x: repr(x * 2), "Tensor.__repr__"),
    "nonzero": (lambda x: x.nonzero(), "depends on the values"),
    "a mask": (lambda x: x[x > 0], "depends on the values"),
    "masked_select": (lambda x: x.masked_select(x > 0), "depends on the values"),
    "unique": (lambda x: x.unique(), "depends on the values"),
    "writing by a mask": (boolean_index, "as many values as the mask"),
    "equal": (lambda x: torch.equal(x, x + 1), "equal"),
    "checked algebra": (lambda x: torch.linalg.inv(x.diag()), "on the host"),
    "synchronize": (lambda x: torch.cuda.synchronize(), "torch.cuda.synchronize"),
    "waiting for the stream": (
        lambda x: torch.cuda.current_stream().synchronize(),
        "Stream.synchronize",
    ),
    "asking the stream": (lambda x: torch.cuda.current_stream().query(), "Stream.query"),
    "another graph": (lambda x: captured(lambda: x + 1), "torch.cuda.graph"),
}


@pytest.mark.parametrize(("work", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_waits_for_the_device_cannot_be_captured(work, reason):
    x = torch.tensor([1.0, 2.0, -3.0], device="cuda")
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="previous error during capture") as caught:
        with torch.cuda.graph(graph):
            x.add_(1)
            work(x)
    assert type(caught.value).__name__ == "AcceleratorError"
    first = caught.value.__context__
    assert "operation not permitted when stream is capturing" in str(first)
    assert first.error_code == 900 and caught.value.error_code == 901
    assert re.search(reason, str(first))
    assert x.tolist() == [1, 2, -3]
    assert torch.cuda.is_current_stream_capturing() is False
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    with pytest.raises(RuntimeError, match="without a preceding successful capture"):
        graph.replay()


def test_work_after_a_refused_call_fails_too():
    x = torch.ones(2, device="cuda")
    with pytest.raises(RuntimeError), torch.cuda.graph(torch.cuda.CUDAGraph()):
        with pytest.raises(RuntimeError, match="not permitted"):
            x.sum().item()
        with pytest.raises(RuntimeError, match="previous error"):
            x.add_(1)


def test_an_event_of_the_capture_cannot_be_waited_for():
    event = torch.cuda.Event()
    with pytest.raises(RuntimeError, match="previous error"):
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            torch.ones(1, device="cuda")
            event.record()
            with pytest.raises(RuntimeError, match="event last recorded in a capturing stream"):
                event.synchronize()


def test_a_stream_that_was_not_waited_for_is_an_error():
    side = torch.cuda.Stream()
    with pytest.raises(RuntimeError, match="unjoined work"):
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                torch.ones(1, device="cuda").add_(1)


def test_an_error_of_the_program_leaves_nothing_behind():
    x = torch.zeros(1, device="cuda")
    with pytest.raises(ZeroDivisionError), torch.cuda.graph(torch.cuda.CUDAGraph()):
        x.add_(1)
        _ = 1 / 0
    assert x.item() == 0
    assert torch.cuda.is_current_stream_capturing() is False
    assert torch.cuda.current_stream() == torch.cuda.default_stream()


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")
def test_an_optimizer_must_be_capturable():
    parameter = nn.Parameter(torch.ones(2, device="cuda"))
    optimizer = torch.optim.Adam([parameter], capturable=False)
    parameter.grad = torch.ones(2, device="cuda")
    with pytest.raises(RuntimeError, match="Attempting CUDA graph capture of step"):
        captured(optimizer.step)


# --- the graph object ---------------------------------------------------------------------------


def one_graph(**options):
    x = torch.ones(1, device="cuda")
    graph = torch.cuda.CUDAGraph(**options)
    with torch.cuda.graph(graph):
        x.add_(1)
    return graph, x


def on_side_stream(call):
    with torch.cuda.stream(torch.cuda.Stream()):
        call()


MISUSES = {
    "replay first": (lambda: torch.cuda.CUDAGraph().replay(), "without a preceding successful"),
    "pool first": (lambda: torch.cuda.CUDAGraph().pool(), "without a preceding successful"),
    "instantiate first": (lambda: torch.cuda.CUDAGraph().instantiate(), "must have been called"),
    "instantiate twice": (lambda: one_graph()[0].instantiate(), "only when keep_graph=true"),
    "the default stream": (lambda: torch.cuda.CUDAGraph().capture_begin(), "non-default stream"),
    "end first": (lambda: torch.cuda.CUDAGraph().capture_end(), "present state"),
    "end elsewhere": (
        lambda: on_side_stream(torch.cuda.CUDAGraph().capture_end),
        "same stream it began",
    ),
    "an unknown mode": (
        lambda: on_side_stream(lambda: torch.cuda.CUDAGraph().capture_begin(None, "never")),
        "Expected `global`, `thread_local`, or `relaxed`, got never",
    ),
    "capture twice": (
        lambda: torch.cuda.graph(one_graph()[0]).__enter__(),
        "already owns a captured graph",
    ),
    "raw": (lambda: one_graph()[0].raw_cuda_graph(), "keep_graph=true"),
    "raw first": (
        lambda: torch.cuda.CUDAGraph(keep_graph=True).raw_cuda_graph(),
        "until capture_end",
    ),
    "raw exec first": (
        lambda: torch.cuda.CUDAGraph().raw_cuda_graph_exec(),
        "until instantiate",
    ),
    "raw handle": (lambda: one_graph(keep_graph=True)[0].raw_cuda_graph(), "use debug_dump"),
}


@pytest.mark.parametrize(("call", "message"), MISUSES.values(), ids=MISUSES)
def test_misuse_fails_as_on_cuda(call, message):
    with pytest.raises(RuntimeError, match=message):
        call()
    assert torch.cuda.current_stream() == torch.cuda.default_stream()


def test_a_graph_that_is_reset_can_capture_again():
    graph, x = one_graph()
    graph.replay()
    graph.reset()
    with pytest.raises(RuntimeError, match="without a preceding"):
        graph.replay()
    with torch.cuda.graph(graph):
        x.add_(10)
    graph.replay()
    assert x.item() == 12


def test_a_kept_graph_is_instantiated_when_asked_or_replayed():
    graph, x = one_graph(keep_graph=True)
    graph.instantiate()
    graph.instantiate()
    graph.replay()
    assert x.item() == 2
    graph, x = one_graph(keep_graph=True)
    graph.replay()
    assert x.item() == 2


def test_begin_and_end_capture_by_hand():
    x = torch.zeros(1, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(torch.cuda.Stream()):
        graph.capture_begin(capture_error_mode="thread_local")
        assert torch.cuda.is_current_stream_capturing() is True
        x.add_(1)
        graph.capture_end()
        assert torch.cuda.is_current_stream_capturing() is False
    graph.replay()
    assert x.item() == 1


def test_a_reset_ends_a_capture():
    graph = torch.cuda.CUDAGraph()
    x = torch.zeros(1, device="cuda")
    with torch.cuda.stream(torch.cuda.Stream()):
        graph.capture_begin()
        x.add_(1)
        graph.reset()
    assert x.item() == 0


def test_an_empty_graph_is_warned_about():
    with pytest.warns(UserWarning, match="The CUDA Graph is empty") as caught:
        graph, _ = captured(lambda: None)
    graph.replay()
    assert caught[0].filename == __file__


def test_the_captured_operators_can_be_written_down(tmp_path):
    graph, _ = one_graph(keep_graph=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph.debug_dump(str(tmp_path / "graph.dot"))
    text = (tmp_path / "graph.dot").read_text()
    assert text.startswith("digraph") and "aten.add_" in text


def test_dead_inputs_are_found_where_asked_for():
    inputs = [torch.ones(2, device="cuda"), torch.ones(2, device="cuda")]
    graph, _ = captured(lambda: inputs[0] + inputs[1], check_input_liveness=True)
    graph.replay()
    del inputs[0]
    with pytest.raises(RuntimeError, match=r"1 dead tensor"):
        graph.replay()


def test_the_stream_of_a_capture_can_be_given():
    side = torch.cuda.Stream()
    seen = []
    captured(lambda: seen.append(torch.cuda.current_stream()) or torch.ones(1), stream=side)
    captured(lambda: seen.append(torch.cuda.current_stream()) or torch.ones(1))
    assert seen[0] == side != seen[1] == torch.cuda.graph.default_capture_stream


def test_graphs_can_be_subclassed():
    class Named(torch.cuda.CUDAGraph):
        pass

    class Block(torch.cuda.graph):
        pass

    graph = Named()
    with Block(graph):
        out = torch.ones(1, device="cuda")
    graph.replay()
    assert isinstance(graph, torch.cuda.CUDAGraph) and out.item() == 1


@pytest.mark.parametrize("name", ["__new__", "capture_begin", "capture_end", "replay", "reset"])
def test_methods_take_what_torch_takes(name):
    ours = inspect.signature(getattr(torch.cuda.CUDAGraph, name)).parameters
    with torchdevice_mode.native():
        theirs = inspect.signature(getattr(torch.cuda.CUDAGraph, name)).parameters
    assert {key: (p.kind, p.default) for key, p in theirs.items()}.items() <= {
        key: (p.kind, p.default) for key, p in ours.items()
    }.items()


def test_the_submodule_has_the_same_names():
    for name in torch.cuda.graphs.__all__:
        assert getattr(torch.cuda.graphs, name) is getattr(torch.cuda, name)
