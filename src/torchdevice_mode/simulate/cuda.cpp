// What is CUDA's: the hooks through which PyTorch finds the device, pinned memory, the texts of its
// errors, and operators that only CUDA has.

#include "device.h"

#include <ATen/core/CachingHostAllocator.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <torch/library.h>

#include <map>
#include <mutex>
#include <new>

namespace simulated {

void check_dtype(at::ScalarType dtype) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      !c10::isQIntType(dtype), "The simulated CUDA device has no ", dtype, " tensors");
}

void check_operand(at::ScalarType) {}

void check_conversion(at::ScalarType, at::ScalarType) {}

void check_dimensions(int64_t) {}

void check_index(c10::Device device) {
  if (device.index() > 0) {
    throw c10::AcceleratorError(
        {__func__, __FILE__, static_cast<uint32_t>(__LINE__)}, 101,
        "CUDA error: invalid device ordinal\n"
        "GPU device may be out of range, do you have enough GPUs?\n"
        "CUDA kernel errors might be asynchronously reported at some other API call, so the "
        "stacktrace below might be incorrect.\n"
        "For debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
        "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n");
  }
}

void check_size(size_t bytes) {
  const auto size = static_cast<int64_t>(bytes);
  TORCH_CHECK_WITH(
      OutOfMemoryError, size >= 0 && size < (int64_t{1} << 60),
      "CUDA out of memory. Tried to allocate more than 1EB memory.");
  if (size >= memory().host) {
    raise_out_of_memory(size, memory().allocated, memory().device_size());
  }
}

// The units in which CUDA's caching allocator hands memory out, and takes it from the driver.
int64_t block_size(int64_t bytes) {
  return (bytes + 511) / 512 * 512;
}

int64_t held_for(int64_t allocated) {
  constexpr int64_t segment = int64_t{2} << 20;
  return (allocated + segment - 1) / segment * segment;
}

void raise_out_of_memory(int64_t wanted, int64_t allocated, int64_t limit) {
  const int64_t total = memory().device_size();
  const int64_t held = std::min(std::max(memory().reserved.load(), allocated), total);
  TORCH_CHECK_WITH(
      OutOfMemoryError, false,
      "CUDA out of memory. Tried to allocate ", readable(wanted), ". GPU 0 has a total capacity of ",
      readable(total), " of which ", readable(total - held),
      " is free. Including non-PyTorch memory, this process has ", readable(held),
      " memory in use. ", limit < total ? readable(limit) + " allowed; " : "",
      "Of the allocated memory ", readable(allocated), " is allocated by PyTorch, and ",
      readable(held - allocated),
      " is reserved by PyTorch but unallocated. If reserved but unallocated memory is large try "
      "setting PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See "
      "documentation for Memory Management  (https://docs.pytorch.org/docs/stable/notes/"
      "cuda.html#optimizing-memory-usage-with-pytorch-cuda-alloc-conf)");
}

void raise_in_forked_child() {
  TORCH_CHECK(
      false,
      "Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must "
      "use the 'spawn' start method");
}

void check_elapsed(bool timed, bool recorded, bool, uint32_t, uint32_t) {
  TORCH_CHECK_VALUE(timed, "Both events must be created with argument 'enable_timing=True'.");
  TORCH_CHECK_VALUE(recorded, "Both events must be recorded before calculating elapsed time.");
}

namespace {

// --- pinned memory ----------------------------------------------------------------------------

// Ordinary host memory whose bounds are remembered, so that it can be told from other memory.
struct PinnedAllocator final : at::HostAllocator {
  struct Block {
    PinnedAllocator* owner;
    c10::DataPtr memory;
  };

  c10::DataPtr allocate(size_t bytes) override {
    auto* block = new Block{this, c10::GetCPUAllocator()->allocate(bytes)};
    auto* start = static_cast<char*>(block->memory.get());
    {
      std::lock_guard<std::mutex> guard(lock_);
      ends_[start] = start + bytes;
    }
    return {start, block, &release, c10::Device(c10::kCPU)};
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
  bool record_event(void*, void*, c10::Stream) override {
    return true;  // the copy is done already
  }
  void empty_cache() override {}
  at::HostStats get_stats() override {
    return {};
  }
  void reset_accumulated_stats() override {}
  void reset_peak_stats() override {}
  bool owns(const void* data) const {
    std::lock_guard<std::mutex> guard(lock_);
    auto after = ends_.upper_bound(static_cast<const char*>(data));
    return after != ends_.begin() && data < (--after)->second;
  }

 private:
  static void release(void* context) {
    auto* block = static_cast<Block*>(context);
    {
      std::lock_guard<std::mutex> guard(block->owner->lock_);
      block->owner->ends_.erase(static_cast<const char*>(block->memory.get()));
    }
    delete block;
  }

  mutable std::mutex lock_;
  std::map<const char*, const char*> ends_;
};

PinnedAllocator& pinned() {
  static auto* instance = new PinnedAllocator();  // outlives the tensors of all modules
  return *instance;
}

const bool pinned_registered = [] {
  at::setHostAllocator(kType, &pinned());
  return true;
}();

// --- hooks ------------------------------------------------------------------------------------

std::atomic<bool> hand_out_default{false};

struct CUDAHooks final : at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs = {}) {}

  void init() const override {}
  bool isBuilt() const override {
    return true;
  }
  bool isAvailable() const override {
    return true;
  }
  bool hasCUDA() const override {
    return true;
  }
  bool hasCUDART() const override {
    return true;
  }
  bool hasPrimaryContext(c10::DeviceIndex index) const override {
    return index == 0;
  }
  int getNumGPUs() const override {
    return 1;
  }
  c10::DeviceIndex deviceCount() const override {
    return 1;
  }
  c10::DeviceIndex current_device() const override {
    return 0;
  }
  c10::DeviceIndex getCurrentDevice() const override {
    return 0;
  }
  void setCurrentDevice(c10::DeviceIndex index) const override {
    check_index({kType, index});
  }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override {
    check_index({kType, index});
    return 0;
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override {
    return exchangeDevice(index);
  }
  c10::Device getDeviceFromPtr(void*) const override {
    return kDevice;
  }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex index) const override {
    check_index({kType, index});
    return default_generator();
  }
  at::Generator getNewGenerator(c10::DeviceIndex index) const override {
    check_index({kType, index});
    return hand_out_default.exchange(false) ? default_generator() : make_generator();
  }
  c10::Allocator* getCUDADeviceAllocator() const override {
    return &allocator();
  }
  c10::Allocator* getPinnedMemoryAllocator() const override {
    return &pinned();
  }
  bool isPinnedPtr(const void* data) const override {
    return pinned().owns(data);
  }
  std::string showConfig() const override {
    return "  - Simulated CUDA\n";
  }
  void deviceSynchronize(c10::DeviceIndex) const override {
    counters().synchronizations++;
  }
};

// PyTorch asks its registry for the hooks while it is imported, finds none, and keeps an object
// of the interface instead. That object is nothing but a class, which is changed here.
const bool hooked = [] {
  static_assert(sizeof(CUDAHooks) == sizeof(at::CUDAHooksInterface));
  const at::CUDAHooksInterface& found = at::detail::getCUDAHooks();
  if (!found.hasCUDA()) {
    new (const_cast<at::CUDAHooksInterface*>(&found)) CUDAHooks();
  }
  return true;
}();

// --- operators that PyTorch uses on CUDA only -------------------------------------------------

using Optional = std::optional<at::Tensor>;

at::Tensor gates_of(
    const at::Tensor& input, const at::Tensor& hidden, const Optional& input_bias,
    const Optional& hidden_bias) {
  at::Tensor gates = input + hidden;
  if (input_bias.has_value() && input_bias->defined()) {
    gates = gates + *input_bias + *hidden_bias;
  }
  return gates;
}

at::Tensor or_zeros(const Optional& tensor, const at::Tensor& like) {
  return tensor.has_value() && tensor->defined() ? *tensor : at::zeros_like(like);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> lstm_cell(
    const at::Tensor& input, const at::Tensor& hidden, const at::Tensor& cx,
    const Optional& input_bias, const Optional& hidden_bias) {
  auto gates = gates_of(input, hidden, input_bias, hidden_bias).chunk(4, 1);
  const at::Tensor in = gates[0].sigmoid(), forget = gates[1].sigmoid(), cell = gates[2].tanh(),
                   out = gates[3].sigmoid();
  at::Tensor cy = forget * cx + in * cell;
  return {out * cy.tanh(), cy, at::cat({in, forget, cell, out}, 1)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> lstm_cell_backward(
    const Optional& grad_hy, const Optional& grad_cy, const at::Tensor& cx, const at::Tensor& cy,
    const at::Tensor& workspace, bool has_bias) {
  if (!grad_hy.has_value() && !grad_cy.has_value()) {
    return {};
  }
  auto saved = workspace.chunk(4, 1);
  const at::Tensor &in = saved[0], &forget = saved[1], &cell = saved[2], &out = saved[3];
  const at::Tensor dh = or_zeros(grad_hy, cx), tanh_cy = cy.tanh();
  const at::Tensor dc = or_zeros(grad_cy, cx) + dh * out * (1 - tanh_cy * tanh_cy);
  at::Tensor grad = at::cat(
      {dc * cell * in * (1 - in), dc * cx * forget * (1 - forget), dc * in * (1 - cell * cell),
       dh * tanh_cy * out * (1 - out)},
      1);
  return {grad, dc * forget, has_bias ? grad.sum(0) : at::Tensor()};
}

std::tuple<at::Tensor, at::Tensor> gru_cell(
    const at::Tensor& input, const at::Tensor& hidden, const at::Tensor& hx,
    const Optional& input_bias, const Optional& hidden_bias) {
  const bool biased = input_bias.has_value() && input_bias->defined();
  auto from_input = (biased ? input + *input_bias : input).chunk(3, 1);
  auto from_hidden = (biased ? hidden + *hidden_bias : hidden).chunk(3, 1);
  const at::Tensor reset = (from_input[0] + from_hidden[0]).sigmoid();
  const at::Tensor update = (from_input[1] + from_hidden[1]).sigmoid();
  const at::Tensor fresh = (from_input[2] + reset * from_hidden[2]).tanh();
  return {
      fresh + update * (hx - fresh), at::cat({reset, update, fresh, hx, from_hidden[2]}, 1)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> gru_cell_backward(
    const at::Tensor& grad, const at::Tensor& workspace, bool has_bias) {
  auto saved = workspace.chunk(5, 1);
  const at::Tensor &reset = saved[0], &update = saved[1], &fresh = saved[2], &hx = saved[3],
                   &hidden = saved[4];
  const at::Tensor d_fresh = grad * (1 - update) * (1 - fresh * fresh);
  const at::Tensor d_reset = d_fresh * hidden * reset * (1 - reset);
  const at::Tensor d_update = grad * (hx - fresh) * update * (1 - update);
  at::Tensor to_input = at::cat({d_reset, d_update, d_fresh}, 1);
  at::Tensor to_hidden = at::cat({d_reset, d_update, d_fresh * reset}, 1);
  return {
      to_input, to_hidden, grad * update, has_bias ? to_input.sum(0) : at::Tensor(),
      has_bias ? to_hidden.sum(0) : at::Tensor()};
}

void record_stream(at::Tensor&, c10::Stream) {}  // memory is free when its last tensor is

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("_thnn_fused_lstm_cell", lstm_cell);
  m.impl("_thnn_fused_lstm_cell_backward_impl", lstm_cell_backward);
  m.impl("_thnn_fused_gru_cell", gru_cell);
  m.impl("_thnn_fused_gru_cell_backward", gru_cell_backward);
  m.impl("record_stream", record_stream);
}

} // namespace
} // namespace simulated

// The generator made next is the default one: there is no other way to get it into Python.
extern "C" void simulated_hand_out_default_generator() {
  simulated::hand_out_default = true;
}

extern "C" void simulated_set_fraction(double fraction) {
  simulated::memory().fraction = fraction;
}

// Of two events that were recorded with timing.
extern "C" double simulated_elapsed_milliseconds(uint32_t start, uint32_t end) {
  return simulated::elapsed_milliseconds(start, end);
}
