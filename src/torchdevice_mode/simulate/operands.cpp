// Operands on two devices, and dtypes that a kernel lacks: refused in the real device's words.
//
// Metal words a CPU tensor by where it is first noticed; see metal_operators.h. A CPU tensor without
// dimensions is a number to elementwise operators, and a tensor like any other elsewhere.

#include "call.h"
#include "metal_operators.h"

#include <ATen/core/enum_tag.h>

#include <cstring>
#include <map>
#include <set>
#include <sstream>
#include <unordered_map>

namespace simulated {
namespace {

// Arguments that may lie on the CPU, by operator: indices, lengths and shapes.
const std::map<std::string, std::set<std::string>>& cpu_arguments() {
  static const auto* table = new std::map<std::string, std::set<std::string>>{
      {"index", {"indices"}},
      {"_unsafe_index", {"indices"}},
      {"index_put_", {"indices", "values"}},
      {"index_put", {"indices", "values"}},
      {"_index_put_impl_", {"indices"}},
      {"_unsafe_index_put", {"indices", "values"}},
      {"masked_select", {"mask"}},
      {"copy_", {"self", "src"}},
      {"copy_sparse_to_sparse_", {"self", "src"}},
      {"_pack_padded_sequence", {"lengths"}},
      {"_pack_padded_sequence_backward", {"batch_sizes"}},
      {"_pad_packed_sequence", {"batch_sizes"}},
      {"tensor_split", {"tensor_indices_or_sections"}},
      {"_nested_view_from_buffer", {"nested_size", "nested_strides", "offsets"}},
  };
  return *table;
}

enum class Notices { Iterator, Graph, Kernel, Other };

Notices notices(const std::string& name) {
  static const auto* table = [] {
    auto* all = new std::unordered_map<std::string, Notices>();
    for (const char* one : kIterator) {
      all->emplace(one, Notices::Iterator);
    }
    for (const char* one : kGraph) {
      all->emplace(one, Notices::Graph);
    }
    for (const char* one : kKernel) {
      all->emplace(one, Notices::Kernel);
    }
    return all;
  }();
  auto found = table->find(name);
  if (found == table->end() && !name.empty() && name.back() == '_') {
    found = table->find(name.substr(0, name.size() - 1));
  }
  return found == table->end() ? Notices::Other : found->second;
}

#define NOT_TRUE(condition) \
  "Expected " condition " to be true, but got false.  (Could this error message be improved?  If " \
  "so, please report an enhancement request to PyTorch.)"
#define ON_CPU(number, name, where) \
  "Tensor for argument #" number " '" name "' is on CPU, but expected it to be on GPU (while " \
  "checking arguments for " where ")"
#define MASKED \
  "expected self and mask to be on the same device, but got mask on {mask} and self on {self}"
#define INDICES \
  "indices should be either on cpu or on the same device as the indexed tensor ({self})"
#define INDEXED(name) \
  name "_(): self, index and source expected to be in the same device, but got (self) {self}, " \
  "(index) {index}, and (source) {source}"
#define SEARCHED(boundaries) \
  "torch.searchsorted(): boundaries and input value tensors should have same device type, but " \
  "got boundaries tensor device type " boundaries " and input value tensor device type {self}"
#define SAME_TYPE(name) \
  "Input type ({input type}) and " name " type ({" name " type}) should be the same"
#define SLOW_CONVOLUTION \
  "slow_conv2d_forward_mps: input(device='{self}') and weight(device={weight}')  must be on the " \
  "same device"
#define ALIKE(names) names " must have same dtype, device, and layout"

// What an operator says itself before any of the above would, in the order in which it looks; the
// first row that fits counts.
struct Said {
  const char* op;
  const char* argument;  // that is on the CPU; "" for any
  const char* text;  // {x} stands for the device of the argument x, {x type} for its type
};

const Said kSaid[] = {
    // aten/src/ATen/native/mps/operations/Linear.mm
    {"linear", "input", "Tensor for argument input is on {input} but expected on mps"},
    {"linear", "weight", "Tensor for argument weight is on {weight} but expected on mps"},
    {"linear", "bias", "Tensor for argument bias is on {bias} but expected on mps"},
    // aten/src/ATen/native/mps/operations/LinearAlgebra.mm
    {"mm", "self", ON_CPU("1", "mat1", "mm")},
    {"mm", "mat2", ON_CPU("2", "mat2", "mm")},
    {"addmm", "self", ON_CPU("1", "self", "addmm")},
    {"addmm", "mat1", ON_CPU("2", "mat1", "addmm")},
    {"addmm", "mat2", ON_CPU("3", "mat2", "addmm")},
    {"addr", "self", ON_CPU("1", "self", "addr")},
    {"addr", "vec1", ON_CPU("2", "vec1", "addr")},
    {"addr", "vec2", ON_CPU("3", "vec2", "addr")},
    {"addbmm", "self", NOT_TRUE("input.is_mps()")},
    {"addbmm", "batch1", NOT_TRUE("batch1.is_mps()")},
    {"addbmm", "batch2", NOT_TRUE("batch2.is_mps()")},
    {"baddbmm", "self", NOT_TRUE("input.is_mps()")},
    {"baddbmm", "batch1", NOT_TRUE("batch1.is_mps()")},
    {"baddbmm", "batch2", NOT_TRUE("batch2.is_mps()")},
    // aten/src/ATen/native/mps/operations/Blas.mm
    {"addmv", "mat", NOT_TRUE("mat.is_mps()")},
    {"addmv", "vec", NOT_TRUE("vec.is_mps()")},
    {"addmv", "self", NOT_TRUE("self.is_mps()")},
    {"dot", "", "Expected all tensors to be on the same device. Found: {self}, {tensor}"},
    {"vdot", "", "Expected all tensors to be on the same device. Found: {self}, {other}"},
    // aten/src/ATen/native/mps/operations/Indexing.mm
    {"masked_fill_", "mask", MASKED},
    {"masked_fill_", "self", MASKED},
    // aten/src/ATen/native/mps/operations/TensorCompare.mm
    {"isin", "", NOT_TRUE("elements.is_mps() && test_elements.is_mps()")},
    // aten/src/ATen/native/TensorAdvancedIndexing.cpp
    {"index", "self", INDICES},
    {"masked_select", "self", INDICES},
    {"index_add", "", INDEXED("index_add")},
    {"index_reduce", "", INDEXED("index_reduce")},
    {"index_copy", "", INDEXED("index_copy")},
    // aten/src/ATen/native/BucketizationUtils.h
    {"searchsorted", "self", SEARCHED("{sorted_sequence}")},
    {"searchsorted", "sorted_sequence", SEARCHED("{sorted_sequence}")},
    {"bucketize", "", SEARCHED("{boundaries}")},
    // aten/src/ATen/native/Convolution.cpp
    {"convolution_overrideable", "weight", SAME_TYPE("weight")},
    {"convolution_overrideable", "bias", SAME_TYPE("bias")},
    // aten/src/ATen/mps/MPSFallback.mm; on Linux oneDNN comes first
    {"_slow_conv2d_forward", "self", SLOW_CONVOLUTION},
    {"mkldnn_convolution", "self", SLOW_CONVOLUTION},
    // aten/src/ATen/native/mps/operations/FusedAdamKernel.mm
    {"_fused_adam_", "", ALIKE("params, grads, exp_avgs, and exp_avg_sqs")},
    {"_fused_adamw_", "", ALIKE("params, grads, exp_avgs, and exp_avg_sqs")},
};

bool is_stray(const at::Tensor& tensor) {
  return tensor.defined() && tensor.device().type() == c10::DeviceType::CPU;
}

std::string filled(const char* pattern, const Call& call) {
  std::ostringstream out;
  for (const char* at = pattern; *at != '\0'; ++at) {
    const char* end = *at == '{' ? std::strchr(at, '}') : nullptr;
    if (end == nullptr) {
      out << *at;
      continue;
    }
    std::string name(at + 1, end);
    const auto space = name.find(' ');
    const at::Tensor tensor = call.tensor(name.substr(0, space));
    if (space != std::string::npos) {
      out << tensor.toString();
    } else {
      out << (tensor.defined() ? tensor.device() : c10::Device(c10::kCPU));
    }
    at = end;
  }
  return out.str();
}

std::string same_operator(std::string name) {
  return !name.empty() && name.back() == '_' && name.front() != '_' ? name.substr(0, name.size() - 1)
                                                                    : name;
}

// CUDA's text, for want of one where Metal has no kernel.
[[noreturn]] void raise_naming(const Call& call, const c10::Argument& argument) {
  TORCH_CHECK(
      false, "Expected all tensors to be on the same device, but got ", argument.name(),
      " is on cpu, different from other tensors on ", kDevice,
      " (when checking argument in method wrapper_", kName, "_", call.operator_name(), ")");
}

[[noreturn]] void raise(const Call& call, const c10::Argument& argument) {
  const std::string name = call.operator_name();
  if constexpr (!kIsCuda) {
    for (const auto& row : kSaid) {
      if ((name == row.op || same_operator(name) == row.op) &&
          (row.argument[0] == '\0' || is_stray(call.tensor(row.argument)))) {
        TORCH_CHECK(false, filled(row.text, call));
      }
    }
    TORCH_CHECK(
        notices(name) != Notices::Graph, "Placeholder storage has not been allocated on MPS device!");
    TORCH_CHECK(notices(name) != Notices::Kernel, "Passed CPU tensor to MPS op");
  }
  // CUDA checks the operands of elementwise operators all at once.
  const bool at_once =
      kIsCuda ? call.op().hasTag(at::Tag::pointwise) : notices(name) == Notices::Iterator;
  TORCH_CHECK(
      !at_once, "Expected all tensors to be on the same device, but found at least two devices, ",
      kDevice, " and cpu!");
  raise_naming(call, argument);
}

// Whether a CPU tensor without dimensions is taken for a number.
bool takes_numbers(const std::string& name) {
  const auto how = kIsCuda ? Notices::Other : notices(name);
  return how == Notices::Iterator || how == Notices::Other ||
      name.rfind("logical_", 0) == 0;  // the graph gets the number instead
}

} // namespace

void check_sparse_operands(const Call& call) {
  for_each_tensor(call, [&](const c10::Argument& argument, const at::Tensor& tensor) {
    const auto allowed = cpu_arguments().find(call.operator_name());
    if (is_stray(tensor) && tensor.dim() > 0 &&
        (allowed == cpu_arguments().end() || allowed->second.count(argument.name()) == 0)) {
      raise_naming(call, argument);
    }
  });
}

void check_operands(const Call& call) {
  const std::string name = call.operator_name();
  const auto allowed = cpu_arguments().find(name);
  for_each_tensor(call, [&](const c10::Argument& argument, const at::Tensor& tensor) {
    if (!is_stray(tensor) || (tensor.dim() == 0 && takes_numbers(name)) ||
        (allowed != cpu_arguments().end() && allowed->second.count(argument.name()) > 0)) {
      return;
    }
    raise(call, argument);
  });
}

} // namespace simulated
