// What is Metal's: the hooks through which PyTorch finds the device, and the texts of its errors.

#include "device.h"

#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/detail/MPSHooksInterface.h>

#include <new>

namespace simulated {

void check_dtype(at::ScalarType dtype) {
  TORCH_CHECK_TYPE(
      dtype != at::kDouble,
      "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. "
      "Please use float32 instead.");
  TORCH_CHECK_TYPE(
      !c10::isQIntType(dtype),
      "Trying to convert ", dtype,
      " to the MPS backend but it does not have support for that dtype.");
}

namespace {

// Metal makes and moves tensors of any other dtype, and finds out in its kernels.
bool computes_with(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
    case at::kHalf:
    case at::kBFloat16:
    case at::kLong:
    case at::kInt:
    case at::kShort:
    case at::kChar:
    case at::kByte:
    case at::kBool:
    case at::kComplexFloat:
    case at::kComplexHalf:
    case at::kUInt16:
    case at::kUInt32:
    case at::kUInt64:
      return true;
    default:
      return false;
  }
}

} // namespace

void check_operand(at::ScalarType dtype) {
  TORCH_CHECK(computes_with(dtype), "Undefined type ", dtype);
}

void check_conversion(at::ScalarType from, at::ScalarType to) {
  TORCH_CHECK_TYPE(
      to != at::kDouble,
      "Cannot convert a float64 Tensor to MPS as the MPS framework doesn't support float64. Please "
      "use float32 instead.");
  TORCH_CHECK_TYPE(
      computes_with(from) && computes_with(to),
      "Trying to convert ", computes_with(from) ? to : from,
      " to the MPS backend but it does not have support for that dtype.");
}

void check_dimensions(int64_t dimensions) {
  TORCH_CHECK(
      dimensions <= 16, "MPS supports tensors with dimensions <= 16, but got ", dimensions, ".");
}

void check_index(c10::Device) {}  // every index is the one device

void check_size(size_t bytes) {
  const auto size = static_cast<int64_t>(bytes);
  TORCH_CHECK(size >= 0 && size < memory().host, "Invalid buffer size: ", readable(size));
}

int64_t block_size(int64_t bytes) {
  return bytes;
}

int64_t held_for(int64_t allocated) {
  return allocated;
}

void raise_out_of_memory(int64_t wanted, int64_t allocated, int64_t limit) {
  TORCH_CHECK(
      false,
      "MPS backend out of memory (MPS allocated: ", readable(allocated),
      ", other allocations: ", readable(0), ", max allowed: ", readable(limit),
      "). Tried to allocate ", readable(wanted),
      " on private pool. Use PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable upper limit for "
      "memory allocations (may cause system failure).");
}

void raise_in_forked_child() {
  TORCH_CHECK(
      false,
      "Cannot use the simulated MPS device in a forked subprocess: real MPS hangs there. To use "
      "the device with multiprocessing, you must use the 'spawn' start method");
}

void check_elapsed(bool timed, bool recorded, bool in_order, uint32_t start_id, uint32_t end_id) {
  TORCH_CHECK(timed && recorded, "Events were not created with argument 'enable_timing=True'");
  TORCH_CHECK(
      in_order, "End event ", end_id, " was not recorded after start event ", start_id);
}

namespace {

struct MPSHooks final : at::MPSHooksInterface {
  explicit MPSHooks(at::MPSHooksArgs = {}) {}

  bool isBuilt() const override {
    return true;
  }
  bool isAvailable() const override {
    return true;
  }
  void init() const override {}
  bool hasMPS() const override {
    return true;
  }
  bool isOnMacOSorNewer(unsigned major, unsigned minor) const override {
    return macos() >= static_cast<int>(100 * major + minor);
  }
  bool hasPrimaryContext(c10::DeviceIndex) const override {
    return true;
  }
  c10::DeviceIndex deviceCount() const override {
    return 1;
  }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex getCurrentDevice() const override {
    return 0;
  }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override {
    return 0;
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override {
    return 0;
  }
  c10::Device getDeviceFromPtr(void*) const override {
    return kDevice;
  }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return default_generator();
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override {
    return make_generator();
  }
  c10::Allocator* getMPSDeviceAllocator() const override {
    return &allocator();
  }
  void deviceSynchronize() const override {
    counters().synchronizations++;
  }
  void commitStream() const override {}
  void emptyCache() const override {
    empty_cache();
  }
  size_t getCurrentAllocatedMemory() const override {
    return memory().allocated;
  }
  size_t getDriverAllocatedMemory() const override {
    return memory().reserved;
  }
  size_t getRecommendedMaxMemory() const override {
    return memory().device_size();
  }
  void setMemoryFraction(double ratio) const override {
    memory().fraction = ratio;
  }
  c10::Allocator* getPinnedMemoryAllocator() const override {
    TORCH_CHECK(false, "Cannot pin memory: the simulated MPS device has no pinned memory");
  }
  void profilerStartTrace(const std::string&, bool) const override {}
  void profilerStopTrace() const override {}

  uint32_t acquireEvent(bool enable_timing) const override {
    return acquire_event(enable_timing);
  }
  void releaseEvent(uint32_t event) const override {
    release_event(event);
  }
  void recordEvent(uint32_t event) const override {
    record_event(event);
  }
  void waitForEvent(uint32_t) const override {}
  void synchronizeEvent(uint32_t) const override {
    counters().synchronizations++;
  }
  bool queryEvent(uint32_t event) const override {
    return query_event(event);
  }
  double elapsedTimeOfEvents(uint32_t start, uint32_t end) const override {
    return elapsed_milliseconds(start, end);
  }
};

// torch has one accelerator, and a build for CUDA takes CUDA for it, GPU or not. Its hooks have no
// members; without a GPU they are made those of a build that has no CUDA, as it is on a Mac.
const bool cuda_is_left_out = [] {
  auto& hooks = const_cast<at::CUDAHooksInterface&>(at::detail::getCUDAHooks());
  if (hooks.isBuilt() && !hooks.hasCUDA()) {
    new (&hooks) at::CUDAHooksInterface();
  }
  return true;
}();

} // namespace
} // namespace simulated

namespace at {
// The registry lives in this namespace and looks the class up by this name.
using simulated::MPSHooks;
REGISTER_MPS_HOOKS(MPSHooks);
} // namespace at
