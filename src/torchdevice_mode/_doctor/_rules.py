"""The table of what the doctor looks for. Ids are stable: they stand in settings and comments."""

from __future__ import annotations

from typing import NamedTuple

from ._findings import Severity

__all__ = ["BY_ID", "RULES", "STATES", "Rule", "markdown"]

NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR


class Rule(NamedTuple):
    """A row.

    Attributes:
        id: Stable name.
        severity: How much it matters where it is reached for certain.
        title: What is found, in a few words.
        help: What it means and what to do, in one or two sentences.
        off_cuda: Whether it matters only where the target is not CUDA.
    """

    id: str
    severity: Severity
    title: str
    help: str
    off_cuda: bool = True


RULES: tuple[Rule, ...] = (
    # --- names of torch, by their state
    Rule(
        "torch-native",
        NOTE,
        "A name of a device's module that is right as it is",
        "Nothing to do: plain torch's own answer is right on every target.",
        off_cuda=False,
    ),
    Rule(
        "torch-mapped",
        NOTE,
        "A name of a device's module that the target has a counterpart of",
        "Nothing to do: the target's counterpart is called.",
        off_cuda=False,
    ),
    Rule(
        "torch-emulated",
        NOTE,
        "A name of a device's module whose behaviour is provided",
        "Nothing to do: it behaves as on the device that the program was written for.",
        off_cuda=False,
    ),
    Rule(
        "torch-stubbed",
        NOTE,
        "A name of a device's module that does nothing here",
        "Harmless: the call is accepted and counted, and has no effect.",
        off_cuda=False,
    ),
    Rule(
        "torch-unsupported",
        ERROR,
        "A name of a device's module that raises NotImplementedError",
        "It has no meaning on the target: keep it behind a question for the device, or write it "
        "with torch's own operators.",
        off_cuda=False,
    ),
    Rule(
        "torch-absent",
        ERROR,
        "A name that the installed torch does not have",
        "It is of another release of torch, or of a build for CUDA, and raises AttributeError.",
        off_cuda=False,
    ),
    Rule(
        "torch-name",
        NOTE,
        "A name of a device's module whose state is not known, as torch is not installed",
        "Run the doctor where torch is installed to see its state.",
        off_cuda=False,
    ),
    # --- devices
    Rule(
        "device-string",
        NOTE,
        "A device named in the program",
        "It means the target here. To migrate, choose the device once and hand it on.",
        off_cuda=False,
    ),
    Rule(
        "device-choice",
        NOTE,
        "A device chosen by asking what there is",
        "CUDA is said to be there, so this chooses CUDA, which means the target.",
        off_cuda=False,
    ),
    Rule(
        "device-comparison",
        WARNING,
        "A device's type compared with a name",
        'torch.device("cuda") is the target under redirection and tells its type, so a comparison '
        'of .type with "cuda" fails. Compare devices with each other, or ask tensor.is_cuda.',
    ),
    Rule(
        "cpu-device",
        NOTE,
        "The CPU named as a device",
        'By the default policy it means the target, too. Write "cpu:-1" for the CPU itself, or run '
        "with --policy explicit.",
        off_cuda=False,
    ),
    Rule(
        "tensor-cuda",
        NOTE,
        "A tensor or module moved by .cuda()",
        "It moves to the target. To migrate, write .to(device).",
    ),
    Rule(
        "tensor-type",
        NOTE,
        "A tensor type of CUDA",
        "It means the target's tensors of that dtype. To migrate, say dtype and device.",
    ),
    Rule(
        "float64",
        WARNING,
        "A dtype that the target lacks: float64, complex128",
        "MPS has no float64: it becomes float32, with a warning. See --float64 for other ways.",
        off_cuda=False,
    ),
    Rule(
        "saved-devices",
        NOTE,
        "A file loaded with the devices that it was saved with, or with ones named here",
        "Storages saved on CUDA are loaded to the target.",
        off_cuda=False,
    ),
    Rule(
        "autocast",
        NOTE,
        "Mixed precision asked for by the name of a device",
        "It acts on the target; a dtype that the target cannot do is replaced, with a warning.",
        off_cuda=False,
    ),
    Rule(
        "nccl",
        NOTE,
        "NCCL as backend of torch.distributed",
        "Gloo serves instead, staged through the CPU where it must be.",
    ),
    Rule(
        "data-parallel",
        NOTE,
        "A model spread over several devices",
        "There is one device, so the model runs on that one.",
    ),
    # --- what is known before the program runs
    Rule(
        "known-branch",
        NOTE,
        "A branch on a fact about CUDA that is known",
        "Which way it goes is known: capability (7, 0), one device, torch.version.cuda None.",
    ),
    Rule(
        "known-failure",
        ERROR,
        "A check that refuses this machine",
        "The program asks for something that no target gives, and ends itself: change the check.",
    ),
    Rule(
        "device-number",
        ERROR,
        "A CUDA device asked for by a number that is not there",
        "There is one device, number 0, and torch.cuda raises for others as on a machine with one "
        "GPU. Take the number from an option; as a text, cuda:1 means the target.",
    ),
    Rule(
        "cuda-version",
        ERROR,
        "The version of CUDA read as text",
        "torch.version.cuda is None where torch was not built for CUDA: ask for that first.",
    ),
    # --- what runs on NVIDIA's devices only
    Rule(
        "cuda-package",
        ERROR,
        "A package that works on NVIDIA's devices only",
        "Use a substitute where there is one, torch's own operators, or import it only where CUDA "
        "is the target.",
    ),
    Rule(
        "partly-cuda-package",
        WARNING,
        "A package of which parts work on NVIDIA's devices only",
        "It can be imported on other machines, where it is installed, and some of it fails there.",
    ),
    Rule(
        "cuda-extension-build",
        ERROR,
        "An extension that is built from CUDA source",
        "It needs nvcc, and its kernels run on NVIDIA's devices only: give it a version in torch's "
        "own operators.",
    ),
    Rule(
        "cuda-extension-import",
        ERROR,
        "The import of an extension that is built from CUDA source",
        "It cannot be built here: import it only where CUDA is the target.",
    ),
    Rule(
        "cuda-library",
        ERROR,
        "A library of NVIDIA's loaded by its name",
        "It is not on a machine without NVIDIA's driver: keep it behind a question for the device.",
    ),
    Rule(
        "compiled-library",
        WARNING,
        "A compiled library loaded into torch",
        "If it was built for CUDA, it cannot be loaded here: build it for this machine.",
    ),
    Rule(
        "cuda-source",
        WARNING,
        "A source file in CUDA",
        "It can be compiled for NVIDIA's devices only; what is made of it cannot be imported here.",
    ),
    Rule(
        "cuda-requirement",
        WARNING,
        "A requirement that can be met on NVIDIA's machines only",
        "Move it to an extra, or give it a marker, so that the project can be installed here.",
    ),
    # --- environment
    Rule(
        "visible-devices",
        WARNING,
        "CUDA_VISIBLE_DEVICES set by the program",
        "It hides NVIDIA's devices, and not the target: choose the device by --target.",
    ),
    Rule(
        "cuda-variable",
        NOTE,
        "A variable that only CUDA reads",
        "It has no effect on the target.",
    ),
    Rule(
        "mps-fallback",
        NOTE,
        "PYTORCH_ENABLE_MPS_FALLBACK set by the program",
        "It is not needed: what the target lacks runs on the CPU, and is counted.",
        off_cuda=False,
    ),
    Rule(
        "nvidia-tool",
        ERROR,
        "A tool of NVIDIA's started as a process",
        "It is not on a machine without NVIDIA's driver: ask shutil.which() first.",
    ),
    Rule(
        "fork",
        WARNING,
        "Processes made by fork",
        "A process forked off one that used MPS cannot use it: spawn instead.",
        off_cuda=False,
    ),
    Rule(
        "loader-workers",
        NOTE,
        "A DataLoader with worker processes",
        "Tensors that its workers make stay on the CPU; move the batch where it is used.",
        off_cuda=False,
    ),
    # --- files
    Rule(
        "unparsable-file",
        WARNING,
        "A file that is not Python as this Python reads it",
        "It was passed over: Python 2, a template, or a fragment.",
        off_cuda=False,
    ),
    Rule(
        "unreadable-file",
        WARNING,
        "A file that could not be read",
        "It was passed over: see the reason.",
        off_cuda=False,
    ),
)

BY_ID = {rule.id: rule for rule in RULES}
STATES = ("native", "mapped", "emulated", "stubbed", "unsupported", "absent")
"""States of a name of torch; each has a rule, `torch-<state>`."""


def markdown() -> str:
    """The table of rules as it stands in docs/doctor.md."""
    lines = ["| Rule | Severity | What is found | What to do |", "|---|---|---|---|"]
    lines += [
        f"| `{rule.id}` | {rule.severity.word} | {rule.title} | {rule.help} |" for rule in RULES
    ]
    return "\n".join(lines) + "\n"
