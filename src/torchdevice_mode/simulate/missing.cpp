// Operators that the device has no kernel for: an error, or torch's own fallback to the CPU.
//
// As on a Mac, `PYTORCH_ENABLE_MPS_FALLBACK` is read once, when the library is loaded.

#ifndef SIMULATE_CUDA

#include "device.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/native/CPUFallback.h>
#include <torch/library.h>

#include <cstdlib>
#include <string>

namespace simulated {
namespace {

using torch::jit::Stack;

#define ASKED_FOR \
  "' is not currently implemented for the MPS device. If you want this op to be considered for " \
  "addition please comment on https://github.com/pytorch/pytorch/issues/141287 and mention " \
  "use-case, that resulted in missing op as well as commit hash simulated. "

void missing(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack*) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      false, "The operator '", toString(op.operator_name()), ASKED_FOR,
      "As a temporary fix, you can set the environment variable `PYTORCH_ENABLE_MPS_FALLBACK=1` to "
      "use the CPU as a fallback for this op. WARNING: this will be slower than running natively "
      "on MPS.");
}

void fall_back(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      op.schema().name().rfind("c10d::", 0) != 0, "The distributed operator '",
      toString(op.operator_name()), ASKED_FOR,
      "Please note, that distributed operators can not fall back to CPU");
  TORCH_WARN_ONCE(
      "The operator '", toString(op.operator_name()),
      "' is not currently supported on the MPS backend and will fall back to run on the CPU. This "
      "may have performance implications.");
  at::native::cpu_fallback(op, stack);
}

bool asked_to_fall_back() {
  const char* variable = std::getenv("PYTORCH_ENABLE_MPS_FALLBACK");
  return variable != nullptr && std::stoi(variable) != 0;
}

TORCH_LIBRARY_IMPL(_, MPS, m) {
  m.fallback(
      asked_to_fall_back() ? torch::CppFunction::makeFromBoxedFunction<&fall_back>()
                           : torch::CppFunction::makeFromBoxedFunction<&missing>());
}

// torch's Metal backend runs these on the CPU whatever the variable says.
TORCH_LIBRARY_IMPL(aten, MPS, m) {
  for (const char* name : {"embedding_renorm_", "linalg_svd", "linalg_svd.U"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&fall_back>());
  }
}

} // namespace
} // namespace simulated

#endif
