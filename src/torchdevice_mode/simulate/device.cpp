// The device: allocator, guard and generator, registered for the key of the real device.
//
// Its memory is host memory. PyTorch finds everything here through the registries that it keeps
// for its own backends, which a CPU build leaves empty.

#include "device.h"

#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace simulated {

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
    empty_cache();
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

// --- random numbers ---------------------------------------------------------------------------

// Draws what a CPU generator of the same seed draws, so that results can be compared.
struct GeneratorImpl final : c10::GeneratorImpl {
  explicit GeneratorImpl(at::Generator wrapped)
      : c10::GeneratorImpl(kDevice, c10::DispatchKeySet(kKey)),
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

// --- guard ------------------------------------------------------------------------------------

// CUDA's streams are names: work is done by the time a call returns. Metal has one.
thread_local c10::StreamId selected = 0;
std::atomic<c10::StreamId> last_stream{31};

c10::Stream stream_of(c10::StreamId id) {
  return c10::Stream(c10::Stream::UNSAFE, kDevice, id);
}

// One device.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override {
    return kType;
  }
  c10::Device exchangeDevice(c10::Device device) const override {
    check_index(device);
    return kDevice;
  }
  c10::Device getDevice() const override {
    return kDevice;
  }
  void setDevice(c10::Device device) const override {
    TORCH_CHECK(
        device.type() == kType, "Expected a ", kName, " device, but got ", device);
    check_index(device);
  }
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override {
    return stream_of(selected);
  }
  c10::Stream getDefaultStream(c10::Device) const override {
    return stream_of(0);
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    return stream_of(kIsCuda ? std::exchange(selected, stream.id()) : 0);
  }
  c10::Stream getNewStream(c10::Device, int) const override {
    return stream_of(kIsCuda ? ++last_stream : 0);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override {
    return getNewStream(device, 0);
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
    c10::DeviceCapability capability;  // of everything
    if constexpr (kIsCuda) {
      return capability;
    }
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
  c10::SetAllocator(kType, &allocator());
  return true;
}();

} // namespace

c10::DeviceAllocator& allocator() {
  static Allocator* instance = new Allocator();
  return *instance;
}

at::Generator make_generator() {
  return at::make_generator<GeneratorImpl>(at::detail::createCPUGenerator());
}

const at::Generator& default_generator() {
  static auto* generator = new at::Generator(make_generator());
  return *generator;
}

at::Generator cpu_generator(const std::optional<at::Generator>& generator) {
  const at::Generator& given =
      generator.has_value() && generator->defined() ? *generator : default_generator();
  TORCH_CHECK(
      given.device().type() == kType,
      "Expected a '", kType, "' device type for generator but found '", given.device().type(), "'");
  return static_cast<GeneratorImpl*>(given.unsafeGetGeneratorImpl())->cpu;
}

C10_REGISTER_GUARD_IMPL(SIMULATED, Guard);

} // namespace simulated

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
