// The operators: each runs the CPU's kernel on the device's memory, which is host memory.
//
// A tensor of the device is handed to the CPU kernel as a CPU tensor over the same bytes, so
// writing in place and `out=` need no copy. What the kernel makes becomes device memory, and a
// view of an argument becomes a view of that argument. Each operator that has a CPU kernel is
// registered by itself, as Metal's are, so that the dispatcher can tell which ones are missing.

#include "call.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>
#include <ATen/native/SparseTensorUtils.h>
#include <ATen/native/TensorFactories.h>
#include <ATen/ops/lstm_native.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

#include <map>
#include <mutex>
#include <set>
#include <unordered_map>

namespace simulated {
namespace {

using c10::IValue;
using torch::jit::Stack;

// --- tensors there and back -------------------------------------------------------------------

// The CPU tensors that one call of an operator works on.
class Borrowed {
 public:
  at::Tensor as_cpu(const at::Tensor& tensor) {
    if (!on_device(tensor)) {
      return tensor;
    }
    if (auto found = by_tensor_.find(tensor.unsafeGetTensorImpl()); found != by_tensor_.end()) {
      return found->second.cpu;
    }
    at::Tensor cpu;
    if (tensor.is_sparse()) {
      cpu = at::detail::make_tensor<at::SparseTensorImpl>(
          c10::DispatchKeySet(c10::DispatchKey::SparseCPU), tensor.dtype());
      copy_sparse(tensor, cpu, [this](const at::Tensor& part) { return as_cpu(part); });
    } else {
      cpu = at::detail::make_tensor<c10::TensorImpl>(
          storage_for(tensor.storage()), c10::DispatchKeySet(c10::DispatchKey::CPU),
          tensor.dtype());
      copy_geometry(tensor, cpu);
      if (!tensor.is_inference()) {
        lent_.at(cpu.storage().unsafeGetStorageImpl()).normal = true;
      }
    }
    by_tensor_.emplace(tensor.unsafeGetTensorImpl(), Pair{tensor, cpu});
    by_cpu_.emplace(cpu.unsafeGetTensorImpl(), tensor);
    return cpu;
  }

  at::Tensor as_device(const at::Tensor& cpu) {
    if (!cpu.defined() || cpu.device().type() != c10::DeviceType::CPU) {
      return cpu;
    }
    if (auto found = by_cpu_.find(cpu.unsafeGetTensorImpl()); found != by_cpu_.end()) {
      return found->second;
    }
    check_dtype(cpu.scalar_type());
    if (cpu.is_sparse()) {
      at::Tensor result = at::detail::make_tensor<at::SparseTensorImpl>(
          c10::DispatchKeySet(kSparseKey), cpu.dtype());
      copy_sparse(cpu, result, [this](const at::Tensor& part) { return as_device(part); });
      return result;
    }
    TORCH_CHECK_NOT_IMPLEMENTED(
        cpu.layout() == c10::kStrided, "The simulated ", kName, " device has no ", cpu.layout(),
        " tensors");
    auto lent = lent_.find(cpu.storage().unsafeGetStorageImpl());
    if (lent == lent_.end()) {
      check_dimensions(cpu.dim());
    }
    c10::Storage storage = lent != lent_.end()
        ? lent->second.device
        : made_.try_emplace(cpu.storage().unsafeGetStorageImpl(), cpu.storage())
              .first->second.to_device();
    // A view of a normal tensor is a normal tensor in inference mode, too: autograd gives it
    // the version counter of its base.
    std::optional<c10::InferenceMode> outside;
    if (lent != lent_.end() && lent->second.normal && c10::InferenceMode::is_enabled()) {
      outside.emplace(false);
    }
    at::Tensor result = at::detail::make_tensor<c10::TensorImpl>(
        std::move(storage), c10::DispatchKeySet(kKey), cpu.dtype());
    copy_geometry(cpu, result);
    return result;
  }

  // What a kernel did to its arguments beyond their bytes: resized them, or changed their shape.
  void write_back() {
    for (auto& [impl, pair] : by_tensor_) {
      if (pair.device.is_sparse()) {
        write_back_sparse(pair.cpu, pair.device);
        continue;
      }
      auto& lent = lent_.at(pair.cpu.storage().unsafeGetStorageImpl());
      if (pair.cpu.storage().data() != lent.data ||
          pair.cpu.storage().nbytes() != lent.device.nbytes()) {
        auto* target = lent.device.unsafeGetStorageImpl();
        c10::Storage fresh = copy_of(pair.cpu.storage());
        const size_t bytes = fresh.nbytes();
        target->set_data_ptr_noswap(as_device_memory(std::move(fresh)));
        target->set_nbytes(bytes);
        lent.data = pair.cpu.storage().data();
      }
      if (pair.cpu.sizes() != pair.device.sizes() || pair.cpu.strides() != pair.device.strides() ||
          pair.cpu.storage_offset() != pair.device.storage_offset()) {
        copy_geometry(pair.cpu, pair.device);
      }
    }
  }

 private:
  struct Pair {
    at::Tensor device;
    at::Tensor cpu;
  };
  struct Lent {
    c10::Storage device;
    c10::Storage cpu;
    const void* data;
    bool normal = false;  // some tensor over it is not an inference tensor
  };
  struct Made {
    explicit Made(c10::Storage storage) : cpu(std::move(storage)) {}
    c10::Storage to_device() {
      if (!device) {
        const size_t bytes = cpu.nbytes();
        device = c10::Storage(c10::make_intrusive<c10::StorageImpl>(
            c10::StorageImpl::use_byte_size_t(), bytes, as_device_memory(cpu),
            c10::GetAllocator(kType), /*resizable=*/true));
      }
      return device;
    }
    c10::Storage cpu;
    c10::Storage device;
  };

  static void copy_geometry(const at::Tensor& from, const at::Tensor& to) {
    auto* impl = to.unsafeGetTensorImpl();
    impl->set_storage_offset(from.storage_offset());
    impl->set_sizes_and_strides(from.sizes(), from.strides());
    impl->_set_conj(from.is_conj());
    impl->_set_neg(from.is_neg());
  }

  template <typename Convert>
  static void copy_sparse(const at::Tensor& from, const at::Tensor& to, const Convert& convert) {
    auto* source = at::sparse::get_sparse_impl(from);
    auto* target = at::sparse::get_sparse_impl(to);
    target->raw_resize_(source->sparse_dim(), source->dense_dim(), from.sizes());
    target->set_indices_and_values_unsafe(convert(source->indices()), convert(source->values()));
    target->set_coalesced(source->coalesced());
  }

  void write_back_sparse(const at::Tensor& cpu, const at::Tensor& device) {
    auto* after = at::sparse::get_sparse_impl(cpu);
    auto* before = at::sparse::get_sparse_impl(device);
    const auto back = [this](const at::Tensor& part) { return as_device(part); };
    if (!back(after->indices()).is_same(before->indices()) ||
        !back(after->values()).is_same(before->values()) || cpu.sizes() != device.sizes() ||
        after->coalesced() != before->coalesced()) {
      copy_sparse(cpu, device, back);
    }
  }

  static c10::Storage copy_of(const c10::Storage& storage) {
    c10::Storage fresh(
        c10::Storage::use_byte_size_t(), storage.nbytes(), c10::GetCPUAllocator(), true);
    if (storage.nbytes() > 0) {
      std::memcpy(fresh.mutable_data(), storage.data(), storage.nbytes());
    }
    return fresh;
  }

  c10::Storage storage_for(const c10::Storage& device) {
    auto* key = device.unsafeGetStorageImpl();
    if (auto found = by_storage_.find(key); found != by_storage_.end()) {
      return found->second;
    }
    void* data = const_cast<void*>(device.data());
    // The CPU storage keeps the device's alive; it may be resized, which moves it elsewhere.
    c10::DataPtr pointer(
        data, new c10::Storage(device),
        [](void* held) { delete static_cast<c10::Storage*>(held); }, c10::Device(c10::kCPU));
    c10::Storage cpu(c10::make_intrusive<c10::StorageImpl>(
        c10::StorageImpl::use_byte_size_t(), device.nbytes(), std::move(pointer),
        c10::GetCPUAllocator(), /*resizable=*/true));
    by_storage_.emplace(key, cpu);
    lent_.emplace(cpu.unsafeGetStorageImpl(), Lent{device, cpu, data});
    return cpu;
  }

  std::unordered_map<c10::TensorImpl*, Pair> by_tensor_;
  std::unordered_map<c10::TensorImpl*, at::Tensor> by_cpu_;
  std::unordered_map<c10::StorageImpl*, c10::Storage> by_storage_;
  std::unordered_map<c10::StorageImpl*, Lent> lent_;
  std::unordered_map<c10::StorageImpl*, Made> made_;
};

template <typename Convert>
IValue converted(const IValue& value, const Convert& convert) {
  if (value.isTensor()) {
    return convert(value.toTensor());
  }
  if (value.isTensorList()) {
    c10::List<at::Tensor> list;
    for (const at::Tensor& tensor : value.toTensorVector()) {
      list.push_back(convert(tensor));
    }
    return list;
  }
  if (is_optional_tensor_list(value)) {
    c10::List<std::optional<at::Tensor>> list;
    for (const IValue& given : value.toListRef()) {
      list.push_back(
          given.isTensor() ? std::optional<at::Tensor>(convert(given.toTensor())) : std::nullopt);
    }
    return list;
  }
  return value;
}

// --- calling the CPU's kernel -----------------------------------------------------------------

// Operators that read a result on the host, for which the host waits.
bool waits_for_device(const std::string& name) {
  static const auto* names = new std::set<std::string>{
      "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal",
      "aten::_unique", "aten::_unique2", "aten::unique_consecutive", "aten::unique_dim",
      "aten::bincount", "aten::repeat_interleave", "aten::is_nonzero"};
  return names->count(name) > 0;
}

// Indexing by a mask has to count its true elements first, on the host.
bool has_mask(const IValue& indices) {
  if (!is_optional_tensor_list(indices)) {
    return false;
  }
  for (const IValue& given : indices.toListRef()) {
    if (!given.isTensor() || !on_device(given.toTensor())) {
      continue;
    }
    const auto dtype = given.toTensor().scalar_type();
    if (dtype == at::kBool || dtype == at::kByte) {
      return true;
    }
  }
  return false;
}

// A kernel of another operator does the work: the name, and a change to its arguments.
struct Stand_in {
  const char* name;
  void (*adapt)(Stack&, size_t first);
};

void add_bias_sizes(Stack& stack, size_t first) {
  const at::Tensor weight = stack[first + 2].toTensor();
  const bool transposed = stack[first + 6].toBool();
  const int64_t groups = stack[first + 8].toInt();
  const int64_t channels = transposed ? weight.size(1) * groups : weight.size(0);
  stack.insert(
      stack.begin() + static_cast<int64_t>(first) + 3, IValue(c10::List<int64_t>({channels})));
}

void add_no_gqa(Stack& stack, size_t) {
  stack.emplace_back(false);
}

const std::map<std::string, Stand_in>& stand_ins() {
  static const auto* table = new std::map<std::string, Stand_in>{
      {"aten::convolution_overrideable", {"aten::convolution", nullptr}},
      {"aten::convolution_backward_overrideable", {"aten::convolution_backward", add_bias_sizes}},
      {"aten::_scaled_dot_product_attention_math_for_mps",
       {"aten::_scaled_dot_product_attention_math", add_no_gqa}},
  };
  return *table;
}

// Operators that leave the numbers alone: views, and those below.
bool only_describes(const c10::FunctionSchema& schema) {
  static const auto* names = new std::set<std::string>{
      "aten::resize_", "aten::resize_as_", "aten::set_", "aten::zero_", "aten::record_stream"};
  for (const auto& result : schema.returns()) {
    if (result.alias_info() != nullptr && !result.alias_info()->isWrite()) {
      return true;
    }
  }
  return names->count(schema.name()) > 0;
}

void run_on_host(const c10::OperatorHandle& op, Stack* stack, c10::DispatchKey key) {
  const auto& schema = op.schema();
  const std::string& name = schema.name();
  const size_t first = stack->size() - schema.arguments().size();
  counters().operators++;
  if (waits_for_device(name) ||
      (schema.arguments().size() > 1 && has_mask((*stack)[first + 1]))) {
    counters().synchronizations++;
  }
  const bool computes = !only_describes(schema);
  const Call call(op, *stack, first);
  if (key == c10::DispatchKey::CPU) {
    check_operands(call);
    check_refusals(call);
  } else {
    check_sparse_operands(call);
  }
  Borrowed borrowed;
  bool draws_from_default = name == "aten::native_dropout" || name == "aten::rrelu_with_noise";
  for (size_t i = 0; i < schema.arguments().size(); ++i) {
    IValue& value = (*stack)[first + i];
    if (value.isDevice()) {
      value = c10::Device(c10::kCPU);
    } else if (schema.arguments()[i].name() == "generator") {
      value = cpu_generator(value.toOptional<at::Generator>());
    } else {
      value = converted(value, [&](const at::Tensor& tensor) {
        if (computes && on_device(tensor)) {
          check_operand(tensor.scalar_type());
        }
        return borrowed.as_cpu(tensor);
      });
    }
  }
  const c10::OperatorHandle* called = &op;
  std::optional<c10::OperatorHandle> other;
  if (auto found = stand_ins().find(name); found != stand_ins().end()) {
    if (found->second.adapt != nullptr) {
      found->second.adapt(*stack, first);
    }
    other = c10::Dispatcher::singleton().findSchemaOrThrow(found->second.name, "");
    called = &*other;
  }
  {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    if (draws_from_default) {
      // These kernels ask the CPU's default generator; let it draw the device's numbers.
      auto cpu = at::detail::getDefaultCPUGenerator();
      auto mine = cpu_generator(std::nullopt);
      const auto kept = cpu.get_state();
      cpu.set_state(mine.get_state());
      called->redispatchBoxed(c10::DispatchKeySet(key), stack);
      mine.set_state(cpu.get_state());
      cpu.set_state(kept);
    } else {
      called->redispatchBoxed(c10::DispatchKeySet(key), stack);
    }
  }
  borrowed.write_back();
  for (size_t i = first; i < stack->size(); ++i) {
    (*stack)[i] = converted(
        (*stack)[i], [&](const at::Tensor& tensor) {
          if (computes && tensor.defined() && tensor.scalar_type() != at::kDouble) {
            check_operand(tensor.scalar_type());
          }
          return borrowed.as_device(tensor);
        });
  }
}

void kernel(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) {
  run_on_host(op, stack, c10::DispatchKey::CPU);
}

void count_copy(const at::Tensor& from, const at::Tensor& to, size_t bytes) {
  auto& c = counters();
  if (!on_device(from)) {
    c.copies_to_device++;
    c.bytes_to_device += static_cast<int64_t>(bytes);
  } else if (!on_device(to)) {
    c.copies_from_device++;
    c.bytes_from_device += static_cast<int64_t>(bytes);
    c.synchronizations++;  // the host reads what the device wrote
  } else {
    c.copies_on_device++;
  }
}

// COO tensors; the CPU's kernels work on indices and values that lie in the device's memory.
void sparse_kernel(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) {
  if (op.schema().name() == "aten::copy_") {
    const size_t first = stack->size() - op.schema().arguments().size();
    const at::Tensor to = (*stack)[first].toTensor();
    const at::Tensor from = (*stack)[first + 1].toTensor();
    if (from.is_sparse()) {
      count_copy(from, to, from._indices().nbytes() + from._values().nbytes());
    }
  }
  run_on_host(op, stack, c10::DispatchKey::SparseCPU);
}

// --- kernels that are the device's own --------------------------------------------------------

at::Tensor empty_memory_format(
    c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype,
    std::optional<c10::Layout> layout, std::optional<c10::Device> device,
    std::optional<bool> pin_memory, std::optional<c10::MemoryFormat> format) {
  const auto scalar_type = c10::dtype_or_default(dtype);
  check_dtype(scalar_type);
  check_index(device.value_or(kDevice));
  TORCH_CHECK(!pin_memory.value_or(false), "Only dense CPU tensors can be pinned");
  check_dimensions(static_cast<int64_t>(size.size()));
  return at::detail::empty_generic(
      C10_AS_INTARRAYREF_SLOW(size), c10::GetAllocator(kType),
      c10::DispatchKeySet(kKey), scalar_type, format);
}

at::Tensor empty_strided(
    c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<at::ScalarType> dtype,
    std::optional<c10::Layout> layout, std::optional<c10::Device> device,
    std::optional<bool> pin_memory) {
  const auto scalar_type = c10::dtype_or_default(dtype);
  check_dtype(scalar_type);
  check_index(device.value_or(kDevice));
  TORCH_CHECK(!pin_memory.value_or(false), "Only dense CPU tensors can be pinned");
  return at::detail::empty_strided_generic(
      C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride),
      c10::GetAllocator(kType), c10::DispatchKeySet(kKey),
      scalar_type);
}

// Zeros without memory, which autograd makes; every operator but a few sees real zeros for them.
at::Tensor efficient_zeros(
    c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype,
    std::optional<c10::Layout> layout, std::optional<c10::Device> device,
    std::optional<bool> pin_memory) {
  const auto scalar_type = c10::dtype_or_default(dtype);
  check_dtype(scalar_type);
  at::native::ZeroTensorAllocator no_memory(kDevice);
  return at::detail::empty_generic(
      C10_AS_INTARRAYREF_SLOW(size), &no_memory,
      c10::DispatchKeySet(kKey) | c10::DispatchKeySet(c10::DispatchKey::ZeroTensor),
      scalar_type, std::nullopt);
}

void copy_bytes(const at::Tensor& from, const at::Tensor& to) {
  if (on_device(from) && from.scalar_type() != to.scalar_type()) {
    check_conversion(from.scalar_type(), to.scalar_type());
  }
  count_copy(from, to, from.nbytes());
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  Borrowed borrowed;
  borrowed.as_cpu(to).copy_(borrowed.as_cpu(from));
}

at::Tensor& copy_(at::Tensor& self, const at::Tensor& source, bool) {
  copy_bytes(source, self);
  return self;
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& target, bool) {
  copy_bytes(self, target);
  return target;
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& target) {
  target.resize_(self.sizes());
  copy_bytes(self, target);
  return target;
}

at::Tensor& set_storage(
    at::Tensor& self, c10::Storage source, c10::SymInt offset, c10::SymIntArrayRef size,
    c10::SymIntArrayRef stride) {
  auto sizes = C10_AS_INTARRAYREF_SLOW(size);
  auto* impl = self.unsafeGetTensorImpl();
  TORCH_CHECK(
      source.device() == self.device(), "Attempted to set the storage of a tensor on device \"",
      self.device(), "\" to a storage on different device \"", source.device(),
      "\".  This is no longer allowed; the devices must match.");
  impl->set_storage_keep_dtype(std::move(source));
  impl->set_storage_offset(offset.guard_int(__FILE__, __LINE__));
  if (stride.empty() && !sizes.empty()) {
    impl->set_sizes_contiguous(sizes);
  } else {
    impl->set_sizes_and_strides(sizes, C10_AS_INTARRAYREF_SLOW(stride));
  }
  return self;
}

at::Tensor& set_whole_storage(at::Tensor& self, c10::Storage source) {
  const auto count = static_cast<int64_t>(source.nbytes() / self.dtype().itemsize());
  return set_storage(self, std::move(source), 0, {count}, {});
}

at::Tensor& set_tensor(at::Tensor& self, const at::Tensor& source) {
  if (self.unsafeGetTensorImpl() == source.unsafeGetTensorImpl()) {
    return self;
  }
  return set_storage(
      self, source.storage(), source.sym_storage_offset(), source.sym_sizes(),
      source.sym_strides());
}

at::Tensor& set_nothing(at::Tensor& self) {
  c10::Storage nothing(
      c10::Storage::use_byte_size_t(), 0, c10::GetAllocator(kType), true);
  return set_storage(self, std::move(nothing), 0, {0}, {});
}

// The composite chooses by a table of device types that a Linux build has no MPS entry in.
at::Tensor attention(
    const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
    const std::optional<at::Tensor>& mask, double dropout, bool is_causal,
    std::optional<double> scale, bool enable_gqa) {
  TORCH_CHECK(
      query.device() == key.device() && query.device() == value.device(),
      "Expected query, key, and value to have the same device type, but got query.device: ",
      query.device(), " key.device: ", key.device(), " and value.device: ", value.device(),
      " instead.");
  std::optional<at::Tensor> added = mask;
  if (mask.has_value() && mask->defined() && mask->scalar_type() == at::kBool) {
    added = at::zeros_like(*mask, query.options())
                .masked_fill_(mask->logical_not(), -std::numeric_limits<double>::infinity());
  }
  return std::get<0>(at::_scaled_dot_product_attention_math(
      query, key, value, added, dropout, is_causal, std::nullopt, scale, enable_gqa));
}

#ifndef SIMULATE_CUDA
// Metal has a kernel for all of `linear`, so that its backward pass is one operator, too.
std::tuple<at::Tensor, at::Tensor, at::Tensor> linear_backward(
    const at::Tensor& input, const at::Tensor& grad, const at::Tensor& weight,
    std::array<bool, 3> wanted) {
  const bool vector = weight.dim() == 1;
  const at::Tensor matrix = vector ? weight.unsqueeze(0) : weight;
  const int64_t rows = matrix.size(0), columns = matrix.size(1);
  const int64_t count = c10::multiply_integers(input.sizes().slice(0, input.dim() - 1));
  const at::Tensor flat = grad.reshape({count, rows});
  at::Tensor to_input, to_weight, to_bias;
  if (wanted[0]) {
    to_input = flat.mm(matrix.conj()).reshape(input.sizes());
  }
  if (wanted[1]) {
    to_weight = flat.t().mm(input.reshape({count, columns}).conj()).reshape(weight.sizes());
  }
  if (wanted[2]) {
    to_bias = vector ? flat.sum() : flat.sum(0);
  }
  return {to_input, to_weight, to_bias};
}

// A composite that asks Metal for all of an LSTM at once.
void lstm(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) {
  const size_t count = op.schema().arguments().size();
  check_refusals(Call(op, *stack, stack->size() - count));
  const auto given = [&](size_t i) -> IValue& { return torch::jit::peek(*stack, i, count); };
  auto results = at::native::lstm(
      given(0).toTensor(), given(1).toTensorVector(), given(2).toTensorVector(), given(3).toBool(),
      given(4).toInt(), given(5).toDouble(), given(6).toBool(), given(7).toBool(),
      given(8).toBool());
  torch::jit::drop(*stack, count);
  torch::jit::push(
      *stack, std::get<0>(results), std::get<1>(results), std::get<2>(results));
}

TORCH_LIBRARY_IMPL(aten, AutogradMPS, m) {
  m.impl("lstm.input", torch::CppFunction::makeFromBoxedFunction<&lstm>());
}

TORCH_LIBRARY_IMPL(aten, MPS, m) {
  m.impl("lstm.input", torch::CppFunction::makeFromBoxedFunction<&lstm>());
  m.impl("linear_backward", linear_backward);
}
#endif

TORCH_LIBRARY_IMPL(aten, SIMULATED_AUTOGRAD, m) {
  m.impl("scaled_dot_product_attention", attention);
}

TORCH_LIBRARY_IMPL(aten, SIMULATED, m) {
  m.impl("scaled_dot_product_attention", attention);
  m.impl("empty.memory_format", empty_memory_format);
  m.impl("empty_strided", empty_strided);
  m.impl("_efficientzerotensor", efficient_zeros);
  m.impl("copy_", copy_);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("set_.source_Storage", set_whole_storage);
  m.impl("set_.source_Storage_storage_offset", set_storage);
  m.impl("set_.source_Tensor", set_tensor);
  m.impl("set_", set_nothing);
}

// --- registration, operator by operator -------------------------------------------------------

// Leaked on purpose: undoing registrations after the dispatcher is gone crashes at exit.
auto& registrations() {
  static auto* handles = new std::unordered_map<c10::OperatorName, c10::RegistrationHandleRAII>();
  return *handles;
}

void add(const c10::OperatorName& name) {
  registrations().insert_or_assign(
      name,
      c10::Dispatcher::singleton().registerImpl(
          name, kKey, c10::KernelFunction::makeFromBoxedFunction<&kernel>(),
          std::nullopt, nullptr, "simulated kernel"));
}

// Composites that pick a kernel by the device's type, of which a CPU build has none for others; and
// what is no composite to Metal.
bool looks_up_kernel(const std::string& name) {
  return name == "aten::conj_physical_" || (!kIsCuda && name == "aten::linear") ||
      (kIsCuda && (name == "aten::convolution" || name == "aten::convolution_backward"));
}

// What makes tensors of layouts that the device lacks.
bool makes_compressed(const std::string& name) {
  return name.rfind("aten::_to_sparse_csr", 0) == 0 || name.rfind("aten::_to_sparse_csc", 0) == 0 ||
      name.rfind("aten::_to_sparse_bsr", 0) == 0 || name.rfind("aten::_to_sparse_bsc", 0) == 0;
}

void add_sparse(const c10::OperatorName& name) {
  static auto* handles = new std::vector<c10::RegistrationHandleRAII>();  // leaked, as above
  handles->push_back(c10::Dispatcher::singleton().registerImpl(
      name, kSparseKey,
      c10::KernelFunction::makeFromBoxedFunction<&sparse_kernel>(), std::nullopt, nullptr,
      "simulated sparse kernel"));
}

const bool registered = [] {
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const auto& name : dispatcher.getAllOpNames()) {
    auto op = dispatcher.findSchema(name);
    if (!op.has_value() || name.name.rfind("aten::", 0) != 0 ||
        (!kIsCuda && makes_compressed(name.name))) {
      continue;
    }
    if (op->hasKernelForDispatchKey(c10::DispatchKey::SparseCPU) &&
        !op->hasKernelForDispatchKey(kSparseKey)) {
      add_sparse(name);
    }
    if (op->hasKernelForDispatchKey(kKey)) {
      continue;
    }
    if (op->hasKernelForDispatchKey(c10::DispatchKey::CPU) || stand_ins().count(name.name) ||
        looks_up_kernel(name.name)) {
      add(name);
    }
  }
  return true;
}();

} // namespace
} // namespace simulated

extern "C" {

// Takes an operator's kernel away (or gives it back); returns how many overloads that were.
int simulated_set_missing(const char* wanted, const char* overload, int is_missing) {
  using namespace simulated;
  int changed = 0;
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const auto& name : dispatcher.getAllOpNames()) {
    if (name.name != wanted || (overload[0] != '*' && name.overload_name != overload)) {
      continue;
    }
    if (is_missing != 0) {
      changed += static_cast<int>(registrations().erase(name));
    } else if (registrations().count(name) == 0) {
      add(name);
      ++changed;
    }
  }
  return changed;
}
}
