// The device: allocator, hooks, guard and generator, registered for the real `mps` key.
//
// Its memory is host memory. PyTorch finds everything here through the registries that it keeps
// for its own Metal backend, which a Linux build leaves empty.

#include "device.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/detail/MPSHooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace simulated {

void check_dtype(at::ScalarType dtype) {
  TORCH_CHECK_TYPE(
      dtype != at::kDouble,
      "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. "
      "Please use float32 instead.");
  TORCH_CHECK_TYPE(
      dtype != at::kComplexDouble && !c10::isQIntType(dtype),
      "Trying to convert ", dtype,
      " to the MPS backend but it does not have support for that dtype.");
}

namespace {

// --- memory -----------------------------------------------------------------------------------

struct Allocator final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t bytes) override {
    check_size(bytes);
    c10::Storage storage(
        c10::Storage::use_byte_size_t(), bytes, c10::GetCPUAllocator(), /*resizable=*/false);
    return as_device_memory(std::move(storage));
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
  bool initialized() override {
    return true;
  }
  void emptyCache(c10::MempoolId_t) override {
    memory().reserved = memory().allocated.load();
  }
  void recordStream(const c10::DataPtr&, c10::Stream) override {}
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex) override {
    c10::CachingDeviceAllocator::DeviceStats stats;
    auto& m = memory();
    const auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    stats.allocated_bytes[all].current = m.allocated;
    stats.allocated_bytes[all].peak = m.peak_allocated;
    stats.active_bytes[all].current = m.allocated;
    stats.active_bytes[all].peak = m.peak_allocated;
    stats.reserved_bytes[all].current = m.reserved;
    stats.reserved_bytes[all].peak = m.peak_reserved;
    return stats;
  }
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex) override {
    memory().peak_allocated = memory().allocated.load();
    memory().peak_reserved = memory().reserved.load();
  }
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex) override {
    const int64_t total = memory().device_size();
    return {std::max<int64_t>(total - memory().allocated, 0), total};
  }
};

Allocator& allocator() {
  static Allocator* instance = new Allocator();
  return *instance;
}

// --- random numbers ---------------------------------------------------------------------------

// Draws what a CPU generator of the same seed draws, so that results can be compared.
struct GeneratorImpl final : c10::GeneratorImpl {
  explicit GeneratorImpl(at::Generator wrapped)
      : c10::GeneratorImpl(kDevice, c10::DispatchKeySet(c10::DispatchKey::MPS)),
        cpu(std::move(wrapped)) {}

  void set_current_seed(uint64_t seed) override {
    cpu.set_current_seed(seed);
  }
  void set_offset(uint64_t value) override {
    offset = value;
  }
  uint64_t get_offset() const override {
    return offset;
  }
  uint64_t current_seed() const override {
    return cpu.current_seed();
  }
  uint64_t seed() override {
    return cpu.seed();
  }
  void set_state(const c10::TensorImpl& state) override {
    at::get_generator_or_default<at::CPUGeneratorImpl>(cpu, cpu)->set_state(state);
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return at::get_generator_or_default<at::CPUGeneratorImpl>(cpu, cpu)->get_state();
  }
  GeneratorImpl* clone_impl() const override {
    return new GeneratorImpl(cpu.clone());
  }

  at::Generator cpu;
  uint64_t offset = 0;  // kept and given back; a CPU generator has none
};

at::Generator make_generator() {
  return at::make_generator<GeneratorImpl>(at::detail::createCPUGenerator());
}

const at::Generator& default_generator() {
  static auto* generator = new at::Generator(make_generator());
  return *generator;
}

// --- hooks ------------------------------------------------------------------------------------

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
  bool isOnMacOSorNewer(unsigned, unsigned) const override {
    return true;
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
    allocator().emptyCache({0, 0});
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

// --- guard ------------------------------------------------------------------------------------

// One device and one stream, on which work is done by the time a call returns.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override {
    return c10::DeviceType::MPS;
  }
  c10::Device exchangeDevice(c10::Device) const override {
    return kDevice;
  }
  c10::Device getDevice() const override {
    return kDevice;
  }
  void setDevice(c10::Device device) const override {
    TORCH_CHECK(device.is_mps(), "Expected a MPS device, but got ", device);
  }
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override {
    return c10::Stream(c10::Stream::DEFAULT, kDevice);
  }
  c10::Stream getDefaultStream(c10::Device) const override {
    return c10::Stream(c10::Stream::DEFAULT, kDevice);
  }
  c10::Stream exchangeStream(c10::Stream) const override {
    return c10::Stream(c10::Stream::DEFAULT, kDevice);
  }
  c10::Stream getNewStream(c10::Device, int) const override {
    return c10::Stream(c10::Stream::DEFAULT, kDevice);
  }
  // An event is made when it is first recorded; the pointer carries its number.
  void record(
      void** event, const c10::Stream&, c10::DeviceIndex, c10::EventFlag flag) const override {
    if (*event == nullptr) {
      const bool timed = flag == c10::EventFlag::BACKEND_DEFAULT;
      *event = reinterpret_cast<void*>(static_cast<uintptr_t>(acquire_event(timed)));
    }
    record_event(number(*event));
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void* event) const override {
    return event == nullptr || query_event(number(event));
  }
  void destroyEvent(void* event, c10::DeviceIndex) const noexcept override {
    if (event != nullptr) {
      release_event(number(event));
    }
  }
  double elapsedTime(void* start, void* end, c10::DeviceIndex) const override {
    TORCH_CHECK(
        start != nullptr && end != nullptr,
        "Both events must be recorded before calculating elapsed time.");
    return elapsed_milliseconds(number(start), number(end));
  }
  c10::DeviceCapability getDeviceCapability(c10::Device) const override {
    c10::DeviceCapability capability;
    capability.capability_data.capability_bits = 0;
    for (auto index :
         {c10::kIndex_Byte, c10::kIndex_Char, c10::kIndex_Short, c10::kIndex_Int, c10::kIndex_Long,
          c10::kIndex_Half, c10::kIndex_Float, c10::kIndex_ComplexHalf, c10::kIndex_ComplexFloat,
          c10::kIndex_Bool, c10::kIndex_BFloat16, c10::kIndex_UInt16, c10::kIndex_UInt32,
          c10::kIndex_UInt64}) {
      capability.capability_data.capability_bits |= uint64_t{1} << index;
    }
    return capability;
  }
  c10::DeviceIndex deviceCount() const noexcept override {
    return 1;
  }
  bool queryStream(const c10::Stream&) const override {
    return true;
  }
  void synchronizeStream(const c10::Stream&) const override {
    counters().synchronizations++;
  }
  void synchronizeEvent(void*) const override {
    counters().synchronizations++;
  }
  void synchronizeDevice(c10::DeviceIndex) const override {
    counters().synchronizations++;
  }

 private:
  static uint32_t number(void* event) {
    return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(event));
  }
};

const bool allocator_registered = [] {
  c10::SetAllocator(c10::DeviceType::MPS, &allocator());
  return true;
}();

} // namespace

at::Generator cpu_generator(const std::optional<at::Generator>& generator) {
  const at::Generator& given =
      generator.has_value() && generator->defined() ? *generator : default_generator();
  TORCH_CHECK(
      given.device().type() == c10::DeviceType::MPS,
      "Expected a 'mps' device type for generator but found '", given.device().type(), "'");
  return static_cast<GeneratorImpl*>(given.unsafeGetGeneratorImpl())->cpu;
}

C10_REGISTER_GUARD_IMPL(MPS, Guard);

// torch has one accelerator, and a build for CUDA takes CUDA for it, GPU or not. Its hooks have no
// members; without a GPU they are made those of a build that has no CUDA, as it is on a Mac.
const bool cuda_is_left_out = [] {
  auto& hooks = const_cast<at::CUDAHooksInterface&>(at::detail::getCUDAHooks());
  if (hooks.isBuilt() && !hooks.hasCUDA()) {
    new (&hooks) at::CUDAHooksInterface();
  }
  return true;
}();

} // namespace simulated

namespace at {
// The registry lives in this namespace and looks the class up by this name.
using simulated::MPSHooks;
REGISTER_MPS_HOOKS(MPSHooks);
} // namespace at

// --- what Python calls ------------------------------------------------------------------------

extern "C" {

int64_t simulated_counter(int which) {
  auto& c = simulated::counters();
  std::atomic<int64_t>* all[] = {
      &c.synchronizations, &c.copies_to_device, &c.copies_from_device,
      &c.copies_on_device, &c.bytes_to_device,  &c.bytes_from_device,
      &c.allocations,      &c.frees,            &c.operators};
  return all[which]->load();
}

// Returns the limit that was in force.
int64_t simulated_limit_memory(int64_t bytes) {
  return simulated::memory().limit.exchange(bytes);
}
}
